"""Reads the stored keys that an import needs: keys of tags, of deleted tags, and the meta keys of the account."""

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
    """The stored key versions of tags, newest first, by tag id."""
    if not ids:
        return {}
    rows = await connection.fetch(load("importing")["keys"], ids, KeySlot.FILE)
    await keks.look_for({row["kek_id"] for row in rows})
    return {
        tag_id: [KeyVersion(r["version"], r["live"], r["kek_id"], r["wrapped"], r["check_value"]) for r in versions]
        for tag_id, versions in groupby(rows, key=lambda row: row["tag_id"])
    }


async def deleted_before(connection: Any, account_id: int, fresh: Sequence[TagRow]) -> dict[str | bytes, list[Any]]:
    """Rows of `deleted_tag` that new tags may match, by tag code and UID."""
    if not fresh or not await connection.fetchval(load("importing")["any_deleted"], account_id):
        return {}
    codes, uids, _ = names_of(fresh)
    found: dict[str | bytes, list[Any]] = {}
    for row in await connection.fetch(load("management")["deleted_before"], account_id, uids, codes):
        for name in {row["uid"], row["xuid"]} - {None}:
            found.setdefault(name, []).append(row)
    return found


class MetaKeys:
    """The live meta keys of the account, read and locked at the first line that has one.

    A file usually contains few meta keys, each many times. Derived meta keys count towards the limit, too.
    """

    def __init__(self, connection: Any, keks: KeyEncryptionKeys, account_id: int) -> None:
        self._connection = connection
        self._keks = keks
        self._account_id = account_id
        self._known: set[bytes] | None = None
        self._version = 0
        self._live = 0

    @property
    def full(self) -> bool:
        """Whether no further meta key can be added."""
        return self._live >= META_KEYS_MAX or self._version >= KEY_VERSIONS_MAX

    async def has(self, key16: bytes) -> bool:
        """Whether the account has this meta key (16 bytes)."""
        if self._known is None:
            self._known = await self._load()
        return key16 in self._known

    async def add(self, key16: bytes) -> None:
        """Add a meta key (16 bytes) that the account does not have."""
        assert self._known is not None
        self._version += 1
        self._live += 1
        await edits.add_meta_key(self._connection, self._keks, self._account_id, self._version, key16)
        self._known.add(key16)

    async def _load(self) -> set[bytes]:
        sql = load("management")
        await self._connection.fetchval(sql["lock_account"], self._account_id)
        rows = await self._connection.fetch(load("importing")["meta_keys"], self._account_id)
        await self._keks.look_for({row["kek_id"] for row in rows})
        live = [row for row in rows if row["live"]]
        self._version = max((row["version"] for row in rows), default=0)
        self._live = await self._connection.fetchval(sql["meta_keys_in_use"], self._account_id)
        return {self._opened(row) for row in live}

    def _opened(self, row: Any) -> bytes:
        kek, version = self._keks.by_id(row["kek_id"]), row["version"]
        return unwrap(kek, row["wrapped"], account_id=self._account_id, tag_id=0, slot=KeySlot.META, version=version)
