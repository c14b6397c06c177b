"""Tags. A tag can move between the groups and batches of its account.

Deleting a tag keeps its scans in the log, and remembers how far its keys were used (`edits.add_tags`), so that adding the tag
again does not make old taps pass.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from ixfast.domain.chip_uids import refuse_reversed_uid
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call, to_jsonb
from ixfast.http.management.groups import field_names
from ixfast.http.management.json_responses import (
    created_response,
    json_response,
    no_content,
    not_found,
    object_response,
    unauthorised,
)
from ixfast.http.management.schemas import Counter, Tag, TagDraft, TagPatch, set_members
from ixfast.store.admin import edits
from ixfast.store.admin.edits import NewTag
from ixfast.store.random_codes import draw_codes

_CODES_TRIED = 20  # With eight random characters, one in a million is taken in a fleet of millions.


def tag_of(row: Any) -> Tag:
    return Tag(
        row["xuid"],
        row["uid"].hex().upper() if row["uid"] is not None else None,
        row["cuid"],
        row["name"],
        row["group_id"],
        row["batch_id"],
        row["active"],
        row["assigned_at"] is not None,
        row["assigned_at"],
        msgspec.json.decode(row["rule_set"]) if row["rule_set"] is not None else None,
        msgspec.json.decode(row["fields"]) if row["fields"] is not None else {},
        row["originality"],
        row["created_at"],
    )


async def list_tags(call: Call) -> web.Response:
    group, batch, cuid, uid = (call.parameter(name) for name in ("group", "batch", "cuid", "uid"))
    filters = [each for each in (group, batch, cuid, uid) if each is not None]
    if len(filters) > 1:
        raise InputError("invalid_parameter", "Use only one of group, batch, cuid and uid.", "group")
    if cuid is not None or uid is not None:
        return await _tag_by(call, cuid, uid)
    if batch is not None:
        return await call.paged("tags_of_batch", tag_of, "tag_id", call.optional_id("batch"))
    if group is not None:
        return await call.paged("tags_of_group", tag_of, "tag_id", call.optional_id("group"))
    return await call.paged("tags_of_account", tag_of, "tag_id")


async def _tag_by(call: Call, cuid: str | None, uid: str | None) -> web.Response:
    if uid is not None:
        wanted = uid_bytes(uid, "uid")
        row = await call.connection.fetchrow(call.sql["tag_by_uid"], call.account_id, wanted)
        if row is None:
            refuse_reversed_uid(wanted, "uid")
    else:
        row = await call.connection.fetchrow(call.sql["tag_by_cuid"], call.account_id, cuid)
    return call.page([] if row is None else [tag_of(row)], None)


def uid_bytes(text: str, field: str) -> bytes:
    """A UID of 7 bytes from 14 upper-case hex digits; InputError for `field` otherwise.

    It names a tag, which may have a UID of any look. If there is no such tag, `refuse_reversed_uid` says more than that.
    """
    if len(text) != 14 or not set(text) <= set("0123456789ABCDEF"):
        raise InputError("invalid_parameter", "A UID must be 14 upper-case hex digits.", field)
    return bytes.fromhex(text)


async def read_tag(call: Call) -> web.Response:
    return object_response(tag_of(await call.row("tag", "tag_by_xuid", call.xuid())))


async def create_tag(call: Call) -> web.Response:
    draft = call.body(TagDraft)
    if (draft.key is not None or draft.meta_key is not None) and "keys" not in call.caller.scopes:
        raise unauthorised(["keys"])
    if draft.rules is not None:
        validation.rule_set(draft.rules)
    uid = _new_uid(call, draft.uid) if draft.uid is not None else None
    group_id, fields = await _lock_group(call, draft.group_id, draft.batch_id)
    validation.values(draft.fields, fields)
    xuid = draft.xuid if draft.xuid is not None else await _new_code(call, draft.xuid_length)
    key = validation.key(draft.key) if draft.key is not None else None
    meta_key = validation.key(draft.meta_key, "meta_key") if draft.meta_key is not None else None
    new = NewTag(xuid, uid, key, cuid=draft.cuid, name=draft.name, meta_key=meta_key)
    keks, account_id = call.management_dispatcher.keks, call.account_id
    await edits.add_tags(call.connection, keks, account_id, group_id, [new], batch_id=draft.batch_id)
    row = await call.row("tag", "tag_by_xuid", xuid)
    plain = tag_of(row)
    assigned_at = dt.datetime.now(dt.UTC) if draft.assigned else None
    wanted = msgspec.structs.replace(
        plain, active=draft.active, assigned=draft.assigned, assigned_at=assigned_at, rules=draft.rules, fields=draft.fields
    )
    if wanted != plain:
        await _update(call, row["tag_id"], wanted)
    if draft.originality_signature is not None:
        await _set_originality(call, row["tag_id"], wanted, draft.originality_signature)
    made = tag_of(await call.row("tag", "tag_by_xuid", xuid))
    await call.note("create", "tag", xuid, None, made, ("tags_added", None, None))
    return created_response(made, f"/v2/tags/{xuid}")


def _new_uid(call: Call, text: str) -> bytes:
    """The UID that a tag is given, which it keeps forever. Raises InputError if its bytes are in reverse order."""
    uid = bytes.fromhex(text)
    if not call.flag("allow_any_uid"):
        refuse_reversed_uid(uid, "uid", "allow_any_uid=true")
    return uid


async def _new_code(call: Call, characters: int) -> str:
    codes = draw_codes(_CODES_TRIED, characters)
    taken = {row["xuid"] for row in await call.connection.fetch(call.sql["known_xuids"], codes)}
    return next(code for code in codes if code not in taken)


async def _lock_group(call: Call, group_id: int | None, batch_id: int | None) -> tuple[int, list[str]]:
    """Lock the group and batch that a tag is put into until the commit. Returns the group's id and the fields defined there."""
    if batch_id is not None:
        batch = await call.row("batch", "batch", batch_id, lock="KEY SHARE OF b")
        if group_id is not None and batch["group_id"] != group_id:
            raise InputError("invalid_parameter", "The batch belongs to another group.", "batch_id")
        group_id = batch["group_id"]
    if group_id is None:
        raise InputError("missing_parameter", "group_id or batch_id is required.", "group_id")
    row = await call.row("group", "tag_group", group_id, lock="KEY SHARE OF g")
    return group_id, field_names(row)


