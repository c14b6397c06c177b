"""Timing of one step of a scan: rounds over the same input, and a hash of what came out.

Two builds are compared by their times only if the hashes are the same. A step is a callable without arguments that works
through all inputs and returns their results; what it returns is hashed by its `repr`.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.environment import processor

SEED = 1024


class Size(NamedTuple):
    inputs: int = 1000
    rounds: int = 101


SMOKE = Size(50, 2)
Work = Callable[[], Sequence[Any]]


class Step(NamedTuple):
    """`prepare` makes from a number of inputs what is timed; it is called again before every round if `fresh`."""

    name: str
    prepare: Callable[[int], Work]
    fresh: bool = False


class Timing(NamedTuple):
    name: str
    ns_fastest: float
    ns_median: float
    digest: str


def measure(step: Step, size: Size) -> Timing:
    work, spent_ns, digest = step.prepare(size.inputs), [], ""
    for _ in range(size.rounds):
        if step.fresh:
            work = step.prepare(size.inputs)
        start_ns = time.perf_counter_ns()
        results = work()
        spent_ns.append((time.perf_counter_ns() - start_ns) / size.inputs)
        seen = hashlib.sha256(repr(list(results)).encode()).hexdigest()[:16]
        if digest not in ("", seen):
            raise RuntimeError(f"{step.name}: two rounds over the same input ended differently")
        digest = seen
    return Timing(step.name, min(spent_ns), statistics.median(spent_ns), digest)


def report(title: str, steps: Sequence[Step], size: Size) -> list[Timing]:
    """Measure and print, a line a step."""
    print(f"\n{title:<58} ns fastest  ns median  results")
    timings = []
    for step in steps:
        timings.append(timing := measure(step, size))
        print(f"{timing.name:<58} {timing.ns_fastest:>10.0f} {timing.ns_median:>10.0f}  {timing.digest}")
    return timings


def run(title: str, steps: Sequence[Step], arguments: list[str] | None = None) -> int:
    """The command line of one micro-benchmark."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    size = SMOKE if parser.parse_args(arguments).smoke else Size()
    print(f"{processor()}, Python {platform.python_version()}, {size.inputs} inputs, {size.rounds} rounds, seed {SEED}")
    report(title, steps, size)
    return 0
