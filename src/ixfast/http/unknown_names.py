"""Errors about names that nothing reads: query parameters that a route does not have, and members that a body cannot have.

A mistyped filter would otherwise be ignored, and a mistyped `peek` would consume the tap. The unknown name is never quoted, since
it may be a key that was pasted into the wrong place; the message has its position, the nearest name and all names.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from ixfast.errors import InputError

_COMPARED_CHARS_MAX = 64
_SIMILARITY = 0.6


def suggestion(name: str, known: Collection[str]) -> str:
    """`Did you mean …?` with a leading space, or an empty text if no known name resembles this one."""
    wanted = name[:_COMPARED_CHARS_MAX].lower().replace("-", "_")
    found = difflib.get_close_matches(wanted, known, 1, _SIMILARITY)
    return f" Did you mean {found[0]}?" if found else ""


def check_parameters(sent: Iterable[str], known: Collection[str]) -> None:
    """Raise InputError if a query has a parameter that its route does not read. `sent` are its names in their order."""
    for position, name in enumerate(sent, start=1):
        if name not in known:
            names = f"reads {', '.join(known)}" if known else "has no query parameters"
            raise InputError(
                "invalid_parameter",
                f"Unknown query parameter at position {position}.{suggestion(name, known)} The route {names}.",
            )
