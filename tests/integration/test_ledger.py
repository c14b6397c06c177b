"""The ledger's outcomes: one contract for PostgreSQL and for memory, then the cases that need a real database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from support import eventually
from support.ledger_kit import ADVANCED, REPEATED, REPLAYED, LedgerKit, Truth, open_ledger, word

from ixfast import limits, meters
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Outcome, position
from ixfast.store.connections.session import LedgerSession
from ixfast.testing.memory import MemoryLedger

TAGS = 60


def memory_kit(retry_window_s: int = 0) -> LedgerKit:
    kit = LedgerKit(retry_window_s=retry_window_s)
    kit.ledger = MemoryLedger(kit.settled)
    for tag_id in range(1, TAGS + 1):
        kit.ledger.add(kit.record(tag_id))
    return kit


@pytest.fixture(params=["postgres", "memory"])
def either(request: pytest.FixtureRequest) -> LedgerKit:
    return memory_kit() if request.param == "memory" else request.getfixturevalue("kit")


# The contract.


async def test_a_tap_passes_once_and_gaps_are_normal(either: LedgerKit) -> None:
    first = await either.submit(1, 5)
    assert (word(first), first.scan_count, first.previous_position) == (ADVANCED, 1, 0)
    assert [await either.word(1, counter) for counter in (5, 4, 1)] == [REPLAYED] * 3
    later = await either.submit(1, 0x1FFFFFF)
    assert (word(later), later.scan_count, later.previous_position) == (ADVANCED, 2, 5)
    assert await either.word(2, 1) == ADVANCED
    assert either.record(1).floor == 0x1FFFFFF


async def test_a_newer_key_version_beats_every_older_counter(either: LedgerKit) -> None:
    assert await either.word(1, position(1, 0xFFFFFF)) == ADVANCED
    assert await either.word(1, position(2, 1)) == ADVANCED
    assert await either.word(1, position(1, 0xFFFFFF)) == REPLAYED
    assert await either.word(1, position(127, 0xFFFFFF)) == ADVANCED
    assert await either.word(1, position(126, 0xFFFFFF)) == REPLAYED


async def test_a_scan_without_a_counter_is_counted(either: LedgerKit) -> None:
    assert [(await either.submit(1)).scan_count for _ in range(3)] == [1, 2, 3]
    counted = await either.submit(1, 9)
    assert (word(counted), counted.scan_count) == (ADVANCED, 4)
    assert (await either.submit(1)).scan_count == 5
    assert await either.word(1, 9) == REPLAYED


async def test_of_scans_of_one_tag_at_once_none_is_lost(either: LedgerKit) -> None:
    taps = [5, 5, 7, 6, 7, 9]
    answers = await asyncio.gather(*(either.submit(1, tap) for tap in taps))
    assert list(map(word, answers)) == [ADVANCED, REPLAYED, ADVANCED, REPLAYED, REPLAYED, ADVANCED]
    counts = [scan.scan_count for scan in answers if scan.outcome is Outcome.ADVANCED]
    assert counts == [1, 2, 3]
    plain = await asyncio.gather(*(either.submit(2) for _ in range(20)))
    assert [scan.scan_count for scan in plain] == list(range(1, 21))


async def test_an_idempotent_retry_gets_the_true_answer(either: LedgerKit) -> None:
    assert await either.word(1, 5, 77, idempotent=True) == ADVANCED
    assert await either.word(1, 5, 77, idempotent=True) == ADVANCED
    assert await either.word(1, 8) == ADVANCED
    assert await either.word(1, 5, 77, idempotent=True) == ADVANCED  # overtaken: found in the scan log
    assert await either.word(1, 5, 78, idempotent=True) == REPLAYED
    for tap in (6, 9):  # the key of another tap: neither a used nor a new one
        assert await either.word(1, tap, 77, idempotent=True) == "idempotency_conflict:None"
    assert await either.word(2, 5, 77, idempotent=True) == "idempotency_conflict:None"
    assert [(await either.submit(2, scan_id=79, idempotent=True)).scan_count for _ in range(2)] == [1, 1]


async def test_a_peek_consumes_nothing(either: LedgerKit) -> None:
    await either.submit(1, 5)

    async def peek(tap: int) -> tuple[str, int, int]:
        scan = await either.submit(1, tap, peek=True)
        return word(scan), scan.scan_count, scan.previous_position

    assert await peek(6) == await peek(6) == (ADVANCED, 2, 5)
    assert await peek(-1) == (ADVANCED, 2, 5)
    assert (await peek(5))[0] == (await peek(4))[0] == REPLAYED
    assert await either.word(1, 6) == ADVANCED


async def test_a_missing_counter_row_is_no_replay(either: LedgerKit, caplog: pytest.LogCaptureFixture) -> None:
    assert await either.word(TAGS + 1, 5) == "unavailable:counter_missing"


@pytest.mark.parametrize("kind", ["postgres", "memory"])
async def test_inside_the_retry_window_the_newest_tap_is_a_repeat(kind: str, database: str, truth: Truth) -> None:
    async with contextlib.AsyncExitStack() as exits:
        either = (
            await exits.enter_async_context(open_ledger(database, retry_window_s=60)) if kind == "postgres" else memory_kit(60)
        )
        assert [await either.word(1, tap) for tap in (4, 5, 5, 4, 5)] == [ADVANCED, ADVANCED, REPEATED, REPLAYED, REPEATED]
        answers = await asyncio.gather(either.submit(2, 1), either.submit(2, 1))
        assert list(map(word, answers)) == [ADVANCED, REPEATED]
        if kind == "postgres":
            await truth.execute("UPDATE tag_counter SET last_at = last_at - interval '61 s'")
        else:
            clock = either.ledger._clock
            either.ledger._clock = lambda: clock() + 61
        assert await either.word(1, 5) == REPLAYED


# Batches and the log.


async def test_every_pass_has_exactly_one_log_row(kit: LedgerKit, truth: Truth) -> None:
    taps = [(tag_id, counter) for counter in (3, 1, 3, 8) for tag_id in range(1, TAGS + 1)]
    answers = await asyncio.gather(*(kit.submit(*tap) for tap in taps))
    passes = sorted((scan.tag_id, scan.position) for scan in answers if scan.outcome is Outcome.ADVANCED)
    assert passes == sorted((tag_id, counter) for counter in (3, 8) for tag_id in range(1, TAGS + 1))
    await kit.submit(1)
    assert await truth.log() == sorted([*passes, (1, None)], key=lambda row: (row[0], row[1] or 9))
    assert await truth.counter(1) == (8, 8, 3)
    assert kit.meters.slots[meters.LEDGER_BATCHES] <= 5  # one for each layer of equal tags, not one for each scan


async def test_a_large_queue_leaves_in_batches_of_the_largest_size(database: str, truth: Truth) -> None:
    async with open_ledger(database, batch_max=16) as kit:
        answers = await asyncio.gather(*(kit.submit(tag_id, 1) for tag_id in range(1, TAGS + 1)))
        assert {word(scan) for scan in answers} == {ADVANCED}
        assert kit.meters.slots[meters.LEDGER_BATCHES] == 4


async def test_one_bad_value_fails_alone(kit: LedgerKit, truth: Truth) -> None:
    await truth.execute("ALTER TABLE tag_counter ADD CHECK (last_position <> 13)")
    answers = [kit.submit(tag_id, 13 if tag_id in (7, 8, 40) else 1) for tag_id in range(1, TAGS + 1)]
    answers.append(kit.submit(TAGS, 1 << 31))  # the driver cannot encode it
    words = [word(scan) for scan in await asyncio.gather(*answers)]
    bad = {tag_id for tag_id, answer in enumerate(words, start=1) if answer == "unavailable:bad_value"}
    assert bad == {7, 8, 40, TAGS + 1}
    assert words.count(ADVANCED) == TAGS - 3
    assert await kit.word(7, 14) == ADVANCED


async def test_a_full_queue_ends_a_scan_at_once(database: str, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TAG_WAITERS_MAX", 2)
    async with open_ledger(database, queue_max=5) as kit:
        answers = [kit.submit(tag_id, counter) for counter in (1, 2, 3, 4) for tag_id in (1, 2)]
        assert [word(answer.result()) for answer in answers if answer.done()] == [
            "overloaded:ledger_queue_full",
            "overloaded:ledger_queue_full",
            "overloaded:ledger_queue_full",
        ]
        await asyncio.gather(*answers)
        answers = [kit.submit(1, counter) for counter in (11, 12, 13, 14)]
        assert word(answers[3].result()) == "overloaded:tag_queue_full"
        assert {word(scan) for scan in await asyncio.gather(*answers[:3])} == {ADVANCED}


@pytest.mark.parametrize(("wait_max_s", "waiting"), [(1e-6, 10), (60.0, TAGS)])
async def test_no_more_wait_than_are_committed_in_time(
    database: str, truth: Truth, monkeypatch: pytest.MonkeyPatch, wait_max_s: float, waiting: int
) -> None:
    monkeypatch.setattr(limits, "LEDGER_CAPACITY_MIN", 10)
    monkeypatch.setattr(limits, "LEDGER_RATE_ROWS_MIN", TAGS)
    async with open_ledger(database, wait_max_s=wait_max_s) as kit:
        tags = range(1, TAGS + 1)
        first = await asyncio.gather(*(kit.submit(tag_id, 1) for tag_id in tags))
        assert {word(scan) for scan in first} == {ADVANCED}  # the rate has not been measured yet
        second = [kit.submit(tag_id, 2) for tag_id in tags]
        assert [answer.done() for answer in second] == [n >= waiting for n in range(TAGS)]
        assert {word(answer.result()) for answer in second[waiting:]} <= {"overloaded:ledger_queue_full"}
        assert {word(scan) for scan in await asyncio.gather(*second[:waiting])} == {ADVANCED}
        assert await kit.word(TAGS, 3) == ADVANCED


async def test_refusals_are_logged_beside_the_path_and_within_a_bound(
    kit: LedgerKit, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REFUSAL_QUEUE_ROWS_MAX", 3)
    for tag_id, verdict in enumerate((Verdict.FORGED, Verdict.REPLAYED, Verdict.INACTIVE, Verdict.FORGED), start=1):
        kit.refuse(tag_id, 9, verdict)
    assert kit.meters.slots[meters.REFUSALS_DROPPED] == 1

    async def logged() -> bool:
        return await truth.log("frix") == [(1, 9), (2, 9), (3, 9)]

    await eventually(logged)
    assert kit.meters.slots[meters.LEDGER_BATCHES] == 0  # no commit of a ledger statement
    assert await truth.counter(1) == (0, 0, 0)


async def test_refusals_that_cannot_be_logged_are_counted(kit: LedgerKit, truth: Truth) -> None:
    await truth.execute("ALTER TABLE scan_log ADD CHECK (verdict <> 'f')")
    kit.refuse(1, 9)
    await eventually(lambda: kit.meters.slots[meters.REFUSALS_DROPPED] == 1)
    assert await kit.word(1, 1) == ADVANCED


async def test_the_last_refusals_are_logged_when_the_ledger_stops(database: str, truth: Truth) -> None:
    async with open_ledger(database) as kit:
        kit.refuse(1, 9)
    assert await truth.log("f") == [(1, 9)]


# A row that another transaction has locked.


@contextlib.asynccontextmanager
async def held(database: str, tag_id: int) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("BEGIN")
        await connection.execute(f"SELECT FROM tag_counter WHERE tag_id = {tag_id} FOR UPDATE")
        yield connection
    finally:
        connection.terminate()


async def test_a_held_row_holds_up_nobody_else(database: str, kit: LedgerKit, truth: Truth) -> None:
    loop = asyncio.get_running_loop()
    async with held(database, 7):
        started = loop.time()
        answers = [kit.submit(tag_id, 5) for tag_id in range(1, TAGS + 1)]
        followers = [kit.submit(7, 6), kit.submit(7, 5)]
        others = await asyncio.gather(*(answer for tag_id, answer in enumerate(answers, start=1) if tag_id != 7))
        assert {word(scan) for scan in others} == {ADVANCED}
        assert kit.meters.slots[meters.LEDGER_HELD] == 1  # they waited for one lock timeout
        assert word(await answers[6]) == "unavailable:row_held"
        assert loop.time() - started < 1.5
        assert {scan.outcome for scan in await asyncio.gather(*followers)} == {Outcome.UNDECIDED}
    assert await kit.word(7, 9) == ADVANCED
    assert (7, 5) not in await truth.log()  # what was answered `row_held` was not consumed
    assert kit.meters.slots[meters.LEDGER_HELD] >= 3


async def test_a_row_released_in_time_passes_in_the_order_of_arrival(database: str, kit: LedgerKit, truth: Truth) -> None:
    async with held(database, 7) as holder:
        answers = [kit.submit(7, 5), kit.submit(7, 5), kit.submit(7, 6)]
        other = kit.submit(8, 5)
        assert word(await other) == ADVANCED
        await holder.execute("COMMIT")
        assert [word(scan) for scan in await asyncio.gather(*answers)] == [ADVANCED, REPLAYED, ADVANCED]
    assert await truth.counter(7) == (6, 5, 2)
    assert await truth.log() == [(7, 5), (7, 6), (8, 5)]


async def test_a_holder_that_raises_the_counter_is_respected(database: str, kit: LedgerKit, truth: Truth) -> None:
    async with held(database, 7) as holder:
        await holder.execute("UPDATE tag_counter SET last_position = 100, last_scan_id = 1 WHERE tag_id = 7")
        answers = [kit.submit(7, 5), kit.submit(8, 5)]
        assert word(await answers[1]) == ADVANCED
        await holder.execute("COMMIT")
        assert word(await answers[0]) == REPLAYED
    assert await truth.counter(7) == (100, 0, 0)


# The server's settings.


async def test_a_connection_that_became_read_only_is_left(kit: LedgerKit) -> None:
    assert await kit.word(1, 1) == ADVANCED
    own = kit.ledger._committers[0]._session
    await own.connection.execute("SET default_transaction_read_only = on")
    assert await kit.word(1, 2) == ADVANCED
    assert own.connection.is_closed()


async def test_a_read_only_primary_is_no_refusal(database: str, truth: Truth) -> None:
    name = await truth.connection.fetchval("SELECT current_database()")
    await truth.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with open_ledger(database, deadline_s=1.0) as kit:
        assert await kit.word(1, 1) == "unavailable:database_read_only"
        await truth.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        assert await kit.word(1, 1) == ADVANCED


async def test_a_missing_table_is_no_refusal(kit: LedgerKit, truth: Truth) -> None:
    assert await kit.word(1, 1) == ADVANCED
    await truth.execute("ALTER TABLE tag_counter RENAME TO elsewhere")
    assert await kit.word(1, 2) == "unavailable:schema_mismatch"
    await truth.execute("ALTER TABLE elsewhere RENAME TO tag_counter")
    assert await kit.word(1, 2) == ADVANCED


@pytest.mark.parametrize(("configured", "used"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
async def test_a_session_waits_for_the_disk(database: str, truth: Truth, configured: str, used: str) -> None:
    name = await truth.connection.fetchval("SELECT current_database()")
    await truth.execute(f"ALTER DATABASE {name} SET synchronous_commit = {configured}")
    own = await LedgerSession.open(database)
    try:
        assert await own.connection.fetchval("SHOW synchronous_commit") == used
    finally:
        own.terminate()


async def test_a_stopped_ledger_answers_what_it_holds(database: str, truth: Truth) -> None:
    async with held(database, 7):
        async with open_ledger(database) as kit:
            sent = kit.submit(7, 1)
            await eventually(lambda: kit.ledger._committers[0]._sent)
            waiting = [kit.submit(7, 2), kit.submit(7, 3), kit.submit(8, 1)]
        assert word(sent.result()).startswith("outcome_unknown:")  # it may have been committed
        assert {word(answer.result()) for answer in waiting} == {"draining:stopped"}
    async with open_ledger(database) as kit:
        assert await kit.word(1, 1) == ADVANCED
        refused = kit.submit(1, 1)
        await eventually(lambda: not kit.ledger._reader.idle)
    assert word(refused.result()) in (REPLAYED, "draining:stopped")


async def test_a_connection_that_broke_while_idle_leaves_nothing_unknown(kit: LedgerKit, truth: Truth) -> None:
    assert await kit.word(1, 1) == ADVANCED
    own = kit.ledger._committers[0]._session
    await truth.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ixfast'")
    await eventually(lambda: own.closed)
    assert await kit.word(1, 2) == ADVANCED
    assert kit.meters.slots[meters.LEDGER_LOST] == 0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever the database does is logged as a warning or error without a traceback: no exception of ixfast's own."""
    yield
    assert [record for record in caplog.records if record.exc_info] == []
