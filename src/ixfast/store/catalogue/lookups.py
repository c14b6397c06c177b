"""Look-up rounds: what misses the catalogue's cache at about the same time is resolved by one round of queries.

A round takes everything that is waiting, up to a limit. Misses that arrive while it runs wait for the next one, because a round
costs about 0.2 ms however few references it is for; a second round starts beside it only if many are waiting, or if the first is
slow. A database on which all rounds are slow gets one at a time, with pauses.

This module schedules rounds, deadlines and answers. What a round asks, and what of it is cached, is up to the catalogue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, NamedTuple

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import Scan
from ixfast.store.catalogue.record_loader import Unusable
from ixfast.store.db_errors import reason_of

log = logging.getLogger("ixfast.catalogue")

_CONCURRENT_ROUNDS = 2  # One round's rows are turned into records while the other waits for the database.
_SECOND_ROUND_FROM = 32
_SLOW_ROUND_S = 0.01
_SWEEP_S = 0.05
_TIME_LEFT_MIN_S = 0.05

Found = Callable[[Scan, Any], None]
Waiter = tuple[Scan, Found]
Wanted = dict[bytes, list[Waiter]]
"""Scans that wait for a reference, by reference."""


class Failure(NamedTuple):
    """Why a look-up cannot be answered, as the reason of a 503.

    `tag` is set if it is about a single tag that cannot be used: for callers who may not see that tag, it is simply absent.
    """

    reason: str
    tag: Unusable | None = None

    def concerns(self, scan: Scan) -> bool:
        return self.tag is None or self.tag.is_for(scan.api_key, scan.aid)


class RoundResult(NamedTuple):
    """Records and failures by reference; a reference with neither is absent.

    `revision` is the catalogue's revision at the start of the round: what was read may be outdated once it has changed.
    """

    records: dict[bytes, Any]
    failures: dict[bytes, Failure]
    revision: int = 0


class LookupRounds:
    """Collects misses and answers each of them once, by calling its `found(scan, record)`.

    `look_up(wanted, time_left_s)` runs one round. `derive_keys(record, revision)` completes a record that awaits its keys, and
    returns the reason if that fails.
    """

    def __init__(
        self,
        look_up: Callable[[Wanted, float], Awaitable[RoundResult]],
        derive_keys: Callable[[TagRecord, int], Awaitable[str | None]],
        *,
        deadline_s: float,
    ) -> None:
        self._look_up = look_up
        self._derive_keys = derive_keys
        self._deadline_s = deadline_s
        self._waiting: Wanted = {}
        self._waiting_count = 0
        self._running: list[Wanted] = []  # what the rounds under way are for
        self._rounds: set[asyncio.Task[None]] = set()
        self._round_began = 0.0
        self._slow = False  # the last round was slow, as all are at such times: a second one beside it would slow down both
        self._derivations: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def idle(self) -> bool:
        return not (self._rounds or self._derivations)

    def add(self, scan: Scan, ref: bytes, found: Found) -> None:
        """Look up `ref` for this scan. If too many are waiting already, the scan fails at once."""
        if self._waiting_count >= limits.LOOKUP_QUEUE_MAX:
            _fail(scan, found, "overloaded", "lookup_queue_full")
            return
        self._waiting.setdefault(ref, []).append((scan, found))
        self._waiting_count += 1
        if self._may_begin_round():
            self._round_began = self._loop.time()
            if not self._rounds:
                self._loop.call_later(_SWEEP_S, self._sweep)
            self._rounds.add(self._loop.create_task(self._run_rounds()))

    def _may_begin_round(self) -> bool:
        if not self._rounds:
            return True
        if len(self._rounds) == _CONCURRENT_ROUNDS or self._slow:
            return False
        return len(self._waiting) >= _SECOND_ROUND_FROM or self._loop.time() > self._round_began + _SLOW_ROUND_S

    def _sweep(self) -> None:
        """Fail the scans whose deadline has passed. Repeats itself while there are rounds, which go on for later scans."""
        if not self._rounds:
            return
        too_old = self._loop.time() - self._deadline_s
        late = []
        for wanted in (self._waiting, *self._running):
            for waiters in wanted.values():
                if min([scan.arrived for scan, _ in waiters], default=too_old) < too_old:
                    late += [waiter for waiter in waiters if waiter[0].arrived < too_old]
                    waiters[:] = [waiter for waiter in waiters if waiter[0].arrived >= too_old]
        self._waiting = {ref: waiters for ref, waiters in self._waiting.items() if waiters}
        self._loop.call_later(_SWEEP_S, self._sweep)
        self._answer(late, None, Failure("deadline"))  # last, because an answered caller may ask for something else

    async def _run_rounds(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._resolve_waiting()
        finally:
            # Not in a callback of the task, which runs later: a miss in between would wait for a round that never starts.
            self._rounds.discard(task)

    async def _resolve_waiting(self) -> None:
        while self._waiting:
            wanted = self._take_waiting()
            began = self._loop.time()
            self._running.append(wanted)
            try:
                result = await self._look_up(wanted, self._time_left(wanted))
            except Exception as error:  # any kind: a look-up without an answer is 503, never an absent tag
                reason = reason_of(error)
                log.warning("cannot look up %d references: %s", len(wanted), reason)
                result = RoundResult({}, dict.fromkeys(wanted, Failure(reason)))
            finally:
                self._running.remove(wanted)
            self._answer_round(wanted, result)
            spent_s = self._loop.time() - began
            self._slow = spent_s > limits.LOOKUP_SLOW_S
            if self._slow:
                await asyncio.sleep(min(limits.LOOKUP_PAUSES * spent_s, limits.LOOKUP_PAUSE_S_MAX))

    def _take_waiting(self) -> Wanted:
        """Take what the next round is for."""
        if len(self._waiting) <= limits.LOOKUP_BATCH_MAX:
            wanted, self._waiting = self._waiting, {}
            return wanted
        wanted = dict(islice(self._waiting.items(), limits.LOOKUP_BATCH_MAX))
        for ref in wanted:
            del self._waiting[ref]
        return wanted

    def _time_left(self, wanted: Wanted) -> float:
        """Seconds until the last of the waiting scans reaches its deadline, or a little if it has.

        A result that comes too late for them is cached for later scans, so that a slow database is not asked again and again.
        """
        newest = max([scan.arrived for waiters in wanted.values() for scan, _ in waiters])
        return max(_TIME_LEFT_MIN_S, newest + self._deadline_s - self._loop.time())

    def _answer_round(self, wanted: Wanted, result: RoundResult) -> None:
        without_keys: dict[bytes, tuple[TagRecord, list[Waiter]]] = {}
        for ref, waiters in wanted.items():
            record = result.records.get(ref)
            if isinstance(record, TagRecord) and record.awaits_keys:
                # Callers for whom the tag does not exist must not wait for its keys.
                self._answer([waiter for waiter in waiters if not record.is_for(waiter[0].api_key, waiter[0].aid)], None, None)
                own = [waiter for waiter in waiters if record.is_for(waiter[0].api_key, waiter[0].aid)]
                if own:
                    without_keys.setdefault(record.xuid, (record, []))[1].extend(own)
            else:
                self._answer(waiters, record, result.failures.get(ref))
        if without_keys:
            task = self._loop.create_task(self._derive(list(without_keys.values()), result.revision))
            self._derivations.add(task)
            task.add_done_callback(self._derivations.discard)

    async def _derive(self, tags: list[tuple[TagRecord, list[Waiter]]], revision: int) -> None:
        """Answer for tags whose keys take milliseconds to derive, one after the other, beside the scans of all other tags."""
        for record, waiters in tags:
            if self._loop.time() > max(scan.arrived for scan, _ in waiters) + self._deadline_s:
                reason: str | None = "deadline"  # no caller waits any more, so nothing is derived
            else:
                reason = await self._derive_keys(record, revision)
            self._answer(waiters, record, Failure(reason) if reason is not None else None)

    def _answer(self, waiters: list[Waiter], record: Any, failure: Failure | None) -> None:
        self._waiting_count -= len(waiters)
        for scan, found in waiters:
            if failure is not None and failure.concerns(scan):
                _fail(scan, found, "unavailable", failure.reason)
            else:
                found(scan, record)


def accounts_asking(wanted: Wanted) -> set[int] | None:
    """The accounts whose tags the waiting scans may see; None if a scan without a token is among them, which may see any."""
    accounts = set()
    for ref, waiters in wanted.items():
        for scan, _ in waiters:
            if scan.api_key is not None:
                accounts.add(scan.api_key.account_id)
            elif references.kind(ref) != references.TOKEN:
                return None
    return accounts


def _fail(scan: Scan, found: Found, code: str, reason: str) -> None:
    scan.error = code
    scan.error_detail = reason
    found(scan, None)
