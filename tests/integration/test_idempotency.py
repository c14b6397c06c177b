"""First answers under an Idempotency-Key: found by an index at any size of the log, and the same again and again."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from support import eventually
from support.ledger_kit import ACCOUNT, ADVANCED, REFUSED, REPLAYED, LedgerKit, Truth, open_ledger, word

from ixfast import limits
from ixfast.domain.decision import Binding
from ixfast.domain.model import Verdict
from ixfast.domain.scan import COUNTED_ONLY, KEYED_FROM, Scan
from ixfast.meters import REFUSALS_DROPPED
from ixfast.store import partitions
from ixfast.store.connections import session
from ixfast.store.connections.session import PINNED
from ixfast.store.ledger.ledger_database import KeyedRefusal, PostgresLedgerDatabase
from ixfast.store.migrate import migrations
from ixfast.store.partitions import KEYED_SCAN, SCAN_LOG
from ixfast.store.queries import load

TAGS = 300
FEW, MANY = 2_000, 500_000
STATEMENT = load("ledger")
CONFLICT = "idempotency_conflict:None"
SEARCHED = """
SELECT scan_id FROM scan_log WHERE scan_id = ANY ($1::bigint[]) AND at > now() - interval '10 minutes'
"""
"""The control: how a log without a table of first answers has to be asked."""


# What a look-up costs.


async def fill(connection: asyncpg.Connection, rows: int) -> None:
    """Passes of the last ten minutes, of which each has a key."""
    at = "greatest(now() - interval '10 minutes' * random(), date_trunc('day', now()))"  # the day before has no partition
    series = "generate_series(1, $1::int) AS n"
    await connection.execute(f"INSERT INTO scan_log SELECT {at}, {KEYED_FROM} + n, n % 1000, n, 'g' FROM {series}", rows)
    await connection.execute(f"INSERT INTO keyed_scan SELECT {at}, {KEYED_FROM} + n, n % 1000, n, n - 1, n FROM {series}", rows)
    await connection.execute(
        f"INSERT INTO keyed_tap SELECT {KEYED_FROM} + n, {at}, n % 1000, n, n FROM {series} ON CONFLICT DO NOTHING", rows
    )
    today = dt.datetime.now(dt.UTC).date()
    await connection.execute(f"ANALYZE {SCAN_LOG.name(today)}, {KEYED_SCAN.name(today)}, keyed_tap, tag_counter")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def executed(
    connection: asyncpg.Connection, types: str, statement: str, *arrays: list[Any]
) -> tuple[int, list[dict[str, Any]]]:
    """How many pages a prepared statement touches, and its plan's nodes; nothing of it stays."""
    given = ", ".join(f"'{{{','.join(map(str, array))}}}'" for array in arrays)
    await connection.execute(f"PREPARE explained {types} AS {statement}")
    try:
        for _ in range(2):  # the first reads what the session did not know of the tables
            transaction = connection.transaction()
            await transaction.start()
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained ({given})")
            await transaction.rollback()
    finally:
        await connection.execute("DEALLOCATE explained")
    plan = json.loads(text)[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], list(nodes(plan))


async def costs(dsn: str) -> dict[str, int]:
    """Pages by statement, each for 20 keys that were never used; an index leads to all of it."""
    pool = await session.make_pool(dsn, 1)
    pinned = await session.connect(dsn, **PINNED)
    fresh = [KEYED_FROM + (1 << 40) + n for n in range(20)]
    tags, positions = list(range(1, 21)), [1] * 20
    found = {}
    try:
        async with pool.acquire() as connection:
            found["keyed"], plan = await executed(connection, "(bigint[])", STATEMENT["keyed"], fresh)
            assert_by_index(plan)
            found["bindings"], plan = await executed(connection, "(bigint[])", STATEMENT["bindings"], fresh)
            assert_by_index(plan, "keyed_tap")
            types, bound = "(bigint[], bigint[], int[], bigint[])", (fresh, tags, positions, fresh)
            found["bind_keys"], _ = await executed(connection, types, STATEMENT["bind_keys"], *bound)
            types = "(bigint[], bigint[], int[], text[], text[], bigint[], bigint[], bigint[], text[])"
            nothing = ["NULL"] * 20
            refusals = (fresh, tags, positions, ["f"] * 20, nothing, nothing, fresh, fresh, ["CH"] * 20)
            found["log_keyed_refusals"], plan = await executed(connection, types, STATEMENT["log_keyed_refusals"], *refusals)
            assert_by_index(plan, "keyed_tap")
            found["searched"], _ = await executed(connection, "(bigint[])", SEARCHED, fresh)
        for name in ("advance_keyed", "advance_unheld"):
            found[name], plan = await executed(pinned, "(bigint[], int[], bigint[])", STATEMENT[name], tags, positions, fresh)
            assert_by_index(plan)
    finally:
        pinned.terminate()
        pool.terminate()
    return found


