"""Drive the ledger's statement alone: no HTTP, no cryptography, no cache; what the database could carry for a perfect server.

One process, `--connections` sessions of the product's own kind (`LedgerSession`), each with one statement of `--rows` tags
in flight; no two sessions share a tag. The tags of each statement are drawn before the clock starts, and drawn again from the
beginning when all have been used, so that a run lasts `--seconds` at any speed. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from itertools import accumulate, cycle
from random import Random

import uvloop

from ixfast.domain.scan import position
from ixfast.store.connections.session import LedgerSession

_KEY_VERSION = 1
_DRAWN_ROWS_PER_S = 100_000  # For each session; a faster one goes through its tags more than once.


def draw_batches(tag_ids: list[int], rows: int, count: int, seed: str) -> list[list[int]]:
    """Draw `count` ascending batches of `rows` different tags by Zipf's law, the first of `tag_ids` being the most popular."""
    dice = Random(seed)
    weights = list(accumulate(1 / (rank + 1) for rank in range(len(tag_ids))))
    batches = []
    for _ in range(count):
        chosen: set[int] = set()
        while len(chosen) < rows:
            chosen.update(dice.choices(range(len(tag_ids)), cum_weights=weights, k=rows - len(chosen)))
        batches.append([tag_ids[rank] for rank in sorted(chosen)])
    return batches


async def drive(session: LedgerSession, batches: list[list[int]], number: int, until: float) -> tuple[int, int]:
    """Advance the batches in turn until the time `until`; returns statements answered, and rows that advanced in them.

    Every tag of the n-th statement gets the counter n, so that every row must advance. `number` tells sessions apart in the scan
    ids.
    """
    statements = advanced = 0
    scan_id = (number + 1) << 48
    for tag_ids in cycle(batches):
        if time.monotonic() >= until:
            break
        rows = len(tag_ids)
        statements += 1
        own = position(_KEY_VERSION, statements)
        advanced += len(list(await session.advance(tag_ids, [own] * rows, range(scan_id, scan_id + rows))))
        scan_id += rows
    return statements, advanced


async def measure(dsn: str, connections: int, rows: int, seconds: float, seed: int, *, unsafe: bool = False) -> dict[str, float]:
    """Drive the statement for `seconds`; returns what `main` prints. CPU times are those of this process, in seconds."""
    sessions = [await LedgerSession.open(dsn) for _ in range(connections)]
    for session in sessions:
        # The product retries after a stall of the disk; this driver would not.
        await session.connection.execute("SET statement_timeout = 0")
        if unsafe:
            await session.connection.execute("SET synchronous_commit = off")
    records = await sessions[0].connection.fetch("SELECT tag_id FROM tag_counter ORDER BY tag_id")
    tag_ids = [record["tag_id"] for record in records]
    own = [tag_ids[i::connections] for i in range(connections)]
    rows = min(rows, *map(len, own))
    count = max(1, int(_DRAWN_ROWS_PER_S * seconds / rows))
    drawn = [draw_batches(own[i], rows, count, f"ledger {seed} {i}") for i in range(connections)]
    begun = time.monotonic()
    cpu = time.process_time()
    done = await asyncio.gather(*(drive(s, drawn[i], i, begun + seconds) for i, s in enumerate(sessions)))
    spent = time.monotonic() - begun
    cpu = time.process_time() - cpu
    for session in sessions:
        session.terminate()
    statements, advanced = (sum(each) for each in zip(*done, strict=True))
    return {
        "rows": rows, "connections": connections, "statements": statements, "advanced": advanced,
        "expected": statements * rows, "seconds": spent, "driver_cpu_s": cpu,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rows", type=int, default=256, help="tags of a statement")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unsafe", action="store_true", help="with synchronous_commit off, which loses passes in a crash")
    given = parser.parse_args()
    work = measure(
        os.environ["BENCH_DSN"], given.connections, given.rows, given.seconds, given.seed,
        unsafe=given.unsafe,
    )  # fmt: skip
    print(json.dumps(uvloop.run(work)))


if __name__ == "__main__":
    main()
