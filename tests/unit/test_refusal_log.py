"""The log of refusals, with a database whose writes are held back: one at a time, bounded, and never delaying a scan."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support import eventually
from support.ledger_kit import tag_record

from ixfast import limits
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Scan
from ixfast.meters import REFUSALS_DROPPED, Meters
from ixfast.store.ledger.refusal_log import RefusalLog


class HeldDatabase:
    """A database whose writes finish once `go` is set."""

    def __init__(self) -> None:
        self.writes: list[Sequence[tuple[int, int, int, str]]] = []
        self.under_way = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def log_refusals(self, rows: Sequence[tuple[int, int, int, str]], time_left_s: float) -> None:
        self.writes.append(rows)
        self.under_way += 1
        assert self.under_way == 1, "two writes at once"
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        if self.error is not None:
            raise self.error


def refused(verdict: Verdict | None, tag_id: int = 1, position: int = 7) -> Scan:
    scan = Scan(lambda _: None, b"", -1, None, None, 1000 + tag_id, 0.0)
    scan.record, scan.verdict, scan.position = tag_record(tag_id), verdict, position
    return scan


def make(database: Any) -> tuple[RefusalLog, Meters]:
    meters = Meters()
    return RefusalLog(database, meters), meters


async def test_refusals_and_repeats_have_rows_and_nothing_else_has() -> None:
    database = HeldDatabase()
    database.go.set()
    refusals, _ = make(database)
    for tag_id, verdict in enumerate((*Verdict, None), start=1):
        refusals.add(refused(verdict, tag_id))
    without_tag = refused(Verdict.FORGED)
    without_tag.record = None
    refusals.add(without_tag)
    await refusals.stop()
    (rows,) = database.writes
    expected = {Verdict.REPEAT: "a", Verdict.REPLAYED: "r", Verdict.FORGED: "f", Verdict.INCOMPLETE: "i", Verdict.INACTIVE: "x"}
    tags = {verdict: tag_id for tag_id, verdict in enumerate(Verdict, start=1)}
    assert sorted(rows) == sorted((1000 + tags[verdict], tags[verdict], 7, letter) for verdict, letter in expected.items())


async def test_one_write_at_a_time_takes_all_that_came_meanwhile() -> None:
    database = HeldDatabase()
    refusals, _ = make(database)
    refusals.add(refused(Verdict.FORGED, 1))
    await eventually(lambda: database.under_way == 1)
    for tag_id in (2, 3, 4):
        refusals.add(refused(Verdict.FORGED, tag_id))
    assert len(database.writes) == 1
    database.go.set()
    await eventually(lambda: len(database.writes) == 2)
    assert [[row[1] for row in rows] for rows in database.writes] == [[1], [2, 3, 4]]
    await refusals.stop()


async def test_rows_beyond_the_bound_and_rows_of_a_failed_write_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSAL_QUEUE_ROWS_MAX", 3)
    database = HeldDatabase()
    database.error = ConnectionResetError()
    refusals, meters = make(database)
    for tag_id in range(1, 6):
        refusals.add(refused(Verdict.FORGED, tag_id))
    assert meters.slots[REFUSALS_DROPPED] == 2
    database.go.set()
    await eventually(lambda: meters.slots[REFUSALS_DROPPED] == 5)
    assert [len(rows) for rows in database.writes] == [3]
    await refusals.stop()


async def test_stopping_does_not_wait_for_a_write_that_hangs() -> None:
    database = HeldDatabase()
    refusals, _ = make(database)
    refusals.add(refused(Verdict.FORGED))
    await eventually(lambda: database.under_way == 1)
    await asyncio.wait_for(refusals.stop(), 5)
    assert database.under_way == 0
