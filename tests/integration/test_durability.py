"""Acknowledged commits are on disk, whatever the server's configuration says: sessions fix their own `synchronous_commit`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.ledger_kit import ADVANCED, open_ledger, open_truth
from support.replication import Replicated, Server, replicated

from ixfast.cli.database import connected
from ixfast.store.connections import session
from ixfast.store.connections.session import LedgerSession
from ixfast.store.migrate import migrate

TAGS = 400
SHOW = "SHOW synchronous_commit"
LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s"}  # WAL that nobody waits for stays unwritten for a long time


@pytest.fixture
def alone(server_dir: Path) -> Iterator[Replicated]:
    with replicated(server_dir, standbys=0) as servers:
        yield servers


@pytest.fixture
async def server(alone: Replicated) -> Server:
    await migrate(alone.primary.dsn)
    async with open_truth(alone.primary.dsn, TAGS):
        return alone.primary


async def test_a_reload_reaches_no_session(server: Server) -> None:
    """Neither open sessions nor those opened afterwards, inside a transaction or not."""
    ledger = await LedgerSession.open(server.dsn)
    pool = await session.make_pool(server.dsn, 2)
    single = await session.connect(server.dsn)
    pooled_connection = await pool.acquire()

    async def levels() -> set[str]:
        async with pooled_connection.transaction(), connected(server.dsn) as command, command.transaction():
            shown = {await connection.fetchval(SHOW) for connection in (ledger.connection, single, pooled_connection, command)}
        async with pool.acquire() as other:
            shown.add(await other.fetchval(SHOW))
        again = await LedgerSession.open(server.dsn)
        shown.add(await again.connection.fetchval(SHOW))
        again.terminate()
        return shown

    try:
        assert await levels() == {"on"}
        for level in ("off", "local", "remote_write"):
            await asyncio.to_thread(server.configure, synchronous_commit=level)
            assert await levels() == {"on"}, level
        await asyncio.to_thread(server.fetchval, "ALTER ROLE ixfast SET synchronous_commit = off")
        assert await levels() == {"on"}
    finally:
        ledger.terminate()
        single.terminate()
        pool.terminate()


async def test_a_level_above_on_is_the_operators_and_stays(server: Server) -> None:
    await asyncio.to_thread(server.configure, synchronous_commit="remote_apply")
    ledger = await LedgerSession.open(server.dsn)
    assert await ledger.connection.fetchval(SHOW) == "remote_apply"
    await asyncio.to_thread(server.configure, synchronous_commit="off")
    assert await ledger.connection.fetchval(SHOW) == "remote_apply"
    ledger.terminate()


async def lost_passes(server: Server) -> int:
    """The number of taps that passed before every process of the server was killed and that are missing afterwards."""
    async with open_ledger(server.dsn) as kit:
        await eventually(lambda: kit.ledger.connected)
        await asyncio.to_thread(server.configure, **LAZY)
        for tag_id in range(1, TAGS + 1):
            assert await kit.word(tag_id, 1) == ADVANCED
        server.kill9()
    await asyncio.to_thread(server.start)
    async with open_truth(server.dsn) as truth:
        kept = await truth.connection.fetchval("SELECT count(*) FROM tag_counter WHERE last_position = 1")
        assert len(await truth.log()) == kept
    return TAGS - int(kept)


async def test_no_acknowledged_pass_is_lost_when_durability_is_turned_off(server: Server) -> None:
    assert await lost_passes(server) == 0


async def test_a_session_that_does_not_fix_its_level_loses_passes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the test above."""

    async def nothing(connection: Any, *_: Any) -> int:
        return int(connection.get_server_pid())

    monkeypatch.setattr(session, "fix_durability", nothing)
    assert await lost_passes(server) > 0
