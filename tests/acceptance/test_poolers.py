"""Connection poolers, with a real PgBouncer: one of transactions is refused by every command and keeps nothing.

And the lock of migrations: a command that waits for it says for whom.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from support import administer, eventually, eventually_sync
from support.ledger_kit import open_ledger, open_truth
from support.pooler import pgbouncer
from support.served import Served, once, own_database, plain_target

from ixfast.store import advisory_locks, migrate
from ixfast.store.connections import poolers, session
from ixfast.store.connections.poolers import TransactionPoolerError
from ixfast.store.connections.session import LedgerSession
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(77, 20, account="shop")
REFUSAL = "`dsn` leads to a connection pooler that lends its connections for single transactions"
LOCKS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = $1)"
)


@pytest.fixture
def direct(postgres: Any, template: str) -> Iterator[str]:
    """A connection string that leads to the server itself, by TCP."""
    with own_database(postgres, template) as dsn:
        yield postgres.dsn_of(name_of(dsn), tcp=True)


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.lstrip("/")


def folder(open_scratch: Path) -> Path:
    return open_scratch / secrets.token_hex(4)


def run(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "IXFAST_DSN": dsn}
    return subprocess.run([sys.executable, "-m", "ixfast", *words], env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_of_transactions_is_refused_and_keeps_no_lock(
    direct: str, open_scratch: Path, tmp_path: Path, mode: str
) -> None:
    kek_file = tmp_path / "kek"
    assert run(direct, "keys", "init", "--kek-file", str(kek_file)).returncode == 0
    with pgbouncer(folder(open_scratch), direct, mode=mode) as pooled:
        for command in (
            ("migrate",),
            ("maintain",),
            ("account", "create", "shop"),
            ("serve", "--port", "0", "--private-port", "0", "--kek-file", str(kek_file)),
        ):
            done = await asyncio.to_thread(run, pooled, *command)
            assert (done.returncode, done.stdout) == (4, ""), (command, done.stderr)
            assert done.stderr.startswith(f"Error: {REFUSAL}") and done.stderr.count("\n") == 1
        doctor = await asyncio.to_thread(run, pooled, "doctor")
        assert f"FAIL  pooler          {REFUSAL}" in doctor.stdout and "ledger" not in doctor.stdout
        connection = await asyncpg.connect(direct)
        assert await connection.fetchval(LOCKS, name_of(direct)) == 0
        # The pooler is still there and keeps its connections. Past it, everything works at once.
        assert await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name_of(direct)) > 1
        assert (await asyncio.to_thread(run, direct, "migrate")).stdout == "nothing to apply\n"
        # Nothing was set for the pooler's other clients.
        other = await asyncpg.connect(pooled, statement_cache_size=0)
        for name in ("enable_hashjoin", "lock_timeout", "plan_cache_mode"):
            row = await other.fetchrow("SELECT setting = reset_val AS same FROM pg_settings WHERE name = $1", name)
            assert row["same"], name
        await other.close()
        await connection.close()


async def test_the_control_of_the_recognition(direct: str, open_scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, a pooler that forwards prepared statements would have been used: two sessions share their settings."""

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(poolers, "refuse_transaction_pooler", nothing)
    with pgbouncer(folder(open_scratch), direct, mode="transaction") as pooled:
        connections = [await session.connect(pooled) for _ in range(2)]
        await connections[0].execute("SET lock_timeout = '1234ms'")
        assert await connections[1].fetchval("SHOW lock_timeout") == "1234ms"
        for connection in connections:
            connection.terminate()


@pytest.mark.parametrize("settings", [{"server_round_robin": 1}, {"default_pool_size": 1}, {"min_pool_size": 5}])
async def test_a_pooler_of_transactions_however_it_chooses_connections(
    direct: str, open_scratch: Path, settings: dict[str, object]
) -> None:
    with pgbouncer(folder(open_scratch), direct, mode="transaction", **settings) as pooled:
        for connect in (migrate.require_schema, session.connect, LedgerSession.open):
            with pytest.raises(TransactionPoolerError):
                await connect(pooled)


async def test_a_pooler_of_transactions_that_others_use(direct: str, open_scratch: Path) -> None:
    with pgbouncer(folder(open_scratch), direct, mode="transaction", default_pool_size=3) as pooled:
        busy = [await asyncpg.connect(pooled, statement_cache_size=0) for _ in range(2)]
        for connection in busy:
            await connection.execute("BEGIN")
            await connection.execute("SELECT 1")
        with pytest.raises(TransactionPoolerError):
            await migrate.require_schema(pooled)
        for connection in busy:
            await connection.close()


