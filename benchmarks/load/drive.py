"""Driving the load: several stations that act as one generator."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Self

from benchmarks.load import histogram
from benchmarks.load.lanes import Expected
from benchmarks.load.station import Phase, Post, obey
from benchmarks.load.stream import Slice
from benchmarks.load.traffic import Traffic

SCAN_ANSWERS: Expected = (
    (b"HTTP/1.1 200", b'"Pass"'),
    (b"HTTP/1.1 200", b'"Fail"'),
    (b"HTTP/1.1 200", b'"Fail"'),
    (b"HTTP/1.1 404", b'"not_found"'),
)
"""What `/v1/t` answers to a genuine, replayed, forged and unknown tap."""
CONSTANT_ANSWER: Expected = ((b"HTTP/1.1 200", b'"Pass"'),) * 4
"""What a server answers that does no work."""

_ORDER_S = 600.0
_START_DELAY_S = 0.15  # For the order to reach every station.


class LoadError(RuntimeError):
    """A process of the generator ended, hung, or could not do what it was told."""


class Result(NamedTuple):
    """What all stations saw in one phase."""

    seconds: float
    answered: int
    by_kind: dict[str, int]
    as_expected: dict[str, int]
    failures: dict[str, int]
    latency: Any
    lateness: Any
    not_sent: int
    not_answered: int
    exhausted: int
    cpu_s: float
    sent: int

    @property
    def requests_per_s(self) -> float:
        return self.answered / self.seconds

    @property
    def passes_per_s(self) -> float:
        """Genuine taps that were answered so: durable, if the server keeps its word."""
        return self.as_expected.get("genuine", 0) / self.seconds

    @property
    def generator_us(self) -> float:
        """The generator's own processor time for one request."""
        return self.cpu_s * 1e6 / max(1, self.answered)

    def flaws(self) -> list[str]:
        """Why the figures are not good; empty if they are."""
        flaws = [f"{count} x {reason}" for reason, count in sorted(self.failures.items(), key=lambda item: -item[1])]
        if self.exhausted:
            flaws.append(f"{self.exhausted} connections ran out of prepared requests")
        return flaws


class Interval(NamedTuple):
    """What all stations saw in one interval of a stream. Latencies are histograms, from when a request was due."""

    number: int
    seconds: float
    due: int
    sent: int
    served: int
    passes: int
    passes_in_time: int  # within the caller's patience after the request was sent
    refused: dict[str, int]
    wrong: dict[str, int]
    gave_up: int
    latency: Any  # of what was served
    service: Any  # the same from when it was sent
    refusal_latency: Any
    cpu_s: float

    @classmethod
    def of(cls, slices: list[Slice]) -> Self:
        def total(name: str) -> Any:
            return sum(getattr(each, name) for each in slices)

        def merged(name: str) -> dict[str, int]:
            counted: Counter[str] = Counter()
            for each in slices:
                counted.update(getattr(each, name))
            return dict(counted)

        def times(name: str) -> Any:
            return histogram.of_us(array("I", b"".join(getattr(each, name) for each in slices)))

        return cls(
            slices[0].number, max(each.seconds for each in slices), total("due"), total("sent"), total("served"), total("passes"),
            total("passes_in_time"), merged("refused"), merged("wrong"), total("gave_up"), times("latency_us"),
            times("service_us"), times("refused_us"), total("cpu_s"),
        )  # fmt: skip

    @property
    def passes_per_s(self) -> float:
        return self.passes / self.seconds


