"""Following management changes: LISTEN for speed, polling for certainty.

A notification only wakes the follower. What changed is read from `catalogue_change` by generation, which rises in the order of
commits. Each reading also shows which history of the database this is (`store.connections.history`), its clock, and whether the
server still keeps what it acknowledges.

Invariants:

- If nothing could be read for `STALE_AFTER_S`, the catalogue is stale and scans are answered 503: a deactivated tag must not pass
  because its deactivation could not be read. The catalogue also starts stale, until the database was reached, has the schema of
  this release, and keeps what it acknowledges.
- In another history, a known generation means nothing: everything cached is forgotten and read again.
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
from ixfast.store.connections.outages import Outage
from ixfast.store.connections.session import UnsafeDatabaseError
from ixfast.store.db_errors import db_error_kind
from ixfast.store.migrate import SchemaMismatchError

log = logging.getLogger("ixfast.catalogue")

STALE_AFTER_S = 10.0
_STALE = "catalogue_stale"
_EVERYTHING = Change("all", None, None)


class Known(NamedTuple):
    """How far a history was followed."""

    history: str
    generation: int
    identity: str | None
    flushed: int
    started: float

    def is_continued_by(self, reading: Reading) -> bool:
        """Whether the database still has everything that was read from it. `reading` must have asked about this generation."""
        return (
            reading.history == self.history
            and reading.flushed >= self.flushed
            and reading.generation >= self.generation
            and reading.known == self.identity
        )


class ChangeFollower:
    """Keeps a catalogue in step with the database. `usable` is set once the database was reached and can be used."""

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
        loop = asyncio.get_running_loop()
        self._source = source
        self._catalogue = catalogue
        self._slots = gauges.slots
        self._clock = clock or DatabaseClock(gauges)
        self._history = history or History()
        self._history.on_suspicion(self.look)
        self._poll_interval_s = poll_interval_s
        self._known: Known | None = None
        self._reading = Outage(log, "catalogue changes can be read", loop.time)
        self._listening = Outage(log, "listening for catalogue changes", loop.time)
        self._staleness: asyncio.TimerHandle | None = None  # marks the catalogue stale unless something is read before
        self._wake = asyncio.Event()
        self.usable = asyncio.Event()
        self._loop = loop
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
        """Read the database's state at once instead of at the next poll."""
        self._wake.set()

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._catch_up()
            except Exception as error:  # any kind: staleness is what counts, and the next poll tries again
                self._note(error)

    def _note(self, error: Exception) -> None:
        self._reading.begin()
        if isinstance(error, ConfigurationError):
            # At once, instead of after a time in which nothing could be read.
            reason = "schema_mismatch" if isinstance(error, SchemaMismatchError) else "unsafe_database"
            self._mark_stale(reason)
            log.error("%s", error)
            return
        if isinstance(error, HistoryChangedError):
            reason = "history_changed"
            log.error("%s", error)
        else:
            reason = db_error_kind(error).value
            log.warning("cannot read catalogue changes: %s", reason)
        if self._known is None:
            self._catalogue.stale = reason

    def _mark_fresh(self, asked_at: float) -> None:
        """Everything committed before `asked_at` is applied. A timer ends this state, because the next reading may hang."""
        self._reading.end()
        if self._catalogue.stale == _STALE:
            log.error("the catalogue is fresh again: scans are answered")
        self._catalogue.stale = None
        self._catalogue.fresh_until = asked_at + STALE_AFTER_S
        if self._staleness is not None:
            self._staleness.cancel()
        self._staleness = self._loop.call_at(asked_at + STALE_AFTER_S, self._expire)
        self.usable.set()

    def _expire(self) -> None:
        log.error("the catalogue is stale, because changes could not be read for %.0f s: scans get 503", STALE_AFTER_S)
        self._reading.begin()
        self._mark_stale(_STALE)

    def _mark_stale(self, reason: str) -> None:
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
            # Look-ups may have been answered already, from before a change that this reading includes.
            await self._catalogue.forget()
            self._follow(reading)
        elif reading.started != known.started or not known.is_continued_by(reading):
            await self._begin_anew(known, reading)
        else:
            await self._take_over_changes(known, reading)
        self._mark_fresh(asked_at)

    def _follow(self, reading: Reading) -> None:
        self._known = Known(reading.history, reading.generation, reading.newest, reading.flushed, reading.started)
        self._history.follow(reading.history)

    async def _begin_anew(self, known: Known, reading: Reading) -> None:
        """Forget everything cached, because the history that was followed may have been lost, in whole or in part.

        A restarted server may have lost the end of its history even if everything that was followed is still there: rows read
        while `fsync` was off are gone after a crash of the host, and it may have been off between two readings.
        """
        self._mark_stale("history_changed")
        if known.is_continued_by(reading):
            log.warning("the database was restarted: discarded everything cached from it")
        else:
            self._slots[meters.HISTORY_CHANGES] += 1
            log.error(
                "the database's history changed from %s to %s: discarded everything cached from it",
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
        """Keep a listening connection. Without one, changes are still found by polling."""
        while True:
            try:
                await self._source.listen(self._heard)
                log.warning("the connection that listens for catalogue changes was lost: polling until it is back")
            except Exception as error:
                reason = error if isinstance(error, ConfigurationError) else db_error_kind(error).value
                log.warning("cannot listen for catalogue changes: %s", reason)
            self._listening.begin()
            await asyncio.sleep(limits.RECONNECT_DELAY_MS_MAX / 1000)

    def _heard(self) -> None:
        """The source listens, or was notified."""
        self._listening.end()
        self.look()
