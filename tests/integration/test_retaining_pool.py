"""A connection that is kept between look-ups: the same one again and again, and nobody else waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ixfast.store.connections import session
from ixfast.store.connections.session import RetainingPool, make_pool, pooled_connection

DEADLINE_S = 5.0
Pools = Callable[[int], Any]


@pytest.fixture
async def pools(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pools]:
    monkeypatch.setattr(session, "_RETENTION_CHECK_S", 0.02)
    made = []

    async def make(size: int) -> Any:
        made.append(await make_pool(database, size))
        return made[-1]

    yield make
    for pool in made:
        async with asyncio.timeout(DEADLINE_S):
            await pool.close()  # waits for whatever was not given back


async def process_of(kept: Any) -> int:
    """The server process behind a connection."""
    async with pooled_connection(kept, DEADLINE_S) as connection:
        process: int = await connection.fetchval("SELECT pg_backend_pid()")
        return process


async def look_ups_without_end(kept: Any) -> None:
    while True:
        await process_of(kept)
        await asyncio.sleep(0.001)


async def released(pool: Any) -> None:
    for _ in range(round(DEADLINE_S / 0.005)):
        if pool.get_idle_size() == pool.get_size():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not go back")


async def test_is_the_same_one_and_goes_back_when_nobody_asks(pools: Pools) -> None:
    pool = await pools(4)
    kept = RetainingPool(pool)
    first = await process_of(kept)
    for _ in range(20):
        assert pool.get_idle_size() == 0  # it is not in the pool: that is what saves the time
        assert await process_of(kept) == first
        await asyncio.sleep(0.005)
    assert pool.get_size() == 1
    await released(pool)
    assert await process_of(kept) == first


async def test_two_at_once_have_two(pools: Pools) -> None:
    kept = RetainingPool(await pools(4))
    async with pooled_connection(kept, DEADLINE_S) as one, pooled_connection(kept, DEADLINE_S) as other:
        processes = {await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)}
    assert len(processes) == 2
    assert await process_of(kept) in processes


async def test_the_last_one_of_a_pool_is_not_kept(pools: Pools) -> None:
    pool = await pools(1)
    kept = RetainingPool(pool)
    for _ in range(3):
        await process_of(kept)
        assert pool.get_idle_size() == 1
        assert await pool.fetchval("SELECT 1", timeout=DEADLINE_S) == 1


async def test_goes_back_when_all_others_are_taken(pools: Pools) -> None:
    pool = await pools(2)
    kept = RetainingPool(pool)
    await process_of(kept)
    asking = asyncio.ensure_future(look_ups_without_end(kept))
    async with pool.acquire(), pool.acquire(timeout=DEADLINE_S):
        assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_one_that_was_cut_off_is_not_lent_again(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_RETENTION_CHECK_S", 0.5)
    pool = await pools(4)
    kept = RetainingPool(pool)
    first = await process_of(kept)
    assert await pool.fetchval("SELECT pg_terminate_backend($1)", first)
    await asyncio.sleep(0.05)
    assert await process_of(kept) != first


async def test_one_whose_query_ran_out_of_time_is_closed(pools: Pools) -> None:
    kept = RetainingPool(await pools(4))
    first = await process_of(kept)
    with pytest.raises(TimeoutError):
        async with pooled_connection(kept, 0.05) as connection:
            await connection.execute("SELECT pg_sleep(10)")
    assert await process_of(kept) != first
