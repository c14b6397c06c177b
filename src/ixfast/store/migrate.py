"""Schema migrations: numbered SQL files, each applied once, in order, under an advisory lock.

A file is named `0007_pre_subject.sql` or `0007_post_subject.sql`. A `pre` migration only adds, so it is safe while workers of
the previous release run; `serve` applies it automatically. A `post` migration may remove things, so it must wait until those
workers are stopped; `ixfast migrate --post` applies it. An applied file must never change: its SHA-256 is stored and compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import asyncpg

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store import advisory_locks, partitions, privileges
from ixfast.store.connections import hosts
from ixfast.store.connections.connect_errors import explained
from ixfast.store.connections.connection_string import ConnectionString
from ixfast.store.connections.session import check_version, require_session
from ixfast.store.queries import load, sql_folder
from ixfast.store.table_locks import TableLocks

log = logging.getLogger("ixfast.migrate")

_FILE = re.compile(r"(\d{4})_(pre|post)_\w+\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_IN_THE_WAY = (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError, asyncpg.DuplicateFunctionError)


class SchemaMismatchError(ConfigurationError):
    """The schema of the database does not match this release."""


class MigrationError(ConfigurationError):
    """The database refused a migration; the message says why."""


class Migration(NamedTuple):
    """A migration file. `name` is the file name, `sql` its content."""

    number: int
    phase: str  # "pre" or "post"
    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


def migrations() -> list[Migration]:
    """All migrations of this release, ordered by number."""
    found = []
    for file in (sql_folder() / "migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.name, file.read_text("utf-8")))
    return sorted(found)


async def migrate(
    dsn: str,
    *,
    post: bool = False,
    changed: Callable[[partitions.Change], None] = partitions.log_change,
    waiting: advisory_locks.Notice = log.warning,
) -> list[str]:
    """Apply the pending migrations and return their names; with `post`, also those of the phase `post`.

    `changed` is called for each partition that was created or attached, or failed to be, and `waiting` with a line that says for
    whom this waits.

    Raises `SchemaMismatchError` if an applied file differs from ours, the database is ahead of this release, or another program
    has objects of the same names in it, `UnsupportedServerError` if its PostgreSQL is too old, `MigrationError` if the server
    refuses a statement, `DatabaseLockedError` or `TableLockedError` if another session does not finish, and what `connected`
    raises.
    """
    async with connected(dsn) as connection:
        check_version(connection)
        applied: list[str] = []
        locks = TableLocks(dsn, connection, waiting)
        try:
            while (migration := await locks.patiently(lambda: _next(connection, post), "reading the schema")) is not None:
                done = await locks.patiently(lambda: _apply_next(connection, post, waiting), f"the migration {migration.name}")
                applied += [done] if done is not None else []
            await partitions.make_ahead(connection, changed=changed, locks=locks)
        except asyncpg.PostgresError as error:
            raise await _refusal(connection, error, post) from None
        return applied


async def _next(connection: Any, post: bool) -> Migration | None:
    """The next migration to apply. Those of the phase `post` hold up all that follow them."""
    migration = next(iter(await pending(connection)), None)
    return None if migration is None or (migration.phase == "post" and not post) else migration


async def _apply_next(connection: Any, post: bool, waiting: advisory_locks.Notice) -> str | None:
    """Apply the next migration in one transaction. None if another process has applied it meanwhile."""
    async with advisory_locks.held_by_transaction(connection, advisory_locks.MIGRATION, waiting):
        migration = await _next(connection, post)
        if migration is not None:
            await _apply(connection, migration)
    if migration is None:
        return None
    log.info("applied migration %s", migration.name)
    return migration.name


async def _apply(connection: Any, migration: Migration) -> None:
    await connection.execute(_TABLE)
    try:
        await connection.execute(migration.sql)
    except _IN_THE_WAY as error:
        raise SchemaMismatchError(
            f"The database has objects of another program: {error}. Create a database for ixfast alone."
        ) from None
    await connection.execute(
        "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
        migration.number,
        migration.name,
        migration.sha256,
    )


async def _refusal(connection: Any, error: asyncpg.PostgresError, post: bool) -> ConfigurationError:
    """The error to raise for one that the server reported. Nothing of the migration that it concerns was applied."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        role = await connection.fetchrow(load("privileges")["role"])
        return MigrationError(privileges.denied(role, str(error)))
    migration = await _next(connection, post)
    work = "creating partitions" if migration is None else f"applying {migration.name}, of which nothing was kept"
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        reason = "it is read-only: turn default_transaction_read_only off for this role and database"
    elif isinstance(error, asyncpg.InsufficientResourcesError):
        reason = f"it has no space, memory or connections left ({_text(error)}); free some and run the command again"
    elif isinstance(error, asyncpg.QueryCanceledError):
        reason = f"{_text(error)}; run the command again when it is less busy"
    else:
        reason = f"{_text(error)} ({error.sqlstate})"
    return MigrationError(f"The database refused {work}: {reason}.")


