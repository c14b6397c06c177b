"""Empty caches under full load: how long until p99 is normal again after a restart? `python -m benchmarks restart`

One database with 1,000,000 registered tags, all of them active (`--tags`), and caches that can hold them. The first server is
warmed by one tap of every tag; its capacity is measured unless `--capacity` sets it, and then its p99 in each second of an open
loop at 90 % of that (`--rate-fraction`). It is stopped, a second one is started in its place with empty caches, and the same
clients offer the same rate from its first second on. PostgreSQL and its pages stay warm: what is measured is the storm of
look-ups and opened envelopes, each tag's first tap needing both.

A second of the restarted server is normal if its p99 is at most 1.5 times the median of the warm server's seconds, nothing was
refused and no client gave up. p99 is normal again from the start of the first five normal seconds in a row. The result is the
time until then; 0 if the first second is already one of them.

Taps follow Zipf's law within each connection, like everywhere in the benchmarks; `--zipf-exponent 0` taps all tags equally often,
for which caches take longest to fill. Latency counts from when a request was due. A refused request is not an error here.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks import database_audit, plots
from benchmarks.contenders import Contender, Running, http_contenders, ixfast_with
from benchmarks.experiment import CAPACITY, BenchmarkError, Experiment
from benchmarks.experiment import Size as CommonSize
from benchmarks.figures import RESTART
from benchmarks.load import histogram
from benchmarks.load.drive import Load
from benchmarks.load.results import Interval
from benchmarks.load.traffic import Traffic
from benchmarks.scale.filler import fill
from benchmarks.soak import CAPACITY_SETTLE_S, served_per_s
from benchmarks.tables import markdown, ms
from benchmarks.testbed import Testbed
from ixfast.embedded import free_port

NORMAL = 1.5
_TOUCH_S = 600.0
_REFUSED_MAX = 0.02  # of what was due: beyond it, the warm server's p99 is that of a queue.
_READY_S = 2  # Taps for this long are made beforehand.
_SHOWN_S = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300)


@dataclass(frozen=True, kw_only=True)
class Size(CommonSize):
    tags: int = 1_000_000
    rate_fraction: float = 0.9
    capacity: float = 0.0
    zipf_exponent: float = 1.0
    capacity_s: int = 10
    settle_s: int = 3
    warm_s: int = 20
    seconds: int = 120
    hold_s: int = 5


SMOKE = Size(
    tags=1500, connections=8, rate_fraction=0.5, capacity=200.0, capacity_s=CAPACITY_SETTLE_S + 1, settle_s=1, warm_s=2,
    seconds=3, hold_s=1,
)  # fmt: skip


def second(interval: Interval) -> dict[str, Any]:
    """A second as it is stored."""
    return {
        "seconds": interval.seconds, "due": interval.due, "served": interval.served, "refused": interval.refused,
        "wrong": interval.wrong, "gave_up": interval.gave_up, "latency": histogram.summary(interval.latency),
    }  # fmt: skip


def counters(running: Running) -> dict[str, float]:
    """Look-up rounds so far, and cached tags."""
    seen = running.observe()
    return {"rounds": seen["ixfast_catalogue_queries_total"], "cached": seen["ixfast_catalogue_cached_tags"]}


def reference_us(warm: Sequence[Mapping[str, Any]]) -> float:
    """The median p99 of the warm server's seconds. Raises `BenchmarkError` if it could not carry the rate."""
    due = sum(each["due"] for each in warm)
    lost = sum(each["gave_up"] + sum(each["refused"].values()) for each in warm)
    found = [each["latency"]["p99_us"] for each in warm if each["latency"]]
    if lost > _REFUSED_MAX * due or not found:
        raise BenchmarkError(
            f"the warm server left {lost:,} of {due:,} requests unanswered, so its p99 is that of a queue; lower --rate-fraction"
        )
    return statistics.median(found)


