"""Partitions by time: made well ahead, attached again if somebody detached them, dropped after the retention.

There is no default partition, so a pass without a partition could not be logged and would not be one: hence the partitions
ahead. While scans are served only ATTACH and DETACH CONCURRENTLY are used; the plain forms wait behind every open reader and
let the scans wait behind them. A partition that holds rows gets a valid CHECK constraint of its bounds first, so that ATTACH
need not read it under its lock.

No single clock is trusted. Partitions are made for what the database's and this host's clock say, because rows are written by
the one and judged by the other; nothing is dropped unless both agree and both say that it is old.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import asyncpg

log = logging.getLogger("ixfast.partitions")

CLOCKS_APART_MAX = dt.timedelta(hours=1)
_LOCK = 0x6978_6661_7375  # One upkeep at a time in a database.
_LOCK_POLL_S = 0.05
_LOCK_DEADLINE_S = 60.0  # Upkeep itself gives up after 5 s of waiting for a lock.
_BOUNDS = "ixfast_bounds"  # The name of the constraint while a partition is being attached.

# Bounds are read as they are printed, in the session's own time zone. Null is an open end, and both are those of a default
# partition.
_ATTACHED = """
SELECT parent.relname AS table, i.inhrelid::regclass::text AS name, i.inhdetachpending AS pending,
       (regexp_match(b.text, 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz AS begins,
       (regexp_match(b.text, 'TO \\(''([^'']+)''\\)'))[1]::timestamptz AS ends
FROM pg_inherits AS i
JOIN pg_class AS parent ON parent.oid = i.inhparent
JOIN pg_class AS c ON c.oid = i.inhrelid,
     LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS text) AS b
WHERE i.inhparent = to_regclass($1)
ORDER BY begins
"""
_CURRENT_MISSING = f"""
SELECT wanted.table
FROM unnest($1::text[]) AS wanted ("table")
WHERE to_regclass(wanted.table) IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM ({_ATTACHED.replace("$1", "wanted.table")}) AS a
      WHERE NOT a.pending AND (a.begins IS NULL OR a.begins <= now()) AND (a.ends IS NULL OR now() < a.ends)
  )
"""  # noqa: S608  (of constants alone)
# The constraint of this name, and others that say the same.
_EQUAL_CONSTRAINTS = """
SELECT quote_ident(c.conname) AS name, c.convalidated
FROM pg_constraint AS c
JOIN pg_constraint AS ours ON ours.conrelid = c.conrelid AND ours.conname = $2
WHERE c.conrelid = to_regclass($1) AND c.contype = 'c' AND c.coninhcount = 0
  AND pg_get_expr(c.conbin, c.conrelid) = pg_get_expr(ours.conbin, ours.conrelid)
"""


class Partitioned(NamedTuple):
    """A table that is partitioned by range of its column `at`, and its rules."""

    table: str
    unit: str  # "month" or "day", by UTC
    ahead: int  # units that are made beside the current one
    retention_days: int | None = None  # None: as the operator's setting says
    # Analysed when it has doubled: an analysis holds a snapshot, and for as long no counter's old versions can be pruned.
    storage: str = "autovacuum_analyze_scale_factor = 1"

    def start(self, day: dt.date, later: int = 0) -> dt.date:
        """The first day of the partition that is `later` units after the one of `day`."""
        return month_start(day, later) if self.unit == "month" else day + dt.timedelta(days=later)

    def name(self, day: dt.date) -> str:
        """The name of the partition of a day."""
        return f"{self.table}_{day:%Y_%m}" if self.unit == "month" else f"{self.table}_{day:%Y_%m_%d}"

    def bounds(self, day: dt.date) -> tuple[str, str]:
        """When the partition of a day begins, and when the next one does, in SQL's notation."""
        return f"{self.start(day)} 00:00+00", f"{self.start(day, 1)} 00:00+00"

    def wanted(self, clocks: Clocks) -> list[dt.date]:
        """First days of the partitions that have to be there, the current one first."""
        starts = [self.start(now.date(), later) for now in clocks for later in range(self.ahead + 1)]
        return list(dict.fromkeys(starts))


SCAN_LOG = Partitioned("scan_log", "month", 3)
KEYED_SCAN = Partitioned("keyed_scan", "day", 7, retention_days=2)
TABLES = (SCAN_LOG, KEYED_SCAN)


class Clocks(NamedTuple):
    """What the database's and this host's clock say at one moment, both in UTC."""

    database: dt.datetime
    host: dt.datetime

    @property
    def agree(self) -> bool:
        return abs(self.database - self.host) <= CLOCKS_APART_MAX


class Range(NamedTuple):
    """A partition that rows are written to, from `begins` to before `ends`; None is an open end."""

    name: str
    begins: dt.datetime | None
    ends: dt.datetime | None

    def __contains__(self, moment: object) -> bool:
        assert isinstance(moment, dt.datetime)
        return (self.begins is None or self.begins <= moment) and (self.ends is None or moment < self.ends)


class Change(NamedTuple):
    """What was done about a partition; `problem` if it could not be."""

    name: str
    done: str
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.done} {self.name}" if self.problem is None else f"{self.name} could not be {self.done}: {self.problem}"


