"""The log of refusals: rows of the scan log for scans that consumed nothing.

Passes are logged by the ledger's statement, in the commit that raises the counter. Refusals are logged here, on a best-effort
basis: rows are collected and written by one statement at a time, and nothing ever waits for it. When the database is slow,
rows are written less often and in larger groups; beyond a bound they are dropped and counted
(`ixfast_refusal_log_dropped_total`).
"""

from __future__ import annotations

import asyncio
import logging

from ixfast import limits, meters
from ixfast.domain.scan import Scan
from ixfast.store.db_errors import db_error_kind
from ixfast.store.ledger.ledger_database import LedgerDatabase, Refusal
from ixfast.store.verdict_letters import LETTERS, PASS_LETTERS

log = logging.getLogger("ixfast.ledger")

_INTERVAL_S = 0.25
_PAUSES = 9  # The pause after a write is this many times as long as the write: scans that may pass take precedence.
_WRITE_TIMEOUT_S = 10.0  # Nothing waits for the write, and giving up costs the database more than finishing.
_LETTERS = {verdict: letter for verdict, letter in LETTERS.items() if letter not in PASS_LETTERS}


class RefusalLog:
    """Collects refusals and writes them in the background."""

    def __init__(self, database: LedgerDatabase, gauges: meters.Meters) -> None:
        self._database = database
        self._slots = gauges.slots
        self._loop = asyncio.get_running_loop()
        self._rows: list[Refusal] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._write_s = 0.0  # duration of the last write

    def add(self, scan: Scan) -> None:
        """Queue a row for a decided scan that consumed nothing. Passes and scans without a tag are ignored."""
        letter = _LETTERS.get(scan.verdict) if scan.verdict is not None else None
        record = scan.record
        if letter is None or record is None:
            return
        slow = self._write_s > limits.REFUSAL_SLOW_S
        if len(self._rows) >= (limits.REFUSAL_ROWS_SLOW_MAX if slow else limits.REFUSAL_QUEUE_ROWS_MAX):
            self._slots[meters.REFUSALS_DROPPED] += 1
            return
        self._rows.append((scan.scan_id, record.tag_id, scan.position, letter))
        if self._timer is None and self._writer is None:
            self._schedule()

    async def stop(self) -> None:
        """Write what is queued, unless a write is already under way; that one is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            await self._write()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(max(_INTERVAL_S, self._write_s * _PAUSES), self._start)

    def _start(self) -> None:
        self._timer = None
        self._writer = self._loop.create_task(self._run())

    async def _run(self) -> None:
        began = self._loop.time()
        try:
            await self._write()
        finally:
            self._writer = None
            self._write_s = self._loop.time() - began
        if self._rows:
            self._schedule()

    async def _write(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            await self._database.log_refusals(rows, _WRITE_TIMEOUT_S)
        except Exception as error:  # best effort: count the rows and go on
            self._slots[meters.REFUSALS_DROPPED] += len(rows)
            log.warning("could not log %d refused scans: %s", len(rows), db_error_kind(error).value)
