"""One report of the newest results of every benchmark. `python -m benchmarks report`

Prints markdown: the figures with their targets, then the table of every benchmark, each with its time and commit. The report is
also written to `report.md` in the folder of the history. `--into FILE...` updates the tables of documents, between the lines
`<!-- benchmark NAME -->` and `<!-- end -->`; `--plots FOLDER` draws the main plots. `--commit` takes only results of one commit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    disturbance,
    environment,
    figures,
    hosts,
    latency,
    overload,
    plots,
    restart,
    scans,
    setting_variants,
    soak,
    stages,
)
from benchmarks.figures import MICRO, RESTART, SCALE
from benchmarks.ledger import sweep
from benchmarks.scale import sizes
from benchmarks.tables import markdown

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
    numbers = [(name, f"{fastest:,.0f}", f"{median:,.0f}") for name, fastest, median in rows]
    return markdown(("step", "ns, fastest", "ns, median"), numbers)


def _last(of_record: Callable[[Any], Any]) -> Callable[[Records], Any]:
    return lambda records: of_record(records[-1])


SECTIONS: dict[str, tuple[str, str, Callable[[Records], str]]] = {
    "scans": ("Durable scans per second", scans.HISTORY, _scans),
    "latency": ("Latency at fixed rates", latency.HISTORY, _latency),
    "stages": ("Cost by stage", stages.HISTORY, _last(stages.table)),
    "ledger": ("The SQL alone", sweep.HISTORY, _last(sweep.table)),
    "overload": ("Past the capacity", overload.HISTORY, _last(overload.table)),
    "hosts": ("Workers and hosts", hosts.HISTORY, _last(hosts.table)),
    "restart": ("After a restart", RESTART, _last(restart.table)),
    "soak": ("Over time", soak.HISTORY, _last(soak.table)),
    "scale": ("By registered tags", SCALE, _last(sizes.table)),
    "knobs": ("Settings", setting_variants.HISTORY, _last(setting_variants.table)),
    "micro": ("Steps", MICRO, _micro),
}


def tables_of(folder: Path, commit: str | None = None) -> dict[str, str]:
    """The tables by name; a benchmark without results has none. With `commit`, only results of that commit count."""
    found = {"figures": f"{figures.table(figures.all_figures(folder, commit))}\n\n{_commits(folder, commit)}"}
    for name, (_, history, table) in SECTIONS.items():
        records = environment.newest(history, folder, commit)
        if records:
            found[name] = f"{table(records)}\n\n{_origin(records[-1])}{_newer_unfit(history, folder, commit)}"
    return found


def _newer_unfit(history: str, folder: Path, commit: str | None) -> str:
    at = environment.newer_unfit(history, folder, commit)
    return f" A newer run, of {at}, does not count: the machine was disturbed." if at else ""


def _commits(folder: Path, commit: str | None) -> str:
    """A list of the commits of the results, each with its benchmarks and their times."""
    found: dict[str, list[str]] = {}
    for name, (_, history, _) in SECTIONS.items():
        records = environment.newest(history, folder, commit)
        if records:
            made = records[-1]["environment"]
            found.setdefault(made["commit"], []).append(f"{name} ({made['at']})")
    return "\n".join(f"- Commit {each}: {', '.join(names)}" for each, names in found.items())


def _origin(record: dict[str, Any]) -> str:
    made = record["environment"]
    load = ", ".join(f"{value:.2f}" for value in made.get("load_before", []))
    disturbed = disturbance.shown(record)
    flawed = f" **Not good: {'; '.join(record['flaws'])}**" if record.get("flaws") else ""
    cut = " It was interrupted." if record.get("interrupted") else ""
    return (
        f"{made['at']}, commit {made['commit']}, {made['cpus']} x {made['cpu']}, {made['kernel']}, {made['python']}, "
        f"core {made['core']}, generator {made.get('generator', 'plain')}, load before {load or 'unknown'}."
        f"{disturbed}{cut}{flawed}"
    )


def as_markdown(tables: dict[str, str]) -> str:
    parts = ["# Benchmarks", "", "## Figures to reach", "", tables["figures"], ""]
    for name, (title, _, _) in SECTIONS.items():
        if name in tables:
            parts += [f"## {title}", "", tables[name], ""]
    return "\n".join(parts)


def into(document: str, tables: dict[str, str]) -> str:
    """The document with every marked section filled; a section without results stays unchanged."""

    def filled(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n{tables[match[2]]}\n\n{match[4]}" if match[2] in tables else match[0]

    return re.sub(r"(<!-- benchmark (\w+) -->)\n(.*?)(<!-- end -->)", filled, document, flags=re.DOTALL)


PLOTS: dict[str, tuple[str, Callable[[Records], Any]]] = {
    "contenders": (scans.HISTORY, scans.plot),
    "latency": (latency.HISTORY, _last(latency.rate_plot)),
    "overload": (overload.HISTORY, _last(overload.goodput_plot)),
    "hosts": (hosts.HISTORY, _last(hosts.cost_plot)),
    "restart": (RESTART, _last(restart.latency_plot)),
    "stages": (stages.HISTORY, _last(stages.plot)),
}


def draw(results: Path, folder: Path, commit: str | None = None) -> None:
    """Draw the main plots of the results that the tables show; a benchmark without results has none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (history, plot) in PLOTS.items():
        records = environment.newest(history, results, commit)
        if records:
            plots.write(plot(records), folder / f"{name}.svg")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks report", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="folder of the history (default: benchmarks/results)")
    parser.add_argument("--commit", help="use only results of this commit, as the tables show it")
    parser.add_argument("--into", type=Path, nargs="+", default=[], help="documents whose marked sections are updated")
    parser.add_argument("--plots", type=Path, help="a folder for the main plots")
    given = parser.parse_args(arguments)
    folder = given.results or environment.RESULTS
    tables = tables_of(folder, given.commit)
    text = as_markdown(tables)
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    for document in given.into:
        document.write_text(into(document.read_text(), tables))
    if given.plots is not None:
        draw(folder, given.plots, given.commit)
    return 0
