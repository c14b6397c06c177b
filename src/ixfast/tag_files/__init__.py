"""Tag files: lists of tags as CSV or JSON Lines, parsed into rows and problems, and written back without keys.

Not here: the database, key-encryption keys, and the decision which rows may be stored (`store.imports`). May import the root,
`rules` (names of fields) and `responses` (to compile response texts); never `store`, `keys` or `http`.

Invariants:
1. A file is read in pieces of any size and never held whole; what is reported does not depend on the pieces.
2. A mistake in a file is a value (`Problem`) with line, column, code, message and remedy, never an exception.
3. No problem quotes a cell: in a file that was put together wrongly, any column may hold a key.
"""

from __future__ import annotations

from ixfast.tag_files.columns import PRESETS, Layout, Preset
from ixfast.tag_files.problems import PROBLEMS, PROBLEMS_MAX, Problem, Problems, counted
from ixfast.tag_files.reader import TagFile, read_tags
from ixfast.tag_files.rows import NO_CHANGE, NOT_ASSIGNED, NOW, TagRow
from ixfast.tag_files.writer import FORMATS, TagWriter

__all__ = [
    "FORMATS",
    "NOT_ASSIGNED",
    "NOW",
    "NO_CHANGE",
    "PRESETS",
    "PROBLEMS",
    "PROBLEMS_MAX",
    "Layout",
    "Preset",
    "Problem",
    "Problems",
    "TagFile",
    "TagRow",
    "TagWriter",
    "counted",
    "read_tags",
]
