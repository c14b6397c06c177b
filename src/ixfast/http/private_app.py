"""The private listener: health, metrics, versions, the OpenAPI description and the management API.

It must never be reachable from outside; see docs/how-to/operate.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from ixfast import limits
from ixfast.http.framing import BODY_BYTES_MAX
from ixfast.http.management import ROUTES, add_management
from ixfast.http.metrics import exposition
from ixfast.http.openapi.document import description
from ixfast.http.problem_responses import LISTENER, Handler, problem_middleware
from ixfast.http.scan_app import strip
from ixfast.http.unknown_names import check_parameters
from ixfast.keys import KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.pipeline.engine import IsPast, past_by_host
from ixfast.versions import versions

_LISTENER = (
    "This is the private listener, for management (/v2/…), health (/livez, /readyz), /metrics, /versions and /openapi.json; the "
    "public listener verifies scans."
)

Readiness = Callable[[], Awaitable[dict[str, str]]]


def _without_parameters(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        check_parameters(request.query, ())
        return await handler(request)

    return handle


def make_private_app(
    gauges: Meters,
    readiness: Readiness,
    pool: Any = None,
    keks: KeyEncryptionKeys | None = None,
    is_past: IsPast = past_by_host,
) -> web.Application:
    """`readiness` returns what is not ready, with the reason, by part of the worker; an empty result means ready.

    `pool` and `keks` are for the management API, which is left out without them.
    """

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(_request: web.Request) -> web.Response:
        problems = await readiness()
        return web.json_response({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(gauges), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def version(_request: web.Request) -> web.Response:
        return web.json_response(versions())

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(description()), content_type="application/json", charset="utf-8")

    app = web.Application(middlewares=[problem_middleware], client_max_size=limits.REQUEST_BODY_BYTES_MAX)
    app[LISTENER] = _LISTENER
    # Probes and scrapers send parameters of their own, such as `verbose`, and must never take that for a failure.
    for path, handler in (("/livez", livez), ("/readyz", readyz), ("/metrics", metrics)):
        app.router.add_get(path, handler)
    for path, handler in (("/versions", version), ("/openapi.json", openapi)):
        app.router.add_get(path, _without_parameters(handler))
    if pool is not None and keks is not None:
        add_management(app, pool, keks, is_past)
    app[BODY_BYTES_MAX] = {route.path: limits.TAG_FILE_BYTES_MAX for route in ROUTES if route.streams and route.body}
    app.on_response_prepare.append(strip)
    return app
