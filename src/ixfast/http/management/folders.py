"""Folders, groups and batches: what tags hang below, and what they inherit.

Each is deleted only when nothing hangs below it. A folder defines extended fields, a group gives them values; a value whose
definition was taken away is kept and not shown in replies until there is one again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.accounts import given
from ixfast.http.management.call import Call, Change, created, gone, shown
from ixfast.http.management.schemas import (
    Batch,
    BatchDraft,
    BatchPatch,
    Definition,
    Folder,
    FolderDraft,
    FolderPatch,
    Group,
    GroupDraft,
    GroupPatch,
)
from ixfast.keys.diversify import Derivation
from ixfast.store.admin import edits


def to_json(value: Any) -> str | None:
    """A value for a jsonb column."""
    return None if value is None else msgspec.json.encode(value).decode()


def _folder(row: Any) -> Folder:
    fields = msgspec.json.decode(row["fields"], type=list[Definition])
    return Folder(row["folder_id"], row["name"], row["active"], fields, row["created_at"])


async def list_folders(call: Call) -> web.Response:
    return await call.paged("folders", _folder, "folder_id")


async def read_folder(call: Call) -> web.Response:
    return shown(_folder(await call.row("folder", "folder", call.id("folder"))))


async def create_folder(call: Call) -> web.Response:
    draft = call.body(FolderDraft)
    validation.definitions(draft.fields)
    statement, fields = call.sql["add_folder"], to_json(draft.fields)
    folder_id = await call.connection.fetchval(statement, call.account_id, draft.name, draft.active, fields)
    made = _folder(await call.row("folder", "folder", folder_id))
    await call.note("create", "folder", folder_id, None, made)
    return created(made, f"/v2/folders/{folder_id}")


async def patch_folder(call: Call) -> web.Response:
    patch = call.body(FolderPatch)
    if patch.fields is not UNSET:
        validation.definitions(patch.fields)
    before = _folder(await call.row("folder", "folder", call.id("folder"), lock="NO KEY UPDATE"))
    call.match(before)
    after = msgspec.structs.replace(before, **given(patch))
    if after != before:
        fields = to_json(after.fields)
        await call.connection.execute(call.sql["update_folder"], after.id, after.name, after.active, fields)
        groups = await call.connection.fetch(call.sql["groups_of_folder"], after.id)
        changes: list[Change] = [("group", row["group_id"], None) for row in groups]
        await call.note("update", "folder", after.id, before, after, *changes)
    return shown(after)


async def delete_folder(call: Call) -> web.Response:
    before = _folder(await call.row("folder", "folder", call.id("folder"), lock="UPDATE"))
    call.match(before)
    await call.connection.execute(call.sql["delete_folder"], before.id)
    await call.note("delete", "folder", before.id, before, None)
    return gone()


def _group(row: Any) -> Group:
    return Group(
        row["group_id"],
        row["folder_id"],
        row["name"],
        row["kind"],
        row["active"],
        msgspec.json.decode(row["profile"], type=EncodingProfile) if row["profile"] is not None else None,
        msgspec.json.decode(row["rule_set"]) if row["rule_set"] is not None else None,
        msgspec.json.decode(row["fields"]),
        row["retry_window_s"],
        msgspec.json.decode(row["derivation"], type=Derivation) if row["derivation"] is not None else None,
        row["enrols"],
        row["created_at"],
    )


def defined(row: Any) -> list[str]:
    """Names of the extended fields that a group's folder defines."""
    return [field.name for field in msgspec.json.decode(row["definitions"], type=list[Definition])]


async def list_groups(call: Call) -> web.Response:
    return await call.paged("groups", _group, "group_id", call.optional_id("folder"))


async def read_group(call: Call) -> web.Response:
    return shown(_group(await call.row("group", "tag_group", call.id("group"))))


