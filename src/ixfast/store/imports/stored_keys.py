"""What an import asks of stored keys: versions of tags' keys, keys of deleted tags, and the account's meta keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ixfast.keys import KeyEncryptionKeys, KeySlot, unwrap
from ixfast.limits import KEY_VERSIONS_MAX, META_KEYS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports.import_plan import KeyVersion, names_of
from ixfast.store.queries import load
from ixfast.tag_files import TagRow


async def keys_of(connection: Any, keks: KeyEncryptionKeys, ids: Sequence[int]) -> dict[int, list[KeyVersion]]:
    """Versions of the stored keys of tags, newest first, by tag id."""
    if not ids:
        return {}
    rows = await connection.fetch(load("importing")["keys"], ids, KeySlot.FILE)
    await keks.look_for({row["kek_id"] for row in rows})
    return {
        tag_id: [KeyVersion(r["version"], r["live"], r["kek_id"], r["wrapped"], r["check_value"]) for r in versions]
        for tag_id, versions in groupby(rows, key=lambda row: row["tag_id"])
    }


async def deleted_before(connection: Any, account_id: int, fresh: Sequence[TagRow]) -> dict[str | bytes, list[Any]]:
    """Rows of deleted tags of the account that new ones may be, by tag code and UID."""
    if not fresh or not await connection.fetchval(load("importing")["any_deleted"], account_id):
        return {}
    codes, uids, _ = names_of(fresh)
    found: dict[str | bytes, list[Any]] = {}
    for row in await connection.fetch(load("management")["deleted_before"], account_id, uids, codes):
        for name in {row["uid"], row["xuid"]} - {None}:
            found.setdefault(name, []).append(row)
    return found


class MetaKeys:
    """The account's live meta keys, read and held when a line has one. A file names few, each many times. Those that groups
    derive are counted, too."""

    def __init__(self, connection: Any, keks: KeyEncryptionKeys, account_id: int) -> None:
        self._connection = connection
        self._keks = keks
        self._account_id = account_id
        self._known: set[bytes] | None = None
        self._version = 0
        self._live = 0

    @property
    def full(self) -> bool:
        """Whether no other can be added."""
        return self._live >= META_KEYS_MAX or self._version >= KEY_VERSIONS_MAX

    async def has(self, key16: bytes) -> bool:
        if self._known is None:
            self._known = await self._load()
        return key16 in self._known

    async def add(self, key16: bytes) -> None:
        """Add one that the account does not have."""
        assert self._known is not None
        self._version += 1
        self._live += 1
        await edits.add_meta_key(self._connection, self._keks, self._account_id, self._version, key16)
        self._known.add(key16)

    async def _load(self) -> set[bytes]:
        sql = load("management")
        await self._connection.fetchval(sql["hold_account"], self._account_id)
        rows = await self._connection.fetch(load("importing")["meta_keys"], self._account_id)
        await self._keks.look_for({row["kek_id"] for row in rows})
        live = [row for row in rows if row["live"]]
        self._version = max((row["version"] for row in rows), default=0)
        self._live = await self._connection.fetchval(sql["meta_keys_in_use"], self._account_id)
        return {self._opened(row) for row in live}

    def _opened(self, row: Any) -> bytes:
        kek, version = self._keks.by_id(row["kek_id"]), row["version"]
        return unwrap(kek, row["wrapped"], account_id=self._account_id, tag_id=0, slot=KeySlot.META, version=version)
