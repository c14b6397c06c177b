"""The start of an import: its options, its checks, its locks, and what all of its blocks share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ixfast.chips import PRESETS as PRESET_PROFILES
from ixfast.chips import scheme_names
from ixfast.chips.named_profiles import find_profile
from ixfast.domain.model import EncodingProfile, FieldDefinition
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys
from ixfast.limits import TAG_FILE_SILENCE_MS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports.group_names import batch_named
from ixfast.store.imports.import_plan import Context
from ixfast.store.imports.stored_keys import read_masters
from ixfast.store.queries import load
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import PRESETS, PROBLEMS_MAX, Layout


class Options(NamedTuple):
    """How a file is read and what is done with it."""

    preset: str | None = None
    ignored: Sequence[str] = ()
    allow_keys: bool = True
    allow_zero_keys: bool = False
    allow_any_uid: bool = False
    retire_old_keys: bool = False
    meta_keys: str = "auto"
    code_chars: int = CODE_CHARS[-1]
    dry_run: bool = False
    problems_max: int = PROBLEMS_MAX


async def prepare(
    connection: Any, keks: KeyEncryptionKeys, account_id: int, group_id: int, batch: int | str | None, options: Options
) -> tuple[Context, Layout, bool, EncodingProfile | None]:
    """Check the options, lock the account against other imports and the group against deletion, and create the temporary tables.

    Returns the context of all blocks, the layout of the file, whether the batch was created, and the group's profile. Raises
    InputError.
    """
    sql = load("importing")
    if options.preset is not None and options.preset not in PRESETS:
        raise InputError("invalid_parameter", f"`preset` must be one of {', '.join(PRESETS)}.", "preset")
    if options.meta_keys == "batch" and batch is None:
        raise InputError("missing_parameter", "`meta_keys` of the batch require `batch`.", "batch")
    if options.code_chars not in CODE_CHARS:
        raise InputError("invalid_parameter", f"`code_chars` must be {' or '.join(map(str, CODE_CHARS))}.", "code_chars")
    if not await connection.fetchval(sql["try_lock"], account_id):
        raise InputError("import_running", "Another import into the account is running; wait until it has finished.")
    await connection.execute(sql["set_timeouts"], str(TAG_FILE_SILENCE_MS_MAX))
    await edits.announce_keys(connection, keks)
    group = await connection.fetchrow(sql["lock_group"], account_id, group_id)
    if group is None:
        raise InputError("not_found", "The account has no such group.", "group")
    batch_id, batch_created = await _find_or_create_batch(connection, group_id, batch)
    definitions = msgspec.json.decode(group["fields"], type=list[FieldDefinition])
    groups = await connection.fetch(sql["groups"], account_id)
    profile_names = {row["group_id"]: _notations(row["profile"]) for row in groups}
    accepted = frozenset().union(*profile_names.values())
    layout = Layout(
        preset=options.preset,
        ignored=options.ignored,
        fields=[each.name for each in definitions],
        accepted={"PROFILE": lambda: accepted, "AID": lambda: (group["aid"],)},
        allow_keys=options.allow_keys,
        allow_zero_keys=options.allow_zero_keys,
    )
    siblings = frozenset(row["group_id"] for row in groups if row["folder_id"] == group["folder_id"])
    live_masters = {row["group_id"]: row["live_masters"] for row in groups if row["derives"]}
    masters = await read_masters(connection, account_id)
    now = await connection.fetchval("SELECT now()")
    await connection.execute(sql["stage"])
    await connection.execute(sql["stage_changes"])
    profile = msgspec.json.decode(group["profile"], type=EncodingProfile) if group["profile"] is not None else None
    named = batch_id is not None and "{batch}" in group["template"]
    return (
        Context(
            account_id,
            group_id,
            batch_id,
            named,
            siblings,
            live_masters,
            masters,
            profile_names,
            options.allow_any_uid,
            keks,
            now,
        ),
        layout,
        batch_created,
        profile,
    )


@cache
def _notations(profile: str | None) -> frozenset[str]:
    """How files may name a group's profile: by its own name, or as the preset that is the same."""
    if profile is None:
        return frozenset()
    own = msgspec.json.decode(profile, type=EncodingProfile)
    notations = (*PRESET_PROFILES, *(f"{name}/{scheme}" for name in PRESET_PROFILES for scheme in scheme_names()))
    return frozenset((own.name, *(each for each in notations if replace(find_profile(each), name=own.name) == own)))


async def _find_or_create_batch(connection: Any, group_id: int, batch: int | str | None) -> tuple[int | None, bool]:
    """The id of the batch, which is locked against deletion, and whether it was created."""
    if batch is None:
        return None, False
    batch_id = batch if isinstance(batch, int) else await batch_named(connection, group_id, batch)
    if batch_id is None:
        assert isinstance(batch, str)
        return await edits.create_batch(connection, group_id, batch), True
    if await connection.fetchval(load("importing")["lock_batch"], group_id, batch_id) is None:
        raise InputError("not_found", "The group has no such batch.", "batch")
    return batch_id, False
