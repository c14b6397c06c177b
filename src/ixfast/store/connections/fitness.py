"""Whether scans could be answered if they came: what a worker tries by itself, so that it says no before a scan finds out.

It writes what a pass writes and rolls that back, which finds a missing or detached partition, a database that is read-only,
and a disk without room; and it opens a few envelopes, which finds a key file that belongs to another database. `problems` says
what was wrong at the last try, under the names that readiness uses.
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
"""While something is wrong."""
_PAUSES = 9  # Pauses as long as the last attempt, which costs a database as much as a thousand scans.
_PAUSE_S_MAX = 10.0
_ENVELOPES = 4
_WRITES = ("try_log", "try_keyed", "empty_room", "try_room")


class Refusable(Protocol):
    """The ledger, as far as it may be told that what the database refused is worth another try."""

    @property
    def trouble(self) -> str | None: ...
    def forget_refusal(self) -> None: ...


class Fitness:
    """`keep` tries every few seconds."""

    def __init__(self, pool: Any, keks: KeyEncryptionKeys, ledger: Refusable) -> None:
        self._pool = pool
        self._keks = keks
        self._ledger = ledger
        self._sql = load("fitness")
        self.problems: dict[str, str] = {}
        self.lacks_partition = asyncio.Event()
        """Set when the partition for the present moment was found missing."""

    async def keep(self) -> None:
        while True:
            began = asyncio.get_running_loop().time()
            await self.examine()
            spent_s = asyncio.get_running_loop().time() - began
            again_s = TRY_AGAIN_S if self.problems or self._ledger.trouble is not None else TRY_S
            if self._ledger.trouble is None:  # what is slow commits, and is not to be kept from it
                again_s = max(again_s, min(spent_s * _PAUSES, _PAUSE_S_MAX))
            await asyncio.sleep(again_s)

    async def examine(self) -> None:
        """Try everything once. Raises nothing."""
        problems = {}
        try:
            async with pooled_connection(self._pool, limits.STATEMENT_TIMEOUT_MS / 1000 * 2) as connection:
                await self._write(connection)
                self._ledger.forget_refusal()
                if not await self._opens_any(connection):
                    problems["keys"] = "key_unavailable"
        except Exception as error:  # of every kind; readiness says what
            problems["database"] = reason_of(error)
            if db_error_kind(error) is DbErrorKind.NO_PARTITION:
                self.lacks_partition.set()
        if problems != self.problems:
            for name, reason in problems.items():
                log.error("not ready: %s: %s", name, reason)
            if self.problems and not problems:
                log.info("ready again")
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

    async def _opens_any(self, connection: Any) -> bool:
        """Do the keys open one of a few envelopes? True if there are none."""
        rows = await connection.fetch(self._sql["envelopes"], _ENVELOPES)
        await self._keks.look_for({row["kek_id"] for row in rows})
        return not rows or any(self._opens(row) for row in rows)

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
