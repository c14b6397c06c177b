"""Connections: one for each committer with its statements prepared, and a small pool for everything off the path."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store.connections import dialling, hosts
from ixfast.store.queries import load

PINNED = {
    # Left to itself the planner turns large batches into a sequential scan, and small tables into one that takes row locks in
    # heap order: deadlocks. One generic plan, made without them, serves every batch size (LEDGER tests explain it).
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
SESSION = {
    "application_name": "ixfast",
    "timezone": "UTC",
    "statement_timeout": str(limits.STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(limits.LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": "5000",
    # On Citus this makes preparing a statement with array parameters 60 times faster; elsewhere it is an unknown
    # custom parameter, which PostgreSQL ignores.
    "citus.override_table_visibility": "off",
}

_CANCELLATION_S = 4 * limits.STATEMENT_TIMEOUT_MS / 1000
_KEPT_S = 0.1  # Between two looks at whether a connection is still asked for.


class UnsafeDatabaseError(ConfigurationError):
    """The database does not keep what it acknowledges: turn `fsync` and `full_page_writes` on."""


async def connect(dsn: str, **settings: str) -> Any:
    """A connection to a server that accepts writes, with our session settings."""

    async def dial(patience_s: float) -> Any:
        connection = await hosts.connect(dsn, patience_s, server_settings=SESSION | settings, statement_cache_size=0)
        try:
            async with asyncio.timeout(patience_s):
                await fix_durability(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return await dialling.connect_queue().open(dial)


async def fix_durability(connection: Any) -> None:
    """Make a session wait for the disk at each commit, whatever the server's configuration says now or after a reload.

    A level that waits for standbys to apply, too, is the operator's and stays.
    """
    await connection.execute(load("session")["fix_durability"])


class _Pool(asyncpg.Pool):  # type: ignore[misc] # asyncpg has no types
    """A pool whose unused connections end with it, those that are still being opened too."""

    __slots__ = ("_dialler",)

    def __init__(self, dsn: str, dialler: dialling.PoolDialler, **options: Any) -> None:
        super().__init__(
            dsn, connect=dialler, loop=None, connection_class=asyncpg.Connection, record_class=asyncpg.Record, **options
        )
        self._dialler = dialler

    async def close(self) -> None:
        self._dialler.close()
        await super().close()

    def terminate(self) -> None:
        self._dialler.close()
        super().terminate()


async def make_pool(dsn: str, size: int, *, check_history: Callable[[str], None] | None = None) -> Any:
    """Connections for look-ups and management; those are not used for whose history `check_history` raises.

    asyncpg's reset of a released connection costs more than a look-up, and no code of ours leaves session state behind, so it
    is left out.
    """

    async def begin(connection: Any) -> None:
        await fix_durability(connection)
        if check_history is not None:
            check_history(await connection.fetchval(load("session")["history"]))

    async def nothing(_connection: Any) -> None:
        return

    return await _Pool(
        dsn,
        dialling.PoolDialler(),
        min_size=0,  # a worker starts, and says what is wrong, without a database too
        max_size=size,
        max_queries=50_000,
        server_settings=SESSION | {"plan_cache_mode": "force_generic_plan", "jit": "off"},
        max_inactive_connection_lifetime=0,
        max_cached_statement_lifetime=0,
        init=begin,
        reset=nothing,
    )


@contextlib.asynccontextmanager
async def pooled_connection(pool: Any, deadline_s: float | None) -> AsyncIterator[Any]:
    """A connection of the pool for at most `deadline_s` seconds, waiting for it included; then TimeoutError. None: no bound.

    A connection whose query was cut short by that bound is given back in the background: asyncpg waits until the server has
    acknowledged the cancellation. One that is short of CPU does so late, and a new connection would cost it more than most
    queries; one that is frozen never does, so after `_CANCELLATION_S` the connection is closed. If the caller itself was
    cancelled, the connection is closed at once.
    """
    async with asyncio.timeout(deadline_s) as bound:
        connection = await pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            if bound.expired():
                _give_back(pool, connection)
            else:
                connection.terminate()
                await pool.release(connection)
            raise
        except BaseException:
            await pool.release(connection)
            raise
        await pool.release(connection)


def _give_back(pool: Any, connection: Any) -> None:
    task = asyncio.ensure_future(pool.release(connection, timeout=_CANCELLATION_S))
    _releases.add(task)
    task.add_done_callback(_given_back)


def _given_back(task: asyncio.Future[None]) -> None:
    _releases.discard(task)
    if not task.cancelled():
        task.exception()  # asyncpg has closed the connection then


_releases: set[asyncio.Future[None]] = set()


class RetainingPool:
    """A pool that keeps the connection it was given back for whoever asks again at once.

    asyncpg's pool makes a task and a few timers to take a connection back, which costs more than a look-up does. One connection
    is kept, for as long as it is asked for and the pool has another one for everybody else; `_KEPT_S` says how soon that is seen.
    """

    __slots__ = ("_idle", "_keeps", "_pool", "_releases", "_timer", "_used")

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._idle: Any = None
        self._keeps = False
        self._used = False  # since the timer was set
        self._timer: asyncio.TimerHandle | None = None
        self._releases: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Any:
        connection, self._idle = self._idle, None
        if connection is not None:
            if _is_open(connection):
                return connection
            await self._pool.release(connection)
        return await self._pool.acquire()

    async def expire(self) -> None:
        """Keep no connection that was opened before now."""
        connection, self._idle = self._idle, None
        if connection is not None:
            await self._pool.release(connection)

    async def release(self, connection: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncpg's pool
        if timeout is not None:
            await self._pool.release(connection, timeout=timeout)
            return
        self._used = True
        if self._timer is None:
            self._look()
        if self._keeps and self._idle is None and _is_open(connection):
            self._idle = connection
        else:
            await self._pool.release(connection)

    def _look(self) -> None:
        """Decide whether a connection is kept from now on, and look again soon while it may be."""
        pool = self._pool
        others = pool.get_max_size() - (pool.get_size() - pool.get_idle_size())
        self._keeps = self._used and others > 0
        self._used = False
        self._timer = asyncio.get_running_loop().call_later(_KEPT_S, self._look) if self._keeps else None
        if not self._keeps and self._idle is not None:
            connection, self._idle = self._idle, None
            task = asyncio.ensure_future(pool.release(connection))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # it was cut off, and the pool has taken it back by itself


class LedgerSession:
    """A committer's own connection. `history` says which history of the database it leads to (`history.py`)."""

    __slots__ = ("_advance", "_advance_keyed", "_advance_unheld", "connection", "history")

    def __init__(self, connection: Any, history: str, advance: Any, advance_keyed: Any, advance_unheld: Any) -> None:
        self.connection = connection
        self.history = history
        self._advance = advance
        self._advance_keyed = advance_keyed
        self._advance_unheld = advance_unheld

    @classmethod
    async def open(cls, dsn: str) -> LedgerSession:
        connection = await connect(dsn, **PINNED)
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_MS_MAX / 1000):
                return await cls._prepared(connection)
        except BaseException:
            connection.terminate()
            raise

    @classmethod
    async def _prepared(cls, connection: Any) -> LedgerSession:
        # By a name: without one, and without a statement cache, asyncpg has it parsed and planned at every execution, which
        # takes a third of the statement's time.
        names = ("advance", "advance_keyed", "advance_unheld")
        prepared = [await connection.prepare(load("ledger")[name], name=name) for name in names]
        # Last, because preparing leaves the server in a transaction with locks on every table until something is executed.
        history = await connection.fetchval(load("session")["history"])
        return cls(connection, history, *prepared)

    @property
    def closed(self) -> bool:
        return bool(self.connection.is_closed())

    async def advance(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        """Rows (tag_id, previous_position, scan_count) of the tags that advanced."""
        return await self._advance.fetch(tag_ids, positions, scan_ids)

    async def advance_keyed(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        """The same for a batch that has scans with an Idempotency-Key; one whose key was used before does not advance."""
        return await self._advance_keyed.fetch(tag_ids, positions, scan_ids)

    async def advance_unheld(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        """Rows (tag_id, previous_position, scan_count, advances) of the tags whose rows nobody held."""
        return await self._advance_unheld.fetch(tag_ids, positions, scan_ids)

    def terminate(self) -> None:
        self.connection.terminate()
