"""One report of the newest results of every experiment. `python -m benchmarks report`

Prints markdown: the figures to reach beside what was measured, then every experiment's own table, each with when and at which
commit it was made. The same goes to `report.md` beside the history. `--into FILE` puts the tables into a document,
between the lines `<!-- benchmark NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import environment, figures, knobs, latency, overload, scans, soak, stages
from benchmarks.figures import MICRO, SCALE
from benchmarks.ledger import sweep
from benchmarks.scale import sizes

Records = list[dict[str, Any]]


def _scans(records: Records) -> str:
    return scans.table([scans.as_run(record) for record in records], scans.titles())


def _latency(records: Records) -> str:
    record = records[-1]
    return f"Capacity {record['capacity']:,.0f} requests/s.\n\n{latency.table(record['points'])}"


def _micro(records: Records) -> str:
    record = records[-1]
    rows = [
        *((f"core, window of {r['window_bytes']} bytes: {r['name']}", r["ns_fastest"], r["ns_median"]) for r in record["core"]),
        *((f"LRP, {r['operation']}: {r['name']}", r["us_fastest"] * 1000, r["us_median"] * 1000) for r in record["lrp"]),
        *((f"{r['title']}: {r['name']}", r["ns_fastest"], r["ns_median"]) for r in record["steps"]),
    ]
    lines = ["| step | ns, fastest | ns, median |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {name} | {fastest:,.0f} | {median:,.0f} |" for name, fastest, median in rows)])


def _last(table: Callable[[Any], str]) -> Callable[[Records], str]:
    return lambda records: table(records[-1])


SECTIONS: dict[str, tuple[str, str, Callable[[Records], str]]] = {
    "scans": ("Durable scans a second", scans.HISTORY, _scans),
    "latency": ("Latency at fixed rates", latency.HISTORY, _latency),
    "stages": ("Cost by stage", stages.HISTORY, _last(stages.table)),
    "ledger": ("The SQL alone", sweep.HISTORY, _last(sweep.table)),
    "overload": ("Past the capacity", overload.HISTORY, _last(overload.table)),
    "soak": ("Over time", soak.HISTORY, _last(soak.table)),
    "scale": ("By registered tags", SCALE, _last(sizes.table)),
    "knobs": ("Knobs", knobs.HISTORY, _last(knobs.table)),
    "micro": ("Steps", MICRO, _micro),
}


def told(folder: Path) -> dict[str, str]:
    """The tables by name; an experiment without results has none."""
    found = {"figures": f"{figures.table(figures.all_figures(folder))}\n\n{_commits(folder)}"}
    for name, (_, history, table) in SECTIONS.items():
        records = environment.newest(history, folder)
        if records:
            found[name] = f"{table(records)}\n\n{_origin(records[-1])}"
    return found


def _commits(folder: Path) -> str:
    """Which commit each experiment's newest results are of."""
    made = {name: environment.newest(history, folder) for name, (_, history, _) in SECTIONS.items()}
    return "Results of " + ", ".join(
        f"{name}: {records[-1]['environment']['at']} at {records[-1]['environment']['commit']}"
        for name, records in made.items()
        if records
    )


def _origin(record: dict[str, Any]) -> str:
    made = record["environment"]
    load = ", ".join(f"{value:.2f}" for value in made.get("load_before", []))
    flawed = f" **Not good: {'; '.join(record['flaws'])}**" if record.get("flaws") else ""
    cut = " It was interrupted." if record.get("interrupted") else ""
    return (
        f"{made['at']}, commit {made['commit']}, {made['cpus']} x {made['cpu']}, {made['kernel']}, {made['python']}, "
        f"core {made['core']}, generator {made.get('generator', 'plain')}, load before {load or 'unknown'}.{cut}{flawed}"
    )


def as_markdown(tables: dict[str, str]) -> str:
    parts = ["# Benchmarks", "", "## Figures to reach", "", tables["figures"], ""]
    for name, (title, _, _) in SECTIONS.items():
        if name in tables:
            parts += [f"## {title}", "", tables[name], ""]
    return "\n".join(parts)


def into(document: str, tables: dict[str, str]) -> str:
    """The document with every marked place filled; a place without results stays as it is."""

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{tables[match[2]]}\n\n{match[4]}" if match[2] in tables else match[0]

    return re.sub(r"(<!-- benchmark (\w+) -->)\n(.*?)(<!-- end -->)", filled, document, flags=re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="folder of the history; benchmarks/results unless given")
    parser.add_argument("--into", type=Path, help="a document whose marked places are filled")
    given = parser.parse_args(arguments)
    folder = given.results or environment.RESULTS
    tables = told(folder)
    text = as_markdown(tables)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    if given.into is not None:
        given.into.write_text(into(given.into.read_text(), tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
