"""What a worker loads after it has begun to serve hot requests: aiohttp, and the applications of both listeners on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ixfast.http.private_app import make_private_app
from ixfast.http.request_handler import Handler, handlers
from ixfast.http.scan_app import make_scan_app
from ixfast.http.server_state import ServerState
from ixfast.keys import KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.pipeline.engine import IsPast

Handlers = tuple[web.AppRunner, Callable[[], Handler]]
"""An application's runner, and a factory for the protocol objects of its connections."""


async def scan_handlers(server_state: ServerState, idle_timeout_s: float) -> Handlers:
    """For what the front door hands over."""
    return await handlers(make_scan_app(server_state), idle_timeout_s)


async def private_handlers(
    gauges: Meters,
    readiness: Callable[[], Awaitable[dict[str, str]]],
    pool: Any,
    keks: KeyEncryptionKeys,
    is_past: IsPast,
    idle_timeout_s: float,
) -> Handlers:
    """For the private listener."""
    return await handlers(make_private_app(gauges, readiness, pool, keks, is_past), idle_timeout_s)
