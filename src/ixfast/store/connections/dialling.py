"""New connections, one at a time: a server that is short of CPU is never asked for several, nor given up halfway.

To open a connection takes PostgreSQL as long as to commit a thousand scans. When it is slow, attempts that run side by side and
are given up after a fixed time take all it has and none succeeds. So attempts of an event loop take turns, one that ran out
of time lets the next one have twice as much, and one whose caller has gone goes on for the next caller.
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
"""Opens a connection within so many seconds."""


class ConnectQueue:
    """Through which all attempts of an event loop go."""

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


_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectQueue] = WeakKeyDictionary()


def line() -> ConnectQueue:
    """The running loop's."""
    return _lines.setdefault(asyncio.get_running_loop(), ConnectQueue())


class PoolDialler:
    """How a pool connects. A connection that nobody waits for any more when it is there is the next caller's, if one comes soon:
    one that lay about may lead to a server that was left behind."""

    def __init__(self) -> None:
        self._left: deque[tuple[float, asyncio.Task[Any]]] = deque()  # with the loop's time at which its caller went
        self._closed = False

    async def __call__(self, dsn: str, **options: Any) -> Any:
        attempt = self._usable() or asyncio.ensure_future(
            line().open(lambda patience_s: hosts.connect(dsn, patience_s, **options))
        )
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._left.append((asyncio.get_running_loop().time(), attempt))
            if self._closed:
                self.close()
            raise

    def close(self) -> None:
        """Give up what nobody waits for, now and later: the pool has no next caller."""
        self._closed = True
        while self._left:
            _, attempt = self._left.popleft()
            attempt.cancel()
            attempt.add_done_callback(_terminate)

    def _usable(self) -> asyncio.Task[Any] | None:
        now = asyncio.get_running_loop().time()
        while self._left:
            left_at, attempt = self._left.popleft()
            if not attempt.done():
                return attempt
            if attempt.cancelled() or attempt.exception() is not None or attempt.result().is_closed():
                continue
            if now < left_at + limits.CONNECT_TIMEOUT_MS_MAX / 1000:
                return attempt
            _terminate(attempt)
        return None


def _terminate(attempt: asyncio.Task[Any]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
