"""A ledger as in a worker, with a change follower that reads the database's clock and history."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from ixfast import meters
from ixfast.store.catalogue.catalogue import Change
from ixfast.store.catalogue.change_follower import ChangeFollower
from ixfast.store.catalogue.change_source import PostgresChangeSource, Reading
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.history import History
from support import eventually
from support.ledger_kit import LedgerKit, open_ledger


class TrustingSource(PostgresChangeSource):
    """Accepts a server with `fsync` off, which is faster."""

    async def read(self, known: int | None) -> Reading:
        return (await super().read(known))._replace(unsafe=None)


class NoCatalogue:
    """A stand-in for the catalogue; `applied` are the kinds of the changes that the follower applied."""

    def __init__(self) -> None:
        self.stale: str | None = "starting"
        self.fresh_until = 0.0
        self.applied: list[str] = []
        self.forgotten = 0

    async def forget(self) -> None:
        self.forgotten += 1

    async def apply(self, changes: Iterable[Change]) -> None:
        self.applied += [change.kind for change in changes]


class FollowedLedger:
    """`kit` submits scans. `steps` and `changes_of_history` are the counts so far."""

    def __init__(self, kit: LedgerKit, follower: ChangeFollower, catalogue: NoCatalogue, gauges: meters.Meters) -> None:
        self.kit = kit
        self.follower = follower
        self.catalogue = catalogue
        self.meters = gauges
        self.word = kit.word
        self.submit = kit.submit

    @property
    def steps(self) -> int:
        return int(self.meters.slots[meters.CLOCK_STEPS])

    @property
    def history_changes(self) -> int:
        return int(self.meters.slots[meters.HISTORY_CHANGES])

    async def sees_steps(self, count: int) -> None:
        """Wait until this many steps in total have been detected."""
        await eventually(lambda: self.steps >= count)


@contextlib.asynccontextmanager
async def followed_ledger(
    dsn: str,
    *,
    pool_dsn: str | None = None,
    poll_interval_s: float = 0.05,
    source_kind: Any = PostgresChangeSource,
    **options: Any,
) -> AsyncIterator[FollowedLedger]:
    """The ledger of `open_ledger`, after the follower has read the database. Reads and the follower connect to `pool_dsn`."""
    gauges = meters.Meters()
    clock, history, catalogue = DatabaseClock(gauges), History(), NoCatalogue()
    async with open_ledger(dsn, pool_dsn=pool_dsn, clock=clock, history=history, **options) as kit:
        source = source_kind(pool_dsn or dsn, kit.pool)
        follower = ChangeFollower(
            source,
            catalogue,  # type: ignore[arg-type]
            gauges,
            clock=clock,
            history=history,
            poll_interval_s=poll_interval_s,
        )
        follower.start()
        try:
            await eventually(lambda: catalogue.stale is None)
            yield FollowedLedger(kit, follower, catalogue, gauges)
        finally:
            await follower.stop()
