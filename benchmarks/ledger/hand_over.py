"""What one commit stream a host would save, and what it would cost. `python -m benchmarks hand_over`

Each worker commits its own scans, so that two workers send two statements of n scans. One worker that commits for both would
send one of 2 n. What PostgreSQL saves by that is measured by driving the ledger's statement alone at both sizes. What it takes
to hand scans over is measured between two processes that do nothing else, over a Unix socket with uvloop on both sides:
packing a batch of n scans, sending it, merging it by tag, sending the results back, and storing them in the scans. Only the
scans of other workers are handed over, half of all with two workers.

The kernel's share is that of waking another process twice a batch; where processors are scarce, it may be more.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import multiprocessing.connection
import os
import socket
import statistics
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import uvloop

from benchmarks import scans
from benchmarks.experiment import Experiment
from benchmarks.ledger import sweep
from benchmarks.load.traffic import Traffic
from benchmarks.tables import markdown
from benchmarks.testbed import Testbed
from ixfast.domain.scan import Scan

HISTORY = "hand_over.jsonl"
_WORKERS = 2
_LENGTH = struct.Struct(">I")
_SCAN, _RESULT = "qiq", "qiq"  # tag id, position, scan id; tag id, previous position, scan count


class Cost(NamedTuple):
    """Processor time for each scan that is handed over, in µs."""

    worker_us: float
    committer_us: float

    @property
    def both_us(self) -> float:
        return self.worker_us + self.committer_us


class _Batches(asyncio.Protocol):
    """Calls `received` with each batch: its length in 4 bytes, then its bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                break
            body = bytes(self._bytes[_LENGTH.size : end])
            del self._bytes[:end]
            self.received(body)

    def send(self, body: bytes) -> None:
        self.transport.write(_LENGTH.pack(len(body)) + body)

    def received(self, body: bytes) -> None:
        raise NotImplementedError


class _Committer(_Batches):
    """Merges a batch by tag and answers it, as if a statement had committed it."""

    def received(self, body: bytes) -> None:
        merged = {tag_id: (position, scan_id) for tag_id, position, scan_id in struct.iter_unpack(">" + _SCAN, body)}
        results = chain.from_iterable((tag_id, position - 1, 1) for tag_id, (position, _) in sorted(merged.items()))
        self.send(struct.pack(">" + _RESULT * len(merged), *results))


class _Worker(_Batches):
    """Hands over the same scans again and again, the next batch once the last one is answered."""

    def __init__(self, batch: dict[int, Scan], times: int) -> None:
        super().__init__()
        self._batch = batch
        self._left = times
        self.done = asyncio.get_running_loop().create_future()

    def begin(self) -> None:
        values = chain.from_iterable((tag_id, scan.position, scan.scan_id) for tag_id, scan in self._batch.items())
        self.send(struct.pack(">" + _SCAN * len(self._batch), *values))

    def received(self, body: bytes) -> None:
        for tag_id, previous, count in struct.iter_unpack(">" + _RESULT, body):
            scan = self._batch[tag_id]
            scan.previous_position = previous
            scan.scan_count = count
        self._left -= 1
        if self._left:
            self.begin()
        else:
            self.done.set_result(None)


def _commit(end: socket.socket, other: socket.socket, times: multiprocessing.connection.Connection) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        closed = loop.create_future()

        class Committer(_Committer):
            def connection_lost(self, exc: Exception | None) -> None:
                closed.set_result(None)

        await loop.create_connection(Committer, sock=end)
        await closed

    other.close()  # inherited; it would keep the connection open
    begun = os.times()
    uvloop.run(work())
    spent = os.times()
    times.send(spent.user + spent.system - begun.user - begun.system)


def _scan(tag_id: int) -> Scan:
    scan = Scan(lambda _scan: None, b"", (1 << 24) + tag_id, None, None, (1 << 40) + tag_id, 0.0, None)
    scan.tag_id = tag_id
    return scan


async def _hand_over(end: socket.socket, rows: int, times: int) -> float:
    batch = {tag_id: _scan(tag_id) for tag_id in range(1, rows + 1)}
    _, worker = await asyncio.get_running_loop().create_connection(lambda: _Worker(batch, times), sock=end)
    begun = os.times()
    worker.begin()
    await worker.done
    spent = os.times()
    worker.transport.close()
    return spent.user + spent.system - begun.user - begun.system


def hand_over(rows: int, times: int) -> Cost:
    """Hand `times` batches of `rows` scans over to another process."""
    near, far = socket.socketpair()
    results, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_commit, args=(far, near, sender))
    process.start()
    far.close()
    worker_s = uvloop.run(_hand_over(near, rows, times))
    committer_s = results.recv()
    process.join()
    handed_over = rows * times
    return Cost(worker_s * 1e6 / handed_over, committer_s * 1e6 / handed_over)


def table(record: dict[str, Any]) -> str:
    """What PostgreSQL saves for each scan, what handing over costs for each scan, and what is left."""
    rows = []
    for n in record["rows"]:
        alone, merged = (
            statistics.median(point["postgres_cpu_us"] for point in record["points"] if point["rows"] == each)
            for each in (n, _WORKERS * n)
        )
        handed_over = statistics.median(sum(cost) for cost in record["costs"][str(n)])
        cost = handed_over * (_WORKERS - 1) / _WORKERS
        values = (alone, merged, alone - merged, handed_over, cost, alone - merged - cost)
        rows.append([str(n), *(f"{value:.2f}" for value in values)])
    columns = (
        "scans a worker's statement", "PostgreSQL, µs a scan", "with twice as many", "saved", "handing one over",
        "of all scans", "gain",
    )  # fmt: skip
    return markdown(columns, rows, text_columns=0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks hand_over", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[16, 61, 128], help="scans that a worker commits at once")
    parser.add_argument("--repetitions", type=int, help="5 unless given")
    experiment = Experiment(parser, HISTORY, list(arguments) if arguments is not None else None)
    given = experiment.given
    size = scans.SMOKE if given.smoke else scans.Size(measure_s=2.0, repetitions=5)
    size = replace(size, repetitions=given.repetitions or size.repetitions)
    sizes = sorted({each for n in given.rows for each in (n, _WORKERS * n)})
    with Testbed(Traffic(given.seed, size.tags, size.connections), aged=not given.smoke) as testbed:
        record = experiment.begin(testbed, points=[], rows=given.rows, costs={str(n): [] for n in given.rows})
        with experiment.interruptible():
            for repetition in range(1, size.repetitions + 1):
                record["points"] += [sweep.measure(testbed, size, n, repetition, unsafe=False) for n in sizes]
                for n in given.rows:
                    cost = hand_over(n, 20 if given.smoke else 200_000 // n)
                    record["costs"][str(n)].append(cost)
                    experiment.progress(f"{n} scans at once: {cost.worker_us:.2f} + {cost.committer_us:.2f} µs each")
    print(table(record))
    return experiment.end(record, [flaw for point in record["points"] for flaw in point["flaws"]])


if __name__ == "__main__":
    sys.exit(main())
