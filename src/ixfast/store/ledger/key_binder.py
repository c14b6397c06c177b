"""Binds Idempotency-Keys to taps: whichever tap comes first under a key is the only one that the key is ever used for.

A key is bound before its scan is settled, in a statement of its own, so that two taps under one key cannot both pass, on
whichever workers and hosts they arrive: the table has one row for each key, and the row of the first tap stays. Only scans with
a key come here.

Invariants:

- A scan with a key is settled, or refused, only after its key was seen to be bound to its tap, durably.
- A peek binds nothing, but gets the conflict that a scan would get.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ixfast import limits
from ixfast.domain.decision import ERRORS, Finding, binding_of
from ixfast.domain.scan import Outcome, Scan
from ixfast.store.ledger.ledger_database import LedgerDatabase
from ixfast.store.ledger.state_reader import Lane


class KeyBinder:
    """A lane of its own: scans with a key wait for each other, and no other scan waits for them.

    Each scan ends in one call of `bound`, or of `failed` with an error code and a reason.
    """

    def __init__(
        self,
        database: LedgerDatabase,
        bound: Callable[[Scan], None],
        failed: Callable[[Scan, str, str | None], None],
        *,
        deadline_s: float,
    ) -> None:
        self._database = database
        self._bound = bound
        self.fail = failed
        self._deadline_s = deadline_s
        self.loop = asyncio.get_running_loop()
        self._lane = Lane(self, self._bind, limits.KEYED_QUEUE_MAX)

    @property
    def idle(self) -> bool:
        return self._lane.idle

    async def stop(self) -> None:
        await self._lane.stop()

    def add(self, scan: Scan) -> None:
        """Bind the scan's key, or find out which tap it is bound to."""
        self._lane.add(scan)

    def time_left(self, scans: list[Scan]) -> float:
        """Seconds until the first of these scans reaches its deadline."""
        return min(scan.arrived for scan in scans) + self._deadline_s - self.loop.time()

    async def _bind(self, scans: list[Scan], time_left_s: float) -> None:
        wanted = {scan.scan_id: binding_of(scan) for scan in reversed(scans) if not _peeks(scan)}  # the first to arrive counts
        peeked = {scan.scan_id for scan in scans} - wanted.keys()
        held = {}
        if wanted:
            bindings = [wanted[scan_id] for scan_id in sorted(wanted)]  # in one order everywhere, or two batches deadlock
            held = {each.scan_id: each for each in await self._database.bind_keys(bindings, time_left_s)}
        if peeked:
            held |= {each.scan_id: each for each in await self._database.bindings(peeked, time_left_s)}
        for scan in scans:
            if scan.outcome is not Outcome.UNDECIDED or scan.error is not None:
                continue  # its deadline came first
            binding = held.get(scan.scan_id)
            if binding is not None and not binding.holds(binding_of(scan)):
                self.fail(scan, *ERRORS[Finding.KEY_CONFLICT])
            else:
                self._bound(scan)


def _peeks(scan: Scan) -> bool:
    return scan.extras is not None and scan.extras.peek
