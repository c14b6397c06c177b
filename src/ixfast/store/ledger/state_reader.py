"""Reading durable state: the proof behind every scan that did not advance its counter, and the answer to a peek.

Three lanes, each with a queue, a bound and a query under way of its own, so that no kind of scan waits for another:

- plain: the tag's counter row says it all;
- keyed: scans with an Idempotency-Key, whose first answer is looked up by an index;
- unresolved: scans whose commit was sent and whose reply was lost. If others have overtaken them since, the scan log of just
  that moment is read.

State is read before first answers and the log are: what was applied before the state was read is seen by what is read later.

A pass that is proven by reading waits for a commit of its own, which carries nothing: a primary that crashed while a commit
waited for its synchronous standby shows that commit as soon as it is back, and the standby does not have it yet (PostgreSQL
manual, 27.2.8.3).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ixfast import limits, meters
from ixfast.domain.scan import COUNTED_ONLY, Outcome, Scan
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.db_errors import reason_of
from ixfast.store.ledger.ledger_database import CounterState, KeyedScan, LedgerDatabase

log = logging.getLogger("ixfast.ledger")

_TIME_LEFT_MIN_S = 0.05
_SWEEP_S = 0.05
_ADVANCED, _REPEATED, _REPLAYED = Outcome.ADVANCED, Outcome.REPEATED, Outcome.REPLAYED


Proven = tuple[Scan, Outcome | None]
"""A scan with the outcome that reading has proven; None if it has ended already."""


class Settler(Protocol):
    """Whom a decided scan is given back to."""

    def passed(self, scan: Scan) -> None: ...
    def decided(self, scan: Scan, outcome: Outcome) -> None: ...
    def failed(self, scan: Scan, code: str, reason: str | None) -> None: ...


class Lane:
    """A queue of scans and the task that empties it, a batch at a time."""

    def __init__(self, reader: StateReader, judge: Callable[[list[Scan], float], Awaitable[None]], room: int) -> None:
        self._reader = reader
        self._judge = judge
        self._room = room
        self._waiting: deque[Scan] = deque()
        self._asked: list[Scan] = []  # what the query under way is about
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._task is None

    def add(self, scan: Scan) -> None:
        if len(self._waiting) >= self._room:
            self._reader.fail(scan, "overloaded", "state_queue_full")
            return
        self._waiting.append(scan)
        if self._task is None:
            self._task = self._reader.loop.create_task(self._run())
            self._reader.loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End the scans whose deadline has passed, while there are any."""
        if self.idle:
            return
        self._reader.loop.call_later(_SWEEP_S, self._sweep)
        late = [scan for scan in (*self._asked, *self._waiting) if self._reader.time_left([scan]) <= 0]
        if late:
            self._fail_undecided(late, "unavailable", "deadline")
            self._waiting = deque(filter(_is_undecided, self._waiting))

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._read()
        finally:
            self._task = None

    async def _read(self) -> None:
        """Judge a batch. Of one that took too long only those are failed whose own time is over."""
        batch: list[Scan] = []
        while self._waiting and len(batch) < limits.FLOOR_QUERY_TAGS_MAX:
            batch.append(self._waiting.popleft())
        self._asked = batch
        try:
            await self._judge(batch, max(_TIME_LEFT_MIN_S, self._reader.time_left(batch)))
        except asyncio.CancelledError:
            self._fail_undecided(batch, "draining", "stopped")
            raise
        except Exception as error:  # of every kind, as in the committer; the answer is 503 and never a verdict
            reason = reason_of(error)
            log.warning("durable state of %d scans unread: %s", len(batch), reason)
            undecided = [scan for scan in batch if _is_undecided(scan)]
            late = [s for s in undecided if reason != "deadline" or self._reader.time_left([s]) <= _TIME_LEFT_MIN_S]
            self._fail_undecided(late, "unavailable", reason)
            self._waiting.extendleft(reversed([scan for scan in undecided if _is_undecided(scan)]))
        finally:
            self._asked = []

    def _fail_undecided(self, scans: list[Scan], code: str, reason: str) -> None:
        for scan in scans:
            if _is_undecided(scan):
                self._reader.fail(scan, code, reason)

    async def stop(self) -> None:
        """Stop at once; scans still here are answered `draining`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._reader.fail(self._waiting.popleft(), "draining", "stopped")


class StateReader:
    """Decides scans by durable state, consuming nothing."""

    def __init__(
        self,
        database: LedgerDatabase,
        settler: Settler,
        clock: DatabaseClock,
        gauges: meters.Meters,
        *,
        deadline_s: float,
        suspect: Callable[[], None],
    ) -> None:
        self._database = database
        self._settler = settler
        self._clock = clock
        self._slots = gauges.slots
        self._deadline_s = deadline_s
        self._suspect = suspect  # called when the state contradicts what was known: another history may be behind it
        self.loop = asyncio.get_running_loop()
        self._plain = Lane(self, self._judge_plain, limits.STATE_QUEUE_MAX)
        self._keyed = Lane(self, self._judge_keyed, limits.KEYED_QUEUE_MAX)
        self._unresolved = Lane(self, self._judge_unresolved, limits.STATE_QUEUE_MAX)

    @property
    def idle(self) -> bool:
        return self._plain.idle and self._keyed.idle and self._unresolved.idle

    async def stop(self) -> None:
        for lane in (self._plain, self._keyed, self._unresolved):
            await lane.stop()

    def add(self, scan: Scan) -> None:
        """Read the scan's durable state and decide it."""
        if scan.extras is not None and scan.extras.idempotent:
            self._keyed.add(scan)
        elif scan.unresolved:
            self._unresolved.add(scan)
        else:
            self._plain.add(scan)

    def fail(self, scan: Scan, code: str, reason: str | None) -> None:
        """End a scan without a verdict; one whose reply was lost may have passed, and its caller is told so."""
        self._settler.failed(scan, "outcome_unknown" if scan.unresolved else code, reason)

    def time_left(self, scans: list[Scan]) -> float:
        """Seconds until the first of them gives up."""
        return min(scan.arrived for scan in scans) + self._deadline_s - self.loop.time()

    async def _states(self, scans: list[Scan], time_left_s: float) -> dict[int, CounterState]:
        self._slots[meters.LEDGER_STATE_READS] += len(scans)
        states = {state.tag_id: state for state in await self._database.states({s.tag_id for s in scans}, time_left_s)}
        if any(_seems_late(scan, states.get(scan.tag_id)) for scan in scans):
            await self._read_clock(time_left_s)
        return states

    async def _read_clock(self, time_left_s: float) -> float:
        """Look at the database's clock, so that a step before now is known. Returns the moment of the reading."""
        asked_at = self.loop.time()
        clock = await self._database.clock(time_left_s)
        now = self.loop.time()
        self._clock.note(asked_at, now, clock)
        return now

    async def _judge_plain(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        proven = [(scan, self._decide(scan, states.get(scan.tag_id))) for scan in scans]
        await self._tell(proven, time_left_s)

    async def _judge_keyed(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        first: defaultdict[int, list[KeyedScan]] = defaultdict(list)
        for keyed in await self._database.keyed({scan.scan_id for scan in scans}, time_left_s):
            first[keyed.scan_id].append(keyed)
        proven: list[Proven] = []
        for scan in filter(_is_undecided, scans):
            answers = first.get(scan.scan_id)
            outcome = self._decide(scan, states.get(scan.tag_id)) if answers is None else self._answer_again(scan, answers)
            proven.append((scan, outcome))
        await self._tell(proven, time_left_s)

    def _answer_again(self, scan: Scan, answers: list[KeyedScan]) -> Outcome | None:
        """Give the first answer under the scan's key, if it was about this tap."""
        own = next((a for a in answers if (a.tag_id, a.position) == (scan.tag_id, scan.position)), None)
        if own is None:
            self._settler.failed(scan, "idempotency_conflict", None)
            return None
        assert scan.extras is not None
        scan.extras.first_at = own.at
        scan.previous_position = own.previous_position
        scan.scan_count = own.scan_count
        return _ADVANCED

    async def _judge_unresolved(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        overtaken = [s for s in scans if s.tag_id in states and states[s.tag_id].last_position > s.position]
        logged: set[tuple[int, int]] = set()
        if overtaken:
            now = await self._read_clock(time_left_s)
            spans = self._clock.spans(min(scan.arrived for scan in overtaken), now)
            logged = await self._database.logged({scan.scan_id for scan in overtaken}, spans, time_left_s)
        proven: list[Proven] = []
        for scan in filter(_is_undecided, scans):
            if (scan.tag_id, scan.scan_id) in logged:
                # What it was counted as is known no more; it is told as not known.
                scan.previous_position = 0
                scan.scan_count = states[scan.tag_id].scan_count
                proven.append((scan, _ADVANCED))
            else:
                proven.append((scan, self._decide(scan, states.get(scan.tag_id))))
        await self._tell(proven, time_left_s)

    async def _tell(self, proven: Sequence[Proven], time_left_s: float) -> None:
        """Announce what reading has proven to have passed, once it is durable wherever a commit has to be."""
        passes = [(scan, outcome) for scan, outcome in proven if outcome is not None]
        if passes:
            await self._database.settle(time_left_s)
        for scan, outcome in passes:
            if not _is_undecided(scan):
                continue  # its deadline came first
            if outcome is _ADVANCED:
                self._settler.passed(scan)
            else:
                self._settler.decided(scan, outcome)

    def _decide(self, scan: Scan, state: CounterState | None) -> Outcome | None:
        """End the scan, or return the outcome that it has proven; `state` is the tag's durable row, or None if it has none."""
        if not _is_undecided(scan):
            return None  # its deadline came first
        if state is None:
            self._broken(scan, "counter_missing")
            return None
        position, last = scan.position, state.last_position
        scan.scan_count = state.scan_count
        scan.previous_position = state.previous_position if last == position else last
        record, extras = scan.record, scan.extras
        assert record is not None
        record.floor = max(record.floor, last)
        if state.last_scan_id == scan.scan_id and position in (last, COUNTED_ONLY):
            return _ADVANCED
        if extras is not None and extras.peek and not 0 <= position <= last:
            scan.previous_position = last
            scan.scan_count += 1
            self._settler.decided(scan, _ADVANCED)
        elif position == last:
            return self._decide_newest(scan, state)
        elif 0 <= position < last:
            self._settler.decided(scan, _REPLAYED)
        else:
            record.floor = last
            self._suspect()
            self._broken(scan, "counter_contradicts")
        return None

    def _decide_newest(self, scan: Scan, state: CounterState) -> Outcome | None:
        """The newest accepted tap once more: a repeat inside its group's retry window, a replay outside.

        A window of 0 has no inside, and a negative age is outside every window. If the clock was stepped so that either
        could be true, there is no answer.
        """
        assert scan.record is not None
        window_ms = scan.record.group.retry_window_ms
        inside = 0 <= state.age_ms < window_ms
        age = state.age_ms / 1000, window_ms / 1000, self.loop.time()
        if inside and not (state.doubtful or self._clock.may_be_older(*age)):
            return _REPEATED
        if inside or (window_ms and self._clock.may_be_younger(*age)):
            self.fail(scan, "unavailable", "clock_stepped")
        else:
            self._settler.decided(scan, _REPLAYED)
        return None

    def _broken(self, scan: Scan, reason: str) -> None:
        self._slots[meters.LEDGER_BROKEN] += 1
        log.error("tag %d: %s", scan.tag_id, reason)
        self.fail(scan, "unavailable", reason)


def _is_undecided(scan: Scan) -> bool:
    return scan.outcome is Outcome.UNDECIDED and scan.error is None


def _seems_late(scan: Scan, state: CounterState | None) -> bool:
    """Is this the newest accepted tap once more, and outside its group's retry window as far as clocks can be trusted?"""
    if state is None or scan.position != state.last_position or scan.record is None:
        return False
    return 0 < scan.record.group.retry_window_ms <= state.age_ms
