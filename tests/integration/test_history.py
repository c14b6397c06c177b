"""Which history of the database is followed: failovers that lose changes and restores in place change it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import eventually
from support.followed_ledger import TrustingSource, followed_ledger
from support.ledger_kit import ADVANCED, REPLAYED, open_ledger, open_truth, word
from support.replication import Replicated, replicated

from ixfast import meters
from ixfast.domain.scan import Scan
from ixfast.embedded import EmbeddedPostgres
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.store.admin import edits
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.catalogue.change_follower import ChangeFollower, Known
from ixfast.store.catalogue.change_source import Reading
from ixfast.store.connections import session
from ixfast.store.connections.history import History, HistoryChangedError
from ixfast.store.migrate import migrate
from ixfast.store.queries import load
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(6300, 5)
KEKS = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
REFS = [FLEET.xuid(index).encode() for index in range(5)]
NEVER_S = 3600.0
QUICK = {"fsync": "off"}
BACK_S = 30.0
GAP_ACTS = 6


class CountingSource(TrustingSource):
    """Counts the answered readings; receives no notifications."""

    answered = 0

    async def read(self, known: int | None) -> Reading:
        reading = await super().read(known)
        self.answered += 1
        return reading

    async def listen(self, wake: Any) -> None:
        await asyncio.Event().wait()


class Followed:
    """A catalogue that follows a database by polling, without notifications."""

    def __init__(self, dsn: str, pool: Any, *, poll_interval_s: float) -> None:
        self.dsn = dsn
        self.meters = Meters()
        self.catalogue = Catalogue(pool, KEKS, self.meters, tags_max=100, absent_max=100, deadline_s=3.0)
        self.history = History()
        self.source = CountingSource(dsn, pool)
        self.follower = ChangeFollower(
            self.source, self.catalogue, self.meters, history=self.history, poll_interval_s=poll_interval_s
        )

    @property
    def history_changes(self) -> int:
        return int(self.meters.slots[meters.HISTORY_CHANGES])

    async def looks(self, times: int = 1) -> None:
        """Poll this many times and wait until the results are applied, because the next reading begins after that. A reading
        that is already under way does not count."""
        enough = self.source.answered + times + 2

        def read() -> bool:
            self.follower.look()
            return self.source.answered >= enough and self.catalogue.stale is None

        await eventually(read, BACK_S)

    async def is_active(self, index: int) -> bool:
        """Whether the tag is active as a scan would see it: cached or looked up."""
        record = self.catalogue.find(REFS[index])
        if record is None:
            found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            scan = Scan(lambda _: None, REFS[index], -1, None, None, 1, asyncio.get_running_loop().time())
            self.catalogue.fetch(scan, REFS[index], lambda _, record: found.set_result(record))
            record = await found
            assert scan.error is None, scan.error_detail
        return bool(record.active)


@asynccontextmanager
async def followed(dsn: str, *, poll_interval_s: float = 0.05) -> AsyncIterator[Followed]:
    pool = await session.make_pool(dsn, 4)
    stack = Followed(dsn, pool, poll_interval_s=poll_interval_s)
    stack.follower.start()
    try:
        await eventually(lambda: stack.catalogue.stale is None)
        yield stack
    finally:
        await stack.follower.stop()
        pool.terminate()


async def act(dsn: str, *statements: str) -> None:
    """Perform management acts, each as a change of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            async with connection.transaction():
                await connection.execute(statement)
                await edits.changed(connection, ("tag", 0, FLEET.xuid(4)))
    finally:
        await connection.close()


