"""Workers and PostgreSQL are killed under load, and nothing that was acknowledged is lost, doubled or wrongly refused.

A broken connection and 503 are allowed answers; `Fail` without a proof is none. Service comes back without help.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import eventually
from support.linearizability import Operation, violations
from support.served import Answer, Connection, Served, all_of, children_of, cmdline, plain_target

from ixfast.domain.scan import position
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(51, 240, account="shop")
CLIENTS = 24
BACK_S = 30.0
ENOUGH = 200  # Responses between two crashes, so that each crash happens under load.
ROUNDS = int(os.environ.get("IXFAST_TEST_CRASH_ROUNDS", "3"))  # Of each kind.


class Load:
    """Clients with ten tags each, whose counters rise; now and then a tap is sent again."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.ids = {row["xuid"]: row["tag_id"] for row in server.fetch("SELECT xuid, tag_id FROM tag")}
        self.history: list[Operation] = []
        self.decided = 0
        self.clients: list[asyncio.Task[None]] = []

    async def run(self, client: int) -> None:
        chance = random.Random(client)
        counters = dict.fromkeys(range(client * 10, client * 10 + 10), 0)
        while True:
            try:
                async with await Connection.open(self.server.port) as connection:
                    while True:
                        index = chance.choice(list(counters))
                        counters[index] += chance.choice((1, 1, 1, 3, 0)) or (counters[index] == 0)
                        await self._ask(connection, index, counters[index])
            except OSError:
                await asyncio.sleep(0.01)  # refused or reset: a client's pause before it tries again

    async def _ask(self, connection: Connection, index: int, counter: int) -> None:
        started, outcome = time.monotonic(), "unknown"
        try:
            answer = await connection.get(plain_target(FLEET, index, counter))
            if answer.status != 503:
                assert answer.status == 200, answer
                outcome = "passed" if answer.passed else "refused"
                self.decided += 1
        finally:
            place = position(1, counter)
            self.history.append(Operation(self.ids[FLEET.xuid(index)], place, started, time.monotonic(), outcome))

    async def goes_on(self) -> None:
        """Until enough more scans were decided; AssertionError at the deadline."""
        enough = self.decided + ENOUGH
        try:
            await eventually(lambda: self.decided >= enough or any(client.done() for client in self.clients), BACK_S)
        except AssertionError:
            pytest.fail(f"no service for {BACK_S:.0f} s:\n{self.server.log[-3000:]}")
        assert self.decided >= enough, [client.exception() for client in self.clients if client.done()]

    def violations(self) -> list[str]:
        """What no right server would have answered, once all that was under way has ended."""
        rows = self.server.fetch(  # one statement, one snapshot: a scan without a client may still become durable
            "SELECT tag_id, last_position,"
            " ARRAY(SELECT position FROM scan_log AS l WHERE l.tag_id = c.tag_id AND verdict = 'g') AS logged"
            " FROM tag_counter AS c"
        )
        return violations(
            self.history, {r["tag_id"]: r["last_position"] for r in rows}, [(r["tag_id"], p) for r in rows for p in r["logged"]]
        )


@asynccontextmanager
async def load_on(server: Served) -> AsyncIterator[Load]:
    """Clients that never stop until the end; a client that meets a wrong answer fails the test."""
    load = Load(server)
    clients = load.clients = [asyncio.create_task(load.run(client)) for client in range(CLIENTS)]
    try:
        yield load
    finally:
        for client in clients:
            client.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


def kill_worker(server: Served, chance: random.Random) -> None:
    os.kill(chance.choice(server.workers()), signal.SIGKILL)


def kill_postmaster(server: Served, chance: random.Random) -> None:
    os.kill(server.postmaster(), signal.SIGKILL)


def kill_backend(server: Served, chance: random.Random) -> None:
    """PostgreSQL then ends all its backends and recovers."""
    backends = [pid for pid in children_of(server.postmaster()) if b" ixfast ixfast " in cmdline(pid)]
    os.kill(chance.choice(backends), signal.SIGKILL)


def kill_everything(server: Served, chance: random.Random) -> None:
    for pid in (*server.workers(), server.postmaster()):
        os.kill(pid, signal.SIGKILL)


async def not_passing(server: Served) -> list[Answer]:
    """The answers to fresh taps that were not passes. While a server recovers, a scan may get 503; its tag is tapped again."""
    waiting, refused, counters = list(range(20)), [], itertools.count(100_000)
    unavailable: list[Answer] = []

    async def decided() -> bool:
        nonlocal waiting, refused, unavailable
        counter = next(counters)
        answers = await all_of(server.port, [plain_target(FLEET, index, counter) for index in waiting], 4)
        refused += [answer for answer in answers if answer.status != 503 and not answer.passed]
        waiting = [index for index, answer in zip(waiting, answers, strict=True) if answer.status == 503]
        unavailable = [answer for answer in answers if answer.status == 503]
        return not waiting

    with contextlib.suppress(AssertionError):
        await eventually(decided, BACK_S)
    return refused + unavailable


@pytest.mark.parametrize("kill", [kill_worker, kill_backend, kill_postmaster, kill_everything], ids=lambda kill: kill.__name__)
async def test_nothing_acknowledged_is_lost(server_dir: Path, kill: Callable[[Served, random.Random], None]) -> None:
    chance = random.Random(kill.__name__)
    with Served(server_dir) as server:
        server.provision(FLEET)
        async with load_on(server) as load:
            await load.goes_on()
            for _ in range(ROUNDS):
                kill(server, chance)
                await load.goes_on()
        await eventually(lambda: asyncio.to_thread(lambda: server.all_ready), BACK_S)
        assert await asyncio.to_thread(load.violations) == []
        assert {o.answer for o in load.history} > {"passed", "refused"}, "no scan met a crash"
        assert await not_passing(server) == [], "after the crashes a fresh tap of each tag passes"
        assert server.stop() == 0
