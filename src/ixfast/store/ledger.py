"""The ledger: is this tap newer than the newest one durably accepted for its tag?

`submit` takes a scan whose `tag_id`, `position` and `scan_id` are set and ends in exactly one call of `settled`, with
`outcome` set, or with `error` set if no answer can be given. A pass is announced only after an acknowledged commit; a
refusal only after the durable state was seen to be at or above the scan's position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ixfast import limits, meters
from ixfast.model import Verdict
from ixfast.scan import COUNTED_ONLY, Outcome, Scan
from ixfast.store.committer import Committer
from ixfast.store.queries import load
from ixfast.store.session import LedgerSession, borrowed
from ixfast.store.trouble import Trouble, reason_of, trouble_of

log = logging.getLogger("ixfast.ledger")

_REFUSAL_FLUSH_S = 0.25
_ADVANCED = Outcome.ADVANCED
_LETTERS = {
    Verdict.REPLAYED: "r", Verdict.FORGED: "f", Verdict.INCOMPLETE: "i", Verdict.INACTIVE: "x", Verdict.REPEAT: "a",
}  # fmt: skip


class Ledger:
    """Committers by group, the reader of durable state, and the best-effort log of refusals.

    A tag always belongs to the same group of a worker, so that of two scans of a tag here none overtakes the other.
    """

    def __init__(
        self,
        dsn: str,
        pool: Any,
        settled: Callable[[Scan], None],
        gauges: meters.Meters,
        *,
        groups: int = 2,
        batch_max: int = 1024,
        queue_max: int = 20_000,
        deadline_s: float = 1.5,
        wait_max_s: float = 0.1,
    ) -> None:
        self._pool = pool
        self._settled = settled
        self._meters = gauges
        self._deadline_s = deadline_s
        self._committers = [
            Committer(
                lambda: LedgerSession.open(dsn),
                self,
                gauges,
                batch_max=batch_max,
                queue_max=max(1, queue_max // groups),
                deadline_s=deadline_s,
                wait_max_s=wait_max_s,
            )
            for _ in range(groups)
        ]
        self._submits = [committer.submit for committer in self._committers]
        self._groups = groups
        self._sql = load("ledger")
        self._loop = asyncio.get_running_loop()
        self._unproven: list[Scan] = []
        self._reading = False
        self._refusals: list[tuple[int, int, int, str]] = []
        self._flusher: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        for committer in self._committers:
            committer.start()

    async def stop(self) -> None:
        for committer in self._committers:
            await committer.stop()
        if self._flusher is not None:
            self._flusher.cancel()
            await self._write_refusals()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_undecided(self._unproven, "draining", "stopped")

    @property
    def idle(self) -> bool:
        return not (self._reading or self._unproven) and all(c.idle for c in self._committers)

    @property
    def connected(self) -> bool:
        return all(c.connected for c in self._committers)

    def submit(self, scan: Scan) -> None:
        """Make the scan durable, or find out that it is not new."""
        self._submits[scan.tag_id % self._groups](scan)

    # What the committers call.

    def passed(self, scan: Scan) -> None:
        scan.outcome = _ADVANCED
        record = scan.record
        assert record is not None
        if scan.position > record.floor:
            record.floor = scan.position
        self._settled(scan)

    def unproven(self, scan: Scan) -> None:
        self.read_state(scan)

    def known_replay(self, scan: Scan) -> bool:
        record = scan.record
        assert record is not None
        if not 0 <= scan.position <= record.floor or needs_state(scan):
            return False
        scan.outcome = Outcome.REPLAYED
        self._settled(scan)
        return True

    def failed(self, scan: Scan, code: str, reason: str) -> None:
        scan.error = code
        scan.error_detail = reason
        self._settled(scan)

    # Durable state.

    def read_state(self, scan: Scan) -> None:
        """Read the tag's durable counter and decide the scan by it, consuming nothing."""
        self._unproven.append(scan)
        if not self._reading:
            self._reading = True
            self._spawn(self._read_states())

    async def _read_states(self) -> None:
        try:
            while self._unproven:
                scans = self._unproven[: limits.FLOOR_QUERY_TAGS_MAX]
                del self._unproven[: limits.FLOOR_QUERY_TAGS_MAX]
                try:
                    await self._judge(scans)
                except Exception as error:  # of every kind, as in the committer; the answer is 503 and never a verdict
                    reason = reason_of(error)
                    log.warning("durable state of %d scans unread: %s", len(scans), reason)
                    self._fail_undecided(scans, "unavailable", reason)
                except asyncio.CancelledError:
                    self._fail_undecided(scans, "draining", "stopped")
                    raise
        finally:
            self._reading = False

    def _fail_undecided(self, scans: list[Scan], code: str, reason: str) -> None:
        for scan in scans:
            if scan.outcome is Outcome.UNDECIDED and scan.error is None:
                self.failed(scan, "outcome_unknown" if scan.unresolved else code, reason)

    def _remaining_s(self, scans: list[Scan]) -> float:
        return max(0.05, min(s.arrived for s in scans) + self._deadline_s - self._loop.time())

    async def _judge(self, scans: list[Scan]) -> None:
        self._meters.slots[meters.LEDGER_STATE_READS] += len(scans)
        async with borrowed(self._pool, self._remaining_s(scans)) as connection:
            rows = await connection.fetch(self._sql["floors"], list({s.tag_id for s in scans}))
            states = {row["tag_id"]: row for row in rows}
            for scan in scans:
                state = states.get(scan.tag_id)
                overtaken = state is not None and state["last_position"] > scan.position
                if overtaken and _may_be_logged(scan) and await self._was_logged(connection, scan):
                    _tell_state(scan, state)
                    self.passed(scan)
                else:
                    self._decide(scan, state)

    async def _was_logged(self, connection: Any, scan: Scan) -> bool:
        lookback_s = limits.LOST_REPLY_LOOKBACK_S if scan.unresolved else limits.IDEMPOTENCY_WINDOW_S
        return bool(
            await connection.fetchval(self._sql["logged_pass"], scan.tag_id, scan.scan_id, scan.position, float(lookback_s))
        )

    def _decide(self, scan: Scan, state: Any) -> None:
        """`state` is the tag's durable row, or None if it has none."""
        if state is None:
            self._broken(scan, "counter_missing")
            return
        _tell_state(scan, state)
        record, extras = scan.record, scan.extras
        assert record is not None
        record.floor = max(record.floor, state["last_position"])
        if state["last_scan_id"] == scan.scan_id and scan.position in (state["last_position"], COUNTED_ONLY):
            self.passed(scan)
        elif extras is not None and extras.peek and not 0 <= scan.position <= state["last_position"]:
            scan.outcome = Outcome.ADVANCED
            scan.previous_position = state["last_position"]
            scan.scan_count += 1
            self._settled(scan)
        elif scan.position == state["last_position"]:
            window_ms = record.group.retry_window_ms
            scan.outcome = Outcome.REPEATED if state["age_ms"] < window_ms else Outcome.REPLAYED
            self._settled(scan)
        elif 0 <= scan.position < state["last_position"]:
            scan.outcome = Outcome.REPLAYED
            self._settled(scan)
        else:
            self._broken(scan, "counter_contradicts")

    def _broken(self, scan: Scan, reason: str) -> None:
        self._meters.slots[meters.LEDGER_BROKEN] += 1
        log.error("tag %d: %s", scan.tag_id, reason)
        self.failed(scan, "unavailable", reason)

    # Refusals: best effort, never in anybody's way.

    def log_refusal(self, scan: Scan) -> None:
        """Queue a log row for a decided scan that consumed nothing."""
        letter = _LETTERS.get(scan.verdict) if scan.verdict is not None else None
        if letter is None or scan.record is None:
            return
        if len(self._refusals) >= limits.REFUSAL_QUEUE_ROWS_MAX:
            self._meters.slots[meters.REFUSALS_DROPPED] += 1
            return
        self._refusals.append((scan.scan_id, scan.record.tag_id, scan.position, letter))
        if self._flusher is None:
            self._flusher = self._loop.call_later(_REFUSAL_FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._flusher = None
        self._spawn(self._write_refusals())

    async def _write_refusals(self) -> None:
        rows, self._refusals = self._refusals, []
        if not rows:
            return
        try:
            async with borrowed(self._pool, self._deadline_s) as connection:
                await connection.execute(self._sql["log_refusals"], *map(list, zip(*rows, strict=True)))
        except Exception as error:  # best effort: counted, and nobody waits for it
            self._meters.slots[meters.REFUSALS_DROPPED] += len(rows)
            log.warning("%d refusals not logged: %s", len(rows), trouble_of(error).value)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def needs_state(scan: Scan) -> bool:
    """Must the durable state be read before this scan may be refused, even if its counter is known to be used?"""
    extras, record = scan.extras, scan.record
    if record is not None and record.group.retry_window_ms:
        return True
    return scan.unresolved or (extras is not None and (extras.idempotent or extras.wants_state))


def _may_be_logged(scan: Scan) -> bool:
    return scan.unresolved or (scan.extras is not None and scan.extras.idempotent)


def _tell_state(scan: Scan, state: Any) -> None:
    scan.scan_count = state["scan_count"]
    own = state["last_position"] == scan.position
    scan.previous_position = state["previous_position"] if own else state["last_position"]


__all__ = ["Ledger", "Trouble", "needs_state"]
