"""A stream: an open loop that lasts, in bounded memory, and tells what it sees at fixed intervals while it goes on.

Taps are made a few at a time by the connection that sends them, and forgotten when they are answered. Answers without a
verdict (503) are counted apart: under overload they are what a good server gives, and their latency is not that of a scan.
An arrival that finds no idle connection waits; if it waited longer than `patience_s`, its client gave up and it is not sent.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic_ns
from typing import NamedTuple

from benchmarks.load.lanes import Expected, Lane
from benchmarks.load.ticker import Ticker
from benchmarks.load.traffic import KINDS, Plan

_CLOSING_BRACE = 0x7D
_CHUNK = 32  # Taps made at once: about 150 us, so no arrival waits long for them.
_TICK_US = 500
_NOT_CONSUMED = (b'"overloaded"', b'"rate_limited"', b'"draining"')


class Slice(NamedTuple):
    """What a station saw in one interval. Latencies and lateness are microseconds, as arrays of unsigned 32-bit integers."""

    number: int
    seconds: float
    due: int
    sent: int
    served: int  # answered with the expected verdict
    passes: int  # genuine ones among them
    passes_in_time: int  # of these, those whose answer came within the caller's patience after the request was sent
    refused: dict[str, int]  # answered without a verdict, by code
    wrong: dict[str, int]  # anything else: the figures are not good
    gave_up: int
    latency_us: bytes  # of what was served, from when it was due
    service_us: bytes  # the same from when it was sent: without the wait for a connection
    refused_us: bytes
    cpu_s: float


Tell = Callable[[Slice], None]


class Sink:
    """Where the lanes of a station put what they see; emptied at every interval."""

    def __init__(self) -> None:
        self.served_ns: list[int] = []
        self.service_ns: list[int] = []
        self.refused_ns: list[int] = []
        self.refused: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.passes = 0
        self.passes_in_time = 0
        self.sent = 0
        self.patience_ns = 1_000_000_000

    def drain(self, number: int, seconds: float, due: int, gave_up: int, cpu_s: float) -> Slice:
        taken = Slice(
            number, seconds, due, self.sent, len(self.served_ns), self.passes, self.passes_in_time, dict(self.refused),
            dict(self.wrong), gave_up, _us(self.served_ns), _us(self.service_ns), _us(self.refused_ns), cpu_s,
        )  # fmt: skip
        for kept in (self.served_ns, self.service_ns, self.refused_ns, self.refused, self.wrong):
            kept.clear()
        self.passes = self.passes_in_time = self.sent = 0
        return taken


def _us(nanoseconds: list[int]) -> bytes:
    return array("I", [ns // 1000 for ns in nanoseconds]).tobytes()


class StreamLane(Lane):
    """One connection of a stream; `at` is the place in the chunk that the plan has now."""

    __slots__ = ("_idle", "_overdue", "_sent_ns", "_sink", "_tail")

    def __init__(
        self, plan: Plan, expected: Expected, idle: deque[StreamLane], overdue: deque[int], sink: Sink, tail: bytes, ready: int
    ) -> None:
        plan.renew(plan.answered, max(_CHUNK, ready), tail)
        super().__init__(plan, expected)
        self._idle, self._overdue, self._sink, self._tail = idle, overdue, sink, tail
        self._sent_ns = 0

    def send(self, due_ns: int) -> None:
        self._in_flight = True
        self._start_ns = due_ns
        self._sent_ns = monotonic_ns()
        self._sink.sent += 1
        self._write(self._requests[self.at])

    def give_up(self, reason: str) -> None:
        self._sink.wrong[reason] += 1
        super().give_up(reason)

    def data_received(self, received: bytes) -> None:
        if self._partial:
            received = self._partial + received
            self._partial = b""
        if received[-1] != _CLOSING_BRACE:
            self._partial = received
            return
        at, sink = self.at, self._sink
        kind = self._kinds[at]
        beginning, word = self._expected[kind]
        if word in received and received.startswith(beginning):
            now_ns = monotonic_ns()
            sink.served_ns.append(now_ns - self._start_ns)
            service_ns = now_ns - self._sent_ns
            sink.service_ns.append(service_ns)
            if not kind:
                sink.passes += 1
                if service_ns <= sink.patience_ns:
                    sink.passes_in_time += 1
        else:
            self._note(received)
        self.at = at = at + 1
        if at == len(self._requests):
            self.plan.renew(at, _CHUNK, self._tail)
            self.at = 0
        if self._overdue:
            self.send(self._overdue.popleft())
        else:
            self._in_flight = False
            self._idle.append(self)

    def _note(self, answer: bytes) -> None:
        super()._note(answer)
        said = self.plan.failures[self.at]
        if said.startswith(("503 ", "429 ")):
            self._sink.refused[said[4:]] += 1
            self._sink.refused_ns.append(monotonic_ns() - self._start_ns)
            if any(code in answer for code in _NOT_CONSUMED):  # docs/api.md: nothing was consumed, whatever happens
                self.plan.uncertain.discard(self.at)
        else:
            self._sink.wrong[f"{KINDS[self._kinds[self.at]]}: {said}"] += 1


class TapOrder(NamedTuple):
    """What a stream is to be. The rate is that of this station; `share` of `shares` moves its arrivals."""

    start_ns: int
    rate_per_s: float
    seconds: float
    interval_s: float
    patience_s: float
    share: int
    shares: int


class Stream(NamedTuple):
    """The lanes of a station with what they share: the idle ones, the longest idle first, and arrivals that found none."""

    lanes: list[StreamLane]
    sink: Sink
    idle: deque[StreamLane]
    overdue: deque[int]

    async def run(self, order: TapOrder, tell: Tell) -> None:
        """Send what is due; `tell` gets a `Slice` an interval. What still waits at the end is not sent."""
        idle, overdue = self.idle, self.overdue
        idle.extend(lane for lane in self.lanes if not lane.lost)
        gap_ns = 1e9 / order.rate_per_s
        first_ns = order.start_ns + gap_ns * order.share / order.shares
        count = int(order.rate_per_s * order.seconds)
        patience_ns = self.sink.patience_ns = int(order.patience_s * 1e9)
        arrived = gave_up = 0

        def tick() -> None:
            nonlocal arrived, gave_up
            now_ns = monotonic_ns()
            while overdue and overdue[0] < now_ns - patience_ns:
                overdue.popleft()
                gave_up += 1
            until = min(count, int((now_ns - first_ns) // gap_ns) + 1)
            while arrived < until:
                due_ns = int(first_ns + gap_ns * arrived)
                arrived += 1
                if idle:
                    idle.popleft().send(due_ns)
                else:
                    overdue.append(due_ns)

        await _until(order.start_ns)
        ticker = Ticker(asyncio.get_running_loop(), tick, _TICK_US)
        try:
            await _intervals(order, self.sink, lambda: (arrived, gave_up), tell)
        finally:
            ticker.close()
            overdue.clear()


async def _intervals(order: TapOrder, sink: Sink, seen: Callable[[], tuple[int, int]], tell: Tell) -> None:
    begun_ns, cpu, before = order.start_ns, time.process_time(), (0, 0)
    for index in range(max(1, round(order.seconds / order.interval_s))):
        await _until(order.start_ns + int((index + 1) * order.interval_s * 1e9))
        now_ns, spent, now = monotonic_ns(), time.process_time(), seen()
        tell(sink.drain(index, (now_ns - begun_ns) / 1e9, now[0] - before[0], now[1] - before[1], spent - cpu))
        begun_ns, cpu, before = now_ns, spent, now


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0, at_ns - monotonic_ns()) / 1e9)
