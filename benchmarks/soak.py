"""Does anything drift over time? `python -m benchmarks soak --minutes 20 --rate-fraction 0.7`

An open loop at 70 % of the capacity, against one server, without a pause; taps are made while it runs, in bounded memory. Every
10 s a sample is taken: latency, resident memory of every worker and of PostgreSQL, connections, sizes of tables and indexes,
and the share of heap-only updates. Every response is checked, and finally the database is audited against all of them.

The first minute fills caches and pages; drift is the last quarter compared with the second. Each sample is written immediately
(`soak-SESSION.jsonl`), so that an interrupted run is not lost.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import plots
from benchmarks.contenders import Contender, Running, http_contenders, ixfast_with
from benchmarks.experiment import CAPACITY, BenchmarkError, Experiment
from benchmarks.experiment import Size as CommonSize
from benchmarks.load import histogram
from benchmarks.load.drive import Load
from benchmarks.load.results import Interval
from benchmarks.load_test import LoadTest, load_test
from benchmarks.processes import cpu_s, memory
from benchmarks.tables import markdown, ms
from benchmarks.testbed import Testbed

HISTORY = "soak.jsonl"
_MILLION = 1_000_000
CAPACITY_SETTLE_S = 3
_HOT_AT_LEAST = 0.995
# Unknown references that a worker remembers. The default of 100,000 would be reached only after 10 million scans, and filling it
# would look like a memory leak.
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


@dataclass(frozen=True, kw_only=True)
class Size(CommonSize):
    minutes: float = 20.0
    rate_fraction: float = 0.7
    interval_s: float = 10.0
    capacity: float = 0.0
    capacity_s: int = 12


SMOKE = Size(tags=200, connections=8, minutes=0.05, rate_fraction=0.05, interval_s=1.0, capacity_s=CAPACITY_SETTLE_S + 1)


def samples(test: LoadTest, size: Size) -> Iterator[dict[str, Any]]:
    """A sample at the start and for each interval."""
    assert test.dsn is not None
    test.load.touch_each_tag(60.0)
    passes, at_s = size.tags, 0.0
    yield {"at_s": 0.0, "passes": passes, **state(test.testbed, test.dsn, test.running)}
    for interval in test.load.stream(size.rate_fraction * size.capacity, size.minutes * 60, size.interval_s):
        test.running.processes.check()
        passes, at_s = passes + interval.passes, at_s + interval.seconds
        yield {"at_s": at_s, "passes": passes, **seen(interval), **state(test.testbed, test.dsn, test.running, test.load)}


def measured_capacity(testbed: Testbed, contender: Contender, size: Size) -> float:
    """Requests/s that are answered when more are due. Raises `BenchmarkError` if a response was wrong or the audit found
    something.

    Taps are made while it runs, as in the soak itself. In `scans` they are prepared, and the processor time that this saves is
    a part of the capacity where the generator shares the cores.
    """
    with load_test(testbed, contender, size) as test:
        test.load.touch_each_tag(60.0)
        found = list(test.load.stream(contender.usual_requests_per_s / 2, size.capacity_s, 1.0))
    wrong = sum(sum(interval.wrong.values()) for interval in found)
    problems = [*([f"{wrong} answers wrong"] if wrong else []), *test.audit.problems]
    if problems:
        raise BenchmarkError(f"the capacity could not be measured: {'; '.join(problems)}")
    return served_per_s(found)


def served_per_s(found: Sequence[Interval]) -> float:
    """Answered requests per second of a stream at more than the capacity, without its first seconds."""
    counted = found[CAPACITY_SETTLE_S:]
    return sum(interval.served for interval in counted) / sum(interval.seconds for interval in counted)


def seen(interval: Interval) -> dict[str, Any]:
    """An interval as it is stored."""
    return {
        "seconds": interval.seconds, "due": interval.due, "sent": interval.sent, "served": interval.served,
        "refused": interval.refused, "wrong": interval.wrong, "gave_up": interval.gave_up,
        "latency": histogram.summary(interval.latency), "histogram": histogram.encode_histogram(interval.latency),
    }  # fmt: skip


def state(testbed: Testbed, dsn: str, running: Running, load: Load | None = None) -> dict[str, Any]:
    """Figures of the processes and of the database. Memory in bytes; PostgreSQL's without shared memory."""
    workers = memory(running.processes.pids, children=True)
    found: dict[str, Any] = dict(testbed.run(dsn, lambda connection: connection.fetchrow(SIZES)))
    return {
        **found,
        "worker_rss": [each["rss"] for each in workers],
        "postgres_anonymous": sum(each["anonymous"] for each in memory(testbed.postgres_pids, children=True)),
        "generator_rss": [each["rss"] for each in memory(load.pids)] if load is not None else [],
        "http_connections": running.observe().get("ixfast_connections", 0.0),
        "server_cpu_s": cpu_s(running.processes.pids),
        "postgres_cpu_s": cpu_s(testbed.postgres_pids),
    }


