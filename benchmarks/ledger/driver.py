"""The ledger's statement alone: no HTTP, no cryptography, no cache; what the database would carry for a perfect server.

One process, `--connections` sessions of the product's own kind (`LedgerSession`), each with one statement of `--rows` tags
under way; no two sessions share a tag. Batches are made before the clock starts. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from array import array
from itertools import accumulate
from random import Random
from typing import NamedTuple

import uvloop

from ixfast.domain.scan import position
from ixfast.store.connections.session import LedgerSession

_KEY_VERSION = 1


class Batch(NamedTuple):
    tag_ids: list[int]
    positions: list[int]
    scan_ids: list[int]


def make_batches(tag_ids: list[int], rows: int, count: int, seed: str) -> list[Batch]:
    """`count` batches of `rows` different tags, chosen after Zipf's law; the counter of a tag rises from batch to batch."""
    dice = Random(seed)
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(tag_ids))))
    counters = array("I", bytes(4 * len(tag_ids)))
    batches = []
    for _ in range(count):
        chosen: set[int] = set()
        while len(chosen) < rows:
            chosen.update(dice.choices(range(len(tag_ids)), cum_weights=weights, k=rows - len(chosen)))
        ranks = sorted(chosen)
        for rank in ranks:
            counters[rank] += 1
        batches.append(
            Batch(
                [tag_ids[rank] for rank in ranks],
                [position(_KEY_VERSION, counters[rank]) for rank in ranks],
                [dice.getrandbits(63) for _ in ranks],
            )
        )
    return batches


async def drive(session: LedgerSession, batches: list[Batch], until: float) -> tuple[int, int]:
    """Statements answered by `until`, and rows that advanced in them; every row of these batches must."""
    statements = advanced = 0
    for batch in batches:
        if time.monotonic() >= until:
            break
        advanced += len(await session.advance(*batch))
        statements += 1
    return statements, advanced


async def measure(
    dsn: str, connections: int, rows: int, seconds: float, rows_per_s_max: int, seed: int, *, unsafe: bool = False
) -> dict[str, float]:
    sessions = [await LedgerSession.open(dsn) for _ in range(connections)]
    for session in sessions:
        # The product tries again after a stall of the disk; here nobody would.
        await session.connection.execute("SET statement_timeout = 0")
        if unsafe:
            await session.connection.execute("SET synchronous_commit = off")
    records = await sessions[0].connection.fetch("SELECT tag_id FROM tag_counter ORDER BY tag_id")
    tag_ids = [record["tag_id"] for record in records]
    count = max(1, int(rows_per_s_max * seconds / rows / connections))
    own = [tag_ids[i::connections] for i in range(connections)]
    rows = min(rows, *map(len, own))
    made = [make_batches(own[i], rows, count, f"ledger {seed} {i}") for i in range(connections)]
    begun = time.monotonic()
    cpu = time.process_time()
    done = await asyncio.gather(*(drive(s, b, begun + seconds) for s, b in zip(sessions, made, strict=True)))
    spent = time.monotonic() - begun
    cpu = time.process_time() - cpu
    for session in sessions:
        session.terminate()
    statements, advanced = (sum(each) for each in zip(*done, strict=True))
    return {
        "rows": rows, "connections": connections, "statements": statements, "advanced": advanced,
        "expected": statements * rows, "seconds": spent, "driver_cpu_s": cpu, "ran_out": int(statements == count * connections),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rows", type=int, default=256, help="tags of a statement")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rows-per-s-max", type=int, default=200_000, help="so many rows a second are prepared")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unsafe", action="store_true", help="with synchronous_commit off, which forgets passes in a crash")
    given = parser.parse_args()
    work = measure(
        os.environ["BENCH_DSN"], given.connections, given.rows, given.seconds, given.rows_per_s_max, given.seed,
        unsafe=given.unsafe,
    )  # fmt: skip
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