def normal_after_s(seconds: Sequence[Mapping[str, Any]], reference: float, hold: int) -> float | None:
    """Seconds until p99 is normal again, as defined at the top; None if it was not before the end."""
    run, at_s = 0, 0.0
    begins_s = 0.0
    for each in seconds:
        p99 = each["latency"].get("p99_us")
        normal = p99 is not None and p99 <= NORMAL * reference and not each["refused"] and not each["gave_up"]
        if normal and not run:
            begins_s = at_s
        run = run + 1 if normal else 0
        if run == hold:
            return begins_s
        at_s += each["seconds"]
    return None


def warmed(load: Load, contender: Contender, size: Size, experiment: Experiment) -> tuple[float, list[dict[str, Any]], list[str]]:
    """The capacity of a warm server, its seconds at the rate, and what was wrong."""
    touched = load.touch_each_tag(_TOUCH_S)
    experiment.progress(f"{touched.answered:,} tags tapped once, {touched.requests_per_s:,.0f}/s")
    flaws, capacity = touched.flaws(), size.capacity
    if not capacity:
        found = list(load.stream(contender.usual_requests_per_s / 2, size.capacity_s, 1.0))
        flaws += [f"{count} x {reason}" for each in found for reason, count in each.wrong.items()]
        capacity = served_per_s(found)
    rate = capacity * size.rate_fraction
    experiment.progress(f"capacity {capacity:,.0f} requests/s")
    intervals = load.stream(rate, size.settle_s + size.warm_s, 1.0, ready=int(rate * _READY_S))
    return capacity, [second(each) for each in intervals][size.settle_s :], flaws


def restarted(load: Load, running: Running, size: Size, rate: float) -> Iterator[dict[str, Any]]:
    """Each second of a server that has just been started."""
    rounds = counters(running)["rounds"]
    for interval in load.stream(rate, size.seconds, 1.0, ready=int(rate * _READY_S)):
        running.processes.check()
        seen = counters(running)
        yield second(interval) | {"rounds": seen["rounds"] - rounds, "cached": seen["cached"]}
        rounds = seen["rounds"]


def measure(testbed: Testbed, size: Size, traffic: Traffic, record: dict[str, Any], experiment: Experiment) -> None:
    """Both servers, one after the other on one port, under one generator; fills the record."""
    contender, port = http_contenders()["ixfast"], free_port()
    serve = ixfast_with(("--cache-tags", str(2 * size.tags)))
    begun = partial(
        fill,
        kek_file=testbed.kek_file,
        seed=traffic.seed,
        count=size.tags,
        processes=size.processes,
        progress=experiment.progress,
    )
    dsn, _ = testbed.make("restart", begun)
    with Load(traffic, port, contender.expected, processes=size.processes) as load:
        with serve(testbed, dsn, port, size.workers) as running:
            load.connect()
            capacity, record["warm"], record["wrong"] = warmed(load, contender, size, experiment)
            record["cached_when_warm"] = counters(running)["cached"]
            load.disconnect()
        record |= {"capacity": capacity, "rate_per_s": capacity * size.rate_fraction}
        record["reference_us"] = reference_us(record["warm"])
        experiment.lap("warm")
        experiment.progress(f"warm p99 {ms(record['reference_us'])} ms; the restart")
        with serve(testbed, dsn, port, size.workers) as running:
            load.connect()
            for each in restarted(load, running, size, record["rate_per_s"]):
                record["seconds"].append(each)
                experiment.keep(each)
            held = load.finish()
    experiment.lap("after the restart")
    experiment.progress("the audit")
    audit = testbed.run(dsn, lambda connection: database_audit.of_ixfast(connection, traffic, held))
    record |= {"audit": audit._asdict(), "normal_after_s": normal_after_s(record["seconds"], record["reference_us"], size.hold_s)}


def flaws(record: Mapping[str, Any]) -> list[str]:
    """Why a run does not count."""
    wrong: Counter[str] = Counter()
    for each in [*record["warm"], *record["seconds"]]:
        wrong.update(each["wrong"])
    audited = record.get("audit", {}).get("problems", ["it was interrupted before the audit"])
    return [*record["wrong"], *(f"{count} x {reason}" for reason, count in wrong.items()), *audited]


