"""What each knob is worth: ixfast with one setting changed at a time. `python -m benchmarks knobs`

Every repetition runs every variant once, over a fresh copy of the database, in a closed loop as `scans` does; the first is the
default, and the table has each variant's durable passes a second over the default's of the same repetition. Variants of
PostgreSQL have a server of their own. What `synchronous_commit` costs is in `ledger`, because ixfast lets nobody turn it off.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from benchmarks import scans
from benchmarks.contenders import http_contenders, ixfast_with
from benchmarks.experiment import Experiment
from benchmarks.load.drive import LoadError
from benchmarks.load.traffic import Traffic
from benchmarks.processes import ContenderError
from benchmarks.stage import Stage

HISTORY = "knobs.jsonl"


class Knob(NamedTuple):
    """`flags` of `ixfast serve`, and `postgres` settings of the server."""

    name: str
    flags: tuple[str, ...] = ()
    postgres: tuple[tuple[str, str], ...] = ()
    workers: int | None = None
    connections: int | None = None


DEFAULT = Knob("default")
KNOBS = (
    DEFAULT,
    Knob("1 worker", workers=1),
    Knob("3 workers", workers=3),
    Knob("4 workers", workers=4),
    Knob("2 committers", ("--committers", "2")),
    Knob("4 committers", ("--committers", "4")),
    Knob("batch limit 32", ("--ledger-batch-max", "32")),
    Knob("batch limit 128", ("--ledger-batch-max", "128")),
    Knob("cache of a fifth of the tags", ("--cache-tags", "20000")),
    Knob("64 connections", connections=64),
    Knob("1,024 connections", connections=1024),
    Knob("wal_compression on", postgres=(("wal_compression", "on"),)),
    Knob("shared_buffers 256 MB", postgres=(("shared_buffers", "256MB"),)),
    Knob("commit_delay 100 us", postgres=(("commit_delay", "100"), ("commit_siblings", "1"))),
    Knob("wal_buffers 64 MB", postgres=(("wal_buffers", "64MB"),)),
)
SMOKE_KNOBS = ("default", "2 committers", "wal_compression on")


def measure(stage: Stage, knob: Knob, size: scans.Size, repetition: int) -> scans.Run:
    """One run; its traffic has the knob's number of connections."""
    contender = http_contenders()["ixfast"]._replace(serve=ixfast_with(knob.flags))
    own = replace(size, workers=knob.workers or size.workers)
    traffic = stage.traffic
    stage.traffic = traffic._replace(plans=knob.connections or traffic.plans)
    try:
        return scans.measure(stage, contender, own, repetition)
    except (ContenderError, LoadError) as error:
        return scans.Run("ixfast", repetition, 0.0, 0.0, flaws=[str(error)])
    finally:
        stage.traffic = traffic


def table(record: Mapping[str, Any]) -> str:
    lines = ["| variant | runs | durable passes/s | ÷ default | scans a statement |", "|---|---:|---:|---:|---:|"]
    rates = {(each["knob"], each["repetition"]): each["passes_per_s"] for each in record["points"] if not each["flaws"]}
    for name in dict.fromkeys(each["knob"] for each in record["points"]):
        own = [each for each in record["points"] if each["knob"] == name and not each["flaws"]]
        if not own:
            lines.append(f"| {name} | 0 | - | - | - |")
            continue
        ratios = [
            each["passes_per_s"] / rates[DEFAULT.name, each["repetition"]]
            for each in own
            if rates.get((DEFAULT.name, each["repetition"]))
        ]
        around = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        rows = statistics.median(each["rows_a_statement"] for each in own)
        lines.append(f"| {name} | {len(own)} | {scans.spread([each['passes_per_s'] for each in own])} | {around} | {rows:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks knobs", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[knob.name for knob in KNOBS], help="the default and these")
    experiment = Experiment(parser, HISTORY, arguments)
    given = experiment.given
    size = scans.SMOKE if given.smoke else scans.Size(measure_s=4.0)
    size = replace(size, repetitions=1 if given.smoke else given.repetitions)
    only = given.only or (SMOKE_KNOBS if given.smoke else [knob.name for knob in KNOBS])
    knobs = [knob for knob in KNOBS if knob is DEFAULT or knob.name in only]
    servers = list(dict.fromkeys(knob.postgres for knob in knobs))
    runs = len(knobs) * size.repetitions
    experiment.plan(f"{len(servers)} servers to fill, 15 s each", f"{runs} runs of about 25 s", f"{runs * 0.42 + 4:.0f} minutes")
    traffic = Traffic(given.seed, size.tags, size.connections)
    with contextlib.ExitStack() as stack:
        stages = {}
        for settings in servers:
            stages[settings] = stack.enter_context(Stage(traffic, postgres=dict(settings), aged=not given.smoke))
            experiment.say(f"a server with {dict(settings) or 'its usual settings'}")
        record = experiment.begin(stages[()], size=asdict(size), points=[], cpus=os.cpu_count())
        with experiment.interruptible():
            for point in _points(stages, knobs, size):
                record["points"].append(point)
                experiment.keep(point)
                experiment.say(f"{point['knob']}: {point['passes_per_s']:,.0f} passes/s {'; '.join(point['flaws'])}")
    print(table(record))
    return experiment.end(record, [f"{p['knob']}: {'; '.join(p['flaws'])}" for p in record["points"] if p["flaws"]])


def _points(stages: Mapping[Any, Stage], knobs: list[Knob], size: scans.Size) -> Iterator[dict[str, Any]]:
    for repetition in range(1, size.repetitions + 1):
        for knob in knobs:
            run = measure(stages[knob.postgres], knob, size, repetition)
            flaws = [*run.flaws, *run.audit.get("problems", [])]
            yield {
                "knob": knob.name, "repetition": repetition, "passes_per_s": run.passes_per_s, "flaws": flaws,
                "rows_a_statement": run.rows_a_statement, "server_cpu_us": run.server_cpu_us,
                "postgres_cpu_us": run.postgres_cpu_us,
            }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
