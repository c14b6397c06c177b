"""Plots by matplotlib, as SVG. Every plot names the machine, the commit and the capacity that it was made with.

The functions draw records of the history, or series of numbers that a benchmark made of them, and return a figure; `write`
stores it. The same records give the same bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

_STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller files that can be searched
    "svg.hashsalt": "ixfast",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_CAPTION = {"fontsize": 7, "color": "#555555"}
Series = Mapping[str, Sequence[tuple[float, float]]]


def caption(record: Mapping[str, Any]) -> str:
    """Machine, commit, time and, where the benchmark has one, the capacity."""
    made = record.get("environment", {})
    parts = [
        f"{made.get('cpus', '?')} x {made.get('cpu', 'unknown processor')}",
        f"commit {made.get('commit', 'unknown')}",
        str(made.get("at", "")),
    ]
    if record.get("capacity"):
        parts.append(f"capacity {record['capacity']:,.0f} requests/s")
    return ", ".join(filter(None, parts))


def lines(
    title: str, x_label: str, y_label: str, series: Series, origin: Mapping[str, Any], *, log: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (), markers: bool = False,
) -> Figure:  # fmt: skip
    """Named lines. The y axis is logarithmic with `log`, otherwise it starts at 0."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(title, origin)
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if markers else None, markersize=4)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
        if x_ticks:
            axes.set_xticks(*zip(*x_ticks, strict=True))
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure


def bars(title: str, unit: str, values: Mapping[str, Sequence[float]], origin: Mapping[str, Any], *, log: bool = False) -> Figure:
    """One horizontal bar per name: the median of its values, with their range. The number is beside the bar and its range."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(title, origin, height=1.6 + 0.4 * len(values))
        medians = [statistics.median(each) for each in values.values()]
        below = [median - min(each) for median, each in zip(medians, values.values(), strict=True)]
        above = [max(each) - median for median, each in zip(medians, values.values(), strict=True)]
        drawn = axes.barh(list(values), medians, xerr=(below, above) if any(below + above) else None, ecolor="#333333", capsize=3)
        axes.bar_label(drawn, labels=[_number(median) for median in medians], label_type="edge", padding=4)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.grid(axis="y", visible=False)
        if log:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.margins(x=0.15)
        return figure


def write(figure: Figure, path: Path) -> None:
    """Store a figure as SVG, without a date."""
    with matplotlib.rc_context(_STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _axes(title: str, origin: Mapping[str, Any], height: float = 4.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    figure.supxlabel(caption(origin), x=0.01, horizontalalignment="left", **_CAPTION)
    return figure, axes


def _number(value: float, _position: int | None = None) -> str:
    if not value:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
