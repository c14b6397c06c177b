"""The scan API as an ordinary aiohttp application: every route of the public listener, the hot one included.

The front door answers most of `/v1/t` before a request gets here; what it does not recognise comes through these routes, with the
same query reader, the same dispatcher and the same reply writer behind them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import orjson
from aiohttp import web

from ixfast import limits, meters
from ixfast.domain.records import ApiKey
from ixfast.domain.references import token_sha256
from ixfast.error_codes import DECIDED, ERROR_CODES, STATUS
from ixfast.errors import InputError, UnavailableError
from ixfast.http import raw_response
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.framing import read_body
from ixfast.http.hot_request import header_token, last_forwarded
from ixfast.http.v1_query import read_query
from ixfast.http.v2_scans import BatchBody, Caller, ScanBody, run
from ixfast.responses import bodies

DISPATCHER: web.AppKey[ScanDispatcher] = web.AppKey("dispatcher", ScanDispatcher)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_scan_app(dispatcher: ScanDispatcher) -> web.Application:
    app = web.Application(middlewares=[_under_way, problems], client_max_size=limits.REQUEST_BODY_BYTES_MAX)
    app[DISPATCHER] = dispatcher
    app.router.add_get("/v1/t", _v1_scan, allow_head=False)
    app.router.add_head("/v1/t", _v1_head)
    app.router.add_options("/v1/t", _v1_options)
    app.router.add_post("/v2/scans", _v2_scan)
    app.router.add_post("/v2/scans/batch", _v2_batch)
    app.on_response_prepare.append(strip)
    return app


async def strip(request: web.Request, response: web.StreamResponse) -> None:
    """Neither version nor clock: the front door sends none, and the two ways in are to look alike."""
    response.headers.pop("Server", None)
    response.headers.pop("Date", None)
    dispatcher = request.app.get(DISPATCHER)
    if dispatcher is not None and dispatcher.draining:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has written that field already when it asks us


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if 0 < len(given) <= 64 and given.isascii() and given.isprintable() else uuid.uuid4().hex


def problem(request: web.BaseRequest, status: int, code: str, message: str, **more: Any) -> web.Response:
    """A problem body in the one shape that everything outside `/v1` uses."""
    headers = {"Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = str(limits.RETRY_AFTER_S)
    if status == 401:
        headers["WWW-Authenticate"] = raw_response.CHALLENGE
    body = bodies.v2_error(code, message, _request_id(request), **more)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InputError as error:
        return problem(request, STATUS[error.code], error.code, str(error), field=error.field)
    except UnavailableError as error:
        return problem(request, 503, error.code, ERROR_CODES[error.code].message, reason=error.reason)
    except web.HTTPRequestEntityTooLarge:
        return problem(request, 413, "too_large", f"The body is larger than {limits.REQUEST_BODY_BYTES_MAX} bytes.")
    except web.HTTPMethodNotAllowed as error:
        response = problem(request, 405, "method_not_allowed", f"Allowed here: {', '.join(sorted(error.allowed_methods))}.")
        response.headers["Allow"] = error.headers.get("Allow", "")
        return response
    except web.HTTPNotFound:
        return problem(request, 404, "no_such_route", "There is nothing at this path; see /v1/t and /v2/scans.")


@web.middleware
async def _under_way(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note the connection while it is owed an answer, so that a drain does not take it for an idle one."""
    answering, transport = request.app[DISPATCHER].answering, request.transport
    if transport is None:
        return await handler(request)
    unread = request.app[DISPATCHER].unread
    unread.pop(transport, None)
    answering.add(transport)
    try:
        return await handler(request)
    finally:
        answering.discard(transport)
        unread.pop(transport, None)  # the body came meanwhile; what came of the next request is counted from its next byte


async def _v1_scan(request: web.Request) -> web.Response:
    dispatcher = request.app[DISPATCHER]
    try:
        query = read_query(request.rel_url.raw_query_string)
    except InputError as error:
        dispatcher.meters.slots[meters.SCAN_ERRORS[error.code]] += 1
        return _v1_response(STATUS[error.code], bodies.v1_error(error.code, parameter=error.field))
    token = _token(request)
    digest = token_sha256(token) if token else None
    scan = await dispatcher.ask(lambda answer: dispatcher.submit_v1(query, digest, answer, _address(request)))
    return _v1_response(
        bodies.status(scan), bodies.v1_body(scan), cors=raw_response.allows_cors(scan), challenged=raw_response.challenged(scan)
    )


async def _v1_head(request: web.Request) -> web.Response:
    """Whether the question can be asked; it is not asked, and nothing is consumed."""
    try:
        read_query(request.rel_url.raw_query_string)
    except InputError as error:
        return _v1_response(STATUS[error.code], b"")
    return _v1_response(200, b"")


async def _v1_options(_request: web.Request) -> web.Response:
    headers = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
        "Access-Control-Allow-Headers": "X-API-Key, Ixkio-R, Authorization",
        "Access-Control-Max-Age": "86400",
        "Allow": "GET, HEAD, OPTIONS",
    }
    return web.Response(status=204, headers=headers)


