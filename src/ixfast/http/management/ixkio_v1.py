"""`PATCH /v1/x/{xuid}` and `PATCH /v1/a/{aid}`: what clients of ixkio's management API send.

`ix_dr` sets the tag's own default response, which replaces the rule set of its group; empty, the group's holds again.
`ix_status` is Active or Inactive, `ix_assigned` Assigned or Unassigned, in any case of letters. They come as a form, as JSON
or in the query. Replies are flat and all values strings, as on `/v1/t`.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call, answered, unknown
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
        raise InputError("missing_parameter", "The header ix_c or ix_u names the tag.", "ix_c")
    wanted = uid_bytes(uid, "ix_u") if cuid is None and uid is not None else None
    if call.request.match_info["aid"] != call.caller.aid:
        raise unknown("tag")
    if cuid is not None:
        return await _patch(call, "tag_by_cuid", cuid, by_cuid=True)
    return await _patch(call, "tag_by_uid", wanted, by_cuid=False)


def _header(call: Call, name: str) -> str | None:
    given = call.request.headers.getall(name, [])
    if len(given) > 1:
        raise InputError("invalid_parameter", f"{name} is given twice.", name)
    if not given or not given[0]:
        return None
    try:
        given[0].encode()
    except UnicodeEncodeError:
        raise InputError("invalid_parameter", f"{name} is not text in UTF-8.", name) from None
    return given[0]


async def _patch(call: Call, statement: str, key: Any, *, by_cuid: bool) -> web.Response:
    given = _given(call)
    changes: dict[str, Any] = {}
    if "ix_dr" in given:
        text = given["ix_dr"]
        changes["rules"] = {"groups": [], "default": text} if text else None
        if text:
            _check_response(changes["rules"])
    if "ix_status" in given:
        changes["active"] = _word(given, "ix_status", _STATUS)
    if "ix_assigned" in given:
        changes["assigned"] = _word(given, "ix_assigned", _ASSIGNED)
    if not changes:
        raise InputError("missing_parameter", f"One of {', '.join(_NAMES)} is needed.", "ix_dr")
    tag = await change(call, await call.row("tag", statement, key, lock="NO KEY UPDATE"), changes)
    flat = {"xuid": tag.xuid}
    if by_cuid and tag.cuid is not None:
        flat["cuid"] = tag.cuid
    flat["ix_dr"] = tag.rules["default"] if tag.rules is not None else ""
    flat["ix_status"] = "Active" if tag.active else "Inactive"
    flat["ix_assigned"] = "Assigned" if tag.assigned else "Unassigned"
    return answered(flat)


def _check_response(rules: dict[str, Any]) -> None:
    try:
        validation.rule_set(rules)
    except InputError as error:
        raise InputError("invalid_response", str(error), "ix_dr") from None


def _word(given: dict[str, str], name: str, words: dict[str, bool]) -> bool:
    try:
        return words[given[name].strip().lower()]
    except KeyError:
        raise InputError("invalid_parameter", f"{name} is one of {', '.join(list(words)[:2])}.", name) from None


def _given(call: Call) -> dict[str, str]:
    """The parameters of the query and of the body, each at most once."""
    found: dict[str, str] = {}
    for name, value in (*call.request.query.items(), *_members(call)):
        if name not in _NAMES:
            continue
        if name in found:
            raise InputError("invalid_parameter", f"{name} is given twice.", name)
        if not isinstance(value, str) or "\0" in value:
            raise InputError("invalid_parameter", f"{name} is text.", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError("invalid_parameter", f"{name} is text.", name) from None
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
        raise InputError("invalid_request", "The body is neither a form nor JSON, in UTF-8.") from None


class CompatiblePatch(msgspec.Struct):
    """One of the three at least; words in any case of letters. For the description: bodies are read more leniently."""

    ix_dr: str | msgspec.UnsetType = msgspec.UNSET
    ix_status: Literal["Active", "Inactive"] | msgspec.UnsetType = msgspec.UNSET
    ix_assigned: Literal["Assigned", "Unassigned"] | msgspec.UnsetType = msgspec.UNSET