async def switch_off(dsn: str, index: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            tag_id = await connection.fetchval(
                "UPDATE tag SET active = false WHERE xuid = $1 RETURNING tag_id", FLEET.xuid(index)
            )
            await edits.changed(connection, ("tag", tag_id, FLEET.xuid(index)))
    finally:
        await connection.close()


async def prepare(dsn: str) -> None:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await provision(connection, KEKS, [FLEET])
    finally:
        await connection.close()


# A failover.


@pytest.fixture
def pair(server_dir: Path) -> Iterator[Replicated]:
    with replicated(server_dir, settings=QUICK) as servers:
        yield servers


async def lossy_failover(pair: Replicated, stack: Followed) -> None:
    """Lose more changes than are made afterwards."""
    await asyncio.to_thread(pair.catch_up)
    await asyncio.to_thread(pair.hold_back)
    await switch_off(pair.dsn, 1)
    await act(pair.dsn, *["SELECT 1"] * GAP_ACTS)
    await stack.looks()
    assert not await stack.is_active(1)
    pair.kill_primary()
    await asyncio.to_thread(pair.promote)


async def test_after_a_lossy_failover_everything_is_read_again(pair: Replicated) -> None:
    await prepare(pair.dsn)
    async with followed(pair.dsn) as stack:
        before = stack.history.followed
        assert [await stack.is_active(index) for index in range(5)] == [True] * 5
        record = stack.catalogue.find(REFS[2])
        assert record is not None
        record.floor = 1 << 40
        await lossy_failover(pair, stack)
        await eventually(lambda: stack.history_changes, BACK_S)
        await switch_off(pair.dsn, 0)
        await stack.looks()
        assert [await stack.is_active(index) for index in range(5)] == [False, True, True, True, True]
        again = stack.catalogue.find(REFS[2])
        assert again is not None and again.floor < 1 << 40
        assert stack.history.followed != before
        assert stack.history_changes == 1


async def test_by_numbers_alone_what_was_switched_off_would_go_on_passing(
    pair: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control for the test above."""
    monkeypatch.setattr(Known, "is_continued_by", lambda _self, _reading: True)
    monkeypatch.setattr(ChangeFollower, "_begin_anew", ChangeFollower._take_over_changes)
    await prepare(pair.dsn)
    async with followed(pair.dsn) as stack:
        assert await stack.is_active(0)
        await lossy_failover(pair, stack)
        await switch_off(pair.dsn, 0)
        await stack.looks(20)
        assert await stack.is_active(0)


async def test_a_failover_that_lost_nothing_is_followed_too(server_dir: Path) -> None:
    with replicated(server_dir, synchronous=True, settings=QUICK) as pair:
        await prepare(pair.dsn)
        async with followed(pair.dsn) as stack:
            await switch_off(pair.dsn, 0)
            await stack.looks()
            pair.kill_primary()
            await asyncio.to_thread(pair.promote)
            await switch_off(pair.dsn, 1)
            await stack.looks()
            assert [await stack.is_active(index) for index in range(3)] == [False, False, True]
            assert stack.history_changes == 1


# A restore in place: the same system, the same timeline.


class Restorable:
    """A server with a backup of its files."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self.backup = server.home / "backup"

    def back_up(self) -> None:
        self.server.stop()
        subprocess.run(["cp", "-a", str(self.server.cluster), str(self.backup)], check=True)
        self.server.start()

    def restore(self) -> None:
        self.server.stop()
        shutil.rmtree(self.server.cluster)
        self.backup.rename(self.server.cluster)
        self.server.start()


@pytest.fixture
def restorable(server_dir: Path) -> Iterator[Restorable]:
    with EmbeddedPostgres(server_dir, settings={"max_wal_size": "64MB", "min_wal_size": "32MB"}) as server:
        yield Restorable(server)


FLUSHED = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint"


@pytest.mark.parametrize("acts", [0, 3, 9], ids=["fewer changes", "as many changes", "more changes"])
async def test_a_restore_in_place_is_noticed(restorable: Restorable, acts: int) -> None:
    """Even if, before the next poll, the restored server has written more WAL and counted as many changes or more."""
    dsn = restorable.server.dsn
    await prepare(dsn)
    await asyncio.to_thread(restorable.back_up)
    async with followed(dsn, poll_interval_s=NEVER_S) as stack:
        assert [await stack.is_active(index) for index in range(3)] == [True] * 3
        await act(dsn, *["SELECT 1"] * 2)
        await switch_off(dsn, 1)
        await stack.looks()
        assert not await stack.is_active(1)
        assert stack.history_changes == 0
        followed_before, known = stack.history.followed, stack.follower._known
        assert known is not None
        await asyncio.to_thread(restorable.restore)
        if acts:
            await act(dsn, *["SELECT 1"] * (acts - 1))
            await switch_off(dsn, 2)
            await outwrite(dsn, known.flushed)
        await stack.looks()
        assert stack.history.followed == followed_before
        assert stack.history_changes == 1
        assert [await stack.is_active(index) for index in range(3)] == [True, True, not acts]


async def outwrite(dsn: str, flushed: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE filler (text text)")
        while await connection.fetchval(FLUSHED) <= flushed:
            await connection.execute("INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
    finally:
        await connection.close()


async def test_a_restart_and_a_crash_are_the_same_history(restorable: Restorable) -> None:
    dsn = restorable.server.dsn
    await prepare(dsn)
    async with followed(dsn) as stack:
        for again in (restorable.server.restart, restorable.server.kill9, restorable.server.kill9):
            await act(dsn, "SELECT 1")
            await stack.looks()
            await asyncio.to_thread(again)
            await asyncio.to_thread(restorable.server.start)
            await stack.looks()
        assert stack.history_changes == 0


# Ledger sessions.


async def test_the_ledger_commits_into_the_followed_history_alone(database: str) -> None:
    history = History()
    looked: list[bool] = []
    history.on_suspicion(lambda: looked.append(True))
    async with open_truth(database, 5) as truth, open_ledger(database, history=history, deadline_s=1.0) as kit:
        await eventually(lambda: kit.ledger.connected)
        assert await kit.word(1, 1) == ADVANCED
        committer = kit.ledger._committers[0]
        real = committer._session.history
        history.follow("7000000000000000000/00000002")
        assert await kit.word(1, 2) == "unavailable:history_changed"
        assert kit.ledger.failure == "history_changed" and not kit.ledger.connected
        assert looked
        history.follow(real)
        assert await kit.word(1, 2) == ADVANCED
        assert await kit.word(1, 2) == REPLAYED
        assert await truth.counter(1) == (2, 1, 2)


async def test_a_connection_to_an_earlier_timeline_is_not_used(database: str) -> None:
    """As when a lost primary comes back at the same address."""
    history = History()
    pool = await session.make_pool(database, 2, check_history=history.check_not_behind)
    try:
        own = await pool.fetchval(load("session")["history"])
        system, _, timeline = own.partition("/")
        history.follow(f"{system}/{int(timeline, 16) + 1:08X}")
        await pool.expire_connections()
        with pytest.raises(HistoryChangedError, match="Stop that server"):
            await pool.fetchval("SELECT 1")
        for followed in (own, "7000000000000000000/00000009"):  # a restore may have created another system
            history.follow(followed)
            assert await pool.fetchval("SELECT 1") == 1
    finally:
        pool.terminate()


async def test_a_lost_reply_from_before_a_lossy_failover_is_sent_to_the_followed_history(pair: Replicated) -> None:
    """The scan passes once in the surviving history, whatever happened to it in the lost one."""
    await prepare(pair.dsn)
    async with followed_ledger(pair.dsn, deadline_s=BACK_S, source_kind=TrustingSource) as ledger:
        async with open_truth(pair.dsn) as truth:
            (tag_id,) = await truth.connection.fetchrow("SELECT min(tag_id) FROM tag_counter")
        assert await ledger.word(tag_id, 1) == ADVANCED
        await asyncio.to_thread(pair.catch_up)
        await asyncio.to_thread(pair.hold_back)
        assert await ledger.word(tag_id, 2) == ADVANCED
        pair.kill_primary()
        waiting = ledger.submit(tag_id, 3)
        await asyncio.to_thread(pair.promote)
        assert word(await waiting) == ADVANCED
        assert ledger.history_changes == 1
        assert await ledger.word(tag_id, 3) == REPLAYED
        async with open_truth(pair.dsn) as truth:
            assert await truth.log() == [(tag_id, 1), (tag_id, 3)]
