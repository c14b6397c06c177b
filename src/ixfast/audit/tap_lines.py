"""Parses the lines of a tap file into columns: the taps as text, and their times.

A tap is a URL or a query string (verbatim), a path and a query string in separate columns, or parameters in columns of their own
(`x`, `n`, `e`, or the names in the profile), which are joined to a query string. Lines are independent of each other, so that
chunks of a file can be judged separately: a quoted field cannot contain a line break.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

from ixfast.audit.log_lines import read_log_line, target_of
from ixfast.audit.tap_format import TapFormat, is_comment
from ixfast.audit.tap_names import CLOCK, LINE, QUERY, TIME, URL
from ixfast.audit.tap_objects import NO_TAP, NOT_PARAMETERS, Rows, joined, needs_no_quotes, query_of, read_objects, unwrapped

_BEFORE = " \t\r\"'<>,;"  # what lists of URLs have before them; no tap begins so, but it may end with a text of the owner's


def read_rows(chunk: bytes, form: TapFormat) -> Rows:
    """Parse the lines of a chunk, in order."""
    text = chunk.decode(errors="replace").removesuffix("\n")  # no tap contains U+FFFD, so a badly encoded line is malformed
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    if form.kind == "jsonl":
        return read_objects(text, form.parameters)
    if form.kind == "csv":
        return _read_columns(text, form)
    lines = text.split("\n")
    if form.kind == "log":
        return _read_log(lines)
    return Rows([None if is_comment(line) else line.lstrip(_BEFORE).rstrip() or None for line in lines], [None] * len(lines), {})


def _read_log(lines: list[str]) -> Rows:
    read = [read_log_line(line) for line in lines]
    targets = [line.target for line in read]
    return Rows(targets, [line.at for line in read], {}, _without(targets, lines))


def _without(targets: Sequence[str | None], lines: Sequence[str]) -> tuple[int, ...]:
    """The lines of a log without any request."""
    without = (row for row, target in enumerate(targets) if target is None)
    return tuple(row for row in without if lines[row].strip() and not is_comment(lines[row]))


def _read_columns(text: str, form: TapFormat) -> Rows:
    names = form.names
    problems: dict[int, str] = {}
    columns = _uniform_columns(text, names, form.separator)
    if columns is None:
        columns = _columns_one_by_one(text.split("\n"), form, problems)
    wrapped = [unwrapped(line, form.parameters) for line in columns.get(LINE, ())]
    texts: list[str | None] = [line.target for line in wrapped] if wrapped else [*_taps(columns, form)]
    if not all(texts):
        for row, line in enumerate(text.split("\n")):
            if not texts[row]:
                texts[row] = None
                if line.strip() and not is_comment(line) and not wrapped:
                    problems.setdefault(row, NO_TAP)
    times = _times(columns, len(texts))
    if wrapped:
        times = [line.at or at for line, at in zip(wrapped, times, strict=True)]
    return Rows(texts, times, problems, _without(texts, text.split("\n")) if wrapped else ())


def _taps(columns: dict[str, list[str]], form: TapFormat) -> list[Any]:
    urls, queries = columns.get(URL), columns.get(QUERY)
    if urls is None and queries is None:
        return _queries(columns)
    if urls is not None:
        urls = [*map(str.strip, urls)]
        urls = [*map(target_of, urls)] if form.is_log else urls
    if urls is None or queries is None:
        return urls or queries or []
    return [*map(joined, urls, queries)]


def _times(columns: dict[str, list[str]], count: int) -> list[Any]:
    times: list[Any] = columns.get(TIME) or [None] * count
    if CLOCK not in columns:
        return [*times]
    return [f"{date}T{clock}" if date and clock else "" for date, clock in zip(times, columns[CLOCK], strict=True)]


def _uniform_columns(text: str, names: tuple[str, ...], separator: str) -> dict[str, list[str]] | None:
    """The columns of lines that all have as many fields as the header and no quotation marks; None for others.

    The text is split at once, with line ends as fields of their own: if each of them is where it must be, all fields are.
    Splitting line by line would take three times as long.
    """
    if '"' in text:
        return None
    width, lines = len(names), text.count("\n") + 1
    fields = text.replace("\n", f"{separator}\n{separator}").split(separator)
    if len(fields) != (width + 1) * lines - 1 or fields[width :: width + 1].count("\n") != lines - 1:
        return None
    return {name: fields[at :: width + 1] for at, name in enumerate(names)}


def _queries(columns: dict[str, list[str]]) -> list[str | None]:
    """Build the query strings of taps whose parameters are in separate columns."""
    own = {name: column for name, column in columns.items() if name not in NOT_PARAMETERS}
    if own and all(all(column) and needs_no_quotes("".join(column)) for column in own.values()):
        lines = len(next(iter(own.values())))
        pieces = [""] * (2 * len(own) * lines)
        for at, (name, column) in enumerate(own.items()):
            pieces[2 * at :: 2 * len(own)] = [f"&{name}=" if at else f"\n{name}="] * lines
            pieces[2 * at + 1 :: 2 * len(own)] = column
        return [*"".join(pieces).split("\n")[1:]]
    return [query_of(dict(zip(own, row, strict=True))) for row in zip(*own.values(), strict=True)]


def _columns_one_by_one(lines: list[str], form: TapFormat, problems: dict[int, str]) -> dict[str, list[str]]:
    """The columns of arbitrary lines; a line with the wrong number of fields gets empty ones and a problem."""
    width = len(form.names)
    rows: list[list[str]] = []
    for number, line in enumerate(lines):
        cells = _unquoted(line, form.separator) if '"' in line else line.split(form.separator)
        if len(cells) != width:
            if line.strip() and not is_comment(line):
                problems[number] = f"{len(cells)} fields, the header has {width}" if cells else "a quoted field is not closed"
            cells = [""] * width
        rows.append(cells)
    return dict(zip(form.names, map(list, zip(*rows, strict=True)), strict=True))


def _unquoted(line: str, separator: str) -> list[str]:
    """The fields of a line with quotation marks; none if one of them is not closed."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [""])
    except csv.Error:
        return []