def _summary(sample: Mapping[str, Any]) -> str:
    latency = sample.get("latency", {})
    wrong = f"  NOT GOOD: {sample['wrong']}" if sample.get("wrong") else ""
    refused = sum(sample.get("refused", {}).values())
    return (
        f"{sample['passes'] / _MILLION:>7.2f} M passes, p50 {ms(latency.get('p50_us', 0))} ms, "
        f"p99 {ms(latency.get('p99_us', 0))} ms, {refused} x 503, "
        f"workers {', '.join(f'{rss / 2**20:.1f}' for rss in sample['worker_rss'])} MiB, "
        f"HOT {hot_share(sample):.3%}{wrong}"
    )


def hot_share(sample: Mapping[str, Any]) -> float:
    """Share of heap-only updates; any other update also writes to the index."""
    return sample["hot_updates"] / sample["updates"] if sample.get("updates") else 0.0


def by_million(found: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[int]]]:
    """Resident memory of the workers at each million of passes."""
    rows: list[tuple[int, list[int]]] = []
    for sample in found:
        millions = sample["passes"] // _MILLION
        if millions and (not rows or rows[-1][0] < millions):
            rows.append((millions, sample["worker_rss"]))
    return rows


def growth(found: Sequence[Mapping[str, Any]], first: int = 5, last: int = 10) -> float | None:
    """Largest growth of a worker's memory between two millions of passes, in MiB; None if the run was too short."""
    reached = dict(by_million(found))
    start = next((reached[m] for m in sorted(reached) if m >= first), None)
    end = next((reached[m] for m in sorted(reached) if m >= last), None)
    if start is None or end is None:
        return None
    return max(b - a for a, b in zip(start, end, strict=True)) / 2**20


def drift(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last quarter divided by the second quarter, medians of the samples: 1 is no drift."""
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
    """Why a run does not count, for example a 503 at 70 % of the capacity or a wrong response."""
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
    at_the_end = {
        "heap-only updates": f"{hot_share(last):.4%}",
        "counter table / its index": f"{_mib(last['counter_table'])} MiB / {_mib(last['counter_indexes'])} MiB",
        "scan log": f"{_mib(last['scan_log'])} MiB, {last['scan_log'] / max(1, last['passes']):.0f} bytes per pass",
        "autovacuums of the counter table": str(last["vacuums"]),
    }
    grown = growth(found)
    if grown is not None:
        at_the_end["growth of a worker between the 5th and the 10th million"] = f"{grown:.2f} MiB"
    return "\n".join([
        f"{last['at_s'] / 60:.1f} minutes at {record['rate_per_s']:,.0f} requests/s ({record['size']['rate_fraction']:.0%} of"
        f" {record['capacity']:,.0f}), {sent:,} requests, {last['passes']:,} durable passes.",
        "", markdown(("last quarter ÷ second quarter", ""), [(name, f"{value:.3f}") for name, value in drift(found).items()]),
        "", "| passes | memory of the workers, MiB |", "|---:|---|",
        *(f"| {m} M | {', '.join(map(_mib, each))} |" for m, each in by_million(found)),
        "", markdown(("at the end", ""), list(at_the_end.items())),
    ])  # fmt: skip


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def latency_plot(record: Mapping[str, Any]) -> Any:
    """Latency over time."""
    found = [sample for sample in record["samples"] if sample.get("latency")]
    series = {
        name: [(sample["at_s"] / 60, max(1, sample["latency"][key]) / 1000) for sample in found]
        for name, key in (("max", "max_us"), ("p99.9", "p99.9_us"), ("p99", "p99_us"), ("p50", "p50_us"))
    }
    return plots.lines("Latency over time", "minutes", "ms", series, record, log=True)


def memory_plot(record: Mapping[str, Any]) -> Any:
    """Memory of the workers and of PostgreSQL over time."""
    found = record["samples"]
    series = {
        f"worker {i}": [(sample["at_s"] / 60, sample["worker_rss"][i] / 2**20) for sample in found]
        for i in range(min(len(sample["worker_rss"]) for sample in found))
    }
    series["PostgreSQL"] = [(sample["at_s"] / 60, sample["postgres_anonymous"] / 2**20) for sample in found]
    return plots.lines("Memory over time", "minutes", "MiB", series, record)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks soak", description=__doc__.splitlines()[0])
    flags = {
        "minutes": "minutes of load", "rate_fraction": "share of the capacity", "capacity": CAPACITY,
        "interval_s": "seconds of a sample",
    }  # fmt: skip
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    experiment.plan("set-up and capacity 1 minute", f"{size.minutes:g} minutes of load", "audit up to 3 minutes")
    contender = http_contenders()["ixfast"]._replace(serve=ixfast_with(_BOUNDED))
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, size=asdict(size), samples=[])
        with experiment.interruptible():
            if not size.capacity:
                size = replace(size, capacity=measured_capacity(testbed, contender, size))
            record |= {"capacity": size.capacity, "rate_per_s": size.capacity * size.rate_fraction}
            with load_test(testbed, contender, size) as test:
                for sample in samples(test, size):
                    experiment.keep(sample)
                    record["samples"].append(sample)
                    experiment.progress(_summary(sample))
                experiment.progress("the audit")
            record["audit"] = test.audit._asdict()
            experiment.keep({"audit": record["audit"]})
    if len(record["samples"]) > 1:
        experiment.draw("latency", latency_plot(record))
        experiment.draw("memory", memory_plot(record))
        experiment.show(table(record))
    return experiment.end(record, flaws(record))