def assert_by_index(plan: list[dict[str, Any]], table: str = "keyed_scan") -> None:
    tables = [node for node in plan if node.get("Relation Name", "").startswith(table) and "Scan" in node["Node Type"]]
    assert tables
    assert {node["Node Type"] for node in tables} <= {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    assert "Seq Scan" not in {node["Node Type"] for node in plan}


async def test_a_look_up_costs_the_same_however_long_the_log_is(database: str, truth: Truth) -> None:
    await fill(truth.connection, FEW)
    few = await costs(database)
    await fill(truth.connection, MANY)
    many = await costs(database)
    for name in ("keyed", "bindings", "bind_keys", "log_keyed_refusals", "advance_keyed", "advance_unheld"):
        # An index of 500,000 rows is a level deeper than one of 2,000; a page more for each key.
        assert many[name] <= few[name] + 3 * 20, (few, many)
    assert many["searched"] > 20 * few["searched"], "the control"


# What is answered.


async def test_the_first_answer_is_given_in_full_after_later_taps(kit: LedgerKit, database: str) -> None:
    assert await kit.word(1, 3) == ADVANCED
    first = await kit.submit(1, 7, 77, idempotent=True)
    assert (word(first), first.previous_position, first.scan_count) == (ADVANCED, 3, 2)
    assert first.extras is not None and first.extras.first_at is None
    for later in (8, 12):
        assert await kit.word(1, later) == ADVANCED
    async with open_ledger(database) as restarted:
        for again in await asyncio.gather(*(k.submit(1, 7, 77, idempotent=True) for k in (kit, restarted))):
            assert (word(again), again.previous_position, again.scan_count) == (ADVANCED, 3, 2)
            assert again.extras is not None and again.extras.first_at is not None


async def test_a_key_that_was_used_consumes_no_other_tap(kit: LedgerKit, database: str, truth: Truth) -> None:
    assert await kit.word(1, 5, 77, idempotent=True) == ADVANCED
    async with open_ledger(database) as other:
        for asked in (kit, other):
            assert await asked.word(1, 6, 77, idempotent=True) == CONFLICT  # a fresh tap of the same tag
            assert await asked.word(2, 1, 77, idempotent=True) == CONFLICT  # and of another
            assert await asked.word(1, 4, 77, idempotent=True) == CONFLICT  # and one that was overtaken
    assert await truth.log() == [(1, 5)]
    assert await kit.word(1, 6) == await kit.word(2, 1) == ADVANCED


async def test_a_key_stays_with_a_tap_that_was_refused(kit: LedgerKit, database: str) -> None:
    assert await kit.word(1, 5) == ADVANCED
    assert await kit.word(1, 5, 77, idempotent=True) == REPLAYED
    assert await kit.word(2, verdict=Verdict.FORGED, scan_id=78, idempotent=True, fingerprint=1) == REFUSED
    async with open_ledger(database) as other:
        for asked in (kit, other):
            assert await asked.word(1, 6, 77, idempotent=True) == CONFLICT
            assert await asked.word(2, 1, 78, idempotent=True, fingerprint=2) == CONFLICT
            assert await asked.word(1, 5, 77, idempotent=True) == REPLAYED
            assert await asked.word(2, verdict=Verdict.FORGED, scan_id=78, idempotent=True, fingerprint=1) == REFUSED
    assert await kit.word(1, 6) == await kit.word(2, 1) == ADVANCED


async def test_the_same_words_are_the_same_tap_whatever_they_prove(kit: LedgerKit) -> None:
    """A tag that was inactive, or whose key was wrong, may be in order when its tap is sent again."""
    assert await kit.word(1, verdict=Verdict.INACTIVE, scan_id=77, idempotent=True, fingerprint=1) == REFUSED
    assert await kit.word(1, 5, 77, idempotent=True, fingerprint=1) == ADVANCED
    assert await kit.word(1, 5, 77, idempotent=True, fingerprint=1) == ADVANCED
    assert await kit.word(1, 6, 77, idempotent=True, fingerprint=2) == CONFLICT


async def test_the_same_read_is_the_same_tap_in_other_words(kit: LedgerKit) -> None:
    assert await kit.word(1, 5, 77, idempotent=True, fingerprint=1) == ADVANCED
    assert await kit.word(1, 5, 77, idempotent=True, fingerprint=2) == ADVANCED


async def test_a_peek_binds_nothing_and_shows_the_conflict(kit: LedgerKit, truth: Truth) -> None:
    assert await kit.word(1, 5, 77, idempotent=True, peek=True) == ADVANCED
    assert await kit.word(2, 1, 77, idempotent=True) == ADVANCED
    assert await kit.word(1, 5, 77, idempotent=True, peek=True) == CONFLICT
    assert await truth.log() == [(2, 1)]


# Two taps under one key at once.

RACES = 12
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def passes_by_key(database: str, truth: Truth, **options: Any) -> list[int]:
    """Let the ledgers of two hosts race with two taps under each of some keys; returns how many passed under each.

    The counters of both taps are held until each scan waits for one or has its answer, so that neither sees the other's commit.
    """
    passed = []
    hold = "SELECT FROM tag_counter WHERE tag_id = ANY ($1::bigint[]) FOR UPDATE"
    holder = await asyncpg.connect(database)
    async with open_ledger(database, **options) as one, open_ledger(database, **options) as two:
        for key in range(1, RACES + 1):
            tags = [key, key + RACES]
            async with holder.transaction():
                await holder.execute(hold, tags)
                kits = (one, two) if key % 2 else (two, one)
                scans = [kit.submit(tag_id, 1, key, idempotent=True) for kit, tag_id in zip(kits, tags, strict=True)]

                async def both_wait(scans: list[asyncio.Future[Scan]] = scans) -> bool:
                    waiting: int = await truth.connection.fetchval(WAITING)
                    return waiting + sum(scan.done() for scan in scans) >= 2

                await eventually(both_wait)
            answers = [word(scan) for scan in await asyncio.gather(*scans)]
            assert set(answers) <= {ADVANCED, CONFLICT}
            passed.append(answers.count(ADVANCED))
    await holder.close()
    assert len(await truth.log()) == sum(passed)
    return passed


async def test_of_two_taps_under_one_key_on_two_hosts_one_passes(database: str, truth: Truth) -> None:
    assert await passes_by_key(database, truth) == [1] * RACES


async def test_of_many_taps_under_one_key_one_passes(database: str, truth: Truth) -> None:
    async with open_ledger(database, groups=2) as one, open_ledger(database, groups=2) as two:
        for key in range(1, 30):
            taps = [(kit, 1 + number) for number in range(8) for kit in (one, two)]
            scans = [kit.submit(tag_id, 2 * key + (kit is two), key, idempotent=True) for kit, tag_id in taps]
            answers = [word(scan) for scan in await asyncio.gather(*scans)]
            assert sorted(answers) == [ADVANCED] + [CONFLICT] * 15
    assert len(await truth.log()) == 29


class Unbound(PostgresLedgerDatabase):
    async def bind_keys(self, bindings: Sequence[Binding], time_left_s: float) -> Sequence[Binding]:
        return bindings


async def test_control_without_a_binding_both_pass(database: str, truth: Truth) -> None:
    assert 2 in await passes_by_key(database, truth, database_kind=Unbound)


async def test_of_two_taps_under_one_key_in_one_worker_one_passes(kit: LedgerKit, truth: Truth) -> None:
    for key in range(1, 20):
        answers = await asyncio.gather(*(kit.submit(tag_id, key, key, idempotent=True) for tag_id in (1, 2, 1, 2)))
        assert sorted(map(word, answers)) == [ADVANCED, ADVANCED, CONFLICT, CONFLICT]
    assert len(await truth.log()) == 19


@pytest.mark.parametrize("commits", [True, False])
async def test_a_key_that_is_being_bound_elsewhere_is_waited_for(
    kit: LedgerKit, database: str, truth: Truth, commits: bool
) -> None:
    other = await asyncpg.connect(database)
    try:
        transaction = other.transaction()
        await transaction.start()
        bind = "INSERT INTO keyed_tap (scan_id, tag_id, position, fingerprint) VALUES ($1, 2, 1, 0)"
        await other.execute(bind, KEYED_FROM | 77)
        asked = kit.submit(1, 5, 77, idempotent=True)
        await eventually(lambda: truth.connection.fetchval(WAITING))
        await (transaction.commit() if commits else transaction.rollback())
        assert word(await asked) == (CONFLICT if commits else ADVANCED)
        assert await truth.log() == ([] if commits else [(1, 5)])
    finally:
        await other.close()


async def test_keys_are_bound_in_one_order_by_everybody(database: str, truth: Truth) -> None:
    """Batches that bind the same keys in different orders would deadlock."""
    async with open_ledger(database) as one, open_ledger(database) as two:
        for _ in range(10):
            keys = [random.getrandbits(60) for _ in range(100)]
            scans = [kit.submit(1 + key % TAGS, 1, key, idempotent=True) for kit in (one, two) for key in keys]
            keys.reverse()
            answers = await asyncio.gather(*scans)
            assert {word(scan) for scan in answers} <= {ADVANCED, REPLAYED}
    assert len(await truth.log()) <= TAGS


# What is logged and remembered.


# Refusals that are sent again: position, verdict, and whether the tag is registered.
REFUSED_TAPS: dict[str, tuple[int, Verdict, bool]] = {
    "replayed": (5, Verdict.REPLAYED, True),
    "repeat": (5, Verdict.REPEAT, True),
    "forged": (COUNTED_ONLY, Verdict.FORGED, True),
    "incomplete": (COUNTED_ONLY, Verdict.INCOMPLETE, True),
    "inactive": (COUNTED_ONLY, Verdict.INACTIVE, True),
    "unknown": (COUNTED_ONLY, Verdict.UNKNOWN, False),
}


async def refuse(kit: LedgerKit, name: str, key: int | None, fingerprint: int = 1) -> None:
    """Refuse a tap as the engine does, under an Idempotency-Key unless `key` is None. The visitor is in Switzerland."""
    position, verdict, registered = REFUSED_TAPS[name]
    if not registered:
        kit.refuse(None, position, verdict, key=key, fingerprint=fingerprint)
        return
    if key is not None:
        tap = {"idempotent": True, "fingerprint": fingerprint | KEYED_FROM, "verdict": verdict}
        assert await kit.word(1, position, key, **tap) == REFUSED
    kit.refuse(1, position, verdict, key=key, fingerprint=fingerprint, country="CH")


async def counted(truth: Truth, registered: bool) -> int:
    """How many refusals are logged. Those of tags have as many countries."""
    logged = await truth.connection.fetchval("SELECT count(*) FROM scan_log WHERE verdict NOT IN ('g', 'p')")
    countries = await truth.connection.fetch("SELECT tag_id, country FROM visitor_country")
    assert [tuple(row) for row in countries] == [(1, "CH")] * (logged if registered else 0)
    return int(logged)


@pytest.mark.parametrize("name", REFUSED_TAPS)
async def test_a_refusal_that_is_sent_again_is_logged_once(database: str, truth: Truth, name: str) -> None:
    """On each worker several times before and after it is written, and after all were restarted."""
    registered = REFUSED_TAPS[name][2]
    for _ in range(2):
        async with open_ledger(database) as one, open_ledger(database) as two:
            for kit in (one, two, one):
                for key in (77, 77, 78):
                    await refuse(kit, name, key)
            await eventually(lambda: truth.connection.fetchval("SELECT count(*) = 2 FROM keyed_tap WHERE refused"))
            await refuse(one, name, 78)
        assert await counted(truth, registered) == 2
    async with open_ledger(database) as kit:
        for _ in range(3):
            await refuse(kit, name, None)
    assert await counted(truth, registered) == 5


async def test_other_taps_of_unknown_tags_under_one_key_are_logged(database: str, truth: Truth) -> None:
    """Otherwise guesses could hide behind a key."""
    for _ in range(2):
        async with open_ledger(database) as kit:
            for fingerprint in (1, 2, 3, 1, 2):
                await refuse(kit, "unknown", 77, fingerprint)
    assert await counted(truth, registered=False) == 3
    async with open_ledger(database) as kit:  # and the key stays free
        assert await kit.word(1, 5, 77, idempotent=True, fingerprint=1) == ADVANCED
        assert await kit.word(1, 6, 77, idempotent=True, fingerprint=2) == CONFLICT


@pytest.mark.parametrize("name", ["forged", "unknown"])
async def test_many_workers_that_log_the_same_refusals_at_once_log_each_once(
    database: str, truth: Truth, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REFUSAL_SLOW_S", 60.0)  # no write lowers the bound of the queue, however slow the machine is
    keys = list(range(1, limits.UNKNOWN_ROWS_MAX + 1))
    async with open_ledger(database) as one, open_ledger(database) as two, open_ledger(database) as three:
        for kit in (one, two, three):
            keys.reverse()
            await asyncio.gather(*(refuse(kit, name, key) for key in keys))
    assert await counted(truth, REFUSED_TAPS[name][2]) == len(keys)
    for kit in (one, two, three):
        assert kit.meters.slots[REFUSALS_DROPPED] == 0


async def log_in_opposite_orders(database: str, truth: Truth, statement: str) -> None:
    """Log three refusals from two sessions, which both have to wait for the second one. Raises what the sessions raise."""
    holder, one, two = [await asyncpg.connect(database) for _ in range(3)]

    def log(session: asyncpg.Connection, *marks: int) -> Any:
        rows = [(KEYED_FROM | mark, 0, COUNTED_ONLY, "u", None, ACCOUNT, mark, KEYED_FROM | 1, None) for mark in marks]
        return session.execute(statement, *map(list, zip(*rows, strict=True)))

    try:
        transaction = holder.transaction()
        await transaction.start()
        await log(holder, 2)
        async with asyncio.TaskGroup() as group:
            for number, (session, marks) in enumerate(((one, (1, 2, 3)), (two, (3, 2, 1)))):
                group.create_task(log(session, *marks))

                async def all_wait(count: int = number + 1) -> bool:
                    return int(await truth.connection.fetchval(WAITING)) == count

                await eventually(all_wait)
            await transaction.rollback()
    finally:
        for session in (holder, one, two):
            session.terminate()


async def test_marks_are_set_in_one_order_by_everybody(database: str, truth: Truth) -> None:
    await log_in_opposite_orders(database, truth, STATEMENT["log_keyed_refusals"])
    assert await counted(truth, registered=False) == 3


async def test_control_marks_set_in_the_order_of_arrival_deadlock(database: str, truth: Truth) -> None:
    unordered = STATEMENT["log_keyed_refusals"].replace(" ORDER BY mark", "")
    assert unordered != STATEMENT["log_keyed_refusals"]
    with pytest.raises(ExceptionGroup) as raised:
        await log_in_opposite_orders(database, truth, unordered)
    assert raised.group_contains(asyncpg.DeadlockDetectedError)


BY_ANOTHER = {
    "forged": (KEYED_FROM | 77, 1, COUNTED_ONLY, "f", None, None, KEYED_FROM | 77, KEYED_FROM | 1, "CH"),
    "unknown": (KEYED_FROM | 77, 0, COUNTED_ONLY, "u", None, ACCOUNT, 77 ^ 1, KEYED_FROM | 1, None),
}


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("name", BY_ANOTHER)
async def test_a_refusal_that_is_being_logged_elsewhere_is_waited_for(
    database: str, truth: Truth, name: str, commits: bool
) -> None:
    position, verdict, registered = REFUSED_TAPS[name]
    tag_id = 1 if registered else None
    other = await asyncpg.connect(database)
    try:
        async with open_ledger(database) as kit:
            if registered:
                await kit.word(1, verdict=verdict, scan_id=77, idempotent=True, fingerprint=KEYED_FROM | 1)
            transaction = other.transaction()
            await transaction.start()
            await other.execute(STATEMENT["log_keyed_refusals"], *([value] for value in BY_ANOTHER[name]))
            kit.refuse(tag_id, position, verdict, key=77, fingerprint=1, country="CH")
            await eventually(lambda: truth.connection.fetchval(WAITING))
            await (transaction.commit() if commits else transaction.rollback())
            kit.refuse(tag_id, position, verdict, key=78, fingerprint=1, country="CH")
            await eventually(lambda: truth.connection.fetchval("SELECT count(*) >= 2 FROM scan_log"))
        assert await counted(truth, registered) == 2
    finally:
        await other.close()


async def test_a_refusal_that_was_logged_before_waits_for_no_lock(database: str, truth: Truth) -> None:
    """Nobody who sends the tap again waits for the log, whose writes may be slow."""
    other = await asyncpg.connect(database)
    try:
        async with open_ledger(database) as kit:
            await refuse(kit, "forged", 77)
            await refuse(kit, "unknown", 78)
            await eventually(lambda: truth.connection.fetchval("SELECT count(*) = 2 FROM keyed_tap WHERE refused"))
            async with other.transaction():
                await other.execute("SELECT FROM keyed_tap FOR UPDATE")
                kit.refuse(1, COUNTED_ONLY, key=77, fingerprint=1)
                kit.refuse(None, COUNTED_ONLY, Verdict.UNKNOWN, key=78, fingerprint=1)
                kit.refuse(None, COUNTED_ONLY, Verdict.UNKNOWN, key=79, fingerprint=1)
                await eventually(lambda: truth.connection.fetchval("SELECT count(*) = 3 FROM scan_log"))
    finally:
        await other.close()


class Unmarked(PostgresLedgerDatabase):
    async def log_keyed_refusals(self, rows: Sequence[KeyedRefusal], time_left_s: float) -> None:
        await self.log_refusals([row[:6] for row in rows], time_left_s)
        countries = [(row.tag_id, row.verdict, row.country) for row in rows if row.country is not None]
        if countries:
            await self.log_countries(countries, time_left_s)


@pytest.mark.parametrize("name", REFUSED_TAPS)
async def test_control_without_marks_it_is_logged_again(database: str, truth: Truth, name: str) -> None:
    for _ in range(2):
        async with open_ledger(database, database_kind=Unmarked) as kit:
            await refuse(kit, name, 77)
    assert await counted(truth, REFUSED_TAPS[name][2]) == 2


async def test_marks_are_forgotten_with_the_keys(database: str, truth: Truth) -> None:
    for logged in (1, 1, 2):
        if logged == 2:
            await truth.execute("UPDATE keyed_tap SET at = at - interval '49 hours'")
            await partitions.drop_old(truth.connection, 400)
        async with open_ledger(database) as kit:
            await refuse(kit, "unknown", 77)
        assert await counted(truth, registered=False) == logged


async def test_keys_are_forgotten_after_two_days(kit: LedgerKit, truth: Truth) -> None:
    for key in range(1, 31):
        assert await kit.word(1, key, key, idempotent=True) == ADVANCED
    aged = "UPDATE keyed_tap SET at = at - make_interval(hours => $1) WHERE scan_id <= $2"
    await truth.execute(aged, 49, KEYED_FROM | 20)
    await truth.execute(aged.replace("<=", ">"), 47, KEYED_FROM | 20)
    await partitions.drop_old(truth.connection, 400)
    assert await truth.connection.fetchval("SELECT count(*) FROM keyed_tap") == 10
    assert await kit.word(2, 1, 21, idempotent=True) == CONFLICT


async def test_keys_from_before_the_table_stay_with_their_taps(kit: LedgerKit, truth: Truth) -> None:
    assert await kit.word(1, 5, 77, idempotent=True) == ADVANCED
    migration = next(m.sql for m in migrations() if "CREATE TABLE keyed_tap" in m.sql)
    await truth.execute("TRUNCATE keyed_tap")
    await truth.execute(migration[migration.index("INSERT INTO keyed_tap") :].partition(";")[0])
    assert await kit.word(2, 1, 77, idempotent=True, fingerprint=2) == CONFLICT
    assert await kit.word(1, 5, 77, idempotent=True, fingerprint=1) == ADVANCED


async def test_many_workers_with_one_key_give_one_answer(database: str, truth: Truth) -> None:
    async with open_ledger(database) as one, open_ledger(database) as two:
        for counter in range(1, 30):
            kits = [one, two] * 5
            answers = await asyncio.gather(*(kit.submit(1, counter, counter, idempotent=True) for kit in kits))
            assert {word(scan) for scan in answers} == {ADVANCED}
            assert {(scan.previous_position, scan.scan_count) for scan in answers} == {(counter - 1, counter)}
    assert await truth.log() == [(1, counter) for counter in range(1, 30)]
