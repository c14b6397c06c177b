"""What the lines of a tap file say: CSV with a header, JSON lines, or bare URLs.

A tap is a `url` or a `query` (verbatim), or its parameters in columns of their own (`x`, `n`, `e`, or whatever the profile
calls them), which are put together to a query string; `at` is when it was. Lines are independent of each other, so that a
file can be judged in pieces: a quoted field never goes over the end of a line.
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
"""Read and judged at a time: some thousand lines, enough for a batch to pay."""

LINE_BYTES_MAX = 1 << 20
"""A longer line means that the file is none of taps."""

TIME = "at"
_TAPS = ("url", "query")
_TAKEN = frozenset((TIME, *_TAPS))
_NOT_PARAMETERS = _TAKEN | {"expected"}


class TapFormat(NamedTuple):
    """`kind` is csv, jsonl or urls; `names` are the columns of CSV; `header` says whether the first line is no tap."""

    kind: str
    names: tuple[str, ...] = ()
    header: bool = False


class Rows(NamedTuple):
    """The lines of a chunk side by side: the tap as text (None: empty line, or one with a problem), its time as given."""

    texts: list[str | None]
    times: list[Any]
    problems: dict[int, str]


def detect_format(first: bytes) -> TapFormat:
    """The format of a file by its first line. InputError if it names no column that could hold a tap."""
    text = first.decode(errors="replace").removeprefix("\ufeff").strip()
    if text.startswith("{"):
        return TapFormat("jsonl")
    # No column's name has one of these, and hardly a tap is without.
    if "=" in text or "/" in text:
        return TapFormat("urls")
    names = tuple(name.strip() for name in next(csv.reader([text]), []))
    folded = tuple(name.lower() if name.lower() in _NOT_PARAMETERS else name for name in names)
    if len(set(folded)) < len(folded) or not all(folded) or not set(folded) - {TIME, "expected"}:
        raise InputError("invalid_parameter", "The first line must name the columns: at, and url or query or x, n, e.", "file")
    return TapFormat("csv", folded, header=True)


def chunks(source: BinaryIO) -> Iterator[bytes]:
    """Whole lines, some thousand at a time. InputError for a line that is longer than `LINE_BYTES_MAX`."""
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
    """The lines of a chunk, in their order."""
    text = chunk.decode(errors="replace").removesuffix("\n")  # U+FFFD is in no tap, so such a line is malformed by itself
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
    columns = _columns_of_even_lines(text, names)
    if columns is None:
        columns = _columns_one_by_one(text.split("\n"), names, problems)
    own = next(([*columns[name]] for name in _TAPS if name in columns), None)
    texts: list[str | None] = [*own] if own is not None else _queries(columns)
    if not all(texts):
        for place, line in enumerate(text.split("\n")):
            if not texts[place]:
                texts[place] = None
                if line.strip():
                    problems.setdefault(place, "no tap in this line")
    return Rows(texts, [*columns[TIME]] if TIME in columns else [None] * len(texts), problems)


def _columns_of_even_lines(text: str, names: tuple[str, ...]) -> dict[str, list[str]] | None:
    """The columns of lines that all have as many fields as the header and no quotes; None for others.

    All is split at once, the ends of the lines being fields of their own: if each stands where it must, so does the rest.
    A list for each line would take three times as long.
    """
    if '"' in text:
        return None
    width, lines = len(names), text.count("\n") + 1
    fields = text.replace("\n", ",\n,").split(",")
    if len(fields) != (width + 1) * lines - 1 or fields[width :: width + 1].count("\n") != lines - 1:
        return None
    return {name: fields[place :: width + 1] for place, name in enumerate(names)}


def _queries(columns: dict[str, list[str]]) -> list[str | None]:
    """The query strings of taps whose parameters have columns of their own."""
    own = {name: column for name, column in columns.items() if name not in _NOT_PARAMETERS}
    if own and all(all(column) and _needs_no_quotes("".join(column)) for column in own.values()):
        lines = len(next(iter(own.values())))
        pieces = [""] * (2 * len(own) * lines)
        for place, (name, column) in enumerate(own.items()):
            pieces[2 * place :: 2 * len(own)] = [f"&{name}=" if place else f"\n{name}="] * lines
            pieces[2 * place + 1 :: 2 * len(own)] = column
        return [*"".join(pieces).split("\n")[1:]]
    return [_query(dict(zip(own, row, strict=True))) for row in zip(*own.values(), strict=True)]


def _needs_no_quotes(text: str) -> bool:
    return text.isascii() and text.encode().isalnum()


def _columns_one_by_one(lines: list[str], names: tuple[str, ...], problems: dict[int, str]) -> dict[str, list[str]]:
    """The columns of lines that are not all alike; a line with too many fields or too few has empty ones."""
    width = len(names)
    rows: list[list[str]] = []
    for place, line in enumerate(lines):
        row = _unquoted(line) if '"' in line else line.split(",")
        if len(row) != width:
            if line.strip():
                problems[place] = f"{len(row)} fields, the header has {width}" if row else "a quoted field without its end"
            row = [""] * width
        rows.append(row)
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _unquoted(line: str) -> list[str]:
    """The fields of a line with quotes; none if a quote is not closed in it."""
    try:
        return next(csv.reader([line], strict=True), [""])
    except csv.Error:
        return []


class _UsualObject(msgspec.Struct):
    at: str | float | None = None
    url: str | None = None
    query: str | None = None


_USUAL_OBJECT = msgspec.json.Decoder(_UsualObject)


def _read_objects(text: str) -> Rows:
    lines = text.split("\n")
    usual = _usual_objects(text, len(lines))
    if usual is not None:
        return usual
    texts: list[str | None] = []
    times: list[Any] = []
    problems: dict[int, str] = {}
    for place, line in enumerate(lines):
        tap = None
        at = None
        found, repeated = _object(line)
        if isinstance(found, dict):
            at = found.get(TIME)
            tap = found.get("url") or found.get("query")
            if repeated and (not tap or not _TAKEN.isdisjoint(repeated)):
                tap, problems[place] = None, "a member twice in this line"
            elif not isinstance(tap := tap or _query(found), str):
                tap, problems[place] = None, "no tap in this line"
        elif line.strip():
            problems[place] = "no JSON object"
        texts.append(tap)
        times.append(at)
    return Rows(texts, times, problems)


def _usual_objects(text: str, lines: int) -> Rows | None:
    """Lines each of which is an object with a tap in one text, read together in a third of the time; None for others."""
    try:
        objects = _USUAL_OBJECT.decode_lines(text)
    except msgspec.DecodeError:
        return None
    texts = [each.url or each.query for each in objects]
    if len(texts) != lines or not all(texts):
        return None
    # Each line has a tap and may have a time: more of these names, or one that is written otherwise, may be a member twice.
    times = [each.at for each in objects]
    if text.count('"url"') + text.count('"query"') != lines or text.count('"at"') != lines - times.count(None):
        return None
    if "\\" in text and "\\u00" in text:
        return None
    return Rows(texts, times, {})


def _object(line: str) -> tuple[Any, list[str]]:
    """What the line is, and the members that it has twice."""
    try:
        found = orjson.loads(line)
        return found, repeated_in_line(line, found) if isinstance(found, dict) else []
    except (orjson.JSONDecodeError, RecursionError):
        return None, []


def _query(parameters: Mapping[str, Any]) -> str | None:
    """Parameters of their own as a query string; None if there are none."""
    pairs = [
        f"{name}={value if _needs_no_quotes(value) else quote(value, safe='')}"
        for name, value in parameters.items()
        if value and isinstance(value, str) and name not in _NOT_PARAMETERS
    ]
    return "&".join(pairs) or None
