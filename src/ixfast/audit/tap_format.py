"""Detects what the lines of a tap file are: CSV, JSON Lines, bare URLs, or the lines of a log.

A column is known by its name (`tap_names`), and where no name is known, by what the first lines have in it. A file in which no
column could hold a tap is refused here: all of its taps would be reported as unknown.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ixfast.audit.log_lines import REQUEST, read_log_line
from ixfast.audit.tap_names import (
    CLOCK,
    EXPECTED,
    LINE,
    LINE_NAMES,
    LIST_NAMES,
    QUERY,
    QUERY_NAMES,
    STANDARD,
    TIME,
    TIME_NAMES,
    URL,
    URL_NAMES,
    folded,
)
from ixfast.audit.tap_objects import sample
from ixfast.audit.tap_times import is_moment, is_time
from ixfast.errors import InputError
from ixfast.tag_files.columns import shown

SAMPLE_LINES = 200
"""How many lines are looked at."""

SEPARATORS = ",;\t|"

_FIELDS = "#Fields:"
_COMMENT = re.compile(r"\s*#(?:\s|$|(?:Version|Fields|Software|Date|Start-Date|End-Date|Remark):)")
_KNOWN = frozenset((*URL_NAMES, *QUERY_NAMES, *TIME_NAMES))
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|[/?]|[^\s\"/?#&=:]+=)\S*")
_CLOCK = re.compile(r"\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?")

Columns = Mapping[int, Sequence[str]]
"""The first cells of each column that are not blank."""


class TapFormat(NamedTuple):
    """What the first lines of a file say about all of them. `kind` is csv, jsonl, urls or log.

    `names` say what each column of CSV is: `TIME`, `CLOCK`, `URL`, `QUERY`, `LINE`, the name of a parameter, or "" if not read.
    `before` counts the lines above the first tap, such as a header. `is_log` is whether lines without a tap are normal, because
    a server logs other requests too. `time` is the name of the times in messages, and `unread` has the names of columns that are
    not read, if they may be shown. `parameters` are the names, in lower case, that parameters of a tap have; any if none.
    """

    kind: str
    names: tuple[str, ...] = ()
    separator: str = ","
    before: int = 0
    is_log: bool = False
    time: str = TIME
    unread: tuple[str, ...] = ()
    parameters: frozenset[str] = frozenset()


def is_comment(line: str) -> bool:
    """Whether a line is `# a comment`, or a directive of W3C's extended log format such as `#Version: 1.0`."""
    return _COMMENT.match(line) is not None


def detect_format(
    chunk: bytes, parameters: Collection[str] = (), is_tap: Callable[[str], bool] = lambda _text: False
) -> TapFormat:
    """Detect the format of a file from its first chunk. `parameters` are those of the tags' profiles, in lower case; `is_tap`
    returns whether a text without parameters has the form of one of their taps.

    Raises InputError if no column could contain a tap.
    """
    lines = [line.strip(" \r") for line in chunk.decode(errors="replace").split("\n", SAMPLE_LINES)[:SAMPLE_LINES]]
    before, separator, fields = _above_first(lines)
    if before == len(lines):
        return TapFormat("urls", before=before)
    first = lines[before]
    if fields is not None:
        separator = "\t" if "\t" in first else " "
        return _named(fields.split(), separator, before, _cells(lines[before:], separator), parameters)._replace(is_log=True)
    if first.startswith("{"):
        is_log, unread = sample(lines[before:], frozenset(parameters))
        return TapFormat("jsonl", before=before, is_log=is_log, unread=unread, parameters=frozenset(parameters))
    if REQUEST.search(first):
        return TapFormat("log", before=before, is_log=True)
    separator = separator or max(SEPARATORS, key=first.count)
    rows = _cells(lines[before:], separator)
    if rows and _is_header(rows[0]) and not any(map(is_tap, filter(None, rows[0]))):
        if _is_prose(rows, parameters):
            return TapFormat("log", before=before, is_log=True)
        return _named(rows[0], separator, before + 1, rows[1:], parameters)
    if rows and (unnamed := _unnamed(rows[0], separator, before)) is not None:
        return unnamed
    line = read_log_line(first)
    begins_as_url = _URL.match(first) is not None
    if line.target is None or not re.search(r"\s", first) or (begins_as_url and line.at is None):
        return TapFormat("urls", before=before)
    return TapFormat("log", before=before, is_log=not begins_as_url)


