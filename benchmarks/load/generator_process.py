"""One process of the generator with its connections, executing commands that come through a pipe.

A command is the name of a method and its arguments; the reply is what the method returned, or the exception. The event loop
is idle between two commands, and plans are extended between phases, never while the clock runs. `start_ns` and all other
times are of CLOCK_MONOTONIC, which the processes of a host share, so that all processes start together.
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
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, cast

import uvloop

from benchmarks.load.connections import ClosedLoopConnection, Expected, OpenLoopConnection, TapConnection
from benchmarks.load.histogram import encode
from benchmarks.load.periodic_timer import PeriodicTimer
from benchmarks.load.results import Result
from benchmarks.load.stream import Report, Sink, Stream, StreamConnection, StreamParameters
from benchmarks.load.traffic import KINDS, Plan, Traffic, tail_of, with_strangers

TICK_US = 200  # Arrivals are at most this late; their lateness counts as latency and is reported.
_GRACE_S = 5.0  # For outstanding responses when a phase ends; the product's own deadline is 1.5 s.
_CONNECT_S = 10.0
_CONGESTION_CONTROL = b"cubic"  # With bbr each request would cost a timer, whichever contender serves it.


class Assignment(NamedTuple):
    """The plans of a process, where it sends them and the responses that it expects."""

    traffic: Traffic
    plans: range
    host: str
    port: int
    expected: Expected
    headers: bytes = b""  # additional header fields of every request, each with its line end
    socket_path: Path | None = None  # a Unix socket to connect to instead of host and port


class GeneratorProcess:
    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        fleet = with_strangers(assignment.traffic)
        self._plans = [Plan(assignment.traffic, index, fleet) for index in assignment.plans]
        self._tail = tail_of(assignment.host, assignment.port, assignment.headers)
        self._transports: list[asyncio.Transport] = []
        self._connections: list[TapConnection] = []
        self._stream: Stream | None = None
        self.report: Report = lambda _: None  # receives the intervals of a stream

    def prepare(self, requests: int) -> int:
        """Prepare at least `requests` in every plan; returns how many are ready in all."""
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
        """Keep the garbage collector from visiting every prepared request during a phase."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def connect(self) -> int:
        """Open a connection for every plan. Connections stay open until the end, so that a tag stays with one worker of the
        server.
        """

        async def work() -> None:
            async with asyncio.timeout(_CONNECT_S):
                for plan in self._plans:
                    self._transports.append(await self._connected(partial(TapConnection, plan, self._assignment.expected)))

        self._loop.run_until_complete(work())
        return len(self._transports)

    async def _connected(self, connection: Callable[[], TapConnection]) -> asyncio.Transport:
        assignment = self._assignment
        if assignment.socket_path is not None:
            transport, _ = await self._loop.create_unix_connection(connection, str(assignment.socket_path))
            return cast(asyncio.Transport, transport)
        transport, _ = await self._loop.create_connection(connection, assignment.host, assignment.port)
        with contextlib.suppress(OSError):  # the kernel does not provide it: its default applies
            own = transport.get_extra_info("socket")
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
        return cast(asyncio.Transport, transport)

    def disconnect(self) -> int:
        """Close all connections; returns how many there were. Nothing is in flight between two phases."""
        closed = len(self._transports)
        for transport in self._transports:
            transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._transports.clear()
        return closed

    def run_out(self, timeout_s: float) -> Result:
        """Send everything that is prepared, in a closed loop, and wait for the responses."""
        return self._loop.run_until_complete(self._closed(time.monotonic_ns(), None, timeout_s))

    def closed(self, start_ns: int, settle_s: float, measure_s: float) -> Result:
        return self._loop.run_until_complete(self._closed(start_ns, settle_s, measure_s))

    async def _closed(self, start_ns: int, settle_s: float | None, measure_s: float) -> Result:
        """With `settle_s` the figures cover the `measure_s` after it, otherwise everything."""
        running = len(self._plans)
        over = self._loop.create_future()

        def finished() -> None:
            nonlocal running
            running -= 1
            if not running and not over.done():
                over.set_result(None)

        connections = [ClosedLoopConnection(plan, self._assignment.expected, finished) for plan in self._plans]
        self._hand_over(connections)
        await _until(start_ns)
        first = [connection.at for connection in connections]
        for connection in connections:
            connection.start()
        if settle_s is not None:
            await _until(start_ns + int(settle_s * 1e9))
        start, cpu = [connection.at for connection in connections], time.process_time()
        begun_ns = time.monotonic_ns()
        if settle_s is None:
            await asyncio.wait([over], timeout=measure_s)
        else:
            await _until(begun_ns + int(measure_s * 1e9))
        end, ended_ns, cpu = [connection.at for connection in connections], time.monotonic_ns(), time.process_time() - cpu
        exhausted = sum(connection.at >= connection.until for connection in connections) if settle_s is not None else 0
        for connection in connections:
            connection.until = 0
        await asyncio.wait([over], timeout=_GRACE_S)
        not_answered = self._settle()
        latencies_ns = [
            ns
            for connection, a, b, c in zip(connections, first, start, end, strict=True)
            for ns in connection.latencies_ns[b - a : c - a]
        ]
        return self._result(
            (ended_ns - begun_ns) / 1e9, start, end, latencies_ns, cpu, not_answered=not_answered, exhausted=exhausted,
            sent=sum(connection.at - a for connection, a in zip(connections, first, strict=True)),
        )  # fmt: skip

    def open(self, start_ns: int, rate_per_s: float, seconds: float, poisson: bool, share: int, shares: int) -> Result:
        """Arrivals at `rate_per_s` of this process; `share` of `shares` shifts them so that processes alternate."""
        gap_ns = 1e9 / rate_per_s
        if poisson:
            dice, at, due = Random(f"arrivals {self._assignment.traffic.seed} {share}"), 0.0, []
            while (at := at + dice.expovariate(1.0) * gap_ns) < seconds * 1e9:
                due.append(start_ns + int(at))
        else:
            shift_ns = start_ns + gap_ns * share / shares
            due = [int(shift_ns + gap_ns * i) for i in range(int(rate_per_s * seconds))]
        return self._loop.run_until_complete(self._open(start_ns, due, seconds))

    async def _open(self, start_ns: int, due: list[int], seconds: float) -> Result:
        idle: deque[OpenLoopConnection] = deque()
        overdue: deque[int] = deque()
        connections = [OpenLoopConnection(plan, self._assignment.expected, idle, overdue) for plan in self._plans]
        self._hand_over(connections)
        idle.extend(connection for connection in connections if not connection.lost and connection.plan.left)
        start = [connection.at for connection in connections]
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
        timer = PeriodicTimer(self._loop, tick, TICK_US)
        end_ns = start_ns + int(seconds * 1e9)
        await _until(end_ns)
        timer.close()
        tick()
        cpu = time.process_time() - cpu
        gone_ns = [clock() - due_ns for due_ns in overdue]
        overdue.clear()
        await self._await_responses()
        exhausted = sum(connection.at >= len(connection.plan.requests) for connection in connections)
        not_answered = self._settle()
        latencies_ns = [ns for connection in connections for ns in connection.latencies_ns]
        # Arrivals that were never served count with the time they had waited; otherwise the worst would be missing.
        latencies_ns += gone_ns
        end = [connection.at for connection in connections]
        return self._result(
            seconds, start, end, latencies_ns, cpu, lateness_ns=lateness_ns, not_sent=len(gone_ns),
            not_answered=not_answered, exhausted=exhausted, sent=sum(end) - sum(start),
        )  # fmt: skip

    def prepare_stream(self, ready: int) -> int:
        """Set up the connections of a stream with `ready` taps for each; returns how many connections there are."""
        idle: deque[StreamConnection] = deque()
        overdue: deque[int] = deque()
        sink = Sink()
        expected, tail = self._assignment.expected, self._tail
        connections = [StreamConnection(plan, expected, idle, overdue, sink, tail, ready) for plan in self._plans]
        self._hand_over(connections)
        self._forget_garbage()
        self._stream = Stream(connections, sink, idle, overdue)
        return len(connections)

    def stream(self, **parameters: Any) -> int:
        """An open loop that reports every interval (`stream.py`); returns how many taps had no response at its end."""
        return self._loop.run_until_complete(self._run_stream(StreamParameters(**parameters)))

    async def _run_stream(self, parameters: StreamParameters) -> int:
        assert self._stream is not None
        await self._stream.run(parameters, self.report)
        await self._await_responses()
        unanswered = self._settle()
        for plan in self._plans:
            plan.settle(plan.answered)
        return unanswered

    async def _await_responses(self) -> None:
        """Wait for outstanding responses, for up to `_GRACE_S`."""
        grace_ns = time.monotonic_ns() + int(_GRACE_S * 1e9)
        # An event would add a check to every response.
        while any(connection.in_flight for connection in self._connections) and time.monotonic_ns() < grace_ns:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _hand_over(self, connections: list[Any]) -> None:
        """Attach every transport to its connection of the coming phase."""
        self._connections = connections
        for connection, transport in zip(connections, self._transports, strict=True):
            connection.attach(transport)
            if transport.is_closing():
                connection.lost = True
            else:
                transport.set_protocol(connection)

    def _settle(self) -> int:
        unanswered = sum(connection.in_flight for connection in self._connections)
        for connection in self._connections:
            connection.settle()
            if connection.plan.uncertain and connection.plan.answered - 1 in connection.plan.uncertain:
                connection.transport.abort()  # a late response would be taken for the next request's
        return unanswered

    def _result(
        self, seconds: float, start: list[int], end: list[int], latencies_ns: list[int], cpu_s: float, *,
        lateness_ns: list[int] | None = None, not_sent: int = 0, not_answered: int = 0, exhausted: int = 0,
        sent: int = 0,
    ) -> Result:  # fmt: skip
        by_kind: Counter[int] = Counter()
        wrong: Counter[int] = Counter()
        failures: Counter[str] = Counter()
        for plan, a, b in zip(self._plans, start, end, strict=True):
            by_kind.update(plan.kinds[a:b])
            for place, reason in plan.failures.items():
                if a <= place < b:
                    wrong[plan.kinds[place]] += 1
                    failures[f"{KINDS[plan.kinds[place]]}: {reason}"] += 1
        return Result(
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
        """Close the connections; returns what the database must hold, by tag (see `Plan.accepted`)."""
        self.disconnect()
        self._loop.close()
        held: dict[int, tuple[int, int, int]] = {}
        for plan in self._plans:
            held |= plan.accepted()  # no two plans share a tag
        return held


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)


def run_process(pipe: Connection, assignment: Assignment) -> None:
    """Main function of the process: execute commands until one is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the terminal; the parent decides
    process = GeneratorProcess(assignment)
    process.report = pipe.send
    while (command := _next_command(pipe)) is not None:
        name, arguments = command
        try:
            reply = getattr(process, name)(**arguments)
        except Exception as error:  # raised again in the parent
            reply = error
        pipe.send(reply)


def _next_command(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:  # the parent has ended
        return None
