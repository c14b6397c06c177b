"""Rounds of look-ups: what misses is asked for together with others, and nothing waits for a round that nobody runs."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ixfast.domain.records import TagRecord
from ixfast.domain.scan import Scan
from ixfast.store.catalogue import lookups as module
from ixfast.store.catalogue.lookups import LookupRounds, RoundResult, Wanted


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

    async def derive_keys(record: TagRecord, revision: int) -> str | None:
        raise AssertionError("no record awaits its keys")

    lookups = LookupRounds(look_up, derive_keys, deadline_s=1.0)

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
