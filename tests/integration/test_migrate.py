"""Migrations and partitions: what they make, in which order, and what they refuse."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support import drop_database

from ixfast import limits
from ixfast.store import migrate, partitions
from ixfast.store.connections.connect_errors import UnreachableDatabaseError
from ixfast.store.connections.connection_string import ConnectionStringError
from ixfast.store.connections.session import UnsupportedServerError
from ixfast.store.migrate import Migration, MigrationError, SchemaMismatchError
from ixfast.store.queries import sql_folder

# One line for everything that a schema consists of; the log's partitions come and go and are left out.
DESCRIPTION = """
WITH own AS (
    SELECT c.* FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
)
SELECT format('%s %s %s %s', relkind, relname, reloptions, pg_get_partkeydef(oid)) FROM own
UNION ALL
SELECT format('column %s.%s %s %s %s %s', relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
              pg_get_expr(adbin, adrelid))
FROM own JOIN pg_attribute ON attrelid = own.oid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v', 'm')
UNION ALL
SELECT format('constraint %s.%s %s', relname, conname, pg_get_constraintdef(con.oid))
FROM own JOIN pg_constraint AS con ON conrelid = own.oid
UNION ALL
SELECT pg_get_indexdef(indexrelid) FROM own JOIN pg_index ON indexrelid = own.oid
UNION ALL
SELECT pg_get_triggerdef(t.oid) FROM own JOIN pg_trigger AS t ON tgrelid = own.oid WHERE NOT tgisinternal
UNION ALL
SELECT format('function %s', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1
"""


@pytest.fixture
async def empty(postgres: Any) -> AsyncIterator[str]:
    """The connection string of a database without anything in it."""
    name = f"ixfast_empty_{secrets.token_hex(6)}"
    administration = await asyncpg.connect(postgres.dsn)
    await administration.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn_of(name)
    await administration.close()
    drop_database(postgres.dsn, name)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def description(dsn: str, *statements: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
        return [row[0] for row in await connection.fetch(DESCRIPTION)]
    finally:
        await connection.close()


async def test_the_whole_truth_is_what_the_migrations_make(empty: str, database: str) -> None:
    await migrate.migrate(database, post=True)
    whole = await description(empty, (sql_folder() / "schema.sql").read_text("utf-8"))
    assert whole == await description(database)
    # The comparison sees a difference of any kind.
    seen = {tuple(whole)}
    for difference in (
        "ALTER TABLE tag ADD COLUMN weight int",
        "ALTER TABLE tag_counter ALTER scan_count DROP NOT NULL",
        "ALTER TABLE tag_counter ALTER last_position SET DEFAULT 1",
        "ALTER TABLE tag_counter SET (fillfactor = 70)",
        "CREATE INDEX ON tag_counter (last_at)",
        "ALTER TABLE scan_log ADD CHECK (tag_id > 0)",
        "CREATE TABLE other ()",
    ):
        found = tuple(await description(empty, difference))
        assert found not in seen
        seen.add(found)


async def test_a_partition_that_is_detached_during_the_upgrade_can_be_attached_again(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    try:
        for each in migrate.migrations()[:3]:
            await connection.execute(each.sql)
        await connection.execute("CREATE TABLE scan_log_2030_01 (LIKE scan_log)")
        await connection.execute("INSERT INTO scan_log_2030_01 VALUES ('2030-01-31 12:00+00', 1, 2, 3, 'r')")
        await connection.execute("CREATE TABLE scan_log_copy (LIKE scan_log)")  # not a partition's name: left alone
        await connection.execute(migrate.migrations()[3].sql)
        bounds = "FOR VALUES FROM ('2030-01-01 00:00+00') TO ('2030-02-01 00:00+00')"
        await connection.execute(f"ALTER TABLE scan_log ATTACH PARTITION scan_log_2030_01 {bounds}")
        row = await connection.fetchrow("SELECT * FROM scan_log")
        assert (row["verdict"], row["reason"], row["account_id"]) == (b"r", None, None)
        with pytest.raises(asyncpg.UndefinedColumnError):
            await connection.execute("SELECT reason FROM scan_log_copy")
    finally:
        await connection.close()


async def test_migrating_again_does_nothing(database: str) -> None:
    assert await migrate.migrate(database) == []
    assert await migrate.migrate(database, post=True) == []


async def test_at_once_one_migrates_and_the_others_wait(empty: str) -> None:
    applied = await asyncio.gather(*(migrate.migrate(empty, post=True) for _ in range(5)))
    assert sorted(name for each in applied for name in each) == [m.name for m in migrate.migrations()]  # each by one of them


def test_the_files_are_numbered_without_a_gap() -> None:
    ours = migrate.migrations()
    assert [m.number for m in ours] == list(range(1, len(ours) + 1))
    assert {m.phase for m in ours} <= {"pre", "post"}
    assert len(list((sql_folder() / "migrations").iterdir())) == len(ours)  # none is left out for its name


async def test_what_every_scan_changes_is_hardly_ever_analysed(connection: asyncpg.Connection) -> None:
    """An analysis holds a snapshot, and for as long the counters' old versions stay: updates are heap-only no more."""
    await partitions.make_ahead(connection)
    options = dict(
        await connection.fetch(
            "SELECT relname, reloptions FROM pg_class"
            " WHERE relname = 'tag_counter' OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'scan_log'::regclass)"
        )
    )
    assert options.pop("tag_counter") == ["autovacuum_analyze_scale_factor=100"]
    assert len(options) == partitions.SCAN_LOG.ahead + 1
    assert set(map(tuple, options.values())) == {("autovacuum_analyze_scale_factor=1",)}


def script(number: int, phase: str, sql: str) -> Migration:
    return Migration(number, phase, f"{number:04}_{phase}_test.sql", sql)


FURTHER = [
    script(9001, "pre", "CREATE TABLE first ()"),
    script(9002, "post", "DROP TABLE first"),
    script(9003, "pre", "CREATE TABLE first (again int)"),
]


@pytest.fixture
def further(monkeypatch: pytest.MonkeyPatch) -> list[Migration]:
    """Three migrations of a release to come."""
    ours = [*migrate.migrations(), *FURTHER]
    monkeypatch.setattr(migrate, "migrations", lambda: ours)
    return ours


async def test_post_waits_for_its_word_and_keeps_the_order(
    database: str, connection: asyncpg.Connection, further: list[Migration]
) -> None:
    with pytest.raises(SchemaMismatchError, match=r"lacks 9001_pre_test.sql, 9003_pre_test.sql. Run `ixfast migrate`"):
        await migrate.check(connection)
    assert await migrate.migrate(database) == ["9001_pre_test.sql"]
    assert await migrate.migrate(database) == []
    assert await migrate.migrate(database, post=True) == ["9002_post_test.sql", "9003_pre_test.sql"]
    await migrate.check(connection)
    assert [m.number for m in await migrate.pending(connection)] == []


async def test_a_migration_that_fails_leaves_nothing_behind(
    database: str, connection: asyncpg.Connection, further: list[Migration]
) -> None:
    further[-1] = script(9003, "pre", "CREATE TABLE half (); SELECT 1 / 0")
    with pytest.raises(MigrationError, match=r"refused applying 9003_pre_test.sql, .*: division by zero \(22012\)\.$"):
        await migrate.migrate(database, post=True)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert [m.number for m in await migrate.pending(connection)] == [9003]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE schema_migration SET sha256 = '\\x00'", "applied from a file that differs"),
        (
            "INSERT INTO schema_migration VALUES (9999, '9999_pre_future.sql', '')",
            "9999_pre_future.sql, which is unknown to this release",
        ),
    ],
)
async def test_another_releases_database_is_refused(
    database: str, connection: asyncpg.Connection, damage: str, words: str
) -> None:
    await migrate.check(connection)
    await connection.execute(damage)
    with pytest.raises(SchemaMismatchError, match=words):
        await migrate.check(connection)
    with pytest.raises(SchemaMismatchError, match=words):
        await migrate.migrate(database)


