"""Encodes rows for COPY in its binary format (PostgreSQL 15 manual, COPY, "Binary Format").

asyncpg encodes rows on the event loop, and the database waits for the first half megabyte of them. Encoded here, in a thread
while the database writes the previous rows, they cost it no time.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterable, Sequence
from typing import Any

INT2, INT8, TEXT, BYTES, BOOL, MOMENT, JSON = range(7)
"""Column types: smallint, bigint, text, bytea, boolean, timestamptz (from an aware datetime), jsonb (from its text). Every
value may be None."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no header extension
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
_LENGTHS = tuple(_length(length) for length in range(_SHORT))  # a look-up takes a fifth of the time of packing
_INT2S = tuple(_int2(2, value) for value in range(_SHORT))


def copy_rows(same: Sequence[tuple[int, Any]], kinds: Sequence[int], rows: Iterable[Sequence[Any]]) -> bytes:
    """The complete data of a COPY. Every row consists of the values of `same`, which are pairs of kind and value, followed by one
    of `rows`, which has a value for each of `kinds`."""
    begin = _field_count(len(same) + len(kinds)) + b"".join([_field(kind, value) for kind, value in same])
    parts = [_HEADER]
    for row in rows:
        parts.append(begin)
        for column, value in enumerate(row):
            parts.append(_field(kinds[column], value))
    parts.append(_END)
    return b"".join(parts)


def _field(kind: int, value: Any) -> bytes:
    """An encoded value after its length."""
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
