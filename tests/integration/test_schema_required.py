"""Commands leave a configured database alone that has no schema of ixfast, and migrations leave other tables alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from support import administer, drop_database, in_own_loop

from ixfast.cli import main
from ixfast.cli.exit_codes import ExitCode
from ixfast.keys import KeyEncryptionKeys


class Database:
    """A database, and commands that use it as `--dsn`."""

    def __init__(self, dsn: str, kek_file: Path) -> None:
        self.dsn = dsn
        self._environment = {"IXFAST_DSN": None, "IXFAST_DATA_DIR": None, "IXFAST_KEK_FILE": str(kek_file)}

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*words, "--dsn", self.dsn], env=self._environment)

    def tables(self) -> list[str]:
        found: list[str] = []

        async def read() -> None:
            connection = await asyncpg.connect(self.dsn)
            rows = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
            await connection.close()
            found.extend(row["relname"] for row in rows)

        in_own_loop(read)
        return found


@pytest.fixture
def empty(postgres: Any, tmp_path: Path) -> Iterator[Database]:
    name = f"ixfast_empty_{secrets.token_hex(6)}"
    administer(postgres.dsn, f"CREATE DATABASE {name}")
    KeyEncryptionKeys.create_file(tmp_path / "kek")
    yield Database(postgres.dsn_of(name), tmp_path / "kek")
    drop_database(postgres.dsn, name)


COMMANDS = (
    ("account", "list"),
    ("account", "create", "shop"),
    ("tag", "show", "x"),
    ("keys", "status"),
    ("export", "--account", "shop"),
    ("verify", "https://example.com/?x=abcdefgh"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_creates_no_schema(empty: Database, words: tuple[str, ...]) -> None:
    done = empty.run(*words)
    assert (done.exit_code, done.stderr) == (
        ExitCode.CONFIGURATION,
        "Error: The database has no ixfast schema. Run `ixfast migrate`.\n",
    )
    assert empty.tables() == []


def test_a_database_that_lacks_a_migration(empty: Database) -> None:
    assert empty.run("migrate").exit_code == 0
    assert empty.run("account", "list").exit_code == 0
    administer(empty.dsn, "DELETE FROM schema_migration WHERE number > 1")
    done = empty.run("account", "list")
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.stderr.startswith("Error: The database lacks 0002_pre_counter_statistics.sql, ")
    assert done.stderr.endswith(". Run `ixfast migrate`.\n") and done.stderr.count("\n") == 1


def test_the_demo_migrates(empty: Database) -> None:
    assert empty.run("demo").exit_code == 0
    assert empty.run("account", "list").stdout


def test_the_tables_of_another_program_stay_as_they_are(empty: Database) -> None:
    administer(empty.dsn, "CREATE TABLE account (id int)")
    for words in (("migrate",), ("demo",)):
        done = empty.run(*words)
        assert (done.exit_code, done.stderr) == (
            ExitCode.CONFIGURATION,
            'Error: The database has objects of another program: relation "account" already exists. '
            "Create a database for ixfast alone.\n",
        )
        assert empty.tables() == ["account"]
