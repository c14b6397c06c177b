"""PostgreSQL crashes right after a worker's self-check was rolled back, and starts again."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from support import in_own_loop
from support.replication import Server, replicated

from ixfast.store import migrate
from ixfast.store.queries import load


async def check_and_crash(server: Server) -> None:
    """The checks' writes. What they did to files is done, and in the log; that they were rolled back is not yet."""
    sql = load("fitness")
    worker, other = await asyncpg.connect(server.dsn), await asyncpg.connect(server.dsn)
    transaction = worker.transaction()
    await transaction.start()
    await worker.execute(sql["empty_disk_probe"])
    await worker.execute(sql["fill_disk_probe"])
    await other.execute("SELECT pg_logical_emit_message(true, 'commit', '')")
    await transaction.rollback()
    server.kill9()
    for connection in (worker, other):
        connection.terminate()


@pytest.mark.parametrize("unlogged", [False, True], ids=["as it is", "control: not logged"])
def test_postgresql_starts_after_a_crash(server_dir: Path, unlogged: bool) -> None:
    with replicated(server_dir, standbys=0) as servers:
        server = servers.primary
        in_own_loop(lambda: migrate.migrate(server.dsn))
        if unlogged:
            server.fetchval("ALTER TABLE room_probe SET UNLOGGED")
        server.configure(wal_writer_delay="10s")
        server.fetchval("CHECKPOINT")
        in_own_loop(lambda: check_and_crash(server))
        if unlogged:
            with pytest.raises(AssertionError, match=r"could not create file .*: File exists"):
                server.start()
        else:
            server.start()
            assert server.fetchval("SELECT count(*) FROM room_probe") == 0
