"""What each stage of a scan costs, as the workers themselves measured it. `python -m benchmarks stages`, `ixfast bench --stages`

ixfast times a sample of its scans, stage by stage, and exports sums and counts (`ixfast_stage_…`, docs/metrics.md). This
drives an open loop at half the capacity and takes what was added meanwhile: microseconds a scan in each stage. Stages that wait
(for the batch before, for the statement) are time, not work; the others are work on the event loop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import plots, scans
from benchmarks.contenders import Contender, http_contenders, ixfast_with
from benchmarks.experiment import Experiment
from benchmarks.load import histogram
from benchmarks.load.drive import Load
from benchmarks.load.traffic import Traffic
from benchmarks.processes import free_port
from benchmarks.stage import Stage
from ixfast.meters import STAGES

HISTORY = "stages.jsonl"


@dataclass(frozen=True)
class Size:
    tags: int = 100_000
    connections: int = 256
    workers: int = 2
    processes: int = 2
    seconds: float = 15.0
    rate_fraction: float = 0.5
    capacity: float = 0.0
    trace_every: int = 16


SMOKE = Size(tags=200, connections=8, seconds=0.5, capacity=300.0, trace_every=1)


def measure(stage: Stage, contender: Contender, size: Size) -> dict[str, Any]:
    """Stages by name with microseconds a scan and how many were timed, latency, flaws and audit."""
    assert contender.template is not None and contender.audit is not None
    check, port = contender.audit, free_port()
    rate = size.rate_fraction * size.capacity
    with stage.database(contender.template) as dsn:
        with (
            contender.serve(stage, dsn, port, size.workers) as running,
            Load(stage.traffic, port, contender.expected, processes=size.processes) as load,
        ):
            load.connect()
            load.touch_each_tag()
            load.prepare(int(rate * size.seconds * 1.5) + 20 * size.connections)
            before = running.stages()
            result = load.open(rate, size.seconds)
            after = running.stages()
            held = load.finish()
            running.processes.check()
        audited = stage.run(dsn, lambda connection: check(connection, stage.traffic, held))
    found = {}
    for name, (total_s, count) in after.items():
        earlier_s, earlier = before.get(name, (0.0, 0.0))
        if count > earlier:
            found[name] = {"us": (total_s - earlier_s) * 1e6 / (count - earlier), "timed": int(count - earlier)}
    return {
        "rate_per_s": rate,
        "stages": found,
        "latency": histogram.summary(result.latency),
        "flaws": [*result.flaws(), *audited.problems],
    }


def in_order(stages: Mapping[str, Any]) -> list[str]:
    """Their names on the way of a scan; unknown ones at the end."""
    return sorted(stages, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))


def table(record: Mapping[str, Any]) -> str:
    stages = record["stages"]
    total = sum(each["us"] for each in stages.values())
    lines = [
        f"At {record['rate_per_s']:,.0f} requests/s; p50 {record['latency'].get('p50_us', 0):,} µs from when they were due.", "",
        "| stage | µs a scan | share | timed |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for name in in_order(stages):
        us, timed = stages[name]["us"], stages[name]["timed"]
        lines.append(f"| {name} | {us:.2f} | {us / total:.1%} | {timed:,} |")
    return "\n".join([*lines, f"| all | {total:.2f} | | |"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks stages", description=__doc__.splitlines()[0])
    parser.add_argument("--capacity", type=float, help="requests/s that are 100 %%; measured unless given")
    parser.add_argument("--seconds", type=float, help=f"{Size().seconds:g} unless given")
    experiment = Experiment(parser, HISTORY, arguments)
    given = experiment.given
    size = SMOKE if given.smoke else Size()
    size = replace(size, **{name: getattr(given, name) for name in ("capacity", "seconds") if getattr(given, name)})
    experiment.plan("stage and capacity 1 minute", f"{size.seconds:g} s of load")
    contender = http_contenders()["ixfast"]
    traced = contender._replace(serve=ixfast_with(("--trace-every", str(size.trace_every))))
    with Stage(Traffic(given.seed, size.tags, size.connections), aged=not given.smoke) as stage:
        record = experiment.begin(stage, size=asdict(size))
        if not size.capacity:
            found = scans.measure(stage, contender, replace(scans.Size(), tags=size.tags, workers=size.workers), 1)
            if not found.good:
                return experiment.end({**record, "stages": {}}, [f"the capacity is not known: {found.flaws} {found.audit}"])
            size = replace(size, capacity=found.requests_per_s)
        record |= measure(stage, traced, size)
    if record["stages"]:
        values = {name: record["stages"][name]["us"] for name in in_order(record["stages"])}
        experiment.draw("stages", plots.bars("Time of a scan by stage", "µs", values))
        print(table(record))
    else:
        record["flaws"].append("the server exports no stages")
    return experiment.end(record, record["flaws"])


if __name__ == "__main__":
    sys.exit(main())
