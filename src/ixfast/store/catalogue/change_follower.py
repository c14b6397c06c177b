"""Hearing of management changes: LISTEN for speed, polling for certainty.

A notification only says «look now»; what changed is read from `catalogue_change` by generation, which rises in the order of
commits. If nothing could be read for `STALE_AFTER_S`, the catalogue is marked stale and scans are answered 503: a
deactivated tag must not pass because its deactivation could not be heard. It begins stale, until the database has been
reached, has our schema, and keeps what it acknowledges.

Each look also says which history of the database it is (`history.py`), what its clock shows, and whether it still keeps what
it acknowledges. In another history a known generation says nothing: everything cached is forgotten and read again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import NamedTuple

from ixfast import limits, meters
from ixfast.errors import ConfigurationError
from ixfast.store.catalogue.catalogue import Catalogue, Change
from ixfast.store.catalogue.change_source import ChangeSource, Reading
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.history import History, HistoryChangedError
from ixfast.store.connections.session import UnsafeDatabaseError
from ixfast.store.db_errors import db_error_kind
from ixfast.store.migrate import SchemaMismatchError

log = logging.getLogger("ixfast.catalogue")

STALE_AFTER_S = 10.0
_EVERYTHING = Change("all", None, None)


class Known(NamedTuple):
    """How far the history was followed."""

    history: str
    generation: int
    identity: str | None
    flushed: int
    started: float

    def is_continued_by(self, reading: Reading) -> bool:
        """Does the database still have everything that was read from it? `reading` asked about our generation."""
        return (
            reading.history == self.history
            and reading.flushed >= self.flushed
            and reading.generation >= self.generation
            and reading.known == self.identity
        )


class ChangeFollower:
    """Keeps a catalogue in step with the database."""

    def __init__(
        self,
        source: ChangeSource,
        catalogue: Catalogue,
        gauges: meters.Meters,
        *,
        clock: DatabaseClock | None = None,
        history: History | None = None,
        poll_interval_s: float,
    ) -> None:
        self._source = source
        self._catalogue = catalogue
        self._slots = gauges.slots
        self._clock = clock or DatabaseClock(gauges)
        self._history = history or History()
        self._history.on_suspicion(self.look)
        self._poll_interval_s = poll_interval_s
        self._known: Known | None = None
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

    def look(self) -> None:
        """Look at the database at once."""
        self._wake.set()

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
            # Known at once, and not only after a while in which nothing could be read.
            reason = "schema_mismatch" if isinstance(error, SchemaMismatchError) else "unsafe_database"
            self._be_stale(reason)
            log.error("%s", error)
            return
        if isinstance(error, HistoryChangedError):
            reason = "history_changed"
            log.error("%s", error)
        else:
            reason = db_error_kind(error).value
            log.warning("changes unread: %s", reason)
        if self._known is None:
            self._catalogue.stale = reason

    def _heard(self, asked_at: float) -> None:
        """Everything committed before this moment is served. A timer ends that, not the next reading, which may hang."""
        self._catalogue.stale = None
        self._catalogue.fresh_until = asked_at + STALE_AFTER_S
        if self._staleness is not None:
            self._staleness.cancel()
        self._staleness = self._loop.call_at(asked_at + STALE_AFTER_S, self._run_out)
        self.heard.set()

    def _run_out(self) -> None:
        self._be_stale("catalogue_stale")

    def _be_stale(self, reason: str) -> None:
        if self._staleness is not None:
            self._staleness.cancel()
            self._staleness = None
        self._catalogue.stale = reason

    async def _catch_up(self) -> None:
        known = self._known
        if known is None:
            await self._source.check()
        asked_at = self._loop.time()
        reading = await self._source.read(known.generation if known is not None else None)
        self._history.check_not_behind(reading.history)
        self._clock.note(asked_at, self._loop.time(), reading.clock)
        if reading.unsafe is not None:
            raise UnsafeDatabaseError(
                f"The database runs with {reading.unsafe} off: an acknowledged tap could pass twice. Turn it on."
            )
        if known is None:
            # Look-ups may have been answered already, before a change that is a part of this reading.
            await self._catalogue.forget()
            self._follow(reading)
        elif reading.started != known.started or not known.is_continued_by(reading):
            await self._begin_anew(known, reading)
        else:
            await self._take_over_changes(known, reading)
        self._heard(asked_at)

    def _follow(self, reading: Reading) -> None:
        self._known = Known(reading.history, reading.generation, reading.newest, reading.flushed, reading.started)
        self._history.follow(reading.history)

    async def _begin_anew(self, known: Known, reading: Reading) -> None:
        """The history that was followed is gone: nothing that is remembered of it may decide anything.

        After a start of the server the end of it may be, beyond what was followed: what was read while `fsync` was off is not
        there after a crash of the host, and whether it was off between two looks nobody knows.
        """
        self._be_stale("history_changed")
        if known.is_continued_by(reading):
            log.warning("the database was started again: everything cached from it is forgotten")
        else:
            self._slots[meters.HISTORY_CHANGES] += 1
            log.error(
                "the database's history changed from %s to %s: everything cached from it is forgotten",
                known.history,
                reading.history,
            )
        await self._source.forget_connections()
        await self._source.check()
        await self._catalogue.forget()
        self._follow(reading)

    async def _take_over_changes(self, known: Known, reading: Reading) -> None:
        generation, identity = known.generation, known.identity
        if reading.generation > generation:
            rows = await self._source.changes(generation, limits.CHANGES_READ_MAX)
            if len(rows) >= limits.CHANGES_READ_MAX:
                await self._catalogue.apply([_EVERYTHING])
            elif rows:
                await self._catalogue.apply([Change(row.kind, row.id, row.xuid) for row in rows])
            if rows:
                generation, identity = rows[-1].generation, rows[-1].identity
        self._known = Known(reading.history, generation, identity, reading.flushed, reading.started)

    async def _listen(self) -> None:
        """Hold a listening connection; without one, polling goes on."""
        while True:
            try:
                await self._source.listen(self.look)
            except Exception as error:
                log.warning("not listening for changes: %s", db_error_kind(error).value)
            await asyncio.sleep(limits.RECONNECT_DELAY_MS_MAX / 1000)
