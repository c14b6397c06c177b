"""`PATCH /v1/x/{xuid}` and `PATCH /v1/a/{aid}`, compatible with ixkio's management API.

`ix_dr` sets a default response of the tag itself, which replaces the rule set of its group; an empty one restores the group's.
`ix_status` is Active or Inactive, `ix_assigned` Assigned or Unassigned, case-insensitively. They are sent as a form, as JSON or
in the query. Responses are flat and all values strings, as on `/v1/t`.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from ixfast.domain.chip_uids import refuse_reversed_uid
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, not_found
from ixfast.http.management.tags import change, uid_bytes

_NAMES = ("ix_dr", "ix_status", "ix_assigned")
_STATUS = {"active": True, "inactive": False}
_ASSIGNED = {"assigned": True, "unassigned": False, "true": True, "false": False, "1": True, "0": False}


async def patch_by_xuid(call: Call) -> web.Response:
    return await _patch(call, "tag_by_xuid", call.xuid(), by_cuid=False)


async def patch_by_account(call: Call) -> web.Response:
    """The tag is named by the header `ix_c` or `ix_u`."""
    cuid, uid = (_header(call, name) for name in ("ix_c", "ix_u"))
    if cuid is None and uid is None:
        raise InputError("missing_parameter", "Name the tag in the header ix_c (CUID) or ix_u (UID).", "ix_c")
    wanted = uid_bytes(uid, "ix_u") if cuid is None and uid is not None else None
    if call.request.match_info["aid"] != call.caller.aid:
        raise not_found("tag")
    if cuid is not None:
        return await _patch(call, "tag_by_cuid", cuid, by_cuid=True)
    assert wanted is not None
    if await call.connection.fetchrow(call.sql["tag_by_uid"], call.account_id, wanted) is None:
        refuse_reversed_uid(wanted, "ix_u")
    return await _patch(call, "tag_by_uid", wanted, by_cuid=False)


def _header(call: Call, name: str) -> str | None:
    values = call.request.headers.getall(name, [])
    if len(values) > 1:
        raise InputError("invalid_parameter", f"{name} must be sent only once.", name)
    if not values or not values[0]:
        return None
    try:
        values[0].encode()
    except UnicodeEncodeError:
        raise InputError("invalid_parameter", f"{name} must be UTF-8 text.", name) from None
    return values[0]


async def _patch(call: Call, statement: str, key: Any, *, by_cuid: bool) -> web.Response:
    sent = _parameters(call)
    changes: dict[str, Any] = {}
    if "ix_dr" in sent:
        text = sent["ix_dr"]
        changes["rules"] = {"groups": [], "default": text} if text else None
        if text:
            _check_response(changes["rules"])
    if "ix_status" in sent:
        changes["active"] = _word(sent, "ix_status", _STATUS)
    if "ix_assigned" in sent:
        changes["assigned"] = _word(sent, "ix_assigned", _ASSIGNED)
    if not changes:
        raise InputError("missing_parameter", f"At least one of {', '.join(_NAMES)} is required.", "ix_dr")
    tag = await change(call, await call.row("tag", statement, key, lock="NO KEY UPDATE"), changes)
    flat = {"xuid": tag.xuid}
    if by_cuid and tag.cuid is not None:
        flat["cuid"] = tag.cuid
    flat["ix_dr"] = tag.rules["default"] if tag.rules is not None else ""
    flat["ix_status"] = "Active" if tag.active else "Inactive"
    flat["ix_assigned"] = "Assigned" if tag.assigned else "Unassigned"
    return json_response(flat)


def _check_response(rules: dict[str, Any]) -> None:
    try:
        validation.rule_set(rules)
    except InputError as error:
        raise InputError("invalid_response", str(error), "ix_dr") from None


def _word(sent: dict[str, str], name: str, words: dict[str, bool]) -> bool:
    try:
        return words[sent[name].strip().lower()]
    except KeyError:
        raise InputError("invalid_parameter", f"{name} must be one of {', '.join(list(words)[:2])}.", name) from None


def _parameters(call: Call) -> dict[str, str]:
    """The parameters of the query and of the body, each at most once."""
    found: dict[str, str] = {}
    for name, value in (*call.request.query.items(), *_members(call)):
        if name not in _NAMES:
            continue
        if name in found:
            raise InputError("invalid_parameter", f"{name} must be sent only once.", name)
        if not isinstance(value, str) or "\0" in value:
            raise InputError("invalid_parameter", f"{name} must be text.", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError("invalid_parameter", f"{name} must be text.", name) from None
        found[name] = value
    return found


def _members(call: Call) -> list[tuple[str, Any]]:
    if not call.content:
        return []
    if call.content.lstrip()[:1] == b"{":
        return list(call.body(dict[str, Any]).items())
    try:
        return parse_qsl(call.content.decode(), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=100)
    except ValueError:
        raise InputError("invalid_request", "The body must be a form, or JSON in UTF-8.") from None


class CompatiblePatch(msgspec.Struct):  # for the OpenAPI description alone: forms and query parameters are read, too
    """At least one of the three members. The values are case-insensitive."""

    ix_dr: str | msgspec.UnsetType = msgspec.UNSET
    ix_status: Literal["Active", "Inactive"] | msgspec.UnsetType = msgspec.UNSET
    ix_assigned: Literal["Assigned", "Unassigned"] | msgspec.UnsetType = msgspec.UNSET
