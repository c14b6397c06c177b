"""How PostgreSQL executes the ledger's statements: their plans, the order of row locks, and heap-only updates."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from support import eventually

from ixfast.domain.scan import KEYED_FROM
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.store.connections import session
from ixfast.store.connections.session import PINNED, LedgerSession
from ixfast.store.queries import load
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

BATCH = 40
STATEMENT = load("ledger")
TYPES = "(bigint[], int[], bigint[])"
WAITING = ("advance", "advance_keyed")
"""The statements that wait for row locks."""
UNPINNED_JOIN = {"enable_hashjoin": "on", "enable_nestloop": "on"}


async def fill(connection: asyncpg.Connection, rows: int) -> None:
    await connection.execute("INSERT INTO tag_counter (tag_id) SELECT generate_series(1, $1::int)", rows)
    await connection.execute("VACUUM ANALYZE tag_counter")


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database, statement_cache_size=0)
    yield connection
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def plan_of(connection: asyncpg.Connection, statement: str, tag_ids: list[int]) -> list[dict[str, Any]]:
    """The nodes of a prepared statement's plan."""
    await connection.execute(f"PREPARE explained {TYPES} AS {statement}")
    positions = [1] * len(tag_ids)
    arguments = (
        f"('{{{','.join(map(str, tag_ids))}}}', '{{{','.join(map(str, positions))}}}', '{{{','.join(map(str, tag_ids))}}}')"
    )
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE explained {arguments}")
    await connection.execute("DEALLOCATE explained")
    return list(nodes(json.loads(text)[0]["Plan"]))


