"""Time partitions: created ahead of time, reattached if detached, and dropped after the retention.

There is no default partition. A pass that cannot be logged fails, so partitions must exist before they are needed. While
scans are served, only ATTACH and DETACH CONCURRENTLY are used: the plain forms queue behind every open reader, and scans would
queue behind them. A partition with rows first gets a valid CHECK constraint on its bounds, so that ATTACH need not scan it
while holding its lock.

No single clock is trusted. Partitions are created for the time of the database's clock and for that of this host's clock, since
one dates the rows and the other the retention. A partition is dropped only if the clocks agree and it is expired by both.

Only the owner of the tables can do any of this. A server whose role owns nothing reports in time what its owner has to do.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg

from ixfast.store import advisory_locks
from ixfast.store.queries import load
from ixfast.store.table_locks import TableLockedError, TableLocks

log = logging.getLogger("ixfast.partitions")

CLOCKS_APART_MAX = dt.timedelta(hours=1)
_OVERDUE = dt.timedelta(days=2)  # Beyond the retention; an owner that drops partitions daily leaves less.
_BOUNDS = "ixfast_bounds"  # The constraint that exists while a partition is being attached.

# Bounds are parsed as printed, in the time zone of the session. Null means unbounded; a default partition has two nulls.
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
# Reads no bounds, for which a partition would be locked: a detachment that waits for this statement's snapshot holds that lock.
_NAMES = """
SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = to_regclass($1) AND NOT inhdetachpending
"""
_CURRENT_MISSING = f"""
SELECT wanted.table
FROM unnest($1::text[]) AS wanted ("table")
WHERE to_regclass(wanted.table) IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM ({_ATTACHED.replace("$1", "wanted.table")}) AS a
      WHERE NOT a.pending AND (a.begins IS NULL OR a.begins <= now()) AND (a.ends IS NULL OR now() < a.ends)
  )
"""  # noqa: S608  (built from constants)
_DETACHMENT = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = to_regclass($2)"
# The constraint of this name, and others with the same expression.
_EQUAL_CONSTRAINTS = """
SELECT quote_ident(c.conname) AS name, c.convalidated
FROM pg_constraint AS c
JOIN pg_constraint AS ours ON ours.conrelid = c.conrelid AND ours.conname = $2
WHERE c.conrelid = to_regclass($1) AND c.contype = 'c' AND c.coninhcount = 0
  AND pg_get_expr(c.conbin, c.conrelid) = pg_get_expr(ours.conbin, ours.conrelid)
