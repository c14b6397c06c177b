"""Announcements of open keys: made when they change, renewed, withdrawn, and expired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import eventually

from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.store import key_holders
from ixfast.store.connections import session
from ixfast.store.key_holders import Holder, KeyAnnouncer

ONE, TWO = KeyEncryptionKey(bytes([1]) * 32), KeyEncryptionKey(bytes([2]) * 32)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Any]:
    made = await session.make_pool(database, 2)
    yield made
    made.terminate()


class Announcing:
    """A worker that announces while this is entered."""

    def __init__(self, pool: Any, keys: KeyEncryptionKeys, worker: int = 0, server: str = "s") -> None:
        self.announcer = KeyAnnouncer(pool, keys, server=server, worker=worker, key_file=Path("/etc/ixfast/kek"))

    async def __aenter__(self) -> KeyAnnouncer:
        self.task = asyncio.create_task(self.announcer.run())
        return self.announcer

    async def __aexit__(self, *_exception: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def opened(connection: Any) -> list[tuple[set[str], set[str]]]:
    return [(set(each.opens), set(each.seals)) for each in await key_holders.holders(connection)]


async def test_a_change_is_announced_at_once(connection: Any, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_holders, "ANNOUNCE_S", 3600.0)
    keys = KeyEncryptionKeys([ONE])
    async with Announcing(pool, keys) as announcer:
        await eventually(lambda: opened(connection))
        assert await opened(connection) == [({ONE.id}, {ONE.id})]
        keys.adopt([TWO.id, ONE.id], {ONE.id: ONE})  # the current one is not open yet
        announcer.changed()

        async def shows(expected: Any) -> bool:
            return await opened(connection) == expected

        await eventually(lambda: shows([({ONE.id}, {TWO.id})]))
        keys.adopt([TWO.id, ONE.id], {ONE.id: ONE, TWO.id: TWO})
        announcer.changed()
        await eventually(lambda: shows([({ONE.id, TWO.id}, {TWO.id})]))


async def test_a_server_has_what_all_its_workers_have(connection: Any, pool: Any) -> None:
    async with (
        Announcing(pool, KeyEncryptionKeys([TWO, ONE]), 0),
        Announcing(pool, KeyEncryptionKeys([ONE]), 1),
        Announcing(pool, KeyEncryptionKeys([TWO]), 0, server="t"),
    ):

        async def all_there() -> list[Holder] | None:
            found = await key_holders.holders(connection)
            return found if sum(each.workers for each in found) == 3 else None

        found = {each.workers: each for each in await eventually(all_there)}
        assert (found[2].opens, found[2].seals) == ({ONE.id}, {ONE.id, TWO.id})
        assert (found[1].opens, found[1].seals) == ({TWO.id}, {TWO.id})


async def test_a_worker_that_ends_withdraws_and_one_that_is_gone_expires(connection: Any, pool: Any) -> None:
    for worker in (0, 1):
        async with Announcing(pool, KeyEncryptionKeys([ONE]), worker):
            await eventually(lambda: opened(connection))
        if worker == 0:
            await KeyAnnouncer(pool, KeyEncryptionKeys([ONE]), server="s", worker=0, key_file=Path("kek")).withdraw()
            assert await opened(connection) == []
    aged = "UPDATE key_holder SET at = now() - make_interval(secs => $1)"
    await connection.execute(aged, key_holders.EXPIRES_S - 10)
    assert await opened(connection) != []
    await connection.execute(aged, key_holders.EXPIRES_S + 1)
    assert await opened(connection) == []


async def test_an_announcement_is_renewed_and_old_ones_are_deleted(
    connection: Any, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_holders, "ANNOUNCE_S", 0.02)
    ancient = "INSERT INTO key_holder VALUES ('gone', 0, 'h', NULL, 'kek', '{}', NULL, now() - interval '25 hours')"
    await connection.execute(ancient)
    async with Announcing(pool, KeyEncryptionKeys([ONE])):
        await eventually(lambda: opened(connection))
        await connection.execute("UPDATE key_holder SET at = now() - interval '1 hour'")
        await eventually(lambda: opened(connection))
        assert await connection.fetchval("SELECT count(*) FROM key_holder") == 1


async def test_announcing_goes_on_after_the_database_was_away(
    connection: Any, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_holders, "_RETRY_S", 0.02)
    await connection.execute("ALTER TABLE key_holder RENAME TO elsewhere")
    async with Announcing(pool, KeyEncryptionKeys([ONE])) as announcer:
        await eventually(lambda: announcer._reason == "schema_mismatch")
        await connection.execute("ALTER TABLE elsewhere RENAME TO key_holder")
        await eventually(lambda: opened(connection))
