"""Counters that an import writes: those of new tags, and those of stored tags that were in use in another service.

A counter is never lowered, so importing a file again, or an older one, changes nothing. Scans of a tag wait while its counter is
locked, until the transaction ends; therefore counters are raised last.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from ixfast.store.queries import load

_CHUNK_TAGS = 20_000

Row = tuple[int, int, int]
"""Tag id, position and scan count."""


class CounterColumns(Sequence[Row]):
    """Rows of `tag_counter`, in 20 bytes each."""

    NAMES = ("tag_id", "last_position", "scan_count")

    def __init__(self) -> None:
        self._columns = array("q"), array("i"), array("q")

    def extend(self, rows: Sequence[Row]) -> None:
        if rows:
            for column, values in zip(self._columns, zip(*rows, strict=True), strict=True):
                column.extend(values)

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: Any) -> Any:
        return tuple(column[index] for column in self._columns)

    def __iter__(self) -> Iterator[Row]:
        return zip(*self._columns, strict=True)


async def counters_of(connection: Any, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The stored positions and scan counts by tag id."""
    if not ids:
        return {}
    rows = await connection.fetch(load("importing")["counters"], ids)
    return {row["tag_id"]: (row["last_position"], row["scan_count"]) for row in rows}


async def raise_counters(connection: Any, counters: CounterColumns) -> None:
    """Raise the counters of stored tags to at least these values. Rows are locked in ascending order of their ids, as the ledger
    does; otherwise the two could deadlock."""
    sql = load("importing")
    rows = sorted(counters)
    for start in range(0, len(rows), _CHUNK_TAGS):
        columns = [list(column) for column in zip(*rows[start : start + _CHUNK_TAGS], strict=True)]
        await connection.fetchval(sql["lock_counters"], columns[0])
        await connection.execute(sql["raise_counters"], *columns)