def _above_first(lines: Sequence[str]) -> tuple[int, str | None, str | None]:
    """The number of lines above the first record, the separator that one of them states, and the fields that one names."""
    separator = fields = None
    for number, line in enumerate(lines):
        if line.startswith(_FIELDS):
            fields = line.removeprefix(_FIELDS)
        elif line.lower().startswith("sep=") and len(line) <= len("sep=;"):  # Excel's directive
            separator = line[-1] if line[-1] in SEPARATORS else None
        elif line.strip() and not is_comment(line):
            return number, separator, fields
    return len(lines), separator, fields


def _cells(lines: Iterable[str], separator: str) -> list[list[str]]:
    """The cells of lines, without those that are blank or malformed, except that the first line is never left out."""
    rows: list[list[str]] = []
    for line in lines:
        try:
            row = [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True), [])]
        except csv.Error:
            row = []
        if any(row) or not rows:
            rows.append(row)
    return rows


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a first line names columns: nearly every tap has one of these characters, and no name of a column does."""
    text = "\n".join(cells)
    if any(mark in text for mark in ("=", "?", "://")) or "%3d" in text.lower():
        return False
    return "/" not in text or any(folded(cell) in _KNOWN for cell in cells)


def _is_prose(rows: Sequence[Sequence[str]], parameters: Collection[str]) -> bool:
    """Whether a first line that names no known column is the first of a text with URLs, such as a mail, and not a header."""
    if any(folded(cell) in (*_KNOWN, *LINE_NAMES) or cell.lower() in parameters for cell in rows[0]):
        return False
    others = [row for row in rows[1:] if any(row)]
    with_url = [row for row in others if any("://" in cell for cell in row)]
    if len(rows[0]) > 1:
        return bool(with_url) and not any(len(row) == len(rows[0]) for row in with_url)
    return bool(with_url) and not all(_URL.fullmatch(cell) for row in others for cell in row)


def _named(
    header: Sequence[str], separator: str, before: int, rows: Sequence[Sequence[str]], parameters: Collection[str]
) -> TapFormat:
    """The format of CSV with a header."""
    known = [folded(name) for name in header]
    columns = {at: [row[at] for row in rows if at < len(row) and row[at]] for at in range(len(header))}
    own = [
        at for at, name in enumerate(header)
        if name and (name.lower() in parameters if parameters else known[at] not in (TIME, URL, QUERY, EXPECTED))
    ]  # fmt: skip
    url = _url_column(known, columns)
    query = next((known.index(name) for name in QUERY_NAMES if name in known), None)
    if len(own) > 1 and url is not None and query is None and not any("=" in cell for cell in columns[url]):
        url = None  # only the path, beside the parameters
    line = None
    if url is None and query is None and not own:
        line = next((known.index(name) for name in LINE_NAMES if name in known), None)
        if line is None:
            url, line = _column_by_content(known, columns, parameters)
    in_columns = url is None and query is None and line is None
    if (in_columns and not own) or len({*filter(None, header)}) < len([*filter(None, header)]):
        raise _no_tap_column(header, parameters)
    times = _time_columns(known, columns, {url, query, line, *(own if in_columns else ())})
    names = ["" if not in_columns or known[at] == EXPECTED else _as_parameter(name) for at, name in enumerate(header)]
    for role, column in ((URL, url), (QUERY, query), (LINE, line), *zip((TIME, CLOCK), times, strict=False)):
        if column is not None:
            names[column] = role
    left = [at for at, name in enumerate(names) if not name and known[at] not in ("", EXPECTED)]
    return TapFormat(
        kind="csv",
        names=tuple(names),
        separator=separator,
        before=before,
        parameters=frozenset(parameters),
        is_log=not in_columns and not {known[at] for at in (url, query) if at is not None} & {*LIST_NAMES, QUERY},
        time=(times and shown(header[times[0]])) or TIME,
        unread=tuple(shown(header[at]) or f"column {at + 1}" for at in left),
    )


def _as_parameter(name: str) -> str:
    return name.lower() if name.lower() in STANDARD else name


def _unnamed(first: Sequence[str], separator: str, before: int) -> TapFormat | None:
    """The format of CSV without a header, of which one cell is a URL, perhaps another a time, and no other like either."""
    urls = [column for column, cell in enumerate(first) if _URL.fullmatch(cell) and ("?" in cell or "://" in cell)]
    times = [column for column, cell in enumerate(first) if is_moment(cell)]
    others = [cell for column, cell in enumerate(first) if column not in (*urls, *times)]
    if len(first) == 1 or len(urls) != 1 or len(times) > 1 or any("=" in cell or "?" in cell for cell in others):
        return None
    names = [URL if column in urls else TIME if column in times else "" for column in range(len(first))]
    unread = () if times else tuple(f"column {column + 1}" for column, name in enumerate(names) if not name and first[column])
    return TapFormat("csv", tuple(names), separator, before, unread=unread)


def _url_column(known: Sequence[str], columns: Columns) -> int | None:
    """The column with the URLs by its name; of several, preferably one with queries."""
    named = [known.index(name) for name in URL_NAMES if name in known]
    with_query = (column for column in named if any("?" in cell for cell in columns[column]))
    return next(with_query, named[0] if named else None)


def _column_by_content(known: Sequence[str], columns: Columns, parameters: Collection[str]) -> tuple[int | None, int | None]:
    """A column of URLs with a parameter of a tap, not those that a visitor came from; else one of lines of a log, or neither."""
    parameter = re.compile(rf"(?:^|[/?&#])(?:{'|'.join(map(re.escape, parameters))})=", re.IGNORECASE)
    for column, cells in columns.items():
        if parameters and "refer" not in known[column] and any(_URL.fullmatch(cell) and parameter.search(cell) for cell in cells):
            return column, None
    lines = (column for column in columns if any(cell.startswith("{") or REQUEST.search(cell) for cell in columns[column]))
    return None, next(lines, None)


def _time_columns(known: Sequence[str], columns: Columns, taken: Collection[int | None]) -> tuple[int, ...]:
    """The column with the times, or those of date and time of day; none if no column is known to be one."""
    if "date" in known and "time" in known and any(map(_CLOCK.fullmatch, columns[known.index("time")])):
        return known.index("date"), known.index("time")
    if TIME in known:
        return (known.index(TIME),)
    named = [known.index(name) for name in TIME_NAMES if name in known and known.index(name) not in taken]
    read = [column for column in named if any(map(is_time, columns[column]))]
    moments = [column for column in columns if column not in taken and columns[column] and all(map(is_moment, columns[column]))]
    if read or len(moments) == 1:
        return ((read or moments)[0],)
    return tuple(column for column in named if not all(map(_is_number, columns[column])))[:1]  # to be called malformed


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _no_tap_column(header: Sequence[str], parameters: Collection[str]) -> InputError:
    names = [text for name in header if (text := shown(name)) is not None]
    has = f" It has the columns {', '.join(names)}." if names else ""
    own = ", ".join(sorted(parameters))
    each = f"one column for each parameter ({own})" if own else "x, n and e"
    return InputError(
        "invalid_parameter",
        f"The first line must name the columns, each once: at, and either url, or query, or {each}.{has}",
        "file",
    )
