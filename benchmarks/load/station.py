"""A station: one process of the generator with its lanes, obeying orders that come through a pipe.

An order is the name of a method and its arguments; the answer is what the method returned, or the exception. Between two orders
the event loop stands still. Plans are extended between phases, never while the clock runs. `start_ns` and all other times
are of CLOCK_MONOTONIC, which the processes of a host share, so that all stations start together.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from random import Random
from typing import Any, NamedTuple, cast

import uvloop

from benchmarks.load.histogram import encode
from benchmarks.load.lanes import ClosedLane, Expected, Lane, OpenLane
from benchmarks.load.stream import Sink, Slice, Stream, StreamLane, TapOrder
from benchmarks.load.ticker import Ticker
from benchmarks.load.traffic import KINDS, Plan, Traffic, tail_of, with_strangers

TICK_US = 200  # Arrivals are at most this late; their lateness counts as latency and is reported.
_GRACE_S = 5.0  # For the answers still to come when a phase is over; the product's own deadline is 1.5 s.
_CONNECT_S = 10.0
_CONGESTION_CONTROL = b"cubic"  # With bbr each request would cost a timer, whomever it is for.


class Post(NamedTuple):
    """Where a station stands: which plans are its own, where it sends to and what it expects."""

    traffic: Traffic
    plans: range
    host: str
    port: int
    expected: Expected
    headers: bytes = b""  # further header fields of every request, each with its line end


class Phase(NamedTuple):
    """What a station saw in one phase. Latencies are histograms of microseconds, encoded (`histogram.py`)."""

    seconds: float
    answered: int
    by_kind: dict[str, int]
    as_expected: dict[str, int]
    failures: dict[str, int]
    latency: bytes
    lateness: bytes  # open loop: how late requests left although a lane was idle
    not_sent: int  # open loop: arrivals that never found an idle lane
    not_answered: int
    exhausted: int  # lanes that ran out of prepared requests before the end: the figures are not good
    cpu_s: float
    sent: int  # in the whole phase, before and after what was measured too


class Station:
    def __init__(self, post: Post) -> None:
        self._post = post
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        fleet = with_strangers(post.traffic)
        self._plans = [Plan(post.traffic, index, fleet) for index in post.plans]
        self._tail = tail_of(post.host, post.port, post.headers)
        self._transports: list[asyncio.Transport] = []
        self._lanes: list[Lane] = []
        self._stream: Stream | None = None
        self.tell: Callable[[Slice], None] = lambda _: None  # where the intervals of a stream go

    def prepare(self, requests: int) -> int:
        """Have at least so many requests ready in every plan; how many are ready in all."""
        for plan in self._plans:
            plan.append(max(0, requests - plan.left), self._tail)
        self._forget_garbage()
        return sum(plan.left for plan in self._plans)

    def prepare_each_tag(self) -> int:
        for plan in self._plans:
            plan.append_each_tag_once(self._tail)
        self._forget_garbage()
        return sum(plan.left for plan in self._plans)

    @staticmethod
    def _forget_garbage() -> None:
        """A collection during a phase would look at every prepared request."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def connect(self) -> int:
        """Open a connection for every plan; they stay until the end, so that a tag stays with one worker of the server."""

        async def work() -> None:
            async with asyncio.timeout(_CONNECT_S):
                for plan in self._plans:
                    lane = partial(Lane, plan, self._post.expected)
                    transport, _ = await self._loop.create_connection(lane, self._post.host, self._post.port)
                    with contextlib.suppress(OSError):  # the kernel has it not: then it is as the kernel is set
                        own = transport.get_extra_info("socket")
                        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
                    self._transports.append(cast(asyncio.Transport, transport))

        self._loop.run_until_complete(work())
        return len(self._transports)

    def run_out(self, timeout_s: float) -> Phase:
        """Send all that is prepared, in a closed loop, and wait for it."""
        return self._loop.run_until_complete(self._closed(time.monotonic_ns(), None, timeout_s))

    def closed(self, start_ns: int, settle_s: float, measure_s: float) -> Phase:
        return self._loop.run_until_complete(self._closed(start_ns, settle_s, measure_s))

    async def _closed(self, start_ns: int, settle_s: float | None, measure_s: float) -> Phase:
        """With `settle_s` the figures are those of the `measure_s` after it, else of everything."""
        running = len(self._plans)
        over = self._loop.create_future()

        def finished() -> None:
            nonlocal running
            running -= 1
            if not running and not over.done():
                over.set_result(None)

        lanes = [ClosedLane(plan, self._post.expected, finished) for plan in self._plans]
        self._occupy(lanes)
        await _until(start_ns)
        first = [lane.at for lane in lanes]
        for lane in lanes:
            lane.start()
        if settle_s is not None:
            await _until(start_ns + int(settle_s * 1e9))
        start, cpu = [lane.at for lane in lanes], time.process_time()
        begun_ns = time.monotonic_ns()
        if settle_s is None:
            await asyncio.wait([over], timeout=measure_s)
        else:
            await _until(begun_ns + int(measure_s * 1e9))
        end, ended_ns, cpu = [lane.at for lane in lanes], time.monotonic_ns(), time.process_time() - cpu
        exhausted = sum(lane.at >= lane.until for lane in lanes) if settle_s is not None else 0
        for lane in lanes:
            lane.until = 0
        await asyncio.wait([over], timeout=_GRACE_S)
        not_answered = self._settle()
        latencies_ns = [
            ns for lane, a, b, c in zip(lanes, first, start, end, strict=True) for ns in lane.latencies_ns[b - a : c - a]
        ]
        return self._phase(
            (ended_ns - begun_ns) / 1e9, start, end, latencies_ns, cpu, not_answered=not_answered, exhausted=exhausted,
            sent=sum(lane.at - a for lane, a in zip(lanes, first, strict=True)),
        )  # fmt: skip

    def open(self, start_ns: int, rate_per_s: float, seconds: float, poisson: bool, share: int, shares: int) -> Phase:
        """Arrivals at `rate_per_s` of this station; `share` of `shares` moves them so that stations take turns."""
        gap_ns = 1e9 / rate_per_s
        if poisson:
            dice, at, due = Random(f"arrivals {self._post.traffic.seed} {share}"), 0.0, []
            while (at := at + dice.expovariate(1.0) * gap_ns) < seconds * 1e9:
                due.append(start_ns + int(at))
        else:
            shift_ns = start_ns + gap_ns * share / shares
            due = [int(shift_ns + gap_ns * i) for i in range(int(rate_per_s * seconds))]
        return self._loop.run_until_complete(self._open(start_ns, due, seconds))

    async def _open(self, start_ns: int, due: list[int], seconds: float) -> Phase:
        idle: deque[OpenLane] = deque()
        overdue: deque[int] = deque()
        lanes = [OpenLane(plan, self._post.expected, idle, overdue) for plan in self._plans]
        self._occupy(lanes)
        idle.extend(lane for lane in lanes if not lane.lost and lane.plan.left)
        start = [lane.at for lane in lanes]
        lateness_ns: list[int] = []
        arrived, count, clock = 0, len(due), time.monotonic_ns

        def tick() -> None:
            nonlocal arrived
            now_ns = clock()
            while arrived < count and (due_ns := due[arrived]) <= now_ns:
                arrived += 1
                if idle:
                    lateness_ns.append(now_ns - due_ns)
                    idle.popleft().send(due_ns)
                else:
                    overdue.append(due_ns)

        await _until(start_ns)
        cpu = time.process_time()
        ticker = Ticker(self._loop, tick, TICK_US)
        end_ns = start_ns + int(seconds * 1e9)
        await _until(end_ns)
        ticker.close()
        tick()
        cpu = time.process_time() - cpu
        gone_ns = [clock() - due_ns for due_ns in overdue]
        overdue.clear()
        await self._answered()
        exhausted = sum(lane.at >= len(lane.plan.requests) for lane in lanes)
        not_answered = self._settle()
        latencies_ns = [ns for lane in lanes for ns in lane.latencies_ns]
        # Arrivals that were never served count with the time they had waited, or the worst would be left out.
        latencies_ns += gone_ns
        end = [lane.at for lane in lanes]
        return self._phase(
            seconds, start, end, latencies_ns, cpu, lateness_ns=lateness_ns, not_sent=len(gone_ns),
            not_answered=not_answered, exhausted=exhausted, sent=sum(end) - sum(start),
        )  # fmt: skip

    def prepare_stream(self, ready: int) -> int:
        """Give the connections to the lanes of a stream, with `ready` taps for each; how many connections there are."""
        idle: deque[StreamLane] = deque()
        overdue: deque[int] = deque()
        sink = Sink()
        expected, tail = self._post.expected, self._tail
        lanes = [StreamLane(plan, expected, idle, overdue, sink, tail, ready) for plan in self._plans]
        self._occupy(lanes)
        self._forget_garbage()
        self._stream = Stream(lanes, sink, idle, overdue)
        return len(lanes)

    def stream(self, **order: Any) -> int:
        """An open loop that tells what it sees at every interval (`stream.py`); how many taps got no answer at its end."""
        return self._loop.run_until_complete(self._run_stream(TapOrder(**order)))

    async def _run_stream(self, order: TapOrder) -> int:
        assert self._stream is not None
        await self._stream.run(order, self.tell)
        await self._answered()
        unanswered = self._settle()
        for plan in self._plans:
            plan.settle(plan.answered)
        return unanswered

    async def _answered(self) -> None:
        """Wait for the answers still to come, for a while."""
        grace_ns = time.monotonic_ns() + int(_GRACE_S * 1e9)
        # An event instead would cost every answer a question.
        while any(lane.in_flight for lane in self._lanes) and time.monotonic_ns() < grace_ns:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _occupy(self, lanes: list[Any]) -> None:
        """Give every connection to a lane of the coming phase."""
        self._lanes = lanes
        for lane, transport in zip(lanes, self._transports, strict=True):
            lane.attach(transport)
            if transport.is_closing():
                lane.lost = True
            else:
                transport.set_protocol(lane)

    def _settle(self) -> int:
        unanswered = sum(lane.in_flight for lane in self._lanes)
        for lane in self._lanes:
            lane.settle()
            if lane.plan.uncertain and lane.plan.answered - 1 in lane.plan.uncertain:
                lane.transport.abort()  # a late answer would be taken for the next request's
        return unanswered

    def _phase(
        self, seconds: float, start: list[int], end: list[int], latencies_ns: list[int], cpu_s: float, *,
        lateness_ns: list[int] | None = None, not_sent: int = 0, not_answered: int = 0, exhausted: int = 0,
        sent: int = 0,
    ) -> Phase:  # fmt: skip
        by_kind: Counter[int] = Counter()
        wrong: Counter[int] = Counter()
        failures: Counter[str] = Counter()
        for plan, a, b in zip(self._plans, start, end, strict=True):
            by_kind.update(plan.kinds[a:b])
            for place, reason in plan.failures.items():
                if a <= place < b:
                    wrong[plan.kinds[place]] += 1
                    failures[f"{KINDS[plan.kinds[place]]}: {reason}"] += 1
        return Phase(
            seconds,
            sum(by_kind.values()),
            {KINDS[kind]: count for kind, count in sorted(by_kind.items())},
            {KINDS[kind]: count - wrong[kind] for kind, count in sorted(by_kind.items())},
            dict(failures),
            encode(latencies_ns),
            encode(lateness_ns or []),
            not_sent,
            not_answered,
            exhausted,
            cpu_s,
            sent,
        )

    def finish(self) -> dict[int, tuple[int, int, int]]:
        """Close the connections; what the database must hold, by tag (see `Plan.accepted`)."""
        for transport in self._transports:
            transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        held: dict[int, tuple[int, int, int]] = {}
        for plan in self._plans:
            held |= plan.accepted()  # no two plans share a tag
        return held


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)


def obey(pipe: Connection, post: Post) -> None:
    """The process: carry out orders until there is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; who gives the orders decides
    station = Station(post)
    station.tell = pipe.send
    while (order := _next_order(pipe)) is not None:
        name, arguments = order
        try:
            answer = getattr(station, name)(**arguments)
        except Exception as error:  # told to whoever ordered it
            answer = error
        pipe.send(answer)


def _next_order(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:  # nobody gives orders any more
        return None
