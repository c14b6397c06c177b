"""The management API: accounts, folders, groups, batches, tags, keys and rules, and what happened to them.

It lives on the private listener, beside health and metrics. Its objects are those of the caller's account alone; what belongs
to another account is, in every word of the answer, what does not exist. Each act is one transaction that ends with the note
of what changed, by which every worker serves it within a second. See docs/management.md.
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
    """Add the routes. `pool` is shared with the worker's look-ups; half of it at most is used here. `is_past` says whether an
    API key has expired."""
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