def joins_of(nodes_found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The joins that lead to the counters."""
    return [node for node in nodes_found if any(scans_counters(inner) for inner in nodes(node)) and "Join Type" in node]


def scans_counters(node: dict[str, Any]) -> bool:
    return "Scan" in node["Node Type"] and node.get("Relation Name") == "tag_counter"


@pytest.mark.parametrize("rows", [0, 200, 1_000_000])
async def test_the_pinned_plan_locks_rows_in_the_order_of_their_index(
    database: str, connection: asyncpg.Connection, rows: int
) -> None:
    await fill(connection, rows)
    pinned = await session.connect(database, **PINNED)
    try:
        for batch in (1, BATCH, 200):
            tag_ids = sorted(random.Random(batch).sample(range(1, max(rows, batch) + 1), batch))
            for name in ("advance", "advance_keyed", "advance_unheld"):
                found = await plan_of(pinned, STATEMENT[name], tag_ids)
                counters = [
                    node
                    for node in found
                    if node.get("Alias", "").startswith(("c", "tag_counter")) and "Scan" in node["Node Type"]
                ]
                assert {node["Node Type"] for node in counters} == {"Index Scan"}, name
                assert {node["Index Name"] for node in counters} == {"tag_counter_pkey"}
                assert not [node for node in found if node["Node Type"] in ("Seq Scan", "Bitmap Heap Scan")]
            # One index scan finds all rows of the batch, and the join keeps the index's order, whatever order the arrays have.
            for name in WAITING:
                found = await plan_of(pinned, STATEMENT[name], tag_ids)
                (scan,) = [node for node in found if node.get("Alias") == "c" and "Scan" in node["Node Type"]]
                assert "ANY" in scan["Index Cond"]
                assert scan["Scan Direction"] == "Forward"
                assert [node["Node Type"] for node in joins_of(found)] == ["Merge Join"], name
    finally:
        await pinned.close()


async def test_an_unpinned_plan_would_read_the_whole_table(database: str, connection: asyncpg.Connection) -> None:
    """A control of the test above."""
    await fill(connection, 200)
    found = await plan_of(connection, STATEMENT["advance"], list(range(1, 201)))
    assert [node for node in found if node["Node Type"] == "Seq Scan"]


async def test_an_unpinned_join_would_follow_the_arrays(database: str, connection: asyncpg.Connection) -> None:
    """A control of the same test: on every version one statement is joined from the arrays' side, since 17 both are."""
    await fill(connection, 200)
    unpinned = await session.connect(database, **PINNED | UNPINNED_JOIN)
    following = []
    try:
        for name in WAITING:
            (join,) = joins_of(await plan_of(unpinned, STATEMENT[name], list(range(1, 41))))
            outer = join["Plans"][0]
            following += [name] if outer["Node Type"] == "Function Scan" else []
    finally:
        await unpinned.close()
    major = connection.get_server_version().major
    assert following == (list(WAITING) if major >= 17 else ["advance_keyed"])


async def advance(own: LedgerSession, tag_ids: list[int], round_: int) -> int:
    rows = await own.advance(tag_ids, [round_] * len(tag_ids), [round_ << 32 | tag_id for tag_id in tag_ids])
    return len(list(rows))


async def test_the_statements_are_planned_once(database: str, connection: asyncpg.Connection) -> None:
    await fill(connection, 200)
    own = await LedgerSession.open(database)
    try:
        for round_ in (1, 2, 3):
            assert await advance(own, [7], round_) == 1
            await own.advance_keyed([8], [round_ + 1], [KEYED_FROM | round_])
            await own.advance_unheld([9], [round_], [round_])
        # The same without a name is parsed at every execution, and the server has nothing of it between two.
        unnamed = await own.connection.prepare(STATEMENT["advance"])
        await unnamed.fetch([7], [4], [4 << 32 | 7])
        plans = await own.connection.fetch("SELECT name, generic_plans, custom_plans FROM pg_prepared_statements ORDER BY name")
    finally:
        own.terminate()
    assert [tuple(row) for row in plans] == [(name, 3, 0) for name in ("advance", "advance_keyed", "advance_unheld")]


async def heap_only_share(database: str, connection: asyncpg.Connection) -> float:
    """Random updates of 20,000 new tags' counters, three for each; returns the share that touched no index."""
    await provision(connection, KeyEncryptionKeys([KeyEncryptionKey(bytes(32))]), [VirtualFleet(1, 20_000)])
    first = await connection.fetchval("SELECT min(tag_id) FROM tag_counter")
    chance = random.Random(1)
    own = await LedgerSession.open(database)
    updated = 0
    try:
        for round_ in range(1, 121):
            updated += await advance(own, sorted(chance.sample(range(first, first + 20_000), 500)), round_)
    finally:
        await own.connection.close()  # which makes its statistics known

    async def counted() -> Any:
        row = await connection.fetchrow("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'tag_counter'")
        return row if row["n_tup_upd"] >= updated else None

    row = await eventually(counted, deadline_s=10)
    return float(row["n_tup_hot_upd"] / row["n_tup_upd"])


async def test_updates_stay_heap_only(database: str, connection: asyncpg.Connection) -> None:
    assert await heap_only_share(database, connection) >= 0.99


async def test_an_index_on_a_changing_column_would_end_that(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE INDEX ON tag_counter (last_at)")
    assert await heap_only_share(database, connection) < 0.5


async def deadlocks(statements: list[Callable[..., Awaitable[Any]]]) -> int:
    """Sixty batches of 40 of 200 hot tags, shuffled, by each of the sessions' statements at once, until the first deadlock."""
    found = 0

    async def worker(number: int) -> None:
        nonlocal found
        chance = random.Random(number)
        for round_ in range(1, 61):
            if found:
                break
            tag_ids = chance.sample(range(1, 201), BATCH)
            position = round_ * len(statements) + number
            scan_ids = [KEYED_FROM | position << 32 | tag_id for tag_id in tag_ids]
            try:
                await statements[number](tag_ids, [position] * BATCH, scan_ids)
            except asyncpg.DeadlockDetectedError:
                found += 1

    await asyncio.gather(*(worker(number) for number in range(len(statements))))
    return found


@pytest.mark.parametrize("name", WAITING)
async def test_shuffled_batches_of_hot_tags_do_not_deadlock(database: str, connection: asyncpg.Connection, name: str) -> None:
    await fill(connection, 200)
    sessions = [await LedgerSession.open(database) for _ in range(8)]
    try:
        for own in sessions:
            await own.connection.execute("SET lock_timeout = 0; SET statement_timeout = 0")
        assert await deadlocks([getattr(own, name) for own in sessions]) == 0
    finally:
        for own in sessions:
            own.terminate()
    rows = await connection.fetch("SELECT position FROM scan_log GROUP BY tag_id, position HAVING count(*) > 1")
    assert rows == []


async def control_deadlocks(database: str, statement: str, **settings: str) -> int:
    """Deadlocks of a statement that is planned with other settings."""
    sessions = [
        await session.connect(database, **PINNED | settings | {"lock_timeout": "0", "statement_timeout": "0"}) for _ in range(8)
    ]
    try:
        return await deadlocks([(await each.prepare(statement, name="control")).fetch for each in sessions])
    finally:
        for each in sessions:
            each.terminate()


async def test_an_unpinned_join_would_deadlock(database: str, connection: asyncpg.Connection) -> None:
    """A control: on every version the planner joins this statement from the arrays' side if it may."""
    await fill(connection, 200)
    assert await control_deadlocks(database, STATEMENT["advance_keyed"], **UNPINNED_JOIN) > 0


async def test_rows_locked_in_the_order_of_the_arrays_would_deadlock(database: str, connection: asyncpg.Connection) -> None:
    """A control: the statement without the ANY condition, joined from the arrays' side."""
    await fill(connection, 200)
    naive = STATEMENT["advance"].replace("AND c.tag_id = ANY ($1::bigint[])", "")
    assert naive != STATEMENT["advance"]
    assert await control_deadlocks(database, naive, enable_nestloop="on", enable_mergejoin="off") > 0
