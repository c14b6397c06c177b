"""Beyond the capacity: how a server behaves when more is offered than it can carry. `python -m benchmarks overload`

An open loop over many connections offers 50, 100, 150 and 300 % of the capacity, one rate after another, and finally 50 %
again, to one server. A good server keeps up the number of scans that it answers (goodput), answers the others with an early
503, and keeps the latency of those that it admits. Latency counts from when a request was due; the table also has it from when
the request was sent. An arrival that finds no idle connection waits for one and gives up after a second: this is what clients
see of a server that neither answers nor refuses.

The generator shares the cores with the server: what it takes at three times the rate, the server does not have. The table
therefore has the rate that was really offered, the generator's share of the machine, and the goodput for each processor second
of server and database. A row whose load could not be offered is marked.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from benchmarks import cpu_quota, plots, scans
from benchmarks.contenders import Running, http_contenders
from benchmarks.experiment import CAPACITY, Experiment
from benchmarks.load import histogram
from benchmarks.load.results import Interval
from benchmarks.load_test import LoadTest, load_test
from benchmarks.tables import markdown, ms
from benchmarks.testbed import Testbed

HISTORY = "overload.jsonl"
_OFFERED_ENOUGH = 0.95
_TOUCHES = 2  # This many connections at once overload a server with cold caches: what it refused is sent again.
_STARVED_REQUESTS_PER_S = 20_000


@dataclass(frozen=True, kw_only=True)
class Size(scans.Size):
    connections: int = 4096
    point_s: float = 15.0
    fractions: tuple[float, ...] = (0.5, 1.0, 1.5, 3.0, 0.5)
    settle_s: int = 1  # of each rate, in which queues fill
    capacity: float = 0.0


STARVED = Size(tags=20_000, point_s=8.0, fractions=(0.7, 1.0, 1.5, 3.0), settle_s=2)
SMOKE = Size(tags=200, connections=16, point_s=1.0, fractions=(0.5, 3.0), capacity=300.0)


def points(test: LoadTest, size: Size, constraint: scans.Constraint = scans.unconstrained) -> Iterator[dict[str, Any]]:
    """A record of each rate."""
    for _ in range(_TOUCHES):
        test.load.touch_each_tag(60.0)
    for fraction in size.fractions:
        yield _point(test, fraction, size, constraint)


def _point(test: LoadTest, fraction: float, size: Size, constraint: scans.Constraint) -> dict[str, Any]:
    rate = fraction * size.capacity
    seen: list[Interval] = []
    cpu = (0.0, 0.0)
    stream = test.load.stream(rate, size.point_s, 1.0, ready=int(rate * size.point_s * 1.1))
    with constraint(test.running):
        for interval in islice(stream, round(size.point_s)):  # requests outstanding after that are answered unconstrained
            seen.append(interval)
            if len(seen) <= size.settle_s:  # counts from here, like the figures
                cpu = test.cpu_s()
        server_s, postgres_s = (after - before for before, after in zip(cpu, test.cpu_s(), strict=True))
    for _ in stream:
        raise AssertionError("a stream has no more intervals than seconds")
    return _record(fraction, rate, seen, (server_s, postgres_s), size.settle_s) | {"unanswered": test.load.unanswered}


def _record(fraction: float, rate: float, seen: Sequence[Interval], spent: tuple[float, float], settle_s: int) -> dict[str, Any]:
    """Figures of all seconds except the first ones, in which queues fill."""
    counted = seen[settle_s:] or seen
    seconds = sum(each.seconds for each in counted)
    latency, service, refusal = histogram.empty(), histogram.empty(), histogram.empty()
    refused: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for each in counted:
        latency.add(each.latency)
        service.add(each.service)
        refusal.add(each.refusal_latency)
        refused.update(each.refused)
    for each in seen:
        wrong.update(each.wrong)
    generator_s = sum(each.cpu_s for each in counted)
    passes = sum(each.passes_in_time for each in counted)
    return {
        "fraction": fraction,
        "wanted_per_s": rate,
        "offered_per_s": sum(each.due for each in counted) / seconds,
        "sent_per_s": sum(each.sent for each in counted) / seconds,
        "goodput_per_s": passes / seconds,
        "late_passes_per_s": (sum(each.passes for each in counted) - passes) / seconds,
        "goodput_a_cpu_s": passes / max(0.01, sum(spent)),
        "refused_per_s": {code: count / seconds for code, count in refused.items()},
        "gave_up_per_s": sum(each.gave_up for each in counted) / seconds,
        "wrong": dict(wrong),
        "cpu_s": {"server": spent[0], "postgres": spent[1], "generator": generator_s, "seconds": seconds},
        "latency": histogram.summary(latency),
        "service": histogram.summary(service),
        "refusal_latency": histogram.summary(refusal),
        "histogram": histogram.encode_histogram(latency),
        "timeline": [timeline_record(each) for each in seen],
    }


def timeline_record(each: Interval) -> dict[str, Any]:
    """One interval as it is stored."""
    return {
        "due": each.due, "sent": each.sent, "served": each.served, "passes": each.passes,
        "passes_in_time": each.passes_in_time, "refused": each.refused,
        "gave_up": each.gave_up, "seconds": each.seconds, "latency": histogram.summary(each.latency),
    }  # fmt: skip


def _summary(record: Mapping[str, Any]) -> str:
    wrong = f"  NOT GOOD: {record['wrong']}" if record["wrong"] else ""
    return (
        f"{record['offered_per_s']:>9,.0f}/s offered {record['sent_per_s']:>9,.0f}/s sent "
        f"{record['goodput_per_s']:>9,.0f}/s passes "
        f"{record['late_passes_per_s']:>7,.0f}/s late {record['gave_up_per_s']:>7,.0f}/s gave up "
        f"{sum(record['refused_per_s'].values()):>9,.0f}/s refused {record['latency']}{wrong}"
    )


def flaws(record: Mapping[str, Any]) -> list[str]:
    """Why a run does not count."""
    found = [f"{point['fraction']:.0%}: {point['wrong']}" for point in record["points"] if point["wrong"]]
    return found + list(record.get("audit", {}).get("problems", ["it was interrupted before the audit"]))


def _peak(record: Mapping[str, Any]) -> float:
    """The highest goodput of a run; 0 if it was interrupted before its first point."""
    return max((float(point["goodput_per_s"]) for point in record["points"]), default=0.0)


def figures(record: Mapping[str, Any]) -> dict[float, tuple[float, float]]:
    """By fraction above 1: goodput divided by the peak, and p99 of the admitted scans divided by that at 100 %."""
    peak = _peak(record)
    full = next((p["latency"].get("p99_us", 0) for p in record["points"] if p["fraction"] == 1.0), 0)
    return {
        p["fraction"]: (p["goodput_per_s"] / peak, p["latency"].get("p99_us", 0) / full if full else 0.0)
        for p in record["points"]
        if p["fraction"] > 1 and peak
    }


def table(record: Mapping[str, Any]) -> str:
    columns = (
        "of capacity", "wanted/s", "due/s", "sent/s", "passes/s", "of the peak", "passes per CPU second of server and database",
        "503/s", "gave up/s", "admitted: p50 ms", "p99 ms", "p99.9 ms", "p99 ms from when sent", "503: p99 ms",
        "generator's share of the CPU",
    )  # fmt: skip
    rows, notes = [], []
    peak = _peak(record) or 1
    cpus = record["environment"]["cpus"]
    for point in record["points"]:
        times, cpu = point["latency"], point["cpu_s"]
        rows.append([
            f"{point['fraction']:.0%}", f"{point['wanted_per_s']:,.0f}", f"{point['offered_per_s']:,.0f}",
            f"{point['sent_per_s']:,.0f}", f"{point['goodput_per_s']:,.0f}", f"{point['goodput_per_s'] / peak:.0%}",
            f"{point['goodput_a_cpu_s']:,.0f}",
            f"{sum(point['refused_per_s'].values()):,.0f}", f"{point['gave_up_per_s']:,.0f}",
            *(ms(times.get(name, 0)) for name in ("p50_us", "p99_us", "p99.9_us")),
            ms(point.get("service", {}).get("p99_us", 0)), ms(point["refusal_latency"].get("p99_us", 0)),
            f"{cpu['generator'] / cpu['seconds'] / cpus:.0%}",
        ])  # fmt: skip
        if point["offered_per_s"] < _OFFERED_ENOUGH * point["wanted_per_s"]:
            notes.append(
                f"At {point['fraction']:.0%} the generator could offer only {point['offered_per_s']:,.0f} of"
                f" {point['wanted_per_s']:,.0f} requests/s."
            )
    capacity = f"Capacity {record['capacity']:,.0f} requests/s."
    return "\n".join([capacity, "", markdown(columns, rows, text_columns=0), *(["", *notes] if notes else [])])


def timeline_plot(record: Mapping[str, Any]) -> Any:
    """Passes, refusals and the offered load, second by second through all rates."""
    series: dict[str, list[tuple[float, float]]] = {"offered": [], "passes": [], "503": []}
    at = 0.0
    for point in record["points"]:
        for second in point["timeline"]:
            at += second["seconds"]
            series["offered"].append((at, second["due"] / second["seconds"]))
            series["passes"].append((at, second["passes"] / second["seconds"]))
            series["503"].append((at, sum(second["refused"].values()) / second["seconds"]))
    return plots.lines("Beyond the capacity, second by second", "s", "/s", series, record)


def goodput_plot(record: Mapping[str, Any]) -> Any:
    """What was offered and answered in time at each rate, in order of the rate."""
    found = sorted(record["points"], key=lambda point: point["fraction"])
    series = {
        "offered": [(100 * point["fraction"], point["offered_per_s"]) for point in found],
        "goodput: passes in time": [(100 * point["fraction"], point["goodput_per_s"]) for point in found],
        "refused with 503": [(100 * point["fraction"], sum(point["refused_per_s"].values())) for point in found],
        "gave up waiting": [(100 * point["fraction"], point["gave_up_per_s"]) for point in found],
    }
    return plots.lines("Goodput under overload", "offered load, % of the capacity", "/s", series, record, markers=True)


def _starve(text: str) -> tuple[str, float]:
    side, _, share = text.partition("=")
    if side not in ("database", "workers"):
        raise argparse.ArgumentTypeError(f"{side!r} cannot be starved; use database=SHARE or workers=SHARE")
    return side, float(share)


@contextlib.contextmanager
def _starved(testbed: Testbed, starve: tuple[str, float], running: Running) -> Iterator[None]:
    """One side with this share of one core."""
    side, share = starve
    with cpu_quota.Quota(side, share) as quota:
        quota.take(testbed.postgres_pids if side == "database" else running.processes.pids)
        with quota.imposed():
            yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks overload", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--starve",
        type=_starve,
        metavar="database=SHARE|workers=SHARE",
        help="limit one side to this share of one core while a rate is offered, for example database=0.02",
    )
    flags = {"connections": "client connections", "point_s": "seconds of each rate", "capacity": CAPACITY}
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    starve = experiment.given.starve
    reason = cpu_quota.why_not() if starve else None
    if reason is not None:
        print(f"overload --starve is skipped: {reason}", file=sys.stderr)
        return 0
    size = experiment.sized(STARVED if starve else Size(), SMOKE)
    experiment.plan("set-up 20 s", "capacity 30 s", f"{len(size.fractions)} rates of {size.point_s:g} s and as long to prepare")
    contender = http_contenders()["ixfast"]
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, size=asdict(size), starve=starve, points=[], capacity=size.capacity)
        constraint = partial(_starved, testbed, starve) if starve else scans.unconstrained
        with experiment.interruptible():
            if not size.capacity:
                closed = scans.Size(tags=size.tags, workers=size.workers, settle_s=2.0)
                slow = contender._replace(usual_requests_per_s=_STARVED_REQUESTS_PER_S) if starve else contender
                capacity = scans.measured_capacity(testbed, slow, closed, constraint, may_refuse=bool(starve))
                size = replace(size, capacity=capacity)
            record["capacity"] = size.capacity
            with load_test(testbed, contender, size) as test:
                experiment.lap("set-up")
                for number, point in enumerate(points(test, size, constraint), start=1):
                    record["points"].append(point)
                    experiment.lap(f"rate {number}, {point['fraction']:.0%}")
                    experiment.progress(f"{point['fraction']:>5.0%} {_summary(point)}")
                experiment.progress("the audit")
            record["audit"] = test.audit._asdict()
    if record["points"]:
        experiment.draw("timeline", timeline_plot(record))
        experiment.draw("goodput", goodput_plot(record))
        experiment.show(table(record))
    return experiment.end(record, flaws(record))