def table(record: Mapping[str, Any]) -> str:
    after, reference, size = record["normal_after_s"], record["reference_us"], record["size"]
    within = f"not within {len(record['seconds'])} s" if after is None else f"after {after:.0f} s"
    seconds, refused = record["seconds"], sum(sum(each["refused"].values()) for each in record["seconds"])
    rows = []
    for number, each in enumerate(seconds, start=1):
        if number in _SHOWN_S or number == len(seconds):
            per_s = [each["served"] / each["seconds"], sum(each["refused"].values()) / each["seconds"]]
            times = [ms(each["latency"].get(name, 0)) for name in ("p50_us", "p99_us")]
            rows.append([
                str(number), *(f"{value:,.0f}" for value in per_s), f"{each['gave_up']:,}", *times, f"{each['rounds']:,.0f}",
                f"{each['cached']:,.0f}",
            ])  # fmt: skip
    columns = ("second", "answered/s", "503/s", "gave up", "p50 ms", "p99 ms", "look-up rounds", "cached tags")
    return "\n".join([
        f"p99 is normal again **{within}**: {size['hold_s']} seconds in a row with at most {NORMAL:g} times the"
        f" {ms(reference)} ms of the warm server, and without refusals. {size['tags']:,} active tags, Zipf exponent"
        f" {size['zipf_exponent']:g}, {record['rate_per_s']:,.0f} requests/s ({size['rate_fraction']:.0%} of"
        f" {record['capacity']:,.0f}), {refused:,} refused.",
        "", markdown(columns, rows, text_columns=0),
    ])  # fmt: skip


def latency_plot(record: Mapping[str, Any]) -> Any:
    """p50 and p99 of each second after the restart, with what is normal."""
    found = [(number, each["latency"]) for number, each in enumerate(record["seconds"], start=1) if each["latency"]]
    series = {
        name: [(number, max(1, latency[key]) / 1000) for number, latency in found]
        for name, key in (("p99", "p99_us"), ("p50", "p50_us"))
    }
    bound = NORMAL * record["reference_us"] / 1000
    series["normal p99"] = [(1, bound), (max(2, len(record["seconds"])), bound)]
    title = f"After a restart with {record['size']['tags']:,} active tags"
    return plots.lines(title, "seconds after the restart", "ms", series, record, log=True)


def responses_plot(record: Mapping[str, Any]) -> Any:
    """What was answered and refused in each second after the restart."""
    found = list(enumerate(record["seconds"], start=1))
    series = {
        "due": [(number, each["due"] / each["seconds"]) for number, each in found],
        "answered": [(number, each["served"] / each["seconds"]) for number, each in found],
        "503": [(number, sum(each["refused"].values()) / each["seconds"]) for number, each in found],
        "look-up rounds": [(number, each["rounds"] / each["seconds"]) for number, each in found],
    }
    return plots.lines("Responses after a restart", "seconds after the restart", "/s", series, record)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks restart", description=__doc__.splitlines()[0])
    flags = {
        "tags": "registered and active tags", "connections": "client connections", "workers": "server workers",
        "rate_fraction": "share of the capacity", "capacity": CAPACITY, "zipf_exponent": "0 taps all tags equally often",
        "seconds": "seconds of load after the restart",
    }  # fmt: skip
    experiment = Experiment(parser, RESTART, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    traffic = Traffic(experiment.given.seed, size.tags, size.connections, zipf_exponent=size.zipf_exponent)
    warm_s = size.capacity_s + size.settle_s + size.warm_s
    minutes = size.tags * 120e-6 / 60 + (warm_s + size.seconds) / 60 + 0.5
    experiment.plan(
        f"{size.tags:,} tags to fill and to tap once", f"{warm_s} s warm", f"{size.seconds} s after the restart",
        f"about {minutes:.0f} minutes",
    )  # fmt: skip
    with experiment.testbed(size) as testbed:
        record = experiment.begin(
            testbed, size=asdict(size), capacity=size.capacity, warm=[], seconds=[], wrong=[], normal_after_s=None
        )
        with experiment.interruptible():
            measure(testbed, size, traffic, record, experiment)
    if "audit" in record:
        experiment.draw("latency", latency_plot(record))
        experiment.draw("responses", responses_plot(record))
        experiment.show(table(record))
    return experiment.end(record, flaws(record))
