"""What PostgreSQL does for the statements of `store/sql/ledger.sql` and for the reading of changes, in plain Python.

Each function makes a statement: called with a server, it does what the SQL does there, with the same snapshot, clock and locks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import asyncpg

from ixfast.store.ledger.ledger_database import KeyedRefusal, Refusal

from .database import STATEMENT_TIMEOUT_S, Server
from .network import Statement
from .tables import KEYED_FROM, BoundRow, ChangeRow, ClockState, Counter, Effect, KeyedRow, LogRow

COUNTED_ONLY = -1
STEP_S = 0.5
Rows = list[tuple[str, Any, Any]]


def _check_writable(server: Server) -> None:
    if server.cluster.read_only:
        raise asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction")


def advance(
    tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int], *, keyed: bool, level: str | None
) -> Statement:
    """Forms `advance` and `advance_keyed`."""

    async def run(server: Server) -> list[tuple[int, int, int]]:
        _check_writable(server)
        now = server.clock()
        used = _used_keys(server, scan_ids) if keyed else frozenset()
        await asyncio.sleep(0.0002)
        await server.wait_free(list(tag_ids))
        with server.locked(list(tag_ids)):
            advancing = [
                (tag_id, position, scan_id)
                for tag_id, position, scan_id in zip(tag_ids, positions, scan_ids, strict=True)
                if scan_id not in used and _advances(server, tag_id, position, scan_id)
            ]
            return await _advance(server, advancing, now, keyed=keyed, level=level)

    return run


def advance_unheld(tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int], *, level: str | None) -> Statement:
    """Form `advance_unheld`: rows that are held are left out."""

    async def run(server: Server) -> list[tuple[int, int, int, bool]]:
        _check_writable(server)
        now = server.clock()
        used = _used_keys(server, scan_ids)
        free = [row for row in zip(tag_ids, positions, scan_ids, strict=True) if row[0] not in server.locks]
        with server.locked([row[0] for row in free]):
            before = {tag_id: server.state.counters[tag_id] for tag_id, _, _ in free}
            advancing = [row for row in free if row[2] not in used and _advances(server, *row)]
            advanced = {tag_id for tag_id, _, _ in await _advance(server, advancing, now, keyed=True, level=level)}
        return [
            (tag_id, before[tag_id].last_position, before[tag_id].scan_count + (tag_id in advanced), tag_id in advanced)
            for tag_id, _, _ in free
        ]

    return run


def _used_keys(server: Server, scan_ids: Sequence[int]) -> frozenset[int]:
    """Of these scans those whose key was used, as the statement's snapshot shows it."""
    asked = {scan_id for scan_id in scan_ids if scan_id >= KEYED_FROM}
    return frozenset(row.scan_id for row in server.state.keyed.values() if row.scan_id in asked) if asked else frozenset()


def _advances(server: Server, tag_id: int, position: int, scan_id: int) -> bool:
    counter = server.state.counters[tag_id]
    return counter.last_position < position or (position < 0 and counter.last_scan_id != scan_id)


async def _advance(
    server: Server, advancing: list[tuple[int, int, int]], now: float, *, keyed: bool, level: str | None
) -> list[tuple[int, int, int]]:
    cluster = server.cluster
    rows: Rows = []
    effects = []
    answer = []
    for tag_id, position, scan_id in advancing:
        old = server.state.counters[tag_id]
        new = Counter(max(old.last_position, position), old.last_position, scan_id, old.scan_count + 1, now)
        verdict = "p" if position < 0 else "g"
        key = cluster.next_log_key()
        rows += [("counter", tag_id, new), ("log", key, LogRow(now, scan_id, tag_id, position, verdict))]
        if keyed and scan_id >= KEYED_FROM:
            rows.append(("keyed", key, KeyedRow(now, scan_id, tag_id, position, old.last_position, new.scan_count)))
        effects.append(Effect(tag_id, scan_id, position, old.last_position, new.scan_count, cluster.loop.now))
        answer.append((tag_id, old.last_position, new.scan_count))
    if rows:
        await server.commit(rows, effects, level)
    return answer


def states(tag_ids: Collection[int]) -> Statement:
    """Rows (tag id, last position, previous position, last scan id, scan count, age in ms, doubtful)."""

    async def run(server: Server) -> list[tuple[Any, ...]]:
        now, clock = server.clock(), server.state.clock
        doubt = now < clock.clock_high - STEP_S
        return [
            (tag_id, *row[:4], int((now - row.last_at) * 1000), doubt or row.last_at <= clock.doubtful_until)
            for tag_id in sorted(tag_ids)
            if (row := server.state.counters.get(tag_id)) is not None
        ]

    return run


def keyed(scan_ids: Collection[int], cost_s: float) -> Statement:
    async def run(server: Server) -> list[KeyedRow]:
        await _work(cost_s)
        return [row for row in server.state.keyed.values() if row.scan_id in scan_ids]

    return run


