"""What PostgreSQL's connections wait for: samples of pg_stat_activity in a thread, and their shares by cause.

A sample sees every client connection of one database. Idle ones wait in ClientRead for their next statement; a busy one without
a wait event is on a processor or ready to run. Names of wait events differ between versions of PostgreSQL, in their case too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import asyncpg

from benchmarks.background import in_background
from benchmarks.tables import markdown

IDLE, SAMPLES = "idle", "samples"
"""In the counted events: connections between two statements, and the number of samples."""

_INTERVAL_S = 0.02
_SQL = """
    SELECT CASE WHEN state = 'idle' THEN $1 ELSE coalesce(wait_event_type || ':' || wait_event, '') END AS event, count(*)
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' GROUP BY 1
"""
CAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("WAL insert", ("lwlock:walinsert", "lwlock:walbufmapping")),
    ("WAL flush to disk", ("io:walsync", "io:walwrite", "lwlock:walwrite", "ipc:walwrite")),
    ("relation extension", ("lock:extend", "io:datafileextend")),
    ("row and transaction locks", ("lock:tuple", "lock:transactionid", "lock:virtualxid", "lock:spectoken")),
    ("NOTIFY queue", ("lwlock:notify", "lock:object")),
    ("other locks of tables and rows", ("lock:",)),
    ("buffers and data files", ("lwlock:buffer", "io:datafile", "bufferpin:", "buffer:", "lwlock:lockmanager")),
    ("transaction status", ("lwlock:xact", "lwlock:procarray", "lwlock:subtrans", "lwlock:commitslru", "ipc:procarray")),
    ("client read, within a statement", ("client:clientread",)),
    ("client write", ("client:clientwrite",)),
)
"""Causes, each with the beginnings of its wait events in lower case; the first that matches counts. A commit that notifies waits
for others that do in `Lock:object`."""

RUNNING, OTHER = "running or ready to run", "anything else"
ORDER = (RUNNING, *(name for name, _ in CAUSES), OTHER)


def cause_of(event: str) -> str:
    """The cause of a wait event, written as `type:event`; an empty one is none."""
    if not event:
        return RUNNING
    found = event.lower()
    return next((name for name, beginnings in CAUSES if found.startswith(beginnings)), OTHER)


def shares(counted: Mapping[str, int]) -> dict[str, float]:
    """Shares of the busy samples by cause, without causes that were not seen."""
    causes: Counter[str] = Counter()
    for event, count in counted.items():
        if event not in (IDLE, SAMPLES):
            causes[cause_of(event)] += count
    total = sum(causes.values())
    return {name: causes[name] / total for name in ORDER if causes[name]}


def busy(counted: Mapping[str, int]) -> float:
    """Busy connections on average."""
    found = sum(count for event, count in counted.items() if event not in (IDLE, SAMPLES))
    return found / max(1, counted.get(SAMPLES, 0))


def table(by_layout: Mapping[str, Mapping[str, int]]) -> str:
    """A column for each layout, a row for each cause that was seen in one."""
    found = {name: shares(counted) for name, counted in by_layout.items()}
    rows: list[Sequence[str]] = [
        [cause, *(f"{each.get(cause, 0.0):.1%}" for each in found.values())]
        for cause in ORDER
        if any(cause in each for each in found.values())
    ]
    idle = [f"{counted.get(IDLE, 0) / max(1, counted.get(SAMPLES, 0)):.1f}" for counted in by_layout.values()]
    rows.append(["busy connections on average", *(f"{busy(counted):.2f}" for counted in by_layout.values())])
    rows.append(["idle ones, in client read", *idle])
    return markdown(("busy connections wait for", *found), rows)


@contextlib.contextmanager
def sampled(dsn: str) -> Iterator[Counter[str]]:
    """Samples of the block: how often each wait event was seen, `IDLE` for idle connections, and the number of `SAMPLES`. The
    counter is complete behind the block. An error of the sampler is raised there."""
    counted: Counter[str] = Counter()

    async def sample(over: threading.Event) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            statement = await connection.prepare(_SQL)
            while True:
                for row in await statement.fetch(IDLE):
                    counted[row["event"]] += row["count"]
                counted[SAMPLES] += 1
                if over.is_set():
                    return
                await asyncio.sleep(_INTERVAL_S)
        finally:
            await connection.close()

    with in_background(sample):
        yield counted
