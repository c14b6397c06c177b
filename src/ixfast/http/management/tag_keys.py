"""File keys of tags, and meta keys of accounts, batches and tags. A key goes in and never comes out: responses have check values
and versions only.

A version that is retired verifies no more taps; the last live file key of a tag cannot be retired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from aiohttp import web

from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, no_content, not_found
from ixfast.http.management.schemas import KeyDraft, KeyVersion
from ixfast.keys import KeySlot
from ixfast.store.admin import edits

V = TypeVar("V", bound=KeyVersion)


def key_version(row: Any) -> KeyVersion:
    """A version of a key, without the key."""
    return KeyVersion(row["version"], row["live"], row["check_value"].hex().upper(), row["created_at"])


async def _versions(call: Call, tag_id: int) -> list[KeyVersion]:
    rows = await call.connection.fetch(call.sql["tag_keys"], tag_id, KeySlot.FILE)
    return [key_version(row) for row in rows]


async def list_keys(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid())
    return call.slice(await _versions(call, row["tag_id"]))


async def add_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid = row["tag_id"], row["xuid"]
    group = await call.row("group", "tag_group", row["group_id"])
    if group["derivation"] is not None:
        raise InputError("invalid_parameter", "The tag's group derives its keys; add a master key to the group instead.", "key")
    before = await _versions(call, tag_id)
    version = await edits.add_tag_key(call.connection, call.management_dispatcher.keks, call.account_id, tag_id, value)
    if draft.retire_others:
        older = [key.version for key in before]
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.FILE, older)
    after = await _versions(call, tag_id)
    await call.note("add_key", "tag", xuid, {"keys": before}, {"keys": after}, ("tag", tag_id, xuid))
    made = version_among(after, version)
    return json_response(made, 201, location=f"/v2/tags/{xuid}/keys/{version}")


async def retire_key(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid, version = row["tag_id"], row["xuid"], call.id("key version", "version")
    before = await _versions(call, tag_id)
    found = version_among(before, version)
    if found.live:
        if sum(key.live for key in before) == 1:
            raise InputError("in_use", "This is the tag's only live key; add another one first, or deactivate the tag.")
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.FILE, [version])
        after = await _versions(call, tag_id)
        await call.note("retire_key", "tag", xuid, {"keys": before}, {"keys": after}, ("tag", tag_id, xuid))
    return no_content()


def version_among(keys: Sequence[V], version: int) -> V:
    """The entry of a version; `not_found` if there is none."""
    found = next((key for key in keys if key.version == version), None)
    if found is None:
        raise not_found("key version")
    return found


async def _meta_versions(call: Call) -> list[KeyVersion]:
    return [key_version(row) for row in await call.connection.fetch(call.sql["meta_keys"], call.account_id)]


async def list_meta_keys(call: Call) -> web.Response:
    return call.slice(await _meta_versions(call))


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
    return json_response(made, 201, location=f"/v2/meta-keys/{version}")


async def retire_meta_key(call: Call) -> web.Response:
    version = call.id("key version", "version")
    await call.connection.fetchval(call.sql["lock_account"], call.account_id)
    before = await _meta_versions(call)
    if version_among(before, version).live:
        await call.connection.execute(call.sql["retire_meta_key"], call.account_id, version)
        after = await _meta_versions(call)
        change = ("account", call.account_id, None)
        await call.note("retire_key", "account", call.caller.aid, {"meta_keys": before}, {"meta_keys": after}, change)
    return no_content()


async def _tag_meta_versions(call: Call, tag_id: int) -> list[KeyVersion]:
    return [key_version(row) for row in await call.connection.fetch(call.sql["tag_keys"], tag_id, KeySlot.META)]


async def list_tag_meta_keys(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid())
    return call.page(await _tag_meta_versions(call, row["tag_id"]), None)


async def add_tag_meta_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid = row["tag_id"], row["xuid"]
    before = await _tag_meta_versions(call, tag_id)
    if draft.retire_others:
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.META, [key.version for key in before])
    version = await edits.add_tag_meta_key(call.connection, call.management_dispatcher.keks, call.account_id, tag_id, value)
    after = await _tag_meta_versions(call, tag_id)
    await call.note("add_key", "tag", xuid, {"meta_keys": before}, {"meta_keys": after}, ("tag", tag_id, xuid))
    return json_response(version_among(after, version), 201, location=f"/v2/tags/{xuid}/meta-keys/{version}")


async def retire_tag_meta_key(call: Call) -> web.Response:
    row = await call.row("tag", "tag_by_xuid", call.xuid(), lock="NO KEY UPDATE")
    tag_id, xuid, version = row["tag_id"], row["xuid"], call.id("key version", "version")
    before = await _tag_meta_versions(call, tag_id)
    if version_among(before, version).live:
        await call.connection.execute(call.sql["retire_tag_keys"], tag_id, KeySlot.META, [version])
        after = await _tag_meta_versions(call, tag_id)
        await call.note("retire_key", "tag", xuid, {"meta_keys": before}, {"meta_keys": after}, ("tag", tag_id, xuid))
    return no_content()


async def _batch_versions(call: Call, batch_id: int) -> list[KeyVersion]:
    return [key_version(row) for row in await call.connection.fetch(call.sql["batch_keys"], batch_id)]


async def list_batch_meta_keys(call: Call) -> web.Response:
    row = await call.row("batch", "batch", call.id("batch"))
    return call.page(await _batch_versions(call, row["batch_id"]), None)


async def add_batch_meta_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    batch_id = (await call.row("batch", "batch", call.id("batch"), lock="NO KEY UPDATE OF b"))["batch_id"]
    before = await _batch_versions(call, batch_id)
    if draft.retire_others:
        await call.connection.execute(call.sql["retire_batch_keys"], batch_id, [key.version for key in before])
    version = await edits.add_batch_key(call.connection, call.management_dispatcher.keks, call.account_id, batch_id, value)
    after = await _batch_versions(call, batch_id)
    await call.note("add_key", "batch", batch_id, {"meta_keys": before}, {"meta_keys": after}, ("batch", batch_id, None))
    return json_response(version_among(after, version), 201, location=f"/v2/batches/{batch_id}/meta-keys/{version}")


async def retire_batch_meta_key(call: Call) -> web.Response:
    batch_id = (await call.row("batch", "batch", call.id("batch"), lock="NO KEY UPDATE OF b"))["batch_id"]
    version = call.id("key version", "version")
    before = await _batch_versions(call, batch_id)
    if version_among(before, version).live:
        await call.connection.execute(call.sql["retire_batch_keys"], batch_id, [version])
        after = await _batch_versions(call, batch_id)
        await call.note("retire_key", "batch", batch_id, {"meta_keys": before}, {"meta_keys": after}, ("batch", batch_id, None))
    return no_content()
