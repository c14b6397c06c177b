"""`/readyz` and the metric turn not ready when scans could not be answered, and ready again without a restart."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import administer, eventually
from support.replication import Replicated, replicated
from support.served import Served, once, plain_target

from ixfast.keys import KeyEncryptionKeys
from ixfast.store import advisory_locks
from ixfast.store.partitions import KEYED_SCAN, SCAN_LOG
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(6400, 50, account="shop")
NOTICED_S = 30.0  # Everything but staleness is noticed in 5 s on an idle machine, and by scans at once.
STALE_S = 25.0
BACK_S = 30.0


class Stack:
    """A server with two workers, and the database that fails."""

    def __init__(self, database: Replicated, server: Served) -> None:
        self.database = database.primary
        self.server = server
        self._counter = 0

    @property
    def dsn(self) -> str:
        return self.database.dsn

    def problems(self) -> dict[str, str]:
        """The problems that `/readyz` reports, in agreement with its status."""
        status, body = self.server.ask_private("/readyz")
        said = json.loads(body)
        assert (status == 200) == said["ready"] == (said["problems"] == {})
        return dict(said["problems"])

    def ready_values(self) -> set[str]:
        """The values of `ixfast_worker_ready`, without repetition."""
        text = self.server.ask_private("/metrics")[1].decode()
        return set(re.findall(r"^ixfast_worker_ready\{.*\} (\S+)$", text, re.MULTILINE))

    async def becomes_unready(self, problem: str, reason: str, *, within_s: float = NOTICED_S) -> None:
        """Wait until both workers report it by `/readyz` and by the metric. Each connection may reach either worker."""
        await eventually(lambda: self.problems().get(problem) == reason and self.ready_values() == {"0.0"}, within_s)
        assert all(self.problems() for _ in range(10))

    async def becomes_ready(self) -> None:
        await eventually(lambda: self.ready_values() == {"1.0"} and not any(self.problems() for _ in range(5)), BACK_S)
        assert (await self.scan()) == "Pass"

    async def scan(self) -> str:
        """The response to a fresh tap, or the reason why there is none."""
        self._counter += 1
        answer = await once(self.server.port, plain_target(FLEET, 0, self._counter))
        return answer.json.get("response") or answer.json["reason"]


@contextmanager
def open_stack(home: Path, server_home: Path) -> Iterator[Stack]:
    with replicated(home, standbys=0) as database, Served(server_home, dsn=database.dsn) as server:
        server.provision(FLEET)
        yield Stack(database, server)


@pytest.fixture(scope="module")
def shared(open_scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with open_stack(open_scratch / "readiness", tmp_path_factory.mktemp("server")) as stack:
        yield stack


@pytest.fixture
async def stack(shared: Stack) -> AsyncIterator[Stack]:
    """Ready before each test, and after it without any help."""
    await shared.becomes_ready()
    yield shared
    await shared.becomes_ready()


async def test_a_key_file_of_another_database(stack: Stack, tmp_path: Path) -> None:
    file = stack.server.kek_file
    own = file.read_bytes()
    foreign = tmp_path / "foreign"
    KeyEncryptionKeys.create_file(foreign)
    foreign.rename(file)
    try:
        await stack.becomes_unready("keys", "key_unavailable")
    finally:
        restored = tmp_path / "own"
        restored.touch(mode=0o600)
        restored.write_bytes(own)
        restored.rename(file)


@pytest.mark.parametrize("rules", [SCAN_LOG, KEYED_SCAN], ids=lambda rules: rules.table)
@pytest.mark.parametrize(
    "act", ["ALTER TABLE {table} DETACH PARTITION {partition}", "DROP TABLE {partition}"], ids=["detached", "dropped"]
)
async def test_a_current_partition_that_is_gone(stack: Stack, rules: Any, act: str) -> None:
    partition = rules.name(dt.datetime.now(dt.UTC).date())
    async with held(stack.dsn, f"SELECT pg_advisory_xact_lock({advisory_locks.PARTITIONS})"):  # no worker can repair it meanwhile
        administer(stack.dsn, "SET lock_timeout = '10s'", act.format(table=rules.table, partition=partition))
        await stack.becomes_unready("database", "log_partition_missing")
        if rules is SCAN_LOG:
            assert await stack.scan() == "log_partition_missing"
        logged = len(stack.server.log)
    await eventually(lambda: partition in stack.server.log[logged:], BACK_S)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_durability_that_is_turned_off_by_a_reload(stack: Stack, setting: str) -> None:
    async with configured(stack, setting, "off", afterwards="on"):
        await stack.becomes_unready("catalogue", "unsafe_database", within_s=5.0)
        assert await stack.scan() == "unsafe_database"


async def test_a_database_that_is_read_only(stack: Stack) -> None:
    async with configured(stack, "default_transaction_read_only", "on", afterwards="off"):
        await stack.becomes_unready("database", "database_read_only")


@asynccontextmanager
async def configured(stack: Stack, setting: str, value: str, *, afterwards: str) -> AsyncIterator[None]:
    """Reload the database's configuration with another value."""
    await asyncio.to_thread(stack.database.configure, **{setting: value})
    try:
        yield
    finally:
        await asyncio.to_thread(stack.database.configure, **{setting: afterwards})


async def test_changes_that_cannot_be_read(stack: Stack) -> None:
    async with held(stack.dsn, "LOCK TABLE catalogue_generation IN ACCESS EXCLUSIVE MODE"):
        await stack.becomes_unready("catalogue", "catalogue_stale", within_s=STALE_S)
        assert await stack.scan() == "catalogue_stale"


@asynccontextmanager
async def held(dsn: str, statement: str) -> AsyncIterator[None]:
    """A transaction that has executed a statement."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def test_a_database_that_is_away(stack: Stack) -> None:
    stack.database.kill9()
    try:
        await eventually(lambda: "database" in stack.problems() and stack.ready_values() == {"0.0"}, NOTICED_S)
    finally:
        await asyncio.to_thread(stack.database.start)


# A full disk.


@pytest.fixture
def small_disk(server_dir: Path) -> Iterator[Path]:
    """A directory with space for a database and little more."""
    server_dir.mkdir(mode=0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=0711", "ixfast-test", str(server_dir)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs the capability SYS_ADMIN")
    try:
        yield server_dir
    finally:
        subprocess.run(["umount", "-l", str(server_dir)], check=True)


async def test_a_disk_without_room(small_disk: Path, tmp_path: Path) -> None:
    with open_stack(small_disk / "database", tmp_path / "server") as stack:
        await stack.becomes_ready()
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(small_disk)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        await stack.becomes_unready("database", "database_full")
        filler.unlink()
        await stack.becomes_ready()