class Load:
    """The generator. Use it as a context manager; a phase is measured by `closed` or `open`, as often as wanted."""

    def __init__(self, traffic: Traffic, port: int, expected: Expected, *, processes: int = 2, headers: bytes = b"") -> None:
        self.traffic = traffic
        self.processes = processes
        self._posts = [
            Post(traffic, range(i, traffic.plans, processes), "127.0.0.1", port, expected, headers) for i in range(processes)
        ]
        self._stations: list[tuple[BaseProcess, Connection]] = []
        self.unanswered = 0  # at the end of the last stream

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for post in self._posts:
            own, other = context.Pipe()
            process = context.Process(target=obey, args=(other, post), daemon=True)
            process.start()
            other.close()
            self._stations.append((process, own))
        return self

    def __exit__(self, *exception: object) -> None:
        for process, pipe in self._stations:
            with contextlib.suppress(OSError):  # it is gone already
                pipe.send(None)
                process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._stations.clear()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._stations if process.pid is not None]

    def _order(self, name: str, each: Iterable[dict[str, Any]] | None = None, **arguments: Any) -> list[Any]:
        """Send an order to all stations; their answers. `each` gives every station arguments of its own."""
        own = list(each) if each is not None else [{}] * len(self._stations)
        for (_, pipe), extra in zip(self._stations, own, strict=True):
            pipe.send((name, {**arguments, **extra}))
        answers = []
        for process, pipe in self._stations:
            if not pipe.poll(_ORDER_S):
                raise LoadError(f"a process of the generator (pid {process.pid}) did not answer to {name!r}")
            try:
                answer = pipe.recv()
            except (EOFError, OSError):
                raise LoadError(f"a process of the generator ended at {name!r}; its message is above") from None
            if isinstance(answer, Exception):
                raise LoadError(f"{name}: {answer!r}") from answer
            answers.append(answer)
        return answers

    def prepare(self, requests: int) -> int:
        """Have about `requests` ready, evenly over the connections; how many are."""
        return sum(self._order("prepare", requests=-(-requests // self.traffic.plans)))

    def connect(self) -> int:
        return sum(self._order("connect"))

    def touch_each_tag(self, timeout_s: float = 30.0) -> Result:
        """Tap every tag once, genuinely: then no cache is cold and no database page unread.

        What a slow server leaves over after `timeout_s` comes first in the phase that follows.
        """
        self._order("prepare_each_tag")
        return _sum(self._order("run_out", timeout_s=timeout_s))

    def run_out(self, timeout_s: float = 60.0) -> Result:
        """Send what is prepared, all of it, in a closed loop."""
        return _sum(self._order("run_out", timeout_s=timeout_s))

    def closed(self, settle_s: float, measure_s: float) -> Result:
        """Every connection asks as soon as it was answered; figures of the `measure_s` after `settle_s`."""
        start_ns = time.monotonic_ns() + int(_START_DELAY_S * 1e9)
        return _sum(self._order("closed", start_ns=start_ns, settle_s=settle_s, measure_s=measure_s))

    def open(self, rate_per_s: float, seconds: float, *, poisson: bool = False) -> Result:
        """Requests leave when they are due, whatever became of those before; latency counts from then."""
        start_ns = time.monotonic_ns() + int(_START_DELAY_S * 1e9)
        shares = ({"share": i, "shares": self.processes} for i in range(self.processes))
        rate = rate_per_s / self.processes
        return _sum(self._order("open", shares, start_ns=start_ns, rate_per_s=rate, seconds=seconds, poisson=poisson))

    def stream(
        self, rate_per_s: float, seconds: float, interval_s: float, *, patience_s: float = 1.0, ready: int = 0
    ) -> Iterator[Interval]:
        """An open loop that lasts, in bounded memory; what was seen comes an interval at a time, while it goes on.

        `ready` taps in all are made beforehand, the others while it runs.
        """
        self._order("prepare_stream", ready=-(-ready // self.traffic.plans))
        start_ns = time.monotonic_ns() + int(_START_DELAY_S * 1e9)
        rate, count = rate_per_s / self.processes, self.processes
        order = {"start_ns": start_ns, "rate_per_s": rate, "seconds": seconds, "interval_s": interval_s}
        for share, (_, pipe) in enumerate(self._stations):
            pipe.send(("stream", {**order, "patience_s": patience_s, "share": share, "shares": count}))
        for _ in range(max(1, round(seconds / interval_s))):
            yield Interval.of([self._heard(process, pipe) for process, pipe in self._stations])
        self.unanswered = sum(self._heard(process, pipe) for process, pipe in self._stations)

    @staticmethod
    def _heard(process: BaseProcess, pipe: Connection) -> Any:
        if not pipe.poll(_ORDER_S):
            raise LoadError(f"a process of the generator (pid {process.pid}) is silent")
        try:
            told = pipe.recv()
        except (EOFError, OSError):
            raise LoadError("a process of the generator ended in a stream; its message is above") from None
        if isinstance(told, Exception):
            raise LoadError(f"stream: {told!r}") from told
        return told

    def finish(self) -> dict[int, tuple[int, int, int]]:
        """Close the connections; what the database must hold by tag: passes, last counter, taps of uncertain fate."""
        held: dict[int, tuple[int, int, int]] = {}
        for part in self._order("finish"):
            held |= part
        return held


def _sum(phases: list[Phase]) -> Result:
    def merged(name: str) -> dict[str, int]:
        total: Counter[str] = Counter()
        for phase in phases:
            total.update(getattr(phase, name))
        return dict(total)

    return Result(
        max(phase.seconds for phase in phases),
        sum(phase.answered for phase in phases),
        merged("by_kind"),
        merged("as_expected"),
        merged("failures"),
        histogram.add(phase.latency for phase in phases),
        histogram.add(phase.lateness for phase in phases),
        sum(phase.not_sent for phase in phases),
        sum(phase.not_answered for phase in phases),
        sum(phase.exhausted for phase in phases),
        sum(phase.cpu_s for phase in phases),
        sum(phase.sent for phase in phases),
    )
