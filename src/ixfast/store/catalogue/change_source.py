"""What a worker reads from its database every second: management changes, their history, the clock, and durability settings.

`ChangeSource` is the seam at which a simulation replaces PostgreSQL; the statements are in `sql/catalogue.sql`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ixfast import limits
from ixfast.store import migrate
from ixfast.store.connections import session
from ixfast.store.queries import load

CHANNEL = "ixfast_catalogue"


class Reading(NamedTuple):
    """One reading of the database's state."""

    generation: int  # of the newest change
    newest: str | None  # identity of that change; None if there was no change yet
    known: str | None  # identity of the change that was asked about; None if the database has no such change
    history: str  # system identifier and timeline
    flushed: int  # bytes of the write-ahead log that are on disk; never decreases within one history
    started: float  # when the server was started (Unix time by its clock); what was not on disk then is lost
    clock: float  # the database's clock, Unix time in seconds
    unsafe: str | None  # names of the durability settings that are off; None if none is


class ChangeRow(NamedTuple):
    """A row of `catalogue_change`."""

    generation: int
    identity: str
    kind: str
    id: int | None
    xuid: str | None


class ChangeSource(Protocol):
    """All methods raise what the driver raises; `check` also raises `SchemaMismatchError`."""

    async def check(self) -> None: ...
    async def read(self, known: int | None) -> Reading: ...
    async def changes(self, after: int, limit: int) -> Sequence[ChangeRow]: ...
    async def listen(self, wake: Callable[[], None]) -> None: ...
    async def forget_connections(self) -> None: ...


class PostgresChangeSource:
    """Reads on connections of the worker's pool and listens on a connection of its own."""

    def __init__(self, dsn: str, pool: Any) -> None:
        self._dsn = dsn
        self._pool = pool
        self._sql = load("catalogue")

    def _borrowed(self) -> Any:
        return session.pooled_connection(self._pool, limits.STATEMENT_TIMEOUT_MS / 1000 * 2)

    async def check(self) -> None:
        """Raise `SchemaMismatchError` unless the schema is the one of this release."""
        async with self._borrowed() as connection:
            await migrate.check(connection)

    async def read(self, known: int | None) -> Reading:
        async with self._borrowed() as connection:
            return Reading(*await connection.fetchrow(self._sql["read_history"], known))

    async def changes(self, after: int, limit: int) -> Sequence[ChangeRow]:
        async with self._borrowed() as connection:
            return [ChangeRow(*row) for row in await connection.fetch(self._sql["changes_since"], after, limit)]

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` once listening, and for each notification. Returns when the connection is lost."""
        connection = await session.connect(self._dsn)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _connection: lost.set())
            await connection.add_listener(CHANNEL, lambda *_: wake())
            wake()
            await lost.wait()
        finally:
            connection.terminate()

    async def forget_connections(self) -> None:
        """Stop using connections that were opened before now: they may lead to a server that was left behind."""
        await self._pool.expire_connections()
