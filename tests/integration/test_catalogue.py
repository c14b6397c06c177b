"""The catalogue on a real database: look-ups, what it caches, and how soon it notices a change."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from support import eventually
from support.tcp_proxy import TcpProxy

from ixfast import limits, meters
from ixfast.domain import references
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import Scan
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.store.admin import edits
from ixfast.store.catalogue import change_follower
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.catalogue.change_follower import ChangeFollower
from ixfast.store.catalogue.change_source import PostgresChangeSource
from ixfast.store.connections import session
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

TAGS = 30
FLEET = VirtualFleet(1, TAGS)
OTHERS = VirtualFleet(2, 3, "encrypted", account="other")
KEKS = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
REFS = [FLEET.xuid(i).encode() for i in range(TAGS)]
NEVER_S = 3600.0


class HookedPool:
    """A pool that pauses once, after a query on `table` has returned its rows and before the caller gets them."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.table: str | None = None
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()

    def pause_after(self, table: str) -> None:
        self.table = table

    async def acquire(self) -> Any:
        return _HookedConnection(self, await self._pool.acquire())

    async def release(self, connection: Any) -> None:
        await self._pool.release(connection.real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _HookedConnection:
    def __init__(self, hook: HookedPool, real: Any) -> None:
        self._hook = hook
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        rows = await self.real.fetch(query, *arguments)
        hook = self._hook
        if hook.table is not None and f"FROM {hook.table} " in query.replace("\n", " "):
            hook.table = None
            hook.paused.set()
            await hook.go_on.wait()
        return rows


class Stack:
    """A catalogue with its follower, and a connection for management."""

    def __init__(self, dsn: str, pool: Any, management_connection: asyncpg.Connection, **options: Any) -> None:
        self.dsn = dsn
        self.connection = management_connection
        self.meters = Meters()
        self.hook = HookedPool(pool)
        self.catalogue = Catalogue(
            self.hook, KEKS, self.meters, **{"tags_max": 1000, "absent_max": 100, "deadline_s": 3.0} | options
        )
        self.pool = pool
        self.follower: ChangeFollower | None = None

    async def follow(self, *, poll_interval_s: float = NEVER_S, listens: bool = True) -> None:
        self.follower = ChangeFollower(
            PostgresChangeSource(self.dsn, self.pool), self.catalogue, self.meters, poll_interval_s=poll_interval_s
        )
        if not listens:
            self.follower._listen = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        self.follower.start()
        await eventually(lambda: self.catalogue.stale is None)
        if listens:
            await eventually(self.listening)

    async def listening(self) -> int | None:
        """The listener's backend."""
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'"
        return await self.connection.fetchval(query)

    def fetch(self, ref: bytes) -> asyncio.Future[tuple[Scan, Any]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Scan, Any]] = loop.create_future()
        scan = Scan(lambda _scan: None, ref, -1, None, None, 1, loop.time())
        self.catalogue.fetch(scan, ref, lambda scan, found: answer.set_result((scan, found)))
        return answer

    async def look(self, ref: bytes) -> TagRecord | None:
        """The record for a reference, cached or not; the look-up must not fail."""
        known = self.catalogue.find(ref)
        if known is not None:
            return known
        scan, found = await self.fetch(ref)
        assert scan.error is None
        return found

    async def failure(self, ref: bytes) -> tuple[str | None, str | None]:
        scan, found = await self.fetch(ref)
        assert found is None
        return scan.error, scan.error_detail

    async def change(self, statement: str, *noted: tuple[str, int | None, str | None]) -> None:
        async with self.connection.transaction():
            await self.connection.execute(statement)
            if noted:
                await edits.changed(self.connection, *noted)

    def count(self, slot: int) -> int:
        return self.meters.slots[slot]


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await provision(connection, KEKS, [FLEET])
    await provision(connection, KEKS, [OTHERS])
    yield connection
    await connection.close()


@pytest.fixture
async def stack(database: str, connection: asyncpg.Connection) -> AsyncIterator[Stack]:
    pool = await session.make_pool(database, 4)
    stack = Stack(database, pool, connection)
    yield stack
    if stack.follower is not None:
        await stack.follower.stop()
    pool.terminate()


# Look-ups.


