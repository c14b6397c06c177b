"""A simulated PostgreSQL: a primary with a standby, commits that take time, row locks, crashes and failovers.

A statement runs in three steps, as the real one does: it locks its rows in ascending order, writes its record into the log, and,
once the log is flushed (and the synchronous standby has it), becomes visible, frees its rows and is acknowledged. A crash keeps
what was flushed; a promotion keeps what the standby had received.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from .loop import OUTSIDE, Process, SimulatedLoop
from .tables import NEVER, Effect, Record, State
from .trace import Trace

LOCK_TIMEOUT_S = 0.3
STATEMENT_TIMEOUT_S = 1.0
WAL_WRITER_S = 0.2
SYSTEM = 7_300_000_000_000_000_000


class Server:
    """One PostgreSQL server while it runs. A restart or a promotion makes another one."""

    def __init__(self, cluster: Cluster, name: str, state: State, timeline: int) -> None:
        self.cluster = cluster
        self.process = Process(cluster.loop, name)
        self.name = name
        self.state = state  # what is visible
        self.timeline = timeline
        self.written = len(cluster.wal)  # records of the log that the operating system has
        self.flushed = len(cluster.wal)  # records of the log that are on the disk
        self.started = self.clock()
        self.locks: dict[Any, asyncio.Future[None]] = {}
        self.connections: dict[Any, None] = {}

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def history(self) -> str:
        return f"{SYSTEM}/{self.timeline:08X}"

    def clock(self) -> float:
        return self.cluster.loop.now + self.cluster.clock_offset

    def _flush(self, number: int) -> None:
        self.written = max(self.written, number)
        if self.cluster.settings["fsync"] == "on":
            self.flushed = max(self.flushed, number)
        self.cluster.ship(self, number)

    @contextmanager
    def locked(self, keys: list[Any]) -> Iterator[None]:
        """Hold these rows, which are free."""
        freed = self.cluster.loop.create_future()
        for key in keys:
            self.locks[key] = freed
        try:
            yield
        finally:
            for key in keys:
                del self.locks[key]
            freed.set_result(None)

    async def wait_free(self, keys: list[Any]) -> None:
        """Wait until all these rows are free. Raises LockNotAvailableError after `lock_timeout`."""
        if not any(key in self.locks for key in keys):
            return
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                while held := [self.locks[key] for key in keys if key in self.locks]:
                    await asyncio.shield(held[0])
        except TimeoutError:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout") from None

    async def commit(self, rows: list[tuple[str, Any, Any]], effects: list[Effect], level: str | None) -> None:
        """Make rows durable as far as `level`, or else the server's `synchronous_commit`, asks for it, and visible."""
        cluster = self.cluster
        record = Record(tuple(rows), tuple(effects))
        cluster.wal.append(record)
        cluster.effects.extend(effects)
        number = len(cluster.wal)
        if (level or cluster.settings["synchronous_commit"]) != "off":
            await asyncio.sleep(cluster.flush_s())
            self._flush(number)
            if cluster.synchronous:
                await cluster.replicated(number)
        else:
            cluster.loop.call_later(WAL_WRITER_S, self._flush, number)  # a moment later, and nobody waits for it
        self.state.apply(record)
        cluster.note_visible(record)


