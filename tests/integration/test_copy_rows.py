"""What `copy_rows` makes is what PostgreSQL reads: every kind of column, with and without a value."""

import datetime as dt
import struct
from typing import Any

import asyncpg
import pytest

from ixfast.store.imports.copy_rows import BOOL, BYTES, INT2, INT8, JSON, MOMENT, TEXT, copy_rows

COLUMNS = {
    "big": ("bigint", INT8), "small": ("smallint", INT2), "words": ("text", TEXT), "raw": ("bytea", BYTES),
    "yes": ("boolean", BOOL), "moment": ("timestamptz", MOMENT), "document": ("jsonb", JSON),
}  # fmt: skip
KINDS = tuple(kind for _, kind in COLUMNS.values())
MOMENTS = (
    dt.datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    dt.datetime(1969, 7, 20, 20, 17, tzinfo=dt.timezone(dt.timedelta(hours=-5))),
)
ROWS = [
    (1, 2, "tag", b"\x04\x00\xff", True, MOMENTS[0], '{"a": [1, "ü"]}'),
    (-(2**63), -(2**15), "", b"", False, MOMENTS[1], "null"),
    (2**63 - 1, 2**15 - 1, "é" * 127 + "€" * 90, bytes(300), True, MOMENTS[0], '"' + "x" * 70_000 + '"'),
    (255, 255, "x" * 255, bytes(255), False, MOMENTS[0], "{}"),
    (256, 256, "x" * 256, bytes(256), False, MOMENTS[0], "[]"),
    (None,) * len(KINDS),
]


async def _copied(dsn: str, columns: list[str], data: bytes) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        types = ", ".join(f"{name} {sql}" for name, (sql, _) in COLUMNS.items())
        await connection.execute(f"CREATE TEMPORARY TABLE copied (line serial, {types})")

        async def once() -> Any:
            yield data

        await connection.copy_to_table("copied", source=once(), columns=columns, format="binary")
        names = ", ".join(COLUMNS)
        return [tuple(row) for row in await connection.fetch(f"SELECT {names} FROM copied ORDER BY line")]
    finally:
        await connection.close()


async def test_every_kind_arrives(database: str) -> None:
    assert await _copied(database, list(COLUMNS), copy_rows((), KINDS, ROWS)) == ROWS


async def test_what_is_the_same_in_all_rows_comes_first(database: str) -> None:
    same, different = list(COLUMNS)[:3], list(COLUMNS)[3:]
    values = ((INT8, 7), (INT2, None), (TEXT, "all"))
    data = copy_rows(values, KINDS[3:], [row[3:] for row in ROWS])
    assert await _copied(database, [*same, *different], data) == [(7, None, "all", *row[3:]) for row in ROWS]


async def test_no_rows_are_a_copy_too(database: str) -> None:
    assert await _copied(database, list(COLUMNS), copy_rows((), KINDS, [])) == []


@pytest.mark.parametrize(("kind", "value"), [(INT8, 2**63), (INT2, 2**15), (TEXT, 5), (MOMENT, dt.datetime(2026, 1, 1))])
async def test_what_has_no_place_in_its_column_is_an_error(kind: int, value: Any) -> None:
    with pytest.raises((struct.error, AttributeError, TypeError)):
        copy_rows((), (kind,), [(value,)])
