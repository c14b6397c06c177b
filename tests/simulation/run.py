"""One run: a seed, and everything that follows from it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import fleet
from .callers import Callers, Manager, switch, switch_tag
from .database import Cluster
from .faults import Faults
from .judge import judge
from .loop import PROCESS, Process, SimulatedLoop
from .network import Link, Network
from .operations import Operation
from .trace import Trace
from .worker import Worker

BUSY_S = 24.0
SETTLING_S = 6.0
NOTICED_S = 1.5
"""Without faults, a worker notices a change within a second; this adds a margin."""


@dataclass
class Result:
    """The result of a run."""

    seed: int
    violations: list[str]
    operations: int
    answers: Counter[str]
    faults: Counter[str]
    trace: Trace

    def report(self) -> str:
        """The violations, preceded by the trace that led to them."""
        return "\n".join([*self.trace.lines(), "", f"seed {self.seed}: {len(self.violations)} violations", *self.violations])


class Run:
    """Everything that belongs to one run. `worker_kind` may be a control; `only` limits the kinds of faults."""

    def __init__(self, seed: int, worker_kind: type[Worker] = Worker, only: Collection[str] = ()) -> None:
        self.seed = seed
        self.loop = SimulatedLoop()
        self.trace = Trace(self.loop.time)
        self.broken: list[str] = []
        self.keyed_cost_s = 0.0
        self.faults: Faults
        self.cluster: Cluster
        self.callers: Callers
        self._worker_kind = worker_kind
        self._only = only

    def chance(self, name: str) -> random.Random:
        """A separate random source for each concern, so that draws for one do not affect another."""
        return random.Random(f"{self.seed}/{name}")

    def execute(self) -> Result:
        with _log_noted(self):
            try:
                self.loop.run_until_complete(self._main())
            finally:
                self.loop.close()
        self.broken += self.loop.broken
        violations = judge(self)
        operations = self.callers.operations
        faults = self.faults.injected + self.network.injected
        return Result(self.seed, violations, len(operations), Counter(o.answer for o in operations), faults, self.trace)

    def start_worker(self, name: str) -> None:
        self._starts += 1
        worker = self._worker_kind(self.loop, self.network, self.cluster, name, self.chance(f"scan ids {self._starts}"))
        worker.database.keyed_cost_s = lambda: self.keyed_cost_s  # type: ignore[attr-defined]
        self.callers.workers[name] = worker

    def replace(self, worker: Worker) -> None:
        """Kill a worker and start its successor."""
        worker.kill()
        if self.callers.workers[worker.name] is worker:
            self.start_worker(worker.name)

    async def _main(self) -> None:
        chance = self.chance("run")
        self.network = Network(self.loop, self.chance("network"))
        synchronous = chance.random() < 0.5
        self.cluster = Cluster(self.loop, self.chance("database"), self.trace, fleet.initial_state(), synchronous=synchronous)
        self.callers = Callers(self.loop, self.network, self.chance("callers"), self.trace)
        self.scheduler = Process(self.loop, "scheduler")
        self.faults = Faults(self, self.chance("faults"), self._only)
        self._starts = 0
        for number in range(chance.choice((1, 2, 2, 3))):
            self.start_worker(f"worker {number + 1}")
        managers = Process(self.loop, "managers")
        manager = Manager(Link(self.network, self.cluster, managers), self.callers, self.chance("managers"), self.trace)
        await asyncio.sleep(0.5)
        await asyncio.gather(
            self.callers.process.spawn(self.callers.behave(chance.choice((0.6, 1.0)) * BUSY_S, chance.choice((4.0, 8.0, 12.0)))),
            managers.spawn(manager.behave(BUSY_S - 4.0, chance.choice((3.0, 6.0, 100.0)))),
            self.scheduler.spawn(self.faults.behave(BUSY_S)),
        )
        await self.faults.end()
        await asyncio.sleep(SETTLING_S)
        await managers.spawn(self._check_recovery(manager))
        for process in (*(w.process for w in self.callers.workers.values()), managers, self.scheduler, self.callers.process):
            process.kill()
        self.cluster.end()
        await asyncio.sleep(0.1)

    async def _check_recovery(self, manager: Manager) -> None:
        """Once all faults are over, everything is answered, and changes are noticed within a second."""
        for table, key, member in [(t, k, m) for tag_id in fleet.TAGS for t, k, m in _switches(tag_id)]:
            if not self.cluster.seen[table, key][-1][1][member]:
                await self._do(manager, switch_tag(key, True) if table == "tag" else switch(table, key, member, True))
        await asyncio.sleep(NOTICED_S)
        for tag_id, chip in self.callers.chips.items():
            for tap in sorted(set(chip.used[-4:])):  # some of these may have been lost
                await self.callers.ask(tag_id, tap)
        fresh = [(tag_id, self.callers.chips[tag_id].tap(1), name) for tag_id in fleet.TAGS for name in self.callers.workers]
        for tag_id, tap, name in fresh:
            if self._version(tag_id) != tap[0]:
                continue  # its rotation did not go through
            self._expect(await self.callers.ask(tag_id, tap, name), "passed")
        await self._ask_in_a_flood(fresh)
        off = next(tag_id for tag_id in fleet.TAGS if fleet.TAGS[tag_id] == fleet.STRICT)
        await self._do(manager, switch_tag(off, False))
        await asyncio.sleep(NOTICED_S)
        for name in self.callers.workers:
            self._expect(await self.callers.ask(off, self.callers.chips[off].tap(1), name), "inactive")

    async def _do(self, manager: Manager, wanted: object) -> None:
        if not await manager.do(wanted):  # type: ignore[arg-type]
            self.broken.append(f"the database does not answer a manager: {wanted}")

    def _version(self, tag_id: int) -> int:
        """The version of the tag's valid key."""
        versions = fleet.KEY_VERSIONS if fleet.TAGS[tag_id] != fleet.PLAIN else ()
        return next((v for v in versions if self.cluster.seen["tag_key", (tag_id, v)][-1][1]["live"]), 1)

    async def _ask_in_a_flood(self, used: list[tuple[int, tuple[int, int], str]]) -> None:
        """A caller floods the workers with keyed requests for used taps, which take very long to look up: nobody else waits."""
        self.keyed_cost_s = 3.0
        strict = [entry for entry in used if fleet.TAGS[entry[0]] == fleet.STRICT]
        flood = [
            asyncio.ensure_future(self.callers.ask(tag_id, tap, name, key=f"flood {n}", api_key_id=None))
            for n in range(3)
            for tag_id, tap, name in strict
        ]
        await asyncio.sleep(0.05)
        for tag_id, tap, name in strict:
            self._expect(await self.callers.ask(tag_id, tap, name, v2=True), "replayed", "forged")
        await asyncio.gather(*flood)
        self.keyed_cost_s = 0.0
        await asyncio.sleep(0.5)

    def _expect(self, operation: Operation, *answers: str) -> None:
        if operation.answer not in answers:
            self.broken.append(f"after all faults, expected {' or '.join(answers)}: {operation}")

    # Queries of the judge.

    def disturbed(self, worker: str, start: float, end: float) -> bool:
        """Was there a fault that may delay or lose a worker's answers?"""
        late = ("worker frozen", "worker killed", "worker restarted", "slow network", "lossy network")
        return any(kind in late and began <= end and ended >= start for kind, began, ended in self.faults.between)

    @property
    def clock_stepped(self) -> bool:
        return any(kind in ("clock stepped", "failover") for kind, _, _ in self.faults.between)


def _switches(tag_id: int) -> list[tuple[str, int, str]]:
    found = [("tag", tag_id, "active"), ("group", fleet.TAGS[tag_id], "group_active")]
    return [*found, ("batch", fleet.BATCH, "active")] if tag_id in fleet.BATCHED else found


class _Notes(logging.Handler):
    """Copies what the real classes log into the trace; a traceback is a bug."""

    def __init__(self, run: Run) -> None:
        super().__init__(logging.WARNING)
        self._run = run

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        if process is not None and not process.alive:
            return  # a dead process logs nothing
        self._run.trace.note(process.name if process is not None else "?", record.levelname.lower(), record.getMessage())
        if record.exc_info:
            self._run.broken.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def _log_noted(run: Run) -> Iterator[None]:
    logger = logging.getLogger("ixfast")
    known = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [_Notes(run)], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = known[0], known[1]
        logger.setLevel(known[2])
