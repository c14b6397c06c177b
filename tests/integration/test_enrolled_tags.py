"""Tags created by their first genuine tap: only by that, only once, and never in place of a deleted tag."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support import eventually
from test_derived_groups import OLD, Stack

from ixfast import limits, meters
from ixfast.domain import references
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import Scan, position
from ixfast.keys import KeyEncryptionKeys
from ixfast.keys.diversify import An10922, BoltCard, SdmBackendLegacy
from ixfast.store.catalogue.catalogue import Change
from ixfast.store.connections import session
from ixfast.store.queries import load
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

PLAIN = VirtualFleet(1, 400, "plain-uid-counter", account="shop", derivation=An10922(), enrols=True)
ENCRYPTED = VirtualFleet(2, 4, "encrypted", account="shop", derivation=BoltCard(), enrols=True)
LEGACY = VirtualFleet(3, 4, "encrypted", account="shop", derivation=SdmBackendLegacy(), enrols=True)
REGISTERED = VirtualFleet(4, 3, "plain-joined", account="shop")
AT_ONCE = 64


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database)
    await provision(opened, KeyEncryptionKeys([OLD]), [PLAIN, ENCRYPTED, LEGACY, REGISTERED])
    yield opened
    await opened.close()


@pytest.fixture
async def stacks(database: str, connection: Any) -> AsyncIterator[list[Stack]]:
    pools = [await session.make_pool(database, 4) for _ in range(2)]
    made = [Stack(database, pool) for pool in pools]
    yield made
    for stack, pool in zip(made, pools, strict=True):
        await stack.ledger.stop()
        await pool.close()


async def tags(connection: Any, tag: VirtualTag) -> list[tuple[int, int, int]]:
    """The tags with this UID: id, and scan count and position of the counter row."""
    rows = await connection.fetch(
        "SELECT tag_id, scan_count, last_position FROM tag LEFT JOIN tag_counter USING (tag_id) WHERE uid = $1", tag.uid
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("fleet", [PLAIN, ENCRYPTED, LEGACY], ids=lambda fleet: str(fleet.derivation))
async def test_a_genuine_tap_makes_its_tag_and_passes_once(stacks: list[Stack], connection: Any, fleet: VirtualFleet) -> None:
    stack, tag = stacks[0], fleet[1]
    assert await stack.verdict(tag.forged("flipped_bit")) == "unknown"
    assert await stack.verdict(tag.forged("wrong_key")) == "unknown"
    assert await tags(connection, tag) == []
    url = tag.tap()
    assert await stack.verdict(url, peek=True) == "unknown"
    assert await tags(connection, tag) == []
    assert [await stack.verdict(url) for _ in range(2)] == ["genuine", "replayed"]
    ((tag_id, count, last),) = await tags(connection, tag)
    assert (count, last) == (1, position(1, tag.counter))
    row = await connection.fetchrow(
        "SELECT t.*, b.name AS batch FROM tag AS t JOIN batch AS b USING (batch_id) WHERE tag_id = $1", tag_id
    )
    assert len(row["xuid"]) == 16 and row["batch"] == "First" and row["cuid"] is None
    acts = await connection.fetch("SELECT act, api_key_id, after FROM audit_log WHERE object_id = $1", row["xuid"])
    assert [(act["act"], act["api_key_id"]) for act in acts] == [("enrol", None)] and tag.uid.hex().upper() in acts[0]["after"]
    assert stack.meters.slots[meters.TAGS_ENROLLED] == 1
    assert await connection.fetchval("SELECT count(*) FROM tag_key WHERE tag_id = $1", tag_id) == 0


async def test_a_tap_by_uid_counter_and_code_enrols(stacks: list[Stack], connection: Any) -> None:
    """The scan that `/v1/t?u=…&a=…&n=…&e=…` submits."""
    tag, loop = PLAIN[2], asyncio.get_running_loop()
    own = tag.profile.read_url(tag.tap())
    done: asyncio.Future[Scan] = loop.create_future()
    stacks[0].engine.submit(Scan(done.set_result, references.by_uid("shop", tag.uid), own.counter, own.mac, None, 7, loop.time()))  # type: ignore[union-attr]
    assert (await done).verdict == "genuine"
    assert len(await tags(connection, tag)) == 1


async def test_first_taps_at_once_make_one_tag_and_pass_once(stacks: list[Stack], connection: Any) -> None:
    for tag in (PLAIN[3], ENCRYPTED[3], LEGACY[3]):
        url = tag.tap()
        verdicts = await asyncio.gather(*(stacks[i % 2].verdict(url) for i in range(AT_ONCE)))
        assert sorted(verdicts) == ["genuine"] + ["replayed"] * (AT_ONCE - 1)
        ((tag_id, count, _),) = await tags(connection, tag)
        assert count == 1
        assert await connection.fetchval("SELECT count(*) FROM scan_log WHERE tag_id = $1 AND verdict = 'g'", tag_id) == 1


async def test_without_the_unique_index_first_taps_at_once_would_pass_twice(stacks: list[Stack], connection: Any) -> None:
    """The control for the test above."""
    await connection.execute("DROP INDEX tag_uid")
    for stack in stacks:
        sql = stack.register._sql["enrol"].replace("ON CONFLICT (account_id, uid) WHERE uid IS NOT NULL DO NOTHING", "")
        stack.register._sql = {**stack.register._sql, "enrol": sql}
    url = PLAIN[3].tap()
    await asyncio.gather(*(stack.catalogue.account("shop") for stack in stacks))
    blocker = connection.transaction()
    await blocker.start()
    await connection.execute("LOCK TABLE tag IN SHARE MODE")  # both are about to create it
    asked = [asyncio.create_task(stack.verdict(url)) for stack in stacks]
    await eventually(lambda: all(stack.register._task is not None for stack in stacks), 10)
    await blocker.rollback()
    await asyncio.gather(*asked)
    assert len(await tags(connection, PLAIN[3])) == 2


async def test_many_tags_at_once_in_opposite_orders(stacks: list[Stack], connection: Any) -> None:
    urls = [PLAIN[i].tap_at(1) for i in range(100, 400)]
    verdicts = await asyncio.gather(
        *(stacks[0].verdict(url) for url in urls), *(stacks[1].verdict(url) for url in reversed(urls))
    )
    assert sorted(verdicts) == ["genuine"] * len(urls) + ["replayed"] * len(urls)
    assert await connection.fetchval("SELECT count(*) FROM tag") == len(urls) + len(REGISTERED)
    assert await connection.fetchval("SELECT count(*) FROM tag_counter WHERE scan_count = 1") == len(urls)


async def test_a_worker_that_takes_the_tag_for_absent_finds_it(stacks: list[Stack], connection: Any) -> None:
    tag = PLAIN[5]
    assert await stacks[1].verdict(tag.forged()) == "unknown"  # cached as absent for a few seconds
    assert await stacks[0].verdict(tag.tap()) == "genuine"
    assert await stacks[1].verdict(tag.tap()) == "genuine"
    assert await stacks[1].verdict(tag.tap_at(tag.counter)) == "replayed"
    assert len(await tags(connection, tag)) == 1


async def test_who_may_not_scan_may_not_enrol(stacks: list[Stack], connection: Any) -> None:
    stack, tag = stacks[0], PLAIN[6]
    account_id = await connection.fetchval("SELECT account_id FROM account")
    own, other = (ApiKey(1, i, "shop", frozenset({"scan"}), "", None) for i in (account_id, account_id + 1))
    assert await stack.verdict(tag.tap(), api_key=other) == "unknown"
    await connection.execute("UPDATE account SET open = false")
    await stack.catalogue.apply([Change("account", account_id, None)])
    assert await stack.verdict(tag.tap()) == "unknown"
    assert await tags(connection, tag) == []
    assert await stack.verdict(tag.tap(), api_key=own) == "genuine"


async def test_what_is_switched_off_enrols_nothing(stacks: list[Stack], connection: Any) -> None:
    stack, tag = stacks[0], PLAIN[7]
    changes = [Change("all", None, None)]
    for off, on in (
        ("UPDATE tag_group SET enrols = false", "UPDATE tag_group SET enrols = derivation IS NOT NULL"),
        ("UPDATE tag_group SET active = false", "UPDATE tag_group SET active = true"),
        ("UPDATE folder SET active = false", "UPDATE folder SET active = true"),
        ("UPDATE account SET active = false", "UPDATE account SET active = true"),
    ):
        await connection.execute(off)
        await stack.catalogue.apply(changes)
        assert await stack.verdict(tag.tap()) == "unknown", off
        assert await tags(connection, tag) == []
        await connection.execute(on)
        await stack.catalogue.apply(changes)
    assert await stack.verdict(tag.tap()) == "genuine"


async def test_switched_off_while_a_worker_has_not_heard_of_it(stacks: list[Stack], connection: Any) -> None:
    stack, tag = stacks[0], PLAIN[8]
    assert await stack.verdict(PLAIN[9].tap()) == "genuine"
    await connection.execute("UPDATE tag_group SET enrols = false")
    assert await stack.verdict(tag.tap()) == "unknown"
    assert await tags(connection, tag) == []


async def delete(connection: Any, stack: Stack, tag: VirtualTag) -> None:
    row = await connection.fetchrow("SELECT tag_id, xuid FROM tag WHERE uid = $1", tag.uid)
    await connection.execute(load("management")["delete_tag"], row["tag_id"])
    await stack.catalogue.apply([Change("tag", row["tag_id"], row["xuid"])])


async def test_a_deleted_tag_is_not_made_again(stacks: list[Stack], connection: Any) -> None:
    stack, tag = stacks[0], PLAIN[10]
    url = tag.tap()
    assert await stack.verdict(url) == "genuine"
    await delete(connection, stack, tag)
    assert [await stack.verdict(each) for each in (url, tag.tap())] == ["unknown"] * 2
    assert await tags(connection, tag) == []


@pytest.mark.parametrize("withdraws", [True, False], ids=["as it is", "a control: without looking again"])
async def test_a_deletion_that_is_under_way_counts(stacks: list[Stack], connection: Any, withdraws: bool) -> None:
    stack, tag = stacks[1], PLAIN[11]
    url = tag.tap()
    assert await stacks[0].verdict(url) == "genuine"
    if not withdraws:
        stack.register._sql = {**stack.register._sql, "withdraw_deleted": "SELECT $1::bigint[]"}
    transaction = connection.transaction()
    await transaction.start()
    await delete(connection, stacks[0], tag)
    enrolling = asyncio.create_task(stack.register.enrol(*(await place(stacks[0], tag))))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await eventually(lambda: stacks[0].pool.fetchval(waiting), 10)
    await transaction.commit()
    await enrolling
    assert (await stack.verdict(url) == "genuine") is not withdraws  # a second pass if the tag was created again


async def place(stack: Stack, tag: VirtualTag) -> tuple[int, int, bytes]:
    named = "plain-uid-counter-an10922"
    sql = "SELECT f.account_id, g.group_id FROM tag_group AS g JOIN folder AS f USING (folder_id) WHERE g.name = $1"
    row = await stack.pool.fetchrow(sql, named)
    return row["account_id"], row["group_id"], tag.uid


async def test_what_cannot_be_made_now_is_unanswered_and_never_unknown(stacks: list[Stack], connection: Any) -> None:
    stack, tag = stacks[0], PLAIN[12]
    await stack.catalogue.account("shop")
    sql = stack.register._sql
    stack.register._sql = {**sql, "complete": "SELECT 1 / 0 FROM tag WHERE tag_id = ANY ($1::bigint[])"}
    url = tag.tap()
    assert (await stack.verdict(url)).startswith("unavailable ")
    assert await tags(connection, tag) == []
    stack.register._sql = sql
    assert await stack.verdict(url) == "genuine"


async def test_too_much_at_once_is_refused_for_now(stacks: list[Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    stack, registered = stacks[0], REGISTERED[0]
    assert await stack.verdict(registered.tap()) == "genuine"
    monkeypatch.setattr(limits, "ENROLMENTS_WAITING_MAX", 0)
    assert await stack.verdict(PLAIN[13].tap()) == "overloaded enrolment_queue_full"
    assert await stack.verdict(registered.tap()) == "genuine"
    monkeypatch.undo()
    monkeypatch.setattr(limits, "ENROLMENT_DERIVATIONS_MAX", 0)
    assert await stack.verdict(LEGACY[2].tap()) == "overloaded enrolment_queue_full"
    monkeypatch.undo()
    assert await stack.verdict(LEGACY[2].tap()) == "genuine"


async def test_an_account_that_enrols_nothing_pays_nothing(stacks: list[Stack], monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stacks[0]
    assert stack.catalogue.may_enrol("elsewhere")  # not known yet
    assert await stack.verdict(REGISTERED[0].tap()) == "genuine"
    assert stack.catalogue.may_enrol("shop") and not stack.catalogue.may_enrol("elsewhere")
    scan = Scan(lambda _scan: None, references.by_uid("elsewhere", bytes(7)), 1, bytes(8), None, 1, 0.0)
    assert not stack.enrolment.takes(scan)
    scan.ref = PLAIN.xuid(0).encode()
    assert not stack.enrolment.takes(scan)
