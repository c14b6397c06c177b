"""Rotation of the key-encryption key: every envelope opened, and sealed again under the current key.

Rows are taken in small batches in the order of the primary key. Which rows are left is said by their `kek_id` alone, so a
rotation that was killed goes on where it was, and rows that an import adds meanwhile are found by another pass. A batch is
one statement of its own; it replaces only what is still as it was read, holds its row locks for a moment, and no scan waits
for those. The tags' keys stay what they are, so nothing has to be forgotten by any worker.

An envelope that does not open in its place, or holds another key than its check value says, is left as it is and told.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import ConfigurationError
from ixfast.keys import KekFileError, KeyEncryptionKeys, KeySlot, KeyUnavailableError, check_value, unwrap, wrap
from ixfast.store.queries import load

BATCH_ROWS = 500  # Some 20 ms of one core, half of it the database's.
HOLD_MS_MAX = 10_000  # Writers of keys queue behind a removal for so long.
SPOILT_SHOWN_MAX = 1000
Advanced = Callable[[int], None]

_TABLES = ("tag_keys", "meta_keys", "group_keys")
_BEFORE_ALL = (-(1 << 63), 0, 0)


class Usage(NamedTuple):
    """Rows sealed under one key-encryption key."""

    tag_keys: int
    meta_keys: int
    group_keys: int = 0

    @property
    def rows(self) -> int:
        return sum(self)


class Spoilt(NamedTuple):
    """An envelope that was left as it is. `tag_id` is 0 for a meta key of the account, and a group's id for a master of it."""

    account_id: int | None
    tag_id: int
    slot: int
    version: int
    reason: str

    def __str__(self) -> str:
        owner = f"tag {self.tag_id}" if self.tag_id else f"meta key of account {self.account_id}"
        if self.slot == KeySlot.MASTER:
            owner = f"master of group {self.tag_id}"
        return f"{owner}, slot {self.slot}, version {self.version}: {self.reason}"


class Report:
    """What was done. `spoilt` has the first `SPOILT_SHOWN_MAX`, `spoilt_count` counts all."""

    def __init__(self) -> None:
        self.opened = 0
        self.resealed = 0
        self.spoilt: list[Spoilt] = []
        self.spoilt_count = 0

    def add(self, other: Report) -> None:
        self.opened += other.opened
        self.resealed += other.resealed
        self.spoilt += other.spoilt[: SPOILT_SHOWN_MAX - len(self.spoilt)]
        self.spoilt_count += other.spoilt_count


async def usage(connection: Any) -> dict[str, Usage]:
    """How many rows there are under each key-encryption key."""
    rows = await connection.fetch(load("rotation")["usage"])
    return {row["kek_id"]: Usage(row["tag_keys"], row["meta_keys"], row["group_keys"]) for row in rows}


async def be_only_one(connection: Any) -> None:
    """`ConfigurationError` when another rotation of this database runs; none begins until the connection ends."""
    if not await connection.fetchval(load("rotation")["only_one"]):
        raise ConfigurationError("Another `ixfast keys rotate` works on this database; wait for it to end.")


async def other_hosts(connection: Any) -> list[str]:
    """Addresses of servers that have key files of their own."""
    return [row["address"] for row in await connection.fetch(load("rotation")["other_hosts"])]


async def examine_all(connection: Any, keks: KeyEncryptionKeys, *, advanced: Advanced) -> Report:
    """Open every envelope, those of the current key too, and change nothing."""
    report = Report()
    for table in _TABLES:
        report.add(await _walk(connection, table, keks, advanced, left_out="", replace=False))
    return report


async def reseal_all(connection: Any, keks: KeyEncryptionKeys, *, advanced: Advanced, batch_rows: int = BATCH_ROWS) -> Report:
    """Seal everything under the current key. `advanced` is told how many envelopes of a batch were opened."""
    report = Report()
    for table in _TABLES:
        while True:
            walked = await _walk(connection, table, keks, advanced, left_out=keks.current.id, batch_rows=batch_rows)
            if not walked.opened:  # nothing is left that could be replaced; what is left is spoilt
                break
            report.resealed += walked.resealed
            report.opened += walked.opened
        report.add(walked)
    return report


async def _walk(
    connection: Any,
    table: str,
    keks: KeyEncryptionKeys,
    advanced: Advanced,
    *,
    left_out: str,
    replace: bool = True,
    batch_rows: int = BATCH_ROWS,
) -> Report:
    """Walk over a table once, leaving out the rows of one key."""
    sql, report = load("rotation"), Report()
    place = _BEFORE_ALL
    while rows := await connection.fetch(sql[table], left_out, *place, batch_rows):
        place = (rows[-1]["id"], rows[-1]["slot"], rows[-1]["version"])
        successors = []
        for row in rows:
            try:
                successors.append((row, _resealed(row, keks)))
            except KeyUnavailableError as error:
                _note(report, row, str(error))
        if replace and successors:
            columns = [[row[name] for row, _ in successors] for name in ("id", "slot", "version", "wrapped")]
            envelopes = [envelope for _, envelope in successors]
            report.resealed += len(await connection.fetch(sql[f"replace_{table}"], keks.current.id, *columns, envelopes))
        report.opened += len(successors)
        advanced(len(successors))
    return report


def _resealed(row: Any, keks: KeyEncryptionKeys) -> bytes:
    """The envelope under the current key. Raises `KeyUnavailableError` if the one in the row is not to be believed."""
    if row["account_id"] is None:
        raise KeyUnavailableError("there is no such tag")
    place = {"account_id": row["account_id"], "tag_id": row["tag_id"], "slot": row["slot"], "version": row["version"]}
    key16 = unwrap(keks.by_id(row["kek_id"]), row["wrapped"], **place)
    if not hmac.compare_digest(check_value(key16), row["check_value"]):
        raise KeyUnavailableError("the envelope holds another key than its check value says")
    envelope = wrap(keks.current, key16, **place)
    if not hmac.compare_digest(unwrap(keks.current, envelope, **place), key16):
        raise KeyUnavailableError("the new envelope does not hold the key that was put in")
    return envelope


def _note(report: Report, row: Any, reason: str) -> None:
    report.spoilt_count += 1
    if len(report.spoilt) < SPOILT_SHOWN_MAX:
        report.spoilt.append(Spoilt(row["account_id"], row["tag_id"], row["slot"], row["version"], reason))


async def while_unused(connection: Any, kek_id: str, act: Callable[[], None]) -> None:
    """Do `act` while no row is sealed under this key and none can be written. `KekFileError` when one is."""
    sql = load("rotation")
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {HOLD_MS_MAX}")
        try:
            await connection.execute(sql["hold_keys"])
        except asyncpg.LockNotAvailableError:
            raise KekFileError("Keys are being written now, perhaps by an import; try again when it has ended.") from None
        used = (await usage(connection)).get(kek_id, Usage(0, 0)).rows
        if used:
            raise KekFileError(f"{used} rows are sealed under {kek_id}; run `ixfast keys rotate` until there is none.")
        act()
