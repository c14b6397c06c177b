"""The scan API as an ordinary aiohttp application: every route of the public listener, the hot one included.

The front door serves most of `/v1/t` before a request gets here. What it does not recognise comes through these routes, with
the same query reader, dispatcher and body writer behind them, so that both give the same response to the same request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from ixfast import limits, meters
from ixfast.domain.records import ApiKey
from ixfast.domain.references import token_sha256
from ixfast.domain.scan import Scan
from ixfast.error_codes import DECIDED, ERROR_CODES, STATUS
from ixfast.errors import InputError, UnavailableError
from ixfast.http import raw_response
from ixfast.http.credentials import last_forwarded, request_token
from ixfast.http.cross_origin import cross_origin_middleware, preflight, restrict
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.framing import read_body
from ixfast.http.json_body import decode_json
from ixfast.http.problem_responses import LISTENER, Handler, problem_middleware, problem_response
from ixfast.http.request_ids import request_id
from ixfast.http.server_state import ServerState
from ixfast.http.unknown_names import check_parameters
from ixfast.http.v1_query import read_query, sent_code
from ixfast.http.v2_scans import BatchBody, Caller, ScanBody, run
from ixfast.responses import bodies

DISPATCHER: web.AppKey[ScanDispatcher] = web.AppKey("dispatcher", ScanDispatcher)
SERVER_STATE: web.AppKey[ServerState] = web.AppKey("server_state", ServerState)

_LISTENER = (
    "This is the public listener, which verifies scans at /v1/t, /v2/scans and /v2/scans/batch; management, health and metrics "
    "are on the private listener."
)
_NO_PEEK = ("false",)
_PARAMETERS = ("peek", "r")  # of `/v2`; `/v1/t` ignores parameters that it does not read
_BATCH_STEP = 32  # Scans of a batch that are started, or encoded, before other requests get a turn; one takes 20 to 40 us.

Outcome = Scan | InputError | UnavailableError


def make_scan_app(server_state: ServerState) -> web.Application:
    app = web.Application(
        middlewares=[_track_request, cross_origin_middleware, problem_middleware], client_max_size=limits.REQUEST_BODY_BYTES_MAX
    )
    app[LISTENER] = _LISTENER
    app[DISPATCHER] = server_state.dispatcher
    app[SERVER_STATE] = server_state
    for end in ("", "/"):  # web frameworks add a slash to paths
        app.router.add_get(f"/v1/t{end}", _v1_scan, allow_head=False)
        app.router.add_head(f"/v1/t{end}", _v1_head)
        app.router.add_options(f"/v1/t{end}", preflight("GET", "HEAD"))
        for path, handler in (("/v2/scans", _v2_scan), ("/v2/scans/batch", _v2_batch)):
            app.router.add_post(path + end, handler)
            app.router.add_options(path + end, preflight("POST"))
    app.on_response_prepare.append(strip)
    return app


async def strip(request: web.Request, response: web.StreamResponse) -> None:
    """Remove the header fields that the front door does not send, so that both look alike: neither version nor clock."""
    response.headers.pop("Server", None)
    response.headers.pop("Date", None)
    server_state = request.app.get(SERVER_STATE)
    if server_state is not None and server_state.draining:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has already written this field when it calls us


@web.middleware
async def _track_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Report the request to the shared state, so that a drain does not take its connection for an idle one."""
    server_state, transport = request.app[SERVER_STATE], request.transport
    if transport is None:
        return await handler(request)
    server_state.request_begun(transport)
    try:
        return await handler(request)
    finally:
        server_state.request_done(transport)


async def _v1_scan(request: web.Request) -> web.Response:
    dispatcher = request.app[DISPATCHER]
    token = request_token(request)
    digest = token_sha256(token) if token is not None else None
    text = request.rel_url.raw_query_string
    try:
        query = read_query(text, keyed=digest is not None)
    except InputError as error:
        dispatcher.meters.slots[meters.SCAN_ERRORS[error.code]] += 1
        return _v1_response(STATUS[error.code], bodies.v1_error(error.code, sent_code(text), parameter=error.field))
    scan = await dispatcher.ask(lambda reply: dispatcher.submit_v1(query, digest, reply, _address(request)))
    restrict(request, (scan,))
    return _v1_response(bodies.status(scan), bodies.v1_body(scan), challenged=raw_response.challenged(scan))


async def _v1_head(request: web.Request) -> web.Response:
    """Check the form of the query. No scan is made and nothing is consumed. A malformed parameter is accepted only where it may
    be one of the account's own."""
    keyed = request_token(request) is not None
    try:
        query = read_query(request.rel_url.raw_query_string, keyed=keyed)
    except InputError as error:
        return _v1_response(STATUS[error.code], b"")
    refused = query.problem is not None and not keyed and query.aid is None
    return _v1_response(STATUS["invalid_parameter"] if refused else 200, b"")


def _v1_response(status: int, body: bytes, *, challenged: bool = False) -> web.Response:
    headers = {"Content-Type": raw_response.CONTENT_TYPE, "Cache-Control": "no-store"}
    if status in (429, 503):
        headers["Retry-After"] = str(limits.RETRY_AFTER_S)
    if challenged:
        headers["WWW-Authenticate"] = raw_response.CHALLENGE
    return web.Response(status=status, body=body, headers=headers)


def _address(request: web.Request) -> str | None:
    # A balancer may add a field of its own after the client's instead of adding to it.
    fields = request.headers.getall("X-Forwarded-For", ())
    return request.app[DISPATCHER].client_address(request.remote, last_forwarded(fields[-1] if fields else None))


