"""Scans of `/v2`: the types of their bodies, and how a body becomes a scan.

A scan is sent as the tapped URL or its query string, verbatim, or as fields. Errors name the member and never quote its value,
which may be a code that has not been used yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from ixfast import limits
from ixfast.domain import references, tap_url
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import KEYED_FROM, Extras, Scan, Visitor
from ixfast.domain.tap_readings import readings
from ixfast.errors import InputError
from ixfast.http.dispatcher import ScanDispatcher


class VisitorBody(msgspec.Struct, forbid_unknown_fields=True):
    ip: str | None = None
    user_agent: str | None = None


class ScanBody(msgspec.Struct, forbid_unknown_fields=True):
    """One scan: a URL, a query string, or fields."""

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


_TAP_MEMBERS = tuple(name for name in ScanBody.__struct_fields__ if name not in ("account", "visitor"))

_RawScanBody = Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/ScanBody"})]


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 1,000 scans. A malformed scan has a problem of its own in the response."""

    scans: list[_RawScanBody]


class Caller(NamedTuple):
    """Who sends a scan: the API key, if any, and the client's address, if it is known."""

    api_key: ApiKey | None
    address: str | None = None


async def run(
    dispatcher: ScanDispatcher, body: ScanBody, caller: Caller, *, peek: bool, idempotency_key: str | None, route: int = 1
) -> Scan:
    """Verify one tap and wait for the decided scan. `route` is an index in `meters.ROUTES`.

    Raises InputError for a malformed tap, UnavailableError if the account that its URL names cannot be looked up.
    """
    api_key = caller.api_key
    aid = _account(body, api_key)
    named_aid = aid if api_key is None else None
    ref, parameters, url = _read(body, aid)
    if aid is None and url is not None:
        aid = await _account_of_url(dispatcher, url, has_code=ref is not None)
    visitor = Visitor(body.visitor.ip, body.visitor.user_agent) if body.visitor is not None else None
    extras = Extras(
        parameters, url, peek=peek, wants_state=not peek, visitor=visitor, aid=aid, named=url is None and ref is not None
    )
    if idempotency_key is None:
        scan_id = dispatcher.next_scan_id()
    else:
        scan_id = _derived_id(caller, idempotency_key)
        extras.idempotent, extras.fingerprint = True, _fingerprint(body)
    if ref is None and aid is None and not _is_code_in(url):
        raise InputError("missing_parameter", "Name the account: send account or an API key, or name the tag by xuid.", "account")

    def start(reply: Callable[[Scan], None]) -> None:
        scan = Scan(reply, ref or b"", -1, None, api_key, scan_id, dispatcher.moment(), extras)
        scan.route, scan.aid = route, named_aid
        if ref is not None:
            dispatcher.engine.submit(scan)
        else:
            dispatcher.spawn(dispatcher.identify(scan, aid))

    return await dispatcher.ask(start)


def _account(body: ScanBody, api_key: ApiKey | None) -> str | None:
    """The account (AID) to which the scan is confined: that of the API key, else the one that the body names, if any.

    Raises InputError if they differ or `account` is malformed. The response does not depend on whether that account exists.
    """
    named = body.account or None
    if named is not None and not references.AID.fullmatch(named):
        raise InputError(
            "invalid_parameter",
            f"account must be 1 to {limits.ACCOUNT_ID_CHARS_MAX} letters, digits, hyphens and underscores.",
            "account",
        )
    if api_key is None:
        return named
    if named is not None and named != api_key.aid:
        raise InputError(
            "invalid_parameter",
            "account is not the account of the API key: leave it out, or send a key of that account.",
            "account",
        )
    return api_key.aid


async def _account_of_url(dispatcher: ScanDispatcher, url: str, *, has_code: bool) -> str | None:
    """The account (AID) that a URL names. Its path is only searched if it has no tag code."""
    for text in readings(url):
        aid = references.aid_in(text)
        if aid is None and not has_code:
            aid = await dispatcher.account_in_path(text)
        if aid is not None:
            return aid
    return None


