"""The stage: a private PostgreSQL with every tag provisioned, and for each contender a fresh database copied from it.

`Stage` is synchronous, like the private PostgreSQL itself; what it asks the database runs in short loops of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg

from benchmarks.load.traffic import Traffic, fleet_of
from ixfast.embedded import EmbeddedPostgres
from ixfast.keys import KeyEncryptionKeys
from ixfast.provision import provision
from ixfast.store.migrate import migrate

IXFAST_DATABASE = "bench_ixfast"
PEER_DATABASE = "bench_peer"
T = TypeVar("T")


class Stage:
    """As a context manager it holds the server. `kek_file` opens the keys in `IXFAST_DATABASE`."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with self._stack:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ixfast-bench-")))
            folder.chmod(0o711)  # started by root, PostgreSQL runs as another user, who has to pass through
            self.kek_file = folder / "kek"
            self._keks = KeyEncryptionKeys.create_file(self.kek_file)
            self._postgres = self._stack.enter_context(EmbeddedPostgres(folder / "postgres"))
            self._make(IXFAST_DATABASE, self._provision)
            self._make(PEER_DATABASE, self._provision_peer)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def postgres_pids(self) -> list[int]:
        """The postmaster, whose children do the work."""
        pid_file = self._postgres.cluster / "postmaster.pid"
        return [int(pid_file.read_text().splitlines()[0])]

    def _make(self, name: str, fill: Callable[[str], Awaitable[None]]) -> None:
        self.run(self._postgres.dsn, lambda connection: connection.execute(f"CREATE DATABASE {name}"))
        asyncio.run(_of(fill(self._postgres.dsn_of(name))))
        self.run(self._postgres.dsn_of(name), lambda connection: connection.execute("VACUUM (ANALYZE)"))

    async def _provision(self, dsn: str) -> None:
        await migrate(dsn)
        connection = await asyncpg.connect(dsn)
        try:
            await provision(connection, self._keks, [fleet_of(self.traffic)])
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
        """The connection string of a fresh copy, with a checkpoint behind it; dropped afterwards."""
        name = f"{template}_{next(self._numbers)}"

        async def create(connection: Any) -> None:
            # Copying the files, and not their content through the log, makes a checkpoint before and after.
            strategy = "STRATEGY file_copy" if connection.get_server_version() >= (15,) else ""
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")

        self.run(self._postgres.dsn, create)
        try:
            yield self._postgres.dsn_of(name)
        finally:
            self.run(self._postgres.dsn, partial(_drop, name=name))

    def settings(self) -> dict[str, str]:
        """PostgreSQL's version, and its settings that are not the default; no paths."""

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
        """Do something with a connection to a database."""

        async def main() -> T:
            connection = await asyncpg.connect(dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(main())


async def _drop(connection: Any, name: str) -> None:
    """Without FORCE, which only a superuser may use while autovacuum is at work there."""
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'", name
    )
    await connection.execute(f"DROP DATABASE {name}")


async def _of(work: Awaitable[None]) -> None:
    await work
