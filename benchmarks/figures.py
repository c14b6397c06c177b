"""The figures with targets, each with its value in the newest results.

A figure without a result is listed as not measured, and one below its target as missed: nothing is left out. Absolute rates
depend on the machine, ratios much less; the first row has the rate of aiohttp alone on this machine as a reference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environment, hosts, latency, overload, scans, soak
from benchmarks.micro import rules

AIOHTTP_WHERE_THEY_WERE_SET = 56_000  # Requests/s of its constant answer on the machine for which the rates were set.
MICRO = "micro.jsonl"
SCALE = "scale.jsonl"
RESTART = "restart.jsonl"


class Figure(NamedTuple):
    """`values` has one value for each repetition. `higher`: more is better."""

    name: str
    unit: str
    least: float | None
    aim: float | None
    higher: bool
    values: list[float]

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def state(self) -> str:
        if self.median is None:
            return "not measured"
        for limit, word in ((self.aim, "aim reached"), (self.least, "reached")):
            if limit is not None and (self.median >= limit if self.higher else self.median <= limit):
                return word
        return "**missed**" if self.least is not None or self.aim is not None else ""

    def row(self) -> str:
        shown = "-" if self.median is None else _number(self.median)
        if len(self.values) > 1:
            shown += f" ({_number(min(self.values))} to {_number(max(self.values))})"
        limits = ("-" if limit is None else _number(limit) for limit in (self.least, self.aim))
        return f"| {self.name} | {shown} {self.unit}".rstrip() + f" | {' | '.join(limits)} | {self.state} |"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


class Results:
    """The newest session of every benchmark; with `commit`, the newest at that commit."""

    def __init__(self, folder: Path, commit: str | None = None) -> None:
        self._folder = folder
        self._commit = commit

    def records(self, history: str) -> list[dict[str, Any]]:
        return environment.newest(history, self._folder, self._commit)

    def record(self, history: str) -> dict[str, Any] | None:
        found = self.records(history)
        return found[-1] if found else None

    def runs(self) -> list[scans.Run]:
        return [scans.as_run(record) for record in self.records(scans.HISTORY)]


def all_figures(folder: Path, commit: str | None = None) -> list[Figure]:
    """Every figure, in the order of the table."""
    results = Results(folder, commit)
    return [
        *_rates(results),
        *_latency(results),
        *_core(results),
        *_scale(results),
        *_hosts(results),
        *_restart(results),
        *_overload(results),
        *_soak(results),
    ]


def _rates(results: Results) -> Iterable[Figure]:
    found = scans.by_contender(results.runs())
    own = {run.repetition: run.passes_per_s for run in found.get("ixfast", [])}
    constant = [run.requests_per_s for run in found.get("aiohttp_constant", [])]
    full = [run.passes_per_s / own[run.repetition] for run in found.get("ixfast_full", []) if run.repetition in own]
    reference = f"aiohttp with a constant response ({AIOHTTP_WHERE_THEY_WERE_SET:,} on the machine of the targets)"
    yield Figure(reference, "requests/s", None, None, True, constant)
    yield Figure("durable genuine scans through HTTP", "/s", 72_000, 85_000, True, list(own.values()))
    yield Figure("CPU of workers and PostgreSQL per scan, at capacity", "µs", 17, 14, False, _costs_at_capacity(results))
    for ratio in scans.RATIOS:
        yield Figure(f"÷ {ratio.figure}", "", ratio.least, ratio.aim, True, scans.ratios_to(ratio, found))
    yield Figure("with rules, extended fields and an API key ÷ without", "", 0.85, None, True, full)


def _costs_at_capacity(results: Results) -> list[float]:
    """µs of workers and PostgreSQL per request, of each repetition."""
    own = scans.by_contender(results.runs()).get("ixfast", [])
    return [run.server_cpu_us + run.postgres_cpu_us for run in own]


def _latency(results: Results) -> Iterable[Figure]:
    records = [record for record in results.records(latency.HISTORY) if record["contender"] == "ixfast"]
    points = [point for record in records for point in record["points"] if point["latency"]]
    half, nearly = ([point for point in points if point["fraction"] == fraction] for fraction in (0.5, 0.9))
    at_capacity = _costs_at_capacity(results)
    costs = [point["server_cpu_us"] + point["postgres_cpu_us"] for point in half if "server_cpu_us" in point]
    ratios = [cost / statistics.median(at_capacity) for cost in costs] if at_capacity else []
    yield Figure("the same at half the capacity, open loop ÷ at capacity", "", 1.3, 1.1, False, ratios)
    for fraction, own, least, aim in (("half", half, 3.5, 2.5), ("90 % of", nearly, 15, 10)):
        values = [point["latency"]["p99_us"] / 1000 for point in own]
        yield Figure(f"p99 at {fraction} the capacity, open loop", "ms", least, aim, False, values)


def _core(results: Results) -> Iterable[Figure]:
    record = results.record(MICRO) or {}

    def fastest(rows: str, unit: str, **wanted: Any) -> list[float]:
        found = [row for row in record.get(rows, []) if all(row[name] == value for name, value in wanted.items())]
        return [row[f"{unit}_median"] for row in found]

    single = fastest("core", "ns", window_bytes=0, name="C loop, one at a time")
    batch = fastest("core", "ns", window_bytes=0, name="C, batch")
    lrp = fastest("lrp", "us", operation="verification, window of 0 bytes", name="native")
    yield Figure("verify one message from C", "ns", 150, 110, False, single)
    yield Figure("verify in a batch of 1,024, a message", "ns", 80, 40, False, batch)
    yield Figure("LRP verify", "µs", 25, 8, False, lrp)
    yield Figure("decide a typical rule set", "ns", None, 150, False, fastest("steps", "ns", name=rules.TYPICAL))


def _scale(results: Results) -> Iterable[Figure]:
    record = results.record(SCALE) or {"sizes": {}}
    sizes: dict[str, dict[str, Any]] = record["sizes"]

    def of(tags: int, name: str) -> list[float]:
        found = sizes.get(str(tags), {}).get(name, [])
        return list(found) if isinstance(found, list) else [found]

    small, large = of(10_000, "warm_passes_per_s"), of(10_000_000, "warm_passes_per_s")
    cached = [each["cached_tag_bytes"] for each in sizes.values() if "cached_tag_bytes" in each]
    yield Figure("memory per cached tag, 1,000,000 cached", "B", 300, 250, False, cached[-1:])
    yield Figure("cold tags, 10,000,000 registered", "/s", 28_000, 40_000, True, of(10_000_000, "cold_passes_per_s"))
    ratios = [b / a for a, b in zip(small, large, strict=False) if a]
    yield Figure("rate with 10,000,000 registered ÷ with 10,000, warm", "", 0.93, 0.97, True, ratios)
    yield Figure("import", "tags/s", 70_000, 100_000, True, record.get("import_tags_per_s", []))
    start = of(1_000_000, "start_s")
    yield Figure("start to first answered scan, 1,000,000 tags", "s", 0.6, 0.4, False, start)


def _hosts(results: Results) -> Iterable[Figure]:
    record = results.record(hosts.HISTORY)
    values = [] if record is None else hosts.ratios(record["points"])
    yield Figure("cost of a scan, two hosts' worth of workers on one database ÷ one host's", "", 1.1, 1.0, False, values)


def _restart(results: Results) -> Iterable[Figure]:
    record = results.record(RESTART)
    values = [] if record is None else [math.inf if record["normal_after_s"] is None else record["normal_after_s"]]
    yield Figure("until p99 is normal after a restart, 1,000,000 active tags", "s", None, None, False, values)


def _overload(results: Results) -> Iterable[Figure]:
    record = results.record(overload.HISTORY)
    found = overload.figures(record) if record is not None else {}
    for fraction in (1.5, 3.0):
        goodput, slower = found.get(fraction, (None, None))
        name = f"{fraction:.0%} of capacity offered"
        yield Figure(f"goodput with {name} ÷ the peak", "", 0.9, None, True, [] if goodput is None else [goodput])
        yield Figure(f"p99 of admitted scans with {name} ÷ with 100 %", "", 2, None, False, [slower] if slower else [])


def _soak(results: Results) -> Iterable[Figure]:
    record = results.record(soak.HISTORY)
    found = record["samples"] if record is not None else []
    hot = [soak.hot_share(found[-1]) * 100] if len(found) > 1 else []
    yield Figure("heap-only updates in the soak", "%", 99.5, None, True, hot)
    grown, drift = soak.growth(found), soak.drift(found).get("p99")
    name = "growth of a worker between the 5th and the 10th million of scans"
    yield Figure(name, "MiB", 1, None, False, [] if grown is None else [grown])
    yield Figure("p99 of the soak's last quarter ÷ its second", "", 1.2, None, False, [] if drift is None else [drift])


def table(figures: Iterable[Figure]) -> str:
    header = ["| figure | measured | at least | aim | |", "|---|---:|---:|---:|---|"]
    return "\n".join([*header, *(figure.row() for figure in figures)])
