"""Converts the times of a tap file, in any format that logs use, to Unix times in seconds."""

from __future__ import annotations

import contextlib
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

NOT_A_TIME = "neither an ISO 8601 nor a Unix time, nor one of a web server's log"

# Numbers from each limit on are milliseconds, microseconds and nanoseconds: 1e11 seconds would be in the year 5138.
_MILLISECONDS_FROM = 1e11
_MICROSECONDS_FROM = 1e14
_NANOSECONDS_FROM = 1e17
_USUAL_FROM = 1e8  # a smaller number in a column that is not called `at` is a duration or a number of something

# The time of Apache's and nginx's logs, and that of HTTP and mail headers.
_LOG_TIME = re.compile(r"\[?(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d)(\.\d+)?(?: ([+-])(\d\d)(\d\d))?\]?", re.ASCII)
_HEADER_TIME = re.compile(r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} .*", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SLASHES = re.compile(r"\d{4}/\d\d/\d\d")
_SPACED_ZONE = re.compile(r" (?:UTC|GMT|Z)$| (?=[+-]\d\d:?\d\d$)")

# Offsets in `2026-01-31T23:59:59.123456`.
_SECONDS_END, _MICROSECONDS_END = 19, 26
_MINUTE_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15)
_MINUTE_PARTS = ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12))  # of those digits: year, month, day, hour, minute
_EXACT_MAX = 1 << 52  # microseconds (142 years): a float represents sums up to twice that exactly, so only the division rounds
_LEADING_ONE = 100_000_000  # the digit 1 that `_integers` prepends to seconds and microseconds


def read_times(times: list[Any]) -> tuple[list[float], list[int]]:
    """Unix times in seconds, and the indexes of invalid times. A tap without a time gets 0, and its line determines its order."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # mixed formats are converted one by one below
        return _times_of_one_kind(times), []
    seconds, wrong = [0.0] * len(times), []
    for index, at in enumerate(times):
        if at is None or at == "":
            continue
        try:
            seconds[index] = _times_of_one_kind([at])[0]
        except (TypeError, ValueError, OverflowError):
            wrong.append(index)
    return seconds, wrong


def is_moment(text: str) -> bool:
    """Whether a text is a date with or without a time, which no number is."""
    try:
        _moment(text)
    except (ValueError, OverflowError):
        return False
    return not text.isdigit()


def is_time(text: str) -> bool:
    """Whether a text is a time in any of the formats; not if it is a number too small for one of today's."""
    try:
        return float(text) >= _USUAL_FROM
    except ValueError:
        return is_moment(text)


def _times_of_one_kind(times: list[Any]) -> list[float]:
    """Convert ISO 8601 times (UTC if without an offset), those of logs, or Unix times in seconds down to nanoseconds.

    Raises TypeError, ValueError or OverflowError for anything else.
    """
    if not times or (times[0] is None and not any(at is not None for at in times)):
        return [0.0] * len(times)
    try:
        seconds = [*map(float, times)]
    except ValueError:
        return _uniform_iso_times(times) or [*map(_moment, times)]
    if not all(map(math.isfinite, seconds)):
        raise ValueError("not a time")
    if max(seconds) >= _MILLISECONDS_FROM:
        seconds = [_in_seconds(number) for number in seconds]
    return seconds


def _moment(text: str) -> float:
    """A date and time as text, in UTC if it has no offset. Raises ValueError or OverflowError for any other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = _log_moment(text.strip())
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _log_moment(text: str) -> datetime:
    """A time that is not in ISO 8601: `29/Nov/2026:10:11:12 +0100`, `Sun, 29 Nov 2026 10:11:12 GMT` or `2026/11/29 10:11:12`."""
    found = _LOG_TIME.fullmatch(text)
    if found is not None:
        day, month, year, hour, minute, second, fraction, sign, hours, minutes = found.groups()
        if month not in _MONTHS:
            raise ValueError("no month")
        zone = UTC
        if sign is not None:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(-offset if sign == "-" else offset)
        microseconds = int(float(fraction) * 1e6) if fraction is not None else 0
        return datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), microseconds, tzinfo=zone
        )
    if _HEADER_TIME.fullmatch(text):
        return parsedate_to_datetime(text)
    iso = _SPACED_ZONE.sub(lambda zone: "Z" if zone[0].strip() else "", text)
    if _SLASHES.match(iso):
        iso = iso.replace("/", "-", 2)
    return datetime.fromisoformat(iso)


def _uniform_iso_times(times: list[str]) -> list[float] | None:
    """Convert times of one format, `2026-01-31T23:59:59.123456Z` with any fraction or none; None for others.

    Digits are sliced column by column, 1 ns each, and parsed as two lists of integers: minutes, and seconds with fraction. This
    takes half the time of parsing one time after the other and gives exactly the same floats.
    """
    count, first = len(times), times[0]
    end, width = len(first) - first.endswith("Z"), len(first) + 1
    text = "\n".join(times) + "\n"
    if not (end == _SECONDS_END or _SECONDS_END + 2 <= end <= _MICROSECONDS_END) or len(text) != width * count:
        return None
    if first[10] not in "T " or not text.isascii():
        return None
    letters = text.encode()
    columns = [letters[offset::width] for offset in range(width)]
    marks = {4: b"-", 7: b"-", 10: first[10].encode(), 13: b":", 16: b":", 19: b".", end: b"Z", width - 1: b"\n"}
    for offset, column in enumerate(columns):
        if column != marks[offset] * count if offset in marks else not column.isdigit():
            return None
    if columns[17].translate(None, b"012345"):  # the tens of the seconds
        return None
    minutes = _integers([columns[offset] for offset in _MINUTE_DIGITS], count)
    beyond = _integers([*columns[17:19], *columns[20:end], *[b"0" * count] * (_MICROSECONDS_END - max(end, 20))], count)
    starts = _Minutes()
    try:
        return [(starts[minute] + rest) / 1e6 for minute, rest in zip(minutes, beyond, strict=True)]
    except ValueError:
        return None


class _Minutes(dict[int, float]):
    """By the digits of a minute: its start in microseconds, less the digit that `_integers` prepends to the seconds.

    Raises ValueError for digits that are not a date and minute, and for one so far from 1970 that a float could not represent its
    microseconds.
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
    """Parse columns of digits as integers, with a 1 prepended, because JSON numbers must not begin with 0."""
    width = len(columns) + 2
    text = bytearray(b"1") * (width * count)
    for offset, column in enumerate(columns, start=1):
        text[offset::width] = column
    text[width - 1 :: width] = b"," * count
    text[-1:] = b"]"
    numbers: list[int] = orjson.loads(b"[" + text)
    return numbers


def _in_seconds(number: float) -> float:
    if number < _MILLISECONDS_FROM:
        return number
    if number < _MICROSECONDS_FROM:
        return number / 1e3
    return number / 1e6 if number < _NANOSECONDS_FROM else number / 1e9
