"""Rounds of look-ups: what misses is asked for together with others, and nothing waits for a round that nobody runs."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest
from support import eventually

from ixfast import limits
from ixfast.domain.records import ApiKey, TagRecord
from ixfast.domain.scan import Scan
from ixfast.store.catalogue import lookups as module
from ixfast.store.catalogue.lookups import Failure, LookupRounds, RoundResult, Wanted
from ixfast.store.catalogue.record_loader import Unusable


class Rounds(NamedTuple):
    """Rounds of which each ends when its future does."""

    lookups: LookupRounds
    asked: list[list[bytes]]
    answers: list[asyncio.Future[None]]
    found: list[bytes]
    miss: Callable[[bytes], None]


@pytest.fixture
async def rounds(monkeypatch: pytest.MonkeyPatch) -> Rounds:
    loop = asyncio.get_running_loop()
    asked: list[list[bytes]] = []
    answers: list[asyncio.Future[None]] = []
    found: list[bytes] = []

    async def look_up(wanted: Wanted, time_left_s: float) -> RoundResult:
        asked.append(list(wanted))
        answers.append(loop.create_future())
        await answers[-1]
        return RoundResult(dict.fromkeys(wanted), {})

    lookups = LookupRounds(look_up, no_derivation, deadline_s=1.0)

    def miss(ref: bytes) -> None:
        scan = Scan(lambda _scan: None, ref, -1, None, None, 0, loop.time())
        lookups.add(scan, ref, lambda scan, _record: found.append(scan.ref))

    monkeypatch.setattr(module, "_SLOW_ROUND_S", 3600.0)
    return Rounds(lookups, asked, answers, found, miss)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_miss_at_the_moment_when_all_rounds_end_is_looked_up(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECOND_ROUND_FROM", 1)
    for ref in (b"a", b"b"):
        rounds.miss(ref)
        await asyncio.sleep(0)  # each becomes a round of its own
    # Both rounds end in the next turn of the loop, and the miss comes in the same turn, right behind them.
    for answer in rounds.answers:
        answer.set_result(None)
    asyncio.get_running_loop().call_soon(rounds.miss, b"c")
    await turns()
    assert rounds.asked[-1] == [b"c"]
    rounds.answers[-1].set_result(None)
    await turns()
    assert rounds.found == [b"a", b"b", b"c"]
    assert rounds.lookups.idle


async def test_few_wait_for_the_round_under_way_and_are_asked_for_together(rounds: Rounds) -> None:
    for ref in (b"a", b"b", b"c"):
        rounds.miss(ref)
        await turns()
    assert rounds.asked == [[b"a"]]
    rounds.answers[0].set_result(None)
    await turns()
    assert rounds.asked == [[b"a"], [b"b", b"c"]]


async def test_many_do_not_wait(rounds: Rounds) -> None:
    refs = [b"%d" % number for number in range(1 + module._SECOND_ROUND_FROM)]
    for ref in refs:
        rounds.miss(ref)
        await turns()
    assert rounds.asked == [refs[:1], refs[1:]]


async def test_nobody_waits_for_a_slow_round(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.miss(b"a")
    await turns()
    monkeypatch.setattr(module, "_SLOW_ROUND_S", -1.0)
    rounds.miss(b"b")
    await turns()
    assert rounds.asked == [[b"a"], [b"b"]]


async def test_a_look_up_that_breaks_is_no_absence() -> None:
    async def look_up(wanted: Wanted, time_left_s: float) -> RoundResult:
        raise ConnectionResetError

    (scan,) = await answered(LookupRounds(look_up, no_derivation, deadline_s=1.0), b"a")
    assert (scan.error, scan.error_detail) == ("unavailable", "connection_lost")


async def test_a_failure_of_another_accounts_tag_is_absence() -> None:
    failure = Failure("bad_record", Unusable(ValueError(), account_id=1, is_closed=True))

    async def look_up(wanted: Wanted, time_left_s: float) -> RoundResult:
        return RoundResult({}, dict.fromkeys(wanted, failure))

    rounds = LookupRounds(look_up, no_derivation, deadline_s=1.0)
    own, other = (ApiKey(account_id, account_id, "acme", frozenset(), "", None) for account_id in (1, 2))
    scans = [*await answered(rounds, b"a", own), *await answered(rounds, b"a", other), *await answered(rounds, b"a")]
    assert [(scan.error, scan.error_detail) for scan in scans] == [("unavailable", "bad_record"), (None, None), (None, None)]


async def test_scans_whose_deadline_has_passed_do_not_wait_for_their_round(rounds: Rounds) -> None:
    rounds.lookups._deadline_s = 0.1
    rounds.miss(b"a")
    rounds.miss(b"b")
    await eventually(lambda: rounds.found == [b"a", b"b"])
    assert not rounds.lookups.idle  # the database may still answer, for later scans
    rounds.answers[0].set_result(None)
    await eventually(lambda: rounds.lookups.idle)
    assert rounds.found == [b"a", b"b"]


async def test_look_ups_are_bounded(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOKUP_QUEUE_MAX", 2)
    for ref in (b"a", b"b", b"c"):
        rounds.miss(ref)
    assert rounds.found == [b"c"]
    await turns()
    rounds.answers[0].set_result(None)
    await turns()
    assert rounds.found == [b"c", b"a", b"b"]
    rounds.miss(b"d")
    assert rounds.found == [b"c", b"a", b"b"]


async def no_derivation(record: TagRecord, revision: int) -> str | None:
    raise AssertionError("no record awaits its keys")


async def answered(rounds: LookupRounds, ref: bytes, api_key: ApiKey | None = None) -> list[Scan]:
    """The scan of one look-up, once it is answered."""
    found: list[Scan] = []
    scan = Scan(lambda _scan: None, ref, -1, None, api_key, 0, asyncio.get_running_loop().time())
    rounds.add(scan, ref, lambda scan, _record: found.append(scan))
    await eventually(lambda: found)
    return found
