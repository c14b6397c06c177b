"""Group commit: a committer makes the scans of its group durable, one statement at a time.

Rules of this class:
1. One statement is in flight. Scans that arrive meanwhile form the next batch, which leaves as soon as the reply is there.
2. A tag occurs once in a batch. Further scans of it queue behind, in the order of their arrival.
3. A scan leaves exactly once: settled by a statement's reply, failed at its deadline, or refused because the queue is full. The
   queue holds what the database has lately committed in `wait_max_s` (`CommitRate`): more would only grow old in it.
4. A batch whose reply was lost is sent again as it was, with the same scan ids, before anything else: the row locks of the
   first attempt, if it is still running, make the second one wait. Nothing is ever resolved by reading first.
5. A tag that did not advance is not refused here: its durable state is read (`StateReader`), and that is the proof.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from time import perf_counter

import asyncpg

from ixfast import limits, meters
from ixfast.domain.scan import KEYED_FROM, Scan
from ixfast.store.connections.history import HistoryChangedError
from ixfast.store.connections.outages import Outage
from ixfast.store.connections.poolers import TransactionPoolerError
from ixfast.store.connections.session import LedgerSession
from ixfast.store.db_errors import DbErrorKind, db_error_kind
from ixfast.store.ledger.commit_rate import ROUND_CLOCK_S, CommitRate
from ixfast.store.ledger.resolver import Resolver
from ixfast.trace import WAIT

log = logging.getLogger("ixfast.ledger")

_SWEEP_S = 0.05
_STALLED_S = 2 * limits.STATEMENT_TIMEOUT_MS / 1000  # By then, a server that runs at all has ended the statement itself.


class Committer:
    """The queue of one group and the loop that empties it."""

    def __init__(
        self,
        open_session: Callable[[], Awaitable[LedgerSession]],
        resolver: Resolver,
        gauges: meters.Meters,
        *,
        batch_max: int,
        queue_max: int,
        deadline_s: float,
        wait_max_s: float,
    ) -> None:
        self._open_session = open_session
        self._resolver = resolver
        self._meters = gauges
        self._batch_max = batch_max
        self._deadline_s = deadline_s
        self._rate = CommitRate(queue_max=queue_max, deadline_s=deadline_s, wait_max_s=wait_max_s)
        self._capacity = queue_max  # scans that may wait; 0 once stopped
        self._abandoned_at = 0.0  # since when no scan waits for the statement in flight; 0: at least one does
        self._sweep_at = 0.0  # when the next sweep is due
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Scan] = {}  # the next batch, by tag id, in order of arrival
        self._behind: dict[int, deque[Scan]] = {}  # further scans of tags that are in the next batch
        self._behind_count = 0
        self._in_flight: dict[int, Scan] = {}
        self._set_aside: list[dict[int, Scan]] = []  # halves of the batch in flight that wait for their turn
        self._traced = False  # a traced scan is waiting, or was since the last batch
        self._sent = False  # the batch in flight has reached a connection at least once
        self._session: LedgerSession | None = None
        self._no_session_reason = "database_unreachable"
        self._refusal_reason: str | None = None  # why the database refused the last statement
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._outage = Outage(log, "connected to the ledger", self._loop.time)

    def start(self) -> None:
        self._task = self._loop.create_task(self._run(), name="ixfast committer")
        self._sweep_at = self._loop.time() + _SWEEP_S
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)

    async def stop(self) -> None:
        """Stop at once. Scans that are still here, or come later, fail with `draining`, or with `outcome_unknown` if their
        statement was sent. For a graceful stop, wait for `idle` first."""
        self._capacity = 0
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        for scan in self._taken():
            self._fail(scan, "outcome_unknown" if self._sent else "draining", "stopped")
        for scan in [*self._waiting.values(), *(s for q in self._behind.values() for s in q)]:
            self._fail(scan, "draining", "stopped")
        if self._session is not None:
            self._session.terminate()

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._in_flight)

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def failure(self) -> str | None:
        """Why nothing can be committed at present, as far as is known; None if it can."""
        return self._no_session_reason if self._session is None else self._refusal_reason

    def forget_refusal(self) -> None:
        if self._refusal_reason is not None:
            self._refusal_reason = None
            log.error("the database accepts ledger statements again")

    def follow(self, history: str) -> None:
        """Drop the session if it leads to another history of the database. A statement in flight there is sent again."""
        if self._session is not None and self._session.history != history:
            self._session.terminate()

    @property
    def queued(self) -> int:
        return len(self._waiting) + self._behind_count

    def submit(self, scan: Scan) -> None:
        """Queue a scan. If the queue is full, the scan fails at once."""
        waiting = self._waiting
        tag_id = scan.tag_id
        if len(waiting) + self._behind_count >= self._capacity:
            self._reject(scan)
        elif tag_id not in waiting:
            waiting[tag_id] = scan
            if scan.trace is not None:
                self._traced = True
            if self._wake is not None:
                self._wake.set_result(None)
                self._wake = None
        else:
            self._queue_behind(scan)

    def _reject(self, scan: Scan) -> None:
        if self._stopped:
            self._resolver.failed(scan, "draining", "stopped")
        else:
            self._resolver.failed(scan, "overloaded", "ledger_queue_full")

    def _queue_behind(self, scan: Scan) -> None:
        queue = self._behind.setdefault(scan.tag_id, deque())
        if len(queue) >= limits.TAG_WAITERS_MAX:
            self._resolver.failed(scan, "overloaded", "tag_queue_full")
            return
        queue.append(scan)
        self._behind_count += 1

    async def _run(self) -> None:
        while True:
            if not self._waiting and self._session is None:
                await self._connect()  # so that the next scan need not wait for it, and readiness reflects it
                continue
            if not self._waiting:
                self._wake = self._loop.create_future()
                await self._wake
            self._in_flight = batch = self._take()
            self._sent = False
            self._abandoned_at = 0.0
            while batch:
                try:
                    await self._attempt(batch)
                except Exception:  # a bug of ours: this batch ends without a verdict, later ones are not affected
                    log.exception("internal error in a ledger batch")
                    for part in (batch, self._in_flight, *self._set_aside):
                        while part:
                            self._fail(part.popitem()[1], "outcome_unknown" if self._sent else "unavailable", "internal_error")
                    self._set_aside.clear()

    def _take(self) -> dict[int, Scan]:
        """Take the next batch and move up the scans behind it. Scans that could not be answered in time are failed instead."""
        if self._waiting:
            too_old = self._too_old()
            if next(iter(self._waiting.values())).arrived < too_old:
                self._sweep_waiting(too_old)
        waiting = self._waiting
        if len(waiting) <= self._batch_max:
            batch, self._waiting = waiting, {}
        else:
            batch = dict(islice(waiting.items(), self._batch_max))
            for tag_id in batch:
                del waiting[tag_id]
        if self._behind:
            self._move_up(batch)
        return batch

    def _too_old(self) -> float:
        """The arrival time before which a scan would miss its deadline if a statement took as long as the last one."""
        return self._loop.time() - self._deadline_s + min(self._rate.statement_s, self._deadline_s / 2)

    def _move_up(self, batch: dict[int, Scan]) -> None:
        for tag_id in [t for t in self._behind if t in batch]:
            queue = self._behind[tag_id]
            while queue:
                scan = queue.popleft()
                self._behind_count -= 1
                if not self._resolver.known_replay(scan):
                    self._waiting[tag_id] = scan
                    break
            if not queue:
                del self._behind[tag_id]

    async def _attempt(self, batch: dict[int, Scan]) -> None:
        """Send the batch once. Settled scans leave it; those that stay are sent again."""
        if self._session is not None and self._session.closed:
            self._drop(self._session, "database_unreachable")  # while idle: nothing was sent, no outcome is unknown
        session = self._session or await self._connect()
        if session is None or not batch:
            return
        columns = _columns(batch)
        if self._traced:
            self._end_waits(batch)
        self._sent = True
        started, round_started = perf_counter(), self._loop.time()
        try:
            if max(columns[2]) >= KEYED_FROM:
                rows = await session.advance_keyed(*columns)
            else:
                rows = await session.advance(*columns)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # any kind: what asyncpg raises for a broken server has no common base class
            if isinstance(error, asyncpg.QueryCanceledError):
                self._note_statement(len(columns[0]), self._loop.time() - round_started)
                self._fail_late(batch)
            await self._recover(batch, session, error)
            return
        if self._refusal_reason is not None:
            self.forget_refusal()
        self._meters.observe_statement(int((perf_counter() - started) * 1e6), len(columns[0]))
        # By the clock of the loop's rounds: reading the requests that came before the reply in this round is not the database's
        # time. That clock counts milliseconds and may not have advanced at all.
        self._note_statement(len(columns[0]), max(self._loop.time() - round_started, ROUND_CLOCK_S))
        passed = self._resolver.passed
        for tag_id, previous_position, scan_count in rows:
            scan = batch.pop(tag_id, None)
            if scan is not None:  # otherwise it was failed at its deadline
                scan.previous_position = previous_position
                scan.scan_count = scan_count
                passed(scan)
        self._unproven(batch)

    def _note_statement(self, rows: int, seconds: float) -> None:
        self._rate.note_statement(rows, seconds)
        self._capacity = self._rate.capacity

    def _fail_late(self, batch: dict[int, Scan]) -> None:
        """After the server cut a statement short and applied nothing: fail what another statement would not answer in time."""
        too_old = self._too_old()
        for scan in [s for s in batch.values() if s.arrived < too_old]:
            del batch[scan.tag_id]
            self._fail(scan, "overloaded", "deadline")

    def _end_waits(self, batch: dict[int, Scan]) -> None:
        self._traced = False
        for scan in batch.values():
            if scan.trace is not None:
                scan.trace.ends(WAIT)

    def _unproven(self, batch: dict[int, Scan]) -> None:
        while batch:
            self._resolver.unproven(batch.popitem()[1])

    async def _connect(self) -> LedgerSession | None:
        """Open a session. If that fails, wait a little and return None."""
        try:
            self._session = await self._open_session()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            kind = db_error_kind(error)
            reason = "database_unreachable" if kind is DbErrorKind.LOST else kind.value
            if "read-write" in str(error):  # asyncpg's TargetServerAttributeNotMatched has no SQLSTATE
                reason = DbErrorKind.READ_ONLY.value
            elif isinstance(error, HistoryChangedError):
                reason = "history_changed"
            elif isinstance(error, TransactionPoolerError):
                reason = "unsafe_database"
            if self._outage.begin() or reason != self._no_session_reason:
                log.warning("cannot connect to the ledger: %s", error if reason == "unsafe_database" else reason)
            self._no_session_reason = reason
            await asyncio.sleep(limits.RECONNECT_DELAY_MS / 1000)
        else:
            self._no_session_reason = "database_unreachable"
            self._outage.end()
        return self._session

    async def _recover(self, batch: dict[int, Scan], session: LedgerSession, error: Exception) -> None:
        kind = db_error_kind(error)
        slots = self._meters.slots
        if kind is DbErrorKind.LOST:
            slots[meters.LEDGER_LOST] += 1
            for scan in batch.values():
                scan.unresolved = True
            log.warning("ledger connection lost with %d scans unresolved: %s", len(batch), type(error).__name__)
            self._outage.begin()
            self._drop(session, DbErrorKind.LOST.value)
            return
        if kind is DbErrorKind.HELD:
            slots[meters.LEDGER_HELD] += 1
            if batch:
                await self._attempt_unheld(batch, session)
            return
        slots[meters.LEDGER_FAILURES] += 1
        self._refusal_reason = kind.value if kind is not DbErrorKind.BAD_VALUE else None
        log.error("database rejected a ledger statement: %s (%s)", kind.value, getattr(error, "sqlstate", None))
        if kind is DbErrorKind.READ_ONLY:
            self._drop(session, kind.value)  # the batch stays and looks for the writable primary until its deadline
            self._sent = any(scan.unresolved for scan in batch.values())
        elif kind is DbErrorKind.BAD_VALUE and len(batch) > 1:
            await self._halve(batch)
        else:
            if kind is DbErrorKind.SCHEMA:
                self._drop(session, kind.value)
            self._fail_all(batch, kind.value)

    async def _halve(self, batch: dict[int, Scan]) -> None:
        """One bad value fails the whole statement: find it by halving, so that all other scans are answered."""
        scans = list(batch.items())
        batch.clear()
        self._set_aside.append(dict(scans[len(scans) // 2 :]))
        self._in_flight = half = dict(scans[: len(scans) // 2])
        while half:
            await self._attempt(half)
        self._in_flight = half = self._set_aside.pop()
        while half:
            await self._attempt(half)
        self._in_flight = batch

    async def _attempt_unheld(self, batch: dict[int, Scan], session: LedgerSession) -> None:
        try:
            rows = await session.advance_unheld(*_columns(batch))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if db_error_kind(error) is DbErrorKind.HELD:
                self._hold_back(batch)
            else:
                await self._recover(batch, session, error)
            return
        for tag_id, previous_position, scan_count, advances in rows:
            scan = batch.pop(tag_id, None)
            if scan is None:
                continue
            if advances:
                scan.previous_position = previous_position
                scan.scan_count = scan_count
                self._resolver.passed(scan)
            else:
                self._resolver.unproven(scan)
        self._hold_back(batch)

    def _hold_back(self, batch: dict[int, Scan]) -> None:
        """Requeue scans whose rows are locked by another session, ahead of the scans that arrived after them."""
        while batch:
            tag_id, scan = batch.popitem()
            scan.held_rounds += 1
            if scan.held_rounds >= limits.HELD_ROUNDS_MAX:
                self._fail(scan, "unavailable", DbErrorKind.HELD.value)
                continue
            later = self._waiting.pop(tag_id, None)
            self._waiting[tag_id] = scan
            if later is not None:
                self._behind.setdefault(tag_id, deque()).appendleft(later)
                self._behind_count += 1

    def _fail_all(self, batch: dict[int, Scan], reason: str) -> None:
        while batch:
            self._fail(batch.popitem()[1], "unavailable", reason)

    def _fail(self, scan: Scan, code: str, reason: str) -> None:
        """End a scan without a verdict. If an earlier reply was lost, it may have passed: it gets `outcome_unknown` instead."""
        self._resolver.failed(scan, "outcome_unknown" if scan.unresolved else code, reason)

    def _taken(self) -> list[Scan]:
        """The scans of the batch in flight, including the halves that wait for their turn."""
        return [scan for part in (self._in_flight, *self._set_aside) for scan in part.values()]

    def _drop(self, session: LedgerSession, reason: str) -> None:
        session.terminate()
        self._session = None
        self._no_session_reason = reason

    def _sweep(self) -> None:
        """Fail the scans whose deadline has passed, and drop a connection whose statement no scan waits for any more."""
        now = self._loop.time()
        self._rate.note_lag(now - self._sweep_at)
        self._sweep_at = now + _SWEEP_S
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
        too_old = now - self._deadline_s
        had_batch = bool(self._in_flight)
        for part in (self._in_flight, *self._set_aside):
            for scan in [s for s in part.values() if s.arrived < too_old]:
                del part[scan.tag_id]
                if self._sent:
                    self._resolver.failed(
                        scan, "outcome_unknown", self._no_session_reason if self._session is None else "deadline"
                    )
                else:
                    self._fail(scan, "unavailable", self._no_session_reason)
        if self._session is None:
            self._abandoned_at = 0.0
        elif had_batch and not self._in_flight:
            self._abandoned_at = now
        elif self._abandoned_at and now > self._abandoned_at + _STALLED_S:
            self._drop(self._session, "database_stalled")
            self._abandoned_at = 0.0
        self._sweep_waiting(too_old)
        if self._wake is not None and self._session is not None and self._session.closed:
            self._drop(self._session, "database_unreachable")  # while idle: nothing was sent, no outcome is unknown
            self._wake.set_result(None)
            self._wake = None
        self._meters.slots[meters.LEDGER_WAITING] = self.queued

    def _sweep_waiting(self, too_old: float) -> None:
        code, reason = ("overloaded", "deadline") if self._session is not None else ("unavailable", self._no_session_reason)
        if self._abandoned_at:
            code, reason = "unavailable", "database_stalled"
        for tag_id, queue in list(self._behind.items()):
            while queue and queue[0].arrived < too_old:
                self._behind_count -= 1
                self._fail(queue.popleft(), code, reason)
            if not queue:
                del self._behind[tag_id]
        expired = {tag_id: scan for tag_id, scan in self._waiting.items() if scan.arrived < too_old}
        for tag_id, scan in expired.items():
            del self._waiting[tag_id]
            self._fail(scan, code, reason)
        self._move_up(expired)


def _columns(batch: dict[int, Scan]) -> tuple[list[int], list[int], list[int]]:
    """The statement's arrays, in ascending order of tag ids, so that every committer locks rows in the same order."""
    tag_ids = sorted(batch)
    positions: list[int] = []
    scan_ids: list[int] = []
    for tag_id in tag_ids:
        scan = batch[tag_id]
        positions.append(scan.position)
        scan_ids.append(scan.scan_id)
    return tag_ids, positions, scan_ids
