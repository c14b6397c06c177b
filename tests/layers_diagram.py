"""The picture of the layers in docs/explanations/architecture.md, made from the import contract in pyproject.toml.

`python tests/layers_diagram.py` writes it; `tests/unit/test_structure.py` compares it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "explanations" / "architecture.md"
_DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n", re.MULTILINE | re.DOTALL)


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
    """A Mermaid block: one box for each layer, and an arrow to the layers that it may import."""
    boxes = [f'    L{number}["{" · ".join(names)}"]' for number, names in enumerate(layers(), start=1)]
    chain = " --> ".join(f"L{number}" for number in range(1, len(boxes) + 1))
    return "\n".join(("```mermaid", "flowchart TB", *boxes, f"    {chain}", "```", ""))


def drawn() -> str:
    """The block that the document has now; empty if there is none."""
    found = _DIAGRAM.search(DOCUMENT.read_text())
    return found[0] if found is not None else ""


if __name__ == "__main__":
    DOCUMENT.write_text(_DIAGRAM.sub(lambda _: diagram(), DOCUMENT.read_text(), count=1))
