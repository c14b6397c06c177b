"""The fixtures themselves: tests that use them rely on this."""

import asyncio

import asyncpg
import pytest
import uvloop
from support import eventually


async def test_async_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


@pytest.fixture
async def connection(database: str):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.mark.parametrize("round_", [1, 2])
async def test_each_test_has_a_migrated_database_of_its_own(connection: asyncpg.Connection, round_: int) -> None:
    assert await connection.fetchval("SELECT count(*) FROM tag") == 0
    await connection.execute("CREATE TABLE only_here ()")


async def test_eventually_polls_plain_and_async() -> None:
    calls = []

    async def third() -> bool:
        calls.append(1)
        return len(calls) >= 3

    assert await eventually(third)
    assert await eventually(lambda: len(calls)) == 3
    with pytest.raises(AssertionError, match="last value was 0"):
        await eventually(lambda: 0, deadline_s=0.05)
