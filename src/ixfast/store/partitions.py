"""Partitions of the scan log: one a month, made well ahead, dropped after the retention.

There is no default partition, so a pass without a partition could not be logged and would not be one: hence the months ahead.
While scans are served only ATTACH and DETACH CONCURRENTLY are used; the plain forms wait behind every open reader and
let the scans wait behind them.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

MONTHS_AHEAD = 3
# Analysed when it has doubled: an analysis holds a snapshot, and for as long no counter's old versions can be pruned.
_STORAGE = "autovacuum_analyze_scale_factor = 1"
_LOCK = 0x6978_6661_7375  # One upkeep at a time in a database.


def month_start(day: dt.date, months_later: int = 0) -> dt.date:
    """The first day of the month that lies `months_later` after the month of `day`."""
    months = day.year * 12 + day.month - 1 + months_later
    return dt.date(months // 12, months % 12 + 1, 1)


def partition_name(month: dt.date) -> str:
    return f"scan_log_{month:%Y_%m}"


async def make_ahead(connection: Any) -> list[str]:
    """Make the partitions of this month and the next `MONTHS_AHEAD`; return the names of those made now."""
    made = []
    today = (await connection.fetchval("SELECT now() AT TIME ZONE 'UTC'")).date()
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        for ahead in range(MONTHS_AHEAD + 1):
            month = month_start(today, ahead)
            name = partition_name(month)
            if await connection.fetchval("SELECT to_regclass($1)", name) is not None:
                continue
            bounds = f"FROM ('{month} 00:00+00') TO ('{month_start(month, 1)} 00:00+00')"
            async with connection.transaction():
                await connection.execute(
                    f"CREATE TABLE {name} (LIKE scan_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ({_STORAGE})"
                )
                await connection.execute(f"ALTER TABLE scan_log ATTACH PARTITION {name} FOR VALUES {bounds}")
            made.append(name)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return made


async def drop_old(connection: Any, retention_days: int) -> list[str]:
    """Detach and drop the partitions that ended more than `retention_days` ago; return their names.

    None if somebody else is at it. Needs autocommit: DETACH CONCURRENTLY runs in no transaction.
    """
    dropped: list[str] = []
    today = (await connection.fetchval("SELECT now() AT TIME ZONE 'UTC'")).date()
    oldest = partition_name(month_start(today - dt.timedelta(days=retention_days)))
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        return dropped
    try:
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text AS name, inhdetachpending AS half_done"
            " FROM pg_inherits WHERE inhparent = 'scan_log'::regclass ORDER BY 1"
        )
        for name, half_done in rows:
            if name >= oldest:  # scan_log_YYYY_MM sorts as the months do.
                break
            # A detachment that was cut short stays half done, and can only be finished.
            way = "FINALIZE" if half_done else "CONCURRENTLY"
            await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name} {way}")
            await connection.execute(f"DROP TABLE {name}")
            dropped.append(name)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return dropped