def _check_rate(request: web.Request, count: int) -> None:
    """Raise InputError if the rate limits do not admit `count` more scans of this caller."""
    dispatcher = request.app[DISPATCHER]
    if not dispatcher.admits(_address(request), request_token(request) or request.query.get("r"), count):
        dispatcher.meters.slots[meters.SCAN_ERRORS["rate_limited"]] += count
        raise InputError("rate_limited", ERROR_CODES["rate_limited"].message)


async def _v2_scan(request: web.Request) -> web.Response:
    dispatcher = request.app[DISPATCHER]
    body = decode_json(await read_body(request), ScanBody)
    check_parameters(request.query, _PARAMETERS)
    _check_rate(request, 1)
    caller = _caller(request, await _api_key(request))
    scan = await run(dispatcher, body, caller, peek=_peek(request), idempotency_key=_idempotency_key(request))
    restrict(request, (scan,))
    if scan.error is not None and scan.error not in DECIDED:
        return problem_response(request, scan.error, _complaint(scan), field=scan.error_field, reason=scan.error_detail)
    response = _json(bodies.v2_scan(scan))
    if raw_response.challenged(scan):
        response.headers["WWW-Authenticate"] = raw_response.CHALLENGE
    return response


async def _v2_batch(request: web.Request) -> web.Response:
    """Verify up to `limits.BATCH_SCANS_MAX` taps. Scans are started, and results encoded, a few at a time: a full batch takes
    some 60 ms of CPU, and other requests must not wait that long."""
    dispatcher = request.app[DISPATCHER]
    elements = _batch_elements(await read_body(request))
    check_parameters(request.query, _PARAMETERS)
    _check_rate(request, len(elements))
    caller = _caller(request, await _api_key(request))
    peek, key = _peek(request), _idempotency_key(request)
    tasks = []
    async with asyncio.TaskGroup() as group:
        for index, element in enumerate(elements):
            own_key = f"{key}\0{index}" if key is not None else None
            tasks.append(group.create_task(_outcome(dispatcher, element, caller, peek=peek, idempotency_key=own_key)))
            if index % _BATCH_STEP == _BATCH_STEP - 1:
                await asyncio.sleep(0)
    restrict(request, (found for found in map(asyncio.Task.result, tasks) if isinstance(found, Scan)))
    id_of_request = request_id(request)
    results = []
    for index, task in enumerate(tasks):
        results.append(_result(task.result(), id_of_request))
        if index % _BATCH_STEP == _BATCH_STEP - 1:
            await asyncio.sleep(0)
    return _json({"scans": results})


def _batch_elements(content: bytes) -> list[ScanBody | InputError]:
    """The bodies of a batch. One of the wrong form is an error of its own; JSON that is malformed is one of the whole batch."""
    raw = decode_json(content, BatchBody).scans
    if len(raw) > limits.BATCH_SCANS_MAX:
        raise InputError("too_large", f"A batch can contain at most {limits.BATCH_SCANS_MAX} scans; split it.", "scans")
    elements: list[ScanBody | InputError] = []
    for each in raw:
        try:
            elements.append(decode_json(each, ScanBody))
        except InputError as error:
            elements.append(error)
    return elements


async def _outcome(
    dispatcher: ScanDispatcher, element: ScanBody | InputError, caller: Caller, *, peek: bool, idempotency_key: str | None
) -> Outcome:
    """One scan of a batch, or the error that it alone has."""
    if isinstance(element, InputError):
        return element
    try:
        return await run(dispatcher, element, caller, peek=peek, idempotency_key=idempotency_key, route=2)
    except (InputError, UnavailableError) as error:
        return error


def _result(outcome: Outcome, request_id: str) -> Any:
    """An element of a batch's response."""
    if isinstance(outcome, InputError):
        return orjson.Fragment(bodies.v2_error(outcome.code, str(outcome), request_id, field=outcome.field))
    if isinstance(outcome, UnavailableError):
        message = ERROR_CODES[outcome.code].message
        return orjson.Fragment(bodies.v2_error(outcome.code, message, request_id, reason=outcome.reason))
    code = outcome.error
    if code is not None and code not in DECIDED:
        message, field, reason = _complaint(outcome) or ERROR_CODES[code].message, outcome.error_field, outcome.error_detail
        return orjson.Fragment(bodies.v2_error(code, message, request_id, field=field, reason=reason))
    return orjson.Fragment(orjson.dumps(bodies.v2_scan(outcome)))


def _complaint(scan: Scan) -> str | None:
    return scan.extras.complaint if scan.extras is not None else None


def _peek(request: web.Request) -> bool:
    sent = request.query.getall("peek", _NO_PEEK)
    if len(sent) > 1:
        # Which of them counts is ambiguous, and using the wrong one would consume a tap that was only to be verified.
        raise InputError("invalid_parameter", "Send peek only once.", "peek")
    if sent[0] not in ("true", "false"):
        raise InputError("invalid_parameter", "peek must be true or false.", "peek")
    return sent[0] == "true"


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", ())
    if len(keys) > 1:
        # Which of them counts is ambiguous, and using the wrong one would lose the response to a tap that has passed.
        raise InputError("invalid_parameter", "Send only one Idempotency-Key header.", "Idempotency-Key")
    for key in keys:
        if not (0 < len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
            expected = f"1 to {limits.IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters"
            raise InputError("invalid_parameter", f"Idempotency-Key must be {expected}.", "Idempotency-Key")
        return key
    return None


async def _api_key(request: web.Request) -> ApiKey | None:
    """The caller's key; None if none was sent. A key that may not scan is 401, before any tag is looked up."""
    token = request_token(request) or request.query.get("r")
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


def _json(content: Mapping[str, Any]) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=orjson.dumps(content), content_type="application/json", charset="utf-8", headers=headers)
