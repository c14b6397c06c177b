"""Deleted tags that come back in several steps, in any order: no tap that passed before the deletion passes again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import test_derived_groups
from test_management import Answer, open_stack
from test_management import Stack as Management

from ixfast.domain.scan import Extras, Scan, position
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKey
from ixfast.keys.diversify import BoltCard
from ixfast.store.admin import deleted_tags
from ixfast.store.connections import session
from ixfast.store.imports import import_plan
from ixfast.store.imports.importer import import_tags
from ixfast.testing.virtual_tags import VirtualFleet

TAG = VirtualFleet(31, 2, "encrypted", account="mine")[0]
META = VirtualFleet(31, 2, "encrypted", account="mine").meta_key.hex()
CARDS = VirtualFleet(32, 2, "encrypted", account="mine", derivation=BoltCard())
CARD = CARDS[0]
OTHER_KEYS = ["0f" * 16, "1e" * 16, "2d" * 16]
USED, NEXT = 60, 61
BOLT = {"scheme": "boltcard"}
COLUMNS = {"xuid": "zz03", "uid": TAG.uid.hex().upper(), "key": TAG.file_keys()[0].value.hex()}


class Shop:
    """An account with the groups `stored` and `derives`, through the management API, and scans of its tags."""

    def __init__(self, dsn: str, pool: Any, management: Management) -> None:
        self.dsn = dsn
        self.pool = pool
        self.management = management
        self.groups: dict[str, int] = {}

    async def build(self) -> None:
        folder = (await self.done("POST", "/v2/folders", {"name": "Cards"}))["id"]
        await self.done("POST", "/v2/meta-keys", {"key": META})
        for name, more in (("stored", {}), ("derives", {"derivation": BOLT, "enrols": True}), ("later", {})):
            body = {"folder_id": folder, "name": name, "profile": "encrypted", **more}
            self.groups[name] = (await self.done("POST", "/v2/groups", body))["id"]
        await self.add_master("derives")

    async def done(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.management.ask(method, path, body)
        assert answer.status < 300, answer.text
        return answer.json if answer.status != 204 else None

    async def add_master(self, group: str, key: str = CARDS.master.hex()) -> None:
        await self.done("POST", f"/v2/groups/{self.groups[group]}/keys", {"key": key})

    async def imports(self, group: str = "stored", **values: Any) -> Answer:
        content = f"{','.join(values)}\n{','.join(map(str, values.values()))}\n".encode()
        return await self.management.ask("POST", f"/v2/imports?group={self.groups[group]}", content)

    async def imported(self, group: str = "stored", **values: Any) -> None:
        answer = await self.imports(group, **values)
        assert answer.status == 200, answer.text

    async def created(self, group: str = "stored", **values: Any) -> str:
        xuid: str = (await self.done("POST", "/v2/tags", {"group_id": self.groups[group], **values}))["xuid"]
        return xuid

    async def deleted(self, xuid: str = "zz03") -> None:
        await self.done("DELETE", f"/v2/tags/{xuid}")

    async def code(self, uid: bytes = TAG.uid) -> str:
        xuid: str = await self.pool.fetchval("SELECT xuid FROM tag WHERE uid = $1", uid)
        return xuid

    async def counter(self, uid: bytes = TAG.uid) -> int:
        found: int = await self.pool.fetchval("SELECT last_position FROM tag_counter JOIN tag USING (tag_id) WHERE uid = $1", uid)
        return found

    async def verdict(self, url: str) -> str:
        """The verdict of a server that has just started, so that it knows of every change."""
        pool = await session.make_pool(self.dsn, 4)
        server = test_derived_groups.Stack(self.dsn, pool)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Scan] = loop.create_future()
        now, scan_id = loop.time(), server.dispatcher.next_scan_id()
        try:
            scan = Scan(answered.set_result, b"", -1, None, None, scan_id, now, Extras(url=url))
            server.dispatcher.spawn(server.dispatcher.identify(scan, "mine"))
            await answered
        finally:
            await server.ledger.stop()
            await pool.close()
        assert scan.verdict is not None, f"{scan.error} {scan.error_detail}"
        return scan.verdict.value

    async def used_and_deleted(self) -> None:
        await self.imported(**COLUMNS)
        assert await self.verdict(TAG.tap_at(USED)) == "genuine"
        await self.deleted()


@pytest.fixture
async def shop(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    monkeypatch.setattr(test_derived_groups, "OLD", KeyEncryptionKey(bytes(32)))
    async with open_stack(database) as management:
        await management.pool.execute("UPDATE account SET open = true")
        shop = Shop(database, management.pool, management)
        await shop.build()
        yield shop


def some(*names: str, **more: str) -> dict[str, str]:
    return {name: COLUMNS[name] for name in names} | more


async def uid_then_key(shop: Shop) -> None:
    await shop.imported(**some("xuid", "uid"))
    await shop.imported(**some("uid", "key"))


async def uid_under_a_random_code_then_key(shop: Shop) -> None:
    await shop.imported(**some("uid"))
    await shop.imported(**some("uid", "key"))


async def uid_then_key_by_code(shop: Shop) -> None:
    await shop.imported(**some("uid", xuid="other"))
    await shop.imported(**some("key", xuid="other"))


async def key_then_uid(shop: Shop) -> None:
    await shop.imported(**some("key", xuid="other"))
    await shop.imported(**some("uid", xuid="other"))


async def code_then_uid_and_key(shop: Shop) -> None:
    await shop.imported(xuid="other")
    await shop.imported(**some("uid", "key", xuid="other"))


async def another_key_then_the_key(shop: Shop) -> None:
    await shop.imported(**some("uid", key=OTHER_KEYS[0]))
    await shop.imported(**some("uid", "key"))


async def created_by_uid_then_key(shop: Shop) -> None:
    xuid = await shop.created(**some("uid"))
    await shop.done("POST", f"/v2/tags/{xuid}/keys", some("key"))


async def created_by_key_then_uid(shop: Shop) -> None:
    xuid = await shop.created(**some("key"))
    await shop.done("PATCH", f"/v2/tags/{xuid}", some("uid"))


async def created_by_code_then_uid_then_key(shop: Shop) -> None:
    xuid = await shop.created(xuid="other")
    await shop.done("PATCH", f"/v2/tags/{xuid}", some("uid"))
    await shop.imported(**some("uid", "key"))


async def created_with_another_key_then_the_key(shop: Shop) -> None:
    xuid = await shop.created(**some("uid"), key=OTHER_KEYS[0])
    await shop.done("POST", f"/v2/tags/{xuid}/keys", some("key") | {"retire_others": True})


async def deleted_twice(shop: Shop) -> None:
    await shop.imported(**some("uid"))
    await shop.deleted(await shop.code())
    await shop.imported(**some("uid", xuid="other"))
    await shop.imported(**some("uid", "key"))


STORED = (
    uid_then_key, uid_under_a_random_code_then_key, uid_then_key_by_code, key_then_uid, code_then_uid_and_key,
    another_key_then_the_key, created_by_uid_then_key, created_by_key_then_uid, created_by_code_then_uid_then_key,
    created_with_another_key_then_the_key, deleted_twice,
)  # fmt: skip


@pytest.mark.parametrize("return_of", STORED, ids=lambda way: str(way.__name__))
async def test_a_used_tap_stays_used(shop: Shop, return_of: Any) -> None:
    await shop.used_and_deleted()
    await return_of(shop)
    version = max(await shop.pool.fetchval("SELECT max(version) FROM tag_key WHERE slot = 2"), 1)
    assert await shop.counter() == position(version, USED)
    assert await shop.verdict(TAG.tap_at(USED)) == "replayed"
    assert await shop.verdict(TAG.tap_at(NEXT)) == "genuine"


CARD_UID = {"uid": CARD.uid.hex().upper()}


async def moved_to_the_group(shop: Shop) -> None:
    xuid = await shop.created(**CARD_UID)
    await shop.done("PATCH", f"/v2/tags/{xuid}", {"group_id": shop.groups["derives"]})


async def moved_to_the_group_with_its_uid(shop: Shop) -> None:
    xuid = await shop.created()
    await shop.done("PATCH", f"/v2/tags/{xuid}", {"group_id": shop.groups["derives"], **CARD_UID})


async def moved_to_a_batch_of_the_group(shop: Shop) -> None:
    await shop.imported(**CARD_UID)
    batch = (await shop.done("POST", "/v2/batches", {"group_id": shop.groups["derives"], "name": "B"}))["id"]
    await shop.done("PATCH", f"/v2/tags/{await shop.code(CARD.uid)}", {"batch_id": batch})


async def uid_in_the_group(shop: Shop) -> None:
    xuid = await shop.created("derives")
    await shop.done("PATCH", f"/v2/tags/{xuid}", CARD_UID)


async def uid_imported_into_the_group(shop: Shop) -> None:
    await shop.created("derives", xuid="other")
    await shop.imported("derives", xuid="other", **CARD_UID)


async def uid_imported_from_another_group(shop: Shop) -> None:
    await shop.created("derives", xuid="other")
    await shop.imported("stored", xuid="other", **CARD_UID)


async def the_group_derives_later(shop: Shop) -> None:
    await shop.imported("later", **CARD_UID)
    await shop.done("PATCH", f"/v2/groups/{shop.groups['later']}", {"derivation": BOLT})
    await shop.add_master("later")


async def the_group_derives_again(shop: Shop) -> None:
    group = f"/v2/groups/{shop.groups['later']}"
    await shop.done("PATCH", group, {"derivation": BOLT})
    await shop.add_master("later", OTHER_KEYS[0])
    await shop.add_master("later")
    await shop.done("PATCH", group, {"derivation": None})
    await shop.imported("later", **CARD_UID)
    await shop.done("PATCH", group, {"derivation": BOLT})


DERIVED = (
    moved_to_the_group, moved_to_the_group_with_its_uid, moved_to_a_batch_of_the_group, uid_in_the_group,
    uid_imported_into_the_group, uid_imported_from_another_group, the_group_derives_later, the_group_derives_again,
)  # fmt: skip


@pytest.mark.parametrize("enrolled", [False, True], ids=["registered", "enrolled"])
@pytest.mark.parametrize("return_of", DERIVED, ids=lambda way: str(way.__name__))
async def test_a_used_tap_under_a_derived_key_stays_used(shop: Shop, return_of: Any, enrolled: bool) -> None:
    if not enrolled:
        await shop.created("derives", **CARD_UID)
    assert await shop.verdict(CARD.tap_at(USED)) == "genuine"
    await shop.deleted(await shop.code(CARD.uid))
    await return_of(shop)
    assert await shop.verdict(CARD.tap_at(USED)) == "replayed"
    assert await shop.verdict(CARD.tap_at(NEXT)) == "genuine"


@pytest.mark.parametrize("gets_uid", ["import", "PATCH"])
async def test_a_tag_with_its_own_key_in_a_group_that_derives(shop: Shop, gets_uid: str) -> None:
    """It is verified with its own key, so the masters do not matter."""
    await shop.used_and_deleted()
    xuid = await shop.created(**some("key"))
    await shop.done("PATCH", f"/v2/tags/{xuid}", {"group_id": shop.groups["derives"]})
    if gets_uid == "import":
        await shop.imported(xuid=xuid, **some("uid"))
    else:
        await shop.done("PATCH", f"/v2/tags/{xuid}", some("uid"))
    assert [await shop.verdict(TAG.tap_at(counter)) for counter in (USED, NEXT)] == ["replayed", "genuine"]


@pytest.mark.parametrize("through", [(), ("stored",)], ids=["directly", "through_another_group"])
async def test_a_used_tap_stays_used_in_another_group_with_the_same_master(shop: Shop, through: tuple[str, ...]) -> None:
    await shop.done("PATCH", f"/v2/groups/{shop.groups['later']}", {"derivation": BOLT})
    await shop.add_master("later", OTHER_KEYS[0])
    await shop.add_master("later")
    xuid = await shop.created("derives", **CARD_UID)
    assert await shop.verdict(CARD.tap_at(USED)) == "genuine"
    for name in (*through, "later"):
        await shop.done("PATCH", f"/v2/tags/{xuid}", {"group_id": shop.groups[name]})
    assert await shop.verdict(CARD.tap_at(USED)) == "replayed"
    assert await shop.verdict(CARD.tap_at(NEXT)) == "genuine"


async def test_a_key_that_had_been_replaced_does_not_return_in_steps(shop: Shop) -> None:
    await shop.imported(**some("uid", "xuid", key=OTHER_KEYS[0]))
    await shop.pool.execute("UPDATE tag_counter SET last_position = $1", position(1, 5))
    await shop.imported(**some("uid", "key"))
    assert await shop.verdict(TAG.tap_at(1)) == "genuine"
    await shop.deleted()
    await shop.imported(**some("uid"))
    answer = await shop.imports(**some("uid", key=OTHER_KEYS[0]))
    assert [problem["code"] for problem in answer.json["error"]["problems"]] == ["key_used_before"]
    path = f"/v2/tags/{await shop.code()}"
    answer = await shop.management.ask("POST", f"{path}/keys", {"key": OTHER_KEYS[0]})
    assert answer.problem == (409, "key_retired") and answer.json["error"]["field"] == "key"
    xuid = await shop.created(key=OTHER_KEYS[0])
    await shop.deleted(await shop.code())
    answer = await shop.management.ask("PATCH", f"/v2/tags/{xuid}", some("uid"))
    assert answer.problem == (409, "key_retired") and answer.json["error"]["field"] == "uid"
    answer = await shop.imports(xuid=xuid, **some("uid"))
    assert [(problem["code"], problem["column"]) for problem in answer.json["error"]["problems"]] == [("key_used_before", "UID")]
    await shop.imported(**some("uid"))
    await shop.imported(**some("uid", "key"))
    assert [await shop.verdict(TAG.tap_at(counter)) for counter in (1, 2)] == ["replayed", "genuine"]


async def test_the_refusal_of_a_replaced_key_names_no_new_code(shop: Shop) -> None:
    await shop.imported(**some("uid", "xuid", key=OTHER_KEYS[0]))
    await shop.imported(**some("uid", "key"))
    assert await shop.verdict(TAG.tap_at(1)) == "genuine"
    await shop.deleted()
    for names, named in ((some("uid"), "UID"), (some("xuid"), "xuid")):
        body = {"group_id": shop.groups["stored"], **names, "key": OTHER_KEYS[0]}
        answer = await shop.management.ask("POST", "/v2/tags", body)
        assert answer.problem == (409, "key_retired")
        assert answer.json["error"]["message"] == (
            f"A tag with this {named} was deleted after this key had been replaced; use the last key that it had."
        )


@pytest.mark.parametrize("columns", [("xuid", "uid", "key"), ("uid", "key"), ("xuid", "key")], ids=" ".join)
@pytest.mark.parametrize("steps", [1, 2])
async def test_an_imported_counter_outlives_a_tag_without_a_key(shop: Shop, columns: tuple[str, ...], steps: int) -> None:
    await shop.imported(**some("xuid", "uid"), last_counter=50)
    await shop.deleted()
    for place in range(steps, 0, -1):
        await shop.imported(**some(*columns[: len(columns) + 1 - place]))
    if "uid" not in columns:
        await shop.imported(**some("xuid", "uid"))
    assert [await shop.verdict(TAG.tap_at(counter)) for counter in (30, 50, 51)] == ["replayed", "replayed", "genuine"]


async def test_a_new_key_of_a_returned_tag_begins_at_zero(shop: Shop) -> None:
    await shop.used_and_deleted()
    await shop.imported(**some("uid", key=OTHER_KEYS[0]))
    await shop.imported(**some("uid", key=OTHER_KEYS[1]))
    await shop.done("POST", f"/v2/tags/{await shop.code()}/keys", {"key": OTHER_KEYS[2]})
    assert await shop.counter() == 0


async def test_steps_of_many_tags_in_files(shop: Shop) -> None:
    fleet = VirtualFleet(33, 60, "encrypted", account="mine")
    rows = [(fleet.uid(n).hex().upper(), fleet.file_key(n).hex()) for n in range(len(fleet))]
    path = f"/v2/imports?group={shop.groups['stored']}"
    whole = "\n".join(["uid,key", *map(",".join, rows), ""]).encode()
    names = "\n".join(["uid", *(uid for uid, _ in rows), ""]).encode()
    assert (await shop.done("POST", path, whole))["added"] == 60
    await shop.pool.execute("UPDATE tag_counter SET last_position = $1 + tag_id::int % 7", position(1, 100))
    before = dict(await shop.pool.fetch("SELECT uid, last_position FROM tag JOIN tag_counter USING (tag_id)"))
    for row in await shop.pool.fetch("SELECT xuid FROM tag"):
        await shop.deleted(row["xuid"])
    assert (await shop.done("POST", path, names))["added"] == 60
    assert (await shop.done("POST", path, whole))["keys_added"] == 60
    assert dict(await shop.pool.fetch("SELECT uid, last_position FROM tag JOIN tag_counter USING (tag_id)")) == before


async def test_a_master_added_during_an_import(shop: Shop) -> None:
    """The import did not see which counters were used under it, and the new master did not see the imported tags."""
    assert await shop.verdict(CARD.tap_at(USED)) == "genuine"
    await shop.deleted(await shop.code(CARD.uid))
    await shop.done("PATCH", f"/v2/groups/{shop.groups['later']}", {"derivation": BOLT})

    async def pieces() -> AsyncIterator[bytes]:
        yield f"uid\n{CARD.uid.hex()}\n".encode()
        await shop.add_master("later")

    account = await shop.pool.fetchval("SELECT account_id FROM account")
    async with shop.pool.acquire() as connection:
        with pytest.raises(InputError, match="A master key was added concurrently"):
            await import_tags(connection, shop.management.keks, pieces(), account_id=account, group_id=shop.groups["later"])
    assert await shop.pool.fetchval("SELECT count(*) FROM tag") == 0


@pytest.mark.parametrize(
    ("return_of", "place"),
    [(uid_then_key, import_plan), (created_by_key_then_uid, deleted_tags), (created_by_uid_then_key, deleted_tags)],
    ids=["import", "uid", "key"],
)
async def test_control_without_the_look_up_it_passes_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, return_of: Any, place: Any
) -> None:
    monkeypatch.setattr(place, "begins_at", lambda deleted, keys, *, derives: 0)
    await shop.used_and_deleted()
    await return_of(shop)
    assert await shop.verdict(TAG.tap_at(USED)) == "genuine"
