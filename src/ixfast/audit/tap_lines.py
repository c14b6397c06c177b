"""Parses the lines of a tap file: CSV with a header, JSON Lines, or bare URLs.

A tap is given as a `url` or a `query` (verbatim), or by its parameters in separate columns (`x`, `n`, `e`, or the names in the
profile), which are joined to a query string; `at` is its time. Lines are independent of each other, so that chunks of a file
can be judged separately: a quoted field cannot contain a line break.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import msgspec
import orjson

from ixfast.errors import InputError
from ixfast.json_members import repeated_in_line

CHUNK_BYTES = 1 << 19
"""The size of a chunk: a few thousand lines, enough for batches to pay off."""

LINE_BYTES_MAX = 1 << 20
"""A longer line means that the file is not a tap file."""

TIME = "at"
_TAPS = ("url", "query")
_RESERVED = frozenset((TIME, *_TAPS))
_NOT_PARAMETERS = _RESERVED | {"expected"}


class TapFormat(NamedTuple):
    """`kind` is csv, jsonl or urls; `names` are the columns of CSV; `header` is whether the first line is a header."""

    kind: str
    names: tuple[str, ...] = ()
    header: bool = False


class Rows(NamedTuple):
    """The lines of a chunk in columns: the tap as text (None for a blank or malformed line), and its time as given."""

    texts: list[str | None]
    times: list[Any]
    problems: dict[int, str]


def detect_format(first: bytes) -> TapFormat:
    """Detect the format of a file from its first line. Raises InputError if no column could contain a tap."""
    text = first.decode(errors="replace").removeprefix("\ufeff").strip()
    if text.startswith("{"):
        return TapFormat("jsonl")
    # Column names contain neither of these, and nearly every tap does.
    if "=" in text or "/" in text:
        return TapFormat("urls")
    names = tuple(name.strip() for name in next(csv.reader([text]), []))
    folded = tuple(name.lower() if name.lower() in _NOT_PARAMETERS else name for name in names)
    if len(set(folded)) < len(folded) or not all(folded) or not set(folded) - {TIME, "expected"}:
        raise InputError(
            "invalid_parameter", "The first line must name the columns: at, and either url, or query, or x, n and e.", "file"
        )
    return TapFormat("csv", folded, header=True)


def chunks(source: BinaryIO) -> Iterator[bytes]:
    """Yield chunks of whole lines, a few thousand each. Raises InputError for a line longer than `LINE_BYTES_MAX`."""
    rest = b""
    while block := source.read(CHUNK_BYTES):
        whole, newline, rest_of_block = block.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = rest_of_block
        else:
            rest += rest_of_block
        if len(rest) > LINE_BYTES_MAX:
            raise InputError("invalid_parameter", f"A line is longer than {LINE_BYTES_MAX} bytes; is this a tap file?", "file")
    if rest:
        yield rest


def read_rows(chunk: bytes, form: TapFormat) -> Rows:
    """Parse the lines of a chunk, in order."""
    text = chunk.decode(errors="replace").removesuffix("\n")  # no tap contains U+FFFD, so a badly encoded line is malformed
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    if form.kind == "jsonl":
        return _read_objects(text)
    if form.kind == "urls":
        lines = text.split("\n")
        return Rows([line.strip() or None for line in lines], [None] * len(lines), {})
    return _read_columns(text, form.names)


def _read_columns(text: str, names: tuple[str, ...]) -> Rows:
    problems: dict[int, str] = {}
    columns = _uniform_columns(text, names)
    if columns is None:
        columns = _columns_one_by_one(text.split("\n"), names, problems)
    own = next(([*columns[name]] for name in _TAPS if name in columns), None)
    texts: list[str | None] = [*own] if own is not None else _queries(columns)
    if not all(texts):
        for row, line in enumerate(text.split("\n")):
            if not texts[row]:
                texts[row] = None
                if line.strip():
                    problems.setdefault(row, "the line contains no tap")
    return Rows(texts, [*columns[TIME]] if TIME in columns else [None] * len(texts), problems)


def _uniform_columns(text: str, names: tuple[str, ...]) -> dict[str, list[str]] | None:
    """The columns of lines that all have as many fields as the header and no quotation marks; None for others.

    The text is split at once, with line ends as fields of their own: if each of them is where it must be, all fields are.
    Splitting line by line would take three times as long.
    """
    if '"' in text:
        return None
    width, lines = len(names), text.count("\n") + 1
    fields = text.replace("\n", ",\n,").split(",")
    if len(fields) != (width + 1) * lines - 1 or fields[width :: width + 1].count("\n") != lines - 1:
        return None
    return {name: fields[at :: width + 1] for at, name in enumerate(names)}


def _queries(columns: dict[str, list[str]]) -> list[str | None]:
    """Build the query strings of taps whose parameters are in separate columns."""
    own = {name: column for name, column in columns.items() if name not in _NOT_PARAMETERS}
    if own and all(all(column) and _needs_no_quotes("".join(column)) for column in own.values()):
        lines = len(next(iter(own.values())))
        pieces = [""] * (2 * len(own) * lines)
        for at, (name, column) in enumerate(own.items()):
            pieces[2 * at :: 2 * len(own)] = [f"&{name}=" if at else f"\n{name}="] * lines
            pieces[2 * at + 1 :: 2 * len(own)] = column
        return [*"".join(pieces).split("\n")[1:]]
    return [_query(dict(zip(own, row, strict=True))) for row in zip(*own.values(), strict=True)]


def _needs_no_quotes(text: str) -> bool:
    return text.isascii() and text.encode().isalnum()


def _columns_one_by_one(lines: list[str], names: tuple[str, ...], problems: dict[int, str]) -> dict[str, list[str]]:
    """The columns of arbitrary lines; a line with the wrong number of fields gets empty ones and a problem."""
    width = len(names)
    rows: list[list[str]] = []
    for number, line in enumerate(lines):
        cells = _unquoted(line) if '"' in line else line.split(",")
        if len(cells) != width:
            if line.strip():
                problems[number] = f"{len(cells)} fields, the header has {width}" if cells else "a quoted field is not closed"
            cells = [""] * width
        rows.append(cells)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _unquoted(line: str) -> list[str]:
    """The fields of a line with quotation marks; none if one of them is not closed."""
    try:
        return next(csv.reader([line], strict=True), [""])
    except csv.Error:
        return []


class _TapObject(msgspec.Struct):
    at: str | float | None = None
    url: str | None = None
    query: str | None = None


_TAP_OBJECT = msgspec.json.Decoder(_TapObject)


def _read_objects(text: str) -> Rows:
    lines = text.split("\n")
    uniform = _uniform_objects(text, len(lines))
    if uniform is not None:
        return uniform
    texts: list[str | None] = []
    times: list[Any] = []
    problems: dict[int, str] = {}
    for row, line in enumerate(lines):
        tap = None
        at = None
        found, repeated = _object(line)
        if isinstance(found, dict):
            at = found.get(TIME)
            tap = found.get("url") or found.get("query")
            if repeated and (not tap or not _RESERVED.isdisjoint(repeated)):
                tap, problems[row] = None, "duplicate member"
            elif not isinstance(tap := tap or _query(found), str):
                tap, problems[row] = None, "the line contains no tap"
        elif line.strip():
            problems[row] = "not a JSON object"
        texts.append(tap)
        times.append(at)
    return Rows(texts, times, problems)


def _uniform_objects(text: str, lines: int) -> Rows | None:
    """Parse lines that are all objects with a `url` or `query`, at once and in a third of the time; None for others."""
    try:
        objects = _TAP_OBJECT.decode_lines(text)
    except msgspec.DecodeError:
        return None
    texts = [each.url or each.query for each in objects]
    if len(texts) != lines or not all(texts):
        return None
    # Each line has one tap and at most one time. More occurrences of these names, or escaped ones, may be duplicate members.
    times = [each.at for each in objects]
    if text.count('"url"') + text.count('"query"') != lines or text.count('"at"') != lines - times.count(None):
        return None
    if "\\" in text and "\\u00" in text:
        return None
    return Rows(texts, times, {})


def _object(line: str) -> tuple[Any, list[str]]:
    """The JSON value of a line, and its duplicate members; None if it is not JSON."""
    try:
        found = orjson.loads(line)
        return found, repeated_in_line(line, found) if isinstance(found, dict) else []
    except (orjson.JSONDecodeError, RecursionError):
        return None, []


def _query(parameters: Mapping[str, Any]) -> str | None:
    """Join parameters to a query string; None if there are none."""
    pairs = [
        f"{name}={value if _needs_no_quotes(value) else quote(value, safe='')}"
        for name, value in parameters.items()
        if value and isinstance(value, str) and name not in _NOT_PARAMETERS
    ]
    return "&".join(pairs) or None
