"""Helpers of all kinds of tests: waiting for a state without a fixed sleep, and running a coroutine in its own event loop."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import asyncpg

T = TypeVar("T")

POLL_S = 0.01


async def eventually(predicate: Callable[[], T | Awaitable[T]], deadline_s: float = 5.0) -> T:
    """Poll until the predicate, plain or a coroutine function, is true; returns its value.

    `AssertionError` after `deadline_s` seconds, with the last value. The event loop goes on meanwhile.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        reached = predicate()
        value: T = await reached if inspect.isawaitable(reached) else reached
        if value:
            return value
        assert time.monotonic() < deadline, f"not reached within {deadline_s} s; the last value was {value!r}"
        await asyncio.sleep(POLL_S)


def eventually_sync(predicate: Callable[[], T], deadline_s: float = 5.0) -> T:
    """Like `eventually`, for a test without an event loop."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"not reached within {deadline_s} s; the last value was {value!r}"
        time.sleep(POLL_S)


def in_own_loop(work: Callable[[], Awaitable[object]]) -> None:
    """Run a coroutine in a thread with its own event loop, without touching the event loop of the test."""

    async def main() -> None:
        await work()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, main()).result()


def administer(dsn: str, *statements: str) -> None:
    """Run statements in order, each in its own transaction."""

    async def work() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    in_own_loop(work)


def drop_database(dsn: str, name: str) -> None:
    """Drop a database after ending its connections, and retry if another one is opened meanwhile. `WITH (FORCE)` would fail while
    an autovacuum worker, which belongs to a superuser, uses the database; a plain DROP makes the server end autovacuum."""
    own = f"datname = '{name}' AND backend_type = 'client backend'"
    for attempts_left in reversed(range(5)):
        try:
            administer(dsn, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}", f"DROP DATABASE {name}")
        except asyncpg.ObjectInUseError:
            if not attempts_left:
                raise
        else:
            return
