"""Checks of arguments: every mistake in a call of the Python API is an `InputError` with one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ixfast.errors import InputError, quoted

_QUOTED_CHARS_MAX = 100
_LONG_QUOTATION = re.compile(rf"(?s)(['\"`])((?:(?!\1).){{{_QUOTED_CHARS_MAX}}})(?:(?!\1).)+\1")
_QUOTATION = re.compile(r"(?s)(['\"`])((?:(?!\1).)+)\1")
_LONG_HEX = re.compile(r"[0-9A-Fa-f]{16,}")
_LONG_WORD = re.compile(rf"(\S{{{_QUOTED_CHARS_MAX + 20}}})\S+")


def check_type(value: object, kind: Any, name: str, expected: str, code: str = "invalid_parameter") -> None:
    """Raise InputError unless the argument `name` is of this class or union of classes."""
    if not isinstance(value, kind):
        raise InputError(code, f"{name} must be {expected}.", name)


def check_number(value: object, most: int, name: str) -> None:
    """Raise InputError unless the argument `name` is a whole number from 0 to `most`."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise InputError("invalid_parameter", f"{name} must be a whole number from 0 to {most}.", name)


def listed(values: Iterable[Any], name: str) -> tuple[Any, ...]:
    """The members of an argument that is a list; a text is none, although it can be iterated over."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError("invalid_parameter", f"{name} must be a list.", name)
    return tuple(values)


def shortened(message: str) -> str:
    """A message in one line, with what it quotes of an argument shortened, and left out if it may be a key."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
    line = _QUOTATION.sub(lambda found: found[0] if quoted(found[2]) == repr(found[2]) else "…", _LONG_HEX.sub("…", line))
    return _LONG_WORD.sub(r"\1…", _LONG_QUOTATION.sub(r"\1\2…\1", line))
