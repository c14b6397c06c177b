"""The ledger: is this tap newer than the newest one durably accepted for its tag?

`submit` takes a scan whose `tag_id`, `position` and `scan_id` are set and ends in exactly one call of `settled`, with
`outcome` set, or with `error` set if no answer can be given. A pass is announced only after an acknowledged commit; a
refusal only after the durable state was seen to be at or above the scan's position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ixfast import limits, meters
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Outcome, Scan
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.history import History
from ixfast.store.connections.session import LedgerSession
from ixfast.store.db_errors import db_error_kind
from ixfast.store.ledger.committer import Committer
from ixfast.store.ledger.ledger_database import LedgerDatabase
from ixfast.store.ledger.state_reader import StateReader

log = logging.getLogger("ixfast.ledger")

_REFUSAL_FLUSH_S = 0.25
_REFUSAL_PAUSES = 9  # Pauses as long as the last write: scans that may pass go before the log of those that may not.
_REFUSAL_WRITE_S = 10.0  # Nobody waits for it; to give it up costs the database more than to finish it.
_ADVANCED = Outcome.ADVANCED
_LETTERS = {
    Verdict.REPLAYED: "r", Verdict.FORGED: "f", Verdict.INCOMPLETE: "i", Verdict.INACTIVE: "x", Verdict.REPEAT: "a",
}  # fmt: skip


class Ledger:
    """Committers by group, the reader of durable state, and the best-effort log of refusals.

    A tag always belongs to the same group of a worker, so that of two scans of a tag here none overtakes the other. Nothing is
    committed into another history of the database than the one that `history` says is followed.
    """

    def __init__(
        self,
        database: LedgerDatabase,
        settled: Callable[[Scan], None],
        gauges: meters.Meters,
        *,
        clock: DatabaseClock | None = None,
        history: History | None = None,
        groups: int = 2,
        batch_max: int = 1024,
        queue_max: int = 20_000,
        deadline_s: float = 1.5,
        wait_max_s: float = 0.1,
    ) -> None:
        self._database = database
        self._settled = settled
        self._meters = gauges
        self._history = history or History()
        self._deadline_s = deadline_s
        self._committers = [
            Committer(
                self._open_session,
                self,
                gauges,
                batch_max=batch_max,
                queue_max=max(1, queue_max // groups),
                deadline_s=deadline_s,
                wait_max_s=wait_max_s,
            )
            for _ in range(groups)
        ]
        for committer in self._committers:
            self._history.on_change(committer.follow)
        self._submits = [committer.submit for committer in self._committers]
        self._groups = groups
        self._reader = StateReader(
            database,
            self,
            clock or DatabaseClock(gauges),
            gauges,
            deadline_s=deadline_s,
            suspect=self._history.suspect,
        )
        self._loop = asyncio.get_running_loop()
        self._refusals: list[tuple[int, int, int, str]] = []
        self._flusher: asyncio.TimerHandle | None = None
        self._flushing = False
        self._flush_s = 0.0  # what the last write took
        self._tasks: set[asyncio.Task[None]] = set()

    async def _open_session(self) -> LedgerSession:
        """A session, if it leads to the history that is followed. Raises HistoryChangedError if not."""
        session = await self._database.open_session()
        try:
            self._history.check(session.history)
        except BaseException:
            session.terminate()
            raise
        return session

    def start(self) -> None:
        for committer in self._committers:
            committer.start()

    async def stop(self) -> None:
        for committer in self._committers:
            await committer.stop()
        if self._flusher is not None:
            self._flusher.cancel()
            await self._write_refusals()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reader.stop()

    @property
    def idle(self) -> bool:
        return self._reader.idle and all(c.idle for c in self._committers)

    @property
    def connected(self) -> bool:
        return all(c.connected for c in self._committers)

    @property
    def trouble(self) -> str | None:
        """Why scans cannot be committed now, as far as is known; None if they can."""
        return next((c.trouble for c in self._committers if c.trouble is not None), None)

    def forget_refusal(self) -> None:
        """The database takes what it refused before: statements are worth another try."""
        for committer in self._committers:
            committer.forget_refusal()

    def submit(self, scan: Scan) -> None:
        """Make the scan durable, or find out that it is not new."""
        self._submits[scan.tag_id % self._groups](scan)

    def read_state(self, scan: Scan) -> None:
        """Read the tag's durable counter and decide the scan by it, consuming nothing."""
        self._reader.add(scan)

    # What the committers and the reader call.

    def passed(self, scan: Scan) -> None:
        scan.outcome = _ADVANCED
        record = scan.record
        assert record is not None
        if scan.position > record.floor:
            record.floor = scan.position
        self._settled(scan)

    def decided(self, scan: Scan, outcome: Outcome) -> None:
        scan.outcome = outcome
        self._settled(scan)

    def unproven(self, scan: Scan) -> None:
        self._reader.add(scan)

    def known_replay(self, scan: Scan) -> bool:
        record = scan.record
        assert record is not None
        if not 0 <= scan.position <= record.floor or needs_state(scan):
            return False
        self.decided(scan, Outcome.REPLAYED)
        return True

    def failed(self, scan: Scan, code: str, reason: str | None) -> None:
        scan.error = code
        scan.error_detail = reason
        self._settled(scan)

    # Refusals: best effort, never in anybody's way.

    def log_refusal(self, scan: Scan) -> None:
        """Queue a log row for a decided scan that consumed nothing."""
        letter = _LETTERS.get(scan.verdict) if scan.verdict is not None else None
        if letter is None or scan.record is None:
            return
        slow = self._flush_s > limits.REFUSAL_SLOW_S
        if len(self._refusals) >= (limits.REFUSAL_ROWS_SLOW_MAX if slow else limits.REFUSAL_QUEUE_ROWS_MAX):
            self._meters.slots[meters.REFUSALS_DROPPED] += 1
            return
        self._refusals.append((scan.scan_id, scan.record.tag_id, scan.position, letter))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flusher is None and not self._flushing:
            delay_s = max(_REFUSAL_FLUSH_S, self._flush_s * _REFUSAL_PAUSES)
            self._flusher = self._loop.call_later(delay_s, self._flush)

    def _flush(self) -> None:
        self._flusher = None
        self._flushing = True
        self._spawn(self._flush_rows())

    async def _flush_rows(self) -> None:
        """One write at a time, and a pause after it: a slow database gets fewer and larger ones."""
        began = self._loop.time()
        try:
            await self._write_refusals()
        finally:
            self._flushing = False
            self._flush_s = self._loop.time() - began
        if self._refusals:
            self._flush_soon()

    async def _write_refusals(self) -> None:
        rows, self._refusals = self._refusals, []
        if not rows:
            return
        try:
            await self._database.log_refusals(rows, _REFUSAL_WRITE_S)
        except Exception as error:  # best effort: counted, and nobody waits for it
            self._meters.slots[meters.REFUSALS_DROPPED] += len(rows)
            log.warning("%d refusals not logged: %s", len(rows), db_error_kind(error).value)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def needs_state(scan: Scan) -> bool:
    """Must the durable state be read before this scan may be refused, even if its counter is known to be used?"""
    extras, record = scan.extras, scan.record
    if record is not None and record.group.retry_window_ms:
        return True
    return scan.unresolved or (extras is not None and (extras.idempotent or extras.wants_state))


__all__ = ["Ledger", "needs_state"]