async def test_misses_of_one_moment_are_one_query(stack: Stack) -> None:
    answers = await asyncio.gather(*(stack.fetch(ref) for ref in REFS * 10))
    assert {record.xuid for _, record in answers} == set(REFS)
    assert stack.count(meters.CATALOGUE_QUERIES) == 1
    assert stack.count(meters.CATALOGUE_MISSES) == TAGS * 10
    assert stack.count(meters.CATALOGUE_TAGS) == TAGS
    record = stack.catalogue.find(REFS[3])
    assert record is not None and (record.uid, record.single_key()) == (FLEET.uid(3), FLEET.file_key(3))
    assert record.group is stack.catalogue.find(REFS[4]).group  # type: ignore[union-attr]
    assert record.inactive_level() is None


async def test_a_tag_is_found_by_each_of_its_names(stack: Stack) -> None:
    named = [references.by_cuid("acme", "ixkio-plain-3"), references.by_uid("acme", FLEET.uid(3)), REFS[3]]
    records = await asyncio.gather(*(stack.look(ref) for ref in named))
    assert {record.xuid for record in records if record} == {REFS[3]}
    assert all(stack.catalogue.find(ref) for ref in named)
    for wrong in (
        references.by_cuid("other", "ixkio-plain-3"),
        references.by_cuid("acme", "IXKIO-PLAIN-3"),
        references.by_uid("other", FLEET.uid(3)),
        references.by_cuid("nobody", "x"),
        REFS[3].upper(),
    ):
        assert await stack.look(wrong) is None


async def test_api_keys_are_found_by_their_hash_until_they_are_revoked(stack: Stack) -> None:
    await stack.follow()
    account_id = await edits.account_id_of(stack.connection, "acme")
    digest = hashlib.sha256((await edits.create_api_key(stack.connection, account_id, ["scan"])).encode()).digest()
    key = await stack.look(references.by_token(digest))
    assert key is not None and (key.aid, key.scopes) == ("acme", frozenset(["scan"]))  # type: ignore[attr-defined]
    assert stack.catalogue.find_api_key(digest) is key
    assert await stack.look(references.by_token(bytes(32))) is None
    await stack.change("UPDATE api_key SET revoked_at = now()", ("api_key", None, None))
    await eventually(lambda: stack.catalogue.find_api_key(digest) is None, deadline_s=1)
    assert await stack.look(references.by_token(digest)) is None


