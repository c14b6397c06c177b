"""The database as the real classes see it: `LedgerDatabase`, `ChangeSource` and a pool of connections, over a simulated link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ixfast.domain.decision import Binding, CounterState, KeyedScan
from ixfast.store.catalogue.change_source import ChangeRow, Reading
from ixfast.store.ledger.ledger_database import KeyedRefusal, Refusal, VisitorCountry

from . import catalogue_queries, statements
from .database import Server
from .network import Connection, Link, Statement

READ_TIMEOUT_S = 2.0


class PooledConnection:
    """What the pool lends."""

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self.connection = connection
        self.epoch = pool.epoch

    def is_closed(self) -> bool:
        return self.connection.closed

    def terminate(self) -> None:
        self.connection.terminate()

    async def fetch(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        async def query(server: Server) -> list[dict[str, Any]]:
            return catalogue_queries.run(server.state, sql, *arguments)

        rows: list[dict[str, Any]] = await self.connection.call(query)
        return rows


class Pool:
    """The worker's connections for everything but commits: at most `size`, made when they are needed."""

    def __init__(self, link: Link, size: int = 4) -> None:
        self.epoch = 0
        self._link = link
        self._size = size
        self._free = asyncio.Semaphore(size)
        self._idle: list[PooledConnection] = []
        self._lent = 0

    async def acquire(self) -> PooledConnection:
        await self._free.acquire()
        self._lent += 1
        try:
            while self._idle:
                known = self._idle.pop()
                if not known.is_closed() and known.epoch == self.epoch:
                    return known
                known.terminate()
            return PooledConnection(self, await self._link.connect())
        except BaseException:
            self._lent -= 1
            self._free.release()
            raise

    async def release(self, connection: PooledConnection, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncpg
        """With a `timeout`, a query was cut short: the connection is waited for in vain, as if its server were frozen."""
        if timeout is not None:
            await asyncio.sleep(timeout)
            connection.terminate()
        self._lent -= 1
        self._free.release()
        if not connection.is_closed():
            self._idle.append(connection)

    async def expire_connections(self) -> None:
        self.epoch += 1

    def get_max_size(self) -> int:
        return self._size

    def get_size(self) -> int:
        return self._lent + len(self._idle)

    def get_idle_size(self) -> int:
        return len(self._idle)

    async def run(self, statement: Statement, time_left_s: float) -> Any:
        """A statement's result on a connection that is pooled_connection for it, or TimeoutError."""
        async with asyncio.timeout(time_left_s):
            lent = await self.acquire()
            try:
                return await lent.connection.call(statement)
            except asyncio.CancelledError:
                lent.terminate()
                raise
            finally:
                await self.release(lent)


class Session:
    """A committer's connection. `level` is what it has set as its own `synchronous_commit`."""

    def __init__(self, connection: Connection, history: str, level: str | None) -> None:
        self.history = history
        self._connection = connection
        self._level = level

    @property
    def closed(self) -> bool:
        return self._connection.closed

    async def advance(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        return await self._connection.call(statements.advance(tag_ids, positions, scan_ids, keyed=False, level=self._level))

    async def advance_keyed(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        return await self._connection.call(statements.advance(tag_ids, positions, scan_ids, keyed=True, level=self._level))

    async def advance_unheld(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        return await self._connection.call(statements.advance_unheld(tag_ids, positions, scan_ids, level=self._level))

    def terminate(self) -> None:
        self._connection.terminate()


class LedgerDatabase:
    """Commits on sessions of their own, reads through the pool. `level`: what a session fixes, None for nothing."""

    level: str | None = "on"

    def __init__(self, link: Link, pool: Pool) -> None:
        self._link = link
        self._pool = pool
        self.keyed_cost_s: Callable[[], float] = lambda: 0.0

    async def open_session(self) -> Session:
        connection = await self._link.connect()
        try:
            history = await connection.call(_history)
        except BaseException:
            connection.terminate()
            raise
        return Session(connection, history, self.level)

    async def clock(self, time_left_s: float) -> float:
        return float(await self._pool.run(statements.clock, time_left_s))

    async def settle(self, time_left_s: float) -> None:
        await self._pool.run(statements.settle(self.level), time_left_s)

    async def states(self, tag_ids: Collection[int], time_left_s: float) -> Sequence[CounterState]:
        return [CounterState(*row) for row in await self._pool.run(statements.states(tag_ids), time_left_s)]

    async def bind_keys(self, bindings: Sequence[Binding], time_left_s: float) -> Sequence[Binding]:
        return [Binding(*row) for row in await self._pool.run(statements.bind_keys(bindings), time_left_s)]

    async def bindings(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[Binding]:
        return [Binding(*row) for row in await self._pool.run(statements.bindings(scan_ids), time_left_s)]

    async def keyed(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[KeyedScan]:
        rows = await self._pool.run(statements.keyed(scan_ids, self.keyed_cost_s()), time_left_s)
        return [KeyedScan(row.scan_id, row.tag_id, row.position, row.previous_position, row.scan_count, row.at) for row in rows]

    async def logged(
        self, scan_ids: Collection[int], spans: Sequence[tuple[float, float]], time_left_s: float
    ) -> set[tuple[int, int]]:
        found: set[tuple[int, int]] = await self._pool.run(statements.logged(scan_ids, spans), time_left_s)
        return found

    async def log_refusals(self, rows: Sequence[Refusal], time_left_s: float) -> None:
        await self._pool.run(statements.log_refusals(rows), time_left_s)

    async def log_keyed_refusals(self, rows: Sequence[KeyedRefusal], time_left_s: float) -> None:
        await self._pool.run(statements.log_keyed_refusals(rows), time_left_s)

    async def log_countries(self, rows: Sequence[VisitorCountry], time_left_s: float) -> None:
        raise NotImplementedError("no group of the simulation asks for countries")


class ChangeSource:
    """Reads through the pool, listens on a connection of its own."""

    def __init__(self, link: Link, pool: Pool) -> None:
        self._link = link
        self._pool = pool

    async def check(self) -> None:
        await self._pool.run(statements.clock, READ_TIMEOUT_S)

    async def read(self, known: int | None) -> Reading:
        return Reading(*await self._pool.run(statements.read_history(known), READ_TIMEOUT_S))

    async def changes(self, after: int, limit: int) -> Sequence[ChangeRow]:
        rows = await self._pool.run(statements.changes_since(after, limit), READ_TIMEOUT_S)
        return [ChangeRow(*row) for row in rows]

    async def listen(self, wake: Callable[[], None]) -> None:
        connection = await self._link.connect()
        try:
            connection.wake = wake
            wake()
            await connection.lost
        finally:
            connection.terminate()

    async def forget_connections(self) -> None:
        await self._pool.expire_connections()


async def _history(server: Server) -> str:
    return server.history
