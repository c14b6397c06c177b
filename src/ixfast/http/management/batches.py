"""Batches: parts of a group, such as a production run, that can be deactivated as one. A batch is deleted only when empty."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from ixfast.errors import InputError
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import created_response, no_content, object_response
from ixfast.http.management.schemas import Batch, BatchDraft, BatchPatch, set_members


def _batch(row: Any) -> Batch:
    return Batch(row["batch_id"], row["group_id"], row["name"], row["active"], row["created_at"])


async def list_batches(call: Call) -> web.Response:
    return await call.paged("batches", _batch, "batch_id", call.optional_id("group"))


async def read_batch(call: Call) -> web.Response:
    return object_response(_batch(await call.row("batch", "batch", call.id("batch"))))


async def create_batch(call: Call) -> web.Response:
    draft = call.body(BatchDraft)
    await call.row("group", "tag_group", draft.group_id, lock="KEY SHARE OF g")
    batch_id = await call.connection.fetchval(call.sql["add_batch"], draft.group_id, draft.name, draft.active)
    made = _batch(await call.row("batch", "batch", batch_id))
    await call.note("create", "batch", batch_id, None, made)
    return created_response(made, f"/v2/batches/{batch_id}")


async def patch_batch(call: Call) -> web.Response:
    patch = call.body(BatchPatch)
    before = _batch(await call.row("batch", "batch", call.id("batch"), lock="NO KEY UPDATE OF b"))
    call.match(before)
    after = msgspec.structs.replace(before, **set_members(patch))
    if after != before:
        await call.connection.execute(call.sql["update_batch"], after.id, after.name, after.active)
        await call.note("update", "batch", after.id, before, after, ("batch", after.id, None))
    return object_response(after)


async def delete_batch(call: Call) -> web.Response:
    before = _batch(await call.row("batch", "batch", call.id("batch"), lock="UPDATE OF b"))
    call.match(before)
    if await call.connection.fetchval(call.sql["batch_has_tags"], before.id):
        raise InputError("in_use", "The batch contains tags; delete or move them first.")
    await call.connection.execute(call.sql["delete_batch"], before.id)
    await call.note("delete", "batch", before.id, before, None)
    return no_content()
