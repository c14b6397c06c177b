"""Opens new connections one at a time, so that reconnecting does not overload a slow server.

Opening a connection costs PostgreSQL as much as committing a thousand scans. When the server is short of CPU, concurrent
attempts with a fixed timeout use all of its CPU and none succeeds. Therefore the attempts of an event loop take turns, each
timeout doubles the time of the next attempt, and an attempt whose caller was cancelled continues for the next caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from ixfast import limits
from ixfast.store.connections import hosts

Dial = Callable[[float], Awaitable[Any]]
"""Opens a connection within the given number of seconds, or raises TimeoutError."""


class ConnectQueue:
    """Serialises the connection attempts of an event loop. `patience_s` is the time that the next attempt gets."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self.patience_s = limits.CONNECT_TIMEOUT_MS / 1000

    async def open(self, dial: Dial) -> Any:
        loop = asyncio.get_running_loop()
        async with self._turn:
            began = loop.time()
            try:
                connection = await dial(self.patience_s)
            except TimeoutError:
                self._adapt(2 * self.patience_s)
                raise
            self._adapt(2 * (loop.time() - began))
            return connection

    def _adapt(self, seconds: float) -> None:
        self.patience_s = min(max(seconds, limits.CONNECT_TIMEOUT_MS / 1000), limits.CONNECT_TIMEOUT_MS_MAX / 1000)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectQueue] = WeakKeyDictionary()


def connect_queue() -> ConnectQueue:
    """The queue of the running event loop."""
    return _queues.setdefault(asyncio.get_running_loop(), ConnectQueue())


class PoolDialler:
    """The connect function of a pool. An attempt whose caller was cancelled is handed to the next caller.

    A connection that waits for a caller longer than `CONNECT_TIMEOUT_MS_MAX` is closed: after a failover it may lead to the old
    primary.
    """

    def __init__(self) -> None:
        self._abandoned: deque[tuple[float, asyncio.Task[Any]]] = deque()  # with the loop time of the cancellation
        self._closed = False

    async def __call__(self, dsn: str, **options: Any) -> Any:
        attempt = self._usable() or asyncio.ensure_future(
            connect_queue().open(lambda patience_s: hosts.connect(dsn, patience_s, **options))
        )
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._abandoned.append((asyncio.get_running_loop().time(), attempt))
            if self._closed:
                self.close()
            raise

    def close(self) -> None:
        """Cancel abandoned attempts, now and whenever one is abandoned later: a closed pool has no next caller."""
        self._closed = True
        while self._abandoned:
            _, attempt = self._abandoned.popleft()
            attempt.cancel()
            attempt.add_done_callback(_terminate)

    def _usable(self) -> asyncio.Task[Any] | None:
        now = asyncio.get_running_loop().time()
        while self._abandoned:
            abandoned_at, attempt = self._abandoned.popleft()
            if not attempt.done():
                return attempt
            if attempt.cancelled() or attempt.exception() is not None or attempt.result().is_closed():
                continue
            if now < abandoned_at + limits.CONNECT_TIMEOUT_MS_MAX / 1000:
                return attempt
            _terminate(attempt)
        return None


def _terminate(attempt: asyncio.Task[Any]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
