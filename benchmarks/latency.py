"""Latency at fixed arrival rates, from a tenth of the capacity to beyond it. `python -m benchmarks latency`

Requests leave when they are due, whatever became of those before, and their latency counts from then, so a server that
stalls cannot hide it by not being asked (coordinated omission). The capacity is what a closed loop reaches just before,
unless `--capacity` says it. One server serves the whole sweep; every tag was tapped once before. At and beyond capacity the
queue grows for as long as the point lasts: these latencies show how the server fails, not how it serves.

The table's `sent late` is the generator's own part: how late requests left although a connection was idle.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import environment, plots, scans
from benchmarks.contenders import Contender, http_contenders
from benchmarks.load import histogram
from benchmarks.load.drive import Load, Result
from benchmarks.load.traffic import Mix, Traffic
from benchmarks.processes import free_port
from benchmarks.stage import Stage

HISTORY = "latency.jsonl"
FRACTIONS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
_SPARE = 1.5  # More is prepared than is sent, because connections do not take turns exactly.
_SPARE_A_CONNECTION = 20


@dataclass(frozen=True)
class Sweep:
    size: scans.Size = field(default_factory=scans.Size)
    fractions: tuple[float, ...] = FRACTIONS
    point_s: float = 10.0
    capacity: float = 0.0
    poisson: bool = False


SMOKE = Sweep(scans.SMOKE, (0.5, 1.1), 0.4, 300.0)


@dataclass
class Point:
    """One arrival rate."""

    fraction: float
    rate_per_s: float
    result: Result

    @property
    def latency(self) -> dict[str, int]:
        return histogram.summary(self.result.latency)

    def record(self) -> dict[str, Any]:
        """As it is kept: with the raw histogram."""
        result = self.result
        return {
            "fraction": self.fraction,
            "rate_per_s": self.rate_per_s,
            "answered": result.answered,
            "answered_per_s": result.requests_per_s,
            "not_sent": result.not_sent,
            "not_answered": result.not_answered,
            "flaws": result.flaws(),
            "latency": self.latency,
            "lateness": histogram.summary(result.lateness),
            "histogram": histogram.encode_histogram(result.latency),
        }


def sweep(stage: Stage, contender: Contender, plan: Sweep) -> tuple[list[Point], dict[str, Any]]:
    """The points, and the audit of the database after the last of them."""
    assert contender.template is not None and contender.audit is not None
    check, port = contender.audit, free_port()
    with stage.database(contender.template) as dsn:
        with (
            contender.serve(stage, dsn, port, plan.size.workers) as running,
            Load(
                stage.traffic, port, contender.expected, processes=plan.size.processes, headers=contender.headers(stage)
            ) as load,
        ):
            load.connect()
            load.touch_each_tag()
            points = [_point(load, fraction, plan) for fraction in plan.fractions]
            held = load.finish()
            running.processes.check()
        audited = stage.run(dsn, lambda connection: check(connection, stage.traffic, held))
    return points, audited._asdict()


def _point(load: Load, fraction: float, plan: Sweep) -> Point:
    rate = fraction * plan.capacity
    load.prepare(int(rate * plan.point_s * _SPARE) + _SPARE_A_CONNECTION * load.traffic.plans)
    point = Point(fraction, rate, load.open(rate, plan.point_s, poisson=plan.poisson))
    print(f"  {fraction:>5.0%} {rate:>9,.0f}/s {point.latency} {'; '.join(point.result.flaws())}", file=sys.stderr, flush=True)
    return point


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """The records of the points as markdown."""
    lines = [
        "| of capacity | due/s | answered/s | p50 ms | p99 ms | p99.9 ms | max ms | never sent | sent late, p99 ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in points:
        shown = [point["latency"].get(name, 0) for name in ("p50_us", "p99_us", "p99.9_us", "max_us")]
        cells = [
            f"{point['fraction']:.0%}", f"{point['rate_per_s']:,.0f}", f"{point['answered_per_s']:,.0f}",
            *(f"{us / 1000:.2f}" for us in shown), f"{point['not_sent']:,}", f"{point['lateness'].get('p99_us', 0) / 1000:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def percentile_chart(points: Sequence[Point]) -> str:
    """Latency at every percentile, one line a rate; nines are equally far from each other."""
    lines = {}
    for point in points:
        marks = [(nines / 20, 100 - 100 * 10 ** (-nines / 20)) for nines in range(81)]
        values = ((x, point.result.latency.get_value_at_percentile(percentile)) for x, percentile in marks)
        lines[f"{point.fraction:.0%}: {point.rate_per_s:,.0f}/s"] = [(x, max(1, us) / 1000) for x, us in values]
    y_ticks = plots.decades([y for line in lines.values() for _, y in line])
    x_ticks = [(0, "0"), (1, "90"), (2, "99"), (3, "99.9"), (4, "99.99")]
    return plots.chart("Latency from when a request was due", "percentile", "ms", lines, x_ticks, y_ticks)


def rate_chart(points: Sequence[Point]) -> str:
    """Percentiles against the arrival rate."""
    lines = {
        name: [(point.rate_per_s, max(1, point.latency.get(key, 1)) / 1000) for point in points]
        for name, key in (("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p99.9_us"))
    }
    step = 10 ** math.floor(math.log10(max(point.rate_per_s for point in points)))
    top = math.ceil(max(point.rate_per_s for point in points) / step)
    x_ticks = [(step * i, f"{step * i:,}") for i in range(top + 1)]
    y_ticks = plots.decades([y for line in lines.values() for _, y in line])
    return plots.chart("Latency against arrival rate", "requests due a second", "ms", lines, x_ticks, y_ticks)


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    plan = SMOKE if given.smoke else Sweep()
    chosen = {n: getattr(given, n) for n in ("point_s", "capacity", "poisson") if getattr(given, n)}
    plan = replace(plan, **chosen)
    contender = http_contenders()[given.contender]
    traffic = Traffic(given.seed, plan.size.tags, plan.size.connections, Mix(*given.mix))
    with Stage(traffic, aged=not given.smoke) as stage:
        described = environment.describe(
            load_before=environment.load_average(),
            postgres=stage.settings(),
            traffic=environment.plain(traffic),
            size=asdict(plan),
        )  # fmt: skip
        if not plan.capacity:
            found = scans.measure(stage, contender, plan.size, 1)
            if not found.good:
                print(f"the capacity is not known: {found.flaws} {found.audit}", file=sys.stderr)
                return 1
            plan = replace(plan, capacity=found.requests_per_s)
        points, audited = sweep(stage, contender, plan)
    session = time.strftime("%Y%m%dT%H%M%S")
    record: dict[str, Any] = {"session": session, "contender": contender.name, "capacity": plan.capacity, "audit": audited}
    record |= {"points": [point.record() for point in points], "environment": described}
    folder = environment.remember(HISTORY, record, environment.folder(given)).parent
    for name, drawn in (("percentiles", percentile_chart(points)), ("rates", rate_chart(points))):
        (folder / f"latency-{session}-{contender.name}-{name}.svg").write_text(drawn)
    print(f"{contender.title}: capacity {plan.capacity:,.0f} requests/s\n\n{table(record['points'])}\n")
    good = not audited["problems"] and not any(point.result.flaws() for point in points)
    print("Every answer was the expected one, the audit clean." if good else f"NOT GOOD, see above. Audit: {audited['problems']}")
    print(f"\n{environment.as_markdown(described)}")
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks latency", description=__doc__.splitlines()[0])
    durable = [name for name, contender in http_contenders().items() if contender.template is not None]
    parser.add_argument("--contender", choices=durable, default="ixfast")
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--capacity", type=float, help="requests/s that are 100 %%; measured unless given")
    parser.add_argument("--point-s", type=float, help=f"seconds of each rate; {Sweep().point_s:g} unless given")
    parser.add_argument("--poisson", action="store_true", help="arrivals at random instead of evenly")
    parser.add_argument("--seed", type=int, default=424)
    parser.add_argument("--mix", type=float, nargs=4, default=list(Mix()), metavar=("GENUINE", "REPLAYED", "FORGED", "UNKNOWN"))
    parser.add_argument("--results", type=Path, help="folder of the history and the plots; benchmarks/results unless given")
    return parser


if __name__ == "__main__":
    sys.exit(main())
