"""Rotates the key-encryption key: opens every envelope and reseals it under the current key.

Rows are processed in small batches in primary key order. Their `kek_id` alone determines which rows remain, so an interrupted
rotation resumes where it stopped, and rows that an import adds meanwhile are found by another pass. A batch is a single
statement; it replaces only envelopes that are unchanged since they were read, and holds its row locks only briefly, while
no scan waits for them. The keys of the tags stay the same, so no worker has to drop its caches.

An envelope that cannot be opened in its row, or whose key does not match its check value, is reported and left unchanged.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg

from ixfast.keys import KekFileError, KeyEncryptionKeys, KeySlot, KeyUnavailableError, check_value, unwrap, wrap
from ixfast.store.queries import load

BATCH_ROWS = 500  # About 20 ms of one core, half of it the database's.
LOCK_WAIT_MS_MAX = 10_000  # How long a removal waits for writers of keys, and new writers queue behind it.
UNREADABLE_SHOWN_MAX = 1000
Advanced = Callable[[int], None]
"""Called with the number of envelopes opened in each batch."""

_TABLES = ("tag_keys", "meta_keys", "batch_keys", "group_keys")
_BEFORE_ALL = (-(1 << 63), 0, 0)


class RotationError(KekFileError):
    """A rotation or the removal of a key is not possible now; the message says why."""


class Usage(NamedTuple):
    """Numbers of rows sealed under one key-encryption key. `meta_keys` are those of accounts and batches; `retired` counts those
    of all kinds whose version is retired, which nothing opens any more."""

    tag_keys: int
    meta_keys: int
    group_keys: int = 0
    retired: int = 0

    @property
    def rows(self) -> int:
        return self.tag_keys + self.meta_keys + self.group_keys

    @property
    def live(self) -> int:
        """The rows that scans need."""
        return self.rows - self.retired


class UnreadableEnvelope(NamedTuple):
    """An envelope that was left unchanged. `tag_id` is 0 for a meta key of an account, the batch's id for one of a
    batch, and the group's id for a master."""

    account_id: int | None
    tag_id: int
    slot: int
    version: int
    reason: str

    def __str__(self) -> str:
        owner = f"tag {self.tag_id}" if self.tag_id else f"meta key of account {self.account_id}"
        if self.slot == KeySlot.MASTER:
            owner = f"master of group {self.tag_id}"
        elif self.slot == KeySlot.BATCH:
            owner = f"meta key of batch {self.tag_id}"
        return f"{owner}, slot {self.slot}, version {self.version}: {self.reason}"


class Report:
    """What was done. `unreadable` has the first `UNREADABLE_SHOWN_MAX` envelopes of live versions that do not open,
    `unreadable_count` counts all of these, and `unreadable_retired` those of retired versions, which nothing needs."""

    def __init__(self) -> None:
        self.opened = 0
        self.resealed = 0
        self.unreadable: list[UnreadableEnvelope] = []
        self.unreadable_count = 0
        self.unreadable_retired = 0

    def add(self, other: Report) -> None:
        """Add the numbers of another report."""
        self.opened += other.opened
        self.resealed += other.resealed
        self.unreadable += other.unreadable[: UNREADABLE_SHOWN_MAX - len(self.unreadable)]
        self.unreadable_count += other.unreadable_count
        self.unreadable_retired += other.unreadable_retired


async def usage(connection: Any) -> dict[str, Usage]:
    """The number of rows under each key-encryption key."""
    rows = await connection.fetch(load("rotation")["usage"])
    return {row["kek_id"]: Usage(row["tag_keys"], row["meta_keys"], row["group_keys"], row["retired"]) for row in rows}


async def lock_rotation(connection: Any) -> None:
    """Keep other rotations of this database from starting until the connection is closed. Raises RotationError if one is
    running."""
    if not await connection.fetchval(load("rotation")["try_lock"]):
        raise RotationError("Another `ixfast keys rotate` is running on this database; wait until it has finished.")


async def examine_all(connection: Any, keks: KeyEncryptionKeys, *, advanced: Advanced) -> Report:
    """Open every envelope, including those of the current key, and change nothing."""
    report = Report()
    for table in _TABLES:
        report.add(await _walk(connection, table, keks, advanced, left_out="", replace=False))
    return report


async def reseal_all(connection: Any, keks: KeyEncryptionKeys, *, advanced: Advanced, batch_rows: int = BATCH_ROWS) -> Report:
    """Reseal all envelopes under the current key."""
    report = Report()
    for table in _TABLES:
        while True:
            walked = await _walk(connection, table, keks, advanced, left_out=keks.current.id, batch_rows=batch_rows)
            if not walked.opened:  # only unreadable envelopes are left
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
    """Read a table once, except the rows sealed under the key `left_out`."""
    sql, report = load("rotation"), Report()
    last = _BEFORE_ALL
    while rows := await connection.fetch(sql[table], left_out, *last, batch_rows):
        last = (rows[-1]["id"], rows[-1]["slot"], rows[-1]["version"])
        successors = []
        for row in rows:
            try:
                successors.append((row, _resealed(row, keks)))
            except KeyUnavailableError as error:
                _add_unreadable(report, row, str(error))
        if replace and successors:
            columns = [[row[name] for row, _ in successors] for name in ("id", "slot", "version", "wrapped")]
            envelopes = [envelope for _, envelope in successors]
            report.resealed += len(await connection.fetch(sql[f"replace_{table}"], keks.current.id, *columns, envelopes))
        report.opened += len(successors)
        advanced(len(successors))
    return report


def _resealed(row: Any, keks: KeyEncryptionKeys) -> bytes:
    """The key of a row in an envelope under the current key. Raises KeyUnavailableError if the row's envelope cannot be opened
    or is inconsistent."""
    if row["account_id"] is None:
        raise KeyUnavailableError("the tag does not exist")
    owner = {"account_id": row["account_id"], "tag_id": row["tag_id"], "slot": row["slot"], "version": row["version"]}
    key16 = unwrap(keks.by_id(row["kek_id"]), row["wrapped"], **owner)
    if not hmac.compare_digest(check_value(key16), row["check_value"]):
        raise KeyUnavailableError("the key in the envelope does not match its check value")
    envelope = wrap(keks.current, key16, **owner)
    if not hmac.compare_digest(unwrap(keks.current, envelope, **owner), key16):
        raise KeyUnavailableError("the new envelope does not contain the key that was sealed")
    return envelope


def _add_unreadable(report: Report, row: Any, reason: str) -> None:
    if not row["live"]:
        report.unreadable_retired += 1
        return
    report.unreadable_count += 1
    if len(report.unreadable) < UNREADABLE_SHOWN_MAX:
        report.unreadable.append(UnreadableEnvelope(row["account_id"], row["tag_id"], row["slot"], row["version"], reason))


async def while_unused(connection: Any, kek_id: str, act: Callable[[], None]) -> None:
    """Call `act` while no row of a live version is sealed under this key, and none can be written. Raises RotationError if there
    is one."""
    sql = load("rotation")
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS_MAX}")
        try:
            await connection.execute(sql["lock_key_tables"])
        except asyncpg.LockNotAvailableError:
            raise RotationError("Keys are being written, perhaps by an import; try again when that has finished.") from None
        used = (await usage(connection)).get(kek_id, Usage(0, 0)).live
        if used:
            raise RotationError(f"{used} rows are sealed under {kek_id}; run `ixfast keys rotate` until none are left.")
        act()
