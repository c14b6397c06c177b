"""Past the capacity: what a server does with more than it can carry. `python -m benchmarks overload`

An open loop over many connections offers 50, 100, 150 and 300 % of the capacity, one rate after another, and at the end
50 % again, on one server. A good server goes on with as many scans as before (goodput), answers the others with an early 503,
and keeps the latency of those it admits. Latency counts from when a request was due; beside it stands the one from when it
was sent. An arrival that finds no connection free waits for one, and after a second it gives up: that is what clients see
of a server that neither answers nor refuses.

The generator shares the cores with the server: what it takes at three times the rate, the server has not. So the table tells what
was really offered, the generator's share of the machine, and the goodput for each processor second that was left. A row
whose load could not be offered says so.
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

from benchmarks import plots, scans, starving
from benchmarks.contenders import Contender, Running, http_contenders
from benchmarks.experiment import Experiment
from benchmarks.load import histogram
from benchmarks.load.drive import Interval, Load
from benchmarks.load.traffic import Traffic
from benchmarks.processes import cpu_s, free_port
from benchmarks.stage import Stage

HISTORY = "overload.jsonl"
_OFFERED_ENOUGH = 0.95
_TOUCHES = 2  # So many connections at once overload a server whose caches are cold: what it refused comes again.
_STARVED_REQUESTS_PER_S_MAX = 20_000


@dataclass(frozen=True)
class Size:
    tags: int = 100_000
    connections: int = 4096
    workers: int = 2
    processes: int = 2
    point_s: float = 15.0
    fractions: tuple[float, ...] = (0.5, 1.0, 1.5, 3.0, 0.5)
    settle_s: int = 1
    capacity: float = 0.0


STARVED = Size(tags=20_000, point_s=8.0, fractions=(0.7, 1.0, 1.5, 3.0), settle_s=2)
SMOKE = Size(tags=200, connections=16, point_s=1.0, fractions=(0.5, 3.0), capacity=300.0)


def points(
    stage: Stage, contender: Contender, size: Size, starved: scans.Hindered = scans.unhindered
) -> Iterator[dict[str, Any]]:
    """A record for each rate, and at the end one with the audit."""
    assert contender.template is not None and contender.audit is not None
    check, port = contender.audit, free_port()
    with stage.database(contender.template) as dsn:
        with contender.serve(stage, dsn, port, size.workers) as running:
            with Load(
                stage.traffic, port, contender.expected, processes=size.processes, headers=contender.headers(stage)
            ) as load:
                load.connect()
                for _ in range(_TOUCHES):
                    load.touch_each_tag(60.0)
                for fraction in size.fractions:
                    yield _point(stage, running, load, fraction, size, starved)
                held = load.finish()
            running.processes.check()
        print("  the audit", file=sys.stderr, flush=True)
        yield {"audit": stage.run(dsn, lambda connection: check(connection, stage.traffic, held))._asdict()}


def _point(stage: Stage, running: Running, load: Load, fraction: float, size: Size, starved: scans.Hindered) -> dict[str, Any]:
    rate = fraction * size.capacity
    seen: list[Interval] = []
    cpu: tuple[float, ...] = ()
    stream = load.stream(rate, size.point_s, 1.0, ready=int(rate * size.point_s * 1.1))
    with starved(running):
        for interval in islice(stream, round(size.point_s)):  # what is left over then is answered unhindered
            seen.append(interval)
            if len(seen) <= size.settle_s:  # from then on, like the figures
                cpu = cpu_s(running.processes.pids), cpu_s(stage.postgres_pids)
        spent = cpu_s(running.processes.pids) - cpu[0], cpu_s(stage.postgres_pids) - cpu[1]
    for _ in stream:
        raise AssertionError("a stream has no more intervals than seconds")
    record = _record(fraction, rate, seen, spent, size.settle_s)
    record["unanswered"] = load.unanswered
    print(f"  {fraction:>5.0%} {_line(record)}", file=sys.stderr, flush=True)
    return record


def _record(fraction: float, rate: float, seen: Sequence[Interval], spent: tuple[float, float], settle_s: int) -> dict[str, Any]:
    """Figures of all seconds but the first ones, in which queues fill."""
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
    """One interval as it is kept."""
    return {
        "due": each.due, "sent": each.sent, "served": each.served, "passes": each.passes,
        "passes_in_time": each.passes_in_time, "refused": each.refused,
        "gave_up": each.gave_up, "seconds": each.seconds, "latency": histogram.summary(each.latency),
    }  # fmt: skip


def _line(record: Mapping[str, Any]) -> str:
    wrong = f"  NOT GOOD: {record['wrong']}" if record["wrong"] else ""
    return (
        f"{record['offered_per_s']:>9,.0f}/s offered {record['sent_per_s']:>9,.0f}/s sent "
        f"{record['goodput_per_s']:>9,.0f}/s passes "
        f"{record['late_passes_per_s']:>7,.0f}/s late {record['gave_up_per_s']:>7,.0f}/s gave up "
        f"{sum(record['refused_per_s'].values()):>9,.0f}/s refused {record['latency']}{wrong}"
    )


def flaws(record: Mapping[str, Any]) -> list[str]:
    """Why a run is not good."""
    found = [f"{point['fraction']:.0%}: {point['wrong']}" for point in record["points"] if point["wrong"]]
    return found + list(record.get("audit", {}).get("problems", ["it was interrupted before the audit"]))


def _peak(record: Mapping[str, Any]) -> float:
    """The highest goodput of a run; 0 if it was broken off before its first point."""
    return max((float(point["goodput_per_s"]) for point in record["points"]), default=0.0)


def figures(record: Mapping[str, Any]) -> dict[float, tuple[float, float]]:
    """By fraction above 1: goodput over the peak, and the admitted scans' p99 over that at 100 %."""
    peak = _peak(record)
    full = next((p["latency"].get("p99_us", 0) for p in record["points"] if p["fraction"] == 1.0), 0)
    return {
        p["fraction"]: (p["goodput_per_s"] / peak, p["latency"].get("p99_us", 0) / full if full else 0.0)
        for p in record["points"]
        if p["fraction"] > 1 and peak
    }


