"""Cells that a spreadsheet would execute, and how CSV has them: with an apostrophe in front, which makes a text of them.

What begins with `=`, `+`, `-`, `@` or the full-width form of one is a formula to a spreadsheet, also behind a tab or a line
break that it passes over. A program whose separator is the semicolon or the tab cuts a cell of our CSV there, and at line breaks,
too, because it does not see the quotation marks: so what follows these is treated as the beginning of a cell.

The apostrophe is put before those that are there already, and taken off only where a formula follows: every text is read as it
was, and one such as `'s-Hertogenbosch` is never touched.
"""

from __future__ import annotations

import re

_FORMULA = "'*[=+\\-@\uff1d\uff0b\uff0d\uff20]"
_INSIDE = rf"(?<=[;\t\r\n])(?={_FORMULA})"
_IN_FRONT = rf"\A(?={_FORMULA}|'*[\t\r\n])"
_EXPOSED = re.compile(f"{_IN_FRONT}|{_INSIDE}")
_NEUTRALISED = re.compile(f"{_IN_FRONT}'|{_INSIDE}'")


def neutralised(text: str) -> str:
    """The text as a cell of CSV that no spreadsheet executes; `original` of it is the text."""
    return _EXPOSED.sub("'", text)


def original(cell: str) -> str:
    """The text of a cell, whether or not an apostrophe had to make it one."""
    return _NEUTRALISED.sub("", cell)
