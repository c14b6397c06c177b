"""Effect of each setting: ixfast with one setting changed at a time. `python -m benchmarks knobs`

Every repetition runs every variant once, over a fresh copy of the database, in a closed loop like `scans`. The first variant is
the default, and the table has each variant's durable passes per second divided by those of the default in the same repetition.
Variants of PostgreSQL's settings have a server of their own. `ledger` measures the cost of `synchronous_commit`, which cannot
be turned off in ixfast.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks import scans
from benchmarks.contenders import http_contenders, ixfast_with
from benchmarks.experiment import Experiment
from benchmarks.tables import markdown, spread
from benchmarks.testbed import Testbed

HISTORY = "knobs.jsonl"


class Variant(NamedTuple):
    """`flags` of `ixfast serve` and `postgres` settings of the database server that differ from the default."""

    name: str
    flags: tuple[str, ...] = ()
    postgres: tuple[tuple[str, str], ...] = ()
    workers: int | None = None
    connections: int | None = None


DEFAULT = Variant("default")
VARIANTS = (
    DEFAULT,
    Variant("1 worker", workers=1),
    Variant("3 workers", workers=3),
    Variant("4 workers", workers=4),
    Variant("2 committers", ("--committers", "2")),
    Variant("4 committers", ("--committers", "4")),
    Variant("batch limit 32", ("--ledger-batch-max", "32")),
    Variant("batch limit 128", ("--ledger-batch-max", "128")),
    Variant("cache of a fifth of the tags", ("--cache-tags", "20000")),
    Variant("64 connections", connections=64),
    Variant("1,024 connections", connections=1024),
    Variant("wal_compression on", postgres=(("wal_compression", "on"),)),
    Variant("shared_buffers 256 MB", postgres=(("shared_buffers", "256MB"),)),
    Variant("commit_delay 100 us", postgres=(("commit_delay", "100"), ("commit_siblings", "1"))),
    Variant("wal_buffers 64 MB", postgres=(("wal_buffers", "64MB"),)),
)
SMOKE_VARIANTS = ("default", "2 committers", "wal_compression on")


def measure(testbed: Testbed, variant: Variant, size: scans.Size, repetition: int) -> scans.Run:
    """One run; its traffic has the variant's number of connections."""
    contender = http_contenders()["ixfast"]._replace(serve=ixfast_with(variant.flags))
    own = replace(size, workers=variant.workers or size.workers)
    traffic = testbed.traffic
    testbed.traffic = traffic._replace(plans=variant.connections or traffic.plans)
    try:
        return scans.attempt("ixfast", repetition, partial(scans.measure, testbed, contender, own, repetition))
    finally:
        testbed.traffic = traffic


def table(record: Mapping[str, Any]) -> str:
    rows = []
    rates = {(each["knob"], each["repetition"]): each["passes_per_s"] for each in record["points"] if not each["flaws"]}
    for name in dict.fromkeys(each["knob"] for each in record["points"]):
        own = [each for each in record["points"] if each["knob"] == name and not each["flaws"]]
        pairs = [(each["passes_per_s"], rates.get((DEFAULT.name, each["repetition"]))) for each in own]
        ratios = [rate / default for rate, default in pairs if default]
        batch = f"{statistics.median(each['rows_a_statement'] for each in own):.0f}" if own else "-"
        rows.append([name, str(len(own)), spread([each["passes_per_s"] for each in own]), spread(ratios, ".2f"), batch])
    return markdown(("variant", "runs", "durable passes/s", "÷ default", "scans per statement"), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks knobs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS], help="the default and these")
    default = scans.Size(measure_s=4.0, repetitions=2)
    experiment = Experiment(parser, HISTORY, arguments, size=default, flags={"repetitions": "repetitions"})
    size, smoke = experiment.sized(default, scans.SMOKE), experiment.given.smoke
    only = experiment.given.only or (SMOKE_VARIANTS if smoke else [variant.name for variant in VARIANTS])
    variants = [variant for variant in VARIANTS if variant is DEFAULT or variant.name in only]
    servers = list(dict.fromkeys(variant.postgres for variant in variants))
    runs = len(variants) * size.repetitions
    experiment.plan(f"{len(servers)} servers to fill, 15 s each", f"{runs} runs of about 25 s", f"{runs * 0.42 + 4:.0f} minutes")
    with contextlib.ExitStack() as stack:
        testbeds = {}
        for settings in servers:
            testbeds[settings] = stack.enter_context(experiment.testbed(size, postgres=dict(settings)))
            experiment.progress(f"a server with {dict(settings) or 'the default settings'}")
        record = experiment.begin(testbeds[()], size=asdict(size), points=[], cpus=os.cpu_count())
        with experiment.interruptible():
            for point in _points(testbeds, variants, size):
                record["points"].append(point)
                experiment.lap(f"{point['knob']} {point['repetition']}")
                experiment.keep(point)
                experiment.progress(f"{point['knob']}: {point['passes_per_s']:,.0f} passes/s {'; '.join(point['flaws'])}")
    experiment.show(table(record))
    return experiment.end(record, [f"{p['knob']}: {'; '.join(p['flaws'])}" for p in record["points"] if p["flaws"]])


def _points(testbeds: Mapping[Any, Testbed], variants: list[Variant], size: scans.Size) -> Iterator[dict[str, Any]]:
    for repetition in range(1, size.repetitions + 1):
        for variant in variants:
            run = measure(testbeds[variant.postgres], variant, size, repetition)
            yield {
                "knob": variant.name, "repetition": repetition, "passes_per_s": run.passes_per_s, "flaws": run.problems,
                "rows_a_statement": run.rows_a_statement, "server_cpu_us": run.server_cpu_us,
                "postgres_cpu_us": run.postgres_cpu_us,
            }  # fmt: skip