async def _update(call: Call, tag_id: int, tag: Tag) -> None:
    await call.connection.execute(
        call.sql["update_tag"],
        tag_id,
        bytes.fromhex(tag.uid) if tag.uid is not None else None,
        tag.cuid,
        tag.name,
        tag.group_id,
        tag.batch_id,
        tag.active,
        tag.assigned_at,
        to_jsonb(tag.rules),
        to_jsonb(tag.fields) if tag.fields else None,
    )


async def _set_originality(call: Call, tag_id: int, tag: Tag, signature: str | None) -> str | None:
    """Store a tag's originality signature and the result of checking it, or clear both. Returns the result."""
    found = None
    if signature is not None:
        group = await call.row("group", "tag_group", tag.group_id)
        found = validation.originality(tag.uid, signature, group["profile"])
    await call.connection.execute(call.sql["set_originality"], tag_id, found, bytes.fromhex(signature) if signature else None)
    return found


async def change(call: Call, row: Any, changes: dict[str, Any]) -> Tag:
    """Apply changes to a tag whose row is locked, write the audit log and notify the workers."""
    before = tag_of(row)
    if "assigned" in changes:
        same = before.assigned == changes["assigned"]
        fresh = dt.datetime.now(dt.UTC) if changes["assigned"] else None
        changes = {"assigned_at": before.assigned_at if same else fresh, **changes}
    after = msgspec.structs.replace(before, **changes)
    if after != before:
        await _update(call, row["tag_id"], after)
        moved = after.group_id != before.group_id
        if moved or after.uid != before.uid:
            field = "group_id" if moved else "uid"
            await edits.continue_counter(call.connection, call.account_id, row["tag_id"], field, moved=moved)
        await call.note("update", "tag", after.xuid, before, after, ("tag", row["tag_id"], after.xuid))
    return after


async def patch_tag(call: Call) -> web.Response:
    patch = call.body(TagPatch)
    if patch.rules is not UNSET and patch.rules is not None:
        validation.rule_set(patch.rules)
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    before = tag_of(row)
    call.match(before)
    changes = set_members(patch)
    if patch.uid is not UNSET and before.uid not in (None, patch.uid):
        raise InputError("invalid_parameter", "The UID of a tag cannot be changed; create a new tag for the other chip.", "uid")
    if patch.uid is not UNSET and before.uid is None:
        _new_uid(call, patch.uid)
    group_id, batch_id = changes.get("group_id"), changes.get("batch_id", before.batch_id)
    if group_id is not None and "batch_id" not in changes and group_id != before.group_id:
        batch_id = None  # a batch belongs to one group
    moves = "group_id" in changes or "batch_id" in changes
    if moves or patch.fields is not UNSET:
        wanted = group_id if batch_id is not None or group_id is not None else before.group_id
        changes["group_id"], fields = await _lock_group(call, wanted, batch_id)
        changes["batch_id"] = batch_id
        if patch.fields is not UNSET:
            validation.values(patch.fields, fields)
            changes["fields"] = validation.merged(before.fields, patch.fields)
    if patch.originality_signature is not UNSET:
        del changes["originality_signature"]
        after = msgspec.structs.replace(before, **{name: changes[name] for name in ("uid", "group_id") if name in changes})
        if after.uid != before.uid:
            await _update(call, row["tag_id"], msgspec.structs.replace(before, uid=after.uid))
        changes["originality"] = await _set_originality(call, row["tag_id"], after, patch.originality_signature)
    return object_response(await change(call, row, changes))


async def delete_tag(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="UPDATE")
    before = tag_of(row)
    call.match(before)
    await call.connection.execute(call.sql["delete_tag"], row["tag_id"])
    await call.note("delete", "tag", before.xuid, before, None, ("tag", row["tag_id"], before.xuid))
    return no_content()


async def read_counter(call: Call) -> web.Response:
    tag = await call.row("tag", "tag_by_xuid", call.xuid())
    row = await call.connection.fetchrow(call.sql["counter"], tag["tag_id"])
    if row is None:
        raise not_found("tag")
    position = row["last_position"]
    version, counter = (position >> POSITION_COUNTER_BITS, position & POSITION_COUNTER_MASK) if position else (None, None)
    return json_response(Counter(row["scan_count"], version, counter, row["last_at"]))