async def test_a_server_that_is_too_old_is_refused_in_one_line(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await asyncpg.connect(empty)
    own = connection.get_server_version().major
    monkeypatch.setattr(limits, "POSTGRES_MAJOR_MIN", own + 1)
    refusal = f"^The database runs PostgreSQL {own}; ixfast needs PostgreSQL {own + 1} or later.$"
    try:
        with pytest.raises(UnsupportedServerError, match=refusal):
            await migrate.migrate(empty)
        with pytest.raises(UnsupportedServerError, match=refusal):
            await migrate.check(connection)
        assert await connection.fetchval("SELECT to_regclass('schema_migration')") is None
    finally:
        await connection.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_a_database_that_is_not_in_utf_8_is_refused_in_one_line(postgres: Any, encoding: str) -> None:
    name = f"ixfast_encoding_{secrets.token_hex(6)}"
    administration = await asyncpg.connect(postgres.dsn)
    await administration.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    )
    refusal = (
        f"^The database has the encoding {encoding}; ixfast needs UTF8. Create another database: "
        "CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0$"
    )
    dsn = postgres.dsn_of(name)
    try:
        with pytest.raises(UnsupportedServerError, match=refusal):
            await migrate.migrate(dsn)
        connection = await asyncpg.connect(dsn)
        with pytest.raises(UnsupportedServerError, match=refusal):
            await migrate.check(connection)
        assert await connection.fetchval("SELECT to_regclass('schema_migration')") is None
        await connection.close()
    finally:
        await administration.close()
        drop_database(postgres.dsn, name)


async def test_an_empty_database_is_told_to_migrate(empty: str) -> None:
    connection = await asyncpg.connect(empty)
    with pytest.raises(SchemaMismatchError, match="Run `ixfast migrate`"):
        await migrate.check(connection)
    await connection.close()


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("127.0.0.1:1/ixfast", UnreachableDatabaseError, "Cannot connect to the database: .*Errno 111"),
        ("127.0.0.1:p4ss@word/ixfast", ConnectionStringError, "is malformed. Percent-encode"),
        ("127.0.0.1:1/ixfast?sslmode=p4ss", ConnectionStringError, "sslmode must be disable, allow, "),
    ],
)
async def test_an_unreachable_database_is_told_without_the_password(place: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        await migrate.migrate(f"postgresql://ixfast:p4ss@{place}")
    assert "p4ss" not in str(caught.value)
