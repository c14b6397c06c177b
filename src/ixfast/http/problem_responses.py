"""Error responses: the one JSON shape that everything outside `/v1` uses, and the middleware that makes errors into it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ixfast import limits
from ixfast.error_codes import ERROR_CODES, STATUS
from ixfast.errors import InputError, UnavailableError
from ixfast.http import raw_response
from ixfast.http.request_ids import handling, request_id
from ixfast.responses import bodies

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LISTENER: web.AppKey[str] = web.AppKey("listener", str)
"""What the listener of an application serves, and what the other one does: a hint for requests that no route takes."""


def problem_response(
    request: web.BaseRequest, code: str, message: str | None = None, *, status: int | None = None, **details: Any
) -> web.Response:
    """An error response. Message and status are those of the code unless given; `details` are further members of the body."""
    if status is None:
        status = STATUS[code]
    headers = {"Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = str(limits.RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = raw_response.CHALLENGE
    body = bodies.v2_error(code, ERROR_CODES[code].message if message is None else message, request_id(request), **details)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the exceptions that handlers and the router raise into error responses."""
    try:
        with handling(request):
            return await handler(request)
    except InputError as error:
        return problem_response(request, error.code, str(error), field=error.field)
    except UnavailableError as error:
        return problem_response(request, error.code, reason=error.reason)
    except web.HTTPRequestEntityTooLarge:
        return problem_response(request, "too_large", f"The body is larger than {limits.REQUEST_BODY_BYTES_MAX} bytes.")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = problem_response(request, "method_not_allowed", f"Allowed methods: {allowed}. {request.app[LISTENER]}")
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        message = f"{ERROR_CODES['no_such_route'].message} {request.app[LISTENER]}"
        return problem_response(request, "no_such_route", message)
