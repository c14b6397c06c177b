"""Hours in minutes: does anything drift? `python -m benchmarks soak --minutes 20 --rate-fraction 0.7`

An open loop at 70 % of the capacity, over one server, without a pause; taps are made while it runs, in bounded memory. Every 10 s
a sample: latency, resident memory of every worker and of PostgreSQL, connections, sizes of tables and indexes, and how
many updates were heap-only. Every answer is checked, and at the end the database is audited against all of them.

The first minute fills caches and pages; drift is the last quarter against the second. Each sample is written at once
(`soak-SESSION.jsonl`), so that an interrupted run is not lost.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from benchmarks import plots
from benchmarks.audit import Held
from benchmarks.contenders import Contender, Running, http_contenders, ixfast_with
from benchmarks.experiment import Experiment
from benchmarks.load import histogram
from benchmarks.load.drive import Interval, Load
from benchmarks.load.traffic import Traffic
from benchmarks.processes import cpu_s, free_port, memory
from benchmarks.stage import Stage

HISTORY = "soak.jsonl"
_MILLION = 1_000_000
_CAPACITY_SETTLE_S = 3
_HOT_AT_LEAST = 0.995
# References of strangers that a worker remembers. With the 100,000 that it has by default, the memory for them would be full only
# after 10 million scans, and its filling would look like a leak.
_BOUNDED = ("--negative-cache", "20000")
SIZES = """
    SELECT pg_table_size('tag_counter') AS counter_table, pg_indexes_size('tag_counter') AS counter_indexes,
           (SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits
             WHERE inhparent = 'scan_log'::regclass) AS scan_log,
           s.n_tup_upd AS updates, s.n_tup_hot_upd AS hot_updates, s.n_dead_tup AS dead_rows, s.autovacuum_count AS vacuums,
           (SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend') AS database_connections
    FROM pg_stat_user_tables AS s WHERE s.relname = 'tag_counter'
"""


@dataclass(frozen=True)
class Size:
    tags: int = 100_000
    connections: int = 256
    workers: int = 2
    processes: int = 2
    minutes: float = 20.0
    rate_fraction: float = 0.7
    interval_s: float = 10.0
    capacity: float = 0.0
    capacity_s: int = 12


SMOKE = Size(tags=200, connections=8, minutes=0.05, rate_fraction=0.05, interval_s=1.0, capacity_s=_CAPACITY_SETTLE_S + 1)


def samples(experiment: Experiment, stage: Stage, contender: Contender, size: Size) -> Iterator[dict[str, Any]]:
    """A sample for each interval, and at the end one with the audit."""
    passes, at_s = size.tags, 0.0
    with _ground(stage, contender, size) as ground:
        yield {"at_s": 0.0, "passes": passes, **state(stage, ground.dsn, ground.running)}
        for interval in ground.load.stream(size.rate_fraction * size.capacity, size.minutes * 60, size.interval_s):
            ground.running.processes.check()
            passes, at_s = passes + interval.passes, at_s + interval.seconds
            yield {"at_s": at_s, "passes": passes, **seen(interval), **state(stage, ground.dsn, ground.running, ground.load)}
        held = ground.load.finish()
        experiment.say(f"the audit of {passes:,} passes")
        yield {"audit": ground.audit(held)}


def measured_capacity(stage: Stage, contender: Contender, size: Size) -> tuple[float, list[str]]:
    """Requests a second that are answered when more are due, and why they do not count.

    Taps are made while it runs, as in the soak: those of `scans` are ready before, and the processor's time that this saves is
    a share of the capacity where all share two cores.
    """
    with _ground(stage, contender, size) as ground:
        found = list(ground.load.stream(contender.requests_per_s_max / 2, size.capacity_s, 1.0))
        audited = ground.audit(ground.load.finish())
    counted = found[_CAPACITY_SETTLE_S:]
    wrong = sum(sum(interval.wrong.values()) for interval in found)
    problems = [*([f"{wrong} answers wrong"] if wrong else []), *audited["problems"]]
    return sum(interval.served for interval in counted) / sum(interval.seconds for interval in counted), problems


class _Ground(NamedTuple):
    """A server over a fresh database whose tags were all tapped once, and a connected generator."""

    dsn: str
    running: Running
    load: Load
    audit: Callable[[Held], dict[str, Any]]


@contextlib.contextmanager
def _ground(stage: Stage, contender: Contender, size: Size) -> Iterator[_Ground]:
    assert contender.template is not None and contender.audit is not None
    check, port, headers = contender.audit, free_port(), contender.headers(stage)

    def audited(held: Held) -> dict[str, Any]:
        found = stage.run(dsn, lambda connection: check(connection, stage.traffic, held))
        return dict(found._asdict())

    with (
        stage.database(contender.template) as dsn,
        contender.serve(stage, dsn, port, size.workers) as running,
        Load(stage.traffic, port, contender.expected, processes=size.processes, headers=headers) as load,
    ):
        load.connect()
        load.touch_each_tag(60.0)
        yield _Ground(dsn, running, load, audited)
        running.processes.check()


def seen(interval: Interval) -> dict[str, Any]:
    """What the generator saw."""
    return {
        "seconds": interval.seconds, "due": interval.due, "sent": interval.sent, "served": interval.served,
        "refused": interval.refused, "wrong": interval.wrong, "gave_up": interval.gave_up,
        "latency": histogram.summary(interval.latency), "histogram": histogram.encode_histogram(interval.latency),
    }  # fmt: skip


def state(stage: Stage, dsn: str, running: Running, load: Load | None = None) -> dict[str, Any]:
    """What the processes and the database have. Memory in bytes; PostgreSQL's without what its processes share."""
    workers = memory(running.processes.pids, children=True)
    found: dict[str, Any] = dict(stage.run(dsn, lambda connection: connection.fetchrow(SIZES)))
    return {
        **found,
        "worker_rss": [each["rss"] for each in workers],
        "postgres_anonymous": sum(each["anonymous"] for each in memory(stage.postgres_pids, children=True)),
        "generator_rss": [each["rss"] for each in memory(load.pids)] if load is not None else [],
        "http_connections": running.observe().get("ixfast_connections", 0.0),
        "server_cpu_s": cpu_s(running.processes.pids),
        "postgres_cpu_s": cpu_s(stage.postgres_pids),
    }


def _tell(sample: Mapping[str, Any]) -> str:
    latency = sample.get("latency", {})
    wrong = f"  NOT GOOD: {sample['wrong']}" if sample.get("wrong") else ""
    refused = sum(sample.get("refused", {}).values())
    return (
        f"{sample['passes'] / _MILLION:>7.2f} M passes, p50 {latency.get('p50_us', 0) / 1000:.2f} ms, "
        f"p99 {latency.get('p99_us', 0) / 1000:.2f} ms, {refused} x 503, "
        f"workers {', '.join(f'{rss / 2**20:.1f}' for rss in sample['worker_rss'])} MiB, "
        f"HOT {hot_share(sample):.3%}{wrong}"
    )


def hot_share(sample: Mapping[str, Any]) -> float:
    """Heap-only updates among all; new versions elsewhere would touch the index."""
    return sample["hot_updates"] / sample["updates"] if sample.get("updates") else 0.0


def by_million(found: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[int]]]:
    """Resident memory of the workers when each million of passes was reached."""
    rows: list[tuple[int, list[int]]] = []
    for sample in found:
        millions = sample["passes"] // _MILLION
        if millions and (not rows or rows[-1][0] < millions):
            rows.append((millions, sample["worker_rss"]))
    return rows


