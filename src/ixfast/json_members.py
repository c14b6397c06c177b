"""Finds members that a JSON object has twice. Decoders ignore this: the last one wins, silently.

It is unknown which of the two the writer meant, so such an object is rejected wherever people and other programs write JSON (RFC
8259, section 4: names should be unique). Only the bodies of scans are not searched, because that would take 3 us each.
"""

from __future__ import annotations

import json
from typing import Any


def repeated_members(text: str | bytes) -> list[str]:
    """The names that any object in `text` has twice, at any depth. A decoder must have accepted `text` before.

    Raises RecursionError if it is nested deeper than about 1,000 objects or lists, and UnicodeDecodeError if a text that the
    first decoder skipped is not UTF-8.
    """
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        names = set()
        for name, _ in pairs:
            if name in names:
                repeated.append(name)
            names.add(name)

    # Numbers are not parsed: very long ones would raise.
    json.loads(text, object_pairs_hook=collect, parse_int=_nothing, parse_float=_nothing, parse_constant=_nothing)
    return repeated


def repeated_in_line(line: str, members: dict[str, Any]) -> list[str]:
    """The same for an object that was decoded to `members`; ten times as fast if it contains only texts."""
    strings = len(members)
    for value in members.values():
        if isinstance(value, str):
            strings += 1
    # A replaced member leaves its name in the line, which then has more quotation marks than the decoded object accounts for.
    return [] if line.count('"') == 2 * strings else repeated_members(line)


def _nothing(_: str) -> None:
    pass
