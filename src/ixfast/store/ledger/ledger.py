"""The ledger: is this tap newer than the newest one durably accepted for its tag?

`submit` takes a scan whose `tag_id`, `position` and `scan_id` are set. Each scan ends in exactly one call of `settled`: with
`outcome` set, or with `error` set if there can be no answer.

Invariants:

- A pass is announced only after an acknowledged commit.
- A refusal is announced only after the durable state was seen to be at or above the scan's position.
- A tag always belongs to the same committer of a worker, so no scan overtakes an earlier one of the same tag. A scan with an
  Idempotency-Key counts as arrived once its key is bound.
- Nothing is committed to a history of the database other than the one that `History` follows.

The work is done elsewhere: `KeyBinder` binds Idempotency-Keys to taps, `Committer` makes scans durable, `StateReader` decides
those that did not advance, `RefusalLog` logs refusals. The ledger connects them and is the only one that sets outcomes.
"""

from __future__ import annotations

from collections.abc import Callable

from ixfast import meters
from ixfast.domain.scan import COUNTED_ONLY, Outcome, Scan
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.history import History
from ixfast.store.connections.session import LedgerSession
from ixfast.store.ledger.committer import Committer
from ixfast.store.ledger.key_binder import KeyBinder
from ixfast.store.ledger.ledger_database import LedgerDatabase
from ixfast.store.ledger.refusal_log import RefusalLog
from ixfast.store.ledger.state_reader import StateReader

_ADVANCED = Outcome.ADVANCED


class Ledger:
    """One worker's ledger. `settled` is called once for each submitted scan."""

    def __init__(
        self,
        database: LedgerDatabase,
        settled: Callable[[Scan], None],
        gauges: meters.Meters,
        *,
        clock: DatabaseClock | None = None,
        history: History | None = None,
        groups: int = 2,
        batch_max: int = 1024,
        queue_max: int = 20_000,
        deadline_s: float = 1.5,
        wait_max_s: float = 0.1,
    ) -> None:
        self._database = database
        self._settled = settled
        self._history = history or History()
        self._committers = [
            Committer(
                self._open_session,
                self,
                gauges,
                batch_max=batch_max,
                queue_max=max(1, queue_max // groups),
                deadline_s=deadline_s,
                wait_max_s=wait_max_s,
            )
            for _ in range(groups)
        ]
        for committer in self._committers:
            self._history.on_change(committer.follow)
        self._submits = [committer.submit for committer in self._committers]
        self._groups = groups
        self._reader = StateReader(
            database,
            self,
            clock or DatabaseClock(gauges),
            gauges,
            deadline_s=deadline_s,
            suspect=self._history.suspect,
        )
        self._binder = KeyBinder(database, self.bound, self.failed, deadline_s=deadline_s)
        self._refusals = RefusalLog(database, gauges)

    async def _open_session(self) -> LedgerSession:
        """Open a session. Raises HistoryChangedError if it leads to another history than the one that is followed."""
        session = await self._database.open_session()
        try:
            self._history.check(session.history)
        except BaseException:
            session.terminate()
            raise
        return session

    def start(self) -> None:
        for committer in self._committers:
            committer.start()

    async def stop(self) -> None:
        """Stop at once. Scans still here are answered `draining`, or `outcome_unknown` if their statement was sent."""
        await self._binder.stop()
        for committer in self._committers:
            await committer.stop()
        await self._refusals.stop()
        await self._reader.stop()

    @property
    def idle(self) -> bool:
        return self._binder.idle and self._reader.idle and all(c.idle for c in self._committers)

    @property
    def connected(self) -> bool:
        return all(c.connected for c in self._committers)

    @property
    def failure(self) -> str | None:
        """Why scans cannot be committed at present, as far as is known; None if they can."""
        return next((c.failure for c in self._committers if c.failure is not None), None)

    def forget_refusal(self) -> None:
        """Forget that the database refused statements: it accepts them again."""
        for committer in self._committers:
            committer.forget_refusal()

    def submit(self, scan: Scan) -> None:
        """Make the scan durable, or find out that it is not new."""
        self._submits[scan.tag_id % self._groups](scan)

    def bind(self, scan: Scan) -> None:
        """Settle a scan with an Idempotency-Key, a peek included. With `verdict` set it is refused already, and only its key is
        bound."""
        self._binder.add(scan)

    def read_state(self, scan: Scan) -> None:
        """Decide the scan by the tag's durable counter, consuming nothing."""
        self._reader.add(scan)

    def log_refusal(self, scan: Scan) -> None:
        """Queue a row of the scan log for a decided scan that consumed nothing. Best effort; never waits."""
        self._refusals.add(scan)

    def log_country(self, scan: Scan, country: str) -> None:
        """Queue a row with the country of a decided scan's visitor, two letters. Best effort; never waits."""
        self._refusals.add_country(scan, country)

    # Called by the committers, the state reader and the binder.

    def bound(self, scan: Scan) -> None:
        """The scan's Idempotency-Key is bound to its tap, or is not bound if it is a peek."""
        extras, record = scan.extras, scan.record
        assert extras is not None and record is not None
        if scan.verdict is not None:
            self.decided(scan, Outcome.REFUSED)
        elif not extras.peek and (scan.position > record.floor or scan.position == COUNTED_ONLY):
            self.submit(scan)
        else:
            self._reader.add(scan)

    def passed(self, scan: Scan) -> None:
        scan.outcome = _ADVANCED
        record = scan.record
        assert record is not None
        if scan.position > record.floor:
            record.floor = scan.position
        self._settled(scan)

    def decided(self, scan: Scan, outcome: Outcome) -> None:
        scan.outcome = outcome
        self._settled(scan)

    def unproven(self, scan: Scan) -> None:
        self._reader.add(scan)

    def known_replay(self, scan: Scan) -> bool:
        record = scan.record
        assert record is not None
        if not 0 <= scan.position <= record.floor or needs_state(scan):
            return False
        self.decided(scan, Outcome.REPLAYED)
        return True

    def failed(self, scan: Scan, code: str, reason: str | None) -> None:
        scan.error = code
        scan.error_detail = reason
        self._settled(scan)


def needs_state(scan: Scan) -> bool:
    """Whether the durable state must be read before this scan may be refused, even if its counter is known to be used."""
    extras, record = scan.extras, scan.record
    if record is not None and record.group.retry_window_ms:
        return True
    return scan.unresolved or (extras is not None and (extras.idempotent or extras.wants_state))


__all__ = ["Ledger", "needs_state"]