def table(record: Mapping[str, Any]) -> str:
    columns = (
        "of capacity", "wanted/s", "due/s", "sent/s", "passes/s", "of the peak", "passes a CPU second of server and database",
        "503/s", "gave up/s", "admitted: p50 ms", "p99 ms", "p99.9 ms", "p99 ms from when sent", "503: p99 ms",
        "generator's share of the CPU",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", f"|{'---:|' * len(columns)}"]
    peak = _peak(record) or 1
    cpus = record["environment"]["cpus"]
    for point in record["points"]:
        times, refusal, cpu = point["latency"], point["refusal_latency"], point["cpu_s"]
        shown = [times.get("p50_us", 0), times.get("p99_us", 0), times.get("p99.9_us", 0)]
        shown += [point.get("service", {}).get("p99_us", 0), refusal.get("p99_us", 0)]
        cells = [
            f"{point['fraction']:.0%}", f"{point['wanted_per_s']:,.0f}", f"{point['offered_per_s']:,.0f}",
            f"{point['sent_per_s']:,.0f}", f"{point['goodput_per_s']:,.0f}", f"{point['goodput_per_s'] / peak:.0%}",
            f"{point['goodput_a_cpu_s']:,.0f}",
            f"{sum(point['refused_per_s'].values()):,.0f}", f"{point['gave_up_per_s']:,.0f}",
            *(f"{us / 1000:.2f}" for us in shown), f"{cpu['generator'] / cpu['seconds'] / cpus:.0%}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    short = [p for p in record["points"] if p["offered_per_s"] < _OFFERED_ENOUGH * p["wanted_per_s"]]
    told = [
        f"At {p['fraction']:.0%} the generator could offer only {p['offered_per_s']:,.0f} of {p['wanted_per_s']:,.0f} requests/s."
        for p in short
    ]
    return "\n".join([f"Capacity {record['capacity']:,.0f} requests/s.", "", *lines, *([""] if told else []), *told])


def timeline_chart(record: Mapping[str, Any]) -> str:
    """Passes, refusals and what was offered, second by second through all rates."""
    lines: dict[str, list[tuple[float, float]]] = {"offered": [], "passes": [], "503": []}
    at = 0.0
    for point in record["points"]:
        for second in point["timeline"]:
            at += second["seconds"]
            lines["offered"].append((at, second["due"] / second["seconds"]))
            lines["passes"].append((at, second["passes"] / second["seconds"]))
            lines["503"].append((at, sum(second["refused"].values()) / second["seconds"]))
    y_ticks = plots.steps([y for line in lines.values() for _, y in line])
    return plots.chart("Beyond capacity, second by second", "s", "/s", lines, plots.steps([at]), y_ticks, linear=True)


def _starve(text: str) -> tuple[str, float]:
    side, _, share = text.partition("=")
    if side not in ("database", "workers"):
        raise argparse.ArgumentTypeError(f"{side!r} cannot be starved: say database=SHARE or workers=SHARE")
    return side, float(share)


@contextlib.contextmanager
def _starved(stage: Stage, starve: tuple[str, float], running: Running) -> Iterator[None]:
    """One side with so much of one core."""
    side, share = starve
    with starving.Quota(side, share) as quota:
        quota.take(stage.postgres_pids if side == "database" else running.processes.pids)
        with quota.imposed():
            yield


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks overload", description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, help=f"{Size().connections} unless given")
    parser.add_argument("--point-s", type=float, help=f"seconds of each rate; {Size().point_s:g} unless given")
    parser.add_argument("--capacity", type=float, help="requests/s that are 100 %%; measured unless given")
    parser.add_argument(
        "--starve",
        type=_starve,
        metavar="database=SHARE|workers=SHARE",
        help="give one side so much of one core, for example database=0.02, while a rate is offered",
    )
    experiment = Experiment(parser, HISTORY, arguments)
    given = experiment.given
    reason = starving.why_not() if given.starve else None
    if reason is not None:
        print(f"overload --starve is skipped: {reason}", file=sys.stderr)
        return 0
    size = SMOKE if given.smoke else STARVED if given.starve else Size()
    size = replace(size, **{n: getattr(given, n) for n in ("connections", "point_s", "capacity") if getattr(given, n)})
    experiment.plan("stage 20 s", "capacity 30 s", f"{len(size.fractions)} rates of {size.point_s:g} s and as long to prepare")
    contender = http_contenders()["ixfast"]
    with Stage(Traffic(given.seed, size.tags, size.connections), aged=not given.smoke) as stage:
        record = experiment.begin(stage, size=asdict(size), starve=given.starve, points=[])
        starved = partial(_starved, stage, given.starve) if given.starve else scans.unhindered
        if not size.capacity:
            closed = replace(scans.Size(), tags=size.tags, workers=size.workers, settle_s=2.0)
            quick = contender._replace(requests_per_s_max=_STARVED_REQUESTS_PER_S_MAX) if given.starve else contender
            found = scans.measure(stage, quick, closed, 1, starved)
            if not found.good and not (given.starve and found.requests_per_s):  # a starved server may refuse at its capacity
                return experiment.end(record, [f"the capacity is not known: {found.flaws} {found.audit}"])
            size = replace(size, capacity=found.requests_per_s)
        record["capacity"] = size.capacity
        with experiment.interruptible():
            for point in points(stage, contender, size, starved):
                if "audit" in point:
                    record |= point
                else:
                    record["points"].append(point)
    if record["points"]:
        experiment.draw("timeline", timeline_chart(record))
        print(table(record))
    return experiment.end(record, flaws(record))


if __name__ == "__main__":
    sys.exit(main())
