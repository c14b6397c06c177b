"""Partitions: made ahead, attached again, dropped after the retention, and not by a clock that is wrong."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest
from support import eventually
from support.ledger_kit import ADVANCED, open_ledger, open_truth

from ixfast.store import advisory_locks, migrate, partitions
from ixfast.store.partitions import KEYED_SCAN, SCAN_LOG, VISITOR_COUNTRY, Change, Clocks

LOGGED = "INSERT INTO scan_log VALUES ($1, 1, 1, 1, 'g')"
MIDNIGHT = dt.time(tzinfo=dt.UTC)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def names(connection: asyncpg.Connection, table: str = "scan_log") -> list[str]:
    """Partitions that are attached."""
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass($1) AND NOT inhdetachpending"
    return sorted(row[0] for row in await connection.fetch(query, table))


async def today(connection: asyncpg.Connection) -> dt.date:
    return (await partitions.read_clocks(connection)).database.date()


def noon(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(12, tzinfo=dt.UTC))


async def migrate_command(dsn: str) -> tuple[int, str]:
    """Exit status and everything that is printed."""
    command = [sys.executable, "-m", "ixfast", "migrate"]
    done = await asyncio.to_thread(subprocess.run, command, env={"IXFAST_DSN": dsn}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def at(day: dt.date) -> Clocks:
    """Both clocks say noon of this day."""
    return Clocks(noon(day), noon(day))


async def current(connection: asyncpg.Connection) -> str:
    return SCAN_LOG.name(await today(connection))


@pytest.mark.parametrize(
    ("day", "later", "start"),
    [
        (dt.date(2026, 1, 31), 0, dt.date(2026, 1, 1)),
        (dt.date(2026, 11, 30), 1, dt.date(2026, 12, 1)),
        (dt.date(2026, 12, 1), 1, dt.date(2027, 1, 1)),
        (dt.date(2026, 10, 15), 15, dt.date(2028, 1, 1)),
        (dt.date(2026, 1, 15), -1, dt.date(2025, 12, 1)),
    ],
)
def test_months(day: dt.date, later: int, start: dt.date) -> None:
    assert partitions.month_start(day, later) == start


def test_days() -> None:
    assert KEYED_SCAN.start(dt.date(2026, 12, 31), 1) == dt.date(2027, 1, 1)
    assert KEYED_SCAN.name(dt.date(2027, 1, 1)) == "keyed_scan_2027_01_01"
    assert KEYED_SCAN.bounds(dt.date(2026, 12, 31)) == ("2026-12-31 00:00+00", "2027-01-01 00:00+00")


# Made ahead.


async def test_every_moment_of_the_next_months_has_its_partition(connection: asyncpg.Connection) -> None:
    start = partitions.month_start(await today(connection))
    end = partitions.month_start(start, SCAN_LOG.ahead + 1)
    assert await names(connection) == [SCAN_LOG.name(SCAN_LOG.start(start, n)) for n in range(SCAN_LOG.ahead + 1)]
    log = "INSERT INTO scan_log SELECT at, 1, 1, 1, 'g' FROM generate_series($1::timestamptz, $2, '1 hour') AS at"
    last = dt.datetime.combine(end, MIDNIGHT) - dt.timedelta(microseconds=1)
    await connection.execute(log, dt.datetime.combine(start, MIDNIGHT), last)
    await connection.execute(log, last, last)
    with pytest.raises(asyncpg.CheckViolationError, match="no partition"):  # and none is a default one
        await connection.execute(log, last + dt.timedelta(microseconds=1), last + dt.timedelta(hours=1))


async def test_upkeep_at_once_makes_each_partition_once(database: str, connection: asyncpg.Connection) -> None:
    last = (await names(connection))[-1]
    await connection.execute(f"DROP TABLE {last}")
    workers = [await asyncpg.connect(database) for _ in range(4)]
    made = await asyncio.gather(*(partitions.make_ahead(worker) for worker in workers))
    assert sorted(made, key=len) == [[], [], [], [Change(last, "created")]]
    for worker in workers:
        await worker.close()


async def test_upkeep_waits_for_no_reader_and_holds_up_no_scan(database: str, connection: asyncpg.Connection) -> None:
    last = (await names(connection))[-1]
    await connection.execute(f"DROP TABLE {last}")
    async with open_truth(database, 1) as reader, open_ledger(database) as kit:
        await reader.execute("BEGIN; SELECT count(*) FROM scan_log")
        await connection.execute("SET lock_timeout = '1s'")
        assert await partitions.make_ahead(connection) == [Change(last, "created")]
        assert await kit.word(1, 1) == ADVANCED


async def test_a_table_by_the_day_has_its_partitions_too(connection: asyncpg.Connection) -> None:
    await partitions.make_ahead(connection)
    day = await today(connection)
    expected = [KEYED_SCAN.name(day + dt.timedelta(days=n)) for n in range(8)]
    assert await names(connection, "keyed_scan") == expected
    later = await partitions.make_ahead(connection, at(day + dt.timedelta(days=2)))
    added = [KEYED_SCAN.name(day + dt.timedelta(days=n)) for n in (8, 9)]
    assert [change.name for change in later if change.name.startswith("keyed")] == added
    dropped = await partitions.drop_old(connection, 400, at(day + dt.timedelta(days=4)))
    assert dropped == expected[:2]  # those that ended two days before
    assert await names(connection, "keyed_scan") == [*expected[2:], *added]


async def test_the_countries_of_visitors_are_kept_as_long_as_the_scan_log(connection: asyncpg.Connection) -> None:
    await partitions.make_ahead(connection)
    day = await today(connection)
    months = [VISITOR_COUNTRY.name(VISITOR_COUNTRY.start(day, later)) for later in range(4)]
    assert await names(connection, "visitor_country") == months
    later = VISITOR_COUNTRY.start(day, 1) + dt.timedelta(days=32)
    dropped = await partitions.drop_old(connection, 30, at(later))
    assert dropped == [SCAN_LOG.name(day), *sorted(name for name in dropped if name.startswith("keyed")), months[0]]
    assert await names(connection, "visitor_country") == months[1:]


# Attached again.


async def test_a_detached_partition_is_attached_again_with_its_rows(database: str, connection: asyncpg.Connection) -> None:
    name = await current(connection)
    async with open_truth(database, 1) as truth, open_ledger(database) as kit:
        assert await kit.word(1, 1) == ADVANCED
        await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name}")
        assert await partitions.current_missing(connection) == ["scan_log"]
        assert "log_partition_missing" in await kit.word(1, 2)
        assert await partitions.make_ahead(connection) == [Change(name, "attached")]
        assert await partitions.current_missing(connection) == []
        assert await kit.word(1, 2) == ADVANCED
        assert await truth.log() == [(1, 1), (1, 2)]
    assert await partitions.make_ahead(connection) == []


async def test_a_partition_whose_detachment_was_cut_short_is_attached_again(
    database: str, connection: asyncpg.Connection
) -> None:
    name = await current(connection)
    async with open_truth(database) as reader:
        await reader.execute("BEGIN; SELECT count(*) FROM scan_log")
        await connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name} CONCURRENTLY")
        assert await partitions.current_missing(connection) == ["scan_log"]
        (change,) = await partitions.make_ahead(connection)  # the reader is still there
        assert change.problem is not None
        assert "could not be attached: canceling statement due to lock timeout" in str(change)
    await connection.execute("RESET lock_timeout")
    assert await partitions.make_ahead(connection) == [Change(name, "attached")]
    await connection.execute(LOGGED, noon(await today(connection)))


async def test_upkeep_at_once_finishes_a_detachment_without_a_deadlock(database: str, connection: asyncpg.Connection) -> None:
    name = await current(connection)
    async with open_truth(database) as reader:
        await reader.execute("BEGIN; SELECT count(*) FROM scan_log")
        await connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name} CONCURRENTLY")
        migrations = [asyncio.create_task(migrate.migrate(database)) for _ in range(4)]
        waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%FINALIZE')"
        await eventually(lambda: connection.fetchval(waiting))
    assert await asyncio.gather(*migrations) == [[], [], [], []]
    assert name in await names(connection)


async def test_attaching_reads_no_row_under_its_lock_and_leaves_no_constraint(connection: asyncpg.Connection) -> None:
    said: list[str] = []
    connection.add_log_listener(lambda _, message: said.append(message.message))
    name = await current(connection)
    await connection.execute(LOGGED, noon(await today(connection)))
    constraints = "SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'c'"
    for detach in ("", "CONCURRENTLY"):
        await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name} {detach}")
        await connection.execute("SET client_min_messages = debug1")
        assert await partitions.make_ahead(connection) == [Change(name, "attached")]
        await connection.execute("RESET client_min_messages")
        implied = f'partition constraint for table "{name}" is implied by existing constraints'
        await eventually(lambda implied=implied: implied in said)
        # The second time the constraint that PostgreSQL left behind is as good.
        assert any(message.startswith("verifying table") for message in said) == (detach == "")
        assert await connection.fetchval(constraints, name) == 0
        said.clear()


async def test_a_detached_partition_with_rows_of_another_month_is_reported(
    database: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, *_ = await names(connection)
    for name in (first, second):
        await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {name}")
    await connection.execute(f"INSERT INTO {first} VALUES ('2020-01-01 00:00+00', 1, 1, 1, 'g')")
    changes = await partitions.make_ahead(connection)
    problem = "it contains rows outside its bounds; move them elsewhere"
    assert changes == [Change(first, "attached", problem), Change(second, "attached")]  # one keeps no other from it
    assert [(record.levelname, record.message) for record in caplog.records if record.name == "ixfast.partitions"] == [
        ("ERROR", f"partition {first} could not be attached: {problem}"),
        ("WARNING", f"attached partition {second}"),
    ]
    assert await migrate_command(database) == (1, f"Error: partition {first} could not be attached: {problem}\n")
    await connection.execute(f"DELETE FROM {first}")
    assert await migrate_command(database) == (0, f"attached partition {first}\n")
    assert await migrate_command(database) == (0, "nothing to apply\n")
    assert await partitions.current_missing(connection) == []


async def test_another_table_of_that_name_is_reported(connection: asyncpg.Connection) -> None:
    name = await current(connection)
    await connection.execute(f"DROP TABLE {name}; CREATE TABLE {name} (at timestamptz)")
    (change,) = await partitions.make_ahead(connection)
    assert change.problem is not None
    assert str(change).startswith(f"partition {name} could not be attached: ")


async def test_whatever_covers_this_moment_is_no_missing_partition(connection: asyncpg.Connection) -> None:
    assert await partitions.current_missing(connection) == []
    await connection.execute(f"DROP TABLE {await current(connection)}")
    assert await partitions.current_missing(connection) == ["scan_log"]
    await connection.execute(f"DROP TABLE {KEYED_SCAN.name(await today(connection))}")
    assert set(await partitions.current_missing(connection)) == {"scan_log", "keyed_scan"}
    await connection.execute("CREATE TABLE rest PARTITION OF scan_log DEFAULT")
    day = await today(connection)
    ends = day + dt.timedelta(days=2)
    await connection.execute(f"DROP TABLE {KEYED_SCAN.name(day + dt.timedelta(days=1))}")
    await connection.execute(f"CREATE TABLE wide PARTITION OF keyed_scan FOR VALUES FROM (MINVALUE) TO ('{ends}')")
    await connection.execute("SET timezone = 'Pacific/Auckland'; SET datestyle = 'SQL, DMY'")
    assert await partitions.current_missing(connection) == []


# Dropped after the retention.


async def old_partition(connection: asyncpg.Connection, month: dt.date) -> str:
    name = SCAN_LOG.name(month)
    begins, ends = SCAN_LOG.bounds(month)
    await connection.execute(f"CREATE TABLE {name} PARTITION OF scan_log FOR VALUES FROM ('{begins}') TO ('{ends}')")
    await connection.execute(f"INSERT INTO {name} VALUES ('{month} 12:00+00', 1, 1, 1, 'g')")
    return name


async def test_partitions_are_dropped_after_the_retention(connection: asyncpg.Connection) -> None:
    now = await today(connection)
    kept = await names(connection)
    months = [partitions.month_start(now, -n) for n in (14, 3, 2, 1)]
    old = [await old_partition(connection, month) for month in months]
    inside = (now - months[2]).days  # the first day of the month before the last
    assert await partitions.drop_old(connection, inside) == old[:2]
    assert await names(connection) == sorted([*old[2:], *kept])
    assert await partitions.drop_old(connection, inside) == []
    assert await partitions.drop_old(connection, 0) == old[2:]
    assert await names(connection) == kept  # this month is never old


async def test_a_detachment_that_was_cut_short_is_finished(database: str, connection: asyncpg.Connection) -> None:
    old = await old_partition(connection, dt.date(2020, 1, 1))
    async with open_truth(database) as reader:
        await reader.execute("BEGIN; SELECT count(*) FROM scan_log")
        await connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await partitions.drop_old(connection, 30)
    await connection.execute("RESET lock_timeout")
    assert await partitions.drop_old(connection, 30) == [old]
    assert await connection.fetchval("SELECT to_regclass($1)", old) is None


async def test_only_one_worker_drops(database: str, connection: asyncpg.Connection) -> None:
    await old_partition(connection, dt.date(2020, 1, 1))
    async with open_truth(database) as other:
        await other.execute(f"SELECT pg_advisory_lock({advisory_locks.PARTITIONS})")
        assert await partitions.drop_old(connection, 30) == []


# Clocks that are wrong.

STEPS = [dt.timedelta(hours=2), dt.timedelta(days=1), dt.timedelta(days=500), dt.timedelta(days=36500)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wrong", ["database", "host"])
async def test_nothing_is_dropped_while_the_clocks_disagree(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture, wrong: str, sign: int, step: dt.timedelta
) -> None:
    now = (await partitions.read_clocks(connection)).database
    before = [await old_partition(connection, dt.date(2020, 1, 1)), *await names(connection)]
    clocks = Clocks(now, now)._replace(**{wrong: now + sign * step})
    assert await partitions.drop_old(connection, 30, clocks) == []
    assert await names(connection) == sorted(set(before))
    (record,) = [record for record in caplog.records if record.name == "ixfast.partitions"]
    assert record.levelname == "ERROR"
    assert record.message.startswith("kept old partitions because the clocks disagree: the database's shows ")


@pytest.mark.parametrize("ahead", ["database", "host"])
async def test_a_partition_has_to_be_old_by_both_clocks(connection: asyncpg.Connection, ahead: str) -> None:
    old = await old_partition(connection, dt.date(2020, 1, 1))
    moment = dt.datetime(2020, 3, 2, 0, 10, tzinfo=dt.UTC)  # 30 days and 10 minutes after its end
    earlier = Clocks(moment, moment - dt.timedelta(minutes=20))
    clocks = earlier if ahead == "database" else Clocks(*reversed(earlier))
    assert await partitions.drop_old(connection, 30, clocks) == []
    assert await partitions.drop_old(connection, 30, Clocks(moment, moment)) == [old]


async def test_partitions_are_made_for_what_both_clocks_say(connection: asyncpg.Connection) -> None:
    now = noon(await today(connection))
    clocks = Clocks(now, dt.datetime(2031, 12, 31, 23, 59, tzinfo=dt.UTC))
    made = [str(change) for change in await partitions.make_ahead(connection, clocks)]
    months = [f"created partition scan_log_{month}" for month in ("2031_12", "2032_01", "2032_02", "2032_03")]
    days = [f"created partition keyed_scan_{day}" for day in ("2031_12_31", *(f"2032_01_0{n}" for n in range(1, 8)))]
    countries = [month.replace("scan_log", "visitor_country") for month in months]
    assert made == months + days + countries


async def test_what_the_clocks_say_is_read_in_utc(connection: asyncpg.Connection) -> None:
    await connection.execute("SET timezone = 'Pacific/Auckland'")
    clocks = await partitions.read_clocks(connection)
    assert clocks.agree
    assert {clock.utcoffset() for clock in clocks} == {dt.timedelta()}
