"""The ledger's SQL alone at several batch sizes: what the database could carry. `python -m benchmarks ledger`

One statement of so many tags on each of two connections, without HTTP, cryptography and cache, over a fresh copy of the database
for each size. The sizes are 16, 64, 256 and 1,024 tags, and the mean that ixfast had in the newest `scans` of the history.
One size comes again with `synchronous_commit` off, to show what waiting for the disk costs. ixfast itself overrides that
setting: it would forget passes in a crash, and let those taps pass twice.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import environment, scans
from benchmarks.experiment import Experiment
from benchmarks.testbed import Testbed

HISTORY = "ledger.jsonl"
ROWS = (16, 64, 256, 1024)
_UNSAFE_ROWS = 64


def rows_seen(results: Path) -> float:
    """Scans a statement in the newest session of `scans`; 0 if there is none."""
    found = [scans.as_run(record) for record in environment.newest(scans.HISTORY, results)]
    seen = [run.rows_a_statement for run in found if run.contender == "ixfast" and run.good]
    return statistics.median(seen) if seen else 0.0


def table(record: Mapping[str, Any]) -> str:
    lines = ["| tags per statement | runs | rows/s | CPU µs per row: PostgreSQL |", "|---:|---:|---:|---:|"]
    by_rows: dict[tuple[int, bool], list[Mapping[str, Any]]] = {}
    for point in record["points"]:
        by_rows.setdefault((point["rows"], point["unsafe"]), []).append(point)
    for (rows, unsafe), own in sorted(by_rows.items()):
        name = f"{rows} (as ixfast had)" if rows == record["rows_seen"] else str(rows)
        name += ", synchronous_commit off (unsafe)" if unsafe else ""
        cpu = statistics.median(point["postgres_cpu_us"] for point in own)
        lines.append(f"| {name} | {len(own)} | {scans.spread([point['rows_per_s'] for point in own])} | {cpu:.1f} |")
    return "\n".join(lines)


def measure(testbed: Testbed, size: scans.Size, rows: int, repetition: int, *, unsafe: bool) -> dict[str, Any]:
    asked = {"rows": rows, "unsafe": unsafe, "repetition": repetition}
    try:
        run = scans.measure_ledger(testbed, size, repetition, rows, unsafe=unsafe)
    except subprocess.SubprocessError as error:
        return {**asked, "rows_per_s": 0.0, "postgres_cpu_us": 0.0, "flaws": [str(error)]}
    flaws = [*run.flaws, *run.audit.get("problems", [])]
    return {**asked, "rows_per_s": run.passes_per_s, "postgres_cpu_us": run.postgres_cpu_us, "flaws": flaws}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks ledger", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", help="other batch sizes")
    parser.add_argument("--repetitions", type=int, help="3 unless given")
    experiment = Experiment(parser, HISTORY, list(arguments) if arguments is not None else None)
    given = experiment.given
    size = scans.SMOKE if given.smoke else scans.Size(measure_s=3.0, repetitions=3)
    size = replace(size, repetitions=given.repetitions or size.repetitions)
    seen = round(rows_seen(experiment.folder))
    sizes = sorted({*(given.rows or ((16,) if given.smoke else ROWS)), *([seen] if seen else [])})
    wanted = [*((rows, False) for rows in sizes), (_UNSAFE_ROWS if _UNSAFE_ROWS in sizes else sizes[0], True)]
    experiment.plan("stage 20 s", f"{len(wanted)} sizes x {size.repetitions} runs of {size.measure_s:g} s, 10 s in all each")
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, points=[], rows_seen=seen)
        with experiment.interruptible():
            for repetition in range(1, size.repetitions + 1):
                for rows, unsafe in wanted:
                    point = measure(testbed, size, rows, repetition, unsafe=unsafe)
                    record["points"].append(point)
                    experiment.lap(f"{rows} {'unsafe ' if unsafe else ''}{repetition}")
                    word = " (unsafe)" if unsafe else ""
                    experiment.progress(
                        f"{rows} tags per statement{word}: {point['rows_per_s']:,.0f} rows/s {'; '.join(point['flaws'])}"
                    )
    experiment.show(table(record))
    return experiment.end(record, [flaw for point in record["points"] for flaw in point["flaws"]])


if __name__ == "__main__":
    sys.exit(main())
