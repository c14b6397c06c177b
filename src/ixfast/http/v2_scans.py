"""Scans of `/v2`: what their bodies say, and how they are started.

A scan is given as the tapped URL or its query string, verbatim, or as fields. The field errors name the place and never quote
the value, which may be an unused code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import KEYED_FROM, Extras, Scan, Visitor
from ixfast.errors import InputError
from ixfast.http.dispatcher import ScanDispatcher


class VisitorBody(msgspec.Struct, forbid_unknown_fields=True):
    ip: str | None = None
    user_agent: str | None = None


class ScanBody(msgspec.Struct, forbid_unknown_fields=True):
    """One scan of `/v2`: a URL, a query string, or fields."""

    url: str | None = None
    query: str | None = None
    account: str | None = None
    xuid: str | None = None
    cuid: str | None = None
    uid: str | None = None
    counter: int | str | None = None
    code: str | None = None
    tamper: str | None = None
    parameters: dict[str, str] | None = None
    visitor: VisitorBody | None = None


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    scans: list[ScanBody]


class Caller(NamedTuple):
    """Who asks: the API key that was shown, if any, and the client's address, if it is known."""

    api_key: ApiKey | None
    address: str | None = None


async def run(dispatcher: ScanDispatcher, body: ScanBody, caller: Caller, *, peek: bool, idempotency_key: str | None) -> Scan:
    api_key = caller.api_key
    aid = api_key.aid if api_key is not None else body.account
    ref, parameters, url = _asked(body, aid)
    if aid is None and url is not None:
        aid = references.aid_in(url)
        if aid is None and ref is None:
            aid = await dispatcher.account_in_path(url)
    visitor = Visitor(body.visitor.ip, body.visitor.user_agent) if body.visitor is not None else None
    extras = Extras(parameters, url, peek=peek, idempotent=idempotency_key is not None, wants_state=not peek, visitor=visitor)
    scan_id = dispatcher.next_scan_id() if idempotency_key is None else _derived_id(caller, body, idempotency_key)
    if ref is None and aid is None:
        raise InputError("missing_parameter", "Say whose tag it is: an API key, account, or xuid.", "account")

    def start(answer: Callable[[Scan], None]) -> None:
        scan = Scan(answer, ref or b"", -1, None, api_key, scan_id, dispatcher.loop.time(), extras)
        if ref is not None and (aid is None or url is None or not references.may_be_a_mirror(ref)):
            dispatcher.engine.submit(scan)
        else:
            assert aid is not None
            dispatcher.spawn(dispatcher.identify(scan, aid))

    return await dispatcher.ask(start)


def _asked(body: ScanBody, aid: str | None) -> tuple[bytes | None, dict[str, str] | None, str | None]:
    """Reference, parameters and verbatim URL of a scan body. Raises InputError where it says too little or too much."""
    text = body.url if body.url is not None else body.query
    own = [name for name in ("xuid", "cuid", "uid") if getattr(body, name) is not None]
    if text is not None:
        if own or (body.url is not None and body.query is not None):
            raise InputError("invalid_parameter", "Give either url, or query, or the fields of the tap.", "url")
        if len(text) > limits.REQUEST_TARGET_BYTES_MAX:
            raise InputError("invalid_parameter", f"Longer than {limits.REQUEST_TARGET_BYTES_MAX} characters.", "url")
        code = references.code_in(text)
        return (code.encode() if code is not None else None), None, text
    if len(own) != 1:
        if not own and body.parameters:
            return None, _fields(body), None
        raise InputError("missing_parameter", "Name the tag by one of xuid, cuid, uid, or give the tapped url.", "xuid")
    return _reference(body, own[0], aid), _fields(body), None


def _reference(body: ScanBody, name: str, aid: str | None) -> bytes | None:
    value: str = getattr(body, name)
    if name == "xuid":
        if not references.CODE.fullmatch(value):
            raise InputError("invalid_parameter", "xuid must be letters and digits.", "xuid")
        return value.encode()
    if aid is None or not references.AID.fullmatch(aid):
        raise InputError("missing_parameter", f"{name} needs account, the account id.", "account")
    if name == "uid":
        if not references.UID_TEXT.fullmatch(value):
            raise InputError("invalid_parameter", "uid must be 14 upper-case hex digits.", "uid")
        return references.by_uid(aid, bytes.fromhex(value))
    if not 0 < len(value) <= limits.CUSTOMER_ID_CHARS_MAX or not value.isprintable():
        raise InputError("invalid_parameter", f"cuid must be 1 to {limits.CUSTOMER_ID_CHARS_MAX} characters.", "cuid")
    return references.by_cuid(aid, value)


def _fields(body: ScanBody) -> dict[str, str]:
    """The tap's parts by their standard names, as `/v1/t` would have them."""
    parameters = dict(body.parameters or {})
    if len(parameters) > limits.PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"More than {limits.PARAMETERS_MAX} parameters.", "parameters")
    if isinstance(body.counter, int):
        if not 0 <= body.counter <= limits.COUNTER_MAX:
            raise InputError("invalid_parameter", f"counter must be 0 to {limits.COUNTER_MAX}.", "counter")
        parameters["n"] = f"{body.counter:06X}"
    elif body.counter is not None:
        parameters["n"] = body.counter
    if body.code is not None:
        parameters["e"] = body.code
    if body.tamper is not None:
        parameters["t"] = body.tamper
    return parameters


def _derived_id(caller: Caller, body: ScanBody, idempotency_key: str) -> int:
    """The scan id that belongs to a caller's key: asking again finds the same scan.

    An API key has its keys for itself. Without one, callers are told apart by their addresses, and the same text from one
    address means another key with each tap: who shares the address is not known.
    """
    owner: list[object]
    if caller.api_key is not None:
        owner = ["api key", caller.api_key.api_key_id]
    else:
        owner = ["address", caller.address, *(getattr(body, name) for name in ScanBody.__struct_fields__ if name != "visitor")]
    digest = hashlib.sha256(msgspec.json.encode([owner, idempotency_key], order="deterministic")).digest()
    return KEYED_FROM | int.from_bytes(digest[:8], "big") % KEYED_FROM
