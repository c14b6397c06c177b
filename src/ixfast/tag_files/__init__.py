"""Tag files: lists of tags as CSV or JSON lines, read into rows and mistakes.

Nothing here knows a database or a key-encryption key. A file is fed in pieces of any size and is never held whole. A
mistake is a value (`Problem`) with line, column, code and remedy; no cell is ever quoted in it, because a key may stand in
any column of a file that was put together wrongly.
"""

from __future__ import annotations

from ixfast.tag_files.columns import PRESETS, Layout, Preset
from ixfast.tag_files.problems import PROBLEMS, PROBLEMS_MAX, Problem, Problems, counted
from ixfast.tag_files.reader import TagFile
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
]
