"""The ledger on PostgreSQL and the one in memory answer every history of scans alike: same outcome, same figures, same knowledge.

Scans follow each other, so that there is one right answer to each. Time passes in jumps, by moving the last acceptance back in
the database and the clock forward in memory.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from support.ledger_kit import LedgerKit, open_ledger, open_truth, word

from ixfast.domain.model import Verdict
from ixfast.domain.scan import COUNTED_ONLY, KEYED_FROM, Outcome, Scan
from ixfast.testing.memory import MemoryLedger

TAGS = 4
SCANS = 250
WINDOW_S = 60
MISSING_TAG = TAGS + 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def memory_kit(clock: Clock, retry_window_s: int, kind: type[MemoryLedger] = MemoryLedger) -> LedgerKit:
    kit = LedgerKit(retry_window_s=retry_window_s)
    kit.ledger = kind(kit.settled, clock=clock)
    for tag_id in range(1, TAGS + 1):
        kit.ledger.add(kit.record(tag_id))
    return kit


def answer(kit: LedgerKit, scan: Scan) -> dict[str, Any]:
    """All that an answer may show, and what the worker knows of the tag afterwards."""
    given: dict[str, Any] = {"word": word(scan)}
    if scan.error is None:
        given |= {"previous_position": scan.previous_position, "scan_count": scan.scan_count}
    first_at = scan.extras.first_at if scan.extras is not None else None
    given["is_first"] = first_at is None
    given["floor"] = kit.record(scan.tag_id).floor
    return given


def random_scan(chance: random.Random, used: list[tuple[int, int, int]]) -> tuple[int, int, int, dict[str, Any]]:
    """Tag id, position, scan id and extras. Half of them are about what was submitted before."""
    extras: dict[str, Any] = {"wants_state": True} if chance.random() < 0.2 else {}
    if used and chance.random() < 0.5:
        tag_id, position, scan_id = chance.choice(used[-12:])
        if chance.random() < 0.5:
            scan_id = chance.getrandbits(60) | 1
        elif chance.random() < 0.3:
            position += chance.choice((-1, 1))
    else:
        tag_id = chance.choice((*range(1, TAGS + 1), *range(1, TAGS + 1), MISSING_TAG))
        position = COUNTED_ONLY if chance.random() < 0.15 else chance.randrange(1, 60)
        scan_id = chance.getrandbits(60) | 1
    position = max(position, COUNTED_ONLY)
    if scan_id >= KEYED_FROM or chance.random() < 0.3:
        extras["idempotent"] = True
        scan_id |= KEYED_FROM
        if chance.random() < 0.5:
            extras["fingerprint"] = chance.choice((1, 2, 3))
        if chance.random() < 0.2:
            extras["verdict"], position = Verdict.FORGED, COUNTED_ONLY
    if chance.random() < 0.2:
        extras["peek"] = True
    return tag_id, position, scan_id, extras


async def difference(database: str, seed: int, retry_window_s: int, kind: type[MemoryLedger] = MemoryLedger) -> str | None:
    """Submit one history to both; None if all answers are alike, else the first difference."""
    chance, clock, seen = random.Random(seed), Clock(), set()
    used: list[tuple[int, int, int]] = []
    memory = memory_kit(clock, retry_window_s, kind)
    async with contextlib.AsyncExitStack() as exits:
        truth = await exits.enter_async_context(open_truth(database, TAGS))
        postgres = await exits.enter_async_context(open_ledger(database, retry_window_s=retry_window_s))
        for number in range(SCANS):
            if chance.random() < 0.1:
                pause_s = chance.choice((20, WINDOW_S + 1))
                clock.now += pause_s
                await truth.execute(f"UPDATE tag_counter SET last_at = last_at - interval '{pause_s} s'")
            tag_id, position, scan_id, extras = random_scan(chance, used)
            scans = [await kit.submit(tag_id, position, scan_id, **extras) for kit in (postgres, memory)]
            answers = [answer(kit, scan) for kit, scan in zip((postgres, memory), scans, strict=True)]
            if answers[0] != answers[1]:
                return f"seed {seed}, scan {number}: {(tag_id, position, scan_id, extras)}: {answers[0]} and {answers[1]}"
            seen.add(answers[0]["word"])
            used.append((tag_id, position, scan_id))
        for tag_id in range(1, TAGS + 1):
            counter = memory.ledger._counters[tag_id]
            assert await truth.counter(tag_id) == (counter.last_position, counter.previous_position, counter.scan_count)
        assert len(await truth.log()) == len(memory.ledger.passes)
        bindings = await truth.connection.fetch("SELECT scan_id, tag_id, position, fingerprint FROM keyed_tap")
        assert {row["scan_id"]: tuple(row) for row in bindings} == memory.ledger.bindings
    expected = {"advanced", "replayed", "refused", "idempotency_conflict:None", "unavailable:counter_missing"}
    assert seen == expected | ({"repeated"} if retry_window_s else set())
    return None


@pytest.mark.parametrize("retry_window_s", [0, WINDOW_S])
@pytest.mark.parametrize("seed", range(4))
async def test_both_ledgers_answer_a_random_history_alike(database: str, seed: int, retry_window_s: int) -> None:
    assert await difference(database, seed, retry_window_s) is None


class Forgetful(MemoryLedger):
    """Takes each scan of the newest tap for a replay, whatever the window."""

    def _decide(self, scan: Scan, counter: Any) -> None:
        super()._decide(scan, counter)
        if scan.outcome is Outcome.REPEATED:
            scan.outcome = Outcome.REPLAYED


class Unbound(MemoryLedger):
    """Looks only at what was accepted under a key, not at what was refused."""

    def bind(self, scan: Scan) -> None:
        self.bindings.pop(scan.scan_id, None)
        super().bind(scan)


async def test_control_a_ledger_that_binds_no_refused_tap_is_noticed(database: str) -> None:
    found = await difference(database, 0, 0, Unbound)
    assert found is not None and "idempotency_conflict" in found


async def test_control_a_ledger_without_windows_is_noticed(database: str) -> None:
    found = await difference(database, 0, WINDOW_S, Forgetful)
    assert found is not None and "repeated" in found
