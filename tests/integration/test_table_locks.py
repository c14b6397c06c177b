"""Changes of the schema wait for the tables that other sessions have locked: aloud, briefly each time, and with a bound."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner
from support import eventually
from test_migrate import empty as empty  # a fixture
from test_migrate import script

from ixfast.cli.main import main
from ixfast.keys import KeyEncryptionKeys
from ixfast.store import migrate, partitions, table_locks
from ixfast.store.partitions import SCAN_LOG
from ixfast.store.table_locks import TableLockedError, TableLocks

CHANGE = "CREATE TABLE further (); ALTER TABLE scan_log ADD COLUMN further int"
HOLDER = (
    r"PostgreSQL process {pid} \(role \w+, application \"the report\"(, from [\d.]+)?, in a transaction since "
    r"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC, now idle\) has locked the table {table}"
)


def holder(session: asyncpg.Connection, table: str = "scan_log") -> str:
    return HOLDER.format(pid=session.get_server_pid(), table=table)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_locks, "WAIT_S", 2.0)
    monkeypatch.setattr(table_locks, "_PAUSE_S", 0.2)
    monkeypatch.setattr(table_locks, "_LOOK_AFTER_S", 0.02)


@pytest.fixture
def further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration of a release to come that changes a table which is in use."""
    ours = [*migrate.migrations(), script(9001, "pre", CHANGE)]
    monkeypatch.setattr(migrate, "migrations", lambda: ours)