async def test_absence_is_remembered_briefly_and_within_a_bound(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(400):
        assert await stack.look(b"absent%d" % number) is None
    assert len(stack.catalogue._absent) <= 100
    queries = stack.count(meters.CATALOGUE_QUERIES)
    assert await stack.look(b"absent399") is None
    assert (stack.count(meters.CATALOGUE_QUERIES), stack.count(meters.CATALOGUE_ABSENT)) == (queries, 1)
    now = stack.catalogue._loop.time()
    stack.catalogue._absent.put(b"absent399", now)  # its entry has expired
    assert await stack.look(b"absent399") is None
    assert stack.count(meters.CATALOGUE_QUERIES) == queries + 1


async def test_a_change_ends_all_absence(stack: Stack) -> None:
    await stack.follow()
    assert await stack.look(b"laterone") is None
    statement = "INSERT INTO tag (account_id, group_id, xuid) SELECT account_id, group_id, 'laterone' FROM tag LIMIT 1"
    await stack.change(statement, ("tags_added", None, None))
    await eventually(lambda: stack.look(b"laterone"), deadline_s=1)


async def test_a_full_queue_fails_at_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOKUP_QUEUE_MAX", 3)
    answers = [stack.fetch(ref) for ref in REFS[:4]]
    assert answers[3].result()[0].error == "overloaded"
    assert all(record for _, record in await asyncio.gather(*answers[:3]))
    assert await stack.look(REFS[3]) is not None


# Changes.

LEVELS = [
    ("UPDATE tag SET active = false WHERE xuid = '{xuid}'", "tag", "tag_id", "tag_inactive"),
    ("UPDATE batch SET active = false WHERE batch_id = {batch_id}", "batch", "batch_id", "batch_inactive"),
    ("UPDATE tag_group SET active = false WHERE group_id = {group_id}", "group", "group_id", "tg_inactive"),
    ("UPDATE folder SET active = false WHERE account_id = {account_id}", "group", "group_id", "folder_inactive"),
    ("UPDATE account SET active = false WHERE account_id = {account_id}", "account", "account_id", "folder_inactive"),
]


async def deactivate(stack: Stack, level: int) -> str:
    statement, kind, id_name, error = LEVELS[level]
    row = await stack.connection.fetchrow("SELECT * FROM tag WHERE xuid = $1", REFS[0].decode())
    await stack.change(statement.format(**row), (kind, row[id_name], row["xuid"] if kind == "tag" else None))
    return error


@pytest.mark.parametrize("way", ["notify", "poll"])
@pytest.mark.parametrize("level", range(len(LEVELS)))
async def test_what_is_deactivated_stops_within_a_second(stack: Stack, level: int, way: str) -> None:
    await stack.follow(poll_interval_s=NEVER_S if way == "notify" else 0.25, listens=way == "notify")
    record = await stack.look(REFS[0])
    assert record is not None and record.inactive_level() is None
    error = await deactivate(stack, level)

    async def stopped() -> bool:
        record = await stack.look(REFS[0])
        return record is not None and record.inactive_level() == error

    await eventually(stopped, deadline_s=1)
    other = await stack.look(OTHERS.xuid(0).encode())
    assert other is not None and other.inactive_level() is None


async def test_a_listener_that_is_cut_comes_back(stack: Stack) -> None:
    await stack.follow(poll_interval_s=0.25)
    first = await stack.listening()
    await stack.connection.fetchval("SELECT pg_terminate_backend($1)", first)
    await stack.look(REFS[0])
    await deactivate(stack, 0)
    await eventually(lambda: stack.catalogue.find(REFS[0]) is None, deadline_s=1)  # by polling
    await eventually(stack.listening)
    assert await stack.listening() != first


@pytest.mark.parametrize(("table", "level"), [("tag AS t", 0), ("batch", 1), ("tag_group AS g", 2), ("account", 4)])
async def test_a_change_during_a_look_up_is_not_forgotten(stack: Stack, table: str, level: int) -> None:
    """The rows were read before the change and arrive after it."""
    await stack.follow()
    stack.hook.pause_after(table)
    before = stack.fetch(REFS[0])
    await stack.hook.paused.wait()
    error = await deactivate(stack, level)
    await eventually(lambda: stack.count(meters.CATALOGUE_CHANGES))
    stack.hook.go_on.set()
    await before
    assert stack.catalogue.find(REFS[0]) is None
    record = await stack.look(REFS[0])
    assert record is not None and record.inactive_level() == error


async def test_an_account_is_known_with_its_groups(stack: Stack) -> None:
    await stack.follow()
    known = await stack.catalogue.account("acme")
    assert known is not None and [group.name for group in known[1]] == ["ixkio-plain"]
    assert await stack.catalogue.account("nobody") is None
    folder = await stack.connection.fetchval("SELECT folder_id FROM folder ORDER BY folder_id LIMIT 1")
    async with stack.connection.transaction():
        group_id = await edits.create_group(stack.connection, folder, "Second", None)
        await edits.changed(stack.connection, ("group", group_id, None))

    async def both() -> bool:
        known = await stack.catalogue.account("acme")
        return known is not None and len(known[1]) == 2

    await eventually(both, deadline_s=1)


async def test_an_id_given_to_another_tag_leads_there(stack: Stack) -> None:
    await stack.follow()
    ref = references.by_cuid("acme", "ixkio-plain-0")
    assert (await stack.look(ref)).xuid == REFS[0]  # type: ignore[union-attr]
    async with stack.connection.transaction():
        for index, cuid in ((0, None), (1, "ixkio-plain-0")):
            await stack.connection.execute("UPDATE tag SET cuid = $2 WHERE xuid = $1", FLEET.xuid(index), cuid)
        await edits.changed(stack.connection, ("tag", None, FLEET.xuid(0)), ("tag", None, FLEET.xuid(1)))
    await eventually(lambda: stack.catalogue.find(REFS[0]) is None, deadline_s=1)
    await stack.look(REFS[0])  # cached again, without the id
    assert (await stack.look(ref)).xuid == REFS[1]  # type: ignore[union-attr]
    assert stack.catalogue.find(ref) is stack.catalogue.find(REFS[1])


async def test_more_changes_than_are_read_at_once_empty_the_cache(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHANGES_READ_MAX", 3)
    await stack.follow()
    record = await stack.look(REFS[0])
    assert record is not None
    await stack.change("UPDATE tag_group SET active = false", *[("tag", None, f"other{n}") for n in range(5)])
    await eventually(lambda: not record.group.active, deadline_s=1)
    assert stack.catalogue.find(REFS[0]) is None


# Requests that cannot be answered.


async def test_an_envelope_of_another_tag_is_no_key(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    swap = """UPDATE tag_key AS k SET wrapped = o.wrapped, check_value = o.check_value FROM tag AS t, tag AS u, tag_key AS o
              WHERE k.tag_id = t.tag_id AND o.tag_id = u.tag_id AND (t.xuid, u.xuid) IN (('{0}', '{1}'), ('{1}', '{0}'))"""
    statement = swap.format(FLEET.xuid(0), FLEET.xuid(1))
    await stack.change(statement)
    answers = await asyncio.gather(*(stack.fetch(ref) for ref in REFS[:3]))
    assert [scan.error_detail for scan, _ in answers] == ["key_unavailable", "key_unavailable", None]
    assert stack.count(meters.KEY_UNWRAP_FAILURES) == 2
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    alias = references.by_cuid("acme", "ixkio-plain-0")
    assert await stack.failure(alias) == ("unavailable", "key_unavailable")
    await stack.change(statement)
    assert await stack.look(REFS[0]) is not None  # failures are not cached


async def test_a_meta_key_that_does_not_open_stops_its_account_alone(stack: Stack) -> None:
    await stack.follow()
    await stack.change("UPDATE meta_key SET wrapped = overlay(wrapped PLACING '\\xff'::bytea FROM 20)", ("account", None, None))
    theirs = OTHERS.xuid(0).encode()
    answers = await asyncio.gather(stack.fetch(theirs), stack.fetch(REFS[0]))
    assert [scan.error_detail for scan, _ in answers] == ["key_unavailable", None]
    with pytest.raises(Exception, match="meta key"):
        await stack.catalogue.account("other")


async def test_a_group_of_a_later_release_stops_itself_alone(stack: Stack) -> None:
    await stack.follow()
    known = await stack.look(REFS[0])
    unreadable = """UPDATE tag_group SET profile = '{"name": "later", "scheme": "later", "template": "", "more": 1}'"""
    group_ids = [row[0] for row in await stack.connection.fetch("SELECT group_id FROM tag_group")]
    await stack.change(unreadable, *(("group", group_id, None) for group_id in group_ids))
    await eventually(lambda: stack.count(meters.CATALOGUE_CHANGES) == len(group_ids))
    assert await stack.failure(OTHERS.xuid(0).encode()) == ("unavailable", "bad_record")
    assert known is not None and known.group.profile is not None  # unchanged
    await stack.change("UPDATE tag_group SET active = false", *(("group", group_id, None) for group_id in group_ids))
    await eventually(lambda: known.inactive_level() == "tg_inactive", deadline_s=1)
    assert stack.catalogue.stale is None


async def test_an_unanswered_look_up_is_no_absence(postgres: Any, database: str, connection: asyncpg.Connection) -> None:
    async with TcpProxy(postgres.port) as proxy:
        pool = await session.make_pool(postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port), 2)
        stack = Stack(database, pool, connection, deadline_s=0.4)
        assert await stack.look(REFS[0]) is not None
        proxy.stall()
        for _ in range(3):
            answers = await asyncio.gather(*(stack.fetch(ref) for ref in (REFS[1], b"absent00", references.by_cuid("acme", "x"))))
            assert {scan.error for scan, _ in answers} == {"unavailable"}
        assert stack.catalogue.find(REFS[0]) is not None
        proxy.flow()

        async def found() -> bool:
            return (await stack.fetch(REFS[1]))[1] is not None

        await eventually(found)
        proxy.refusing = True
        proxy.cut()
        assert (await stack.failure(REFS[2]))[0] == "unavailable"
        pool.terminate()


async def test_a_catalogue_that_hears_nothing_is_stale(
    postgres: Any, database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the network swallows only one connection while the others keep working."""
    monkeypatch.setattr(change_follower, "STALE_AFTER_S", 0.5)
    monkeypatch.setattr(limits, "STATEMENT_TIMEOUT_MS", 200)
    async with TcpProxy(postgres.port) as proxy:
        pool = await session.make_pool(postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port), 1)
        stack = Stack(database, pool, connection)
        assert stack.catalogue.stale == "starting"
        await stack.follow(poll_interval_s=0.1)
        proxy.stall()
        await eventually(lambda: stack.catalogue.stale == "catalogue_stale")
        proxy.flow()
        await eventually(lambda: stack.catalogue.stale is None)
        assert stack.follower is not None
        await stack.follower.stop()
        pool.terminate()


async def test_a_strange_schema_is_not_served(stack: Stack) -> None:
    await stack.change("INSERT INTO schema_migration VALUES (9999, '9999_pre_future.sql', '')")
    stack.follower = ChangeFollower(
        PostgresChangeSource(stack.dsn, stack.pool), stack.catalogue, stack.meters, poll_interval_s=0.05
    )
    stack.follower.start()
    await eventually(lambda: stack.catalogue.stale == "schema_mismatch")
    await stack.change("DELETE FROM schema_migration WHERE number = 9999")
    await eventually(lambda: stack.catalogue.stale is None)
