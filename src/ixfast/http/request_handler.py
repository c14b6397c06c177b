"""aiohttp's protocol object for one connection, with this project's error responses, limits and logging.

aiohttp quotes the bytes that it could not parse in its response and, with a traceback, in its log. They may hold the code of a
tap that was not used yet, or a token; and a log that strangers can fill is an attack. So nothing of a request that cannot be
read is repeated. A handler that raises is a bug of the server: it is logged and answered with 503, never with a verdict.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web

from ixfast import limits
from ixfast.errors import InputError
from ixfast.http.credentials import peer_address
from ixfast.http.framing import BODY_BYTES_MAX, check
from ixfast.http.problem_responses import problem_response
from ixfast.http.request_ids import handling

_Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger("ixfast.http")


class Handler(web.RequestHandler):  # type: ignore[misc,type-arg,unused-ignore]
    """The protocol of one connection. `close` lets the active request finish and then closes the connection."""

    __slots__ = ()

    @property
    def peername(self) -> str | None:
        """The peer's address, which becomes `request.remote`."""
        return peer_address(super().peername)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("part of the response has already been sent")
        if status < 500:
            log.debug("unreadable request: %s", type(exc).__name__)
            return _closing(problem_response(request, "invalid_request", status=status))
        with handling(request):
            log.error("unhandled error in a request", exc_info=exc)
        return _closing(problem_response(request, "unavailable", reason="internal_error"))


def _closing(response: web.Response) -> web.Response:
    """The last response of a connection, made outside the application."""
    response.headers["Server"] = "ixfast"  # otherwise it would name the versions of aiohttp and Python
    response.force_close()
    return response


def options(idle_timeout_s: float) -> dict[str, Any]:
    """How aiohttp runs its connections: within this project's limits, and without logging URLs."""
    return {
        "access_log": None,
        "auto_decompress": False,  # a small body may decompress to a huge one; `framing` refuses it
        "keepalive_timeout": idle_timeout_s,
        "max_line_size": limits.REQUEST_HEAD_BYTES_MAX,
        "max_field_size": limits.REQUEST_HEAD_BYTES_MAX,
        "max_headers": limits.HEADERS_MAX,
    }


def _checked(serve: _Serve, body_bytes_max: Mapping[str, int]) -> _Serve:
    """`serve` for requests that pass the checks. A refusal closes the connection, because the body may be on its way."""

    async def served(request: web.BaseRequest) -> web.StreamResponse:
        try:
            _check_version(request)
            check(request, body_bytes_max.get(request.path, limits.REQUEST_BODY_BYTES_MAX))
        except InputError as error:
            return _closing(problem_response(request, error.code, str(error), field=error.field))
        return await serve(request)

    return served


def _check_version(request: web.BaseRequest) -> None:
    """Raise InputError for an HTTP version that is not served, and answer in one that is (RFC 9110 section 2.5)."""
    # aiohttp repeats the request's version in the status line. `request.version` caches what it has once returned.
    if request._version not in (HttpVersion11, HttpVersion10):
        request._version = HttpVersion11
        raise InputError("invalid_request", "Only HTTP/1.1 and HTTP/1.0 are supported.")


async def handlers(app: web.Application, idle_timeout_s: float) -> tuple[web.AppRunner, Callable[[], Handler]]:
    """An application's runner, set up, and a factory for the protocol objects of its connections."""
    settings = options(idle_timeout_s)
    runner = web.AppRunner(app, **settings)
    await runner.setup()
    server = runner.server
    assert server is not None
    server.request_handler = _checked(server.request_handler, app.get(BODY_BYTES_MAX, {}))
    loop = asyncio.get_running_loop()
    return runner, lambda: Handler(server, loop=loop, **settings)
