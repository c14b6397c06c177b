"""Drives the load: several generator processes that act as one."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from benchmarks.load.connections import Expected
from benchmarks.load.generator_process import Assignment, run_process
from benchmarks.load.results import Interval, Result
from benchmarks.load.traffic import Traffic

SCAN_ANSWERS: Expected = (
    (b"HTTP/1.1 200", b'"Pass"'),
    (b"HTTP/1.1 200", b'"Fail"'),
    (b"HTTP/1.1 200", b'"Fail"'),
    (b"HTTP/1.1 404", b'"not_found"'),
)
"""The responses of `/v1/t` to a genuine, replayed, forged and unknown tap."""
CONSTANT_ANSWER: Expected = ((b"HTTP/1.1 200", b'"Pass"'),) * 4
"""The response of a server that does no work."""

_COMMAND_S = 600.0
_START_DELAY_S = 0.15  # Time for the command to reach every process.
_DOUBLINGS_MAX = 4  # of the requests that a closed loop is first prepared with


class LoadError(RuntimeError):
    """A process of the generator ended, hung or could not execute a command."""


class Load:
    """The generator. Use it as a context manager and measure as many phases as needed with `closed`, `open` or `stream`."""

    def __init__(
        self,
        traffic: Traffic,
        port: int,
        expected: Expected,
        *,
        processes: int = 2,
        headers: bytes = b"",
        socket_path: Path | None = None,
    ) -> None:
        """With `socket_path` the requests, which still name the port, go to that Unix socket."""
        self.traffic = traffic
        self.processes = processes
        plans = (range(i, traffic.plans, processes) for i in range(processes))
        self._assignments = [Assignment(traffic, own, "127.0.0.1", port, expected, headers, socket_path) for own in plans]
        self._processes: list[tuple[BaseProcess, Connection]] = []
        self.unanswered = 0  # requests of the last stream that got no response
        self._ran_out = False  # whether the last closed loop used up its requests

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for assignment in self._assignments:
            own, other = context.Pipe()
            process = context.Process(target=run_process, args=(other, assignment), daemon=True)
            process.start()
            other.close()
            self._processes.append((process, own))
        return self

    def __exit__(self, *exception: object) -> None:
        for process, pipe in self._processes:
            with contextlib.suppress(OSError):  # it has ended already
                pipe.send(None)
                process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            pipe.close()
        self._processes.clear()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._processes if process.pid is not None]

    def _command(self, name: str, each: Iterable[dict[str, Any]] | None = None, **arguments: Any) -> list[Any]:
        """Send a command to all processes and return their results. `each` adds arguments for every single process."""
        self._send(name, each, **arguments)
        return self._receive(name)

    def _send(self, name: str, each: Iterable[dict[str, Any]] | None = None, **arguments: Any) -> None:
        own = list(each) if each is not None else [{}] * len(self._processes)
        for (_, pipe), extra in zip(self._processes, own, strict=True):
            pipe.send((name, {**arguments, **extra}))

    def _receive(self, name: str) -> list[Any]:
        results = []
        for process, pipe in self._processes:
            if not pipe.poll(_COMMAND_S):
                raise LoadError(f"generator process {process.pid} did not finish {name!r} within {_COMMAND_S:g} s")
            try:
                result = pipe.recv()
            except (EOFError, OSError):
                raise LoadError(f"generator process {process.pid} ended during {name!r}; see its message above") from None
            if isinstance(result, Exception):
                raise LoadError(f"{name}: {result!r}") from result
            results.append(result)
        return results

    def _shares(self) -> Iterator[dict[str, int]]:
        """Arguments that spread the arrivals of an open loop over the processes."""
        return ({"share": i, "shares": self.processes} for i in range(self.processes))

    def _per_connection(self, requests: int) -> int:
        return -(-requests // self.traffic.plans)

    def prepare(self, requests: int) -> int:
        """Prepare about `requests`, evenly over the connections; returns how many are ready."""
        return sum(self._command("prepare", requests=self._per_connection(requests)))

    def prepare_enough(self, rate_per_s: float, seconds: float) -> Iterator[None]:
        """Prepare a closed loop of `seconds` at `rate_per_s`. While the loop that follows runs out of requests, prepare twice as
        many for another: `for _ in load.prepare_enough(...): result = load.closed(...)` works on a machine of any speed.
        """
        for doublings in range(_DOUBLINGS_MAX + 1):
            self.prepare(int(rate_per_s * seconds * 2**doublings))
            yield
            if not self._ran_out:
                return

    def connect(self) -> int:
        """Open all connections; returns how many there are."""
        return sum(self._command("connect"))

    def disconnect(self) -> None:
        """Close all connections between two phases. What was sent and acknowledged is remembered, and `connect` opens others."""
        self._command("disconnect")

    def touch_each_tag(self, timeout_s: float = 30.0) -> Result:
        """Tap every tag once, genuinely, so that no cache is cold and every database page has been read.

        Requests that a slow server has not answered after `timeout_s` are the first of the next phase.
        """
        self._command("prepare_each_tag")
        return self.run_out(timeout_s)

    def run_out(self, timeout_s: float = 60.0) -> Result:
        """Send everything that is prepared, in a closed loop."""
        return Result.merged(self._command("run_out", timeout_s=timeout_s))

    def closed(self, settle_s: float, measure_s: float) -> Result:
        """Every connection sends the next request as soon as it got a response; the figures are of the `measure_s` after
        `settle_s`."""
        result = Result.merged(self._command("closed", start_ns=_soon_ns(), settle_s=settle_s, measure_s=measure_s))
        self._ran_out = result.exhausted > 0
        return result

    def open(self, rate_per_s: float, seconds: float, *, poisson: bool = False) -> Result:
        """Requests leave when they are due, whatever became of earlier ones; latency counts from then."""
        rate = rate_per_s / self.processes
        arguments = {"start_ns": _soon_ns(), "rate_per_s": rate, "seconds": seconds, "poisson": poisson}
        return Result.merged(self._command("open", self._shares(), **arguments))

    def stream(
        self, rate_per_s: float, seconds: float, interval_s: float, *, patience_s: float = 1.0, ready: int = 0
    ) -> Iterator[Interval]:
        """An open loop of any length, in bounded memory; yields one `Interval` at a time while it runs.

        `ready` taps in all are made beforehand, the others while it runs.
        """
        self._command("prepare_stream", ready=self._per_connection(ready))
        arguments = {"start_ns": _soon_ns(), "rate_per_s": rate_per_s / self.processes, "seconds": seconds}
        self._send("stream", self._shares(), **arguments, interval_s=interval_s, patience_s=patience_s)
        for _ in range(max(1, round(seconds / interval_s))):
            yield Interval.merged(self._receive("stream"))
        self.unanswered = sum(self._receive("stream"))

    def finish(self) -> dict[int, tuple[int, int, int]]:
        """Close the connections. Returns what the database must hold by tag: passes, last counter, taps of uncertain fate."""
        held: dict[int, tuple[int, int, int]] = {}
        for part in self._command("finish"):
            held |= part
        return held


def _soon_ns() -> int:
    return time.monotonic_ns() + int(_START_DELAY_S * 1e9)
