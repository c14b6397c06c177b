"""Edits that create folders, groups and batches. Each runs in the caller's transaction; see `transactions`."""

from __future__ import annotations

from typing import Any

import msgspec

from ixfast.chips import compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.keys.diversify import Derivation
from ixfast.store.queries import load


async def create_folder(connection: Any, account_id: int, name: str) -> int:
    """Create a folder and return its id."""
    folder_id: int = await connection.fetchval(
        "INSERT INTO folder (account_id, name) VALUES ($1, $2) RETURNING folder_id", account_id, name
    )
    return folder_id


async def create_group(
    connection: Any,
    folder_id: int,
    name: str,
    profile: EncodingProfile | None,
    *,
    retry_window_s: int = 0,
    derivation: Derivation | None = None,
    enrols: bool = False,
) -> int:
    """Create a group and return its id.

    With a profile the group authenticates its tags; without one it is a standard group. With a derivation its tags have no
    stored keys, and the group needs a master (`add_master`). Raises ProfileError for an invalid profile.
    """
    if profile is not None:
        compile_profile(profile)
    group_id: int = await connection.fetchval(
        load("management")["add_group"],
        folder_id,
        name,
        "standard" if profile is None else "authentication",
        True,
        None if profile is None else msgspec.json.encode(profile).decode(),
        None,
        "{}",
        retry_window_s,
        None if derivation is None else msgspec.json.encode(derivation).decode(),
        enrols,
        False,
    )
    return group_id


async def create_batch(connection: Any, group_id: int, name: str) -> int:
    """Create a batch and return its id."""
    batch_id: int = await connection.fetchval(
        "INSERT INTO batch (group_id, name) VALUES ($1, $2) RETURNING batch_id", group_id, name
    )
    return batch_id
