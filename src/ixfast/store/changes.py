"""Hearing of management changes: LISTEN for speed, polling for certainty.

A notification only says «look now»; what changed is read from `catalogue_change` by generation, which rises in the order of
commits. If nothing could be read for `STALE_AFTER_S`, the catalogue is marked stale and scans are answered 503: a
deactivated tag must not pass because its deactivation could not be heard. It begins stale, until the database has been
reached, has our schema, and keeps what it acknowledges.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store import migrate, session
from ixfast.store.catalogue import Catalogue, Change
from ixfast.store.migrate import SchemaMismatchError
from ixfast.store.queries import load
from ixfast.store.trouble import trouble_of

log = logging.getLogger("ixfast.catalogue")

CHANNEL = "ixfast_catalogue"
STALE_AFTER_S = 10.0


class ChangeFollower:
    """Keeps a catalogue in step with the database."""

    def __init__(self, dsn: str, pool: Any, catalogue: Catalogue, *, poll_interval_s: float) -> None:
        self._dsn = dsn
        self._pool = pool
        self._catalogue = catalogue
        self._poll_interval_s = poll_interval_s
        self._sql = load("catalogue")
        self._generation: int | None = None
        self._staleness: asyncio.TimerHandle | None = None  # goes off unless something was read in time
        self._wake = asyncio.Event()
        self.heard = asyncio.Event()
        """Set once the database has been reached and is fit for us."""
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._wake.set()
        self._tasks = [self._loop.create_task(self._poll()), self._loop.create_task(self._listen())]

    async def stop(self) -> None:
        if self._staleness is not None:
            self._staleness.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._catch_up()
            except Exception as error:  # every kind; staleness is what tells, and the next round tries again
                self._note(error)

    def _note(self, error: Exception) -> None:
        if isinstance(error, ConfigurationError):
            reason = "schema_mismatch" if isinstance(error, SchemaMismatchError) else "unsafe_database"
            log.error("%s", error)
        else:
            reason = trouble_of(error).value
            log.warning("changes unread: %s", reason)
        if self._generation is None:
            self._catalogue.stale = reason

    def _heard(self, asked_at: float) -> None:
        """Everything committed before this moment is served. A timer ends that, not the next reading, which may hang."""
        self._catalogue.stale = None
        if self._staleness is not None:
            self._staleness.cancel()
        self._staleness = self._loop.call_at(asked_at + STALE_AFTER_S, self._be_stale)
        self.heard.set()

    def _be_stale(self) -> None:
        self._catalogue.stale = "catalogue_stale"

    async def _catch_up(self) -> None:
        async with session.borrowed(self._pool, limits.STATEMENT_TIMEOUT_MS / 1000 * 2) as connection:
            asked_at = self._loop.time()
            if self._generation is None:
                await migrate.check(connection)
                await session.check_durability(connection)
                self._generation = await connection.fetchval(self._sql["generation"])
                rows = []
            else:
                rows = await connection.fetch(self._sql["changes_since"], self._generation, limits.CHANGES_READ_MAX)
        if len(rows) >= limits.CHANGES_READ_MAX:
            rows = rows[: limits.CHANGES_READ_MAX]
            await self._catalogue.apply([Change("all", None, None)])
        elif rows:
            await self._catalogue.apply([Change(r["kind"], r["id"], r["xuid"]) for r in rows])
        if rows:
            self._generation = rows[-1]["generation"]
        self._heard(asked_at)

    async def _listen(self) -> None:
        """Hold a listening connection; without one, polling goes on."""
        while True:
            connection = None
            try:
                connection = await session.connect(self._dsn)
                lost = self._loop.create_future()
                connection.add_termination_listener(lambda _c, lost=lost: lost.done() or lost.set_result(None))
                await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                self._wake.set()
                await lost
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.info("not listening for changes: %s", trouble_of(error).value)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(limits.RECONNECT_DELAY_MS_MAX / 1000)
