"""Waiting for a state without sleeping for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

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
    """The same for a test without an event loop."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"not reached within {deadline_s} s; the last value was {value!r}"
        time.sleep(POLL_S)
