"""The standard set of benchmarks, in about a quarter of an hour, and a report. `make bench`, `ixfast bench`

In order: the native cores and single steps, scans compared with the peers (three repetitions), the SQL alone at the batch sizes
that were seen, latency from 10 % to 110 % of the capacity, cost by stage, report. `--full` adds overload, hosts, restart, scale
and soak, which take more than another hour; `--only` and `--without` select parts. Each part is a process of its own, writes its
results when it ends, and can be run alone; if one fails, the others still run. A part that ran on a disturbed machine is unfit:
its figures do not count (`disturbance.py`), and the exit status is 3 if nothing else failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import disturbance, environment, report
from benchmarks.processes import ROOT, child_environment, python


class Part(NamedTuple):
    name: str
    arguments: tuple[str, ...]
    minutes: float  # on two idle cores
    full: bool = False


PARTS = (
    Part("micro", ("--cores",), 1),
    Part("scans", ("--repetitions", "3"), 9),
    Part("ledger", ("--repetitions", "3"), 2.5),
    Part("latency", (), 3),
    Part("stages", (), 1),
    Part("overload", (), 5, full=True),
    Part("hosts", ("--repetitions", "3"), 10, full=True),
    Part("restart", (), 7, full=True),
    Part("scale", (), 20, full=True),
    Part("soak", (), 25, full=True),
)


def chosen(given: argparse.Namespace) -> list[Part]:
    names = set(given.only or [part.name for part in PARTS if given.full or not part.full]) - set(given.without)
    return [part for part in PARTS if part.name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks run", description=__doc__.splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("--smoke", action="store_true", help="sizes that only show that everything works")
    parser.add_argument("--full", action="store_true", help="add overload, hosts, restart, scale and soak")
    parser.add_argument("--only", nargs="+", choices=names, help="only these parts")
    parser.add_argument("--without", nargs="+", choices=names, default=[], help="all parts except these")
    parser.add_argument("--results", type=Path, help="folder of the history (default: benchmarks/results)")
    disturbance.add_flag(parser)
    given = parser.parse_args(arguments)
    parts = chosen(given)
    for part in parts:
        print(f"  {part.name:<10} about {part.minutes:g} minutes", file=sys.stderr)
    print(
        f"about {sum(part.minutes for part in parts):g} minutes in total; do not use the machine meanwhile",
        file=sys.stderr,
        flush=True,
    )
    folder = ["--results", str(environment.folder(given))]
    accept = ["--accept-disturbed"] if given.accept_disturbed else []
    failed: list[str] = []
    unfit: list[str] = []
    begun = time.monotonic()
    for part in parts:
        minutes = (time.monotonic() - begun) / 60
        print(f"\n=== {part.name}, after {minutes:.1f} minutes", file=sys.stderr, flush=True)
        extra = ("--smoke", *(word for word in part.arguments if word == "--cores")) if given.smoke else part.arguments
        command = python("benchmarks", part.name, *extra, *accept, *folder)
        status = subprocess.run(command, cwd=ROOT, env=child_environment()).returncode
        if status:
            (unfit if status == disturbance.UNFIT else failed).append(part.name)
    print(f"\n=== report, after {(time.monotonic() - begun) / 60:.1f} minutes\n", file=sys.stderr, flush=True)
    report.main(folder)
    if failed:
        print(f"\nNOT GOOD: {', '.join(failed)}; see their messages above", file=sys.stderr)
    if unfit:
        print(
            f"\nUNFIT: {', '.join(unfit)}; the machine was disturbed, see above. Repeat them with --only {' '.join(unfit)}",
            file=sys.stderr,
        )
    return 1 if failed else disturbance.UNFIT if unfit else 0
