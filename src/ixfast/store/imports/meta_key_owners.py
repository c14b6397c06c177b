"""Decides who owns the meta keys of a file: the account, the batch, or each tag.

An account can have few meta keys, because a mirror shows its tag only once it is decrypted: each key is tried. If all meta keys
of the file fit, they become the account's, and taps need not name their tag. If they do not, every tag gets the key of its line.
It is then tried on taps that name the tag, and on no others. The decision is for the whole file, whatever the order of its lines:
until it is known, what the lines have is remembered.

Memory: ten bytes per line with a meta key that is new, for as long as they fit.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from ixfast.keys import KeySlot, check_value, unwrap, wrap_all
from ixfast.limits import KEY_VERSIONS_MAX, META_KEYS_MAX
from ixfast.store.admin import edits
from ixfast.store.connections.lost import unless_lost
from ixfast.store.imports.copy_rows import copy_rows
from ixfast.store.imports.import_plan import FIRST_VERSION, KEY_COLUMNS, Context
from ixfast.store.queries import load
from ixfast.tag_files import Problems, TagRow

META_KEY_OWNERS = ("auto", "account", "batch", "tag")
"""Possible owners of the meta keys in a file. `auto` is the account if they fit, else the batch if they fit there and the URL
names it, else each tag."""

_ROWS = 4000

OwnKey = tuple[int, int, bytes]
"""Tag id, version and key (16 bytes)."""


class MetaKeys:
    """The meta keys of one file. `place` is called with all lines, `take` with what is written, `finish` at the end."""

    def __init__(
        self,
        connection: Any,
        context: Context,
        owner: str,
        problems: Problems,
        in_thread: Callable[..., Awaitable[Any]],
        *,
        retire_old_keys: bool,
    ) -> None:
        self._connection = connection
        self._context = context
        self._owner = owner
        self._problems = problems
        self._in_thread = in_thread
        self._retire_old_keys = retire_old_keys
        self._held: set[bytes] | None = None  # what the possible owners have already; None before the first line with a meta key
        self._capacities: dict[str, tuple[int, int]] = {}  # by owner, the next version and how many more keys it can have
        self._new: dict[bytes, int] = {}  # new keys with their place among them
        self._ids, self._versions, self._places = array("q"), array("B"), array("B")  # the lines that have them
        self.added = dict.fromkeys(META_KEY_OWNERS[1:], 0)
        """How many keys each owner got."""

    async def place(self, rows: Iterable[TagRow]) -> None:
        """Remove meta keys that the account or the batch has already from lines, and report those that cannot be added."""
        if self._owner == "tag":
            return
        for row in rows:
            if row.meta_key is None:
                continue
            if self._held is None:
                self._held = await self._load()
            if row.meta_key in self._held:
                row.meta_key = None
            elif self._owner != "auto" and row.meta_key not in self._new:
                if len(self._new) >= self._capacities[self._owner][1]:
                    self._problems.add(row.line, "META_KEY", "meta_keys_full")
                else:
                    self._new[row.meta_key] = len(self._new)

    async def take(self, keys: Sequence[OwnKey]) -> None:
        """Take the meta keys of the lines that have just been written."""
        if self._owner == "tag":
            await self._write(keys)
        elif self._owner == "auto" and keys:
            places = [self._new.setdefault(key, len(self._new)) for _, _, key in keys]
            if len(self._new) <= max(capacity for _, capacity in self._capacities.values()):
                self._ids.extend(tag_id for tag_id, _, _ in keys)
                self._versions.extend(version for _, version, _ in keys)
                self._places.extend(places)
            else:
                self._owner = "tag"
                for start in range(0, len(self._ids), _ROWS):
                    await self._write(self._remembered(start, start + _ROWS))
                await self._write(keys)

    async def finish(self) -> None:
        """Store the keys of the account or the batch."""
        if self._owner == "tag" or not self._new:
            return
        owner = self._owner
        if owner == "auto":
            owner = "account" if len(self._new) <= self._capacities["account"][1] else "batch"
        context, version = self._context, self._capacities[owner][0]
        for key16 in self._new:
            if owner == "account":
                await edits.add_meta_key(self._connection, context.keks, context.account_id, version, key16)
            else:
                assert context.batch_id is not None
                await edits.store_batch_key(self._connection, context.keks, context.account_id, context.batch_id, version, key16)
            version += 1
        self.added[owner] = len(self._new)

    def _remembered(self, start: int, end: int) -> list[OwnKey]:
        keys = list(self._new)
        columns = zip(self._ids[start:end], self._versions[start:end], self._places[start:end], strict=True)
        return [(tag_id, version, keys[place]) for tag_id, version, place in columns]

    async def _write(self, keys: Sequence[OwnKey]) -> None:
        """Store the keys of tags."""
        if not keys:
            return
        data = await self._in_thread(_copy_data, self._context, keys)
        connection = self._connection

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        await unless_lost(
            connection,
            lambda: connection.copy_to_table("tag_key", source=pieces(), columns=tuple(KEY_COLUMNS), format="binary"),
        )
        self.added["tag"] += len(keys)
        replaced = [tag_id for tag_id, version, _ in keys if version > FIRST_VERSION]
        if replaced and self._retire_old_keys:
            await connection.execute(load("importing")["retire_keys"], replaced, KeySlot.META)

    async def _load(self) -> set[bytes]:
        """Lock the possible owners and read the meta keys that they have."""
        sql, context = load("management"), self._context
        await self._connection.fetchval(sql["lock_account"], context.account_id)
        held: set[bytes] = set()
        if self._owner != "batch":
            rows = await self._connection.fetch(load("importing")["meta_keys"], context.account_id)
            live = await self._connection.fetchval(sql["meta_keys_in_use"], context.account_id)
            held |= await self._take_stock("account", rows, live, KeySlot.META, 0)
        if self._owner == "batch" or (self._owner == "auto" and context.batch_is_named):
            assert context.batch_id is not None
            rows = await self._connection.fetch(load("importing")["batch_keys"], context.batch_id)
            held |= await self._take_stock("batch", rows, None, KeySlot.BATCH, context.batch_id)
        return held

    async def _take_stock(self, owner: str, rows: Sequence[Any], live: int | None, slot: KeySlot, own_id: int) -> set[bytes]:
        """The live keys of an owner; how many more it can have is noted. Derived meta keys count, too."""
        keks, account_id = self._context.keks, self._context.account_id
        await keks.look_for({row["kek_id"] for row in rows})
        last = max((row["version"] for row in rows), default=FIRST_VERSION - 1)
        held = {
            unwrap(
                keks.by_id(row["kek_id"]),
                row["wrapped"],
                account_id=account_id,
                tag_id=own_id,
                slot=slot,
                version=row["version"],
            )
            for row in rows
            if row["live"]
        }
        capacity = min(META_KEYS_MAX - (live if live is not None else len(held)), KEY_VERSIONS_MAX - last)
        self._capacities[owner] = (last + 1, max(capacity, 0))
        return held


def _copy_data(context: Context, keys: Sequence[OwnKey]) -> bytes:
    """Rows of `tag_key` as the data of a COPY."""
    kek, slot = context.keks.current, int(KeySlot.META)
    wrapped = wrap_all(kek, keys, account_id=context.account_id, slot=slot)
    rows = [
        (tag_id, slot, version, kek.id, envelope, check_value(key16))
        for (tag_id, version, key16), envelope in zip(keys, wrapped, strict=True)
    ]
    return copy_rows((), tuple(KEY_COLUMNS.values()), rows)
