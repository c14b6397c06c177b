"""The committer, with a database whose statements take no time or are cut short: what it sends, and to whom it answers."""

import asyncio
from typing import Any

import asyncpg
from support.ledger_kit import tag_record

from ixfast import limits, meters
from ixfast.domain.scan import Scan
from ixfast.store.ledger.committer import Committer

SCANS = limits.LEDGER_RATE_ROWS_MIN


class Quick:
    """A session whose database answers before the loop's clock moves on."""

    closed = False

    async def advance(self, tag_ids: list[int], *_: Any) -> list[tuple[int, int, int]]:
        return [(tag_id, 0, 1) for tag_id in tag_ids]

    def terminate(self) -> None:
        self.closed = True


class Passed:
    """Counts the scans that passed; nothing else is to happen."""

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self.all = asyncio.get_running_loop().create_future()

    def known_replay(self, scan: Scan) -> bool:
        return False

    def passed(self, scan: Scan) -> None:
        self.scans.append(scan)
        if len(self.scans) == SCANS:
            self.all.set_result(None)

    def failed(self, scan: Scan, code: str, reason: str) -> None:
        if not self.all.done():
            self.all.set_exception(AssertionError(f"{code} {reason}"))


async def test_a_statement_that_takes_no_time_passes_all_its_scans() -> None:
    """64 scans committed within a millisecond of the loop's clock were answered `outcome_unknown`: the rate was divided by 0."""
    loop = asyncio.get_running_loop()
    resolver: Any = Passed()

    async def open_session() -> Any:
        return Quick()

    committer = Committer(open_session, resolver, meters.Meters(), batch_max=1000, queue_max=1000, deadline_s=5.0, wait_max_s=0.1)
    committer.start()
    for tag_id in range(1, SCANS + 1):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, loop.time())
        scan.record = tag_record(tag_id)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    await asyncio.wait_for(resolver.all, 5)
    await committer.stop()
    assert [scan.tag_id for scan in resolver.scans] == list(range(1, SCANS + 1))


class Clock:
    """A loop of which only the clock is wanted."""

    now = 100.0

    def time(self) -> float:
        return self.now


def committer_at(clock: Any, resolver: Any = None, **options: Any) -> Committer:
    """A committer that is not started, by a clock that the test turns."""

    async def open_session() -> Any:
        raise AssertionError("nothing is sent")

    sizes = {"batch_max": 1024, "queue_max": 20_000, "deadline_s": 1.5, "wait_max_s": 0.1, **options}
    committer = Committer(open_session, resolver, meters.Meters(), **sizes)
    committer._loop = clock
    return committer


class Refused:
    """Notes why scans ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def failed(self, scan: Scan, code: str, reason: str) -> None:
        self.reasons.append(f"{scan.tag_id} {code}:{reason}")


class CutShort(Quick):
    """A session whose statements take a second and are then ended by the server."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.unheld: list[int] = []

    async def advance(self, tag_ids: list[int], *_: Any) -> list[tuple[int, int, int]]:
        self.clock.now += limits.STATEMENT_TIMEOUT_MS / 1000
        raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    async def advance_unheld(self, tag_ids: list[int], *_: Any) -> list[tuple[int, int, int, bool]]:
        self.unheld += tag_ids
        return []


async def test_a_statement_that_was_cut_short_teaches_and_is_not_sent_again_for_nothing() -> None:
    """It was sent again, as large and in a dearer form, until nobody waited any more, and the next ones were as large."""
    clock, resolver = Clock(), Refused()
    session = CutShort(clock)
    committer = committer_at(clock, resolver)
    committer._session = session  # type: ignore[assignment]
    committer._note_statement(1000, 0.02)
    for tag_id in range(SCANS):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, clock.now)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    batch = committer._take()
    await committer._attempt(batch)
    assert committer._capacity < 1000
    assert (batch, session.unheld) == ({}, [])
    assert sorted(resolver.reasons) == sorted(f"{tag_id} overloaded:deadline" for tag_id in range(SCANS))


async def test_of_a_statement_that_was_cut_short_those_who_have_time_are_sent_again() -> None:
    clock, resolver = Clock(), Refused()
    session = CutShort(clock)
    committer = committer_at(clock, resolver, deadline_s=5.0)
    committer._session = session  # type: ignore[assignment]
    scan = Scan(lambda _: None, b"x", -1, None, None, 1, clock.now)
    scan.tag_id, scan.position = 1, 1
    committer.submit(scan)
    batch = committer._take()
    await committer._attempt(batch)
    assert session.unheld == [1]
    assert (list(committer._waiting), resolver.reasons) == ([1], [])  # its row was held, as far as is known


async def test_what_cannot_be_answered_in_time_is_not_sent() -> None:
    clock, resolver = Clock(), Refused()
    committer = committer_at(clock, resolver)
    committer._note_statement(100, 0.5)
    committer._session = Quick()  # type: ignore[assignment]
    for tag_id, age_s in ((1, 1.2), (2, 0.9), (3, 0.0)):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, clock.now - age_s)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    assert list(committer._take()) == [2, 3]
    assert resolver.reasons == ["1 overloaded:deadline"]
