"""aiohttp's side of a connection, in our words: what cannot be read is refused without being quoted.

aiohttp quotes the bytes that it could not parse in its answer and, with a traceback, in its log. They may hold the code of a
tap that was not used yet, or a token; and a log that a stranger can fill is an attack. A handler that raises is a bug of
ours: 503 and never a verdict, as everywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ixfast import limits
from ixfast.error_codes import ERROR_CODES, STATUS
from ixfast.errors import InputError
from ixfast.http.framing import BODY_BYTES_MAX, check
from ixfast.http.scan_app import problem

_Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger("ixfast.http")


class Handler(web.RequestHandler):  # type: ignore[misc,type-arg,unused-ignore]
    """The protocol of one connection. `close` lets the request under way finish and ends the connection then."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        if status < 500:
            log.debug("unreadable request: %s", type(exc).__name__)
            return _closing(problem(request, status, "invalid_request", ERROR_CODES["invalid_request"].message))
        log.error("a request broke", exc_info=exc)
        return _closing(problem(request, 503, "unavailable", ERROR_CODES["unavailable"].message, reason="internal_error"))


def _closing(response: web.Response) -> web.Response:
    """The last response of a connection, made outside the application."""
    response.headers["Server"] = "ixfast"  # else it would tell aiohttp's version and Python's
    response.force_close()
    return response


def options(idle_timeout_s: float) -> dict[str, Any]:
    """What aiohttp is to do with its connections: our bounds, and no log of URLs."""
    return {
        "access_log": None,
        "auto_decompress": False,  # a small body may be a huge one; `framing` refuses it
        "keepalive_timeout": idle_timeout_s,
        "max_line_size": limits.REQUEST_HEAD_BYTES_MAX,
        "max_field_size": limits.REQUEST_HEAD_BYTES_MAX,
        "max_headers": limits.HEADERS_MAX,
    }


def _checked(serve: _Serve, body_bytes_max: Mapping[str, int]) -> _Serve:
    """`serve`, for requests that pass the checks. What refuses a request ends its connection: the body may be on its way."""

    async def served(request: web.BaseRequest) -> web.StreamResponse:
        try:
            check(request, body_bytes_max.get(request.path, limits.REQUEST_BODY_BYTES_MAX))
        except InputError as error:
            return _closing(problem(request, STATUS[error.code], error.code, str(error), field=error.field))
        return await serve(request)

    return served


async def handlers(app: web.Application, idle_timeout_s: float) -> tuple[web.AppRunner, Callable[[], Handler]]:
    """An application's runner, set up, and what makes the protocol of a connection to it."""
    given = options(idle_timeout_s)
    runner = web.AppRunner(app, **given)
    await runner.setup()
    server = runner.server
    assert server is not None
    server.request_handler = _checked(server.request_handler, app.get(BODY_BYTES_MAX, {}))
    loop = asyncio.get_running_loop()
    return runner, lambda: Handler(server, loop=loop, **given)
