"""Which host of a connection string is connected to."""

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from ixfast.store.connections import hosts, session
from ixfast.store.connections.connection_string import ConnectionString

PATIENCE_S = 1.0


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing, as a frozen host does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def with_silent_first(dsn: str, silent: int) -> str:
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}@127.0.0.1:{silent},{place}").geturl()


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@a/db", ["postgresql://u:p@a/db"]),
        ("postgresql:///db?host=/run&port=5433", ["postgresql:///db?host=/run&port=5433"]),
        ("postgresql://u:p,q@a:1,b:2/db?sslmode=require", [f"postgresql://u:p,q@{h}/db?sslmode=require" for h in ("a:1", "b:2")]),
        ("postgresql://u@[::1]:1,[::2]/db", ["postgresql://u@[::1]:1/db", "postgresql://u@[::2]/db"]),
        ("postgresql:///db?host=a,b&port=1", ["postgresql:///db?host=a&port=1", "postgresql:///db?host=b&port=1"]),
        ("postgresql:///db?host=a,b&port=1,2", ["postgresql:///db?host=a&port=1", "postgresql:///db?host=b&port=2"]),
    ],
)
def test_each_host_has_a_connection_string_of_its_own(dsn: str, expected: list[str]) -> None:
    assert ConnectionString(dsn).hosts == expected


async def test_a_silent_host_does_not_hide_the_next_one(postgres: Any, database: str, silent: int) -> None:
    dsn = with_silent_first(postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True), silent)
    connection = await hosts.connect(dsn, PATIENCE_S)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
    begun = time.monotonic()
    await (await hosts.connect(dsn, 30.0)).close()
    assert time.monotonic() - begun < 15.0  # the one that answered is asked first
    pool = await session.make_pool(dsn, 1)
    async with session.pooled_connection(pool, 10.0) as connection:
        assert await connection.fetchval("SELECT current_setting('synchronous_commit')") == "on"
    await pool.close()


async def test_the_driver_alone_would_wait_for_the_silent_host(postgres: Any, database: str, silent: int) -> None:
    """The control."""
    dsn = with_silent_first(postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True), silent)
    with pytest.raises(TimeoutError):
        await asyncpg.connect(dsn, timeout=PATIENCE_S, target_session_attrs="read-write")


async def test_of_several_errors_a_server_s_own_is_raised(postgres: Any, silent: int) -> None:
    dsn = with_silent_first(postgres.dsn_of("no_such_database", tcp=True), silent)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await hosts.connect(dsn, 0.3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await hosts.connect(f"postgresql://u@127.0.0.1:{silent}/x", 0.2)
