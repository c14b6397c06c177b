"""Folders: the top level of an account's objects. A folder defines the extended fields that its groups give values to.

A folder is deleted only when it has no groups. A definition that is removed leaves the values of the groups in place; they are
not part of responses until it is defined again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from ixfast.http.management import validation
from ixfast.http.management.call import Call, Change, to_jsonb
from ixfast.http.management.json_responses import created_response, no_content, object_response
from ixfast.http.management.schemas import Definition, Folder, FolderDraft, FolderPatch, set_members


def folder_of(row: Any) -> Folder:
    fields = msgspec.json.decode(row["fields"], type=list[Definition])
    return Folder(row["folder_id"], row["name"], row["active"], fields, row["created_at"])


async def list_folders(call: Call) -> web.Response:
    return await call.paged("folders", folder_of, "folder_id")


async def read_folder(call: Call) -> web.Response:
    return object_response(folder_of(await call.row("folder", "folder", call.id("folder"))))


async def create_folder(call: Call) -> web.Response:
    draft = call.body(FolderDraft)
    validation.definitions(draft.fields)
    statement, fields = call.sql["add_folder"], to_jsonb(draft.fields)
    folder_id = await call.connection.fetchval(statement, call.account_id, draft.name, draft.active, fields)
    made = folder_of(await call.row("folder", "folder", folder_id))
    await call.note("create", "folder", folder_id, None, made)
    return created_response(made, f"/v2/folders/{folder_id}")


async def patch_folder(call: Call) -> web.Response:
    patch = call.body(FolderPatch)
    if patch.fields is not UNSET:
        validation.definitions(patch.fields)
    before = folder_of(await call.row("folder", "folder", call.id("folder"), lock="NO KEY UPDATE"))
    call.match(before)
    after = msgspec.structs.replace(before, **set_members(patch))
    if after != before:
        fields = to_jsonb(after.fields)
        await call.connection.execute(call.sql["update_folder"], after.id, after.name, after.active, fields)
        groups = await call.connection.fetch(call.sql["groups_of_folder"], after.id)
        changes: list[Change] = [("group", row["group_id"], None) for row in groups]
        await call.note("update", "folder", after.id, before, after, *changes)
    return object_response(after)


async def delete_folder(call: Call) -> web.Response:
    before = folder_of(await call.row("folder", "folder", call.id("folder"), lock="UPDATE"))
    call.match(before)
    await call.connection.execute(call.sql["delete_folder"], before.id)
    await call.note("delete", "folder", before.id, before, None)
    return no_content()
