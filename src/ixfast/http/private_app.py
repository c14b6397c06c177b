"""The private listener: health, metrics and versions. Never to be reached from outside; see docs/operating.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from ixfast.http import scan_app
from ixfast.http.metrics import exposition
from ixfast.meters import Meters
from ixfast.versions import versions

Readiness = Callable[[], Awaitable[dict[str, str]]]


def make_private_app(gauges: Meters, readiness: Readiness) -> web.Application:
    """`readiness` names what is not ready, and why; an empty answer is ready."""

    async def livez(_request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(_request: web.Request) -> web.Response:
        problems = await readiness()
        return web.json_response({"ready": not problems, "problems": problems}, status=503 if problems else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(gauges), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def version(_request: web.Request) -> web.Response:
        return web.json_response(versions())

    app = web.Application(middlewares=[scan_app.problems])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/versions", version)
    app.on_response_prepare.append(scan_app.strip)
    return app
