"""The kit for failover: what it says of its servers is so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import eventually
from support.replication import Replicated, Server, replicated

ROWS = "SELECT array_agg(n ORDER BY n) FROM marks"
SYSTEM = "SELECT (pg_control_system()).system_identifier"
TIMELINE = "SELECT (pg_control_checkpoint()).timeline_id"


@pytest.fixture
def pair(server_dir: Path) -> Iterator[Replicated]:
    with replicated(server_dir) as servers:
        yield servers


def mark(server: Server, number: int) -> None:
    server.fetchval("INSERT INTO marks VALUES ($1)", number, dsn=server.dsn)


async def ask(dsn: str, query: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def test_an_asynchronous_failover_loses_the_gap_and_the_old_primary_still_has_it(pair: Replicated) -> None:
    pair.primary.fetchval("CREATE TABLE marks (n int)", dsn=pair.primary.dsn)
    mark(pair.primary, 1)
    pair.catch_up()
    pair.hold_back()
    mark(pair.primary, 2)
    pair.kill_primary()
    new = pair.promote()
    assert asyncio.run(ask(pair.dsn, ROWS)) == [1]
    mark(new, 3)
    old = pair.start_old_primary()
    assert old.fetchval(ROWS) == [1, 2]
    mark(old, 4)
    assert asyncio.run(ask(pair.dsn, ROWS)) == [1, 3]
    assert old.fetchval(SYSTEM) == new.fetchval(SYSTEM)
    new.fetchval("CHECKPOINT")
    assert (old.fetchval(TIMELINE), new.fetchval(TIMELINE)) == (1, 2)


def test_a_standby_that_was_held_back_catches_up(pair: Replicated) -> None:
    pair.primary.fetchval("CREATE TABLE marks (n int)", dsn=pair.primary.dsn)
    pair.catch_up()
    pair.hold_back()
    mark(pair.primary, 1)
    assert pair.standbys[0].fetchval(ROWS) is None
    pair.let_go()
    assert pair.standbys[0].fetchval(ROWS) == [1]


async def test_a_synchronous_commit_waits_for_the_standby_and_survives(server_dir: Path) -> None:
    with replicated(server_dir, synchronous=True, standbys=2) as servers:
        await ask(servers.dsn, "CREATE TABLE marks (n int)")
        await ask(servers.dsn, "INSERT INTO marks VALUES (1)")
        await asyncio.to_thread(servers.hold_back)
        waiting = asyncio.create_task(ask(servers.dsn, "INSERT INTO marks VALUES (2)"))
        held = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')"
        await eventually(lambda: ask(servers.primary.superuser_dsn, held))
        assert not waiting.done()
        await asyncio.to_thread(servers.let_go)
        await waiting
        servers.kill_primary()
        new = await asyncio.to_thread(servers.promote)
        assert await ask(servers.dsn, ROWS) == [1, 2]
        await ask(servers.dsn, "INSERT INTO marks VALUES (3)")  # and the other standby follows
        assert new.fetchval("SHOW synchronous_standby_names") == "*"
        added = await asyncio.to_thread(servers.add_standby)
        assert added.fetchval(ROWS) == [1, 2, 3]