async def create_group(call: Call) -> web.Response:
    draft = call.body(GroupDraft)
    profile = validation.profile(draft.profile)
    validation.derivation(profile, draft.derivation, enrols=draft.enrols)
    if draft.rules is not None:
        validation.rule_set(draft.rules)
    folder = _folder(await call.row("folder", "folder", draft.folder_id, lock="KEY SHARE"))
    validation.values(draft.fields, [field.name for field in folder.fields])
    group_id = await call.connection.fetchval(
        call.sql["add_group"],
        draft.folder_id,
        draft.name,
        "standard" if profile is None else "authentication",
        draft.active,
        to_json(profile),
        to_json(draft.rules),
        to_json(draft.fields),
        draft.retry_window_s,
        to_json(draft.derivation),
        draft.enrols,
    )
    made = _group(await call.row("group", "tag_group", group_id))
    await call.note("create", "group", group_id, None, made, ("group", group_id, None))
    return created(made, f"/v2/groups/{group_id}")


async def patch_group(call: Call) -> web.Response:
    patch = call.body(GroupPatch)
    changes = given(patch)
    if patch.profile is not UNSET:
        changes["profile"] = validation.profile(patch.profile)
        changes["kind"] = "standard" if changes["profile"] is None else "authentication"
    if patch.rules is not UNSET and patch.rules is not None:
        validation.rule_set(patch.rules)
    row = await call.row("group", "tag_group", call.id("group"), lock="NO KEY UPDATE OF g")
    before = _group(row)
    call.match(before)
    if patch.fields is not UNSET:
        validation.values(patch.fields, defined(row))
        changes["fields"] = validation.merged(before.fields, patch.fields)
    after = msgspec.structs.replace(before, **changes)
    validation.derivation(after.profile, after.derivation, enrols=after.enrols)
    if after != before:
        await call.connection.execute(
            call.sql["update_group"],
            after.id,
            after.name,
            after.kind,
            after.active,
            to_json(after.profile),
            to_json(after.rules),
            to_json(after.fields),
            after.retry_window_s,
            to_json(after.derivation),
            after.enrols,
        )
        if after.derivation != before.derivation:
            await call.connection.fetchval(call.sql["hold_account"], call.account_id)
            await edits.check_meta_keys(call.connection, call.account_id)
        await call.note("update", "group", after.id, before, after, ("group", after.id, None))
    return shown(after)


async def delete_group(call: Call) -> web.Response:
    before = _group(await call.row("group", "tag_group", call.id("group"), lock="UPDATE OF g"))
    call.match(before)
    if await call.connection.fetchval(call.sql["group_has_tags"], before.id):
        raise InputError("in_use", "There are tags in the group: delete or move them first.")
    await call.connection.execute(call.sql["delete_group_keys"], before.id)
    await call.connection.execute(call.sql["delete_group"], before.id)
    await call.note("delete", "group", before.id, before, None, ("group", before.id, None))
    return gone()


def _batch(row: Any) -> Batch:
    return Batch(row["batch_id"], row["group_id"], row["name"], row["active"], row["created_at"])


async def list_batches(call: Call) -> web.Response:
    return await call.paged("batches", _batch, "batch_id", call.optional_id("group"))


async def read_batch(call: Call) -> web.Response:
    return shown(_batch(await call.row("batch", "batch", call.id("batch"))))


async def create_batch(call: Call) -> web.Response:
    draft = call.body(BatchDraft)
    await call.row("group", "tag_group", draft.group_id, lock="KEY SHARE OF g")
    batch_id = await call.connection.fetchval(call.sql["add_batch"], draft.group_id, draft.name, draft.active)
    made = _batch(await call.row("batch", "batch", batch_id))
    await call.note("create", "batch", batch_id, None, made)
    return created(made, f"/v2/batches/{batch_id}")


async def patch_batch(call: Call) -> web.Response:
    patch = call.body(BatchPatch)
    before = _batch(await call.row("batch", "batch", call.id("batch"), lock="NO KEY UPDATE OF b"))
    call.match(before)
    after = msgspec.structs.replace(before, **given(patch))
    if after != before:
        await call.connection.execute(call.sql["update_batch"], after.id, after.name, after.active)
        await call.note("update", "batch", after.id, before, after, ("batch", after.id, None))
    return shown(after)


async def delete_batch(call: Call) -> web.Response:
    before = _batch(await call.row("batch", "batch", call.id("batch"), lock="UPDATE OF b"))
    call.match(before)
    if await call.connection.fetchval(call.sql["batch_has_tags"], before.id):
        raise InputError("in_use", "There are tags in the batch: delete or move them first.")
    await call.connection.execute(call.sql["delete_batch"], before.id)
    await call.note("delete", "batch", before.id, before, None)
    return gone()
