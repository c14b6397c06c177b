"""Keys over the management API: tag keys, meta keys and API keys. They can be written but never read."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_management import KEY, OTHER_KEY, Stack, folder_with_groups, open_stack

from ixfast.keys import KeyEncryptionKey, check_value


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


async def test_keys_go_in_and_never_come_out(stack: Stack) -> None:
    _, _, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
    path = f"/v2/tags/{tag['xuid']}/keys"
    answer = await stack.ask("POST", path, {"key": OTHER_KEY})
    assert answer.status == 201
    assert answer.json["version"] == 2 and answer.json["check_value"] == check_value(bytes.fromhex(OTHER_KEY)).hex().upper()
    assert (await stack.ask("POST", path, {"key": KEY})).problem == (409, "already_exists")
    for bad in ("00" * 16, KEY[:-1], KEY + "00", "g" * 32, ""):
        answer = await stack.ask("POST", path, {"key": bad})
        assert answer.problem == (400, "invalid_parameter") and (not bad or bad not in answer.text)
    third = await stack.ask("POST", path, {"key": "ff" * 16, "retire_others": True})
    versions = (await stack.ask("GET", path)).json["items"]
    assert [(v["version"], v["live"]) for v in versions] == [(1, False), (2, False), (3, True)] and third.json == versions[2]
    assert (await stack.ask("DELETE", f"{path}/3")).problem == (409, "in_use")
    assert (await stack.ask("DELETE", f"{path}/2")).status == 204
    assert (await stack.ask("DELETE", f"{path}/4")).problem == (404, "not_found")
    for meta in (KEY, OTHER_KEY):
        assert (await stack.ask("POST", "/v2/meta-keys", {"key": meta})).status == 201
    assert (await stack.ask("DELETE", "/v2/meta-keys/1")).status == 204
    shown = (await stack.ask("GET", "/v2/meta-keys")).json["items"]
    assert [(v["version"], v["live"]) for v in shown] == [(1, False), (2, True)]
    everything = [(await stack.ask("GET", p)).text for p in ("/v2/audit?limit=1000", path, "/v2/meta-keys", path[:-5])]
    assert not any(re.search(f"(?i){KEY}|{OTHER_KEY}|{'ff' * 16}|wrapped|sha256|ixf_", text) for text in everything)
    connection = stack.pool
    rows = await connection.fetch("SELECT wrapped FROM tag_key UNION ALL SELECT wrapped FROM meta_key")
    assert len(rows) == 5 and not any(bytes.fromhex(key) in row["wrapped"] for key in (KEY, OTHER_KEY) for row in rows)


async def test_meta_keys_of_tags_and_batches_go_in_and_never_come_out(stack: Stack) -> None:
    _, _, batch = await folder_with_groups(stack)
    draft = {"batch_id": batch, "key": KEY, "meta_key": OTHER_KEY}
    tag = (await stack.ask("POST", "/v2/tags", draft)).made
    assert "meta_key" not in tag and "key" not in tag
    for bad in ("00" * 16, OTHER_KEY[:-1], "g" * 32):
        answer = await stack.ask("POST", "/v2/tags", {"batch_id": batch, "meta_key": bad})
        assert answer.problem == (400, "invalid_parameter") and answer.json["error"]["field"] == "meta_key"
        assert bad not in answer.text
    shown = []
    for path, first in ((f"/v2/tags/{tag['xuid']}/meta-keys", 2), (f"/v2/batches/{batch}/meta-keys", 1)):
        for version, key in enumerate((KEY, "ff" * 16), start=first):
            answer = await stack.ask("POST", path, {"key": key})
            assert (answer.status, answer.json["version"]) == (201, version)
            assert answer.json["check_value"] == check_value(bytes.fromhex(key)).hex().upper()
        assert (await stack.ask("POST", path, {"key": KEY})).problem == (409, "already_exists")
        assert (await stack.ask("DELETE", f"{path}/{first}")).status == 204
        assert (await stack.ask("DELETE", f"{path}/{first}")).status == 204
        assert (await stack.ask("DELETE", f"{path}/99")).problem == (404, "not_found")
        returned = await stack.ask("POST", path, {"key": KEY, "retire_others": True})  # it authenticates nothing
        assert returned.json["version"] == first + 2
        found = await stack.ask("GET", path)
        assert [v["live"] for v in found.json["items"]] == [False] * (first + 1) + [True]
        for place in range(16):
            answer = await stack.ask("POST", path, {"key": f"{place + 1:032x}"})
        assert answer.problem == (409, "limit_reached")
        shown.append(found.text)
    assert (await stack.ask("GET", f"/v2/tags/{tag['xuid']}/keys")).json["items"][0]["version"] == 1
    everything = [(await stack.ask("GET", p)).text for p in ("/v2/audit?limit=1000", f"/v2/tags/{tag['xuid']}", "/v2/exports")]
    keys = f"(?i){KEY}|{OTHER_KEY}|{'ff' * 16}|wrapped"
    assert not any(re.search(keys, text) for text in (*shown, *everything))
    assert "META_KEY_CHECK_VALUE" in everything[-1]
    assert (await stack.ask("DELETE", f"/v2/tags/{tag['xuid']}")).status == 204
    assert (await stack.ask("DELETE", f"/v2/batches/{batch}")).status == 204
    assert await stack.pool.fetchval("SELECT (SELECT count(*) FROM tag_key) + (SELECT count(*) FROM batch_key)") == 0


async def test_what_is_sealed_under_a_lost_key_can_be_replaced(stack: Stack) -> None:
    """The steps of the guide, for keys that chips keep, and for a tag that gets another one."""
    _, group, batch = await folder_with_groups(stack)
    kept, changed = [(await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made["xuid"] for _ in range(2)]
    assert (await stack.ask("POST", "/v2/meta-keys", {"key": OTHER_KEY})).status == 201
    assert (await stack.ask("POST", f"/v2/batches/{batch}/meta-keys", {"key": OTHER_KEY})).status == 201
    for table in ("tag_key", "meta_key", "batch_key"):
        await stack.pool.execute(f"UPDATE {table} SET kek_id = $1", "f" * 16)
    assert (await stack.ask("DELETE", "/v2/meta-keys/1")).status == 204
    assert (await stack.ask("DELETE", f"/v2/batches/{batch}/meta-keys/1")).status == 204
    assert (await stack.ask("POST", f"/v2/batches/{batch}/meta-keys", {"key": OTHER_KEY})).status == 201
    answer = await stack.ask("POST", f"/v2/tags/{changed}/keys", {"key": OTHER_KEY, "retire_others": True})
    assert answer.status == 201
    assert (await stack.ask("DELETE", f"/v2/tags/{kept}")).status == 204
    content = f"XUID,KEY,META_KEY\n{kept},{KEY},{OTHER_KEY}\n".encode()
    answer = await stack.ask("POST", f"/v2/imports?group={group}", content, headers={"Content-Type": "text/csv"})
    assert answer.status == 200, answer.text
    for table in ("tag_key", "meta_key", "batch_key"):
        rows = await stack.pool.fetch(f"SELECT kek_id FROM {table} WHERE live")
        assert rows and {row["kek_id"] for row in rows} == {stack.keks.current.id}, table
    retired = await stack.pool.fetch("SELECT FROM meta_key WHERE NOT live AND kek_id = $1", "f" * 16)
    assert len(retired) == 1


async def test_versions_of_a_key_come_to_an_end(stack: Stack) -> None:
    _, _, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
    connection = stack.pool
    await connection.execute("UPDATE tag_key SET version = 127")
    assert (await stack.ask("POST", f"/v2/tags/{tag['xuid']}/keys", {"key": OTHER_KEY})).problem == (409, "limit_reached")


async def test_a_deleted_tag_comes_back_with_its_counter(stack: Stack) -> None:
    """A tap that passed before the deletion must not pass after it."""
    _, _, batch = await folder_with_groups(stack)
    draft = {"batch_id": batch, "xuid": "back0001", "uid": "04AABBCCDDEEFF", "key": KEY}
    connection = stack.pool

    async def counter() -> Any:
        return (await stack.ask("GET", "/v2/tags/back0001/counter")).json

    assert (await stack.ask("POST", "/v2/tags", draft)).status == 201
    assert await counter() == {"scan_count": 0, "key_version": None, "counter": None, "last_at": None}
    await connection.execute("UPDATE tag_counter SET last_position = (1 << 24) + 77, scan_count = 5, last_at = now()")
    assert (await stack.ask("DELETE", "/v2/tags/back0001")).status == 204
    assert await connection.fetchval("SELECT count(*) FROM tag_counter") == 0
    assert await connection.fetchval("SELECT count(*) FROM tag_key") == 0
    for names in ({"xuid": "back0002", "uid": draft["uid"]}, {"xuid": "back0001", "uid": "04000000000000"}):
        answer = await stack.ask("POST", "/v2/tags", {**draft, **names})
        shown = (await stack.ask("GET", f"/v2/tags/{names['xuid']}/counter")).json
        assert answer.status == 201 and (shown["key_version"], shown["counter"]) == (1, 77)
        assert (await stack.ask("DELETE", f"/v2/tags/{names['xuid']}")).status == 204
    assert (await stack.ask("POST", "/v2/tags", {**draft, "key": OTHER_KEY})).status == 201
    assert (await counter())["counter"] is None
    await stack.ask("POST", "/v2/tags/back0001/keys", {"key": "ff" * 16})
    await connection.execute("UPDATE tag_counter SET last_position = (2 << 24) + 3, scan_count = 1")
    assert (await counter())["key_version"] == 2
    assert (await stack.ask("DELETE", "/v2/tags/back0001")).status == 204
    assert (await stack.ask("POST", "/v2/tags", {**draft, "key": OTHER_KEY})).problem == (409, "key_retired")
    assert (await stack.ask("POST", "/v2/tags", {**draft, "key": "ff" * 16})).status == 201
    assert ((await counter())["key_version"], (await counter())["counter"]) == (1, 3)


async def test_api_keys_rotate_expire_and_are_revoked(stack: Stack) -> None:
    answer = await stack.ask("POST", "/v2/api-keys", {"scopes": ["manage"], "label": "robot"})
    first = answer.made
    assert re.fullmatch(r"ixf_\S{32}", first["token"])
    path = f"/v2/api-keys/{first['id']}"
    shown = (await stack.ask("GET", path)).json
    assert shown == {name: value for name, value in first.items() if name != "token"} and shown["live"]
    assert (await stack.ask("GET", "/v2/accounts/mine", token=first["token"])).status == 200
    second = (await stack.ask("POST", f"{path}/rotate", {"overlap_s": 3600})).made
    for token in (first["token"], second["token"]):
        assert (await stack.ask("GET", "/v2/accounts/mine", token=token)).status == 200
    end = dt.datetime.fromisoformat((await stack.ask("GET", path)).json["expires_at"])
    assert dt.timedelta(minutes=59) < end - dt.datetime.now(dt.UTC) < dt.timedelta(minutes=61)
    third = (await stack.ask("POST", f"/v2/api-keys/{second['id']}/rotate", {"overlap_s": 0})).made
    assert (await stack.ask("GET", "/v2/accounts/mine", token=second["token"])).problem == (401, "unauthorised")
    assert (await stack.ask("POST", f"/v2/api-keys/{second['id']}/rotate")).problem == (404, "not_found")
    assert (await stack.ask("DELETE", path)).status == 204
    assert (await stack.ask("DELETE", path)).status == 204
    assert (await stack.ask("GET", "/v2/accounts/mine", token=first["token"])).problem == (401, "unauthorised")
    assert not (await stack.ask("GET", path)).json["live"]
    assert (await stack.ask("PATCH", path, {"label": "dead"})).json["label"] == "dead"
    past = {"scopes": ["scan"], "expires_at": "2020-01-01T00:00:00Z"}
    assert (await stack.ask("POST", "/v2/api-keys", past)).problem == (400, "invalid_parameter")
    assert (await stack.ask("POST", "/v2/api-keys", {"scopes": []})).problem == (400, "invalid_request")
    assert (await stack.ask("GET", "/v2/accounts/mine", token=third["token"])).status == 200


async def test_a_key_gives_away_no_scope_that_it_has_not(stack: Stack) -> None:
    manage = stack.tokens["manage"]
    for scopes, status in ((["scan"], 201), (["manage"], 201), (["keys"], 401), (["manage", "keys"], 401)):
        assert (await stack.ask("POST", "/v2/api-keys", {"scopes": scopes}, token=manage)).status == status
    for action in ("rotate", ""):
        path = f"/v2/api-keys/{stack.key_ids['keys']}"
        if action:
            assert (await stack.ask("POST", f"{path}/rotate", token=manage)).problem == (401, "unauthorised")
        else:
            assert (await stack.ask("PATCH", path, {"expires_at": None}, token=manage)).problem == (401, "unauthorised")
    _, _, batch = await folder_with_groups(stack)
    answer = await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY}, token=manage)
    assert answer.problem == (401, "unauthorised")


async def test_what_is_sealed_is_sealed_under_the_key_that_the_file_has_now(stack: Stack) -> None:
    """A worker that has not yet noticed a change of its key file checks the file before it seals."""
    _, _, batch = await folder_with_groups(stack)
    new = KeyEncryptionKey(bytes(range(32)))

    async def look() -> None:
        stack.keks.adopt([new.id], {new.id: new})

    stack.keks._look = look
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
    await stack.ask("POST", f"/v2/tags/{tag['xuid']}/keys", {"key": OTHER_KEY})
    await stack.ask("POST", "/v2/meta-keys", {"key": KEY})
    group = (await stack.ask("GET", "/v2/groups")).json["items"][0]["id"]
    await stack.ask("PATCH", f"/v2/groups/{group}", {"derivation": {"scheme": "boltcard"}})
    await stack.ask("POST", f"/v2/groups/{group}/keys", {"key": KEY})
    tables = ("tag_key", "meta_key", "group_key")
    rows = await stack.pool.fetch(" UNION ALL ".join(f"SELECT kek_id FROM {table}" for table in tables))
    assert [row["kek_id"] for row in rows] == [new.id] * 4
