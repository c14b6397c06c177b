"""The exception for an invalid rule set: where the mistake is, what it is, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ixfast import errors
from ixfast.errors import InputError

CODE = "invalid_rule"
_QUOTED_CHARS_MAX = 40


class RuleError(InputError):
    """A rule set is invalid; no part of it is used.

    `path` is the place in the document (`$.groups[0].when`), empty for a line by itself; `column` is the position in a line, from
    1; `suggestion` is the word that was probably meant. The message contains all three.
    """

    def __init__(self, reason: str, *, path: str = "", column: int | None = None, suggestion: str | None = None) -> None:
        self.reason = reason
        self.path = path
        self.column = column
        self.suggestion = suggestion
        hint = f" Did you mean {suggestion}?" if suggestion is not None else ""
        super().__init__(CODE, f"{reason}{hint} (at {self.position})", path or None)

    @property
    def position(self) -> str:
        """Path and column, for the message."""
        places = [self.path] if self.path else []
        if self.column is not None:
            places.append(f"column {self.column}")
        return ", ".join(places) or "the beginning"

    def within(self, path: str) -> RuleError:
        """The same error, of a part that is at `path` in a document."""
        return RuleError(self.reason, path=path + self.path, column=self.column, suggestion=self.suggestion)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`; None if none is similar."""
    found = difflib.get_close_matches(word.lower()[:_QUOTED_CHARS_MAX], list(known), 1)
    return found[0] if found else None


def quoted(word: object) -> str:
    """What an owner typed, for a message: quoted, escaped and shortened."""
    text = str(word)
    return repr(text if len(text) <= _QUOTED_CHARS_MAX else text[:_QUOTED_CHARS_MAX] + "…")


def quoted_name(name: str) -> str:
    """A name that an owner typed, for a message; only its length if it may be a key in the wrong place."""
    shown = errors.quoted(name)
    return quoted(name) if shown == repr(name) else shown
