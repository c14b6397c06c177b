"""The log of refusals, with a database whose writes are held back: one at a time, bounded, and never delaying a scan."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support import eventually
from support.ledger_kit import ACCOUNT, refused_scan, tag_record

from ixfast import limits
from ixfast.domain.model import Verdict
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import COUNTED_ONLY, KEYED_FROM, Scan
from ixfast.meters import REFUSALS_DROPPED, Meters
from ixfast.responses import bodies
from ixfast.store.ledger.ledger_database import KeyedRefusal, Refusal, VisitorCountry
from ixfast.store.ledger.refusal_log import RefusalLog
from ixfast.store.verdict_letters import LETTERS


class HeldDatabase:
    """A database whose writes finish once `go` is set."""

    def __init__(self) -> None:
        self.writes: list[Sequence[Refusal]] = []
        self.keyed: list[Sequence[KeyedRefusal]] = []
        self.countries: list[Sequence[VisitorCountry]] = []
        self.under_way = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def log_refusals(self, rows: Sequence[Refusal], time_left_s: float) -> None:
        self.writes.append(rows)
        await self._held()

    async def log_keyed_refusals(self, rows: Sequence[KeyedRefusal], time_left_s: float) -> None:
        self.keyed.append(rows)
        await self._held()

    async def log_countries(self, rows: Sequence[VisitorCountry], time_left_s: float) -> None:
        self.countries.append(rows)
        await self._held()

    async def _held(self) -> None:
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


def unknown(scan_id: int = 1, account_id: int | None = 9) -> Scan:
    api_key = ApiKey(1, account_id, "shop", frozenset(("scan",)), "", None) if account_id is not None else None
    scan = Scan(lambda _: None, b"nosuchtg", 5, None, api_key, scan_id, 0.0)
    scan.verdict, scan.error = Verdict.UNKNOWN, "not_found"
    return scan


async def test_refusals_and_repeats_have_rows_and_nothing_else_has() -> None:
    database = HeldDatabase()
    database.go.set()
    refusals, _ = make(database)
    known = [verdict for verdict in (*Verdict, None) if verdict is not Verdict.UNKNOWN]
    for tag_id, verdict in enumerate(known, start=1):
        refusals.add(refused(verdict, tag_id))
    without_tag = refused(Verdict.FORGED)
    without_tag.record = None
    refusals.add(without_tag)
    await refusals.stop()
    (rows,) = database.writes
    expected = {Verdict.REPEAT: "a", Verdict.REPLAYED: "r", Verdict.FORGED: "f", Verdict.INCOMPLETE: "i", Verdict.INACTIVE: "x"}
    tags = {verdict: tag_id for tag_id, verdict in enumerate(known, start=1) if verdict is not None}
    assert sorted(row[:4] for row in rows) == sorted(
        (1000 + tags[verdict], tags[verdict], 7, letter) for verdict, letter in expected.items()
    )


async def test_a_row_has_the_reason_of_the_response() -> None:
    database = HeldDatabase()
    database.go.set()
    refusals, _ = make(database)
    forged, inactive, repeat = refused(Verdict.FORGED, 1), refused(Verdict.INACTIVE, 2), refused(Verdict.REPEAT, 3)
    forged.reason, inactive.error = "mac_mismatch", "batch_inactive"
    for scan in (forged, inactive, repeat):
        refusals.add(scan)
    await refusals.stop()
    assert [row[4:] for row in database.writes[0]] == [("mac_mismatch", None), ("batch_inactive", None), (None, None)]
    assert [bodies.v2_scan(scan)["reason"] for scan in (forged, inactive)] == ["mac_mismatch", "batch_inactive"]


async def test_a_scan_of_an_unknown_tag_is_logged_for_the_account_of_its_api_key() -> None:
    database = HeldDatabase()
    database.go.set()
    refusals, _ = make(database)
    refusals.add(unknown(7, 9))
    refusals.add(unknown(8, None))
    await refusals.stop()
    assert database.writes == [[(7, 0, COUNTED_ONLY, "u", "not_found", 9)]]


async def test_scans_of_unknown_tags_do_not_displace_other_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNKNOWN_ROWS_MAX", 3)
    monkeypatch.setattr(limits, "REFUSAL_QUEUE_ROWS_MAX", 16)
    database = HeldDatabase()
    refusals, meters = make(database)
    for scan_id in range(20):
        refusals.add(unknown(scan_id))
    assert meters.slots[REFUSALS_DROPPED] == 17
    refusals.add(refused(Verdict.FORGED, 1))
    assert meters.slots[REFUSALS_DROPPED] == 17
    await eventually(lambda: database.under_way == 1)
    for scan_id in range(20, 25):  # the bound is one of each write
        refusals.add(unknown(scan_id))
    database.go.set()
    await eventually(lambda: len(database.writes) == 2)
    assert [[row[0] for row in rows] for rows in database.writes] == [[0, 1, 2, 1001], [20, 21, 22]]
    await refusals.stop()


async def test_countries_are_written_after_refusals_and_bounded_like_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSAL_QUEUE_ROWS_MAX", 2)
    database = HeldDatabase()
    refusals, meters = make(database)
    for tag_id in (1, 2, 3):
        refusals.add_country(refused(Verdict.GENUINE, tag_id), "CH")
    assert meters.slots[REFUSALS_DROPPED] == 1
    refusals.add(refused(Verdict.FORGED, 4))
    database.go.set()
    await eventually(lambda: bool(database.countries))
    assert database.countries == [[(1, "g", "CH"), (2, "g", "CH")]] and len(database.writes) == 1
    await refusals.stop()


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


# Under an Idempotency-Key.


def keyed(tag_id: int | None, key: int, fingerprint: int = 1, verdict: Verdict = Verdict.FORGED) -> Scan:
    record = tag_record(tag_id) if tag_id is not None else None
    return refused_scan(record, 7, verdict if record is not None else Verdict.UNKNOWN, key=key, fingerprint=fingerprint)


async def written(*scans: Scan, country: str | None = None) -> list[KeyedRefusal]:
    """The rows that are written for refusals with an Idempotency-Key."""
    database = HeldDatabase()
    database.go.set()
    refusals, meters = make(database)
    for scan in scans:
        refusals.add(scan)
        if country is not None:
            refusals.add_country(scan, country)
    await refusals.stop()
    assert not database.writes and not database.countries and not meters.slots[REFUSALS_DROPPED]
    return [row for rows in database.keyed for row in rows]


async def test_a_refusal_that_is_sent_again_is_queued_once_and_so_is_the_country() -> None:
    for verdict in (Verdict.REPLAYED, Verdict.FORGED, Verdict.INCOMPLETE, Verdict.INACTIVE, Verdict.REPEAT):
        (row,) = await written(*(keyed(3, 5, verdict=verdict) for _ in range(4)), country="CH")
        assert row[:2] == (KEYED_FROM | 5, 3) and row.verdict == LETTERS[verdict]
        assert (row.mark, row.fingerprint, row.country) == (KEYED_FROM | 5, KEYED_FROM | 1, "CH")
    (row,) = await written(*(keyed(None, 5) for _ in range(4)))
    assert (row.scan_id, row.tag_id, row.verdict, row.account_id) == (KEYED_FROM | 5, 0, "u", ACCOUNT)


async def test_each_tap_of_an_unknown_tag_has_a_mark_of_its_own() -> None:
    taps = [(5, 1 << 40), (5, 2 << 40), (6, 1 << 40), (6, 2 << 40)]
    rows = await written(*(keyed(None, key, fingerprint) for key, fingerprint in taps))
    assert len({row.mark for row in rows}) == len(taps)
    assert all(0 <= row.mark < KEYED_FROM <= row.scan_id for row in rows)


async def test_refusals_with_and_without_a_key_have_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUSAL_QUEUE_ROWS_MAX", 4)
    database = HeldDatabase()
    refusals, meters = make(database)
    for number in (1, 2):
        refusals.add(keyed(number, number))
        refusals.add(refused(Verdict.FORGED, number))
    for again in range(1, 6):
        refusals.add(keyed(1, 1))  # takes no place
        assert meters.slots[REFUSALS_DROPPED] == 0, again
    late = keyed(3, 3)
    refusals.add(late)
    assert meters.slots[REFUSALS_DROPPED] == 1
    refusals.add_country(late, "CH")
    assert meters.slots[REFUSALS_DROPPED] == 2
    refusals.add(refused(Verdict.FORGED, 3))
    assert meters.slots[REFUSALS_DROPPED] == 3
    database.go.set()
    await refusals.stop()
    assert [[row.tag_id for row in rows] for rows in database.keyed] == [[1, 2]] and len(database.writes[0]) == 2


async def test_scans_of_unknown_tags_with_a_key_do_not_displace_other_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNKNOWN_ROWS_MAX", 3)
    database = HeldDatabase()
    database.go.set()
    refusals, meters = make(database)
    refusals.add(unknown(1))
    for key in range(10):
        refusals.add(keyed(None, key))
    assert meters.slots[REFUSALS_DROPPED] == 8
    refusals.add(keyed(1, 11))
    await refusals.stop()
    assert [[row.tag_id for row in rows] for rows in database.keyed] == [[0, 0, 1]]
    assert meters.slots[REFUSALS_DROPPED] == 8


async def test_rows_of_a_failed_write_are_counted_with_their_countries() -> None:
    database = HeldDatabase()
    database.error = ConnectionResetError()
    database.go.set()
    refusals, meters = make(database)
    for number in (1, 2, 3):
        refusals.add(keyed(number, number))
    refusals.add_country(keyed(2, 2), "CH")
    refusals.add_country(keyed(2, 2), "CH")
    await refusals.stop()
    assert meters.slots[REFUSALS_DROPPED] == 4


async def test_what_comes_again_during_a_write_is_written_again() -> None:
    """The write may fail, so it is up to the database to notice."""
    database = HeldDatabase()
    refusals, _ = make(database)
    refusals.add(keyed(1, 1))
    await eventually(lambda: database.under_way == 1)
    refusals.add(keyed(1, 1))
    database.go.set()
    await eventually(lambda: len(database.keyed) == 2)
    await refusals.stop()
