"""Schema migrations: numbered SQL files, applied once each, in order, under an advisory lock.

A file is named `0007_pre_what.sql` or `0007_post_what.sql`. `pre` is safe while workers of the release before still
run (it only adds); `post` is applied when they are gone (it may remove). `serve` applies `pre` by itself; `post` waits for
`ixfast migrate --post`. An applied file must not change any more: its SHA-256 is kept and compared.
"""

from __future__ import annotations

import hashlib
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

_LOCK = 0x6978_6661_7374  # "ixfast": one migration at a time in a database.
_FILE = re.compile(r"(\d{4})_(pre|post)_\w+\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class SchemaMismatchError(ConfigurationError):
    """The database's schema is not the one of this release: run `ixfast migrate`."""


class UnreachableDatabaseError(ConfigurationError):
    """The database cannot be reached: look at `dsn`, the network and the server."""


class Migration(NamedTuple):
    number: int
    phase: str  # "pre" or "post"
    name: str
    sql: str

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.sql.encode()).digest()


def migrations() -> list[Migration]:
    """All migrations of this release in the order of their numbers."""
    found = []
    for file in (sql_folder() / "migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.name, file.read_text("utf-8")))
    return sorted(found)


async def migrate(
    dsn: str, *, post: bool = False, changed: Callable[[partitions.Change], None] = partitions.log_change
) -> list[str]:
    """Bring the database up to this release and return the names of the files applied now.

    `changed` is called for each partition that was made or attached, or could not be.

    Raises `SchemaMismatchError` if an applied file differs from ours or the database is ahead of this release,
    `UnreachableDatabaseError` if there is none that accepts writes, `UnsupportedServerError` if its PostgreSQL is too old.
    """
    connection = await _connect(dsn)
    try:
        check_version(connection)
        await fix_durability(connection)
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(_TABLE)
        applied = []
        for migration in await pending(connection):
            if migration.phase == "post" and not post:
                break
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migration (number, name, sha256) VALUES ($1, $2, $3)",
                    migration.number,
                    migration.name,
                    migration.sha256,
                )
            applied.append(migration.name)
        # Whoever waits for this lock has a snapshot, and would keep a partition from being detached to the end.
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        await partitions.make_ahead(connection, changed=changed)
        return applied
    finally:
        await connection.close()


async def _connect(dsn: str) -> Any:
    patience_s = limits.CONNECT_TIMEOUT_MS / 1000 * 10
    try:
        return await hosts.connect(dsn, patience_s)
    except ValueError:  # what asyncpg says may quote a part of the password
        raise UnreachableDatabaseError(
            "The connection string `dsn` cannot be read; percent-encode the special characters of user and password."
        ) from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        said = str(error).strip().rstrip(".") or f"no answer in {patience_s:.0f} s"
        raise UnreachableDatabaseError(
            f"The database cannot be reached: {said}. Look at `dsn`, the network and the server."
        ) from None


async def pending(connection: Any) -> list[Migration]:
    """Migrations that the database lacks; raises `SchemaMismatchError` where the two cannot belong together."""
    rows = await connection.fetch("SELECT number, name, sha256 FROM schema_migration ORDER BY number")
    ours = {m.number: m for m in migrations()}
    for row in rows:
        migration = ours.pop(row["number"], None)
        if migration is None:
            raise SchemaMismatchError(
                f"The database has migration {row['name']}, which this release of ixfast does not know: "
                "run the release that applied it, or a later one."
            )
        if migration.sha256 != row["sha256"]:
            raise SchemaMismatchError(
                f"Migration {row['name']} was applied with another text than this release has: "
                "restore the file it was applied from."
            )
    return [ours[number] for number in sorted(ours)]


async def check(connection: Any) -> None:
    """Raise `SchemaMismatchError` unless every `pre` migration of this release is applied.

    Raises `UnsupportedServerError` if the server's PostgreSQL is too old.
    """
    check_version(connection)
    if await connection.fetchval("SELECT to_regclass('schema_migration')") is None:
        raise SchemaMismatchError("The database has no ixfast schema: run `ixfast migrate`.")
    missing = [m.name for m in await pending(connection) if m.phase == "pre"]
    if missing:
        raise SchemaMismatchError(f"The database lacks {', '.join(missing)}: run `ixfast migrate`.")
