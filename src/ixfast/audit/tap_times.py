"""When the taps of a file were: whatever a log writes as a time, in seconds since 1970 UTC."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime
from typing import Any

import orjson

# Numbers from here on are milliseconds, and a thousand times as large microseconds: 1e11 seconds is the year 5138.
_MILLISECONDS_FROM = 1e11
_MICROSECONDS_FROM = 1e14

# Places in `2026-01-31T23:59:59.123456`.
_SECONDS_END, _MICROSECONDS_END = 19, 26
_MINUTE_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15)
_MINUTE_PARTS = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12))  # of those digits: year, month, day, hour, minute
_EXACT_MAX = 1 << 52  # microseconds, 142 years: sums up to twice that are exact as a float, so only the division rounds
_LEADING_ONE = 100_000_000  # what `_integers` puts before seconds and microseconds


def read_times(times: list[Any]) -> tuple[list[float], list[int]]:
    """Unix times in seconds, and the places of those that are none. A tap without a time has 0: its line is its order."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of several kinds: one by one, then
        return _times_of_one_kind(times), []
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
        return _even_iso_times(times) or [*map(_iso_time, times)]
    if not all(map(math.isfinite, seconds)):
        raise ValueError("no time")
    if max(seconds) >= _MILLISECONDS_FROM:
        seconds = [_in_seconds(number) for number in seconds]
    return seconds


def _iso_time(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _even_iso_times(times: list[str]) -> list[float] | None:
    """Times that are all written alike, `2026-01-31T23:59:59.123456Z` with any fraction or none; None for others.

    Digits are taken column by column, 1 ns each, and read as two lists of integers, minutes and what is beyond them. It
    takes half the time of reading one moment after the other and gives the same numbers to the last bit.
    """
    count, first = len(times), times[0]
    end, width = len(first) - first.endswith("Z"), len(first) + 1
    text = "\n".join(times) + "\n"
    if not (end == _SECONDS_END or _SECONDS_END + 2 <= end <= _MICROSECONDS_END) or len(text) != width * count:
        return None
    if first[10] not in "T " or not text.isascii():
        return None
    letters = text.encode()
    columns = [letters[place::width] for place in range(width)]
    marks = {4: b"-", 7: b"-", 10: first[10].encode(), 13: b":", 16: b":", 19: b".", end: b"Z", width - 1: b"\n"}
    for place, column in enumerate(columns):
        if column != marks[place] * count if place in marks else not column.isdigit():
            return None
    if columns[17].translate(None, b"012345"):  # the tens of the seconds
        return None
    minutes = _integers([columns[place] for place in _MINUTE_DIGITS], count)
    beyond = _integers([*columns[17:19], *columns[20:end], *[b"0" * count] * (_MICROSECONDS_END - max(end, 20))], count)
    starts = _Minutes()
    try:
        return [(starts[minute] + rest) / 1e6 for minute, rest in zip(minutes, beyond, strict=True)]
    except ValueError:
        return None


class _Minutes(dict[int, float]):
    """When minutes began, in microseconds, less what `_integers` has put before the rest. ValueError for what is no minute
    or lies so far from 1970 that a float could not hold its microseconds.
    """

    def __missing__(self, number: int) -> float:
        digits = str(number)[1:]
        year, month, day, hour, minute = (int(digits[start:end]) for start, end in _MINUTE_PARTS)
        start = int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp()) * 1_000_000
        if abs(start) > _EXACT_MAX:
            raise ValueError("too far from 1970")
        self[number] = float(start - _LEADING_ONE)
        return self[number]


def _integers(columns: list[bytes], count: int) -> list[int]:
    """Integers from columns of digits, with a 1 before the first, because JSON has none that begin with 0."""
    width = len(columns) + 2
    text = bytearray(b"1") * (width * count)
    for place, column in enumerate(columns, start=1):
        text[place::width] = column
    text[width - 1 :: width] = b"," * count
    text[-1:] = b"]"
    numbers: list[int] = orjson.loads(b"[" + text)
    return numbers


def _in_seconds(number: float) -> float:
    if number < _MILLISECONDS_FROM:
        return number
    return number / 1e3 if number < _MICROSECONDS_FROM else number / 1e6
