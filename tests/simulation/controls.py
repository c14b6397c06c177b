"""Broken variants, which the simulation must find: a simulation that finds nothing could also be one that sees nothing.

Each is a worker with one part that does what its first author might have written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ixfast.domain.decision import Binding, CounterState, Finding
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import Outcome, Scan
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.catalogue.change_follower import ChangeFollower
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.db_errors import DbErrorKind, db_error_kind
from ixfast.store.ledger.committer import Committer
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.state_reader import StateReader

from .adapters import LedgerDatabase
from .worker import DEADLINE_S, Worker


def _ledger_with(reader: Callable[..., Any] = StateReader, committer: Callable[..., Any] | None = None) -> type[Ledger]:
    """A ledger with another reader of states or another committer."""

    class Altered(Ledger):
        def __init__(self, database: Any, settled: Any, gauges: Any, **options: Any) -> None:
            super().__init__(database, settled, gauges, **options)
            clock, history = options["clock"], options["history"]
            self._reader = reader(database, self, clock, gauges, deadline_s=DEADLINE_S, suspect=history.suspect)
            if committer is not None:
                made = committer(
                    self._open_session, self, gauges, batch_max=1024, queue_max=20_000, deadline_s=DEADLINE_S, wait_max_s=0.1
                )
                self._committers, self._submits = [made], [made.submit]

    return Altered


class _AgeAloneReader(StateReader):
    def _decide_newest(self, scan: Scan, state: CounterState, finding: Finding) -> None:
        assert scan.record is not None
        inside = state.age_ms < scan.record.group.retry_window_ms
        self._settler.decided(scan, Outcome.REPEATED if inside else Outcome.REPLAYED)


class AgeAlone(Worker):
    """The retry window is a comparison with an age, which is negative after the clock was stepped back."""

    ledger_kind = _ledger_with(_AgeAloneReader)


class _NowOnlyClock(DatabaseClock):
    def spans(self, earliest: float, latest: float) -> list[tuple[float, float]]:
        now = latest + self._eras[-1].offset
        return [(now - 60, now + 60)]


class LookBackFromNow(Worker):
    """A lost reply is looked for in the last minute of the database's clock, which may have been stepped meanwhile."""

    clock_kind = _NowOnlyClock


class _NumbersOnlyFollower(ChangeFollower):
    async def _begin_anew(self, known: Any, reading: Any) -> None:
        await self._take_over_changes(known, reading)
        self._history.follow(reading.history)


class GenerationsOnly(Worker):
    """Changes are followed by their numbers, which come again after a failover that lost some."""

    follower_kind = _NumbersOnlyFollower


class _KeepingCatalogue(Catalogue):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._known: dict[bytes, list[TagRecord]] = {}

    def _keep(self, record: TagRecord) -> None:
        known = self._known.setdefault(record.xuid, [])
        record.floor = max([record.floor, *(old.floor for old in known)])
        known.append(record)
        super()._keep(record)


class FloorsKept(Worker):
    """What a worker knows to be used outlives the history in which it was."""

    catalogue_kind = _KeepingCatalogue


class _OneLaneReader(StateReader):
    def add(self, scan: Scan) -> None:
        self._keyed.add(scan)


class OneLane(Worker):
    """First answers under keys are looked up by the same task that reads everybody's states."""

    ledger_kind = _ledger_with(_OneLaneReader)


class _ServersLevelDatabase(LedgerDatabase):
    level = None


class ServersLevel(Worker):
    """Sessions commit as the server says, which a reload can change."""

    database_kind = _ServersLevelDatabase


class _WithoutLogDatabase(LedgerDatabase):
    async def logged(self, scan_ids: Any, spans: Sequence[tuple[float, float]], time_left_s: float) -> set[tuple[int, int]]:
        return set()


class WithoutLog(Worker):
    """A scan whose reply was lost and that others have overtaken is not looked for in the scan log."""

    database_kind = _WithoutLogDatabase


class _UnboundDatabase(LedgerDatabase):
    async def bind_keys(self, bindings: Sequence[Binding], time_left_s: float) -> Sequence[Binding]:
        return bindings


class KeysUnbound(Worker):
    """An Idempotency-Key is checked only when its tap is committed, by that statement's snapshot."""

    database_kind = _UnboundDatabase


class _ReadingCommitter(Committer):
    async def _recover(self, batch: dict[int, Scan], session: Any, error: Exception) -> None:
        if db_error_kind(error) is DbErrorKind.LOST:
            self._drop(session, DbErrorKind.LOST.value)
            self._unproven(batch)
        else:
            await super()._recover(batch, session, error)


class ReadInsteadOfSending(Worker):
    """After a lost reply the state is read, instead of sending the statement again: it may still be running."""

    ledger_kind = _ledger_with(committer=_ReadingCommitter)


class _TrustingFollower(ChangeFollower):
    async def _begin_anew(self, known: Any, reading: Any) -> None:
        if known.is_continued_by(reading):
            await self._take_over_changes(known, reading)
        else:
            await super()._begin_anew(known, reading)


class RestartTrusted(Worker):
    """What was cached is used after a crash of a host that had not kept everything, if all that was followed is still there."""

    follower_kind = _TrustingFollower


class Control(NamedTuple):
    """A broken worker, and the kinds of faults that it does not withstand; empty for all kinds."""

    worker: type[Worker]
    faults: tuple[str, ...] = ()


CONTROLS = {
    "age-alone": Control(AgeAlone),
    "look-back-from-now": Control(LookBackFromNow, ("lossy network", "clock stepped")),
    "generations-only": Control(GenerationsOnly, ("failover",)),
    "floors-kept": Control(FloorsKept, ("failover",)),
    "one-lane": Control(OneLane),
    "servers-level": Control(ServersLevel),
    "without-log": Control(WithoutLog, ("lossy network", "slow network")),
    "keys-unbound": Control(KeysUnbound),
    "read-instead-of-sending": Control(ReadInsteadOfSending),
    "restart-trusted": Control(RestartTrusted, ("fsync off",)),
}
