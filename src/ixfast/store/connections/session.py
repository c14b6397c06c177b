"""Database sessions: one per committer with the ledger's statements prepared, and a pool for everything off the scan path.

Opening a socket, and choosing among several hosts, is `dialling.py` and `hosts.py`; what the statements do is `sql/ledger.sql`.

Invariants:
- Every session waits for the disk at each commit, whatever the server's configuration says.
- The ledger's statements run with one generic plan, which locks the rows of a batch in ascending order of their tag ids on
  every supported version of PostgreSQL.
- A caller waits for a pooled connection no longer than its deadline, even if the server no longer responds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store.connections import dialling, hosts, int_arrays, poolers
from ixfast.store.queries import load

PINNED = {
    # Two batches that lock the same rows in different orders deadlock. Left to its estimates, the planner scans a small table
    # in heap order, and reads the whole table for a large batch.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    # A hash join or nested loop locks in the order of the index or of the arrays, depending on which side costs less. Since
    # PostgreSQL 17 an index scan with ANY on a small index costs less than before, so that the sides of the hash join swap;
    # `advance_keyed` was a nested loop from the arrays' side on every version, quadratic in the size of the batch. A merge
    # join visits both sides in ascending order, whatever the estimates. It takes 1 to 2 % more CPU than the hash join, and for
    # `advance_keyed` 5 % less with 60 rows and half with 500.
    "enable_hashjoin": "off",
    "enable_nestloop": "off",
    "jit": "off",
    # One plan for every batch size, made once.
    "plan_cache_mode": "force_generic_plan",
}
SESSION = {
    "timezone": "UTC",
    "statement_timeout": str(limits.STATEMENT_TIMEOUT_MS),
    "lock_timeout": str(limits.LOCK_TIMEOUT_MS),
    "idle_in_transaction_session_timeout": "5000",
    # On Citus this makes preparing a statement with array parameters 60 times faster. Elsewhere it is an unknown custom
    # parameter, which PostgreSQL ignores.
    "citus.override_table_visibility": "off",
}

_CANCELLATION_S = 4 * limits.STATEMENT_TIMEOUT_MS / 1000
_RETENTION_CHECK_S = 0.1  # Between two checks whether a retained connection is still in demand.


class UnsafeDatabaseError(ConfigurationError):
    """The database may lose what it acknowledged: turn `fsync` and `full_page_writes` on."""


class UnsupportedServerError(ConfigurationError):
    """The server runs a version of PostgreSQL that ixfast does not support."""


async def connect(dsn: str, **settings: str) -> Any:
    """Open a connection to a server that accepts writes, with `SESSION` and further `settings` of the session.

    Raises TransactionPoolerError if the connection would not be a session.
    """

    async def dial(patience_s: float) -> Any:
        connection = await hosts.connect(dsn, patience_s, statement_cache_size=0)
        try:
            async with asyncio.timeout(patience_s + limits.CONNECT_TIMEOUT_MS_MAX / 1000):
                await require_session(dsn, connection, SESSION | settings)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return await dialling.connect_queue().open(dial)


async def require_session(dsn: str, connection: Any, settings: Mapping[str, str] | None = None) -> None:
    """Do what `fix_durability` does, and raise TransactionPoolerError if the connection is not a session of its own.

    Nothing is set before that is known: behind a pooler of transactions it would be set for other clients.
    """
    expected = connection.get_server_pid()
    pid = await fix_durability(connection, settings, expected)
    if pid != expected:
        await poolers.refuse_transaction_pooler(
            connection, pid, lambda patience_s: hosts.connect(dsn, patience_s, statement_cache_size=0)
        )
        await fix_durability(connection, settings)


async def fix_durability(connection: Any, settings: Mapping[str, str] | None = None, only_process: int | None = None) -> int:
    """Make a session wait for the disk at each commit, whatever the server's configuration says now or after a reload.

    An operator's `synchronous_commit = remote_apply`, which waits for standbys as well, is kept. In the same round trip, also
    sets `settings`, which poolers refuse at the start of a connection, and returns the session's process on the server. With
    `only_process`, sets nothing in another process.
    """
    statement = load("session")["fix_durability"]
    names, values = zip(*settings.items(), strict=True) if settings else ((), ())
    pid: int = await connection.fetchval(statement, names, values, only_process)
    return pid


def check_version(connection: Any) -> None:
    """Raise UnsupportedServerError unless the server is at least `limits.POSTGRES_MAJOR_MIN` and the database is in UTF-8."""
    version = connection.get_server_version()
    if version.major < limits.POSTGRES_MAJOR_MIN:
        raise UnsupportedServerError(
            f"The database runs PostgreSQL {version.major}; ixfast needs PostgreSQL {limits.POSTGRES_MAJOR_MIN} or later."
        )
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise UnsupportedServerError(
            f"The database has the encoding {encoding}; ixfast needs UTF8. Create another database: "
            "CREATE DATABASE name ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0"
        )


class _Pool(asyncpg.Pool):  # type: ignore[misc] # asyncpg has no types
    """A pool that, when it closes, also closes the connections that it is still opening."""

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
    """Make a pool of at most `size` connections for look-ups and management.

    `check_history` gets the database history of each new connection, and raises if it must not be used.

    Released connections are not reset: asyncpg's reset costs more than a look-up, and nothing here leaves session state behind.
    """

    async def set_up(connection: Any) -> None:
        await fix_durability(connection, SESSION | {"plan_cache_mode": "force_generic_plan", "jit": "off"})
        if check_history is not None:
            check_history(await connection.fetchval(load("session")["history"]))

    async def no_reset(_connection: Any) -> None:
        return

    return await _Pool(
        dsn,
        dialling.PoolDialler(),
        min_size=0,  # a worker starts without a database, too, and reports that it has none
        max_size=size,
        max_queries=50_000,
        max_inactive_connection_lifetime=0,
        max_cached_statement_lifetime=0,
        init=set_up,
        reset=no_reset,
    )


@contextlib.asynccontextmanager
async def pooled_connection(pool: Any, deadline_s: float | None) -> AsyncIterator[Any]:
    """Lend a connection of the pool for at most `deadline_s` seconds, the wait for it included, then raise TimeoutError.

    None sets no deadline. A connection whose query exceeded the deadline is released in the background, because asyncpg waits
    until the server has acknowledged the cancellation. A server short of CPU acknowledges it late, and a new connection would
    cost it more than most queries; a frozen server never does, so the connection is closed after `_CANCELLATION_S`. If the
    caller itself was cancelled, the connection is closed at once.
    """
    async with asyncio.timeout(deadline_s) as deadline:
        connection = await pool.acquire()
        try:
            yield connection
        except asyncio.CancelledError:
            if deadline.expired():
                _release_in_background(pool, connection)
            else:
                connection.terminate()
                await pool.release(connection)
            raise
        except BaseException:
            await pool.release(connection)
            raise
        await pool.release(connection)


def _release_in_background(pool: Any, connection: Any) -> None:
    task = asyncio.ensure_future(pool.release(connection, timeout=_CANCELLATION_S))
    _releases.add(task)
    task.add_done_callback(_end_release)


def _end_release(task: asyncio.Future[None]) -> None:
    _releases.discard(task)
    if not task.cancelled():
        task.exception()  # retrieved, so that it is not logged: asyncpg has closed the connection


_releases: set[asyncio.Future[None]] = set()


class RetainingPool:
    """A pool that retains one released connection for the next caller.

    asyncpg's pool makes a task and a few timers to take a connection back, which costs more than a look-up. A connection is
    retained while it is in demand and the pool has another one for everybody else; both are checked every `_RETENTION_CHECK_S`.
    """

    __slots__ = ("_idle", "_pool", "_releases", "_retains", "_timer", "_used")

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._idle: Any = None
        self._retains = False
        self._used = False  # since the last check
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
        """Release the retained connection: it was opened before whatever the caller has just found out."""
        connection, self._idle = self._idle, None
        if connection is not None:
            await self._pool.release(connection)

    async def release(self, connection: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as asyncpg's pool
        if timeout is not None:
            await self._pool.release(connection, timeout=timeout)
            return
        self._used = True
        if self._timer is None:
            self._check_demand()
        if self._retains and self._idle is None and _is_open(connection):
            self._idle = connection
        else:
            await self._pool.release(connection)

    def _check_demand(self) -> None:
        """Decide whether a connection is retained from now on, and check again soon if so."""
        pool = self._pool
        others = pool.get_max_size() - (pool.get_size() - pool.get_idle_size())
        self._retains = self._used and others > 0
        self._used = False
        self._timer = asyncio.get_running_loop().call_later(_RETENTION_CHECK_S, self._check_demand) if self._retains else None
        if not self._retains and self._idle is not None:
            connection, self._idle = self._idle, None
            task = asyncio.ensure_future(pool.release(connection))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # the connection was lost, and the pool has taken it back


Advanced = Iterable[tuple[int, int, int]]


def _advanced(rows: Sequence[Sequence[Sequence[int] | None]]) -> Advanced:
    """The tags in the one row of arrays, which are null if no tag advanced."""
    tag_ids, previous_positions, scan_counts = rows[0]
    if tag_ids is None or previous_positions is None or scan_counts is None:
        return ()
    return zip(tag_ids, previous_positions, scan_counts, strict=True)


class LedgerSession:
    """A committer's own connection. `history` identifies the history of the database that it leads to (`history.py`).

    Tag ids are passed in ascending order, each once; positions and scan ids belong to them by their index.
    """

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
        int_arrays.handle_at_once(connection)  # before the statements are prepared
        # With a name: asyncpg, its statement cache off, has an unnamed statement parsed and planned at every execution, which
        # takes a third of the statement's time.
        names = ("advance", "advance_keyed", "advance_unheld")
        prepared = [await connection.prepare(load("ledger")[name], name=name) for name in names]
        # Last, because preparing leaves the server in a transaction, with locks on the tables, until it executes something.
        history = await connection.fetchval(load("session")["history"])
        return cls(connection, history, *prepared)

    @property
    def closed(self) -> bool:
        return bool(self.connection.is_closed())

    async def advance(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Advanced:
        """Advance a batch; yields (tag_id, previous_position, scan_count) of the tags that advanced."""
        return _advanced(await self._advance.fetch(tag_ids, positions, scan_ids))

    async def advance_keyed(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Advanced:
        """Advance a batch that has scans with an Idempotency-Key; a scan whose key was used before does not advance."""
        return _advanced(await self._advance_keyed.fetch(tag_ids, positions, scan_ids))

    async def advance_unheld(self, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
        """Advance a batch without waiting for locks; returns rows (tag_id, previous_position, scan_count, advances).

        Tags whose counters another transaction has locked are missing from them.
        """
        return await self._advance_unheld.fetch(tag_ids, positions, scan_ids)

    def terminate(self) -> None:
        self.connection.terminate()
