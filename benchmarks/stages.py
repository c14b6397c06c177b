"""Cost of each stage of a scan, as measured by the workers. `python -m benchmarks stages`, `ixfast bench --stages`

ixfast times a sample of its scans stage by stage and exports sums and counts (`ixfast_stage_…`, docs/reference/metrics.md). This
benchmark runs an open loop at half the capacity and takes what was added meanwhile: microseconds per scan in each stage. Stages
that wait (for the previous batch, for the statement) are elapsed time, not work; the others are work on the event loop.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks import plots, scans
from benchmarks.contenders import Contender, http_contenders, ixfast_with
from benchmarks.experiment import CAPACITY, Experiment
from benchmarks.load import histogram
from benchmarks.load_test import load_test
from benchmarks.tables import markdown
from benchmarks.testbed import Testbed
from ixfast.meters import STAGES

HISTORY = "stages.jsonl"


@dataclass(frozen=True, kw_only=True)
class Size(scans.Size):
    seconds: float = 15.0
    rate_fraction: float = 0.5
    capacity: float = 0.0
    trace_every: int = 16


SMOKE = Size(tags=200, connections=8, seconds=0.5, capacity=300.0, trace_every=1)


def measure(testbed: Testbed, contender: Contender, size: Size) -> dict[str, Any]:
    """By stage the microseconds per scan and the number of timed scans; also latency and flaws."""
    rate = size.rate_fraction * size.capacity
    with load_test(testbed, contender, size) as test:
        test.load.touch_each_tag()
        before = test.running.stages()
        result = test.open(rate, size.seconds)
        after = test.running.stages()
    found = {}
    for name, (total_s, count) in after.items():
        earlier_s, earlier = before.get(name, (0.0, 0.0))
        if count > earlier:
            found[name] = {"us": (total_s - earlier_s) * 1e6 / (count - earlier), "timed": int(count - earlier)}
    flaws = [*result.flaws(), *test.audit.problems, *([] if found else ["the server exports no stages"])]
    return {"rate_per_s": rate, "stages": found, "latency": histogram.summary(result.latency), "flaws": flaws}


def in_order(stages: Mapping[str, Any]) -> list[str]:
    """Their names in the order in which a scan passes them; unknown ones at the end."""
    return sorted(stages, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))


def table(record: Mapping[str, Any]) -> str:
    stages = record["stages"]
    total = sum(each["us"] for each in stages.values())
    rows = [
        [name, f"{stages[name]['us']:.2f}", f"{stages[name]['us'] / total:.1%}", f"{stages[name]['timed']:,}"]
        for name in in_order(stages)
    ]
    p50_us = record["latency"].get("p50_us", 0)
    return "\n".join([
        f"At {record['rate_per_s']:,.0f} requests/s; p50 {p50_us:,} µs from when they were due.", "",
        markdown(("stage", "µs per scan", "share", "timed"), rows), f"| all | {total:.2f} | | |",
    ])  # fmt: skip


def plot(record: Mapping[str, Any]) -> Any:
    values = {name: [record["stages"][name]["us"]] for name in in_order(record["stages"])}
    title = f"Time of a scan by stage, at {record['rate_per_s']:,.0f} requests/s"
    return plots.bars(title, "µs per scan, logarithmic", values, record, log=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks stages", description=__doc__.splitlines()[0])
    flags = {"capacity": CAPACITY, "seconds": "seconds of load"}
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    experiment.plan("set-up and capacity 1 minute", f"{size.seconds:g} s of load")
    contender = http_contenders()["ixfast"]
    traced = contender._replace(serve=ixfast_with(("--trace-every", str(size.trace_every))))
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, size=asdict(size), stages={}, flaws=["it was interrupted before the audit"])
        with experiment.interruptible():
            if not size.capacity:
                size = replace(size, capacity=scans.measured_capacity(testbed, contender, size))
            record |= {"capacity": size.capacity, **measure(testbed, traced, size)}
    if record["stages"]:
        experiment.draw("stages", plot(record))
        experiment.show(table(record))
    return experiment.end(record, record["flaws"])
