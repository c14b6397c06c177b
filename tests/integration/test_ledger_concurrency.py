"""The ledgers of two workers on one database, thousands of concurrent scans of hot tags, and an exact checker for each tag."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from support.ledger_kit import LedgerKit, Truth, open_ledger, open_truth
from support.linearizability import Operation, violations

from ixfast.domain.scan import Outcome, Scan
from ixfast.store.ledger.ledger import Ledger

TAGS = 200
SCANS = 8000
AT_ONCE = 400
ANSWERS = {Outcome.ADVANCED: "passed", Outcome.REPLAYED: "refused", Outcome.UNDECIDED: "unknown"}


def taps(seed: int) -> list[tuple[int, int]]:
    """Taps of every tag with rising counters and gaps, each one to three times, slightly out of order."""
    chance = random.Random(seed)
    planned: list[tuple[float, int, int]] = []
    for tag_id in range(1, TAGS + 1):
        counter, moment = 0, chance.uniform(0, 5)
        for _ in range(SCANS // TAGS // 2):
            counter += chance.choice((1, 1, 1, 2, 7))
            moment += chance.uniform(0, 2)
            copies = chance.choice((1, 2, 3))
            planned += [(moment + chance.uniform(0, 3), tag_id, counter) for _ in range(copies)]
    return [(tag_id, counter) for _, tag_id, counter in sorted(planned)]


async def play(workers: list[LedgerKit], plan: list[tuple[int, int]], seed: int) -> list[Operation]:
    """Submit the plan with `AT_ONCE` scans in flight, each to a random worker."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    history: list[Operation] = []
    coming = iter(plan)

    async def customer() -> None:
        for tag_id, counter in coming:
            started = loop.time()
            scan = await chance.choice(workers).submit(tag_id, counter)
            history.append(Operation(tag_id, counter, started, loop.time(), ANSWERS[scan.outcome]))  # type: ignore[arg-type]

    await asyncio.gather(*(customer() for _ in range(AT_ONCE)))
    return history


async def wrongs(truth: Truth, history: list[Operation]) -> list[str]:
    rows = await truth.connection.fetch("SELECT tag_id, last_position, scan_count FROM tag_counter")
    logged = await truth.log()
    assert sum(row["scan_count"] for row in rows) == len(logged)
    return violations(history, {row["tag_id"]: row["last_position"] for row in rows}, logged)


@pytest.mark.parametrize("groups", [1, 2])
async def test_two_workers_answer_as_one(database: str, groups: int) -> None:
    seed = 424 + groups
    async with open_truth(database, TAGS) as truth, open_ledger(database, groups=groups, deadline_s=20) as one:
        async with open_ledger(database, groups=groups, batch_max=64, deadline_s=20) as other:
            history = await play([one, other], taps(seed), seed)
        assert await wrongs(truth, history) == []
        answers = [operation.answer for operation in history]
        assert answers.count("unknown") == 0
        assert answers.count("passed") > SCANS / 4
        assert answers.count("refused") > SCANS / 4


class CompareFirst(Ledger):
    """A control that reads, compares and then writes, as a first attempt would."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, scan: Scan) -> None:
        task = asyncio.get_running_loop().create_task(self._advance(scan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _advance(self, scan: Scan) -> None:
        async with self._database._pool.acquire() as connection:
            last = await connection.fetchval("SELECT last_position FROM tag_counter WHERE tag_id = $1", scan.tag_id)
            scan.outcome = Outcome.ADVANCED if scan.position > last else Outcome.REPLAYED
            if scan.outcome is Outcome.ADVANCED:
                await self._write(connection, scan)
        self._settled(scan)

    async def _write(self, connection: asyncpg.Connection, scan: Scan) -> None:
        await connection.execute(
            "UPDATE tag_counter SET last_position = $2, scan_count = scan_count + 1 WHERE tag_id = $1", scan.tag_id, scan.position
        )
        await connection.execute("INSERT INTO scan_log VALUES (now(), $1, $2, $3, 'g')", scan.scan_id, scan.tag_id, scan.position)


class AnswerFirst(Ledger):
    """A control that answers from the counter cached in this worker and commits afterwards."""

    def submit(self, scan: Scan) -> None:
        record, settled = scan.record, self._settled
        assert record is not None
        scan.outcome = Outcome.ADVANCED if scan.position > record.floor else Outcome.REPLAYED
        settled(scan)
        if scan.outcome is Outcome.ADVANCED:
            record.floor = scan.position
            self._answered.add(scan.scan_id)
            super().submit(scan)

    def __init__(self, database: Any, settled: Callable[[Scan], None], *rest: Any, **options: Any) -> None:
        self._answered: set[int] = set()
        super().__init__(database, lambda scan: None if scan.scan_id in self._answered else settled(scan), *rest, **options)


@pytest.mark.parametrize(
    ("broken", "violation"),
    [(CompareFirst, "times"), (AnswerFirst, "passed after")],
)
async def test_broken_ledgers_are_caught(database: str, broken: Callable[..., Any], violation: str) -> None:
    plan = taps(1)[:3000]
    async with open_truth(database, TAGS) as truth, open_ledger(database, kind=broken, deadline_s=20) as one:
        async with open_ledger(database, kind=broken, deadline_s=20) as other:
            history = await play([one, other], plan, 1)
        found = await wrongs(truth, history)
    assert any(violation in each for each in found)
