"""What the lines of a tap file say: CSV with a header, JSON lines, or bare URLs.

A tap is a `url` or a `query` (verbatim), or its parameters in columns of their own (`x`, `n`, `e`, or whatever the profile
calls them), which are put together to a query string; `at` is when it was. Lines are independent of each other, so that a
file can be judged in pieces: a quoted field never goes over the end of a line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from operator import methodcaller
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import orjson

from ixfast.errors import InputError

CHUNK_BYTES = 1 << 19
"""Read and judged at a time: some thousand lines, enough for a batch to pay."""

LINE_BYTES_MAX = 1 << 20
"""A longer line means that the file is none of taps."""

TIME = "at"
_TAPS = ("url", "query")
_COMMAS_IN = methodcaller("count", ",")
_NOT_PARAMETERS = frozenset((TIME, *_TAPS, "expected"))
# Numbers from here on are milliseconds, and a thousand times as large microseconds: 1e11 seconds is the year 5138.
_MILLISECONDS_FROM = 1e11
_MICROSECONDS_FROM = 1e14


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
    text = chunk.decode(errors="replace")  # U+FFFD is in no tap, so such a line is malformed by itself
    lines = text.removesuffix("\n").split("\n")
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    if form.kind == "jsonl":
        return _read_objects(lines)
    if form.kind == "urls":
        return Rows([line.strip() or None for line in lines], [None] * len(lines), {})
    return _read_columns(lines, form.names, quoted='"' in text)


def _read_columns(lines: list[str], names: tuple[str, ...], *, quoted: bool) -> Rows:
    width = len(names)
    problems: dict[int, str] = {}
    if not quoted and {*map(_COMMAS_IN, lines)} == {width - 1}:
        fields = ",".join(lines).split(",")  # a list for each line would take three times as long
        columns = {name: fields[place::width] for place, name in enumerate(names)}
    else:
        columns = _columns_one_by_one(lines, names, problems)
    times: list[Any] = columns.get(TIME) or [None] * len(lines)
    texts: list[str | None] = next(([*columns[name]] for name in _TAPS if name in columns), [])
    if not texts:
        own = {name: column for name, column in columns.items() if name not in _NOT_PARAMETERS}
        texts = [_query(dict(zip(own, row, strict=True))) for row in zip(*own.values(), strict=True)]
    if None in texts or "" in texts:
        for place, line in enumerate(lines):
            if not texts[place]:
                texts[place] = None
                if line.strip():
                    problems.setdefault(place, "no tap in this line")
    return Rows(texts, times, problems)


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


def _read_objects(lines: list[str]) -> Rows:
    texts: list[str | None] = []
    times: list[Any] = []
    problems: dict[int, str] = {}
    for place, line in enumerate(lines):
        tap = None
        at = None
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict):
            at = found.get(TIME)
            tap = found.get("url") or found.get("query") or _query(found)
            if not isinstance(tap, str):
                tap, problems[place] = None, "no tap in this line"
        elif line.strip():
            problems[place] = "no JSON object"
        texts.append(tap)
        times.append(at)
    return Rows(texts, times, problems)


def _query(parameters: Mapping[str, Any]) -> str | None:
    """Parameters of their own as a query string; None if there are none."""
    pairs = [
        f"{name}={value if value.isalnum() and value.isascii() else quote(value, safe='')}"
        for name, value in parameters.items()
        if value and isinstance(value, str) and name not in _NOT_PARAMETERS
    ]
    return "&".join(pairs) or None


def read_times(times: list[Any]) -> tuple[list[float], list[int]]:
    """Unix times in seconds, and the places of those that are none. A tap without a time has 0: its line is its order."""
    try:
        return _times_of_one_kind(times), []
    except (TypeError, ValueError, OverflowError):
        pass
    seconds, wrong = [0.0] * len(times), []
    for place, at in enumerate(times):
        if at is None or at == "":
            continue
        try:
            seconds[place] = _times_of_one_kind([at])[0]
        except (TypeError, ValueError, OverflowError):
            wrong.append(place)
    return seconds, wrong


def _times_of_one_kind(times: list[Any]) -> list[float]:
    """ISO 8601 (UTC unless it says so), or Unix time in seconds, milliseconds or microseconds. Raises for anything else."""
    if not times or (times[0] is None and not any(at is not None for at in times)):
        return [0.0] * len(times)
    try:
        seconds = [*map(float, times)]
    except ValueError:
        moments = [*map(datetime.fromisoformat, times)]
        return [(m if m.tzinfo is not None else m.replace(tzinfo=UTC)).timestamp() for m in moments]
    if not all(map(math.isfinite, seconds)):
        raise ValueError("no time")
    if max(seconds) >= _MILLISECONDS_FROM:
        seconds = [_in_seconds(number) for number in seconds]
    return seconds


def _in_seconds(number: float) -> float:
    if number < _MILLISECONDS_FROM:
        return number
    return number / 1e3 if number < _MICROSECONDS_FROM else number / 1e6
