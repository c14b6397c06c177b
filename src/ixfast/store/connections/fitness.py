"""Periodic self-checks of a worker, so that readiness fails before a scan does.

Each check writes what a pass would write and rolls it back, which detects a missing or detached partition, a read-only
database and a full disk. It also opens a few envelopes, which detects a key file that belongs to another database, and one that
lacks a key under which this database is being resealed.
`problems` holds the failures of the last check, under the names that readiness uses.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from ixfast import limits
from ixfast.keys import KeyEncryptionKeys, KeySlot, KeyUnavailableError, unwrap
from ixfast.store.connections.session import pooled_connection
from ixfast.store.db_errors import DbErrorKind, db_error_kind, reason_of
from ixfast.store.queries import load

log = logging.getLogger("ixfast.fitness")

TRY_S = 5.0
TRY_AGAIN_S = 1.0
"""The interval while a check fails."""
_PAUSES = 9  # The pause in multiples of the last check's duration, which costs the database as much as a thousand scans.
_PAUSE_S_MAX = 10.0
_ENVELOPES = 4
_WRITES = ("try_log", "try_keyed", "empty_disk_probe", "fill_disk_probe")


class Refusable(Protocol):
    """The part of the ledger that the checks use: its current problem, and a hint that refused writes may succeed again."""

    @property
    def failure(self) -> str | None: ...
    def forget_refusal(self) -> None: ...


class Fitness:
    """`run` checks every few seconds."""

    def __init__(self, pool: Any, keks: KeyEncryptionKeys, ledger: Refusable) -> None:
        self._pool = pool
        self._keks = keks
        self._ledger = ledger
        self._sql = load("fitness")
        self.problems: dict[str, str] = {}
        self._lacking: frozenset[str] = frozenset()  # keys of envelopes that the key file lacked at the last check
        self.lacks_partition = asyncio.Event()
        """Set when the current partition is missing."""

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            began = asyncio.get_running_loop().time()
            await self.examine()
            spent_s = asyncio.get_running_loop().time() - began
            again_s = TRY_AGAIN_S if self.problems or self._ledger.failure is not None else TRY_S
            if self._ledger.failure is None:  # a slow database that commits must not be slowed down further
                again_s = max(again_s, min(spent_s * _PAUSES, _PAUSE_S_MAX))
            await asyncio.sleep(again_s)

    async def examine(self) -> None:
        """Run all checks once and update `problems`. Never raises."""
        problems = {}
        try:
            async with pooled_connection(self._pool, limits.STATEMENT_TIMEOUT_MS / 1000 * 2) as connection:
                await self._write(connection)
                self._ledger.forget_refusal()
                if not await self._opens_envelopes(connection):
                    problems["keys"] = "key_unavailable"
        except Exception as error:  # of any type; readiness reports the reason
            problems["database"] = reason_of(error)
            if db_error_kind(error) is DbErrorKind.NO_PARTITION:
                self.lacks_partition.set()
        if problems != self.problems:
            for name, reason in problems.items():
                log.error("not ready: %s: %s", name, reason)
            for name in self.problems.keys() - problems.keys():
                log.error("ready again: %s", name)
        self.problems = problems

    async def _write(self, connection: Any) -> None:
        transaction = connection.transaction()
        await transaction.start()
        try:
            for name in _WRITES:
                await connection.execute(self._sql[name])
        finally:
            if not connection.is_closed():
                await transaction.rollback()

    async def _opens_envelopes(self, connection: Any) -> bool:
        """Whether the key file has the keys of a few envelopes and opens at least one of them; True if there are none.

        One key that its provider does not open, or one altered envelope, is a matter of single tags, on every host; a key that
        is not in the file is this host's matter. A rotation reseals the oldest envelopes first, and the newest are written by
        other hosts, so these few show a lacking key as soon as it is used.
        """
        rows = await connection.fetch(self._sql["envelopes"], _ENVELOPES)
        sealed = {row["kek_id"] for row in rows}
        await self._keks.look_for(sealed)
        lacking = frozenset(sealed.difference(self._keks.order) if self._keks.order else ())
        if lacking and lacking != self._lacking:
            log.error("envelopes are sealed under %s, which the key file lacks: copy the file here", ", ".join(sorted(lacking)))
        self._lacking = lacking
        return not rows or (not lacking and any(self._opens(row) for row in rows))

    def _opens(self, row: Any) -> bool:
        try:
            unwrap(
                self._keks.by_id(row["kek_id"]),
                row["wrapped"],
                account_id=row["account_id"],
                tag_id=row["tag_id"],
                slot=KeySlot(row["slot"]),
                version=row["version"],
            )
        except KeyUnavailableError:
            return False
        return True
