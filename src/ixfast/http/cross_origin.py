"""Cross-origin requests of browsers (CORS): preflight responses of the scan API, and which responses pages may read.

A preflight request has neither a tag nor an API key, so all accounts have the same response to it. The response to the request
itself has `Access-Control-Allow-Origin`, unless the account of its tag forbids that.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from ixfast.domain.scan import Scan
from ixfast.http import raw_response
from ixfast.http.problem_responses import Handler

_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_FORBIDDEN = web.RequestKey("cross_origin_forbidden", bool)
# Fields of the fetch standard need no permission. `*` does not include Authorization, and old browsers do not know it.
_HEADERS = (
    "*, Authorization, Cache-Control, Content-Type, Idempotency-Key, Ixkio-R, Pragma, X-API-Key, X-Request-Id, X-Requested-With"
)


def preflight(*methods: str) -> Handler:
    """A handler of OPTIONS for a path with these methods."""
    allowed = ", ".join((*methods, "OPTIONS"))

    async def handler(_request: web.Request) -> web.Response:
        headers = {
            _ALLOW_ORIGIN: "*",
            "Access-Control-Allow-Methods": allowed,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": "86400",
            "Allow": allowed,
        }
        return web.Response(status=204, headers=headers)

    return handler


def restrict(request: web.Request, scans: Iterable[Scan]) -> None:
    """Keep pages from reading the response if the account of one of these scans' tags forbids it."""
    request[_FORBIDDEN] = not all(map(raw_response.allows_cors, scans))


@web.middleware
async def cross_origin_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let pages of other origins read the response unless a handler has called `restrict`."""
    response = await handler(request)
    if not request.get(_FORBIDDEN, False):
        response.headers.setdefault(_ALLOW_ORIGIN, "*")
    return response
