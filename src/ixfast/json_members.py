"""Members that stand twice in a JSON object, which decoders pass over: the last one wins and nobody is told.

Which of the two the writer meant is not known, so such an object is refused wherever people and other programs write (RFC 8259,
section 4: names should be unique). The bodies of scans alone are not searched: it would take 3 us of each.
"""

from __future__ import annotations

import json
from typing import Any


def repeated_members(text: str | bytes) -> list[str]:
    """The names that an object has twice, at any depth. `text` is JSON that a decoder has taken.

    RecursionError if it is nested deeper than this one goes, some 1,000 objects or lists; UnicodeDecodeError if texts that the
    other one had no use for are not UTF-8.
    """
    repeated: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        names = set()
        for name, _ in pairs:
            if name in names:
                repeated.append(name)
            names.add(name)

    # Numbers are not looked at: the longest ones would raise.
    json.loads(text, object_pairs_hook=look, parse_int=_nothing, parse_float=_nothing, parse_constant=_nothing)
    return repeated


def repeated_in_line(line: str, members: dict[str, Any]) -> list[str]:
    """The same for an object that was decoded to `members`, in a tenth of the time where it has texts only."""
    strings = len(members)
    for value in members.values():
        if isinstance(value, str):
            strings += 1
    # A member that another one has replaced leaves its name in the line, which then has more quotation marks.
    return [] if line.count('"') == 2 * strings else repeated_members(line)


def _nothing(_: str) -> None:
    pass