def _v1_response(status: int, body: bytes, *, cors: bool = True, challenged: bool = False) -> web.Response:
    headers = {"Content-Type": raw_response.CONTENT_TYPE, "Cache-Control": "no-store"}
    if cors:
        headers["Access-Control-Allow-Origin"] = "*"
    if status in (429, 503):
        headers["Retry-After"] = str(limits.RETRY_AFTER_S)
    if challenged:
        headers["WWW-Authenticate"] = raw_response.CHALLENGE
    return web.Response(status=status, body=body, headers=headers)


def _token(request: web.Request) -> str | None:
    return header_token({n.lower().encode(): v.encode("utf-8", "surrogateescape") for n, v in request.headers.items()})


def _address(request: web.Request) -> str | None:
    # A balancer may add a field of its own after the client's instead of adding to it.
    fields = request.headers.getall("X-Forwarded-For", ())
    return request.app[DISPATCHER].client_address(request.remote, last_forwarded(fields[-1] if fields else None))


def _check_rate(request: web.Request, count: int) -> None:
    """Raise InputError if the rate limits do not let `count` more scans of this caller in."""
    dispatcher = request.app[DISPATCHER]
    if not dispatcher.admits(_address(request), _token(request) or request.query.get("r"), count):
        dispatcher.meters.slots[meters.SCAN_ERRORS["rate_limited"]] += count
        raise InputError("rate_limited", ERROR_CODES["rate_limited"].message)


async def _v2_scan(request: web.Request) -> web.Response:
    dispatcher = request.app[DISPATCHER]
    body = await _decoded(request, ScanBody)
    _check_rate(request, 1)
    api_key = await _api_key(request)
    scan = await run(dispatcher, body, _caller(request, api_key), peek=_peek(request), idempotency_key=_idempotency_key(request))
    if scan.error is not None and scan.error not in DECIDED:
        return problem(
            request,
            bodies.status(scan),
            scan.error,
            ERROR_CODES[scan.error].message,
            field=scan.error_field,
            reason=scan.error_detail,
        )
    response = _json(bodies.v2_scan(scan))
    if raw_response.challenged(scan):
        response.headers["WWW-Authenticate"] = raw_response.CHALLENGE
    return response


async def _v2_batch(request: web.Request) -> web.Response:
    dispatcher = request.app[DISPATCHER]
    body = await _decoded(request, BatchBody)
    if len(body.scans) > limits.BATCH_SCANS_MAX:
        raise InputError("too_large", f"A batch holds at most {limits.BATCH_SCANS_MAX} scans.", "scans")
    _check_rate(request, len(body.scans))
    caller = _caller(request, await _api_key(request))
    peek, key = _peek(request), _idempotency_key(request)
    items = (
        _item(dispatcher, scan, caller, request, peek=peek, idempotency_key=f"{key}\0{index}" if key is not None else None)
        for index, scan in enumerate(body.scans)
    )
    return _json({"scans": await asyncio.gather(*items)})


async def _item(
    dispatcher: ScanDispatcher, body: ScanBody, caller: Caller, request: web.Request, *, peek: bool, idempotency_key: str | None
) -> dict[str, Any]:
    """One scan of a batch: its answer, or the problem that it alone has."""
    try:
        scan = await run(dispatcher, body, caller, peek=peek, idempotency_key=idempotency_key)
    except InputError as error:
        return _item_problem(request, error.code, str(error), error.field, None)
    except UnavailableError as error:
        return _item_problem(request, error.code, ERROR_CODES[error.code].message, None, error.reason)
    if scan.error is not None and scan.error not in DECIDED:
        return _item_problem(request, scan.error, ERROR_CODES[scan.error].message, scan.error_field, scan.error_detail)
    return bodies.v2_scan(scan)


def _item_problem(request: web.Request, code: str, message: str, field: str | None, reason: str | None) -> dict[str, Any]:
    decoded: dict[str, Any] = orjson.loads(bodies.v2_error(code, message, _request_id(request), field=field, reason=reason))
    return decoded


def _peek(request: web.Request) -> bool:
    peek = request.query.get("peek", "false")
    if peek not in ("true", "false"):
        raise InputError("invalid_parameter", "peek is true or false.", "peek")
    return peek == "true"


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        expected = f"1 to {limits.IDEMPOTENCY_KEY_CHARS_MAX} characters of ASCII"
        raise InputError("invalid_parameter", f"Idempotency-Key must be {expected}.", "Idempotency-Key")
    return key


async def _api_key(request: web.Request) -> ApiKey | None:
    """The caller's key; None if none was shown. A key that is not good for scanning is 401, before anything is looked for."""
    token = _token(request) or request.query.get("r")
    if token is None:
        return None
    api_key = await request.app[DISPATCHER].api_key(token)
    obstacle = request.app[DISPATCHER].engine.obstacle(api_key)
    if obstacle is not None:
        code, reason = obstacle
        raise InputError(code, ERROR_CODES[code].message) if reason is None else UnavailableError(code, reason)
    return api_key


def _caller(request: web.Request, api_key: ApiKey | None) -> Caller:
    return Caller(api_key, _address(request))


async def _decoded(request: web.Request, kind: type[Any]) -> Any:
    """The body as a record. Raises InputError with the place of what is wrong with it."""
    content = await read_body(request)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise InputError("invalid_request", f"The body is not as expected: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError("invalid_request", "The body is not JSON in UTF-8.") from None


def _json(content: Mapping[str, Any]) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=orjson.dumps(content), content_type="application/json", charset="utf-8", headers=headers)
