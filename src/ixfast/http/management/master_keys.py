"""Master keys of groups that derive the keys of their tags. Like other keys they go in and never come out.

A group must have a derivation before it can have master keys. If the derivation is removed later, they are kept and not used. A
master key is used with the derivation that the group has when the key is added; changing the derivation affects later keys only.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, no_content
from ixfast.http.management.schemas import KeyDraft, MasterVersion
from ixfast.http.management.tag_keys import key_version, version_among
from ixfast.keys.diversify import Derivation
from ixfast.store.admin import edits


async def _versions(call: Call, group_id: int) -> list[MasterVersion]:
    rows = await call.connection.fetch(call.sql["group_keys"], group_id)
    return [_master_version(row) for row in rows]


def _master_version(row: Any) -> MasterVersion:
    derivation = msgspec.json.decode(row["derivation"], type=Derivation)
    return MasterVersion(**msgspec.structs.asdict(key_version(row)), derivation=derivation)


async def list_master_keys(call: Call) -> web.Response:
    row = await call.row("group", "tag_group", call.id("group"))
    return call.slice(await _versions(call, row["group_id"]))


async def add_master_key(call: Call) -> web.Response:
    draft = call.body(KeyDraft)
    value = validation.key(draft.key)
    row = await call.row("group", "tag_group", call.id("group"), lock="NO KEY UPDATE OF g")
    group_id = row["group_id"]
    if row["derivation"] is None:
        raise InputError(
            "invalid_parameter", "The group does not derive keys; set its derivation before adding a master key.", "key"
        )
    before = await _versions(call, group_id)
    if draft.retire_others:
        await call.connection.execute(call.sql["retire_group_keys"], group_id, [key.version for key in before])
    version = await edits.add_master(call.connection, call.management_dispatcher.keks, call.account_id, group_id, value)
    after = await _versions(call, group_id)
    await call.note("add_key", "group", group_id, {"keys": before}, {"keys": after}, ("group", group_id, None))
    return json_response(version_among(after, version), 201, location=f"/v2/groups/{group_id}/keys/{version}")


async def retire_master_key(call: Call) -> web.Response:
    row = await call.row("group", "tag_group", call.id("group"), lock="NO KEY UPDATE OF g")
    group_id, version = row["group_id"], call.id("key version", "version")
    before = await _versions(call, group_id)
    if version_among(before, version).live:
        if sum(key.live for key in before) == 1:
            raise InputError(
                "in_use", "This is the group's only live master key; add another one first, or deactivate the group."
            )
        await call.connection.execute(call.sql["retire_group_keys"], group_id, [version])
        after = await _versions(call, group_id)
        await call.note("retire_key", "group", group_id, {"keys": before}, {"keys": after}, ("group", group_id, None))
    return no_content()
