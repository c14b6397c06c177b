"""Where tags hang, as people call it: a group by its name, a batch inside of it."""

from __future__ import annotations

from typing import Any

from ixfast.errors import InputError
from ixfast.store.queries import load


async def group_named(connection: Any, account_id: int, group: str, folder: str | None = None) -> int:
    """The id of an account's group. InputError if there is none, or if several folders have one and none is named."""
    found = await connection.fetch(load("importing")["groups_named"], account_id, group, folder)
    if not found:
        raise InputError("not_found", "The account has no such group.", "group")
    if len(found) > 1:
        raise InputError("ambiguous", "Several folders have a group of this name; name the folder, too.", "folder")
    group_id: int = found[0]["group_id"]
    return group_id


async def batch_named(connection: Any, group_id: int, batch: str) -> int | None:
    """The id of a group's batch; None if there is none."""
    batch_id: int | None = await connection.fetchval(load("importing")["batch_named"], group_id, batch)
    return batch_id