def bind_keys(bindings: Sequence[tuple[int, int, int, int]]) -> Statement:
    """A key that somebody else is binding is waited for, and seen whatever the snapshot. That its rows are locked one after the
    other does not matter here, because nobody else holds several of them."""

    async def run(server: Server) -> list[tuple[int, int, int, int]]:
        _check_writable(server)
        keys = [("bound", scan_id) for scan_id, *_ in bindings]
        await asyncio.sleep(0.0002)
        await server.wait_free(keys)
        with server.locked(keys):
            known = server.state.bound
            rows = {each[0]: known[each[0]] if each[0] in known else BoundRow(*each) for each in bindings}
            await server.commit([("bound", scan_id, row) for scan_id, row in rows.items()], [], "on")
        return [row[:4] for row in rows.values()]

    return run


def bindings(scan_ids: Collection[int]) -> Statement:
    async def run(server: Server) -> list[tuple[int, int, int, int]]:
        return [server.state.bound[scan_id][:4] for scan_id in sorted(scan_ids) if scan_id in server.state.bound]

    return run


async def _work(cost_s: float) -> None:
    """A query that takes its time, or is cut short by `statement_timeout`."""
    if cost_s:
        await asyncio.sleep(min(cost_s, STATEMENT_TIMEOUT_S))
        if cost_s > STATEMENT_TIMEOUT_S:
            raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")


def logged(scan_ids: Collection[int], spans: Sequence[tuple[float, float]]) -> Statement:
    async def run(server: Server) -> set[tuple[int, int]]:
        return {
            (row.tag_id, row.scan_id)
            for row in server.state.log.values()
            if row.scan_id in scan_ids and row.verdict in "gp" and any(low <= row.at <= high for low, high in spans)
        }

    return run


def log_refusals(refusals: Sequence[Refusal]) -> Statement:
    async def run(server: Server) -> None:
        _check_writable(server)
        now, cluster = server.clock(), server.cluster
        logged = [LogRow(now, *refusal[:4]) for refusal in refusals]
        await server.commit([("log", cluster.next_log_key(), row) for row in logged], [], "on")

    return run


def log_keyed_refusals(refusals: Sequence[KeyedRefusal]) -> Statement:
    async def run(server: Server) -> None:
        _check_writable(server)
        now, cluster, known = server.clock(), server.cluster, server.state.bound
        fresh = [each for each in refusals if each.mark not in known or not known[each.mark].refused]
        keys = [("bound", mark) for mark in sorted(each.mark for each in fresh)]
        await server.wait_free(keys)
        with server.locked(keys):
            rows: Rows = []
            for each in fresh:
                own = BoundRow(each.mark, each.tag_id, each.position, each.fingerprint)
                bound = server.state.bound.get(each.mark, own)
                if not bound.refused:
                    rows.append(("bound", each.mark, bound._replace(refused=True)))
                    rows.append(("log", cluster.next_log_key(), LogRow(now, *each[:4])))
            await server.commit(rows, [], "on")

    return run


def settle(level: str | None) -> Statement:
    async def run(server: Server) -> None:
        _check_writable(server)
        await server.commit([], [], level)

    return run


async def clock(server: Server) -> float:
    return server.clock()


def read_history(known: int | None) -> Statement:
    """The members of a `Reading`. Keeps the clock's highest reading on its way, as the real statement does."""

    async def run(server: Server) -> tuple[Any, ...]:
        state, now = server.state, server.clock()
        newest, asked = state.changes.get(state.generation), state.changes.get(known or 0)
        unsafe = [name for name in ("fsync", "full_page_writes") if server.cluster.settings[name] != "on"]
        answer = (
            state.generation,
            newest.identity if newest is not None else None,
            asked.identity if asked is not None else None,
            server.history,
            server.written,
            server.started,
            now,
            " and ".join(unsafe) or None,
        )
        high, doubtful_until = state.clock
        if not high - STEP_S <= now <= high + 0.9 and "clock" not in server.locks:
            _check_writable(server)
            if now < high - STEP_S:
                doubtful_until = max(doubtful_until, high + 12.0)
            with server.locked(["clock"]):
                await server.commit([("one", "clock", ClockState(now, doubtful_until))], [], "on")
        return answer

    return run


def changes_since(after: int, limit: int) -> Statement:
    async def run(server: Server) -> list[ChangeRow]:
        changes = server.state.changes
        return [changes[generation] for generation in sorted(changes) if generation > after][:limit]

    return run


class Act(NamedTuple):
    """A management act: members of catalogue rows that change, and what its row of `catalogue_change` says."""

    text: str
    rows: tuple[tuple[str, Any, dict[str, Any]], ...]
    kind: str
    id: int
    xuid: str | None = None


def act(chance: random.Random, wanted: Act) -> Statement:
    """Commit a management act together with the note of the change, and notify those who listen."""

    async def run(server: Server) -> int:
        _check_writable(server)
        await server.wait_free(["generation"])
        with server.locked(["generation"]):
            generation = server.state.generation + 1
            identity = f"{chance.getrandbits(128):032x}"
            rows: Rows = [(table, key, server.state.tables[table][key] | members) for table, key, members in wanted.rows]
            rows.append(("one", "generation", generation))
            rows.append(("change", generation, ChangeRow(generation, identity, wanted.kind, wanted.id, wanted.xuid)))
            await server.commit(rows, [], "on")
        for connection in list(server.connections):
            connection.notify()
        return generation

    return run