def growth(found: Sequence[Mapping[str, Any]], first: int = 5, last: int = 10) -> float | None:
    """Largest growth of a worker's memory between two millions of passes, in MiB; None if it was not so long."""
    reached = dict(by_million(found))
    start = next((reached[m] for m in sorted(reached) if m >= first), None)
    end = next((reached[m] for m in sorted(reached) if m >= last), None)
    if start is None or end is None:
        return None
    return max(b - a for a, b in zip(start, end, strict=True)) / 2**20


def drift(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last quarter over the second quarter, medians of the samples: 1 is no drift."""
    timed = [sample for sample in found if sample.get("latency")]
    quarter = len(timed) // 4
    if not quarter:
        return {}
    early, late = timed[quarter : 2 * quarter], timed[-quarter:]

    def ratio(value: Any) -> float:
        before = statistics.median(map(value, early))
        return statistics.median(map(value, late)) / before if before else 0.0

    return {
        "p50": ratio(lambda s: s["latency"]["p50_us"]),
        "p99": ratio(lambda s: s["latency"]["p99_us"]),
        "worker memory": ratio(lambda s: sum(s["worker_rss"])),
        "PostgreSQL's own memory": ratio(lambda s: s["postgres_anonymous"]),
        "database connections": ratio(lambda s: s["database_connections"]),
        "HTTP connections": ratio(lambda s: s["http_connections"]),
        "counter table": ratio(lambda s: s["counter_table"]),
        "counter indexes": ratio(lambda s: s["counter_indexes"]),
    }


def flaws(record: Mapping[str, Any]) -> list[str]:
    """Why a run is not good: a 503 at 70 % is one reason, a wrong answer another."""
    found = []
    for name in ("wrong", "refused"):
        total = sum(sum(sample.get(name, {}).values()) for sample in record["samples"])
        if total:
            found.append(f"{total} answers {name}")
    given_up = sum(sample.get("gave_up", 0) for sample in record["samples"])
    if given_up:
        found.append(f"{given_up} arrivals found no connection in time")
    return found + list(record.get("audit", {}).get("problems", ["it was interrupted before the audit"]))


def table(record: Mapping[str, Any]) -> str:
    found = record["samples"]
    last = found[-1]
    sent = sum(sample.get("sent", 0) for sample in found)
    lines = [
        f"{last['at_s'] / 60:.1f} minutes at {record['rate_per_s']:,.0f} requests/s ({record['size']['rate_fraction']:.0%} of"
        f" {record['capacity']:,.0f}), {sent:,} requests, {last['passes']:,} durable passes.",
        "", "| last quarter ÷ second quarter | |", "|---|---:|",
        *(f"| {name} | {value:.3f} |" for name, value in drift(found).items()),
        "", "| passes | memory of the workers, MiB |", "|---:|---|",
        *(f"| {m} M | {', '.join(f'{rss / 2**20:.1f}' for rss in each)} |" for m, each in by_million(found)),
        "", "| at the end | |", "|---|---:|",
        f"| heap-only updates | {hot_share(last):.4%} |",
        f"| counter table / its index | {last['counter_table'] / 2**20:.1f} MiB / {last['counter_indexes'] / 2**20:.1f} MiB |",
        f"| scan log | {last['scan_log'] / 2**20:,.1f} MiB, {last['scan_log'] / max(1, last['passes']):.0f} bytes a pass |",
        f"| autovacuums of the counter table | {last['vacuums']} |",
    ]  # fmt: skip
    grown = growth(found)
    if grown is not None:
        lines.append(f"| growth of a worker between the 5th and the 10th million | {grown:.2f} MiB |")
    return "\n".join(lines)


def charts(record: Mapping[str, Any]) -> dict[str, str]:
    """Latency and memory over time."""
    found = [sample for sample in record["samples"] if sample.get("latency")]
    minutes = [sample["at_s"] / 60 for sample in found]
    x_ticks = plots.steps(minutes)
    latency = {
        name: [(at, max(1, sample["latency"][key]) / 1000) for at, sample in zip(minutes, found, strict=True)]
        for name, key in (("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p99.9_us"), ("max", "max_us"))
    }
    memory_lines = {
        f"worker {i}": [(at, s["worker_rss"][i] / 2**20) for at, s in zip(minutes, found, strict=True)]
        for i in range(min(len(sample["worker_rss"]) for sample in found))
    }
    own = [(at, sample["postgres_anonymous"] / 2**20) for at, sample in zip(minutes, found, strict=True)]
    memory_lines["PostgreSQL"] = own
    y_latency = plots.decades([y for line in latency.values() for _, y in line])
    y_memory = plots.steps([y for line in memory_lines.values() for _, y in line])
    return {
        "latency": plots.chart("Latency over time", "minutes", "ms", latency, x_ticks, y_latency),
        "memory": plots.chart("Memory over time", "minutes", "MiB", memory_lines, x_ticks, y_memory, linear=True),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help=f"{Size().minutes:g} unless given")
    parser.add_argument("--rate-fraction", type=float, help=f"of the capacity; {Size().rate_fraction:g} unless given")
    parser.add_argument("--capacity", type=float, help="requests/s that are 100 %%; measured unless given")
    parser.add_argument("--interval-s", type=float, help=f"seconds of a sample; {Size().interval_s:g} unless given")
    experiment = Experiment(parser, HISTORY, arguments)
    given = experiment.given
    size = SMOKE if given.smoke else Size()
    chosen = ("minutes", "rate_fraction", "capacity", "interval_s")
    size = replace(size, **{name: getattr(given, name) for name in chosen if getattr(given, name)})
    experiment.plan("stage and capacity 1 minute", f"{size.minutes:g} minutes of load", "audit up to 3 minutes")
    contender = http_contenders()["ixfast"]._replace(serve=ixfast_with(_BOUNDED))
    with Stage(Traffic(given.seed, size.tags, size.connections), aged=not given.smoke) as stage:
        record = experiment.begin(stage, size=asdict(size), samples=[])
        if not size.capacity:
            capacity, problems = measured_capacity(stage, contender, size)
            if problems:
                return experiment.end(record, [f"the capacity is not known: {'; '.join(problems)}"])
            size = replace(size, capacity=capacity)
        record |= {"capacity": size.capacity, "rate_per_s": size.capacity * size.rate_fraction}
        with experiment.interruptible():
            for sample in samples(experiment, stage, contender, size):
                experiment.keep(sample)
                if "audit" in sample:
                    record |= sample
                else:
                    record["samples"].append(sample)
                    experiment.say(_tell(sample))
    if len(record["samples"]) > 1:
        for name, drawn in charts(record).items():
            experiment.draw(name, drawn)
        print(table(record))
    return experiment.end(record, flaws(record))


if __name__ == "__main__":
    sys.exit(main())
