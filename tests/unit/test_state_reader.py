"""The state reader, on a database whose answers can be held back: its lanes, limits and decisions."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import asyncpg
import pytest
from support import eventually
from support.ledger_kit import ADVANCED, REPEATED, REPLAYED, LedgerKit, word

from ixfast import limits
from ixfast.domain.decision import CounterState, KeyedScan
from ixfast.domain.scan import KEYED_FROM, Outcome, Scan
from ixfast.meters import LEDGER_BROKEN, Meters
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.ledger.state_reader import StateReader

DEADLINE_S = 0.4
WINDOW_S = 60


class HeldDatabase:
    """Answers from dictionaries. A query whose name is in `held` waits for `let_go`."""

    def __init__(self) -> None:
        self.counters: dict[int, CounterState] = {}
        self.first: list[KeyedScan] = []
        self.log: set[tuple[int, int]] = set()
        self.now = 1_800_000_000.0  # ahead of the loop's clock
        self.asked: defaultdict[str, int] = defaultdict(int)
        self.order: list[str] = []
        self.held: set[str] = set()
        self.error: Exception | None = None
        self._go = asyncio.Event()

    def add(self, tag_id: int, last: int, *, previous: int = 0, age_s: float = 0.0, doubtful: bool = False) -> None:
        self.counters[tag_id] = CounterState(tag_id, last, previous, 1, last, int(age_s * 1000), doubtful)

    def let_go(self) -> None:
        self.held.clear()
        self._go.set()

    async def _answer(self, name: str, time_left_s: float) -> None:
        self.asked[name] += 1
        self.order.append(name)
        if self.error is not None:
            raise self.error
        if name in self.held:
            async with asyncio.timeout(time_left_s):
                await self._go.wait()

    async def clock(self, time_left_s: float) -> float:
        await self._answer("clock", time_left_s)
        return asyncio.get_running_loop().time() + self.now

    async def settle(self, time_left_s: float) -> None:
        await self._answer("settle", time_left_s)

    async def states(self, tag_ids: Collection[int], time_left_s: float) -> Sequence[CounterState]:
        await self._answer("states", time_left_s)
        return [self.counters[tag_id] for tag_id in tag_ids if tag_id in self.counters]

    async def keyed(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[KeyedScan]:
        await self._answer("keyed", time_left_s)
        return [answer for answer in self.first if answer.scan_id in scan_ids]

    async def logged(self, scan_ids: Collection[int], spans: Sequence[Any], time_left_s: float) -> set[tuple[int, int]]:
        await self._answer("logged", time_left_s)
        return {row for row in self.log if row[1] in scan_ids}


class Reading:
    """A reader for scans that did not advance. `kit` creates them and collects their outcomes."""

    def __init__(self) -> None:
        self.database = HeldDatabase()
        self.meters = Meters()
        self.clock = DatabaseClock(self.meters)
        self.suspected = 0
        self.kit = LedgerKit(retry_window_s=0)
        self.kit.ledger = self
        self.reader = StateReader(
            self.database,  # type: ignore[arg-type]
            self,
            self.clock,
            self.meters,
            deadline_s=DEADLINE_S,
            suspect=self._suspect,
        )
        self.unresolved = False

    def _suspect(self) -> None:
        self.suspected += 1

    def note_clock(self) -> None:
        moment = asyncio.get_running_loop().time()
        self.clock.note(moment, moment, moment + self.database.now)

    # The methods of a ledger that the kit and the reader call.

    def submit(self, scan: Scan) -> None:
        scan.unresolved = self.unresolved
        self.reader.add(scan)

    read_state = bind = submit

    def passed(self, scan: Scan) -> None:
        self.decided(scan, Outcome.ADVANCED)

    def decided(self, scan: Scan, outcome: Outcome) -> None:
        scan.outcome = outcome
        self.kit.settled(scan)

    def failed(self, scan: Scan, code: str, reason: str | None) -> None:
        scan.error, scan.error_detail = code, reason
        self.kit.settled(scan)


@pytest.fixture
async def reading() -> AsyncIterator[Reading]:
    reading = Reading()
    yield reading
    await reading.reader.stop()
    assert not reading.kit._answers, "a scan was never answered"


# Lanes.


KINDS = ("plain", "keyed", "unresolved")


def submit(reading: Reading, kind: str, tag_id: int = 1, position: int = 5) -> asyncio.Future[Scan]:
    reading.unresolved = kind == "unresolved"
    return reading.kit.submit(tag_id, position, **({"idempotent": True} if kind == "keyed" else {}))


@pytest.mark.parametrize(("held", "slow"), [("keyed", "keyed"), ("logged", "unresolved")])
async def test_a_lane_that_stalls_delays_no_other(reading: Reading, held: str, slow: str) -> None:
    reading.database.add(1, 9)
    reading.database.held.add(held)
    waiting = [submit(reading, slow) for _ in range(200)]
    await eventually(lambda: reading.database.asked[held])
    for kind in KINDS:
        if kind != slow:
            answers = await asyncio.gather(*(submit(reading, kind) for _ in range(200)))
            assert {word(scan) for scan in answers} == {REPLAYED}
    assert not any(answer.done() for answer in waiting)
    reading.database.let_go()
    assert {word(scan) for scan in await asyncio.gather(*waiting)} == {REPLAYED}
    assert reading.reader.idle


@pytest.mark.parametrize(
    ("kind", "capacity"),
    [("plain", limits.STATE_QUEUE_MAX), ("keyed", limits.KEYED_QUEUE_MAX), ("unresolved", limits.STATE_QUEUE_MAX)],
)
async def test_a_lane_has_a_bound(reading: Reading, kind: str, capacity: int) -> None:
    reading.reader._deadline_s = 60.0
    reading.database.add(1, 9)
    reading.database.held.add("states")
    first = submit(reading, kind)
    await eventually(lambda: reading.database.asked["states"])
    waiting = [submit(reading, kind) for _ in range(capacity)]
    over = [await submit(reading, kind) for _ in range(3)]
    code = "outcome_unknown" if kind == "unresolved" else "overloaded"  # a lost reply may have been a pass
    assert {word(scan) for scan in over} == {f"{code}:state_queue_full"}
    assert not first.done()
    reading.database.let_go()
    assert {word(scan) for scan in await asyncio.gather(first, *waiting)} == {REPLAYED}


async def test_a_batch_that_took_too_long_fails_only_those_whose_time_is_over(reading: Reading) -> None:
    reading.reader._deadline_s = 1.0
    reading.database.add(1, 9)
    reading.database.held.add("states")
    old = submit(reading, "plain")
    later = reading.reader.loop.time() + 0.6
    await eventually(lambda: reading.reader.loop.time() > later)
    young = submit(reading, "plain")
    assert word(await old) == "unavailable:deadline"
    assert not young.done()
    reading.database.let_go()
    assert word(await young) == REPLAYED


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (asyncpg.QueryCanceledError(), "deadline"),
        (ConnectionResetError(), "connection_lost"),
        (asyncpg.DiskFullError(), "database_full"),
        (ValueError("a bug"), "connection_lost"),
    ],
)
async def test_state_that_cannot_be_read_is_no_verdict(reading: Reading, error: Exception, reason: str) -> None:
    reading.database.add(1, 9)
    reading.database.error = error
    for kind in KINDS:
        code = "outcome_unknown" if kind == "unresolved" else "unavailable"
        assert word(await submit(reading, kind)) == f"{code}:{reason}"
    reading.database.error = None
    assert word(await submit(reading, "plain")) == REPLAYED


async def test_what_is_left_at_the_stop_is_answered(reading: Reading) -> None:
    reading.reader._deadline_s = 60.0
    reading.database.held.add("states")
    waiting = [submit(reading, kind) for kind in KINDS for _ in range(2000)]
    await eventually(lambda: reading.database.asked["states"] == 3)
    await reading.reader.stop()
    words = {word(scan) for scan in await asyncio.gather(*waiting)}
    assert words == {"draining:stopped", "outcome_unknown:stopped"}


async def test_state_is_read_before_first_answers_and_the_log(reading: Reading) -> None:
    """In the opposite order, a scan applied in between would be missed by both."""
    reading.database.add(1, 9)
    await submit(reading, "keyed")
    await submit(reading, "unresolved")
    assert reading.database.order == ["states", "keyed", "states", "clock", "logged"]


# Decisions.


def windowed(reading: Reading) -> None:
    reading.kit.retry_window_s = WINDOW_S


@pytest.mark.parametrize("age_s", [-86_400.0, -20.0, -0.001, 0.0, 0.001, 30.0])
async def test_a_window_of_0_has_no_inside(reading: Reading, age_s: float) -> None:
    reading.database.add(1, 5, age_s=age_s)
    assert await reading.kit.word(1, 5) == REPLAYED
    assert await reading.kit.word(1, 5, wants_state=True) == REPLAYED
    assert await reading.kit.word(1, 5, idempotent=True) == REPLAYED
    assert await reading.kit.word(1, 5, peek=True) == REPLAYED


@pytest.mark.parametrize(
    ("age_s", "doubtful", "expected"),
    [
        (-86_400.0, False, REPLAYED),
        (-0.001, True, REPLAYED),
        (0.0, False, REPEATED),
        (59.999, False, REPEATED),
        (59.999, True, "unavailable:clock_stepped"),
        (60.0, False, REPLAYED),
        (60.0, True, REPLAYED),  # the true age can only be greater, so it is outside the window
        (3600.0, False, REPLAYED),
    ],
)
async def test_the_newest_tap_once_more(reading: Reading, age_s: float, doubtful: bool, expected: str) -> None:
    windowed(reading)
    reading.note_clock()
    reading.database.add(1, 5, age_s=age_s, doubtful=doubtful)
    assert await reading.kit.word(1, 5) == expected
    assert await reading.kit.word(1, 4) == REPLAYED


async def test_a_step_forward_is_seen_before_anybody_is_refused_by_it(reading: Reading) -> None:
    windowed(reading)
    reading.note_clock()
    reading.database.now += 3600
    reading.database.add(1, 5, age_s=3610)
    reading.database.add(2, 5, age_s=7200)
    reading.database.add(3, 5, age_s=10)
    assert await reading.kit.word(3, 5) == REPEATED
    assert reading.database.asked["clock"] == 0  # the clock is read only for scans that would be refused for their age
    assert await reading.kit.word(1, 5) == "unavailable:clock_stepped"
    assert await reading.kit.word(2, 5) == REPLAYED


async def test_a_step_back_that_this_worker_saw_makes_an_age_doubtful(reading: Reading) -> None:
    windowed(reading)
    reading.note_clock()
    reading.database.now -= 1
    reading.note_clock()
    reading.database.add(1, 5, age_s=59.5)
    reading.database.add(2, 5, age_s=58.5)
    assert await reading.kit.word(1, 5) == "unavailable:clock_stepped"
    assert await reading.kit.word(2, 5) == REPEATED


async def test_without_a_window_no_clock_is_read(reading: Reading) -> None:
    reading.database.add(1, 5, age_s=3600)
    assert await reading.kit.word(1, 5) == REPLAYED
    assert reading.database.asked["clock"] == 0


async def test_a_first_answer_is_given_again_for_its_tap_alone(reading: Reading) -> None:
    reading.database.add(1, 9, previous=7)
    reading.database.first = [KeyedScan(KEYED_FROM | 77, 1, 5, 3, 2, 1_800_000_000.5)]
    again = await reading.kit.submit(1, 5, 77, idempotent=True)
    assert word(again) == ADVANCED
    assert (again.previous_position, again.scan_count) == (3, 2)
    assert again.extras is not None and again.extras.first_at == 1_800_000_000.5
    for tag_id, position in ((1, 9), (1, 4), (1, 10), (2, 5)):
        assert await reading.kit.word(tag_id, position, 77, idempotent=True) == "idempotency_conflict:None"
    assert await reading.kit.word(1, 5, 78, idempotent=True) == REPLAYED


async def test_a_lost_scan_that_was_overtaken_is_found_in_the_log(reading: Reading) -> None:
    reading.note_clock()
    reading.database.add(1, 9, previous=5)
    reading.unresolved = True
    reading.database.log = {(1, 1234)}
    found = await reading.kit.submit(1, 5, 1234)
    assert (word(found), found.previous_position) == (ADVANCED, 0)
    assert await reading.kit.word(1, 5, 1235) == REPLAYED
    reading.database.log = {(2, 1236)}  # another tag's
    assert await reading.kit.word(1, 5, 1236) == REPLAYED


async def test_state_that_contradicts_what_was_known_is_no_verdict_and_arouses_suspicion(reading: Reading) -> None:
    reading.database.add(1, 5)
    assert await reading.kit.word(1, 6) == "unavailable:counter_contradicts"
    assert reading.suspected == 1
    assert reading.kit.record(1).floor == 5
    assert await reading.kit.word(2, 6) == "unavailable:counter_missing"
    assert reading.meters.slots[LEDGER_BROKEN] == 2