@pytest.fixture
async def report(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that somebody left open within a transaction."""
    session = await asyncpg.connect(database, server_settings={"application_name": "the report"})
    yield session
    session.terminate()


@pytest.fixture
async def look(database: str) -> AsyncIterator[asyncpg.Connection]:
    session = await asyncpg.connect(database)
    yield session
    session.terminate()


async def holds(session: asyncpg.Connection, *statements: str) -> None:
    await session.execute("BEGIN")
    for statement in statements:
        await session.execute(statement)


async def test_a_migration_waits_aloud_for_a_session_that_has_read_the_table(
    database: str, report: asyncpg.Connection, further: None
) -> None:
    await holds(report, "SELECT FROM scan_log LIMIT 1")
    said: list[str] = []
    task = asyncio.create_task(migrate.migrate(database, waiting=said.append))
    await eventually(lambda: said, 30)
    assert re.fullmatch(f"waiting up to 2 s for the migration 9001_pre_test.sql: {holder(report)}", said[0]), said
    await report.execute("ROLLBACK")
    assert await task == ["9001_pre_test.sql"]
    assert len(said) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM scan_log LIMIT 1",
        "LOCK TABLE scan_log IN ACCESS SHARE MODE",
        "INSERT INTO scan_log VALUES (now(), 1, 1, 1, 'g')",
    ],
)
async def test_a_migration_that_waits_too_long_is_given_up_as_a_whole(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection, further: None, statement: str
) -> None:
    await holds(report, statement)
    with pytest.raises(TableLockedError) as caught:
        await migrate.migrate(database, waiting=lambda _line: None)
    assert re.fullmatch(
        f"The migration 9001_pre_test.sql was given up after 2 s, and nothing of it was kept: {holder(report)}. Run the command "
        rf"again when that session has finished, or end it with SELECT pg_terminate_backend\({report.get_server_pid()}\)\.",
        str(caught.value),
    ), str(caught.value)
    assert await look.fetchval("SELECT to_regclass('further')") is None
    assert [each.number for each in await migrate.pending(look)] == [9001]
    await report.execute("ROLLBACK")
    assert await migrate.migrate(database) == ["9001_pre_test.sql"]


async def reads(database: str) -> bool:
    """Whether another session can read the table, without waiting for long behind one that waits for it."""
    session = await asyncpg.connect(database, server_settings={"lock_timeout": "8000"})
    try:
        await session.fetch("SELECT FROM scan_log LIMIT 1")
    except asyncpg.LockNotAvailableError:
        return False
    finally:
        session.terminate()
    return True


WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass('scan_log')"


async def test_scans_go_on_while_a_migration_waits(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection, further: None
) -> None:
    await holds(report, "SELECT FROM scan_log LIMIT 1")
    task = asyncio.create_task(migrate.migrate(database, waiting=lambda _line: None))
    await eventually(lambda: look.fetchval(WAITS), 30)
    assert await reads(database)
    with pytest.raises(TableLockedError):
        await task


async def test_control_without_a_short_wait_scans_stand_still(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection, further: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_locks, "ATTEMPT_MS", 0)
    await holds(report, "SELECT FROM scan_log LIMIT 1")
    task = asyncio.create_task(migrate.migrate(database, waiting=lambda _line: None))
    await eventually(lambda: look.fetchval(WAITS), 30)
    assert not await reads(database)
    await report.execute("ROLLBACK")
    assert await task == ["9001_pre_test.sql"]


async def test_the_creation_of_a_partition_that_waits_too_long_is_reported(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection
) -> None:
    names = [row["name"] for row in await look.fetch(partitions._NAMES, "scan_log")]
    last = max(names)
    await look.execute(f"DROP TABLE {last}")
    await holds(report, "LOCK TABLE scan_log IN SHARE UPDATE EXCLUSIVE MODE")  # as ANALYZE does
    said: list[str] = []
    locks = TableLocks(database, look, said.append)
    (change,) = await partitions.make_ahead(look, locks=locks)
    assert (change.name, change.locked) == (last, True)
    assert re.match(
        f"partition {last} could not be created: The creation of partition {last} was given up after 2 s", str(change)
    )
    assert len(said) == 1 and re.search(holder(report), said[0])
    assert await look.fetchval("SELECT to_regclass($1)", last) is None
    await report.execute("ROLLBACK")
    assert [each.problem for each in await partitions.make_ahead(look, locks=locks)] == [None]


async def test_the_removal_of_a_partition_that_waits_too_long_goes_on_later(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection
) -> None:
    old = (await partitions.read_clocks(look)).database.date() - dt.timedelta(days=1000)
    name = SCAN_LOG.name(old)
    assert await partitions._ensure(look, SCAN_LOG, old) is not None
    await holds(report, f"SELECT FROM {name}")
    with pytest.raises(TableLockedError, match=f"^The removal of partition {name} was given up after 2 s: PostgreSQL process"):
        await partitions.drop_old(look, 400, locks=TableLocks(database, look, lambda _line: None))
    await report.execute("ROLLBACK")
    assert await partitions.drop_old(look, 400, locks=TableLocks(database, look)) == [name]
    assert await look.fetchval("SELECT to_regclass($1)", name) is None


async def test_a_session_has_its_own_lock_timeout_again(database: str, look: asyncpg.Connection) -> None:
    async def change() -> str:
        return str(await look.fetchval("SHOW lock_timeout"))

    assert await TableLocks(database, look).patiently(change, "a change") == "1500ms"
    assert await change() == "0"


@pytest.mark.parametrize("command", ["migrate", "maintain"])
async def test_a_command_ends_with_a_status_and_one_line(
    database: str, report: asyncpg.Connection, look: asyncpg.Connection, further: None, command: str
) -> None:
    if command == "maintain":
        assert await migrate.migrate(database) == ["9001_pre_test.sql"]
        last = max(row["name"] for row in await look.fetch(partitions._NAMES, "scan_log"))
        await look.execute(f"DROP TABLE {last}")
    await holds(report, "LOCK TABLE scan_log IN SHARE UPDATE EXCLUSIVE MODE")
    done = await asyncio.to_thread(CliRunner().invoke, main, [command, "--dsn", database])
    assert done.exit_code == 4, done.output
    waiting, error = done.stderr.splitlines()
    assert waiting.startswith("Waiting up to 2 s for the ") and re.search(holder(report), waiting)
    assert error.startswith("Error: ") and f"SELECT pg_terminate_backend({report.get_server_pid()})" in error


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    assert process.stdout is not None
    read = ""
    while words not in read:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert line, read
        read += line
    return read


@pytest.mark.parametrize(
    ("words", "done"),
    [
        (["migrate"], "applied 0004_pre_users_input.sql"),
        (["serve", "--port=0", "--private-port=0", "--workers=1"], "verifies scans at"),
    ],
    ids=["migrate", "serve"],
)
async def test_an_upgrade_by_a_process_of_its_own_waits_aloud(
    empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], done: str
) -> None:
    with monkeypatch.context() as earlier:
        ours = [each for each in migrate.migrations() if each.number < 4]
        earlier.setattr(migrate, "migrations", lambda: ours)
        await migrate.migrate(empty)
    KeyEncryptionKeys.create_file(tmp_path / "kek")
    dump = await asyncpg.connect(empty, server_settings={"application_name": "pg_dump"})
    process = None
    try:
        await holds(dump, "LOCK TABLE scan_log IN ACCESS SHARE MODE")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ixfast", *words, "--dsn", empty, "--data-dir", str(tmp_path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = await read_until(process, "60 s")
        assert f"60 s for the migration 0004_pre_users_input.sql: PostgreSQL process {dump.get_server_pid()} (role " in said
        assert 'application "pg_dump"' in said
        await dump.execute("ROLLBACK")
        await read_until(process, done)
        if words[0] == "serve":
            process.terminate()
        assert await process.wait() == 0
    finally:
        dump.terminate()
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