class Cluster:
    """The primary of the moment and its standby, with what an operator and an adversary can do to them.

    `effects` are all passes ever committed, and `seen` what the catalogue's rows were, both with true times, for the judge.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random, trace: Trace, state: State, *, synchronous: bool) -> None:
        self.loop = loop
        self.trace = trace
        self.synchronous = synchronous
        self.settings = {"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
        self.clock_offset = 1.7e9
        self.standby_offset = self.clock_offset
        self.read_only = False
        self.lag_s = 0.0  # of an asynchronous standby, beyond its usual
        self.effects: list[Effect] = []
        self._fsync_off: list[tuple[float, float]] = []  # from, to
        self._fsync_off_since = 0.0
        self.seen: dict[tuple[str, Any], list[tuple[float, Any]]] = {}
        self.losses: list[tuple[float, str]] = []
        self.wal: list[Record] = []
        self._chance = chance
        self._base = state.copy()  # what the log begins from
        self._received = 0  # records that the standby has
        self._arrived: asyncio.Event = asyncio.Event()
        self.primary: Server | None = Server(self, "primary 1", state, 1)
        self._log_key = 0
        for table in ("account", "group", "batch", "tag", "tag_key", "api_key"):
            for key, row in state.tables[table].items():
                self.seen[table, key] = [(0.0, row)]

    def flush_s(self) -> float:
        return 0.0005 + self._chance.expovariate(1 / 0.001)

    def next_log_key(self) -> int:
        self._log_key += 1
        return self._log_key

    def ship(self, server: Server, number: int) -> None:
        """Send the log up to a record to the standby, which has it a moment later, or its lag."""
        delay_s = 0.001 + self._chance.random() * 0.01 + (0.0 if self.synchronous else self.lag_s)
        self.loop.call_later(delay_s, self._receive, server, number, context=OUTSIDE)

    def _receive(self, server: Server, number: int) -> None:
        if server is self.primary and number > self._received:
            self._received = number
            self._arrived.set()
            self._arrived = asyncio.Event()

    async def replicated(self, number: int) -> None:
        while self._received < number:
            await self._arrived.wait()

    def note_visible(self, record: Record) -> None:
        for effect in record.effects:
            effect.seen_at = self.loop.now
        for table, key, row in record.rows:
            if (table, key) in self.seen:
                self.seen[table, key].append((self.loop.now, row))

    def set_fsync(self, value: str) -> None:
        now = self.loop.now
        if value == "off" and self.settings["fsync"] == "on":
            self._fsync_off_since = now
        elif value == "on" and self.settings["fsync"] == "off":
            self._fsync_off.append((self._fsync_off_since, now))
        self.settings["fsync"] = value

    def unsafe_during(self, start: float, end: float) -> bool:
        """Was `fsync` off at some moment of a time?"""
        return any(since <= end and start <= until for since, until in self._fsync_off)

    def unsafe_all_through(self, start: float, end: float) -> bool:
        """Was it off all the time?"""
        return any(since <= start and end <= until for since, until in self._fsync_off)

    # What goes wrong.

    def _begin_again(self, kept: int, name: str, timeline: int, why: str) -> None:
        """Start a server with the first `kept` records of the log; the others are lost."""
        now = self.loop.now
        lost = [effect for record in self.wal[kept:] for effect in record.effects]
        for effect in lost:
            effect.lost_at, effect.lost_by = now, why
        del self.wal[kept:]
        state = self._base.copy()
        for record in self.wal:
            state.apply(record)
            for effect in record.effects:
                if effect.seen_at == NEVER:
                    effect.seen_at = now
        for (table, key), known in self.seen.items():
            if known[-1][1] != state.tables[table][key]:
                known.append((now, state.tables[table][key]))
        self._received = min(self._received, kept)
        self.primary = Server(self, name, state, timeline)
        # The standby connects again in its own time, and until then has nothing of what was recovered.
        self.loop.call_later(self._chance.random() * 2, self._receive, self.primary, kept, context=OUTSIDE)
        self.losses.append((now, why))
        self.trace.note("database", f"{name} serves, {why}, {len(lost)} passes lost", self.primary.history)

    def stop(self) -> Server:
        """Kill the primary: nothing that it had under way goes on."""
        server = self.primary
        assert server is not None
        self.primary = None
        server.process.kill()
        for connection in list(server.connections):
            connection.break_off()
        self.trace.note("database", f"{server.name} is down")
        return server

    async def crash(self, down_s: float, *, host: bool) -> None:
        """Kill the primary and start it again. Unless its host went down with it, what was written survives without a flush."""
        server = self.stop()
        await asyncio.sleep(down_s)
        self._begin_again(
            server.flushed if host else server.written, server.name, server.timeline, "host crash" if host else "crash"
        )

    async def fail_over(self, down_s: float) -> None:
        """Kill the primary for good and promote the standby with what it has received."""
        server = self.stop()
        await asyncio.sleep(down_s)
        self.clock_offset = self.standby_offset
        kind = "synchronous failover" if self.synchronous else "asynchronous failover"
        self._begin_again(self._received, f"primary {server.timeline + 1}", server.timeline + 1, kind)

    async def freeze(self, seconds: float) -> None:
        server = self.primary
        if server is None:
            return
        server.process.freeze()
        await asyncio.sleep(seconds)
        server.process.thaw()

    async def hold(self, keys: Collection[Any], seconds: float) -> None:
        """Hold rows, as somebody's open transaction does."""
        server = self.primary
        if server is None or any(key in server.locks for key in keys):
            return
        with server.locked(list(keys)):
            await asyncio.sleep(seconds)

    def end(self) -> None:
        if self.primary is not None:
            self.stop()
