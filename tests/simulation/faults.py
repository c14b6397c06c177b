"""What goes wrong in a run, when, and for how long. Each seed takes some of the kinds, so that they meet in all combinations."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from . import fleet
from .network import USUAL_DELAY_S

if TYPE_CHECKING:
    from .run import Run

STEPS_S = (0.3, 1.0, 3.0, 5.0, 20.0, 61.0, 3600.0, 86400.0)


class Faults:
    """Draws faults, of all kinds or `only` of some, and injects them. `between` are the times of each kind, for the judge."""

    def __init__(self, run: Run, chance: random.Random, only: Collection[str] = ()) -> None:
        self._run = run
        self._chance = chance
        self.injected: Counter[str] = Counter()
        self.between: list[tuple[str, float, float]] = []
        self._under_way: list[asyncio.Task[None]] = []
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "cut": self._cut,
            "lossy network": self._lose,
            "slow network": self._slow,
            "silent link": self._silence,
            "database frozen": self._freeze_database,
            "worker frozen": self._freeze_worker,
            "worker killed": self._kill_worker,
            "worker restarted": self._restart_worker,
            "database crashed": self._crash,
            "failover": self._fail_over,
            "clock stepped": self._step_clock,
            "synchronous_commit off": self._commit_asynchronously,
            "fsync off": self._fsync_off,
            "row held": self._hold_row,
            "read-only": self._read_only,
            "slow keyed look-ups": self._slow_keyed,
        }
        chosen = [kind for kind in kinds if (kind in only if only else chance.random() < 0.3)]
        self.kinds = {kind: kinds[kind] for kind in chosen}

    async def behave(self, until: float) -> None:
        """Inject faults of the chosen kinds until then, some seconds apart."""
        if not self.kinds:
            return
        loop = self._run.loop
        pause_s = self._chance.choice((0.7, 1.5, 4.0))
        while loop.time() < until:
            at_once = self._chance.random() < 0.3
            await asyncio.sleep(self._chance.random() * 0.2 if at_once else self._chance.expovariate(1 / pause_s))
            self._under_way.append(self._run.scheduler.spawn(self._inject(self._chance.choice(list(self.kinds)))))

    async def _inject(self, kind: str) -> None:
        began = self._run.loop.time()
        self.injected[kind] += 1
        self._run.trace.note("fault", kind)
        await self.kinds[kind]()
        self.between.append((kind, began, self._run.loop.time()))

    def _for_a_while(self, longest_s: float) -> Awaitable[None]:
        return asyncio.sleep(self._chance.uniform(0.05, 1.0) * longest_s)

    def _any_worker(self) -> str:
        return self._chance.choice(list(self._run.callers.workers))

    async def _cut(self) -> None:
        everybody = self._chance.random() < 0.5
        for name in list(self._run.callers.workers) if everybody else [self._any_worker()]:
            self._run.callers.workers[name].link.cut()

    async def _lose(self) -> None:
        network, callers = self._run.network, self._run.callers
        network.request_loss, network.reply_loss, network.late = (self._chance.choice((0.0, 0.1, 0.3)) for _ in range(3))
        callers.reply_loss = self._chance.choice((0.0, 0.3))
        await self._for_a_while(4.0)
        network.request_loss = network.reply_loss = network.late = callers.reply_loss = 0.0

    async def _slow(self) -> None:
        self._run.network.delay_s = self._chance.choice((0.01, 0.1, 0.4))
        await self._for_a_while(5.0)
        self._run.network.delay_s = USUAL_DELAY_S

    async def _silence(self) -> None:
        link = self._run.callers.workers[self._any_worker()].link
        link.silence()
        await self._for_a_while(self._chance.choice((2.0, 15.0)))
        link.speak()

    async def _freeze_database(self) -> None:
        await self._run.cluster.freeze(self._chance.choice((0.2, 1.2, 3.0)) * self._chance.random())

    async def _freeze_worker(self) -> None:
        process = self._run.callers.workers[self._any_worker()].process
        process.freeze()
        await self._for_a_while(self._chance.choice((0.5, 3.0, 14.0)))
        process.thaw()

    async def _kill_worker(self) -> None:
        worker = self._run.callers.workers[self._any_worker()]
        worker.kill()
        await self._for_a_while(0.5)
        self._run.replace(worker)

    async def _restart_worker(self) -> None:
        """Stop a worker in an orderly way, as a deployment does."""
        worker = self._run.callers.workers[self._any_worker()]
        await asyncio.wait({worker.process.spawn(worker.stop())})
        self._run.replace(worker)

    async def _crash(self) -> None:
        if self._run.cluster.primary is not None:
            await self._run.cluster.crash(self._chance.uniform(0.05, 2.0), host=self._chance.random() < 0.5)

    async def _fail_over(self) -> None:
        """Promote the standby, whose clock is another one; sometimes it was behind by then."""
        cluster = self._run.cluster
        cluster.standby_offset = cluster.clock_offset + self._chance.choice((0.0, 0.0, -1.0, 1.0)) * self._chance.choice(STEPS_S)
        cluster.lag_s = self._chance.choice((0.0, 0.0, 1.0, 4.0))
        await self._for_a_while(cluster.lag_s + 0.1)
        if cluster.primary is not None:
            await cluster.fail_over(self._chance.uniform(0.05, 2.0))
        cluster.lag_s = 0.0

    async def _step_clock(self) -> None:
        step_s = self._chance.choice((-1.0, -1.0, 1.0)) * self._chance.choice(STEPS_S) * self._chance.uniform(0.8, 1.2)
        self._run.cluster.clock_offset += step_s
        self._run.trace.note("fault", f"the database's clock: {step_s:+.1f} s")

    async def _commit_asynchronously(self) -> None:
        """Turned off by a reload, and often the server crashes before anybody has noticed."""
        settings = self._run.cluster.settings
        settings["synchronous_commit"] = "off"
        await self._for_a_while(4.0)
        if self._chance.random() < 0.7:
            await self._crash()
        settings["synchronous_commit"] = "on"

    async def _fsync_off(self) -> None:
        self._run.cluster.set_fsync("off")
        await self._for_a_while(self._chance.choice((2.0, 14.0)))
        if self._chance.random() < 0.5 and self._run.cluster.primary is not None:
            await self._run.cluster.crash(self._chance.uniform(0.05, 2.0), host=True)
        self._run.cluster.set_fsync("on")

    async def _hold_row(self) -> None:
        await self._run.cluster.hold([self._chance.choice(list(fleet.TAGS))], self._chance.choice((0.1, 0.5, 2.0)))

    async def _read_only(self) -> None:
        self._run.cluster.read_only = True
        await self._for_a_while(2.0)
        self._run.cluster.read_only = False

    async def _slow_keyed(self) -> None:
        self._run.keyed_cost_s = self._chance.choice((0.1, 0.9, 3.0))
        await self._for_a_while(6.0)
        self._run.keyed_cost_s = 0.0

    async def end(self) -> None:
        """Wait until everything that goes wrong has ended."""
        if self._under_way:
            await asyncio.gather(*self._under_way)
        self._run.network.delay_s = USUAL_DELAY_S
        assert self._run.cluster.primary is not None
