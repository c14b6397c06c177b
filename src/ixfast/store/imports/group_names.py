"""Finds groups and batches by their names."""

from __future__ import annotations

from typing import Any

from ixfast.errors import InputError
from ixfast.store.queries import load


async def group_named(connection: Any, account_id: int, group: str, folder: str | None = None) -> int:
    """The id of the group with this name. Raises InputError if there is none, or several and no folder is named."""
    found = await connection.fetch(load("importing")["groups_named"], account_id, group, folder)
    if not found:
        raise InputError("not_found", "The account has no such group.", "group")
    if len(found) > 1:
        raise InputError("ambiguous", "Several folders have a group of this name; specify the folder, too.", "folder")
    group_id: int = found[0]["group_id"]
    return group_id


async def batch_named(connection: Any, group_id: int, batch: str) -> int | None:
    """The id of the batch with this name in the group; None if there is none."""
    batch_id: int | None = await connection.fetchval(load("importing")["batch_named"], group_id, batch)
    return batch_id
