"""What a committer learns of its database."""

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


async def test_the_room_follows_a_database_that_became_slow_within_a_second() -> None:
    """5,000 scans waited for a database that commits 1,000 a second: with a decay of 5 % a statement it took ten seconds."""
    committer = committer_at(Clock())
    for _ in range(10):
        committer._learn_rate(1000, 0.02)
    assert committer._room == 5000
    spent_s = 0.0
    while spent_s < 1.0:
        committer._learn_rate(250, 0.25)
        spent_s += 0.25
    assert committer._room <= limits.LEDGER_ROOM_MIN
    committer._learn_rate(256, 0.00512)  # it is quick again
    assert committer._room == 5000


async def test_the_room_stays_when_one_statement_is_held_up() -> None:
    committer = committer_at(Clock())
    committer._learn_rate(1000, 0.02)
    committer._learn_rate(1000, 0.1)
    assert committer._room > 2000
    committer._learn_rate(1000, 0.02)
    assert committer._room == 5000


async def test_a_very_slow_database_has_room_for_what_it_answers_in_time() -> None:
    committer = committer_at(Clock())
    for _ in range(50):
        committer._learn_rate(100, 1.0)  # 100 scans a second
    assert committer._room == limits.LEDGER_RATE_ROWS_MIN  # so that the next statement teaches, too
    for _ in range(50):
        committer._learn_rate(100, 0.2)
    assert committer._room == int(1.5 * limits.LEDGER_ROOM_SHARE / 0.002)


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
    committer._learn_rate(1000, 0.02)
    for tag_id in range(SCANS):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, clock.now)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    batch = committer._take()
    await committer._attempt(batch)
    assert committer._room < 1000
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


async def test_a_worker_that_is_late_itself_does_not_take_the_database_for_slow() -> None:
    committer = committer_at(Clock())
    committer._learn_rate(1000, 0.02)
    for _ in range(20):
        committer._lag_s = 0.3  # so late was the worker with its timers
        committer._learn_rate(200, 0.304)
    assert committer._room > 4900


async def test_what_cannot_be_answered_in_time_is_not_sent() -> None:
    clock, resolver = Clock(), Refused()
    committer = committer_at(clock, resolver)
    committer._learn_rate(100, 0.5)
    committer._session = Quick()  # type: ignore[assignment]
    for tag_id, age_s in ((1, 1.2), (2, 0.9), (3, 0.0)):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, clock.now - age_s)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    assert list(committer._take()) == [2, 3]
    assert resolver.reasons == ["1 overloaded:deadline"]
