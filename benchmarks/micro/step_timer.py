"""Times one step of a scan: rounds over the same input, and a hash of the results.

Compare the times of two builds only if their hashes are equal. A step is a callable without arguments that processes all inputs
and returns the results; the hash is of their `repr`.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SEED = 1024


class Size(NamedTuple):
    inputs: int = 1000
    rounds: int = 101


SMOKE = Size(50, 2)
Work = Callable[[], Sequence[Any]]


class Step(NamedTuple):
    """`prepare` takes the number of inputs and returns what is timed; with `fresh` it is called again before every round."""

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
            raise RuntimeError(f"{step.name}: two rounds over the same input had different results")
        digest = seen
    return Timing(step.name, min(spent_ns), statistics.median(spent_ns), digest)


def report(title: str, steps: Sequence[Step], size: Size) -> list[Timing]:
    """Measure the steps and print one line for each."""
    print(f"\n{title:<58} ns fastest  ns median  results")
    timings = []
    for step in steps:
        timings.append(timing := measure(step, size))
        print(f"{timing.name:<58} {timing.ns_fastest:>10.0f} {timing.ns_median:>10.0f}  {timing.digest}")
    return timings
