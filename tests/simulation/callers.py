"""The callers: people who tap, attackers who replay taps, integrations that retry, and the people who manage the tags."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from . import fleet
from .loop import Process, SimulatedLoop
from .network import Connection, Link, Network
from .operations import Operation
from .statements import Act, act
from .trace import Trace
from .worker import Worker

PATIENCE_S = 6.0
"""How long a caller waits for an answer."""
_WEIGHTS = {
    "fresh": 40, "again": 18, "twice at once": 12, "keyed": 16, "stubborn": 6, "key for another tap": 3, "peek": 3, "late": 4,
}  # fmt: skip


class Chip:
    """A tag's chip: the counters it has used under its current key."""

    def __init__(self, tag_id: int) -> None:
        self.tag_id = tag_id
        self.version = 1
        self.counter = 0
        self.used: list[tuple[int, int]] = []  # (version, counter)
        self.skipped: list[tuple[int, int]] = []

    def tap(self, gap: int) -> tuple[int, int]:
        self.skipped += [(self.version, self.counter + i) for i in range(1, gap)]
        self.counter += gap
        self.used.append((self.version, self.counter))
        return self.version, self.counter

    def reprogram(self) -> None:
        self.version, self.counter = 2, 0


class Callers:
    """All callers of a run. `workers` holds the workers that currently serve, by name."""

    def __init__(self, loop: SimulatedLoop, network: Network, chance: random.Random, trace: Trace) -> None:
        self.loop = loop
        self.network = network
        self.process = Process(loop, "callers")
        self.workers: dict[str, Worker] = {}
        self.operations: list[Operation] = []
        self.chips = {tag_id: Chip(tag_id) for tag_id in fleet.TAGS}
        self.reply_loss = 0.0
        self._chance = chance
        self._trace = trace
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._keys = 0
        self._popular = [chance.choice((1, 3, 15)) for _ in self.chips]

    async def ask(self, tag_id: int, tap: tuple[int, int], worker: str | None = None, **how: Any) -> Operation:
        """Ask a worker about a tap and wait for the answer."""
        name = worker or self._chance.choice(list(self.workers))
        if "key" in how or how.get("peek"):
            how["v2"] = True
        operation = Operation(len(self.operations), tag_id, *tap, name, **how)
        self.operations.append(operation)
        operation.started = operation.ended = self.loop.time()
        server = self.workers.get(name)
        answered = self._waiting[operation.number] = self.loop.create_future()
        if server is not None:
            server.process.deliver(self.network.delay(), server.ask, operation, self._answer)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await answered
        except TimeoutError:
            operation.answer, operation.ended = "lost", self.loop.time()
        del self._waiting[operation.number]
        self._trace.note("caller", operation)
        return operation

    def _answer(self, operation: Operation, answer: str, reason: str | None, body: dict[str, Any] | None) -> None:
        """Called by a worker with its answer; the answer of a dead worker is dropped."""
        worker = self.workers.get(operation.worker)
        if worker is None or not worker.process.alive:
            return
        operation.answers += 1
        if self.reply_loss and self._chance.random() < self.reply_loss:
            self.network.injected["answer to a caller lost"] += 1
            return
        self.process.deliver(self.network.delay(), self._receive, operation, answer, reason, body)

    def _receive(self, operation: Operation, answer: str, reason: str | None, body: dict[str, Any] | None) -> None:
        waiting = self._waiting.get(operation.number)
        if waiting is None or waiting.done():
            return
        operation.answer, operation.reason, operation.body = answer, reason, body
        operation.ended = self.loop.time()
        waiting.set_result(None)

    async def behave(self, until: float, rate: float) -> None:
        """Send requests of all kinds until `until`, `rate` per second on average."""
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while self.loop.time() < until:
            await asyncio.sleep(self._chance.expovariate(rate))
            self.process.spawn(self._ask_like(self._chance.choices(kinds, weights)[0]))

    async def _ask_like(self, kind: str) -> None:
        chance = self._chance
        chip = chance.choices(list(self.chips.values()), self._popular)[0]
        api_key_id = chance.choice((None, None, None, 1, 2))
        how: dict[str, Any] = {"api_key_id": api_key_id, "v2": chance.random() < 0.3}
        if kind in ("again", "peek") and chip.used:
            tap = chip.used[-1] if chance.random() < 0.6 else chance.choice(chip.used)
            await self.ask(chip.tag_id, tap, **how, peek=kind == "peek")
        elif kind == "late" and chip.skipped:
            tap = chip.skipped.pop(chance.randrange(len(chip.skipped)))
            chip.used.append(tap)
            await self.ask(chip.tag_id, tap, **how)
        elif kind == "twice at once":
            tap = chip.tap(self._gap())
            await asyncio.gather(self.ask(chip.tag_id, tap, **how), self.ask(chip.tag_id, tap, **how))
        elif kind == "keyed":
            await self._ask_keyed(chip, api_key_id)
        elif kind == "stubborn":
            await self._ask_stubbornly(chip, how)
        elif kind == "key for another tap":
            await self._reuse_key(chip)
        else:
            await self.ask(chip.tag_id, chip.tap(self._gap()), **how)

    def _gap(self) -> int:
        return self._chance.choice((1, 1, 1, 2, 4))

    def _new_key(self) -> str:
        self._keys += 1
        return f"key{self._keys}"

    async def _ask_keyed(self, chip: Chip, api_key_id: int | None) -> None:
        """Send a request under an idempotency key and repeat it, sometimes before the first answer, sometimes long after it. Some
        of these taps have been used before."""
        chance = self._chance
        tap = chance.choice(chip.used) if chip.used and chance.random() < 0.3 else chip.tap(self._gap())
        how: dict[str, Any] = {"key": self._new_key(), "api_key_id": api_key_id}
        asked = [self.process.spawn(self.ask(chip.tag_id, tap, **how))]
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            await asyncio.sleep(chance.choice((0.0, 0.01, 0.5, 2.0, 6.0)) * chance.random())
            asked.append(self.process.spawn(self.ask(chip.tag_id, tap, **how)))
        await asyncio.gather(*asked)

    async def _reuse_key(self, chip: Chip) -> None:
        """Use one key for two taps, of the same tag or of two tags, one after the other or at once: a mistake that must be
        reported. Some of the first taps have been used before."""
        chance = self._chance
        other = self.chips[chance.choice(list(self.chips))]
        how: dict[str, Any] = {"key": self._new_key(), "api_key_id": 1}
        tap = chance.choice(chip.used) if chip.used and chance.random() < 0.3 else chip.tap(1)
        first = self.ask(chip.tag_id, tap, **how)
        if chance.random() < 0.5:
            await asyncio.gather(first, self.ask(other.tag_id, other.tap(1), **how))
        else:
            await first
            await self.ask(other.tag_id, other.tap(1), **how)

    async def _ask_stubbornly(self, chip: Chip, how: dict[str, Any]) -> None:
        """Repeat a tap until there is a verdict."""
        tap = chip.tap(self._gap())
        for _ in range(4):
            operation = await self.ask(chip.tag_id, tap, **how)
            if operation.answer not in ("unavailable", "outcome unknown", "lost"):
                return
            await asyncio.sleep(0.2 + self._chance.random())