def _is_code_in(url: str | None) -> bool:
    """Whether any reading of a URL has a tag code."""
    return url is not None and any(references.code_in(text) is not None for text in readings(url))


def _read(body: ScanBody, aid: str | None) -> tuple[bytes | None, dict[str, str] | None, str | None]:
    """Reference, parameters and verbatim URL of a scan. Raises InputError if members are missing or contradict each other."""
    text = body.url if body.url is not None else body.query
    if text is not None:
        text = tap_url.trimmed(text)
    named = [name for name in ("xuid", "cuid", "uid") if getattr(body, name) is not None]
    if text is not None:
        if named or (body.url is not None and body.query is not None):
            raise InputError("invalid_parameter", "Send only one of url, query and the fields of the tap.", "url")
        if len(text) > limits.REQUEST_TARGET_BYTES_MAX:
            raise InputError("invalid_parameter", f"The URL must be at most {limits.REQUEST_TARGET_BYTES_MAX} characters.", "url")
        code = references.code_in(text)
        return (code.encode() if code is not None else None), None, text
    if len(named) != 1:
        if not named and body.parameters:
            return None, _fields(body), None
        raise InputError(
            "missing_parameter", "Name the tag by exactly one of xuid, cuid and uid, or send the tapped url.", "xuid"
        )
    return _reference(body, named[0], aid), _fields(body), None


def _reference(body: ScanBody, name: str, aid: str | None) -> bytes | None:
    value: str = getattr(body, name)
    if name == "xuid":
        if not references.CODE.fullmatch(value):
            raise InputError("invalid_parameter", "xuid must be 1 to 64 letters and digits.", "xuid")
        return value.encode()
    if aid is None or not references.AID.fullmatch(aid):
        raise InputError("missing_parameter", f"{name} also requires account, the account id.", "account")
    if name == "uid":
        if not references.UID_TEXT.fullmatch(value):
            raise InputError("invalid_parameter", "uid must be 14 upper-case hex digits.", "uid")
        return references.by_uid(aid, bytes.fromhex(value))
    if not 0 < len(value) <= limits.CUSTOMER_ID_CHARS_MAX or not value.isprintable():
        raise InputError("invalid_parameter", f"cuid must be 1 to {limits.CUSTOMER_ID_CHARS_MAX} printable characters.", "cuid")
    return references.by_cuid(aid, value)


def _fields(body: ScanBody) -> dict[str, str]:
    """The parts of the tap under the parameter names of `/v1/t`."""
    parameters = dict(body.parameters or {})
    if len(parameters) > limits.PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"At most {limits.PARAMETERS_MAX} parameters can be sent.", "parameters")
    if isinstance(body.counter, int):
        if not 0 <= body.counter <= limits.COUNTER_MAX:
            raise InputError("invalid_parameter", f"counter must be between 0 and {limits.COUNTER_MAX}.", "counter")
        parameters["n"] = f"{body.counter:06X}"
    elif body.counter is not None:
        parameters["n"] = body.counter
    if body.code is not None:
        parameters["e"] = body.code
    if body.tamper is not None:
        parameters["t"] = body.tamper
    return parameters


def _derived_id(caller: Caller, idempotency_key: str) -> int:
    """The scan id that belongs to a caller's Idempotency-Key: the same key finds the same scan.

    Keys are private to an API key, or to the address of a caller without one.
    """
    owner = ["api key", caller.api_key.api_key_id] if caller.api_key is not None else ["address", caller.address]
    return KEYED_FROM | _hash62([owner, idempotency_key])


def _fingerprint(body: ScanBody) -> int:
    """A hash of the tap as it was sent, never 0. What says nothing about the tap is not part of it."""
    return KEYED_FROM | _hash62([getattr(body, name) for name in _TAP_MEMBERS])


def _hash62(value: list[object]) -> int:
    digest = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).digest()
    return int.from_bytes(digest[:8], "big") % KEYED_FROM