def month_start(day: dt.date, months_later: int = 0) -> dt.date:
    """The first day of the month that lies `months_later` after the month of `day`."""
    months = day.year * 12 + day.month - 1 + months_later
    return dt.date(months // 12, months % 12 + 1, 1)


async def read_clocks(connection: Any) -> Clocks:
    """The one place where the time is read."""
    database = await connection.fetchval("SELECT clock_timestamp()")
    return Clocks(database.astimezone(dt.UTC), dt.datetime.now(dt.UTC))


def log_change(change: Change) -> None:
    if change.problem is not None:
        log.error("%s", change)
    else:
        log.log(logging.INFO if change.done == "made" else logging.WARNING, "%s", change)


async def make_ahead(
    connection: Any, clocks: Clocks | None = None, *, changed: Callable[[Change], None] = log_change
) -> list[Change]:
    """Make the current and the coming partitions of every table that the database has, and attach those that are detached.

    `changed` is called for each change, which are returned, too. That one partition cannot be attached keeps no other from it.
    Needs autocommit.
    """
    clocks = clocks or await read_clocks(connection)
    changes = []
    async with _alone(connection):
        for each in TABLES:
            if await connection.fetchval("SELECT to_regclass($1)", each.table) is None:
                continue  # a table of a migration that is still to come
            for start in each.wanted(clocks):
                change = await _ensure(connection, each, start)
                if change is not None:
                    changed(change)
                    changes.append(change)
    return changes


async def drop_old(connection: Any, retention_days: int, clocks: Clocks | None = None) -> list[str]:
    """Detach and drop the partitions that ended longer ago than their retention, by both clocks; return their names.

    None if the clocks disagree, which is logged, or if somebody else is at it. Needs autocommit: DETACH CONCURRENTLY runs in
    no transaction.
    """
    clocks = clocks or await read_clocks(connection)
    if not clocks.agree:
        log.error(
            "nothing is dropped while the clocks disagree: the database says %s, this host %s",
            *(clock.isoformat(timespec="seconds") for clock in clocks),
        )
        return []
    dropped: list[str] = []
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        return dropped
    try:
        for each in TABLES:
            days = retention_days if each.retention_days is None else each.retention_days
            oldest = min(clocks) - dt.timedelta(days=days)
            for row in await connection.fetch(_ATTACHED, each.table):
                if row["ends"] is None or row["ends"] > oldest:
                    continue
                # A detachment that was cut short stays half done, and can only be finished.
                way = "FINALIZE" if row["pending"] else "CONCURRENTLY"
                await connection.execute(f"ALTER TABLE {each.table} DETACH PARTITION {row['name']} {way}")
                await connection.execute(f"DROP TABLE {row['name']}")
                log.info("dropped %s", row["name"])
                dropped.append(row["name"])
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return dropped


async def current_missing(connection: Any) -> list[str]:
    """The tables that have no partition for the database's time now, or only one that is detached or being detached."""
    rows = await connection.fetch(_CURRENT_MISSING, [each.table for each in TABLES])
    return [row["table"] for row in rows]


async def ranges(connection: Any, table: Partitioned) -> list[Range]:
    """The partitions of a table that rows can be written to."""
    rows = await connection.fetch(_ATTACHED, table.table)
    return [Range(row["name"], row["begins"], row["ends"]) for row in rows if not row["pending"]]


@contextlib.asynccontextmanager
async def _alone(connection: Any) -> AsyncIterator[None]:
    """Hold the upkeep's lock. It is asked for again and again, since a statement that waits for it has a snapshot, and whoever
    finishes a detachment waits for that."""
    deadline = asyncio.get_running_loop().time() + _LOCK_DEADLINE_S
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"another upkeep of the partitions has not ended after {_LOCK_DEADLINE_S:.0f} s")
        await asyncio.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _ensure(connection: Any, each: Partitioned, start: dt.date) -> Change | None:
    """Make or attach the partition that begins on this day; None if it is there."""
    name = each.name(start)
    exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
    pending = await connection.fetchval(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = to_regclass($2)",
        name,
        each.table,
    )
    if exists and pending is False:
        return None
    done = "attached" if exists else "made"
    try:
        if pending:
            await connection.execute(f"ALTER TABLE {each.table} DETACH PARTITION {name} FINALIZE")
        if exists:
            await _attach(connection, each, start)
        else:
            await _make(connection, each, start)
    except asyncpg.CheckViolationError:
        return Change(name, done, "it holds rows outside its bounds; move them away")
    except asyncpg.PostgresError as error:
        return Change(name, done, f"{error} ({error.sqlstate})")
    return Change(name, done)


async def _make(connection: Any, each: Partitioned, start: dt.date) -> None:
    name = each.name(start)
    async with connection.transaction():
        await connection.execute(
            f"CREATE TABLE {name} (LIKE {each.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ({each.storage})"
        )
        await connection.execute(_attachment(each, start))


async def _attach(connection: Any, each: Partitioned, start: dt.date) -> None:
    """Attach a table with rows, which are read while nobody has to wait, and not at all after DETACH CONCURRENTLY: that leaves
    a constraint like ours behind."""
    name = each.name(start)
    begins, ends = each.bounds(start)
    check = f"CHECK (at IS NOT NULL AND at >= '{begins}'::timestamptz AND at < '{ends}'::timestamptz)"
    await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_BOUNDS}")
    await connection.execute(f"ALTER TABLE {name} ADD CONSTRAINT {_BOUNDS} {check} NOT VALID")
    try:
        equal = await connection.fetch(_EQUAL_CONSTRAINTS, name, _BOUNDS)
        if not any(row["convalidated"] for row in equal):
            await connection.execute(f"ALTER TABLE {name} VALIDATE CONSTRAINT {_BOUNDS}")
        async with connection.transaction():
            await connection.execute(_attachment(each, start))
            # Before the commit nobody can wait for this lock; afterwards every scan would.
            for row in equal:
                await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {row['name']}")
    except asyncpg.PostgresError:
        await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_BOUNDS}")
        raise


def _attachment(each: Partitioned, start: dt.date) -> str:
    begins, ends = each.bounds(start)
    return f"ALTER TABLE {each.table} ATTACH PARTITION {each.name(start)} FOR VALUES FROM ('{begins}') TO ('{ends}')"