def _text(error: asyncpg.PostgresError) -> str:
    return " ".join(str(error.args[0] if error.args else type(error).__name__).split())


@contextlib.asynccontextmanager
async def connected(dsn: str, *, statement_cache_size: int = 0) -> AsyncIterator[Any]:
    """A connection for commands, to the host that accepts writes. Statements may be cached if it is known to be a session.

    Raises `UnreachableDatabaseError` if there is none, `RefusedConnectionError` or `ConnectionStringError` if the connection
    string must be changed, and `TransactionPoolerError`.
    """
    patience_s = ConnectionString(dsn).connect_timeout_s or limits.CONNECT_TIMEOUT_MS / 1000 * 10
    with explained(dsn, patience_s):
        connection = await hosts.connect(
            dsn, patience_s, application_name="ixfast-command", statement_cache_size=statement_cache_size
        )
        try:
            await require_session(dsn, connection)
        except BaseException:
            connection.terminate()
            raise
    try:
        yield connection
    finally:
        await connection.close()


async def pending(connection: Any) -> list[Migration]:
    """The migrations that the database lacks. Raises SchemaMismatchError if an applied one is unknown or differs."""
    rows = []
    if await _has_schema(connection):
        try:
            rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migration ORDER BY number")
        except asyncpg.InsufficientPrivilegeError as error:
            role = await connection.fetchrow(load("privileges")["role"])
            raise MigrationError(privileges.denied(role, str(error))) from None
    ours = {m.number: m for m in migrations()}
    for row in rows:
        migration = ours.pop(row["number"], None)
        if migration is None:
            raise SchemaMismatchError(
                f"The database has migration {row['name']}, which is unknown to this release of ixfast. "
                "Run the release that applied it or a later one."
            )
        if migration.sha256 != row["sha256"]:
            raise SchemaMismatchError(
                f"Migration {row['name']} was applied from a file that differs from the one in this release. "
                "Restore the file that was applied."
            )
    return [ours[number] for number in sorted(ours)]


async def check(connection: Any) -> None:
    """Raise `SchemaMismatchError` unless every `pre` migration of this release is applied.

    Raises `UnsupportedServerError` if the server's PostgreSQL is too old.
    """
    check_version(connection)
    if not await _has_schema(connection):
        raise SchemaMismatchError("The database has no ixfast schema. Run `ixfast migrate`.")
    missing = [m.name for m in await pending(connection) if m.phase == "pre"]
    if missing:
        raise SchemaMismatchError(f"The database lacks {', '.join(missing)}. Run `ixfast migrate`.")


async def require_schema(dsn: str) -> None:
    """Connect to a database and raise what `check` and `connected` raise."""
    async with connected(dsn) as connection:
        await check(connection)


async def _has_schema(connection: Any) -> bool:
    return await connection.fetchval("SELECT to_regclass('schema_migration')") is not None
