"""Tags, and the keys of tags and accounts. A key goes in and never comes out: shown are check values and versions.

A tag moves between the groups and batches of its account. A deleted tag's scans stay in the log, and it leaves behind how far
its keys were used (`edits.add_tags`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.accounts import given
from ixfast.http.management.call import Call, answered, created, gone, shown, unauthorised, unknown
from ixfast.http.management.folders import defined, to_json
from ixfast.http.management.schemas import Counter, KeyDraft, KeyVersion, Tag, TagDraft, TagPatch
from ixfast.keys import KeySlot
from ixfast.store.admin import edits
from ixfast.store.admin.edits import NewTag
from ixfast.store.random_codes import draw_codes

V = TypeVar("V", bound=KeyVersion)
_CODES_TRIED = 20  # Of eight random characters one in a million is taken in a fleet of millions.


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
        raise InputError("invalid_parameter", "Ask for one of group, batch, cuid and uid.", "group")
    if cuid is not None or uid is not None:
        return await _found_tags(call, cuid, uid)
    if batch is not None:
        return await call.paged("tags_of_batch", tag_of, "tag_id", call.optional_id("batch"))
    if group is not None:
        return await call.paged("tags_of_group", tag_of, "tag_id", call.optional_id("group"))
    return await call.paged("tags_of_account", tag_of, "tag_id")


async def _found_tags(call: Call, cuid: str | None, uid: str | None) -> web.Response:
    if uid is not None:
        row = await call.connection.fetchrow(call.sql["tag_by_uid"], call.account_id, uid_bytes(uid, "uid"))
    else:
        row = await call.connection.fetchrow(call.sql["tag_by_cuid"], call.account_id, cuid)
    return call.page([] if row is None else [tag_of(row)], None)


def uid_bytes(text: str, place: str) -> bytes:
    if len(text) != 14 or not set(text) <= set("0123456789ABCDEF"):
        raise InputError("invalid_parameter", "A UID is 14 hex digits, upper case.", place)
    return bytes.fromhex(text)


async def read_tag(call: Call) -> web.Response:
    return shown(tag_of(await call.row("tag", "tag_by_xuid", call.xuid())))


async def create_tag(call: Call) -> web.Response:
    draft = call.body(TagDraft)
    if draft.key is not None and "keys" not in call.caller.scopes:
        raise unauthorised(["keys"])
    if draft.rules is not None:
        validation.rule_set(draft.rules)
    group_id, fields = await _place(call, draft.group_id, draft.batch_id)
    validation.values(draft.fields, fields)
    xuid = draft.xuid if draft.xuid is not None else await _new_code(call, draft.xuid_length)
    uid = bytes.fromhex(draft.uid) if draft.uid is not None else None
    key = validation.key(draft.key) if draft.key is not None else None
    new = NewTag(xuid, uid, key, cuid=draft.cuid, name=draft.name)
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
    return created(made, f"/v2/tags/{xuid}")


async def _new_code(call: Call, characters: int) -> str:
    codes = draw_codes(_CODES_TRIED, characters)
    taken = {row["xuid"] for row in await call.connection.fetch(call.sql["known_xuids"], codes)}
    return next(code for code in codes if code not in taken)


async def _place(call: Call, group_id: int | None, batch_id: int | None) -> tuple[int, list[str]]:
    """Where a tag is to hang, held until the commit: its group, and the fields defined there."""
    if batch_id is not None:
        batch = await call.row("batch", "batch", batch_id, lock="KEY SHARE OF b")
        if group_id is not None and batch["group_id"] != group_id:
            raise InputError("invalid_parameter", "The batch is one of another group.", "batch_id")
        group_id = batch["group_id"]
    if group_id is None:
        raise InputError("missing_parameter", "Say in which group or batch the tag is.", "group_id")
    row = await call.row("group", "tag_group", group_id, lock="KEY SHARE OF g")
    return group_id, defined(row)


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
        to_json(tag.rules),
        to_json(tag.fields) if tag.fields else None,
    )


async def _set_originality(call: Call, tag_id: int, tag: Tag, signature: str | None) -> str | None:
    """Keep the signature of a tag and what it says, or forget both."""
    found = None
    if signature is not None:
        group = await call.row("group", "tag_group", tag.group_id)
        found = validation.originality(tag.uid, signature, group["profile"])
    await call.connection.execute(call.sql["set_originality"], tag_id, found, bytes.fromhex(signature) if signature else None)
    return found


async def change(call: Call, row: Any, changes: dict[str, Any]) -> Tag:
    """Give a tag, whose row is locked, these members, log it and tell the workers."""
    before = tag_of(row)
    if "assigned" in changes:
        same = before.assigned == changes["assigned"]
        fresh = dt.datetime.now(dt.UTC) if changes["assigned"] else None
        changes = {"assigned_at": before.assigned_at if same else fresh, **changes}
    after = msgspec.structs.replace(before, **changes)
    if after != before:
        await _update(call, row["tag_id"], after)
        await call.note("update", "tag", after.xuid, before, after, ("tag", row["tag_id"], after.xuid))
    return after


async def patch_tag(call: Call) -> web.Response:
    patch = call.body(TagPatch)
    if patch.rules is not UNSET and patch.rules is not None:
        validation.rule_set(patch.rules)
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    before = tag_of(row)
    call.match(before)
    changes = given(patch)
    if patch.uid is not UNSET and before.uid not in (None, patch.uid):
        raise InputError("invalid_parameter", "A tag has one UID for life: delete the tag and add the other chip.", "uid")
    group_id, batch_id = changes.get("group_id"), changes.get("batch_id", before.batch_id)
    if group_id is not None and "batch_id" not in changes and group_id != before.group_id:
        batch_id = None  # a batch belongs to one group
    moves = "group_id" in changes or "batch_id" in changes
    if moves or patch.fields is not UNSET:
        wanted = group_id if batch_id is not None or group_id is not None else before.group_id
        changes["group_id"], fields = await _place(call, wanted, batch_id)
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
    return shown(await change(call, row, changes))


async def delete_tag(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="UPDATE")
    before = tag_of(row)
    call.match(before)
    await call.connection.execute(call.sql["delete_tag"], row["tag_id"])
    await call.note("delete", "tag", before.xuid, before, None, ("tag", row["tag_id"], before.xuid))
    return gone()


async def read_counter(call: Call) -> web.Response:
    tag = await call.row("tag", "tag_by_xuid", call.xuid())
    row = await call.connection.fetchrow(call.sql["counter"], tag["tag_id"])
    if row is None:
        raise unknown("tag")
    place, never = row["last_position"], row["scan_count"] == 0
    version, counter = (place >> POSITION_COUNTER_BITS, place & POSITION_COUNTER_MASK) if place else (None, None)
    return answered(Counter(row["scan_count"], version, counter, None if never else row["last_at"]))


def key_version(row: Any) -> KeyVersion:
    """A key as it is shown."""
    return KeyVersion(row["version"], row["live"], row["check_value"].hex().upper(), row["created_at"])


async def _versions(call: Call, tag_id: int) -> list[KeyVersion]:
    rows = await call.connection.fetch(call.sql["tag_keys"], tag_id, KeySlot.FILE)
    return [key_version(row) for row in rows]


async def list_keys(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid())
    return call.page(await _versions(call, row["tag_id"]), None)


async def add_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid = row["tag_id"], row["xuid"]
    group = await call.row("group", "tag_group", row["group_id"])
    if group["derivation"] is not None:
        raise InputError("invalid_parameter", "The tag's group derives keys: add a master to the group.", "key")
    before = await _versions(call, tag_id)
    version = await edits.add_tag_key(call.connection, call.management_dispatcher.keks, call.account_id, tag_id, value)
    if draft.retire_others:
        older = [key.version for key in before]
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.FILE, older)
    after = await _versions(call, tag_id)
    await call.note("add_key", "tag", xuid, {"keys": before}, {"keys": after}, ("tag", tag_id, xuid))
    made = version_among(after, version)
    return answered(made, 201, location=f"/v2/tags/{xuid}/keys/{version}")


async def retire_key(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid, version = row["tag_id"], row["xuid"], call.id("key version", "version")
    before = await _versions(call, tag_id)
    found = version_among(before, version)
    if found.live:
        if sum(key.live for key in before) == 1:
            raise InputError("in_use", "It is the tag's only live key: add another one first, or make the tag inactive.")
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.FILE, [version])
        after = await _versions(call, tag_id)
        await call.note("retire_key", "tag", xuid, {"keys": before}, {"keys": after}, ("tag", tag_id, xuid))
    return gone()


def version_among(keys: Sequence[V], version: int) -> V:
    """The key of this version; `not_found` if there is none."""
    found = next((key for key in keys if key.version == version), None)
    if found is None:
        raise unknown("key version")
    return found


async def _meta_versions(call: Call) -> list[KeyVersion]:
    return [key_version(row) for row in await call.connection.fetch(call.sql["meta_keys"], call.account_id)]


async def list_meta_keys(call: Call) -> web.Response:
    return call.page(await _meta_versions(call), None)


async def add_meta_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    before = await _meta_versions(call)
    version = await edits.add_next_meta_key(call.connection, call.management_dispatcher.keks, call.account_id, value)
    if draft.retire_others:
        for key in before:
            await call.connection.execute(call.sql["retire_meta_key"], call.account_id, key.version)
    after = await _meta_versions(call)
    change = ("account", call.account_id, None)
    await call.note("add_key", "account", call.caller.aid, {"meta_keys": before}, {"meta_keys": after}, change)
    made = version_among(after, version)
    return answered(made, 201, location=f"/v2/meta-keys/{version}")


async def retire_meta_key(call: Call) -> web.Response:
    version = call.id("key version", "version")
    await call.connection.fetchval(call.sql["hold_account"], call.account_id)
    before = await _meta_versions(call)
    if version_among(before, version).live:
        await call.connection.execute(call.sql["retire_meta_key"], call.account_id, version)
        after = await _meta_versions(call)
        change = ("account", call.account_id, None)
        await call.note("retire_key", "account", call.caller.aid, {"meta_keys": before}, {"meta_keys": after}, change)
    return gone()
