"""Reading durable state: the proof behind every scan that did not advance its counter, and the answer to a peek.

What the state means for a scan is decided by `domain.decision.decide`. This module reads the state, in batches, and adds what a
pure function cannot: whether an age can be trusted, and whether what was read is durable.

Three lanes, each with its own queue, bound and query under way, so that no kind of scan waits for another:

- plain: the tag's counter row is enough;
- keyed: scans with an Idempotency-Key, whose first answer is looked up by an index;
- unresolved: scans whose commit was sent and whose reply was lost. If others have overtaken them since, the scan log of that
  moment is read.

Invariants:

- State is read before first answers and the log: whatever was applied before the state was read is visible to the later reads.
- A pass that is proven by reading waits for a commit of its own, which carries nothing. A primary that crashed while a commit
  waited for its synchronous standby shows that commit as soon as it is back, and the standby does not have it yet (PostgreSQL
  manual, 27.2.8.3).
- Nothing is consumed. State that cannot be read is a 503, never a verdict.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ixfast import limits, meters
from ixfast.domain.decision import ERRORS, OUTCOMES, CounterState, Finding, KeyedScan, decide, submission_of
from ixfast.domain.scan import Outcome, Scan
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.db_errors import reason_of
from ixfast.store.ledger.ledger_database import LedgerDatabase

log = logging.getLogger("ixfast.ledger")

_TIME_LEFT_MIN_S = 0.05
_SWEEP_S = 0.05


Proven = tuple[Scan, Outcome | None]
"""A scan with the outcome that reading has proven; None if the scan has already ended."""


class Settler(Protocol):
    """Receives decided scans."""

    def passed(self, scan: Scan) -> None: ...
    def decided(self, scan: Scan, outcome: Outcome) -> None: ...
    def failed(self, scan: Scan, code: str, reason: str | None) -> None: ...


class LaneOwner(Protocol):
    """Fails the scans of a lane, and knows their deadlines."""

    loop: asyncio.AbstractEventLoop

    @property
    def fail(self) -> Callable[[Scan, str, str | None], None]: ...
    def time_left(self, scans: list[Scan]) -> float: ...


class Lane:
    """A queue of scans and the task that empties it, a batch at a time."""

    def __init__(self, reader: LaneOwner, decide_batch: Callable[[list[Scan], float], Awaitable[None]], capacity: int) -> None:
        self._reader = reader
        self._decide_batch = decide_batch
        self._capacity = capacity
        self._waiting: deque[Scan] = deque()
        self._batch: list[Scan] = []  # the scans of the query under way
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._task is None

    def add(self, scan: Scan) -> None:
        if len(self._waiting) >= self._capacity:
            self._reader.fail(scan, "overloaded", "state_queue_full")
            return
        self._waiting.append(scan)
        if self._task is None:
            self._task = self._reader.loop.create_task(self._run())
            self._reader.loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Fail the scans whose deadline has passed. Repeats itself until the lane is idle."""
        if self.idle:
            return
        self._reader.loop.call_later(_SWEEP_S, self._sweep)
        late = [scan for scan in (*self._batch, *self._waiting) if self._reader.time_left([scan]) <= 0]
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
        """Decide one batch. If reading took too long, fail only the scans whose own time is over; the others are read again."""
        batch: list[Scan] = []
        while self._waiting and len(batch) < limits.FLOOR_QUERY_TAGS_MAX:
            batch.append(self._waiting.popleft())
        self._batch = batch
        try:
            await self._decide_batch(batch, max(_TIME_LEFT_MIN_S, self._reader.time_left(batch)))
        except asyncio.CancelledError:
            self._fail_undecided(batch, "draining", "stopped")
            raise
        except Exception as error:  # any kind, as in the committer: the answer is 503, never a verdict
            reason = reason_of(error)
            log.warning("cannot read the durable state of %d scans: %s", len(batch), reason)
            undecided = [scan for scan in batch if _is_undecided(scan)]
            late = [s for s in undecided if reason != "deadline" or self._reader.time_left([s]) <= _TIME_LEFT_MIN_S]
            self._fail_undecided(late, "unavailable", reason)
            self._waiting.extendleft(reversed([scan for scan in undecided if _is_undecided(scan)]))
        finally:
            self._batch = []

    def _fail_undecided(self, scans: list[Scan], code: str, reason: str) -> None:
        for scan in scans:
            if _is_undecided(scan):
                self._reader.fail(scan, code, reason)

    async def stop(self) -> None:
        """Stop at once. Scans that are still here fail with `draining`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._waiting:
            self._reader.fail(self._waiting.popleft(), "draining", "stopped")


class StateReader:
    """Decides scans by durable state, consuming nothing.

    `suspect` is called when the state contradicts what was known to be durable: another history of the database may be behind it.
    """

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
        self._suspect = suspect
        self.loop = asyncio.get_running_loop()
        self._plain = Lane(self, self._decide_plain, limits.STATE_QUEUE_MAX)
        self._keyed = Lane(self, self._decide_keyed, limits.KEYED_QUEUE_MAX)
        self._unresolved = Lane(self, self._decide_unresolved, limits.STATE_QUEUE_MAX)

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
        """End a scan without a verdict. One whose reply was lost may have passed, so it gets `outcome_unknown` instead."""
        self._settler.failed(scan, "outcome_unknown" if scan.unresolved else code, reason)

    def time_left(self, scans: list[Scan]) -> float:
        """Seconds until the first of these scans reaches its deadline."""
        return min(scan.arrived for scan in scans) + self._deadline_s - self.loop.time()

    async def _states(self, scans: list[Scan], time_left_s: float) -> dict[int, CounterState]:
        self._slots[meters.LEDGER_STATE_READS] += len(scans)
        states = {state.tag_id: state for state in await self._database.states({s.tag_id for s in scans}, time_left_s)}
        if any(_seems_expired(scan, states.get(scan.tag_id)) for scan in scans):
            await self._read_clock(time_left_s)
        return states

    async def _read_clock(self, time_left_s: float) -> float:
        """Read the database's clock, so that a step before now is noticed. Returns the loop's time of the reading."""
        asked_at = self.loop.time()
        clock = await self._database.clock(time_left_s)
        now = self.loop.time()
        self._clock.note(asked_at, now, clock)
        return now

    async def _decide_plain(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        await self._announce([(scan, self._decide(scan, states.get(scan.tag_id))) for scan in scans], time_left_s)

    async def _decide_keyed(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        first: defaultdict[int, list[KeyedScan]] = defaultdict(list)
        for keyed in await self._database.keyed({scan.scan_id for scan in scans}, time_left_s):
            first[keyed.scan_id].append(keyed)
        proven = [(scan, self._decide(scan, states.get(scan.tag_id), first.get(scan.scan_id, ()))) for scan in scans]
        await self._announce(proven, time_left_s)

    async def _decide_unresolved(self, scans: list[Scan], time_left_s: float) -> None:
        states = await self._states(scans, time_left_s)
        overtaken = [s for s in scans if s.tag_id in states and states[s.tag_id].last_position > s.position]
        logged: set[tuple[int, int]] = set()
        if overtaken:
            now = await self._read_clock(time_left_s)
            spans = self._clock.spans(min(scan.arrived for scan in overtaken), now)
            logged = await self._database.logged({scan.scan_id for scan in overtaken}, spans, time_left_s)
        proven = [
            (scan, self._decide(scan, states.get(scan.tag_id), logged=(scan.tag_id, scan.scan_id) in logged)) for scan in scans
        ]
        await self._announce(proven, time_left_s)

    async def _announce(self, proven: Sequence[Proven], time_left_s: float) -> None:
        """Announce what reading has proven to have passed, once it is durable wherever a commit has to be."""
        passes = [(scan, outcome) for scan, outcome in proven if outcome is not None]
        if passes:
            await self._database.settle(time_left_s)
        for scan, outcome in passes:
            if not _is_undecided(scan):
                continue  # its deadline came first
            if outcome is Outcome.ADVANCED:
                self._settler.passed(scan)
            else:
                self._settler.decided(scan, outcome)

    def _decide(
        self, scan: Scan, state: CounterState | None, first_answers: Sequence[KeyedScan] = (), *, logged: bool = False
    ) -> Outcome | None:
        """End the scan, or return the outcome that is proven but must be durable before it is announced."""
        if not _is_undecided(scan):
            return None  # its deadline came first
        decision = decide(submission_of(scan), state, first_answers, logged=logged)
        finding = decision.finding
        scan.previous_position, scan.scan_count = decision.previous_position, decision.scan_count
        if decision.first_at is not None:
            assert scan.extras is not None
            scan.extras.first_at = decision.first_at
        if state is not None:
            self._raise_floor(scan, state)
        if finding is Finding.ACCEPTED:
            return OUTCOMES[finding]
        if finding in (Finding.REPEATED, Finding.EXPIRED):
            assert state is not None
            return self._decide_newest(scan, state, finding)
        if finding is Finding.KEY_CONFLICT:
            self._settler.failed(scan, *ERRORS[finding])
        elif finding in ERRORS:
            self._broken(scan, state, finding)
        else:
            self._settler.decided(scan, OUTCOMES[finding])
        return None

    def _decide_newest(self, scan: Scan, state: CounterState, finding: Finding) -> Outcome | None:
        """The newest accepted tap once more: a repeat or a replay by its age, if that age can be trusted.

        If the clock was stepped so that the tap could be on either side of the retry window's end, there is no answer.
        """
        assert scan.record is not None
        window_ms = scan.record.group.retry_window_ms
        age = state.age_ms / 1000, window_ms / 1000, self.loop.time()
        if finding is Finding.REPEATED:
            if not (state.doubtful or self._clock.may_be_older(*age)):
                return OUTCOMES[finding]
        elif not (window_ms and self._clock.may_be_younger(*age)):
            self._settler.decided(scan, OUTCOMES[finding])
            return None
        self.fail(scan, "unavailable", "clock_stepped")
        return None

    def _raise_floor(self, scan: Scan, state: CounterState) -> None:
        """Remember what is known to be used, so that later replays need not be read again."""
        assert scan.record is not None
        scan.record.floor = max(scan.record.floor, state.last_position)

    def _broken(self, scan: Scan, state: CounterState | None, finding: Finding) -> None:
        code, reason = ERRORS[finding]
        if finding is Finding.CONTRADICTED:
            assert scan.record is not None and state is not None
            scan.record.floor = state.last_position
            self._suspect()
        self._slots[meters.LEDGER_BROKEN] += 1
        log.error("tag %d: %s", scan.tag_id, reason)
        self.fail(scan, code, reason)


def _is_undecided(scan: Scan) -> bool:
    return scan.outcome is Outcome.UNDECIDED and scan.error is None


def _seems_expired(scan: Scan, state: CounterState | None) -> bool:
    """Whether this is the newest accepted tap once more, outside its group's retry window by an age not yet checked for steps."""
    if state is None or scan.position != state.last_position or scan.record is None:
        return False
    return 0 < scan.record.group.retry_window_ms <= state.age_ms
