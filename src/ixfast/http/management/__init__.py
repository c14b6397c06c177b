"""The management API on the private listener: accounts, folders, groups, batches, tags, keys, rules, tag files and the logs.

A caller sees the objects of its own account only; the response about another account's object is the one about an object that
does not exist, byte for byte. Each request is one transaction. One that changes something ends with the audit log and a change
notice, from which every worker learns of it within a second. See docs/reference/management-api.md.

Routes are declared in `routes`, with their OpenAPI description. Handlers take a `Call`. SQL is in `store`, not here. The package
may import what `ixfast.http` may, and no module of the public listener except for error responses and bodies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ixfast.errors import InputError, UnavailableError
from ixfast.http.management.call import ManagementDispatcher, Route, problem
from ixfast.http.management.routes import ROUTES
from ixfast.keys import KeyEncryptionKeys
from ixfast.pipeline.engine import IsPast, past_by_host

__all__ = ["ROUTES", "ManagementDispatcher", "Route", "add_management"]


def add_management(app: web.Application, pool: Any, keks: KeyEncryptionKeys, is_past: IsPast = past_by_host) -> None:
    """Add the routes. `pool` is shared with the worker's look-ups, and at most half of it is used here. `is_past` decides whether
    an API key has expired."""
    management_dispatcher = ManagementDispatcher(pool, keks, is_past)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(management_dispatcher, route))


def _handler(management_dispatcher: ManagementDispatcher, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await management_dispatcher.serve(route, request)
        except (InputError, UnavailableError) as error:
            return problem(route, request, error)

    return handle
