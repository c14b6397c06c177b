"""A server that has just started looks after the scan log at once: partitions ahead, none detached or older than the
retention."""

import datetime as dt
from pathlib import Path
from typing import Any

import asyncpg
from support import eventually
from support.served import Served

from ixfast.store import partitions

NAMES = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'scan_log'::regclass ORDER BY 1"
RETENTION_DAYS = 100


async def names(connection: Any) -> list[str]:
    return [row["name"] for row in await connection.fetch(NAMES)]


async def add_partition(connection: Any, month: dt.date) -> str:
    name, end = partitions.SCAN_LOG.name(month), partitions.month_start(month, 1)
    bounds = f"FROM ('{month} 00:00+00') TO ('{end} 00:00+00')"
    await connection.execute(f"CREATE TABLE {name} PARTITION OF scan_log FOR VALUES {bounds}")
    return name


async def test_a_started_server_makes_partitions_ahead_and_drops_old_ones(database: str, server_dir: Path) -> None:
    connection = await asyncpg.connect(database)
    try:
        now = (await connection.fetchval("SELECT now() AT TIME ZONE 'UTC'")).date()
        ahead = await names(connection)
        await connection.execute(f"DROP TABLE {ahead[-1]}")
        last_month, old = [await add_partition(connection, partitions.month_start(now, -ago)) for ago in (1, 6)]
        assert await names(connection) == [old, last_month, *ahead[:-1]]

        async def done() -> bool:
            return await names(connection) == [last_month, *ahead]

        with Served(server_dir, dsn=database, scan_log_retention_days=RETENTION_DAYS):
            await eventually(done, 20.0)
    finally:
        await connection.close()


async def test_a_started_server_attaches_a_partition_and_says_so(database: str, server_dir: Path) -> None:
    connection = await asyncpg.connect(database)
    try:
        current = (await names(connection))[0]
        await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {current}")
        with Served(server_dir, dsn=database) as server:
            assert current in await names(connection)
            assert f"attached partition {current}" in server.log
    finally:
        await connection.close()
