"""What the generator's processes report, and how their reports add up to one.

A process reports latencies in a compact form (an encoded histogram, or an array of microseconds); `merged` turns the reports of
all processes into one whose latencies are histograms.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from benchmarks.load import histogram


class Result(NamedTuple):
    """One phase. Latencies are encoded histograms in the report of a process and histograms once merged (`histogram.py`), in
    microseconds."""

    seconds: float
    answered: int
    by_kind: dict[str, int]
    as_expected: dict[str, int]
    failures: dict[str, int]
    latency: Any
    lateness: Any  # open loop: how late requests left although a connection was idle
    not_sent: int  # open loop: arrivals that never found an idle connection
    not_answered: int
    exhausted: int  # connections that ran out of prepared requests before the end, which invalidates the figures
    cpu_s: float  # of the generator
    sent: int  # in the whole phase, including the time before and after the measurement

    @classmethod
    def merged(cls, reports: Sequence[Result]) -> Self:
        histograms = {name: histogram.add(getattr(each, name) for each in reports) for name in ("latency", "lateness")}
        return cls(**(_totals(reports, {"latency", "lateness"}) | histograms))

    @property
    def requests_per_s(self) -> float:
        return self.answered / self.seconds

    @property
    def passes_per_s(self) -> float:
        """Genuine taps that were answered `Pass`: durable if the server keeps its promise."""
        return self.as_expected.get("genuine", 0) / self.seconds

    @property
    def generator_us(self) -> float:
        """The generator's own processor time for one request."""
        return self.cpu_s * 1e6 / max(1, self.answered)

    def flaws(self) -> list[str]:
        """Why the figures are invalid; empty if they are valid."""
        flaws = [f"{count} x {reason}" for reason, count in sorted(self.failures.items(), key=lambda item: -item[1])]
        if self.exhausted:
            flaws.append(f"{self.exhausted} connections ran out of prepared requests")
        return flaws


class Interval(NamedTuple):
    """One interval of a stream. Latencies are microseconds: arrays of unsigned 32-bit integers in the report of a process,
    histograms once merged."""

    number: int
    seconds: float
    due: int
    sent: int
    served: int  # answered with the expected verdict
    passes: int  # genuine taps among them
    passes_in_time: int  # passes whose response came within the client's patience after the request was sent
    refused: dict[str, int]  # answered without a verdict, by error code
    wrong: dict[str, int]  # any other response, which invalidates the figures
    gave_up: int
    latency: Any  # of what was served, from when it was due
    service: Any  # the same from when it was sent: without the wait for a connection
    refusal_latency: Any
    cpu_s: float

    @classmethod
    def merged(cls, reports: Sequence[Interval]) -> Self:
        names = ("latency", "service", "refusal_latency")
        histograms = {name: histogram.of_us(array("I", b"".join(getattr(each, name) for each in reports))) for name in names}
        return cls(**(_totals(reports, {"number", *names}) | {"number": reports[0].number} | histograms))

    @property
    def passes_per_s(self) -> float:
        return self.passes / self.seconds


def _totals(reports: Sequence[Any], without: set[str]) -> dict[str, Any]:
    """The sum of each field, `seconds` excepted, of which the longest counts."""
    found: dict[str, Any] = {}
    for name in reports[0]._fields:
        values = [getattr(each, name) for each in reports]
        if name == "seconds":
            found[name] = max(values)
        elif name in without:
            continue
        elif isinstance(values[0], dict):
            counted: Counter[str] = Counter()
            for each in values:
                counted.update(each)
            found[name] = dict(counted)
        else:
            found[name] = sum(values)
    return found
