"""Schema migrations: numbered SQL files, each applied once, in order, under an advisory lock.

A file is named `0007_pre_subject.sql` or `0007_post_subject.sql`. A `pre` migration only adds, so it is safe while workers of
the previous release run; `serve` applies it automatically. A `post` migration may remove things, so it must wait until those
workers are stopped; `ixfast migrate --post` applies it. An applied file must never change: its SHA-256 is stored and compared.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import asyncpg

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store import partitions
from ixfast.store.connections import hosts
from ixfast.store.connections.session import check_version, fix_durability
from ixfast.store.queries import sql_folder

log = logging.getLogger("ixfast.migrate")

_LOCK = 0x6978_6661_7374  # "ixfast": one migration at a time per database
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


class UnreachableDatabaseError(ConfigurationError):
    """No server that accepts writes can be reached."""


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
    dsn: str, *, post: bool = False, changed: Callable[[partitions.Change], None] = partitions.log_change
) -> list[str]:
    """Apply the pending migrations and return their names; with `post`, also those of the phase `post`.

    `changed` is called for each partition that was created or attached, or failed to be.

    Raises `SchemaMismatchError` if an applied file differs from ours, the database is ahead of this release, or another program
    has objects of the same names in it, `UnreachableDatabaseError` if there is none that accepts writes, `UnsupportedServerError`
    if its PostgreSQL is too old.
    """
    connection = await _connect(dsn)
    try:
        check_version(connection)
        await fix_durability(connection)
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        applied: list[str] = []
        for migration in await pending(connection):
            if migration.phase == "post" and not post:
                break
            async with connection.transaction():
                if not applied:
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
            log.info("applied migration %s", migration.name)
            applied.append(migration.name)
        # Release the lock first: a session that waits for it holds a snapshot, and detaching a partition waits for that.
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        await partitions.make_ahead(connection, changed=changed)
        return applied
    finally:
        await connection.close()


async def _connect(dsn: str) -> Any:
    patience_s = limits.CONNECT_TIMEOUT_MS / 1000 * 10
    try:
        return await hosts.connect(dsn, patience_s)
    except ValueError:  # asyncpg's message may quote a part of the password
        raise UnreachableDatabaseError(
            "The connection string `dsn` is malformed. Percent-encode special characters in the user name and password."
        ) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        reason = str(error).strip().rstrip(".") or f"no answer within {patience_s:.0f} s"
        raise UnreachableDatabaseError(
            f"Cannot connect to the database: {reason}. Check `dsn`, the network and the server."
        ) from None


async def pending(connection: Any) -> list[Migration]:
    """The migrations that the database lacks. Raises SchemaMismatchError if an applied one is unknown or differs."""
    rows = []
    if await _has_schema(connection):
        rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migration ORDER BY number")
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
    """Connect to a database and raise what `check` raises; `UnreachableDatabaseError` if there is none that accepts writes."""
    connection = await _connect(dsn)
    try:
        await check(connection)
    finally:
        await connection.close()


async def _has_schema(connection: Any) -> bool:
    return await connection.fetchval("SELECT to_regclass('schema_migration')") is not None
