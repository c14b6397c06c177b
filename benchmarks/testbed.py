"""The testbed: a private PostgreSQL with template databases in which every tag is provisioned, and fresh copies of them.

`Testbed` is synchronous, like the private PostgreSQL itself; its queries run in short event loops of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg
import orjson

from benchmarks.load.traffic import Traffic, fleet_of
from ixfast.embedded import EmbeddedPostgres
from ixfast.keys import KeyEncryptionKeys
from ixfast.store.admin import edits
from ixfast.store.migrate import migrate
from ixfast.testing.provision import provision

IXFAST_DATABASE = "bench_ixfast"
IXFAST_FULL_DATABASE = "bench_ixfast_full"
PEER_DATABASE = "bench_peer"
T = TypeVar("T")
_FILLED = "filled"

FIELDS = {"Product Name": "Vase", "colour": "blue", "market": "DE", "size": "large", "season": "2026 summer"}
FIELD_DEFINITIONS = [{"name": name, "in_reply": True} for name in FIELDS]
RULES = {
    "groups": [
        {"name": "worn out", "when": "authentication == pass and scan_count > 10000000", "response": "Retired"},
        {"name": "opened", "when": "tamper.stored == open or tamper == open", "response": "Opened"},
        {"name": "elsewhere", "when": "field.market not in (DE, AT, CH)", "response": "Not sold here"},
        {"name": "skipped", "when": "gap > 1000000 and chip_count > 10000000", "response": "Ask us"},
        {"name": "genuine", "when": "authentication == pass and batch is known", "response": "Pass"},
    ],
    "default": "Fail",
}
"""The responses are those of the built-in rules, so that the same ones can be expected, but a scan evaluates all groups first."""


_LOG_FILES = 48


async def _age(connection: Any) -> None:
    """Create files of the write-ahead log, as a server has them that has run for a while.

    PostgreSQL creates each file of 16 MB when it is first needed, which takes about 20 ms during which nothing commits; from
    the first checkpoint on it reuses old ones. Without this, little else would be visible beyond the 99th percentile of a
    server that has just started.
    """
    for _ in range(_LOG_FILES):
        await connection.execute("SELECT pg_logical_emit_message(false, 'ixfast', repeat('x', 16000000))")
    await connection.execute("CREATE DATABASE bench_ageing")
    await connection.execute("DROP DATABASE bench_ageing")  # Forces a checkpoint, without the privilege for CHECKPOINT.


class Testbed:
    """The server, as a context manager. `kek_file` opens the keys in `IXFAST_DATABASE`."""

    __test__ = False  # pytest would take the name for that of a test class

    def __init__(
        self, traffic: Traffic, *, postgres: Mapping[str, str] | None = None, folder: Path | None = None, aged: bool = False
    ) -> None:
        """`postgres` are additional settings of the server. With a `folder` the databases are kept in it. `aged` creates the
        files of the write-ahead log beforehand, see `_age`.
        """
        self.traffic = traffic
        self.token = ""  # API key of the account in IXFAST_FULL_DATABASE, once that template exists
        self._settings = postgres
        self._folder = folder
        self._aged = aged
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._templates: set[str] = set()

    def __enter__(self) -> Self:
        with self._stack:
            folder = self._folder
            if folder is None:
                folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ixfast-bench-")))
            folder.chmod(0o711)  # when started as root, PostgreSQL runs as another user, who needs access
            self.kek_file = folder / "kek"
            known = self.kek_file.exists()
            self.keks = (KeyEncryptionKeys.load_file if known else KeyEncryptionKeys.create_file)(self.kek_file)
            self._postgres = self._stack.enter_context(EmbeddedPostgres(folder / "postgres", settings=self._settings))
            if self._aged:
                self.run(self._postgres.dsn, _age)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def postgres_pids(self) -> list[int]:
        """The pid of the postmaster, whose children do the work."""
        pid_file = self._postgres.cluster / "postmaster.pid"
        return [int(pid_file.read_text().splitlines()[0])]

    def prepare(self, template: str) -> None:
        """Create a template database unless it exists."""
        if template in self._templates:
            return
        fill = {
            IXFAST_DATABASE: self._provision, IXFAST_FULL_DATABASE: self._provision_full, PEER_DATABASE: self._provision_peer,
        }[template]  # fmt: skip
        self.run(self._postgres.dsn, lambda connection: connection.execute(f"CREATE DATABASE {template}"))
        asyncio.run(_of(fill(self._postgres.dsn_of(template))))
        self.run(self._postgres.dsn_of(template), lambda connection: connection.execute("VACUUM (ANALYZE)"))
        self._templates.add(template)

    def make(self, name: str, fill: Callable[[str], None]) -> tuple[str, bool]:
        """The connection string of a database that `fill` filled, and whether it was filled now. A database that an earlier run
        filled is reused; one that an earlier run left incomplete is created again.
        """
        root, dsn = self._postgres.dsn, self._postgres.dsn_of(name)
        sql = "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = $1"
        state = self.run(root, lambda connection: connection.fetchval(sql, name))
        if state == _FILLED:
            return dsn, False
        if state is not None:
            self.run(root, partial(_drop, name=name))
        self.run(root, lambda connection: connection.execute(f"CREATE DATABASE {name}"))
        fill(dsn)
        self.run(dsn, lambda connection: connection.execute("VACUUM (ANALYZE)"))
        # Copying a database's files forces a checkpoint, for which this role has no privilege otherwise.
        with self._copy("template0"):
            pass
        self.run(root, lambda connection: connection.execute(f"COMMENT ON DATABASE {name} IS '{_FILLED}'"))
        return dsn, True

    async def _provision(self, dsn: str) -> None:
        await migrate(dsn)
        connection = await asyncpg.connect(dsn)
        try:
            await provision(connection, self.keks, [fleet_of(self.traffic)])
        finally:
            await connection.close()

    async def _provision_full(self, dsn: str) -> None:
        """The same tags in a closed account, with extended fields in the response and rules of several groups."""
        await self._provision(dsn)
        connection = await asyncpg.connect(dsn)
        try:
            account_id = await edits.account_id_of(connection, fleet_of(self.traffic).account)
            await connection.execute("UPDATE account SET open = false")
            await connection.execute("UPDATE folder SET fields = $1", orjson.dumps(FIELD_DEFINITIONS).decode())
            values = (orjson.dumps(FIELDS).decode(), orjson.dumps(RULES).decode())
            await connection.execute("UPDATE tag_group SET fields = $1, rule_set = $2", *values)
            self.token = await edits.create_api_key(connection, account_id, ["scan"])
        finally:
            await connection.close()

    async def _provision_peer(self, dsn: str) -> None:
        fleet = fleet_of(self.traffic)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute((Path(__file__).parent / "peers" / "table.sql").read_text())
            rows = ((fleet.xuid(i), fleet.uid(i), fleet.file_key(i)) for i in range(len(fleet)))
            await connection.copy_records_to_table("peer_tag", records=rows, columns=("code", "uid", "key"))
        finally:
            await connection.close()

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        """The connection string of a fresh copy, made with a checkpoint; the copy is dropped afterwards."""
        self.prepare(template)
        with self._copy(template) as dsn:
            yield dsn

    @contextlib.contextmanager
    def _copy(self, template: str) -> Iterator[str]:
        name = f"{template}_copy_{next(self._numbers)}"

        async def create(connection: Any) -> None:
            # Copying the files, instead of their content through the log, makes a checkpoint before and after.
            strategy = "STRATEGY file_copy" if connection.get_server_version() >= (15,) else ""
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")

        self.run(self._postgres.dsn, create)
        try:
            yield self._postgres.dsn_of(name)
        finally:
            self.run(self._postgres.dsn, partial(_drop, name=name))

    def settings(self) -> dict[str, str]:
        """PostgreSQL's version, and its settings that differ from the default, without paths."""

        async def read(connection: Any) -> dict[str, str]:
            rows = await connection.fetch(
                "SELECT name, current_setting(name) AS value FROM pg_settings"
                " WHERE source NOT IN ('default', 'override', 'client', 'session')"
                " AND category !~ 'File Locations|Where to Log|Connection Settings|Locale'"
                " AND name IN (SELECT name FROM pg_settings WHERE vartype <> 'string') ORDER BY name"
            )
            return {"server_version": await connection.fetchval("SHOW server_version"), **{r["name"]: r["value"] for r in rows}}

        return self.run(self._postgres.dsn, read)

    @staticmethod
    def run(dsn: str, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run `work` with a connection to a database."""

        async def main() -> T:
            connection = await asyncpg.connect(dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(main())


async def _drop(connection: Any, name: str) -> None:
    """Drop a database. Not with FORCE, which only a superuser may use while autovacuum is running there."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'", name
    )
    await connection.execute(f"DROP DATABASE {name}")


async def _of(work: Awaitable[None]) -> None:
    await work
