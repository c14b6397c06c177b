"""Tag groups: encoding profile, rule set, values of extended fields and key derivation, which the tags of a group inherit.

A group is deleted only when it has no tags. It gives values to the extended fields that its folder defines; a value whose
definition was removed is kept, and not part of responses until it is defined again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call, to_jsonb
from ixfast.http.management.folders import folder_of
from ixfast.http.management.json_responses import created_response, no_content, object_response
from ixfast.http.management.schemas import Definition, Group, GroupDraft, GroupPatch, set_members
from ixfast.http.reserved_names import warnings_of
from ixfast.keys.diversify import Derivation
from ixfast.store.admin import edits


def _group(row: Any) -> Group:
    profile = msgspec.json.decode(row["profile"], type=EncodingProfile) if row["profile"] is not None else None
    return Group(
        row["group_id"],
        row["folder_id"],
        row["name"],
        row["kind"],
        row["active"],
        profile,
        msgspec.json.decode(row["rule_set"]) if row["rule_set"] is not None else None,
        msgspec.json.decode(row["fields"]),
        row["retry_window_s"],
        msgspec.json.decode(row["derivation"], type=Derivation) if row["derivation"] is not None else None,
        row["enrols"],
        row["country_statistics"],
        row["created_at"],
        _warnings(profile),
    )


def _warnings(profile: EncodingProfile | None) -> list[str] | UnsetType:
    warnings = warnings_of(profile) if profile is not None else ()
    return [*warnings] if warnings else UNSET


def field_names(row: Any) -> list[str]:
    """Names of the extended fields that a group's folder defines."""
    return [field.name for field in msgspec.json.decode(row["definitions"], type=list[Definition])]


async def list_groups(call: Call) -> web.Response:
    return await call.paged("groups", _group, "group_id", call.optional_id("folder"))


async def read_group(call: Call) -> web.Response:
    return object_response(_group(await call.row("group", "tag_group", call.id("group"))))


async def create_group(call: Call) -> web.Response:
    draft = call.body(GroupDraft)
    profile = validation.profile(draft.profile)
    validation.derivation(profile, draft.derivation, enrols=draft.enrols)
    if draft.rules is not None:
        validation.rule_set(draft.rules)
    folder = folder_of(await call.row("folder", "folder", draft.folder_id, lock="KEY SHARE"))
    validation.values(draft.fields, [field.name for field in folder.fields])
    group_id = await call.connection.fetchval(
        call.sql["add_group"],
        draft.folder_id,
        draft.name,
        "standard" if profile is None else "authentication",
        draft.active,
        to_jsonb(profile),
        to_jsonb(draft.rules),
        to_jsonb(draft.fields),
        draft.retry_window_s,
        to_jsonb(draft.derivation),
        draft.enrols,
        draft.country_statistics,
    )
    made = _group(await call.row("group", "tag_group", group_id))
    await call.note("create", "group", group_id, None, made, ("group", group_id, None))
    return created_response(made, f"/v2/groups/{group_id}")


async def patch_group(call: Call) -> web.Response:
    patch = call.body(GroupPatch)
    changes = set_members(patch)
    if patch.profile is not UNSET:
        changes["profile"] = validation.profile(patch.profile)
        changes["warnings"] = _warnings(changes["profile"])
        changes["kind"] = "standard" if changes["profile"] is None else "authentication"
    if patch.rules is not UNSET and patch.rules is not None:
        validation.rule_set(patch.rules)
    row = await call.row("group", "tag_group", call.id("group"), lock="NO KEY UPDATE OF g")
    before = _group(row)
    call.match(before)
    if patch.fields is not UNSET:
        validation.values(patch.fields, field_names(row))
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
            to_jsonb(after.profile),
            to_jsonb(after.rules),
            to_jsonb(after.fields),
            after.retry_window_s,
            to_jsonb(after.derivation),
            after.enrols,
            after.country_statistics,
        )
        if after.derivation != before.derivation:
            await call.connection.fetchval(call.sql["lock_account"], call.account_id)
            await edits.check_meta_keys(call.connection, call.account_id)
            if after.derivation is not None:
                await edits.continue_counters_of_group(call.connection, call.account_id, after.id)
        await call.note("update", "group", after.id, before, after, ("group", after.id, None))
    return object_response(after)


async def delete_group(call: Call) -> web.Response:
    before = _group(await call.row("group", "tag_group", call.id("group"), lock="UPDATE OF g"))
    call.match(before)
    if await call.connection.fetchval(call.sql["group_has_tags"], before.id):
        raise InputError("in_use", "The group contains tags; delete or move them first.")
    await call.connection.execute(call.sql["delete_group_keys"], before.id)
    await call.connection.execute(call.sql["delete_group"], before.id)
    await call.note("delete", "group", before.id, before, None, ("group", before.id, None))
    return no_content()
