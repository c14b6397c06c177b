"""A stream: an open loop of any length, in bounded memory, that reports at fixed intervals while it runs.

Taps are made a few at a time by the connection that sends them, and forgotten when they are answered. Responses without a
verdict (503) are counted apart: a good server sends them under overload, and their latency is not that of a scan. An arrival
that finds no idle connection waits; once it has waited longer than `patience_s`, its client has given up and it is not sent.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic_ns
from typing import NamedTuple

from benchmarks.load.connections import Expected, TapConnection
from benchmarks.load.periodic_timer import PeriodicTimer
from benchmarks.load.results import Interval
from benchmarks.load.traffic import KINDS, Plan

_CHUNK = 32  # Taps made at once: about 150 us, so no arrival waits long for them.
_TICK_US = 500
_NOT_CONSUMED = (b'"overloaded"', b'"rate_limited"', b'"draining"')


Report = Callable[[Interval], None]


class Sink:
    """Counters of all connections of a process; drained at every interval."""

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

    def drain(self, number: int, seconds: float, due: int, gave_up: int, cpu_s: float) -> Interval:
        taken = Interval(
            number, seconds, due, self.sent, len(self.served_ns), self.passes, self.passes_in_time, dict(self.refused),
            dict(self.wrong), gave_up, _us(self.served_ns), _us(self.service_ns), _us(self.refused_ns), cpu_s,
        )  # fmt: skip
        for kept in (self.served_ns, self.service_ns, self.refused_ns, self.refused, self.wrong):
            kept.clear()
        self.passes = self.passes_in_time = self.sent = 0
        return taken


def _us(nanoseconds: list[int]) -> bytes:
    return array("I", [ns // 1000 for ns in nanoseconds]).tobytes()


class StreamConnection(TapConnection):
    """One connection of a stream; `at` is the index in the plan's current chunk."""

    __slots__ = ("_idle", "_overdue", "_sent_ns", "_sink", "_tail")

    def __init__(
        self,
        plan: Plan,
        expected: Expected,
        idle: deque[StreamConnection],
        overdue: deque[int],
        sink: Sink,
        tail: bytes,
        ready: int,
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
        response = self._completed(received)
        if not response:
            return
        at, sink = self.at, self._sink
        kind = self._kinds[at]
        beginning, word = self._expected[kind]
        if word in response and response.startswith(beginning):
            now_ns = monotonic_ns()
            sink.served_ns.append(now_ns - self._start_ns)
            service_ns = now_ns - self._sent_ns
            sink.service_ns.append(service_ns)
            if not kind:
                sink.passes += 1
                if service_ns <= sink.patience_ns:
                    sink.passes_in_time += 1
        else:
            self._note(response)
        self.at = at = at + 1
        if at == len(self._requests):
            self.plan.renew(at, _CHUNK, self._tail)
            self.at = 0
        if self._overdue:
            self.send(self._overdue.popleft())
        else:
            self._in_flight = False
            self._idle.append(self)

    def _note(self, response: bytes) -> None:
        super()._note(response)
        failure = self.plan.failures[self.at]
        if failure.startswith(("503 ", "429 ")):
            self._sink.refused[failure[4:]] += 1
            self._sink.refused_ns.append(monotonic_ns() - self._start_ns)
            if any(code in response for code in _NOT_CONSUMED):  # nothing was consumed, whatever happens
                self.plan.uncertain.discard(self.at)
        else:
            self._sink.wrong[f"{KINDS[self._kinds[self.at]]}: {failure}"] += 1


class StreamParameters(NamedTuple):
    """Parameters of a stream. The rate is that of this process; `share` of `shares` shifts its arrivals."""

    start_ns: int
    rate_per_s: float
    seconds: float
    interval_s: float
    patience_s: float
    share: int
    shares: int


class Stream(NamedTuple):
    """The connections of a process and what they share: the idle ones, longest idle first, and the arrivals that found none."""

    connections: list[StreamConnection]
    sink: Sink
    idle: deque[StreamConnection]
    overdue: deque[int]

    async def run(self, parameters: StreamParameters, report: Report) -> None:
        """Send what is due and call `report` once per interval. Arrivals that still wait at the end are not sent."""
        idle, overdue = self.idle, self.overdue
        idle.extend(connection for connection in self.connections if not connection.lost)
        gap_ns = 1e9 / parameters.rate_per_s
        first_ns = parameters.start_ns + gap_ns * parameters.share / parameters.shares
        count = int(parameters.rate_per_s * parameters.seconds)
        patience_ns = self.sink.patience_ns = int(parameters.patience_s * 1e9)
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

        await _until(parameters.start_ns)
        timer = PeriodicTimer(asyncio.get_running_loop(), tick, _TICK_US)
        try:
            await _report_intervals(parameters, self.sink, lambda: (arrived, gave_up), report)
        finally:
            timer.close()
            overdue.clear()


async def _report_intervals(
    parameters: StreamParameters, sink: Sink, seen: Callable[[], tuple[int, int]], report: Report
) -> None:
    begun_ns, cpu, before = parameters.start_ns, time.process_time(), (0, 0)
    for index in range(max(1, round(parameters.seconds / parameters.interval_s))):
        await _until(parameters.start_ns + int((index + 1) * parameters.interval_s * 1e9))
        now_ns, spent, now = monotonic_ns(), time.process_time(), seen()
        report(sink.drain(index, (now_ns - begun_ns) / 1e9, now[0] - before[0], now[1] - before[1], spent - cpu))
        begun_ns, cpu, before = now_ns, spent, now


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0, at_ns - monotonic_ns()) / 1e9)
