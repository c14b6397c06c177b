"""First answers under an Idempotency-Key: found by an index at any size of the log, and the same again and again."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
from support.ledger_kit import ADVANCED, REPLAYED, LedgerKit, Truth, open_ledger, word

from ixfast.domain.scan import KEYED_FROM
from ixfast.store.connections import session
from ixfast.store.connections.session import PINNED
from ixfast.store.partitions import KEYED_SCAN, SCAN_LOG
from ixfast.store.queries import load

TAGS = 300
FEW, MANY = 2_000, 500_000
STATEMENT = load("ledger")
CONFLICT = "idempotency_conflict:None"
SEARCHED = """
SELECT scan_id FROM scan_log WHERE scan_id = ANY ($1::bigint[]) AND at > now() - interval '10 minutes'
"""
"""The control: how a log without a table of first answers has to be asked."""


# What a look-up costs.


async def fill(connection: asyncpg.Connection, rows: int) -> None:
    """Passes of the last ten minutes, of which each has a key."""
    at = "greatest(now() - interval '10 minutes' * random(), date_trunc('day', now()))"  # the day before has no partition
    series = "generate_series(1, $1::int) AS n"
    await connection.execute(f"INSERT INTO scan_log SELECT {at}, {KEYED_FROM} + n, n % 1000, n, 'g' FROM {series}", rows)
    await connection.execute(f"INSERT INTO keyed_scan SELECT {at}, {KEYED_FROM} + n, n % 1000, n, n - 1, n FROM {series}", rows)
    today = dt.datetime.now(dt.UTC).date()
    await connection.execute(f"ANALYZE {SCAN_LOG.name(today)}, {KEYED_SCAN.name(today)}, tag_counter")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def executed(connection: Any, types: str, statement: str, *arrays: list[int]) -> tuple[int, list[dict[str, Any]]]:
    """How many pages a prepared statement touches, and its plan's nodes; nothing of it stays."""
    given = ", ".join(f"'{{{','.join(map(str, array))}}}'" for array in arrays)
    await connection.execute(f"PREPARE explained {types} AS {statement}")
    try:
        for _ in range(2):  # the first reads what the session did not know of the tables
            transaction = connection.transaction()
            await transaction.start()
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({given})")
            await transaction.rollback()
    finally:
        await connection.execute("DEALLOCATE explained")
    plan = json.loads(text)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], list(nodes(plan))


async def costs(dsn: str) -> dict[str, int]:
    """Pages by statement, each for 20 keys that were never used; an index leads to all of it."""
    pool = await session.make_pool(dsn, 1)
    pinned = await session.connect(dsn, **PINNED)
    fresh = [KEYED_FROM + (1 << 40) + n for n in range(20)]
    tags, positions = list(range(1, 21)), [1] * 20
    found = {}
    try:
        async with pool.acquire() as connection:
            found["keyed"], plan = await executed(connection, "(bigint[])", STATEMENT["keyed"], fresh)
            assert_by_index(plan)
            found["searched"], _ = await executed(connection, "(bigint[])", SEARCHED, fresh)
        for name in ("advance_keyed", "advance_unheld"):
            found[name], plan = await executed(pinned, "(bigint[], int[], bigint[])", STATEMENT[name], tags, positions, fresh)
            assert_by_index(plan)
    finally:
        pinned.terminate()
        pool.terminate()
    return found


def assert_by_index(plan: list[dict[str, Any]]) -> None:
    tables = [node for node in plan if node.get("Relation Name", "").startswith("keyed_scan") and "Scan" in node["Node Type"]]
    assert tables
    assert {node["Node Type"] for node in tables} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    assert "Seq Scan" not in {node["Node Type"] for node in plan}


async def test_a_look_up_costs_the_same_however_long_the_log_is(database: str, truth: Truth) -> None:
    await fill(truth.connection, FEW)
    few = await costs(database)
    await fill(truth.connection, MANY)
    many = await costs(database)
    for name in ("keyed", "advance_keyed", "advance_unheld"):
        # An index of 500,000 rows is a level deeper than one of 2,000; a page more for each key.
        assert many[name] <= few[name] + 3 * 20, (few, many)
    assert many["searched"] > 20 * few["searched"], "the control"


# What is answered.


async def test_the_first_answer_is_given_in_full_after_later_taps(kit: LedgerKit, database: str) -> None:
    assert await kit.word(1, 3) == ADVANCED
    first = await kit.submit(1, 7, 77, idempotent=True)
    assert (word(first), first.previous_position, first.scan_count) == (ADVANCED, 3, 2)
    assert first.extras is not None and first.extras.first_at is None
    for later in (8, 12):
        assert await kit.word(1, later) == ADVANCED
    async with open_ledger(database) as restarted:
        for again in await asyncio.gather(*(k.submit(1, 7, 77, idempotent=True) for k in (kit, restarted))):
            assert (word(again), again.previous_position, again.scan_count) == (ADVANCED, 3, 2)
            assert again.extras is not None and again.extras.first_at is not None


async def test_a_key_that_was_used_consumes_no_other_tap(kit: LedgerKit, database: str, truth: Truth) -> None:
    assert await kit.word(1, 5, 77, idempotent=True) == ADVANCED
    async with open_ledger(database) as other:
        for asked in (kit, other):
            assert await asked.word(1, 6, 77, idempotent=True) == CONFLICT  # a fresh tap of the same tag
            assert await asked.word(2, 1, 77, idempotent=True) == CONFLICT  # and of another
            assert await asked.word(1, 4, 77, idempotent=True) == CONFLICT  # and one that was overtaken
    assert await truth.log() == [(1, 5)]
    assert await kit.word(1, 6) == await kit.word(2, 1) == ADVANCED


async def test_a_refused_tap_is_not_remembered(kit: LedgerKit) -> None:
    assert await kit.word(1, 5) == ADVANCED
    assert await kit.word(1, 5, 77, idempotent=True) == REPLAYED
    assert await kit.word(1, 6, 77, idempotent=True) == ADVANCED


async def test_many_workers_with_one_key_give_one_answer(database: str, truth: Truth) -> None:
    async with open_ledger(database) as one, open_ledger(database) as two:
        for counter in range(1, 30):
            kits = [one, two] * 5
            answers = await asyncio.gather(*(kit.submit(1, counter, counter, idempotent=True) for kit in kits))
            assert {word(scan) for scan in answers} == {ADVANCED}
            assert {(scan.previous_position, scan.scan_count) for scan in answers} == {(counter - 1, counter)}
    assert await truth.log() == [(1, counter) for counter in range(1, 30)]
