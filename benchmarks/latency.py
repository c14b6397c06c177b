"""Latency at fixed arrival rates, from a tenth of the capacity to beyond it. `python -m benchmarks latency`

Requests leave when they are due, whatever became of earlier ones, and their latency counts from then, so that a server that
stalls cannot hide it by not being asked (coordinated omission). The capacity is what a closed loop reaches just before, unless
`--capacity` sets it. One server serves the whole sweep; every tag has been tapped once before. At and beyond the capacity the
queue grows as long as the point lasts: these latencies show how the server fails, not how it serves.

The column `sent late` is the generator's own part: how late requests left although a connection was idle.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import plots, scans
from benchmarks.contenders import http_contenders
from benchmarks.experiment import CAPACITY, Experiment, add_mix_flag
from benchmarks.load import histogram
from benchmarks.load_test import LoadTest, load_test
from benchmarks.tables import markdown, ms

HISTORY = "latency.jsonl"
_NINES = 4  # The percentile plot reaches to this number of nines.
_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Size(scans.Size):
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1)
    point_s: float = 10.0
    capacity: float = 0.0
    poisson: bool = False


SMOKE = Size(
    tags=200, connections=8, settle_s=0.05, measure_s=0.3, fractions=(0.5, 1.1), point_s=0.4, capacity=300.0
)  # fmt: skip


def points(test: LoadTest, size: Size) -> Iterator[dict[str, Any]]:
    """A record of each arrival rate, with the raw histogram."""
    test.load.touch_each_tag()
    for fraction in size.fractions:
        rate = fraction * size.capacity
        before, cpu = test.running.observe(), test.cpu_s()
        result = test.open(rate, size.point_s, poisson=size.poisson)
        server_us, postgres_us = ((b - a) * 1e6 / max(1, result.sent) for a, b in zip(cpu, test.cpu_s(), strict=True))
        after = test.running.observe()
        batches, scanned = (
            after.get(name, 0) - before.get(name, 0) for name in ("ixfast_ledger_batches_total", "ixfast_ledger_rows_total")
        )
        yield {
            "fraction": fraction,
            "rate_per_s": rate,
            "answered": result.answered,
            "answered_per_s": result.requests_per_s,
            "not_sent": result.not_sent,
            "not_answered": result.not_answered,
            "flaws": result.flaws(),
            "server_cpu_us": server_us,
            "postgres_cpu_us": postgres_us,
            "rows_a_statement": scanned / batches if batches else 0.0,
            "latency": histogram.summary(result.latency),
            "lateness": histogram.summary(result.lateness),
            "histogram": histogram.encode_histogram(result.latency),
        }


def table(points: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        "of capacity", "due/s", "answered/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "never sent", "sent late, p99 ms",
        "CPU µs: server", "PostgreSQL", "scans a statement",
    )  # fmt: skip
    rows = []
    for point in points:
        latencies = [ms(point["latency"].get(name, 0)) for name in ("p50_us", "p99_us", "p99.9_us", "max_us")]
        rates = f"{point['fraction']:.0%}", f"{point['rate_per_s']:,.0f}", f"{point['answered_per_s']:,.0f}"
        costs = [f"{point.get(name, 0.0):.1f}" for name in ("server_cpu_us", "postgres_cpu_us", "rows_a_statement")]
        rows.append([*rates, *latencies, f"{point['not_sent']:,}", ms(point["lateness"].get("p99_us", 0)), *costs])
    return markdown(columns, rows, text_columns=0)


def percentile_plot(record: Mapping[str, Any]) -> Any:
    """Latency at every percentile, one line for each rate; the distance from one nine to the next is constant."""
    series = {}
    for point in record["points"]:
        found = histogram.add([point["histogram"].encode()])
        marks = [(step / _STEPS, 100 - 100 * 10 ** (-step / _STEPS)) for step in range(_NINES * _STEPS + 1)]
        name = f"{point['fraction']:.0%}: {point['rate_per_s']:,.0f}/s"
        series[name] = [(x, max(1, found.get_value_at_percentile(percentile)) / 1000) for x, percentile in marks]
    ticks = [(0, "0"), (1, "90"), (2, "99"), (3, "99.9"), (4, "99.99")]
    return plots.lines("Latency from when a request was due", "percentile", "ms", series, record, log=True, x_ticks=ticks)


def rate_plot(record: Mapping[str, Any]) -> Any:
    """Percentiles against the arrival rate."""
    series = {
        name: [(point["rate_per_s"], max(1, point["latency"].get(key, 1)) / 1000) for point in record["points"]]
        for name, key in (("p99.9", "p99.9_us"), ("p99", "p99_us"), ("p50", "p50_us"))
    }
    return plots.lines("Latency over load, open loop", "requests due per second", "ms", series, record, log=True, markers=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks latency", description=__doc__.splitlines()[0])
    durable = [name for name, contender in http_contenders().items() if contender.template is not None]
    parser.add_argument("--contender", choices=durable, default="ixfast")
    add_mix_flag(parser)
    flags = {"capacity": CAPACITY, "point_s": "seconds of each rate", "poisson": "random instead of even arrivals"}
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    contender = http_contenders()[experiment.given.contender]
    experiment.plan("set-up and capacity 1 minute", f"{len(size.fractions)} rates of {size.point_s:g} s")
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, contender=contender.name, size=asdict(size), capacity=size.capacity, points=[])
        with experiment.interruptible():
            if not size.capacity:
                size = replace(size, capacity=scans.measured_capacity(testbed, contender, size))
            record["capacity"] = size.capacity
            with load_test(testbed, contender, size) as test:
                experiment.lap("set-up")
                for point in points(test, size):
                    record["points"].append(point)
                    experiment.lap(f"{point['fraction']:.0%}")
                    state = f"{point['latency']} {'; '.join(point['flaws'])}"
                    experiment.progress(f"{point['fraction']:>5.0%} {point['rate_per_s']:>9,.0f}/s {state}")
            record["audit"] = test.audit._asdict()
    if record["points"]:
        experiment.draw(f"{contender.name}-percentiles", percentile_plot(record))
        experiment.draw(f"{contender.name}-rates", rate_plot(record))
        experiment.show(f"{contender.title}: capacity {size.capacity:,.0f} requests/s\n\n{table(record['points'])}")
    flaws = [f"{point['fraction']:.0%}: {flaw}" for point in record["points"] for flaw in point["flaws"]]
    return experiment.end(record, [*flaws, *record.get("audit", {}).get("problems", ["it was interrupted before the audit"])])
