"""Sealing every envelope anew, in a real database: completely, again after an interruption, and beside imports."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support import eventually

from ixfast.errors import ConfigurationError
from ixfast.keys import KekFileError, KeyEncryptionKey, KeyEncryptionKeys, KeySlot, check_value, unwrap, wrap
from ixfast.store.admin import edits, rotation
from ixfast.store.admin.edits import NewTag
from ixfast.store.connections.fitness import Fitness
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

OLD, NEW = KeyEncryptionKey(bytes([1]) * 32), KeyEncryptionKey(bytes([2]) * 32)
BEFORE = KeyEncryptionKeys([OLD])
DURING = KeyEncryptionKeys([NEW, OLD])
PLAIN = VirtualFleet(1, 60, "ixkio-plain", account="acme")
ENCRYPTED = VirtualFleet(2, 7, "encrypted", account="acme")


def nothing(_count: int) -> None: ...


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database)
    await provision(opened, BEFORE, [PLAIN, ENCRYPTED])
    yield opened
    await opened.close()


async def held_keys(connection: Any, keks: KeyEncryptionKeys) -> dict[str, bytes]:
    """The file keys by tag code, as a worker opens them."""
    rows = await connection.fetch("SELECT * FROM tag_key JOIN tag USING (tag_id)")
    return {
        row["xuid"]: unwrap(
            keks.by_id(row["kek_id"]),
            row["wrapped"],
            account_id=row["account_id"],
            tag_id=row["tag_id"],
            slot=row["slot"],
            version=row["version"],
        )
        for row in rows
    }


async def ids_in(connection: Any) -> set[str]:
    return set(await rotation.usage(connection))


async def test_everything_is_sealed_anew_and_holds_the_same_keys(connection: Any) -> None:
    assert await rotation.usage(connection) == {OLD.id: rotation.Usage(67, 1)}
    steps: list[int] = []
    report = await rotation.reseal_all(connection, DURING, advanced=steps.append, batch_rows=10)
    assert (report.resealed, report.opened, report.unreadable_count, sum(steps), max(steps)) == (68, 68, 0, 68, 10)
    assert await rotation.usage(connection) == {NEW.id: rotation.Usage(67, 1)}
    only_new = KeyEncryptionKeys([NEW])
    wanted = {fleet.xuid(i): fleet.file_key(i) for fleet in (PLAIN, ENCRYPTED) for i in range(len(fleet))}
    assert await held_keys(connection, only_new) == wanted
    row = await connection.fetchrow("SELECT * FROM meta_key")
    place = {"account_id": row["account_id"], "tag_id": 0, "slot": KeySlot.META, "version": row["version"]}
    assert unwrap(NEW, row["wrapped"], **place) == ENCRYPTED.meta_key
    again = await rotation.reseal_all(connection, DURING, advanced=nothing)
    assert (again.resealed, again.opened) == (0, 0)


async def test_a_rotation_that_was_cut_goes_on(connection: Any) -> None:
    class CutError(Exception): ...

    def cut(_count: int) -> None:
        raise CutError

    with pytest.raises(CutError):
        await rotation.reseal_all(connection, DURING, advanced=cut, batch_rows=20)
    assert await rotation.usage(connection) == {OLD.id: rotation.Usage(47, 1), NEW.id: rotation.Usage(20, 0)}
    report = await rotation.reseal_all(connection, DURING, advanced=nothing, batch_rows=20)
    assert report.resealed == 48
    assert await ids_in(connection) == {NEW.id}


async def test_examining_changes_nothing_and_looks_at_everything(connection: Any) -> None:
    await rotation.reseal_all(connection, DURING, advanced=nothing)
    before = await connection.fetch("SELECT * FROM tag_key ORDER BY tag_id")
    tag_id = before[5]["tag_id"]
    await connection.execute("UPDATE tag_key SET kek_id = $1 WHERE tag_id = $2", OLD.id, tag_id)
    report = await rotation.examine_all(connection, DURING, advanced=nothing)
    assert (report.opened, report.resealed, [each.tag_id for each in report.unreadable]) == (67, 0, [tag_id])
    await connection.execute("UPDATE tag_key SET kek_id = $1 WHERE tag_id = $2", NEW.id, tag_id)
    assert await connection.fetch("SELECT * FROM tag_key ORDER BY tag_id") == before


async def test_unreadable_envelopes_are_reported_and_left_unchanged_while_the_others_go_on(connection: Any) -> None:
    rows = await connection.fetch("SELECT * FROM tag_key ORDER BY tag_id LIMIT 10")
    ids = [row["tag_id"] for row in rows]
    update = "UPDATE tag_key SET wrapped = $1 WHERE tag_id = $2"
    await connection.execute(update, rows[1]["wrapped"], ids[0])  # swapped
    await connection.execute(update, rows[0]["wrapped"], ids[1])
    altered = bytearray(rows[2]["wrapped"])
    altered[-1] ^= 1
    await connection.execute(update, bytes(altered), ids[2])
    await connection.execute(update, rows[3]["wrapped"][:-1], ids[3])
    await connection.execute("UPDATE tag_key SET kek_id = $1 WHERE tag_id = $2", "f" * 16, ids[4])
    await connection.execute("UPDATE tag_key SET version = 9 WHERE tag_id = $1", ids[5])
    account_id = await connection.fetchval("SELECT account_id FROM account")
    other = bytes(16)
    place = {"account_id": account_id, "tag_id": ids[6], "slot": KeySlot.FILE, "version": 1}
    await connection.execute(update, wrap(OLD, other, **place), ids[6])  # opens, but is not the key that was imported
    await connection.execute("UPDATE tag SET account_id = account_id + 1 WHERE tag_id = $1", ids[7])  # moved with its row
    await connection.execute("DELETE FROM tag WHERE tag_id = $1", ids[8])
    await connection.execute("UPDATE meta_key SET wrapped = $1", rows[9]["wrapped"])
    before = await connection.fetch("SELECT * FROM tag_key WHERE tag_id = ANY ($1) ORDER BY tag_id", ids[:9])
    report = await rotation.reseal_all(connection, DURING, advanced=nothing, batch_rows=4)
    assert [each.tag_id for each in report.unreadable] == [*ids[:9], 0]
    assert report.unreadable_count == 10
    assert report.resealed == 67 - 9
    assert await connection.fetch("SELECT * FROM tag_key WHERE tag_id = ANY ($1) ORDER BY tag_id", ids[:9]) == before
    words = [str(each) for each in report.unreadable]
    assert words[0].startswith(f"tag {ids[0]}, slot 2, version 1: The envelope")
    assert "is not in the key file" in words[4]
    assert "does not match its check value" in words[6]
    assert "the tag does not exist" in words[8]
    assert words[9].startswith(f"meta key of account {account_id}")


async def test_a_row_that_changed_meanwhile_is_not_overwritten(connection: Any, database: str) -> None:
    tag_id = await connection.fetchval("SELECT max(tag_id) FROM tag_key")
    account_id = await connection.fetchval("SELECT account_id FROM account")
    newer = bytes(range(16))
    place = {"account_id": account_id, "tag_id": tag_id, "slot": KeySlot.FILE, "version": 1}
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    change = "UPDATE tag_key SET wrapped = $1, check_value = $2 WHERE tag_id = $3"
    await other.execute(change, wrap(OLD, newer, **place), check_value(newer), tag_id)
    rotating = asyncio.create_task(rotation.reseal_all(connection, DURING, advanced=nothing))
    watcher = await asyncpg.connect(database)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'"
    await eventually(lambda: watcher.fetchval(waiting), 10)
    await transaction.commit()
    report = await rotating
    assert report.unreadable_count == 0
    assert await ids_in(connection) == {NEW.id}
    row = await connection.fetchrow("SELECT * FROM tag_key WHERE tag_id = $1", tag_id)
    assert unwrap(NEW, row["wrapped"], **place) == newer
    await other.close()
    await watcher.close()


async def test_imports_under_the_old_key_are_found_too(connection: Any, database: str) -> None:
    """A process that loaded its keys before the rotation adds tags in the middle of it."""
    fleet = VirtualFleet(3, 200, "ixkio-plain", account="acme")
    account_id = await connection.fetchval("SELECT account_id FROM account")
    group_id = await connection.fetchval("SELECT min(group_id) FROM tag_group")
    importer = await asyncpg.connect(database)
    tags = [NewTag(fleet.xuid(i), fleet.uid(i), fleet.file_key(i)) for i in range(len(fleet))]

    async def add_all() -> None:
        for start in range(0, len(tags), 20):
            async with importer.transaction():
                await edits.add_tags(importer, BEFORE, account_id, group_id, tags[start : start + 20])

    importing = asyncio.create_task(add_all())
    try:
        while not importing.done():
            await rotation.reseal_all(connection, DURING, advanced=nothing, batch_rows=5)
        await importing
        await rotation.reseal_all(connection, DURING, advanced=nothing)
    finally:
        importing.cancel()
        await asyncio.gather(importing, return_exceptions=True)
        importer.terminate()
    assert await ids_in(connection) == {NEW.id}
    assert len(await held_keys(connection, KeyEncryptionKeys([NEW]))) == 67 + len(fleet)


async def test_only_one_rotation_at_a_time(connection: Any, database: str) -> None:
    await rotation.lock_rotation(connection)
    other = await asyncpg.connect(database)
    with pytest.raises(ConfigurationError, match="Another"):
        await rotation.lock_rotation(other)
    await other.close()


async def test_a_used_key_is_not_removed_and_a_writer_is_waited_for(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    with pytest.raises(KekFileError, match="68 rows are sealed under"):
        await rotation.while_unused(connection, OLD.id, lambda: acts.append("old"))
    await rotation.reseal_all(connection, DURING, advanced=nothing)
    monkeypatch.setattr(rotation, "LOCK_WAIT_MS_MAX", 100)
    writer = await asyncpg.connect(database)
    account_id = await connection.fetchval("SELECT account_id FROM account")
    async with writer.transaction():
        await edits.add_meta_key(writer, BEFORE, account_id, 5, bytes(16))
        with pytest.raises(KekFileError, match="being written, perhaps"):
            await rotation.while_unused(connection, OLD.id, lambda: acts.append("old"))
    with pytest.raises(KekFileError, match="1 rows are sealed under"):
        await rotation.while_unused(connection, OLD.id, lambda: acts.append("old"))
    assert not acts
    await rotation.while_unused(connection, "0" * 16, lambda: acts.append("unused"))
    assert acts == ["unused"]
    await writer.close()


# Retired versions: nothing opens them any more.


async def retire(connection: Any, kek_id: str) -> None:
    """A version of each kind, sealed under this key, and retired."""
    await connection.execute("UPDATE tag_key SET live = false, kek_id = $1 WHERE tag_id = (SELECT min(tag_id) FROM tag)", kek_id)
    await connection.execute("UPDATE meta_key SET live = false, kek_id = $1", kek_id)
    columns, values = "version, live, kek_id, wrapped, check_value", "1, false, $1, '\\x00'::bytea, '\\x000000'::bytea"
    batch = "INSERT INTO batch (group_id, name) SELECT min(group_id), 'B' FROM tag_group RETURNING batch_id"
    add_batch_key = f"INSERT INTO batch_key (batch_id, {columns}) VALUES ($2, {values})"
    await connection.execute(add_batch_key, kek_id, await connection.fetchval(batch))
    group_id = await connection.fetchval("SELECT min(group_id) FROM tag_group")
    await connection.execute(
        f"INSERT INTO group_key (group_id, derivation, {columns}) VALUES ($2, '{{}}', {values})", kek_id, group_id
    )


async def test_retired_versions_under_a_lost_key_do_not_fail_a_rotation(connection: Any) -> None:
    await retire(connection, "f" * 16)
    used = await rotation.usage(connection)
    assert used == {OLD.id: rotation.Usage(66, 0), "f" * 16: rotation.Usage(1, 1 + 1, 1, retired=4)}
    report = await rotation.reseal_all(connection, DURING, advanced=nothing)
    assert (report.resealed, report.unreadable_count, report.unreadable_retired) == (66, 0, 4)
    examined = await rotation.examine_all(connection, DURING, advanced=nothing)
    assert (examined.opened, examined.unreadable, examined.unreadable_retired) == (66, [], 4)
    for table in ("tag_key", "meta_key", "batch_key", "group_key"):  # the control: each matters while it is live
        await connection.execute(f"UPDATE {table} SET live = true WHERE kek_id = $1", "f" * 16)
        assert (await rotation.examine_all(connection, DURING, advanced=nothing)).unreadable_count == 1
        await connection.execute(f"UPDATE {table} SET live = false WHERE kek_id = $1", "f" * 16)


async def test_retired_versions_do_not_keep_a_key_in_the_file(connection: Any) -> None:
    await rotation.reseal_all(connection, DURING, advanced=nothing)
    await retire(connection, OLD.id)
    acts: list[str] = []
    await rotation.while_unused(connection, OLD.id, lambda: acts.append("removed"))
    assert acts == ["removed"]
    await connection.execute("UPDATE meta_key SET live = true")
    with pytest.raises(KekFileError, match="1 rows are sealed under"):
        await rotation.while_unused(connection, OLD.id, lambda: acts.append("again"))
    assert acts == ["removed"]


class Unrefused:
    """A ledger that can write."""

    failure = None

    def forget_refusal(self) -> None: ...


class OnePool:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def acquire(self, **_options: object) -> Any:
        return self.connection

    async def release(self, _connection: Any, **_options: object) -> None: ...


async def key_problems(connection: Any) -> dict[str, str]:
    """What a worker's own checks find."""
    fitness = Fitness(OnePool(connection), BEFORE, Unrefused())
    await fitness.examine()
    return fitness.problems


async def test_only_live_versions_under_a_lost_key_take_a_worker_out_of_service(connection: Any) -> None:
    await retire(connection, "f" * 16)
    assert await key_problems(connection) == {}
    for table in ("tag_key", "meta_key", "batch_key", "group_key"):
        await connection.execute(f"UPDATE {table} SET live = true WHERE kek_id = $1", "f" * 16)
        assert await key_problems(connection) == {"keys": "key_unavailable"}, table
        await connection.execute(f"UPDATE {table} SET live = false WHERE kek_id = $1", "f" * 16)
    assert await key_problems(connection) == {}
