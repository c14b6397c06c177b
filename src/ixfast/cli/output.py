"""Output of the commands: aligned tables and blocks for people, one JSON document for programs, and colours for terminals.

Results go to standard output. Cells that come from the database are escaped, so that a name cannot control the terminal. Colours
are left out if standard output is not a terminal, or if `NO_COLOR` is set and not empty (https://no-color.org).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

_GAP = "  "
_NONE = "-"
_HELP_COLUMNS = 76

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""Decorator: adds `--json`, which the command receives as `as_json`."""


def print_json(document: Any) -> None:
    """Print one JSON document. Members keep their order, structs are objects, and times have the form 2026-01-31T09:30:00Z."""
    try:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    except UnicodeEncodeError:  # a path that is not UTF-8
        text = json.dumps(msgspec.to_builtins(document), indent=2)
    click.echo(text)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print rows under a header line, or `empty` if there are no rows. Columns of numbers are aligned to the right."""
    rows = list(rows)
    if not rows:
        click.echo(empty)
        return
    numeric = [_is_numeric(column) for column in zip(*rows, strict=True)]
    texts = [[cell_text(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *texts, strict=True)]
    click.echo(coloured(_line(headers, widths, numeric), bold=True))
    for row in texts:
        click.echo(_line(row, widths, numeric))


def print_block(members: Mapping[str, Any]) -> None:
    """Print one object, a line for each member."""
    width = max(map(_width, members))
    for name, value in members.items():
        click.echo(f"{coloured(_padded(name, width), bold=True)}{_GAP}{cell_text(value)}")


def names_line(title: str, names: Iterable[str]) -> str:
    """A line of the help with a list of names, wrapped without breaking a name at its hyphens."""
    text = f"{title}: {', '.join(names)}"
    return textwrap.fill(text, _HELP_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)


def coloured(text: str, **style: Any) -> str:
    """The text with the style of `click.style`, unless `NO_COLOR` is set. `click.echo` removes styles except on a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def cell_text(value: Any) -> str:
    """A value as a table shows it, without control characters."""
    if value is None or value == "" or value == []:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dt.datetime):
        return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, list | tuple):
        return ", ".join(map(cell_text, value))
    return printable(str(value))


def printable(text: str) -> str:
    """The text, with control characters, line feeds and direction marks written as escape sequences."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _is_numeric(column: Sequence[Any]) -> bool:
    known = [cell for cell in column if cell is not None]
    return bool(known) and all(map(_is_number, known))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith("~") and value[1:].isdigit()  # an estimate
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = (_padded(cell, width, right=right) for cell, width, right in zip(cells, widths, numeric, strict=True))
    return _GAP.join(padded).rstrip()


def _padded(text: str, width: int, *, right: bool = False) -> str:
    spaces = " " * (width - _width(text))
    return spaces + text if right else text + spaces


def _width(text: str) -> int:
    """The columns that the text takes on a terminal: two for each wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def tag_number(members: Mapping[str, Any]) -> str | int:
    """A number of tags with `tags_exact`; an estimate begins with `~`."""
    tags: int = members["tags"]
    return tags if members["tags_exact"] else f"~{tags}"


def note_more(following: str | None) -> None:
    """Print on standard error how to list the next page, if there is one."""
    if following is not None:
        click.echo(f"There are more: add --after {cell_text(following)}", err=True)