async def test_a_ledger_that_meets_a_pooler_of_transactions_accepts_nothing(
    direct: str, open_scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a server does whose pooler was reconfigured after its start."""
    with pgbouncer(folder(open_scratch), direct, mode="transaction") as pooled:
        async with open_truth(direct, 5) as truth, open_ledger(pooled, deadline_s=2.0) as kit:
            await eventually(lambda: kit.ledger.failure == "unsafe_database", 20.0)
            assert await kit.word(1, 1) == "unavailable:unsafe_database"
            assert await truth.log() == []
    assert REFUSAL in caplog.text


async def test_a_server_works_through_a_pooler_of_sessions(direct: str, open_scratch: Path, tmp_path: Path) -> None:
    with (
        pgbouncer(folder(open_scratch), direct, mode="session", default_pool_size=60) as pooled,
        Served(tmp_path / "server", dsn=pooled, workers=1) as served,
    ):
        served.provision(FLEET)
        tap = plain_target(FLEET, 0, 1)
        assert (await once(served.port, tap)).passed and (await once(served.port, tap)).failed
        checks = served.command("doctor")
        done = await asyncio.to_thread(subprocess.run, checks, env=served.environ, capture_output=True, text=True, timeout=60)
        assert "OK    pooler          one that lends connections for whole sessions" in done.stdout
        # The ledger's sessions have their settings, although a pooler accepts none at the start of a connection.
        ledger = await LedgerSession.open(pooled)
        shown = [
            await ledger.connection.fetchval(f"SHOW {name}") for name in ("synchronous_commit", "enable_hashjoin", "timezone")
        ]
        assert shown == ["on", "off", "UTC"]
        ledger.terminate()
        listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        eventually_sync(lambda: served.fetch(listening)[0][0] == 1, 20.0)


async def test_a_pooler_of_sessions_without_a_free_one_is_no_pooler_of_transactions(direct: str, open_scratch: Path) -> None:
    with pgbouncer(folder(open_scratch), direct, mode="session", default_pool_size=1) as pooled:
        await migrate.require_schema(pooled)


async def test_a_parameter_that_a_pooler_does_not_accept(direct: str, open_scratch: Path) -> None:
    with pgbouncer(folder(open_scratch), direct, mode="session") as pooled:
        done = await asyncio.to_thread(run, f"{pooled}&search_path=public", "migrate")
        assert (done.returncode, done.stderr) == (
            4,
            "Error: The connection pooler does not accept the parameter search_path of `dsn`. Remove it, and set it for the role "
            "instead: ALTER ROLE … SET search_path = …\n",
        )


# The lock of migrations.


async def without_last_migration(dsn: str) -> str:
    """Make the database one that lacks the last migration, whose name this returns."""
    *earlier, last = migrate.migrations()
    administer(dsn, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: earlier)
        await migrate.migrate(dsn)
    return last.name


def start(dsn: str, *words: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "IXFAST_DSN": dsn}
    command = [sys.executable, "-m", "ixfast", *words]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_a_command_says_for_whom_it_waits_and_goes_on(direct: str) -> None:
    name = await without_last_migration(direct)
    holder = await asyncpg.connect(direct, server_settings={"application_name": "an old pool"})
    await holder.execute("SELECT pg_advisory_lock($1)", advisory_locks.MIGRATION)
    pid = holder.get_server_pid()
    process = start(direct, "migrate")
    assert process.stderr is not None
    line = await asyncio.to_thread(process.stderr.readline)
    assert line.startswith(f"Waiting up to 60 s for the migration by PostgreSQL process {pid} (role ixfast")
    assert 'application "an old pool", from 127.0.0.1, idle for ' in line
    assert f"SELECT pg_terminate_backend({pid})" in line
    await holder.close()
    out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert (process.returncode, out.splitlines()[0], err) == (0, f"applied {name}", "")


async def test_the_wait_for_a_lock_ends(direct: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisory_locks, "WAIT_S", 0.2)
    await without_last_migration(direct)
    holder = await asyncpg.connect(direct)
    await holder.execute("SELECT pg_advisory_lock($1)", advisory_locks.MIGRATION)
    words = f"process {holder.get_server_pid()} .* still holds the lock of the migration after .* Run the command again"
    with pytest.raises(advisory_locks.DatabaseLockedError, match=words):
        await migrate.migrate(direct)
    await holder.close()


async def test_a_lock_that_a_pool_kept_does_not_keep_a_server_from_starting(direct: str, tmp_path: Path) -> None:
    """Nothing is pending, so that nobody needs the lock."""
    holder = await asyncpg.connect(direct)
    for lock in (advisory_locks.MIGRATION, advisory_locks.PARTITIONS):
        await holder.execute("SELECT pg_advisory_lock($1)", lock)
    with Served(tmp_path / "server", dsn=direct, workers=1) as served:
        assert served.ready
    await holder.close()


async def test_a_killed_command_leaves_no_lock(direct: str) -> None:
    name = await without_last_migration(direct)
    blocker, watcher = await asyncpg.connect(direct), await asyncpg.connect(direct)
    await blocker.execute("BEGIN; LOCK TABLE schema_migration IN SHARE MODE")
    process = start(direct, "migrate")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"

    async def blocked() -> bool:
        return bool(await watcher.fetchval(waiting, name_of(direct)))

    await eventually(blocked, 30.0)
    process.kill()
    await asyncio.to_thread(process.communicate)
    await blocker.close()
    await watcher.close()
    eventually_sync(lambda: run(direct, "migrate").stdout.startswith(f"applied {name}\n"), 60.0)
