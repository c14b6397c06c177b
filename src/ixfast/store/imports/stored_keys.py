"""Reads the stored keys that an import needs: those of tags, and those of deleted tags."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ixfast.keys import KeyEncryptionKeys, KeySlot
from ixfast.store.imports.import_plan import KeyVersion, names_of
from ixfast.store.queries import load
from ixfast.tag_files import TagRow


async def keys_of(connection: Any, keks: KeyEncryptionKeys, ids: Sequence[int], slot: KeySlot) -> dict[int, list[KeyVersion]]:
    """The stored versions of the keys of tags in this slot, newest first, by tag id."""
    if not ids:
        return {}
    rows = await connection.fetch(load("importing")["keys"], ids, slot)
    await keks.look_for({row["kek_id"] for row in rows})
    return {
        tag_id: [KeyVersion(r["version"], r["live"], r["kek_id"], r["wrapped"], r["check_value"]) for r in versions]
        for tag_id, versions in groupby(rows, key=lambda row: row["tag_id"])
    }


async def read_masters(connection: Any, account_id: int) -> dict[int, dict[bytes, int]]:
    """Versions of the masters of the account's groups that derive keys, by group and identity."""
    found: dict[int, dict[bytes, int]] = {}
    for row in await connection.fetch(load("importing")["masters"], account_id):
        masters = found.setdefault(row["group_id"], {})
        if row["version"] is not None:
            masters[row["identity"]] = row["version"]
    return found


async def deleted_before(
    connection: Any, account_id: int, fresh: Sequence[TagRow], returning: Sequence[tuple[TagRow, Any]]
) -> dict[str | bytes, list[Any]]:
    """Rows of `deleted_tag` by tag code and UID, as far as they may match a new tag, or a stored one (`find_tags`) that gets a
    key or its UID."""
    codes, uids, _ = names_of(fresh)
    codes += [stored["xuid"] for _, stored in returning]
    uids += [uid for row, stored in returning if (uid := stored["uid"] or row.uid) is not None]
    found: dict[str | bytes, list[Any]] = {}
    for row in await connection.fetch(load("management")["deleted_before"], account_id, uids, codes):
        for name in {row["uid"], row["xuid"]} - {None}:
            found.setdefault(name, []).append(row)
    return found
