"""Markdown tables, and medians with their range as they appear in them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table whose first `text_columns` are aligned left and whose others are numbers, aligned right."""
    alignment = ["---"] * text_columns + ["---:"] * (len(columns) - text_columns)
    return "\n".join([_row(columns), f"|{'|'.join(alignment)}|", *map(_row, rows)])


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, followed by the minimum and the maximum; `-` for a median of 0 and for no values."""
    median = statistics.median(values) if values else 0
    if not median:
        return "-"
    return format(median, form) + (f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else "")


def ms(us: float) -> str:
    """Microseconds as milliseconds."""
    return f"{us / 1000:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
