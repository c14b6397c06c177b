"""Recovery of counters after a failover that lost commits: the old primary's scan log says which taps had been accepted.

An asynchronous standby that was behind does not know the newest passes, so those taps pass once more. If the old primary comes
back, the passes that the current one lacks are found by comparing the two logs, and are added as if they had been replicated:
the counter raised, the pass logged and counted.

Invariants: no counter is ever lowered; a pass is added once, however often this runs; a tag is the same only if id and code
are, because ids may have been given anew; counters are locked in ascending order and for one small transaction at a time, so
that scans go on; the old primary is only read; memory is bounded by a chunk, and the gap itself lies in a temporary table.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import ConfigurationError
from ixfast.store import migrate, partitions
from ixfast.store.connections import session
from ixfast.store.queries import load

READ_ROWS = 20_000  # Of 100 bytes; a chunk is one look into the log, which has to read its newest rows each time.
WRITE_ROWS = 500  # A few milliseconds, for which a scan of one of these tags waits.
LEFT_SHOWN_MAX = 1000
# A pass whose reply was lost in the failover was sent again, and has the time of the current primary's clock.
CLOCK_BEHIND_MAX = dt.timedelta(days=1)
CONNECT_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_MS = 5000
_READING = {"synchronize_seqscans": "off", "jit": "off", "max_parallel_workers_per_gather": "0"}
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

Progress = Callable[[int], None]


class RecoveryError(ConfigurationError):
    """The recovery cannot be begun, or was cut short; the message says how far it came."""


class LeftTag(NamedTuple):
    """A tag of the old primary that is not the same one here, so that its passes were left."""

    tag_id: int
    xuid: str | None
    passes: int
    reason: str


class Report:
    """What was found and, unless it was a dry run, done."""

    def __init__(self) -> None:
        self.read = 0  # passes of the old primary
        self.lost = 0  # those that the current primary did not have: the gap
        self.accepted_again = 0  # lost ones whose position was accepted again meanwhile
        self.resent = 0  # those that a server sent again, which lost nothing
        self.todo = 0  # lost ones of tags that are the same here
        self.done = 0  # those that were added
        self.raised = 0  # counters that were raised, or in a dry run would be
        self.uncompared: set[str] = set()  # partitions of the old log that the current one has not
        self.not_logged = 0  # passes of those that raised a counter at most
        self.left: list[LeftTag] = []  # the first `LEFT_SHOWN_MAX`
        self.left_passes = 0


class _Pass(NamedTuple):
    at: dt.datetime
    scan_id: int
    tag_id: int
    position: int
    covered: bool  # whether there is a partition to log it in
    xuid: str | None = None


async def recover(
    dsn: str, old_dsn: str, *, since: dt.datetime | None, dry_run: bool, advanced: Progress, write_rows: int = WRITE_ROWS
) -> Report:
    """Add what the old primary's log has and the current one's lacks. `advanced` is told how many passes were read so far.

    `RecoveryError` if the two do not belong together, cannot be reached, or one of them fails on the way.
    """
    report = Report()
    async with (
        _connected(old_dsn, "The old primary", idle_in_transaction_session_timeout="0", **_READING) as old,
        _connected(dsn, "The current primary", target_session_attrs="read-write") as current,
    ):
        try:
            await _check(current, old)
            await _find_gap(current, old, since, report, advanced)
            await _classify(current, report)
            if not dry_run:
                await _write(current, report, write_rows)
        except _BROKEN as error:
            raise RecoveryError(_how_far(report, error)) from None
    return report


def _how_far(report: Report, error: Exception) -> str:
    said = str(error).strip().rstrip(".") or type(error).__name__
    if not report.done:
        return f"Nothing was changed; {report.read} passes had been read: {said}."
    return (
        f"{report.done} of {report.todo} lost passes were recovered and stay so; then: {said}. "
        "Run the command again, and it goes on with the others."
    )


@contextlib.asynccontextmanager
async def _connected(dsn: str, whose: str, target_session_attrs: str | None = None, **settings: str) -> AsyncIterator[Any]:
    settings = session.SESSION | {"statement_timeout": "0", "lock_timeout": str(_LOCK_TIMEOUT_MS)} | settings
    try:
        attributes = {"target_session_attrs": target_session_attrs} if target_session_attrs else {}
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, server_settings=settings, statement_cache_size=0, **attributes
        )
    except ValueError:  # what asyncpg says may quote a part of the password
        raise RecoveryError(
            f"{whose}: its connection string cannot be read; percent-encode the special characters of user and password."
        ) from None
    except _BROKEN as error:
        said = str(error).strip().rstrip(".") or f"no answer in {CONNECT_TIMEOUT_S:.0f} s"
        raise RecoveryError(f"{whose} cannot be reached: {said}.") from None
    try:
        yield connection
    finally:
        connection.terminate()


async def _check(current: Any, old: Any) -> None:
    """Raise `RecoveryError` unless `old` is what `current` was a standby of."""
    sql = load("recovery")
    ours, theirs = await current.fetchrow(sql["server"]), await old.fetchrow(sql["server"])
    if ours["system"] != theirs["system"]:
        raise RecoveryError(
            "The two servers are not of one cluster (their system identifiers differ): neither was a standby of the other."
        )
    if ours["database"] != theirs["database"]:
        raise RecoveryError("The two connection strings name different databases; the old primary's has to be the same one.")
    if ours["started"] == theirs["started"] or theirs["follows"]:
        raise RecoveryError("The old primary's connection string leads to the current primary or to a standby of it.")
    if ours["timeline"] <= theirs["timeline"]:
        raise RecoveryError(
            f"The server to recover from is on timeline {theirs['timeline']}, the current primary on {ours['timeline']}: a "
            "failover begins a higher timeline, so that is not its old primary. Are the two connection strings swapped?"
        )
    if not theirs["has_schema"]:
        raise RecoveryError("The old primary's database has no ixfast schema: there is nothing to recover from.")
    await migrate.check(current)
    if not await current.fetchval(sql["only_one"]):
        raise RecoveryError("Another `ixfast recover-counters` works on this database; wait for it to end.")
    # As every session of the ledger: stronger settings are the operator's and stay.
    if await current.fetchval("SHOW synchronous_commit") in ("off", "local"):
        await current.execute("SET synchronous_commit = on")


async def _find_gap(current: Any, old: Any, since: dt.datetime | None, report: Report, advanced: Progress) -> None:
    """Fill the table `gap` with every pass of the old log that the current one lacks."""
    sql = load("recovery")
    covers = _Coverage(await partitions.ranges(current, partitions.SCAN_LOG))
    await current.execute(sql["make_gap"])
    # A chunk's passes are looked up by reading that span of the log once, and never row by row.
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
    """Whether a moment has a partition; most have the one of the moment before."""

    def __init__(self, ranges: Sequence[partitions.Range]) -> None:
        self._ranges = ranges
        self._last: partitions.Range | None = None

    def __call__(self, moment: dt.datetime) -> bool:
        if self._last is None or moment not in self._last:
            self._last = next((each for each in self._ranges if moment in each), None)
        return self._last is not None


async def _classify(current: Any, report: Report) -> None:
    """Find out whose the lost passes are, and which were accepted here as well."""
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
    report.left_passes = report.lost - report.todo
    report.left = [LeftTag(*row) for row in await current.fetch(sql["left_tags"], LEFT_SHOWN_MAX)]


async def _write(current: Any, report: Report, write_rows: int) -> None:
    """Add the lost passes, a chunk a transaction, each either whole or not at all."""
    sql = load("recovery")
    report.raised = place = last_raised = 0
    while rows := await current.fetch(sql["next_todo"], place, write_rows):
        place = rows[-1]["n"]
        passes = [_Pass(*list(row)[1:]) for row in rows]
        owners = [list(column) for column in zip(*{(each.tag_id, each.xuid) for each in passes}, strict=True)]
        async with current.transaction():
            before = {row["tag_id"]: row["last_position"] for row in await current.fetch(sql["hold_counters"], *owners)}
            deleted = {row["tag_id"] for row in await current.fetch(sql["hold_deleted"], *owners)}
            ours = [each for each in passes if each.tag_id in before or each.tag_id in deleted]
            await current.execute(sql["recover"], *_columns(ours))
        report.done += len(ours)
        report.left_passes += len(passes) - len(ours)  # their tags vanished in this very moment
        raised = {each.tag_id for each in ours if each.position > before.get(each.tag_id, each.position)}
        report.raised += len(raised - {last_raised})  # a tag may have passes in two chunks
        last_raised = max(raised, default=last_raised)


def _columns(passes: Sequence[_Pass]) -> list[list[Any]]:
    """Times, scan ids, tag ids, positions, and whether they are covered."""
    return [[each[column] for each in passes] for column in range(5)]
