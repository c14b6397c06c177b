"""Recovers counters after a failover that lost commits, from the scan log of the old primary.

An asynchronous standby that lagged lacks the newest passes, so those taps pass a second time. Once the old primary can be
started again, comparing the two logs finds the passes that the current primary lacks. They are added as if they had been
replicated: the counter is raised, and the pass logged and counted. If the tag was deleted and has returned since, the counter
that it has now is raised as well.

Invariants: a counter is never lowered. A pass is added once, however often this runs. Tags are the same only if both id and code
match, because ids may have been reused. Counters are locked in ascending order, in one small transaction at a time, so that
scans continue. The old primary is only read. Memory is bounded by a chunk; the gap itself is kept in a temporary table.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import ConfigurationError
from ixfast.store import migrate, partitions
from ixfast.store.admin.deleted_tags import continue_counter
from ixfast.store.connections import hosts, session
from ixfast.store.connections.connect_errors import RefusedConnectionError, UnreachableDatabaseError, explained
from ixfast.store.connections.connection_string import ConnectionStringError
from ixfast.store.queries import load

READ_ROWS = 20_000  # Of 100 bytes. Each chunk is one query of the current log, which has to read its newest rows each time.
WRITE_ROWS = 500  # Takes a few milliseconds, for which scans of these tags wait.
SKIPPED_SHOWN_MAX = 1000
# A pass whose reply was lost in the failover was sent again, and has a time by the current primary's clock.
CLOCK_BEHIND_MAX = dt.timedelta(days=1)
CONNECT_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_MS = 5000
_READING = {"synchronize_seqscans": "off", "jit": "off", "max_parallel_workers_per_gather": "0"}
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

Progress = Callable[[int], None]
"""Called with the number of passes read so far."""


class RecoveryError(ConfigurationError):
    """The recovery cannot start or was interrupted; the message says what was done until then."""


class SkippedTag(NamedTuple):
    """A tag of the old primary that does not exist here with the same id and code, so its passes were skipped."""

    tag_id: int
    xuid: str | None
    passes: int
    reason: str


class Report:
    """What was found and, except in a dry run, done."""

    def __init__(self) -> None:
        self.read = 0  # passes of the old primary
        self.lost = 0  # passes that the current primary lacks: the gap
        self.accepted_again = 0  # lost passes whose position was accepted again since the failover
        self.resent = 0  # passes that a server sent again, and that are therefore not lost
        self.todo = 0  # lost passes of tags that are the same here
        self.done = 0  # passes that were added
        self.raised = 0  # counters that were raised, or in a dry run would be
        self.uncompared: set[str] = set()  # partitions that only the old log has
        self.not_logged = 0  # lost passes of those partitions, which may raise a counter but are not logged
        self.skipped: list[SkippedTag] = []  # the first `SKIPPED_SHOWN_MAX`
        self.skipped_passes = 0


class _Pass(NamedTuple):
    at: dt.datetime
    scan_id: int
    tag_id: int
    position: int
    covered: bool  # whether the current log has a partition for it
    xuid: str | None = None


async def recover(
    dsn: str, old_dsn: str, *, since: dt.datetime | None, dry_run: bool, advanced: Progress, write_rows: int = WRITE_ROWS
) -> Report:
    """Add the passes that the old primary's log has and the current one's lacks.

    Raises RecoveryError if the servers are not an old and a current primary of one cluster, cannot be reached, or fail.
    """
    report = Report()
    async with (
        _connected(old_dsn, "old primary", idle_in_transaction_session_timeout="0", **_READING) as old,
        _connected(dsn, "current primary", target_session_attrs="read-write") as current,
    ):
        try:
            await _check(current, old)
            await _find_gap(current, old, since, report, advanced)
            await _classify(current, report)
            if not dry_run:
                await _write(current, report, write_rows)
        except _BROKEN as error:
            raise RecoveryError(_interrupted(report, error)) from None
    return report


def _interrupted(report: Report, error: Exception) -> str:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if not report.done:
        return f"The recovery failed after reading {report.read} passes, and changed nothing: {reason}."
    return (
        f"The recovery failed after recovering {report.done} of {report.todo} lost passes: {reason}. "
        "Run the command again to recover the others."
    )


@contextlib.asynccontextmanager
async def _connected(dsn: str, server: str, target_session_attrs: str = "any", **settings: str) -> AsyncIterator[Any]:
    settings = session.SESSION | {"statement_timeout": "0", "lock_timeout": str(_LOCK_TIMEOUT_MS)} | settings
    connection = None
    try:
        with explained(dsn, CONNECT_TIMEOUT_S, server):
            connection = await hosts.connect(
                dsn,
                CONNECT_TIMEOUT_S,
                target_session_attrs=target_session_attrs,
                application_name="ixfast-command",
                statement_cache_size=0,
            )
            await session.require_session(dsn, connection, settings)
        yield connection
    except (UnreachableDatabaseError, RefusedConnectionError, ConnectionStringError) as error:
        text = (
            str(error).replace("The connection string `dsn`", "`dsn`").replace("`dsn`", f"The connection string of the {server}")
        )
        raise RecoveryError(text) from None
    finally:
        if connection is not None:
            connection.terminate()


async def _check(current: Any, old: Any) -> None:
    """Raise RecoveryError unless `current` was a standby of `old`."""
    sql = load("recovery")
    ours, theirs = await current.fetchrow(sql["server"]), await old.fetchrow(sql["server"])
    if ours["system"] != theirs["system"]:
        raise RecoveryError(
            "The two servers do not belong to one cluster (their system identifiers differ): neither was a standby of the other."
        )
    if ours["database"] != theirs["database"]:
        raise RecoveryError("The two connection strings name different databases; they must name the same one.")
    if ours["started"] == theirs["started"] or theirs["follows"]:
        raise RecoveryError("The connection string of the old primary leads to the current primary or to one of its standbys.")
    if ours["timeline"] <= theirs["timeline"]:
        raise RecoveryError(
            f"The server to recover from is on timeline {theirs['timeline']} and the current primary on {ours['timeline']}. A "
            "failover starts a higher timeline, so that server is not the old primary. Check whether the connection strings "
            "are swapped."
        )
    if not theirs["has_schema"]:
        raise RecoveryError("The database of the old primary has no ixfast schema: there is nothing to recover from.")
    await migrate.check(current)
    if not await current.fetchval(sql["try_lock"]):
        raise RecoveryError("Another `ixfast recover-counters` is running on this database; wait until it has finished.")
    # As in sessions of the ledger, a stronger setting of the operator is kept.
    if await current.fetchval("SHOW synchronous_commit") in ("off", "local"):
        await current.execute("SET synchronous_commit = on")


async def _find_gap(current: Any, old: Any, since: dt.datetime | None, report: Report, advanced: Progress) -> None:
    """Fill the temporary table `gap` with every pass of the old log that the current one lacks."""
    sql = load("recovery")
    covers = _Coverage(await partitions.ranges(current, partitions.SCAN_LOG))
    await current.execute(sql["make_gap"])
    # Look up the passes of a chunk by reading that span of the log once, never row by row.
    await current.execute("SET enable_nestloop = off")
    async with old.transaction(readonly=True):
        cursor = await old.cursor(sql["old_passes"], since)
        while rows := await cursor.fetch(READ_ROWS):
            passes = [_Pass(at, scan_id, tag_id, position, covers(at)) for at, scan_id, tag_id, position in rows]
            report.uncompared.update(partitions.SCAN_LOG.name(p.at.date()) for p in passes if not p.covered)
            lost = await _missing(current, passes)
            if lost:
                tag_ids = list({each.tag_id for each in lost})
                codes = {row["tag_id"]: row["xuid"] for row in await old.fetch(sql["old_codes"], tag_ids)}
                lost = [each._replace(xuid=codes[each.tag_id]) for each in lost]
                await current.execute(sql["add_to_gap"], *zip(*lost, strict=True))
            report.read += len(rows)
            report.not_logged += sum(not each.covered for each in lost)
            advanced(report.read)
    await current.execute("RESET enable_nestloop")
    await current.execute("ANALYZE gap")


async def _missing(current: Any, passes: list[_Pass]) -> list[_Pass]:
    logged = [each.at for each in passes if each.covered]
    span = (min(logged), max(logged)) if logged else (None, None)
    columns = _columns(passes)
    return [passes[row["n"] - 1] for row in await current.fetch(load("recovery")["missing"], *columns, *span)]


class _Coverage:
    """Whether there is a partition for a time. Remembers the last one, since times are nearly in order."""

    def __init__(self, ranges: Sequence[partitions.Range]) -> None:
        self._ranges = ranges
        self._last: partitions.Range | None = None

    def __call__(self, moment: dt.datetime) -> bool:
        if self._last is None or moment not in self._last:
            self._last = next((each for each in self._ranges if moment in each), None)
        return self._last is not None


async def _classify(current: Any, report: Report) -> None:
    """Determine the tags of the lost passes, and which passes were accepted here too."""
    sql = load("recovery")
    await current.execute(sql["find_owners"])
    begins = await current.fetchval(sql["gap_begins"])
    if begins is not None:
        await current.execute("SET enable_nestloop = off")
        await current.execute(sql["find_second_passes"], begins - CLOCK_BEHIND_MAX)
        await current.execute("RESET enable_nestloop")
    await current.execute(sql["make_todo"])
    await current.execute(sql["index_todo"])
    await current.execute("ANALYZE todo")
    totals = await current.fetchrow(sql["totals"])
    report.lost, report.resent, report.accepted_again = totals["lost"], totals["resent"], totals["accepted_again"]
    report.todo, report.raised = totals["todo"], totals["to_raise"]
    report.skipped_passes = report.lost - report.todo
    report.skipped = [SkippedTag(*row) for row in await current.fetch(sql["skipped_tags"], SKIPPED_SHOWN_MAX)]


async def _write(current: Any, report: Report, write_rows: int) -> None:
    """Add the lost passes, one transaction per chunk."""
    sql = load("recovery")
    report.raised = last = last_raised = 0
    while rows := await current.fetch(sql["next_todo"], last, write_rows):
        last = rows[-1]["n"]
        passes = [_Pass(*list(row)[1:]) for row in rows]
        tags = {(each.tag_id, each.xuid) for each in passes}
        async with current.transaction():
            returned = {
                (row["tag_id"], row["xuid"]): row["account_id"]
                for row in await current.fetch(sql["returned"], [tag_id for tag_id, _ in tags])
            }
            owners = [list(column) for column in zip(*(tags | returned.keys()), strict=True)]
            before = {row["tag_id"]: row["last_position"] for row in await current.fetch(sql["lock_counters"], *owners)}
            deleted = {row["tag_id"] for row in await current.fetch(sql["lock_deleted"], *owners)}
            ours = [each for each in passes if each.tag_id in before or each.tag_id in deleted]
            await current.execute(sql["recover"], *_columns(ours))
            for (tag_id, _), account_id in returned.items():
                await continue_counter(current, account_id, tag_id, None)
        report.done += len(ours)
        report.skipped_passes += len(passes) - len(ours)  # their tags have vanished since
        raised = {each.tag_id for each in ours if each.position > before.get(each.tag_id, each.position)}
        report.raised += len(raised - {last_raised})  # a tag may have passes in two chunks
        last_raised = max(raised, default=last_raised)


def _columns(passes: Sequence[_Pass]) -> list[list[Any]]:
    """Columns for `unnest`: times, scan ids, tag ids, positions, covered."""
    return [[each[column] for each in passes] for column in range(5)]