"""


class Partitioned(NamedTuple):
    """A table partitioned by ranges of its column `at`."""

    table: str
    unit: str  # "month" or "day", by UTC
    ahead: int  # partitions to create beyond the current one
    retention_days: int | None = None  # None: use the setting `scan_log_retention_days`
    # Analyse only when the table has doubled: ANALYZE holds a snapshot, during which no dead counter rows can be pruned.
    storage: str = "autovacuum_analyze_scale_factor = 1"

    def start(self, day: dt.date, later: int = 0) -> dt.date:
        """The first day of the partition `later` units after the one that contains `day`."""
        return month_start(day, later) if self.unit == "month" else day + dt.timedelta(days=later)

    def name(self, day: dt.date) -> str:
        """The name of the partition that contains `day`."""
        return f"{self.table}_{day:%Y_%m}" if self.unit == "month" else f"{self.table}_{day:%Y_%m_%d}"

    def bounds(self, day: dt.date) -> tuple[str, str]:
        """The bounds of the partition that contains `day` as SQL literals: inclusive begin, exclusive end."""
        return f"{self.start(day)} 00:00+00", f"{self.start(day, 1)} 00:00+00"

    def wanted(self, clocks: Clocks) -> list[dt.date]:
        """The first days of the partitions that must exist, the current one first."""
        starts = [self.start(now.date(), later) for now in clocks for later in range(self.ahead + 1)]
        return list(dict.fromkeys(starts))


SCAN_LOG = Partitioned("scan_log", "month", 3)
KEYED_SCAN = Partitioned("keyed_scan", "day", 7, retention_days=2)
VISITOR_COUNTRY = Partitioned("visitor_country", "month", 3)
TABLES = (SCAN_LOG, KEYED_SCAN, VISITOR_COUNTRY)
KEYED_TAP_DAYS = 2  # How long an Idempotency-Key is remembered, with any tap.


class Clocks(NamedTuple):
    """The time by the database's clock and by this host's clock at one moment, both in UTC."""

    database: dt.datetime
    host: dt.datetime

    @property
    def agree(self) -> bool:
        return abs(self.database - self.host) <= CLOCKS_APART_MAX


class Range(NamedTuple):
    """A partition that accepts rows, from `begins` (inclusive) to `ends` (exclusive); None means unbounded."""

    name: str
    begins: dt.datetime | None
    ends: dt.datetime | None

    def __contains__(self, moment: object) -> bool:
        assert isinstance(moment, dt.datetime)
        return (self.begins is None or self.begins <= moment) and (self.ends is None or moment < self.ends)


class Change(NamedTuple):
    """An action on a partition: `done` is "created" or "attached". With a `problem` it failed, or is the owner's to do unless
    it is `ours`. `locked`: another session held the lock of a table for too long."""

    name: str
    done: str
    problem: str | None = None
    ours: bool = True
    locked: bool = False

    def __str__(self) -> str:
        if self.problem is None:
            return f"{self.done} partition {self.name}"
        return f"partition {self.name} could not be {self.done}: {self.problem}"


def month_start(day: dt.date, months_later: int = 0) -> dt.date:
    """The first day of the month `months_later` months after that of `day`."""
    months = day.year * 12 + day.month - 1 + months_later
    return dt.date(months // 12, months % 12 + 1, 1)


async def read_clocks(connection: Any) -> Clocks:
    """Read both clocks. This module reads the time nowhere else."""
    database = await connection.fetchval("SELECT clock_timestamp()")
    return Clocks(database.astimezone(dt.UTC), dt.datetime.now(dt.UTC))


def log_change(change: Change) -> None:
    """Log a change; an attached partition is a warning, because someone detached it."""
    if change.problem is not None:
        log.error("%s", change)
    else:
        log.log(logging.INFO if change.done == "created" else logging.WARNING, "%s", change)


async def make_ahead(
    connection: Any,
    clocks: Clocks | None = None,
    *,
    changed: Callable[[Change], None] = log_change,
    locks: TableLocks | None = None,
) -> list[Change]:
    """Create the current and future partitions of every table, and attach those that are detached.

    Returns all changes and calls `changed` for each. A failure for one partition does not affect the others. If the role does
    not own the tables, the changes are those that its owner should have made by now, as failures. The connection must not be in
    a transaction. With `locks` this waits for tables that are locked; without, the session's `lock_timeout` applies.
    """
    clocks = clocks or await read_clocks(connection)
    wanted = [(each, start) for each in TABLES for start in await _lacking(connection, each, clocks)]
    changes: list[Change] = []
    if not wanted:
        return changes
    role = await connection.fetchrow(load("privileges")["role"])
    if not role["owns"]:
        changes = [change for each in TABLES if (change := _overdue(each, wanted, clocks, role)) is not None]
        for change in changes:
            changed(change)
        return changes
    async with advisory_locks.held_by_session(connection, advisory_locks.PARTITIONS):
        for each, start in wanted:
            made = await _ensure_patiently(connection, each, start, locks)
            if made is not None:
                changed(made)
                changes.append(made)
    return changes


async def _lacking(connection: Any, each: Partitioned, clocks: Clocks) -> list[dt.date]:
    """The first days of the partitions that must exist and do not, or are not attached."""
    if await connection.fetchval("SELECT to_regclass($1)", each.table) is None:
        return []  # created by a migration that is not applied yet
    attached = {row["name"] for row in await connection.fetch(_NAMES, each.table)}
    return [start for start in each.wanted(clocks) if each.name(start) not in attached]


def _overdue(each: Partitioned, wanted: list[tuple[Partitioned, dt.date]], clocks: Clocks, role: Any) -> Change | None:
    """The failure to report for the first partition of a table that its owner did not create, if less than half of what
    should exist ahead is left."""
    starts = sorted(start for table, start in wanted if table is each)
    today = clocks.database.date()
    if not starts or starts[0] - today > (each.start(today, each.ahead) - each.start(today)) / 2:
        return None
    when = "now" if starts[0] <= today else f"before {starts[0]} 00:00 UTC"
    problem = f"{role['role']} does not own {each.table}. Scans fail without it; run `ixfast maintain` as {role['owner']} {when}"
    return Change(each.name(starts[0]), "created", problem, ours=False)


async def drop_old(
    connection: Any, retention_days: int, clocks: Clocks | None = None, *, locks: TableLocks | None = None
) -> list[str]:
    """Detach and drop the partitions that are beyond their retention by both clocks, and return their names. Forget the
    Idempotency-Keys that are.

    Drops nothing if the clocks disagree or the role does not own the tables, which is logged, or if another session runs the
    maintenance. The connection must not be in a transaction: DETACH CONCURRENTLY cannot run in one.
    """
    clocks = clocks or await read_clocks(connection)
    if not clocks.agree:
        log.error(
            "kept old partitions because the clocks disagree: the database's shows %s, this host's %s",
            *(clock.isoformat(timespec="seconds") for clock in clocks),
        )
        return []
    dropped: list[str] = []
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", advisory_locks.PARTITIONS):
        return dropped
    try:
        await _forget_keys(connection)
        role = await connection.fetchrow(load("privileges")["role"])
        if not role["owns"]:
            for _, row in await _expired(connection, retention_days, min(clocks) - _OVERDUE):
                log.warning("partition %s is beyond its retention: run `ixfast maintain` as %s", row["name"], role["owner"])
            return dropped
        find = functools.partial(_expired, connection, retention_days, min(clocks))
        for each, row in await (find() if locks is None else locks.patiently(find, "reading the bounds of partitions")):
            drop = functools.partial(_drop, connection, each, row["name"])
            await (drop() if locks is None else locks.patiently(drop, f"the removal of partition {row['name']}", whole=False))
            log.info("dropped partition %s", row["name"])
            dropped.append(row["name"])
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", advisory_locks.PARTITIONS)
    return dropped


async def _drop(connection: Any, each: Partitioned, name: str) -> None:
    """Drop a partition, also one whose detachment was interrupted."""
    pending = await connection.fetchval(_DETACHMENT, name, each.table)
    if pending is not None:  # else it is detached
        # An interrupted concurrent detachment can only be finalized.
        mode = "FINALIZE" if pending else "CONCURRENTLY"
        await connection.execute(f"ALTER TABLE {each.table} DETACH PARTITION {name} {mode}")
    await connection.execute(f"DROP TABLE {name}")


async def _expired(connection: Any, retention_days: int, now: dt.datetime) -> list[tuple[Partitioned, Any]]:
    """The partitions that are beyond their retention at this time."""
    found: list[tuple[Partitioned, Any]] = []
    for each in TABLES:
        days = retention_days if each.retention_days is None else each.retention_days
        oldest = now - dt.timedelta(days=days)
        rows = await connection.fetch(_ATTACHED, each.table)
        found += [(each, row) for row in rows if row["ends"] is not None and row["ends"] <= oldest]
    return found


async def _forget_keys(connection: Any) -> None:
    """Delete the bindings of Idempotency-Keys beyond their retention. `keyed_tap` has no partitions, because a key must be unique
    across them, so its rows are deleted in short transactions."""
    if await connection.fetchval("SELECT to_regclass('keyed_tap')") is None:
        return  # created by a migration that is not applied yet
    forget = load("ledger")["forget_keys"]
    while await connection.execute(forget, KEYED_TAP_DAYS) != "DELETE 0":
        pass


async def current_missing(connection: Any) -> list[str]:
    """The tables without an attached partition for the current time of the database."""
    rows = await connection.fetch(_CURRENT_MISSING, [each.table for each in TABLES])
    return [row["table"] for row in rows]


async def ranges(connection: Any, table: Partitioned) -> list[Range]:
    """The partitions of a table that accept rows."""
    rows = await connection.fetch(_ATTACHED, table.table)
    return [Range(row["name"], row["begins"], row["ends"]) for row in rows if not row["pending"]]


async def _ensure_patiently(connection: Any, each: Partitioned, start: dt.date, locks: TableLocks | None) -> Change | None:
    if locks is None:
        return await _ensure(connection, each, start)
    name = each.name(start)
    exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
    try:
        make = functools.partial(_ensure, connection, each, start, patient=True)
        return await locks.patiently(make, f"the {'attachment' if exists else 'creation'} of partition {name}", whole=not exists)
    except TableLockedError as error:
        return Change(name, "attached" if exists else "created", str(error).rstrip("."), locked=True)


async def _ensure(connection: Any, each: Partitioned, start: dt.date, *, patient: bool = False) -> Change | None:
    """Create or attach the partition that begins on day `start`. None if it exists and is attached.

    With `patient`, LockNotAvailableError is raised, so that the caller can try again.
    """
    name = each.name(start)
    exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
    pending = await connection.fetchval(_DETACHMENT, name, each.table)
    if exists and pending is False:
        return None
    done = "attached" if exists else "created"
    try:
        if pending:
            await connection.execute(f"ALTER TABLE {each.table} DETACH PARTITION {name} FINALIZE")
        if exists:
            await _attach(connection, each, start)
        else:
            await _create(connection, each, start)
    except asyncpg.CheckViolationError:
        return Change(name, done, "it contains rows outside its bounds; move them elsewhere")
    except asyncpg.PostgresError as error:
        if patient and isinstance(error, asyncpg.LockNotAvailableError):
            raise
        return Change(name, done, f"{error} ({error.sqlstate})")
    return Change(name, done)


async def _create(connection: Any, each: Partitioned, start: dt.date) -> None:
    name = each.name(start)
    async with connection.transaction():
        await connection.execute(
            f"CREATE TABLE {name} (LIKE {each.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ({each.storage})"
        )
        await connection.execute(_attachment(each, start))


async def _attach(connection: Any, each: Partitioned, start: dt.date) -> None:
    """Attach a table that has rows. Validating the constraint reads them without blocking scans. After DETACH CONCURRENTLY
    they are not read at all, because it leaves an equal constraint behind."""
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
            # In this transaction scans do not see the partition yet; afterwards they would wait for the lock of DROP CONSTRAINT.
            for row in equal:
                await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {row['name']}")
    except asyncpg.PostgresError:
        await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_BOUNDS}")
        raise


def _attachment(each: Partitioned, start: dt.date) -> str:
    begins, ends = each.bounds(start)
    return f"ALTER TABLE {each.table} ATTACH PARTITION {each.name(start)} FOR VALUES FROM ('{begins}') TO ('{ends}')"
