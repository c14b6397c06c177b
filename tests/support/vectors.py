"""The independent vectors in tests/vectors/data, whose README describes the format and the provenance of each file."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors" / "data"

Vector = dict[str, Any]


@cache
def independent_vectors() -> tuple[Vector, ...]:
    """The vectors of every file, in the order of the files' names. `FileNotFoundError` when there are none."""
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no *.json in {FOLDER}")
    return tuple(vector for file in files for vector in json.loads(file.read_text())["vectors"])
