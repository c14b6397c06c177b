"""What an Idempotency-Key costs: `POST /v2/scans` without a key, with a fresh one each, and with one that was used before.
`python -m benchmarks keyed`

A closed loop over kept connections, each with tags of its own, whose counters rise. The ways take turns on one server, so that a
noisy minute of the machine meets all of them. Every answer has to be `genuine`: a tap that is asked about again under its key
gets its first answer. The generator is one process and shares the cores; rates of `/v1` are another benchmark's (`scans`).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import orjson
import uvloop

from benchmarks.contenders import http_contenders
from benchmarks.experiment import Experiment
from benchmarks.load.traffic import Traffic, fleet_of
from benchmarks.processes import cpu_s, free_port
from benchmarks.scans import spread
from benchmarks.stage import IXFAST_DATABASE, Stage
from ixfast.testing.virtual_tags import VirtualFleet

HISTORY = "keyed.jsonl"
WAYS = ("without a key", "with a fresh key", "asked again under its key")
_WITHOUT, _FRESH, _AGAIN = WAYS
_GENUINE = b'"verdict":"genuine"'


@dataclass(frozen=True)
class Size:
    tags: int = 20_000
    connections: int = 64
    workers: int = 2
    seconds: float = 4.0
    repetitions: int = 3


SMOKE = Size(tags=100, connections=4, seconds=0.2, repetitions=1)


class Client(asyncio.Protocol):
    """One connection that asks until the time is over. `ready` is resolved when the last answer is there."""

    def __init__(self, fleet: VirtualFleet, tags: list[int], seed: int) -> None:
        self._fleet = fleet
        self._counters = dict.fromkeys(tags, 0)
        self._tags = tags
        self._dice = random.Random(seed)
        self._keys = 0
        self._seed = seed
        self._buffer = b""
        self._asked: list[bytes] = []  # requests that passed, to be asked again
        self.answered = 0
        self.wrong: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed.set_result(None)

    async def close(self) -> None:
        self._transport.close()
        await self._closed

    def run(self, way: str, until: float) -> asyncio.Future[None]:
        self._way, self._until = way, until
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._ask()
        return self.ready

    def _ask(self) -> None:
        if self._way == _AGAIN:
            request = self._dice.choice(self._asked)
        else:
            request = self._fresh()
            if self._way == _FRESH:
                self._asked.append(request)
        self._transport.write(request)

    def _fresh(self) -> bytes:
        tag = self._dice.choice(self._tags)
        counter = self._counters[tag] = self._counters[tag] + 1
        mac = self._fleet.plain_tap(tag, counter)[2]
        body = orjson.dumps({"xuid": self._fleet.xuid(tag), "counter": counter, "code": mac})
        key = b""
        if self._way == _FRESH:
            self._keys += 1
            key = b"Idempotency-Key: %d-%d\r\n" % (self._seed, self._keys)
        return (
            b"POST /v2/scans HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (key, len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, ended, body = self._buffer.partition(b"\r\n\r\n")
        if not ended or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._buffer = b""
        if _GENUINE in body:
            self.answered += 1
        else:
            self.wrong[body[:80].decode()] += 1
        if self._loop.time() < self._until:
            self._ask()
        else:
            self.ready.set_result(None)


async def _drive(clients: list[Client], way: str, seconds: float) -> float:
    """Answers a second."""
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), sum(client.answered for client in clients)
    await asyncio.gather(*(client.run(way, begun + seconds) for client in clients))
    return (sum(client.answered for client in clients) - before) / (loop.time() - begun)


async def _measure(stage: Stage, port: int, size: Size, pids: list[int], experiment: Experiment) -> list[dict[str, Any]]:
    fleet, loop = fleet_of(stage.traffic), asyncio.get_running_loop()
    clients = []
    for index in range(size.connections):
        tags = list(range(index, size.tags, size.connections))
        _, client = await loop.create_connection(lambda i=index, t=tags: Client(fleet, t, i), "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
    await _drive(clients, _WITHOUT, size.seconds / 4)  # until nothing is cold
    points = []
    for repetition in range(1, size.repetitions + 1):
        for way in WAYS:
            before, answered = (cpu_s(pids), cpu_s(stage.postgres_pids)), sum(c.answered for c in clients)
            rate = await _drive(clients, way, size.seconds)
            count = max(1, sum(c.answered for c in clients) - answered)
            point = {
                "way": way, "repetition": repetition, "answers_per_s": rate,
                "server_cpu_us": (cpu_s(pids) - before[0]) * 1e6 / count,
                "postgres_cpu_us": (cpu_s(stage.postgres_pids) - before[1]) * 1e6 / count,
            }  # fmt: skip
            experiment.say(f"{way:<26} {rate:>8,.0f} answers/s")
            points.append(point)
    wrong: Counter[str] = Counter()
    for client in clients:
        wrong.update(client.wrong)
        await client.close()
    return [*points, {"wrong": dict(wrong)}]


def table(points: list[dict[str, Any]]) -> str:
    lines = ["| POST /v2/scans | answers/s | CPU µs an answer: server | PostgreSQL |", "|---|---:|---:|---:|"]
    for way in WAYS:
        own = [point for point in points if point.get("way") == way]
        cpu = [statistics.median(point[name] for point in own) for name in ("server_cpu_us", "postgres_cpu_us")]
        lines.append(f"| {way} | {spread([p['answers_per_s'] for p in own])} | {cpu[0]:.0f} | {cpu[1]:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks keyed", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help=f"of each way; {Size().seconds:g} unless given")
    parser.add_argument("--connections", type=int, help=f"{Size().connections} unless given")
    parser.add_argument("--repetitions", type=int, help=f"{Size().repetitions} unless given")
    experiment = Experiment(parser, HISTORY, arguments)
    given = experiment.given
    size = SMOKE if given.smoke else Size()
    size = replace(size, **{n: getattr(given, n) for n in ("seconds", "connections", "repetitions") if getattr(given, n)})
    experiment.plan("stage 10 s", f"{len(WAYS)} ways of {size.seconds:g} s, {size.repetitions} times")
    contender = http_contenders()["ixfast"]
    with Stage(Traffic(given.seed, size.tags, size.connections), aged=not given.smoke) as stage:
        record = experiment.begin(stage, size=asdict(size), points=[])
        port = free_port()
        with stage.database(IXFAST_DATABASE) as dsn, contender.serve(stage, dsn, port, size.workers) as running:
            pids = running.processes.pids
            *points, last = uvloop.run(_measure(stage, port, size, pids, experiment))
            running.processes.check()
        record["points"] = points
    print(table(points))
    return experiment.end(record, [f"{count} times {answer}" for answer, count in last["wrong"].items()])


if __name__ == "__main__":
    sys.exit(main())
