"""Cost of an Idempotency-Key on `POST /v2/scans`. `python -m benchmarks keyed`

Scans are sent without a key, with a fresh key each, and with a key that was used before, in a closed loop over persistent
connections, each with tags of its own, whose counters rise. The variants alternate on one server, so that a noisy minute of the
machine affects all of them. Every response has to be `genuine`: a tap that is sent again with its key gets the first response.
The generator is one process and shares the cores; `scans` measures the rates of `/v1`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
import uvloop

from benchmarks.contenders import http_contenders
from benchmarks.experiment import Experiment
from benchmarks.experiment import Size as CommonSize
from benchmarks.load.traffic import fleet_of
from benchmarks.processes import cpu_s
from benchmarks.tables import markdown, spread
from benchmarks.testbed import IXFAST_DATABASE, Testbed
from ixfast.embedded import free_port
from ixfast.testing.virtual_tags import VirtualFleet

HISTORY = "keyed.jsonl"
VARIANTS = ("without a key", "with a fresh key", "sent again with its key")
_WITHOUT, _FRESH, _AGAIN = VARIANTS
_GENUINE = b'"verdict":"genuine"'


@dataclass(frozen=True, kw_only=True)
class Size(CommonSize):
    tags: int = 20_000
    connections: int = 64
    seconds: float = 4.0
    repetitions: int = 3


SMOKE = Size(tags=100, connections=4, seconds=0.2, repetitions=1)


class Client(asyncio.Protocol):
    """One connection that sends requests until the time is over; then the future that `run` returns is done."""

    def __init__(self, fleet: VirtualFleet, tags: list[int], seed: int) -> None:
        self._fleet = fleet
        self._counters = dict.fromkeys(tags, 0)
        self._tags = tags
        self._dice = random.Random(seed)
        self._keys = 0
        self._seed = seed
        self._buffer = b""
        self._sent: list[bytes] = []  # accepted requests, which are sent again
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

    def run(self, variant: str, until: float) -> asyncio.Future[None]:
        self._variant, self._until = variant, until
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._send()
        return self._over

    def _send(self) -> None:
        if self._variant == _AGAIN:
            request = self._dice.choice(self._sent)
        else:
            request = self._fresh()
            if self._variant == _FRESH:
                self._sent.append(request)
        self._transport.write(request)

    def _fresh(self) -> bytes:
        tag = self._dice.choice(self._tags)
        counter = self._counters[tag] = self._counters[tag] + 1
        mac = self._fleet.plain_tap(tag, counter)[2]
        body = orjson.dumps({"xuid": self._fleet.xuid(tag), "counter": counter, "code": mac})
        key = b""
        if self._variant == _FRESH:
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
            self._send()
        else:
            self._over.set_result(None)


async def _drive(clients: list[Client], variant: str, seconds: float) -> float:
    """Responses per second."""
    loop = asyncio.get_running_loop()
    begun, before = loop.time(), sum(client.answered for client in clients)
    await asyncio.gather(*(client.run(variant, begun + seconds) for client in clients))
    return (sum(client.answered for client in clients) - before) / (loop.time() - begun)


async def _measure(testbed: Testbed, port: int, size: Size, pids: list[int], experiment: Experiment) -> list[dict[str, Any]]:
    fleet, loop = fleet_of(testbed.traffic), asyncio.get_running_loop()
    clients = []
    for index in range(size.connections):
        tags = list(range(index, size.tags, size.connections))
        _, client = await loop.create_connection(lambda i=index, t=tags: Client(fleet, t, i), "127.0.0.1", port)  # type: ignore[misc]
        clients.append(client)
    await _drive(clients, _WITHOUT, size.seconds / 4)  # warms all caches
    points = []
    for repetition in range(1, size.repetitions + 1):
        for variant in VARIANTS:
            before, answered = (cpu_s(pids), cpu_s(testbed.postgres_pids)), sum(c.answered for c in clients)
            rate = await _drive(clients, variant, size.seconds)
            count = max(1, sum(c.answered for c in clients) - answered)
            point = {
                "way": variant, "repetition": repetition, "answers_per_s": rate,
                "server_cpu_us": (cpu_s(pids) - before[0]) * 1e6 / count,
                "postgres_cpu_us": (cpu_s(testbed.postgres_pids) - before[1]) * 1e6 / count,
            }  # fmt: skip
            experiment.lap(f"{variant} {repetition}")
            experiment.progress(f"{variant:<26} {rate:>8,.0f} answers/s")
            points.append(point)
    wrong: Counter[str] = Counter()
    for client in clients:
        wrong.update(client.wrong)
        await client.close()
    return [*points, {"wrong": dict(wrong)}]


def table(points: list[dict[str, Any]]) -> str:
    rows = []
    for variant in VARIANTS:
        own = [point for point in points if point.get("way") == variant]
        cpu = [statistics.median(point[name] for point in own) for name in ("server_cpu_us", "postgres_cpu_us")]
        rows.append([variant, spread([p["answers_per_s"] for p in own]), f"{cpu[0]:.0f}", f"{cpu[1]:.0f}"])
    return markdown(("POST /v2/scans", "answers/s", "CPU µs an answer: server", "PostgreSQL"), rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks keyed", description=__doc__.splitlines()[0])
    flags = {"seconds": "seconds of each variant", "connections": "client connections", "repetitions": "repetitions"}
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    experiment.plan("set-up 10 s", f"{len(VARIANTS)} variants of {size.seconds:g} s, {size.repetitions} times")
    contender = http_contenders()["ixfast"]
    with experiment.testbed(size) as testbed:
        record = experiment.begin(testbed, size=asdict(size), points=[])
        port = free_port()
        with testbed.database(IXFAST_DATABASE) as dsn, contender.serve(testbed, dsn, port, size.workers) as running:
            pids = running.processes.pids
            *points, last = uvloop.run(_measure(testbed, port, size, pids, experiment))
            running.processes.check()
        record["points"] = points
    experiment.show(table(points))
    return experiment.end(record, [f"{count} times {response}" for response, count in last["wrong"].items()])
