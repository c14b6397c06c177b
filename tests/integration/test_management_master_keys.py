"""Groups that derive keys, over the management API: derivations, masters, and requests that contradict them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_management import KEY, OTHER_KEY, Stack, folder_with_groups, open_stack

from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS
from ixfast.limits import GROUP_MASTERS_MAX, META_KEYS_MAX

BOLT = {"scheme": "boltcard", "version": 3}


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


async def group(stack: Stack, **more: Any) -> dict[str, Any]:
    folder = (await stack.ask("GET", "/v2/folders")).json["items"] or [
        (await stack.ask("POST", "/v2/folders", {"name": "F"})).made
    ]
    count = len((await stack.ask("GET", "/v2/groups")).json["items"])
    body = {"folder_id": folder[0]["id"], "name": f"G{count}", "profile": "encrypted", "derivation": BOLT, **more}
    made: dict[str, Any] = (await stack.ask("POST", "/v2/groups", body)).made
    return made


async def test_masters_go_in_and_never_come_out(stack: Stack) -> None:
    made = await group(stack)
    assert made["derivation"] == BOLT and made["enrols"] is False
    path = f"/v2/groups/{made['id']}/keys"
    first = (await stack.ask("POST", path, {"key": KEY})).made
    assert (first["version"], first["check_value"]) == (1, check_value(bytes.fromhex(KEY)).hex().upper())
    assert (await stack.ask("POST", path, {"key": KEY})).problem == (409, "already_exists")
    assert (await stack.ask("POST", path, {"key": "00" * 16})).problem == (400, "invalid_parameter")
    assert (await stack.ask("DELETE", f"{path}/1")).problem == (409, "in_use")
    assert (await stack.ask("POST", path, {"key": OTHER_KEY})).made["version"] == 2
    assert (await stack.ask("DELETE", f"{path}/1")).status == 204
    assert (await stack.ask("DELETE", f"{path}/3")).problem == (404, "not_found")
    third = await stack.ask("POST", path, {"key": "ff" * 16, "retire_others": True})
    versions = (await stack.ask("GET", path)).json["items"]
    assert [(v["version"], v["live"]) for v in versions] == [(1, False), (2, False), (3, True)] and third.json == versions[2]
    shown = [
        (await stack.ask("GET", p)).text for p in ("/v2/audit?limit=1000", path, f"/v2/groups/{made['id']}", "/openapi.json")
    ]
    assert not any(re.search(f"(?i){KEY}|{OTHER_KEY}|{'ff' * 16}", text) for text in shown)
    rows = await stack.pool.fetch("SELECT wrapped FROM group_key")
    assert len(rows) == 3 and not any(bytes.fromhex(key) in row["wrapped"] for key in (KEY, OTHER_KEY) for row in rows)
    acts = (await stack.ask("GET", f"/v2/audit?object=group&object_id={made['id']}")).json["items"]
    assert [act["act"] for act in acts] == ["add_key", "retire_key", "add_key", "add_key", "create"]
    assert (await stack.ask("DELETE", f"/v2/groups/{made['id']}")).status == 204
    assert await stack.pool.fetchval("SELECT count(*) FROM group_key") == 0


async def test_every_derivation_is_taken_and_shown_as_it_was_given(stack: Stack) -> None:
    made = await group(stack)
    for derivation in USUAL_DERIVATIONS:
        body = {name: getattr(derivation, name) for name in derivation.__struct_fields__}
        body["scheme"] = derivation.__struct_config__.tag
        answer = await stack.ask("PATCH", f"/v2/groups/{made['id']}", {"derivation": body})
        assert answer.json["derivation"] == body, answer.text
    for bad in ({"scheme": "rot13"}, {"scheme": "an10922", "input": "00"}, {"scheme": "boltcard", "version": -1}, {"key": 1}):
        assert (await stack.ask("PATCH", f"/v2/groups/{made['id']}", {"derivation": bad})).problem == (400, "invalid_request")


async def test_what_contradicts_itself_is_refused(stack: Stack) -> None:
    made = await group(stack)
    path = f"/v2/groups/{made['id']}"
    for patch, field in (
        ({"profile": None}, "derivation"),
        ({"enrols": True, "derivation": None}, "enrols"),
        ({"enrols": True, "profile": "plain-counter-only"}, "enrols"),
        ({"enrols": True, "profile": "plain-uid-only"}, "enrols"),
        ({"enrols": True, "profile": {"name": "p", "scheme": "ntag424-aes", "window": "{xuid}&cmac=",
          "template": "u={uid}&n={counter}&x={xuid}&cmac={mac}"}}, "enrols"),
    ):  # fmt: skip
        answer = await stack.ask("PATCH", path, patch)
        assert answer.problem == (400, "invalid_parameter") and answer.json["error"]["field"] == field, patch
    assert (await stack.ask("GET", path)).json == made
    assert (await stack.ask("PATCH", path, {"enrols": True})).json["enrols"] is True
    _, plain, batch = await folder_with_groups(stack)
    assert (await stack.ask("POST", f"/v2/groups/{plain}/keys", {"key": KEY})).problem == (400, "invalid_parameter")
    body = {"group_id": made["id"], "uid": "04AABBCCDDEEFF"}
    assert (await stack.ask("POST", "/v2/tags", {**body, "key": KEY})).problem == (400, "invalid_parameter")
    tag = (await stack.ask("POST", "/v2/tags", body)).made
    assert (await stack.ask("POST", f"/v2/tags/{tag['xuid']}/keys", {"key": KEY})).problem == (400, "invalid_parameter")
    stored = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
    assert (await stack.ask("POST", f"/v2/tags/{stored['xuid']}/keys", {"key": OTHER_KEY})).status == 201


async def test_live_masters_and_meta_keys_of_an_account_are_bounded(stack: Stack) -> None:
    made = await group(stack)
    for n in range(1, GROUP_MASTERS_MAX + 1):
        assert (await stack.ask("POST", f"/v2/groups/{made['id']}/keys", {"key": f"{n:032x}"})).status == 201
    assert (await stack.ask("POST", f"/v2/groups/{made['id']}/keys", {"key": "aa" * 16})).problem == (409, "limit_reached")
    same = await group(stack)  # the same masters and scheme add no further meta key
    for n in range(1, GROUP_MASTERS_MAX + 1):
        assert (await stack.ask("POST", f"/v2/groups/{same['id']}/keys", {"key": f"{n:032x}"})).status == 201
    for n in range(META_KEYS_MAX - GROUP_MASTERS_MAX):
        assert (await stack.ask("POST", "/v2/meta-keys", {"key": f"{n + 100:032x}"})).status == 201
    assert (await stack.ask("POST", "/v2/meta-keys", {"key": "bb" * 16})).problem == (409, "limit_reached")
    none = await group(stack, derivation={"scheme": "an10922"})  # derives no meta key
    assert (await stack.ask("POST", f"/v2/groups/{none['id']}/keys", {"key": "cc" * 16})).status == 201
    derives_one = {"derivation": {"scheme": "sdm-backend"}}
    path = f"/v2/groups/{none['id']}"
    assert (await stack.ask("PATCH", path, derives_one)).status == 200  # applies to masters added later
    assert (await stack.ask("POST", f"{path}/keys", {"key": "dd" * 16})).problem == (409, "limit_reached")
    assert (await stack.ask("DELETE", "/v2/meta-keys/1")).status == 204
    assert (await stack.ask("POST", f"{path}/keys", {"key": "dd" * 16})).made["derivation"]["scheme"] == "sdm-backend"
    keys = (await stack.ask("GET", f"{path}/keys")).json["items"]
    assert [key["derivation"]["scheme"] for key in keys] == ["an10922", "sdm-backend"]


async def test_masters_that_are_used_again_count_again(stack: Stack) -> None:
    made = await group(stack, derivation=None)
    path = f"/v2/groups/{made['id']}"
    for n in range(META_KEYS_MAX):
        assert (await stack.ask("POST", "/v2/meta-keys", {"key": f"{n + 100:032x}"})).status == 201
    await stack.pool.execute(  # as if the group had derived before
        "INSERT INTO group_key (group_id, version, derivation, kek_id, wrapped, check_value)"
        " VALUES ($1, 1, $2, '', '', '\\x010203')",
        made["id"],
        '{"scheme": "boltcard", "version": 1}',
    )
    assert (await stack.ask("PATCH", path, {"derivation": BOLT})).problem == (409, "limit_reached")
    assert (await stack.ask("DELETE", "/v2/meta-keys/1")).status == 204
    assert (await stack.ask("PATCH", path, {"derivation": BOLT})).status == 200


async def test_the_same_master_in_another_way_is_a_further_version(stack: Stack) -> None:
    made = await group(stack)
    path = f"/v2/groups/{made['id']}"
    assert (await stack.ask("POST", f"{path}/keys", {"key": KEY})).made["derivation"] == BOLT
    assert (await stack.ask("POST", f"{path}/keys", {"key": KEY})).problem == (409, "already_exists")
    await stack.ask("PATCH", path, {"derivation": {**BOLT, "version": 4}})
    second = (await stack.ask("POST", f"{path}/keys", {"key": KEY})).made
    assert (second["version"], second["derivation"]["version"]) == (2, 4)
    assert (await stack.ask("POST", f"{path}/keys", {"key": KEY})).problem == (409, "already_exists")
    await stack.ask("PATCH", path, {"derivation": BOLT})
    assert (await stack.ask("POST", f"{path}/keys", {"key": KEY})).problem == (409, "already_exists")
