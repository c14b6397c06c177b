"""Ends a statement that sends much data when its connection is lost.

asyncpg sends the data of COPY and of `executemany` only while the socket accepts it. If the connection is lost meanwhile, it goes
on waiting for the socket forever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncpg

T = TypeVar("T")


async def unless_lost(connection: Any, send: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a statement of the connection and return its result.

    Raises `asyncpg.ConnectionDoesNotExistError` if the connection is lost before the statement ends.
    """
    lost = asyncio.Event()

    def end(_connection: Any) -> None:
        lost.set()

    connection.add_termination_listener(end)
    sending, losing = asyncio.create_task(send()), asyncio.create_task(lost.wait())
    try:
        await asyncio.wait((sending, losing), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            return sending.result()
        raise asyncpg.ConnectionDoesNotExistError("The connection was lost while a statement sent its data.")
    finally:
        for task in (sending, losing):
            task.cancel()
        await asyncio.gather(sending, losing, return_exceptions=True)
        with contextlib.suppress(asyncpg.InterfaceError):  # A lost connection has left its pool.
            connection.remove_termination_listener(end)
