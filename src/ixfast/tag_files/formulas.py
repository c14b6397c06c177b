"""Protects CSV exports against formula injection: a cell that a spreadsheet would execute gets an apostrophe in front.

Spreadsheets treat a cell as a formula if it begins with `=`, `+`, `-`, `@` or the full-width form of one of these, even behind a
tab or line break. A program that is set to `;` or tab as its separator also splits our cells at these characters and at line
breaks, because it ignores the quotation marks then; so the text after each of them is treated as the beginning of a cell.

Invariant: `original(neutralised(text)) == text` for every text. Apostrophes that are already there stay behind the added one, and
one is removed only where a formula follows, so a text such as `'s-Hertogenbosch` is never changed.
"""

from __future__ import annotations

import re

_FORMULA = "'*[=+\\-@\uff1d\uff0b\uff0d\uff20]"
_INSIDE = rf"(?<=[;\t\r\n])(?={_FORMULA})"
_IN_FRONT = rf"\A(?={_FORMULA}|'*[\t\r\n])"
_EXPOSED = re.compile(f"{_IN_FRONT}|{_INSIDE}")
_NEUTRALISED = re.compile(f"{_IN_FRONT}'|{_INSIDE}'")


def neutralised(text: str) -> str:
    """The text as a CSV cell that no spreadsheet executes; `original` reverses it."""
    return _EXPOSED.sub("'", text)


def original(cell: str) -> str:
    """The text of a CSV cell, without the apostrophes that `neutralised` added."""
    return _NEUTRALISED.sub("", cell)
