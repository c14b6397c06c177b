"""Which requests a worker short of CPU admits, refuses and postpones. The tests control its clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ixfast import limits, meters
from ixfast.http import admission
from ixfast.http.admission import Admission
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.pipeline.engine import Engine

DEADLINE_S = 1.5
BUDGET_S = DEADLINE_S * limits.WORKER_WAIT_SHARE


class Clock:
    """The loop's clock, with its timers; `now` moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Any:
        self.timers.append((self.now + delay_s, call))
        return self

    def call_soon(self, call: Callable[[], None]) -> Any:
        return self.call_later(0.0, call)

    def cancel(self) -> None:
        pass

    def run(self, seconds: float) -> None:
        """Advance the clock and run the timers that are due."""
        self.now += seconds
        due = [each for each in self.timers if each[0] <= self.now]
        self.timers = [each for each in self.timers if each[0] > self.now]
        for _, call in due:
            call()


class NoCatalogue:
    """In these tests no scan gets as far as the look-up."""

    def find(self, ref: bytes) -> None:
        raise AssertionError(ref)


class Worker:
    """A dispatcher with its admission control, whose requests have waited in the kernel for as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.age_s = 0.0
        monkeypatch.setattr(admission, "_unread_s", lambda _: self.age_s)
        catalogue: Any = NoCatalogue()
        loop: Any = self.clock
        gauges = meters.Meters()
        self.dispatcher = ScanDispatcher(Engine(catalogue, gauges), catalogue, gauges, loop)
        self.admission = Admission(self.dispatcher, deadline_s=DEADLINE_S, moment=self.clock.time)
        self.refused: list[int] = []
        self.resumed: list[tuple[int, float]] = []
        self.admission.begin_round(self.clock.now)

    def round(self, seconds: float) -> None:
        self.clock.now += seconds
        self.admission.begin_round(self.clock.now)

    def takes(self, age_s: float) -> bool:
        """Whether a request that has waited this long is admitted."""
        self.age_s = age_s
        if self.admission.slow and self.admission.is_overdue(None):
            return False
        self.admission.in_flight += 1
        return True

    def answer(self, count: int) -> None:
        self.admission.in_flight -= count
        self.admission.answered += count

    def learn(self, per_s: int) -> None:
        """Answer scans at this rate, 100 at a time, for a while."""
        for _ in range(30):
            self.admission.in_flight += 100
            self.round(100 / per_s)
            self.answer(100)
            self.admission.in_flight += limits.WORKER_RATE_SCANS_MIN
            self.round(0.0)
            self.admission.in_flight -= limits.WORKER_RATE_SCANS_MIN

    def postpone(self, name: int, age_s: float = BUDGET_S * 2) -> None:
        """Postpone a request that has waited this long."""
        self.age_s = self.admission._age_s = age_s
        self.admission._overdue_at = self.clock.now
        self.admission.postpone(Postponed(self), name, None)


class Postponed:
    """A connection with a postponed request."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def submit(self, name: int, head: None, trace: None) -> None:
        self.worker.admission.in_flight += 1
        self.worker.resumed.append((name, self.worker.dispatcher.waited_s))

    def refuse(self, name: int) -> None:
        self.worker.admission.in_flight += 1
        self.worker.refused.append(name)
        self.worker.answer(1)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def test_a_worker_that_keeps_up_asks_nobody_how_old_a_request_is(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_unread_s", None)
    for _ in range(100):
        worker.round(limits.SLOW_ROUND_S / 2)
        assert worker.takes(0.0)


def test_what_waited_longer_than_can_be_made_up_for_is_not_taken_in(worker: Worker) -> None:
    worker.round(0.1)
    assert worker.takes(BUDGET_S + 0.01)  # there is nothing else to do, so it is tried
    worker.round(0.1)
    assert worker.takes(BUDGET_S - 0.01)
    worker.round(0.1)
    assert not worker.takes(BUDGET_S + 0.01)


def test_the_time_in_the_kernel_is_taken_from_the_scan(worker: Worker) -> None:
    worker.round(0.1)
    worker.clock.now += 0.02  # in this round
    assert worker.takes(0.5)
    assert worker.dispatcher.waited_s == pytest.approx(0.5)  # by the clock, which went on in this round


def test_no_more_are_taken_in_than_are_answered_soon(worker: Worker) -> None:
    worker.learn(1000)
    worker.round(0.1)
    taken = sum(worker.takes(0.2) for _ in range(1000))
    assert taken == pytest.approx(1000 * limits.WORKER_CAPACITY_S, rel=0.1)


def test_a_few_are_always_taken_in(worker: Worker) -> None:
    """However low the rate measured in a bad moment was, it can be measured again."""
    worker.learn(2)
    worker.round(0.1)
    assert sum(worker.takes(0.2) for _ in range(1000)) == limits.WORKER_CAPACITY_MIN + 1 > limits.WORKER_RATE_SCANS_MIN


def test_those_postponed_get_their_turn_the_newest_first(worker: Worker) -> None:
    """They resume once half of the capacity is free, and before their time has run out."""
    capacity = limits.WORKER_CAPACITY_MIN
    worker.round(0.1)
    while worker.takes(0.1):
        pass
    for name, age_s in enumerate((BUDGET_S + 0.1, 0.5, 0.4, 0.3)):
        worker.postpone(name, age_s)
    assert worker.admission.in_flight > worker.admission.resume_at == capacity // 2
    worker.answer(capacity // 2 + 1)
    assert worker.admission.in_flight <= worker.admission.resume_at
    worker.clock.now += 0.1
    worker.admission.resume_soon()
    worker.clock.run(0.0)
    assert worker.resumed == [(3, pytest.approx(0.4)), (2, pytest.approx(0.5)), (1, pytest.approx(0.6))]
    worker.clock.run(limits.REFUSAL_INTERVAL_S)
    assert worker.refused == [0]


def test_what_was_postponed_for_too_long_is_refused(worker: Worker) -> None:
    worker.postpone(1, BUDGET_S - 0.01)
    worker.clock.now += 0.02
    worker.admission.resume_soon()
    worker.clock.run(0.0)
    worker.clock.run(limits.REFUSAL_INTERVAL_S)
    assert (worker.resumed, worker.refused) == ([], [1])


def test_a_round_after_a_slow_one_is_looked_at_while_requests_are_old(worker: Worker) -> None:
    """Requests left over from a slow round are read in quick ones, and are just as old."""
    worker.round(0.1)
    worker.takes(0.0)
    worker.takes(BUDGET_S * 2)
    for _ in range(limits.AGE_LOOK_EVERY):
        worker.takes(BUDGET_S * 2)
    worker.round(0.001)
    assert worker.takes(BUDGET_S * 2) is False
    worker.round(0.001)
    for _ in range(2 * limits.AGE_LOOK_EVERY):
        worker.takes(0.001)
    worker.round(0.001)
    assert not worker.admission.slow


def test_a_worker_with_too_much_to_do_refuses_one_for_eight_answers(worker: Worker) -> None:
    worker.admission.in_flight = 1
    worker.round(0.1)
    assert not worker.takes(BUDGET_S * 2)
    for scan_id in range(1000):
        worker.postpone(scan_id)
    worker.admission.in_flight += 500
    assert worker.refused == []
    worker.answer(400)
    worker.clock.run(limits.REFUSAL_INTERVAL_S)
    assert worker.refused == list(range(400 // limits.ANSWERS_A_REFUSAL))  # those that have waited longest


def test_a_worker_with_nothing_else_to_do_refuses_all(worker: Worker) -> None:
    for scan_id in range(300):
        worker.postpone(scan_id)
    worker.clock.run(limits.REFUSAL_INTERVAL_S)
    worker.clock.run(limits.REFUSAL_INTERVAL_S)
    assert worker.refused == list(range(300))
    assert worker.admission.in_flight == 0


def _served_in_time(worker: Worker, times: float, *, controlled: bool, shows_age: bool = True) -> float:
    """The share of a worker's capacity that is answered within a second.

    The worker can answer 1,000 scans a second or refuse 3,000, and is offered `times` that rate over 2,000 connections. Without
    admission control it admits everything that it reads. If the kernel does not show the age of a request, as for Unix sockets,
    the time in the kernel is not part of it.
    """
    pass_s, refusal_s, period_s, seconds = 0.001, 0.001 / 3, 0.1, 20.0
    unread: list[float] = []
    inside: list[float] = []
    free, in_time, debt = 2000.0, 0, 0.0
    began = worker.clock.now
    while worker.clock.now < began + seconds:
        sent = int(min(times / pass_s * period_s, free))
        unread += [worker.clock.now + period_s / 2] * sent
        free -= sent
        worker.round(period_s)
        now = worker.clock.now
        spent = debt
        done = 0
        while inside and spent < period_s:
            in_time += now - inside.pop(0) < 1.0
            spent += pass_s
            done += 1
        worker.answer(done)
        free += done
        before = len(worker.refused)
        worker.clock.run(0.0)
        refused = len(worker.refused) - before
        free += refused
        spent += refused * refusal_s
        inside += [now - waited_s - (0.0 if shows_age else period_s / 2) for _, waited_s in worker.resumed]
        worker.resumed.clear()
        debt = max(0.0, spent - period_s)
        while unread:
            arrived = unread.pop(0)
            age_s = now - arrived if shows_age else 0.0
            if not controlled:
                worker.admission.in_flight += 1
            elif not worker.takes(age_s):
                worker.postpone(0, age_s)
                continue
            inside.append(arrived)
    return in_time / seconds * pass_s


@pytest.mark.parametrize("shows_age", [True, False], ids=["TCP", "Unix socket"])
@pytest.mark.parametrize("times", [1.5, 3.0])
def test_more_than_the_capacity_leaves_the_goodput(monkeypatch: pytest.MonkeyPatch, times: float, shows_age: bool) -> None:
    assert _served_in_time(Worker(monkeypatch), times, controlled=True, shows_age=shows_age) > 0.9
    # The control: at 1,000 answers a second for 2,000 waiting connections, all are answered late.
    assert _served_in_time(Worker(monkeypatch), times, controlled=False) < 0.2


class UnreadAge(asyncio.Protocol):
    """Sets `seen` to how long the first bytes have waited in the kernel, in seconds."""

    def __init__(self, seen: asyncio.Future[float]) -> None:
        self.seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.seen.set_result(admission._unread_s(self.transport))


async def test_a_unix_socket_does_not_tell_how_long_a_request_has_waited(open_scratch: Path) -> None:
    """It counts as having just arrived, however long the loop was away."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[float] = loop.create_future()
    path = open_scratch / "age.sock"
    async with await loop.create_unix_server(lambda: UnreadAge(seen), path):
        _, writer = await asyncio.open_unix_connection(path)
        await asyncio.sleep(0)
        writer.write(b"x")
        time.sleep(0.1)  # noqa: ASYNC251 - makes the loop late on purpose
        assert await asyncio.wait_for(seen, 5) == 0.0
        writer.close()


async def test_the_kernel_tells_how_long_a_request_has_waited() -> None:
    """On a real connection, whichever event loop serves it."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[float] = loop.create_future()
    server = await loop.create_server(lambda: UnreadAge(seen), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(0)
        writer.write(b"x")
        time.sleep(0.2)  # noqa: ASYNC251 - makes the loop late on purpose
        waited_s = await asyncio.wait_for(seen, 5)
        writer.close()
    assert 0.15 <= waited_s < 2.0
