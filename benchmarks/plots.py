"""Line charts as SVG, in as few lines as they need: no library, nothing to install, the same bytes for the same figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 170, 40, 60
_COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#00798c", "#8d5524", "#444444")
Line = Sequence[tuple[float, float]]
Ticks = Sequence[tuple[float, str]]


def chart(
    title: str, x_label: str, y_label: str, lines: Mapping[str, Line], x_ticks: Ticks, y_ticks: Ticks, *, linear: bool = False
) -> str:
    """A chart of named lines. Both axes reach from their first to their last tick, y logarithmically unless `linear`."""
    across = _scale(x_ticks, _LEFT, _WIDTH - _RIGHT, lambda value: value)
    up = _scale(y_ticks, _HEIGHT - _BOTTOM, _TOP, (lambda value: value) if linear else math.log10)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, title, size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 14, x_label, anchor="middle"),
        _text(16, _TOP - 12, y_label),
    ]
    for value, name in x_ticks:
        parts += [_rule(across(value), _TOP, across(value), _HEIGHT - _BOTTOM)]
        parts += [_text(across(value), _HEIGHT - _BOTTOM + 18, name, anchor="middle")]
    for value, name in y_ticks:
        parts += [_rule(_LEFT, up(value), _WIDTH - _RIGHT, up(value)), _text(_LEFT - 6, up(value) + 4, name, anchor="end")]
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(_WIDTH - _RIGHT + 12, _TOP + 14 + 18 * number, name, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """Named values as bars from the left, each with its number behind it."""
    row, left = 30, 130
    height = _TOP + row * len(values) + 20
    widest = max([*values.values(), 1e-9])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(20, 22, title, size=15),
    ]
    for number, (name, value) in enumerate(values.items()):
        y, width = _TOP + row * number, (_WIDTH - left - 120) * value / widest
        colour = _COLOURS[number % len(_COLOURS)]
        parts += [_text(left - 8, y + 15, name, anchor="end")]
        parts += [f'<rect x="{left}" y="{y}" width="{width:.1f}" height="20" fill="{colour}"/>']
        parts += [_text(left + width + 6, y + 15, f"{value:.2f} {unit}")]
    return "\n".join([*parts, "</svg>", ""])


def steps(values: Sequence[float], count: int = 6) -> list[tuple[float, str]]:
    """About `count` round ticks from 0 to beyond the largest value."""
    top = max([*values, 1e-9])
    size: float = 10 ** math.floor(math.log10(top / count))
    size *= next(factor for factor in (1, 2, 5, 10) if top / (size * factor) <= count)
    return [(size * i, f"{size * i:,g}") for i in range(math.ceil(top / size) + 1)]


def decades(values: Sequence[float], unit: str = "") -> list[tuple[float, str]]:
    """Ticks at 1, 10, 100 … around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [(10.0**power, f"{10**power:,g}{unit}") for power in range(low, max(high, low + 1) + 1)]


def _scale(ticks: Ticks, start: float, end: float, bend: Callable[[float], float]) -> Callable[[float], float]:
    low, high = bend(ticks[0][0]), bend(ticks[-1][0])

    def place(value: float) -> float:
        share = (bend(value) - low) / (high - low)
        return start + (end - start) * min(1.0, max(0.0, share))

    return place


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
