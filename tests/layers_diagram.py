"""The picture of the layers in docs/explanations/architecture.md, made from the import contract in pyproject.toml.

`python tests/layers_diagram.py` writes it; `tests/unit/test_structure.py` compares it.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "explanations" / "architecture" / "layers.svg"

_WIDTH = 640
_MARGIN = 24
_GAP = 24
_LINE = 18
_LINE_CHARS_MAX = 76
_STYLE = (
    'text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Helvetica, Arial, sans-serif; '
    "font-size: 14px; fill: #1f2933 }",
    ".card { fill: #ffffff; stroke: #cbd2d9 }",
    ".layer { fill: #e3f2fd; stroke: #1976d2; stroke-width: 1.5 }",
    ".line { fill: none; stroke: #52606d; stroke-width: 1.5 }",
)


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter."""
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return found


def layers() -> list[list[str]]:
    """The layers from the top down, each with its packages and modules, without the prefix `ixfast.`."""
    return [
        [package.strip().removeprefix("ixfast.") for package in re.split("[|:]", layer)] for layer in contracts()[0]["layers"]
    ]


def diagram() -> str:
    """An SVG: one box for each layer, and an arrow from each to the next, as imports go."""
    center, top, parts = _WIDTH // 2, _MARGIN, []
    for number, names in enumerate(layers()):
        lines = textwrap.wrap(" · ".join(names), _LINE_CHARS_MAX)
        height = 18 + _LINE * len(lines)
        if number:
            parts.append(f'<path class="line" d="M{center} {top - _GAP} V{top - 2}" marker-end="url(#arrow)"/>')
        parts.append(f'<rect class="layer" x="{_MARGIN}" y="{top}" width="{_WIDTH - 2 * _MARGIN}" height="{height}" rx="8"/>')
        for row, line in enumerate(lines):
            parts.append(f'<text x="{center}" y="{top + 23 + _LINE * row}" text-anchor="middle">{line}</text>')
        top += height + _GAP
    height = top - _GAP + _MARGIN
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            "  <title>Layers of the package: each imports only from those below it</title>",
            "  <style>",
            *(f"    {rule}" for rule in _STYLE),
            "  </style>",
            "  <defs>",
            '    <marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">',
            '      <path d="M0 0 L10 5 L0 10 z" fill="#52606d"/>',
            "    </marker>",
            "  </defs>",
            f'  <rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="12"/>',
            *(f"  {part}" for part in parts),
            "</svg>",
            "",
        )
    )


def drawn() -> str:
    """The picture that the document has now; empty if there is none."""
    return PICTURE.read_text() if PICTURE.exists() else ""


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(diagram())
