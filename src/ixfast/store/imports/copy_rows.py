"""Rows of COPY in its binary format, made before they are sent: PostgreSQL 15 manual, COPY, "Binary Format".

asyncpg makes rows on the event loop, and the database waits for the first half megabyte of them. Made in a thread, beside the
database that writes the rows before them, they cost it no time.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterable, Sequence
from typing import Any

INT2, INT8, TEXT, BYTES, BOOL, MOMENT, JSON = range(7)
"""Kinds of columns: smallint, bigint, text, bytea, boolean, timestamptz with an aware datetime, jsonb with its text. A value of
each may be None."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # neither flags nor an extension
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"
_JSONB_VERSION = b"\1"
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_field_count = struct.Struct(">h").pack
_int2 = struct.Struct(">ih").pack
_int8 = struct.Struct(">iq").pack
_length = struct.Struct(">i").pack
_SHORT = 256
_LENGTHS = tuple(_length(length) for length in range(_SHORT))  # looked up in a fifth of the time in which they are made
_INT2S = tuple(_int2(2, value) for value in range(_SHORT))


def copy_rows(same: Sequence[tuple[int, Any]], kinds: Sequence[int], rows: Iterable[Sequence[Any]]) -> bytes:
    """All of a COPY's data. Every row begins with the values of `same`, pairs of kind and value, and goes on with one of `rows`,
    which has a value for each of `kinds`."""
    begin = _field_count(len(same) + len(kinds)) + b"".join([_field(kind, value) for kind, value in same])
    parts = [_HEADER]
    for row in rows:
        parts.append(begin)
        for place, value in enumerate(row):
            parts.append(_field(kinds[place], value))
    parts.append(_END)
    return b"".join(parts)


def _field(kind: int, value: Any) -> bytes:
    """A value with its length before it."""
    if value is None:
        return _NULL
    if kind == TEXT:
        return _sized(value.encode())
    if kind == BYTES:
        return _sized(value)
    if kind == INT8:
        return _int8(8, value)
    if kind == BOOL:
        return _TRUE if value else _FALSE
    if kind == INT2:
        return _INT2S[value] if 0 <= value < _SHORT else _int2(2, value)
    if kind == MOMENT:
        return _int8(8, (value - _EPOCH) // _MICROSECOND)
    return _sized(_JSONB_VERSION + value.encode())


def _sized(value: bytes) -> bytes:
    length = len(value)
    return (_LENGTHS[length] if length < _SHORT else _length(length)) + value
