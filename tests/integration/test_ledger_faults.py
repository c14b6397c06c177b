"""The ledger on a network that cuts connections, stalls and loses replies: no tap passes twice, no genuine tap is refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import eventually
from support.ledger_kit import ADVANCED, REPLAYED, LedgerKit, Truth, open_ledger, word
from support.tcp_proxy import TcpProxy

from ixfast import meters
from ixfast.domain.scan import Outcome, Scan
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase

TAGS = 50
MARKED = 0x5EA1_ED5C_A401
MARK = MARKED.to_bytes(6)  # as encoded in the statement


@pytest.fixture
async def proxy(postgres: Any) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def through(postgres: Any, proxy: TcpProxy, database: str) -> str:
    """The connection string of the database through the proxy."""
    return postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port)


@pytest.fixture
async def kit(through: str, database: str, truth: Truth) -> AsyncIterator[LedgerKit]:
    async with open_ledger(through, pool_dsn=database) as kit:
        yield kit


@contextlib.contextmanager
def deadline(kit: LedgerKit, seconds: float) -> Iterator[None]:
    (committer,) = kit.ledger._committers
    usual, committer._deadline_s = committer._deadline_s, seconds
    yield
    committer._deadline_s = usual


# A lost reply.


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_reply_is_resolved_as_a_pass_exactly_once(
    kit: LedgerKit, proxy: TcpProxy, truth: Truth, times: int, applied: bool
) -> None:
    fault = (proxy.lose_replies if applied else proxy.lose_requests)(MARK, times)
    assert await kit.word(1, 5, MARKED) == ADVANCED
    assert fault.hits == times == kit.meters.slots[meters.LEDGER_LOST]
    assert await truth.counter(1) == (5, 0, 1)
    assert await truth.log() == [(1, 5)]
    assert await kit.word(1, 5) == REPLAYED


async def test_a_lost_batch_keeps_every_answer(kit: LedgerKit, proxy: TcpProxy, truth: Truth) -> None:
    for tag_id in range(1, TAGS + 1, 2):
        await kit.submit(tag_id, 9)
    proxy.lose_replies(MARK, 2)
    answers = [kit.submit(tag_id, 5, MARKED if tag_id == 2 else None) for tag_id in range(1, TAGS + 1)]
    words = [word(scan) for scan in await asyncio.gather(*answers)]
    assert words == [REPLAYED, ADVANCED] * (TAGS // 2)
    assert await truth.log() == [(tag_id, 9 if tag_id % 2 else 5) for tag_id in range(1, TAGS + 1)]


async def test_a_counted_scan_is_counted_once(kit: LedgerKit, proxy: TcpProxy, truth: Truth) -> None:
    proxy.lose_replies(MARK, 2)
    answer = await kit.submit(1, scan_id=MARKED)
    assert (word(answer), answer.scan_count) == (ADVANCED, 1)
    assert await truth.counter(1) == (0, 0, 1)


async def overtaken(kit: LedgerKit, proxy: TcpProxy, truth: Truth, database: str) -> Scan:
    """A scan whose reply is lost and whose counter another worker raises before this worker reconnects."""
    fault = proxy.lose_replies(MARK, then_refuse=True)
    answer = kit.submit(1, 5, MARKED)
    await eventually(lambda: fault.hits)
    async with open_ledger(database) as other:
        assert await other.word(1, 6) == ADVANCED
    proxy.refusing = False
    scan = await answer
    assert await truth.log() == [(1, 5), (1, 6)]
    return scan


async def test_an_overtaken_scan_is_found_in_the_log(kit: LedgerKit, proxy: TcpProxy, truth: Truth, database: str) -> None:
    assert word(await overtaken(kit, proxy, truth, database)) == ADVANCED


class Forgetful(PostgresLedgerDatabase):
    """A control that finds nothing in the log."""

    async def logged(self, *_: Any) -> set[tuple[int, int]]:
        return set()


async def test_without_the_log_an_overtaken_scan_would_be_refused(
    through: str, database: str, proxy: TcpProxy, truth: Truth
) -> None:
    async with open_ledger(through, pool_dsn=database, database_kind=Forgetful) as kit:
        assert word(await overtaken(kit, proxy, truth, database)) == REPLAYED


async def test_an_overtaken_scan_that_was_never_applied_is_a_replay(kit: LedgerKit, proxy: TcpProxy, database: str) -> None:
    assert await kit.word(1, 1) == ADVANCED
    fault = proxy.lose_requests(MARK, then_refuse=True)
    answer = kit.submit(1, 5, MARKED)
    await eventually(lambda: fault.hits)
    async with open_ledger(database) as other:
        assert await other.word(1, 6) == ADVANCED
    proxy.refusing = False
    assert word(await answer) == REPLAYED


async def test_a_client_that_asks_again_gets_the_true_answer(kit: LedgerKit, proxy: TcpProxy, truth: Truth) -> None:
    fault = proxy.lose_replies(MARK, then_refuse=True)
    first = await kit.submit(1, 5, MARKED, idempotent=True)
    assert first.error == "outcome_unknown"
    assert fault.hits == 1
    proxy.refusing = False
    assert await kit.word(1, 5, MARKED, idempotent=True) == ADVANCED
    assert await kit.word(1, 5) == REPLAYED
    assert await truth.log() == [(1, 5)]


@pytest.mark.parametrize(("applied", "expected"), [(True, ADVANCED), (False, "outcome_unknown:row_held")])
async def test_a_lost_scan_whose_row_is_held(kit: LedgerKit, proxy: TcpProxy, truth: Truth, applied: bool, expected: str) -> None:
    """An applied scan is found despite the lock. One that was not applied stays unknown while the lock is held."""
    fault = (proxy.lose_replies if applied else proxy.lose_requests)(MARK, then_refuse=True)
    answer = kit.submit(1, 5, MARKED)
    await eventually(lambda: fault.hits)
    await truth.execute("BEGIN; SELECT FROM tag_counter WHERE tag_id = 1 FOR UPDATE")
    proxy.refusing = False
    assert word(await answer) == expected
    await truth.execute("ROLLBACK")


# A server that is down or does not respond.


async def test_an_unreachable_server_is_no_refusal(kit: LedgerKit, proxy: TcpProxy, truth: Truth) -> None:
    await eventually(lambda: kit.ledger.connected)
    proxy.refusing = True
    proxy.cut()
    await eventually(lambda: not kit.ledger.connected)
    with deadline(kit, 0.3):
        answers = await asyncio.gather(*(kit.submit(tag_id, 1) for tag_id in (1, 1, 1, 2)))
    assert {word(scan) for scan in answers} == {"unavailable:database_unreachable"}
    proxy.refusing = False
    assert await kit.word(1, 1) == ADVANCED


async def test_of_a_hot_tag_all_waiters_end_at_their_deadline(kit: LedgerKit, proxy: TcpProxy) -> None:
    await eventually(lambda: kit.ledger.connected)
    proxy.refusing = True
    proxy.cut()
    await eventually(lambda: not kit.ledger.connected)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with deadline(kit, 0.3):
        answers = await asyncio.gather(*(kit.submit(1, counter) for counter in range(1, 500)))
    assert {scan.error for scan in answers} == {"unavailable"}
    assert loop.time() - started < 2.0
    assert kit.ledger.idle


async def test_a_stalled_server_leaves_the_outcome_unknown_and_the_ledger_goes_on(
    kit: LedgerKit, proxy: TcpProxy, truth: Truth
) -> None:
    assert await kit.word(1, 1) == ADVANCED
    proxy.stall()
    loop = asyncio.get_running_loop()
    started = loop.time()
    with deadline(kit, 0.4):
        sent = kit.submit(1, 2)
        await eventually(lambda: kit.ledger._committers[0]._sent)
        waiting = kit.submit(2, 1)
        assert word(await sent) == "outcome_unknown:deadline"
        assert (await waiting).error in ("outcome_unknown", "unavailable", "overloaded")
    assert loop.time() - started < 2.0
    proxy.flow()
    assert await kit.word(3, 1) == ADVANCED
    assert await kit.word(1, 3) == ADVANCED


@pytest.mark.parametrize("end", ["flow", "cut"])
async def test_durable_state_that_cannot_be_read_is_no_refusal(
    through: str, database: str, proxy: TcpProxy, truth: Truth, end: str
) -> None:
    """Reads go through the stalled proxy, commits bypass it."""
    async with open_ledger(database, pool_dsn=through, deadline_s=1.0) as kit:
        assert await kit.word(1, 5) == ADVANCED
        assert await kit.word(1, 5) == REPLAYED
        proxy.stall()
        loop = asyncio.get_running_loop()
        for counter in (5, 4):  # more than once: a read that hangs must not stop the next ones
            started = loop.time()
            assert (await kit.submit(1, counter)).error == "unavailable"
            assert loop.time() - started < 2.5
        assert await kit.word(1, 6) == ADVANCED
        getattr(proxy, end)()
        proxy.flow()

        async def refused() -> bool:
            return await kit.word(1, 6) == REPLAYED

        await eventually(refused)


async def test_refusals_wait_for_nobody(through: str, database: str, proxy: TcpProxy, truth: Truth) -> None:
    async with open_ledger(database, pool_dsn=through, deadline_s=1.0) as kit:
        proxy.stall()
        kit.refuse(1, 5)
        await eventually(lambda: kit.meters.slots[meters.REFUSALS_DROPPED] == 1)
        assert await kit.word(1, 5) == ADVANCED


async def test_a_server_that_cuts_all_the_time_costs_no_tap(kit: LedgerKit, proxy: TcpProxy, truth: Truth) -> None:
    """Connections break at random while taps continue; the answers match what the database holds."""
    passes: set[tuple[int, int]] = set()
    unknown: set[tuple[int, int]] = set()

    async def customer(tag_id: int) -> None:
        for counter in range(1, 31):
            scan = await kit.submit(tag_id, counter)
            if scan.outcome is Outcome.ADVANCED:
                passes.add((tag_id, counter))
            else:
                assert scan.error is not None, "a fresh tap was refused"
                unknown.add((tag_id, counter))

    async def vandal() -> None:
        moments = random.Random(424)
        while True:
            await eventually(lambda: kit.ledger.connected)
            await asyncio.sleep(moments.uniform(0, 0.008))
            proxy.cut()

    vandalism = asyncio.create_task(vandal())
    await asyncio.gather(*(customer(tag_id) for tag_id in range(1, TAGS + 1)))
    vandalism.cancel()
    logged = await truth.log()
    assert len(set(logged)) == len(logged)
    assert passes <= set(logged) <= passes | unknown
    assert kit.meters.slots[meters.LEDGER_LOST] > 0