class Manager:
    """Changes the catalogue on its own connection, as the management API does."""

    def __init__(self, link: Link, callers: Callers, chance: random.Random, trace: Trace) -> None:
        self._link = link
        self._callers = callers
        self._chance = chance
        self._trace = trace
        self.done = 0

    async def behave(self, until: float, pause_s: float) -> None:
        loop = self._callers.loop
        while (pause := self._chance.expovariate(1 / pause_s)) < until - loop.time():
            await asyncio.sleep(pause)
            await self.do(self._any_act())

    def _any_act(self) -> Act:
        chance = self._chance
        kind = chance.choice(("tag", "tag", "tag", "group", "batch", "api_key", "rotate"))
        turned_on = chance.random() < 0.35
        if kind == "tag":
            return switch_tag(chance.choice(list(fleet.TAGS)), turned_on)
        if kind == "group":
            return switch("group", chance.choice((fleet.STRICT, fleet.RETRYING, fleet.PLAIN)), "group_active", turned_on)
        if kind == "batch":
            return switch("batch", fleet.BATCH, "active", turned_on)
        if kind == "api_key":
            return switch("api_key", chance.choice(list(fleet.API_KEYS)), "revoked", chance.random() < 0.6)
        chip = chance.choice([chip for chip in self._callers.chips.values() if fleet.TAGS[chip.tag_id] != fleet.PLAIN])
        if chip.version == 2:
            return switch_tag(chip.tag_id, True)
        chip.reprogram()
        return rotate(chip.tag_id)

    async def do(self, wanted: Act) -> bool:
        """Perform an act, retrying while the database does not answer. Returns whether it was acknowledged."""
        statement = act(self._chance, wanted)
        for _ in range(8):
            connection: Connection | None = None
            try:
                async with asyncio.timeout(2.0):
                    connection = await self._link.connect()
                    generation = await connection.call(statement)
            except Exception as error:  # anything that a database can raise
                self._trace.note("manager", f"{wanted.text}: {type(error).__name__}")
                await asyncio.sleep(0.3)
            else:
                self._trace.note("manager", f"{wanted.text}: generation {generation}")
                self.done += 1
                return True
            finally:
                if connection is not None:
                    connection.terminate()
        return False


def switch(table: str, own_id: int, member: str, value: bool) -> Act:
    return Act(f"{table} {own_id} {member} = {value}", ((table, own_id, {member: value}),), table, own_id)


def switch_tag(tag_id: int, value: bool) -> Act:
    text = f"tag {tag_id} active = {value}"
    return Act(text, (("tag", tag_id, {"active": value}),), "tag", tag_id, fleet.xuid(tag_id))


def rotate(tag_id: int) -> Act:
    """Switch from the tag's first key to its second, which is the only valid one from then on."""
    rows: Sequence[tuple[str, Any, dict[str, Any]]] = [
        ("tag_key", (tag_id, version), {"live": version == 2}) for version in fleet.KEY_VERSIONS
    ]
    return Act(f"tag {tag_id} has its second key", tuple(rows), "tag", tag_id, fleet.xuid(tag_id))
