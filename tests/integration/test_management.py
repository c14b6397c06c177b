"""The management API on a real database: what it creates, changes, moves and deletes, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import asyncpg
import orjson
import pytest
from aiohttp import ClientSession, web

from ixfast.http.private_app import make_private_app
from ixfast.http.request_handler import handlers
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.store.admin import edits
from ixfast.store.connections import session

KEY = bytes(range(16)).hex()
OTHER_KEY = bytes(range(1, 17)).hex()
RULES = {
    "groups": [{"name": "first", "when": "authentication == pass and scan_count == 1", "response": "Welcome {cuid}"}],
    "default": "No",
}
ROLES = {"scan": ["scan"], "read": ["read"], "manage": ["manage"], "keys": ["keys"], "both": ["manage", "keys", "scan"]}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def made(self) -> Any:
        assert self.status == 201, self.text
        return self.json

    @property
    def problem(self) -> tuple[int, str]:
        """Status and error code; the body must have the standard shape."""
        assert set(self.json["error"]) - {"field", "reason", "problems"} == {"code", "message", "request_id"}, self.text
        return self.status, self.json["error"]["code"]


class Stack:
    """The private listener on a database, with a client, and an account `mine` with an API key for each role."""

    def __init__(self, pool: Any, keks: KeyEncryptionKeys, app: web.Application, session: ClientSession, url: str) -> None:
        self.pool = pool
        self.keks = keks
        self.app = app
        self.session = session
        self.url = url
        self.tokens: dict[str, str] = {}
        self.key_ids: dict[str, int] = {}

    async def account(self, aid: str) -> dict[str, str]:
        """Create an account and return its tokens by role."""
        async with self.pool.acquire() as connection:
            account_id = await edits.create_account(connection, aid)
            return {role: await edits.create_api_key(connection, account_id, scopes) for role, scopes in ROLES.items()}

    async def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        content = body if body is None or isinstance(body, bytes | io.BytesIO) else orjson.dumps(body)
        given = {"X-API-Key": self.tokens["both"] if token is None else token, **(headers or {})}
        given = {name: value for name, value in given.items() if value}
        async with self.session.request(method, self.url + path, data=content, headers=given) as response:
            return Answer(response.status, response.headers, await response.read())

    async def all_of(self, path: str) -> list[Any]:
        """Every item of a list, page by page."""
        items: list[Any] = []
        cursor = ""
        while True:
            page = (await self.ask("GET", path + cursor)).json
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"{'&' if '?' in path else '?'}cursor={page['next_cursor']}"


@contextlib.asynccontextmanager
async def open_stack(dsn: str) -> AsyncIterator[Stack]:
    async def readiness() -> dict[str, str]:
        return {}

    pool = await session.make_pool(dsn, 4)
    keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(32))])
    app = make_private_app(Meters(), readiness, pool, keks)
    runner, _ = await handlers(app, 10.0)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ClientSession() as client:
        stack = Stack(pool, keks, app, client, f"http://127.0.0.1:{runner.addresses[0][1]}")
        stack.tokens = await stack.account("mine")
        rows = (await stack.ask("GET", "/v2/api-keys")).json["items"]
        stack.key_ids = dict(zip(ROLES, (row["id"] for row in rows), strict=True))
        yield stack
    await runner.cleanup()
    if not pool._closed:
        await pool.close()


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


async def folder_with_groups(stack: Stack, **group: Any) -> tuple[int, int, int]:
    """A folder, an authentication group and a batch."""
    folder = (await stack.ask("POST", "/v2/folders", {"name": "Shoes", "fields": [{"name": "Colour", "in_reply": True}]})).made
    group = {"folder_id": folder["id"], "name": "Left", "profile": "ixkio-plain", **group}
    made = (await stack.ask("POST", "/v2/groups", group)).made
    batch = (await stack.ask("POST", "/v2/batches", {"group_id": made["id"], "name": "First"})).made
    return folder["id"], made["id"], batch["id"]


async def test_the_life_of_everything(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack, rules=RULES, fields={"Colour": "red"}, retry_window_s=5)
    shown = (await stack.ask("GET", f"/v2/groups/{group}")).json
    assert shown["kind"] == "authentication" and shown["profile"]["name"] == "ixkio-plain"
    assert shown["rules"] == RULES and shown["fields"] == {"Colour": "red"} and shown["retry_window_s"] == 5
    answer = await stack.ask("POST", "/v2/tags", {"batch_id": batch, "uid": "04AABBCCDDEEFF", "cuid": "A 1"})
    tag = answer.made
    assert answer.headers["Location"] == f"/v2/tags/{tag['xuid']}"
    assert re.fullmatch("[a-z0-9]{16}", tag["xuid"]) and tag["group_id"] == group and tag["batch_id"] == batch
    assert (await stack.ask("GET", f"/v2/tags/{tag['xuid']}")).json == tag
    assert (await stack.ask("GET", "/v2/tags?cuid=A%201")).json["items"] == [tag]
    assert (await stack.ask("GET", "/v2/tags?uid=04AABBCCDDEEFF")).json["items"] == [tag]
    for path in (f"/v2/folders/{folder}", f"/v2/groups/{group}", f"/v2/batches/{batch}"):
        assert (await stack.ask("DELETE", path)).problem == (409, "in_use")
    patched = await stack.ask("PATCH", f"/v2/tags/{tag['xuid']}", {"cuid": None, "name": "N", "assigned": True, "active": False})
    assert patched.status == 200 and patched.json["assigned_at"] is not None
    assert {n: patched.json[n] for n in ("cuid", "name", "assigned", "active")} == {
        "cuid": None, "name": "N", "assigned": True, "active": False,
    }  # fmt: skip
    for path in (f"/v2/tags/{tag['xuid']}", f"/v2/batches/{batch}", f"/v2/groups/{group}", f"/v2/folders/{folder}"):
        assert (await stack.ask("DELETE", path)).status == 204
        assert (await stack.ask("GET", path)).problem == (404, "not_found")
    acts = (await stack.ask("GET", "/v2/audit")).json["items"]
    assert [(a["act"], a["object"]) for a in acts][:9] == [
        ("delete", "folder"), ("delete", "group"), ("delete", "batch"), ("delete", "tag"), ("update", "tag"), ("create", "tag"),
        ("create", "batch"), ("create", "group"), ("create", "folder"),
    ]  # fmt: skip
    assert acts[4]["before"]["cuid"] == "A 1" and acts[4]["after"]["cuid"] is None
    assert acts[3]["before"] == patched.json and acts[3]["after"] is None
    assert {a["api_key_id"] for a in acts[:9]} == {stack.key_ids["both"]}


async def test_names_are_taken_once(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack)
    assert (await stack.ask("POST", "/v2/folders", {"name": "Shoes"})).problem == (409, "already_exists")
    assert (await stack.ask("POST", "/v2/groups", {"folder_id": folder, "name": "Left"})).problem == (409, "already_exists")
    assert (await stack.ask("POST", "/v2/batches", {"group_id": group, "name": "First"})).problem == (409, "already_exists")
    tag = {"batch_id": batch, "xuid": "mine0001", "uid": "04AABBCCDDEEFF", "cuid": "one"}
    assert (await stack.ask("POST", "/v2/tags", tag)).status == 201
    for field, value in (("xuid", "mine0001"), ("uid", "04AABBCCDDEEFF"), ("cuid", "one")):
        answer = await stack.ask("POST", "/v2/tags", {"batch_id": batch, field: value})
        assert answer.problem == (409, "already_exists") and answer.json["error"]["field"] == field
    other = (await stack.ask("POST", "/v2/tags", {"batch_id": batch})).made
    answer = await stack.ask("PATCH", f"/v2/tags/{other['xuid']}", {"cuid": "one"})
    assert answer.problem == (409, "already_exists") and answer.json["error"]["field"] == "cuid"


async def test_lost_updates_are_refused(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch})).made
    for path, patch in (
        ("/v2/accounts/mine", {"name": "x"}),
        (f"/v2/folders/{folder}", {"name": "x"}),
        (f"/v2/groups/{group}", {"retry_window_s": 5}),
        (f"/v2/api-keys/{stack.key_ids['keys']}", {"label": "x"}),
        (f"/v2/batches/{batch}", {"active": False}),
        (f"/v2/tags/{tag['xuid']}", {"name": "x"}),
    ):
        seen = (await stack.ask("GET", path)).headers["ETag"]
        first = await stack.ask("PATCH", path, patch, headers={"If-Match": seen})
        assert first.status == 200 and first.headers["ETag"] != seen, first.json
        assert (await stack.ask("PATCH", path, patch, headers={"If-Match": seen})).problem == (412, "precondition_failed")
        assert (await stack.ask("DELETE", path, headers={"If-Match": seen})).status in (405, 412)
        assert (await stack.ask("PATCH", path, patch, headers={"If-Match": f'"a", {first.headers["ETag"]}'})).status == 200
        assert (await stack.ask("PATCH", path, patch, headers={"If-Match": "*"})).status == 200
    acts = (await stack.ask("GET", f"/v2/audit?object=tag&object_id={tag['xuid']}")).json["items"]
    assert [a["act"] for a in acts] == ["update", "create"]  # a request that changes nothing is not an act


async def test_who_has_seen_the_last_state_may_delete(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch})).made
    for path in (
        f"/v2/tags/{tag['xuid']}", f"/v2/batches/{batch}", f"/v2/groups/{group}", f"/v2/folders/{folder}",
        f"/v2/api-keys/{stack.key_ids['keys']}",
    ):  # fmt: skip
        seen = (await stack.ask("GET", path)).headers["ETag"]
        assert (await stack.ask("DELETE", path, headers={"If-Match": '"another"'})).problem == (412, "precondition_failed"), path
        assert (await stack.ask("DELETE", path, headers={"If-Match": seen})).status == 204, path


async def test_pages_have_everything_once(stack: Stack) -> None:
    _, group, batch = await folder_with_groups(stack)
    made = [(await stack.ask("POST", "/v2/tags", {"group_id": group})).made["xuid"] for _ in range(7)]
    made += [(await stack.ask("POST", "/v2/tags", {"batch_id": batch})).made["xuid"] for _ in range(3)]
    for query, expected in (("", made), (f"&group={group}", made), (f"&batch={batch}", made[7:])):
        assert [tag["xuid"] for tag in await stack.all_of(f"/v2/tags?limit=3{query}")] == expected
    assert len(await stack.all_of("/v2/audit?limit=4")) >= 13
    for query in (
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1&limit=2",
        "cursor=x",
        "cursor=W10",
        "cursor=é",
        "group=0",
        "uid=1",
    ):
        answer = await stack.ask("GET", f"/v2/tags?{query}")
        assert answer.problem == (400, "invalid_parameter"), query
    assert (await stack.ask("GET", "/v2/tags?group=1&batch=1")).problem == (400, "invalid_parameter")


async def test_bodies_that_are_none(stack: Stack) -> None:
    bodies: Mapping[bytes, str | None] = {
        b"": None, b"[]": None, b'{"name"': None, b'{"name":"\xff"}': None, b'{"name":7}': "name", b'{"name":""}': "name",
        b'{"name":"a","more":1}': None, b'{"name":"a\\n"}': "name", b'{"name":"a\\u0000b"}': "name",
        b'{"name":"a","fields":[{}]}': "fields[0]", b'{"name":"a","name":"b"}': None,
        b'{"name":"a","fields":[{"name":"Colour","name":"Size"}]}': None,
    }  # fmt: skip
    for body, field in bodies.items():
        answer = await stack.ask("POST", "/v2/folders", body)
        assert answer.problem == (400, "invalid_request") and answer.json["error"].get("field") == field, body
    large = io.BytesIO(b'{"name":"' + b"a" * (1 << 20) + b'"}')
    assert (await stack.ask("POST", "/v2/folders", large)).problem == (413, "too_large")
    assert (await stack.ask("GET", "/v2/nothing")).problem == (404, "no_such_route")
    assert (await stack.ask("PUT", "/v2/folders")).problem == (405, "method_not_allowed")


async def test_rule_sets_are_taken_whole_or_not_at_all(stack: Stack) -> None:
    _, group, batch = await folder_with_groups(stack, rules=RULES)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch})).made
    for document, code, field, message in (
        ({"groups": [], "defautl": "x"}, "invalid_rule", "rules", "Unknown member 'defautl'. Did you mean default?"),
        (
            {"groups": [{"name": "a", "when": "scan_cuont < 5", "response": ""}], "default": ""},
            "invalid_rule", "rules.groups[0].when", "Did you mean scan_count? (at $.groups[0].when, column 1)",
        ),
        (
            {"groups": [{"name": "a", "when": "first_scan", "response": "{xuid}" * 65}], "default": ""},
            "invalid_response", "rules.groups[0].response", "at most 64 subtags",
        ),
        ({"groups": [], "default": "a\0b"}, "invalid_rule", "rules", "NUL"),
    ):  # fmt: skip
        for path in (f"/v2/groups/{group}", f"/v2/tags/{tag['xuid']}"):
            answer = await stack.ask("PATCH", path, {"rules": document, "active": False})
            assert answer.problem == (422, code), answer.json
            assert answer.json["error"]["field"] == field and message in answer.json["error"]["message"]
        assert (await stack.ask("POST", "/v2/rules/test", {"rules": document})).problem == (422, code)
    assert (await stack.ask("GET", f"/v2/groups/{group}")).json["active"] is True
    own = {"groups": [], "default": "Mine"}
    assert (await stack.ask("PATCH", f"/v2/tags/{tag['xuid']}", {"rules": own})).json["rules"] == own
    assert (await stack.ask("PATCH", f"/v2/tags/{tag['xuid']}", {"rules": None})).json["rules"] is None
    assert (await stack.ask("PATCH", f"/v2/groups/{group}", {"rules": None})).json["rules"] is None


async def test_a_trial_says_which_group_and_why(stack: Stack) -> None:
    facts = {"authentication": "pass", "scan_count": 1, "now": "2026-01-31T23:10:00+01:00"}
    answer = (await stack.ask("POST", "/v2/rules/test", {"rules": RULES, "facts": facts})).json
    assert answer["group"] == "first" and answer["response"] == "Welcome {cuid}" and answer["warnings"] == []
    assert answer["steps"][0] == {"step": "first", "depth": 0, "holds": True, "found": ""}
    assert {"step": "authentication == pass", "depth": 2, "holds": True, "found": "pass"} in answer["steps"]
    answer = (await stack.ask("POST", "/v2/rules/test", {"rules": RULES})).json
    assert answer["group"] is None and answer["response"] == "No" and answer["steps"][0]["holds"] is None
    for facts in ({"scan_cuont": 1}, {"scan_count": "x"}, {"authentication": "passed"}):
        answer = await stack.ask("POST", "/v2/rules/test", {"rules": RULES, "facts": facts})
        assert answer.problem == (422, "invalid_rule") and answer.json["error"]["field"] == "facts"
    assert "RuleSetDocument" in (await stack.ask("GET", "/v2/rules/schema")).json["$defs"]


async def test_profiles(stack: Stack) -> None:
    folder, group, _ = await folder_with_groups(stack)
    for profile in ("nobody's", {"name": "x"}, {"name": "x", "scheme": "ntag424-aes", "template": "{x"}, {"name": 1}):
        answer = await stack.ask("POST", "/v2/groups", {"folder_id": folder, "name": "n", "profile": profile})
        assert answer.problem == (422, "invalid_profile"), profile
    standard = (await stack.ask("PATCH", f"/v2/groups/{group}", {"profile": None})).json
    assert standard["kind"] == "standard" and standard["profile"] is None
    again = await stack.ask("PATCH", f"/v2/groups/{group}", {"profile": "ixkio-encrypted"})
    assert again.status in (200, 422)


async def test_extended_fields(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack, fields={"Colour": "red"})
    for fields, place in (
        ([{"name": "XUID"}], "fields[0].name"), ([{"name": "a"}, {"name": "Response"}], "fields[1].name"),
        ([{"name": "a b"}, {"name": "A_B"}], "fields[1].name"), ([{"name": "{a}"}], "fields[0].name"),
        ([{"name": " a"}], "fields[0].name"), ([{"name": "error"}], "fields[0].name"),
    ):  # fmt: skip
        answer = await stack.ask("PATCH", f"/v2/folders/{folder}", {"fields": fields})
        assert answer.problem == (400, "invalid_parameter") and answer.json["error"]["field"] == place
    many = [{"name": f"f{i}"} for i in range(51)]
    assert (await stack.ask("PATCH", f"/v2/folders/{folder}", {"fields": many})).problem == (400, "invalid_request")
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "fields": {"Colour": "blue"}})).made
    path = f"/v2/tags/{tag['xuid']}"
    answer = await stack.ask("PATCH", path, {"fields": {"Size": "9"}})
    assert answer.problem == (400, "invalid_parameter") and "Colour" in answer.json["error"]["message"]
    both = [{"name": "Colour", "in_reply": True}, {"name": "Size"}]
    assert (await stack.ask("PATCH", f"/v2/folders/{folder}", {"fields": both})).json["fields"][1] == {
        "name": "Size", "in_reply": False,
    }  # fmt: skip
    assert (await stack.ask("PATCH", path, {"fields": {"Size": "9"}})).json["fields"] == {"Colour": "blue", "Size": "9"}
    assert (await stack.ask("PATCH", path, {"fields": {"Colour": None}})).json["fields"] == {"Size": "9"}
    assert (await stack.ask("PATCH", f"/v2/groups/{group}", {"fields": {"Size": "8"}})).json["fields"] == {
        "Colour": "red", "Size": "8",
    }  # fmt: skip


async def test_tags_move_inside_the_account(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack)
    other = (await stack.ask("POST", "/v2/groups", {"folder_id": folder, "name": "Right"})).made["id"]
    second = (await stack.ask("POST", "/v2/batches", {"group_id": other, "name": "Second"})).made["id"]
    path = f"/v2/tags/{(await stack.ask('POST', '/v2/tags', {'batch_id': batch})).made['xuid']}"

    async def moved(patch: dict[str, Any]) -> tuple[Any, Any]:
        shown = (await stack.ask("PATCH", path, patch)).json
        return shown["group_id"], shown["batch_id"]

    assert await moved({"batch_id": second}) == (other, second)
    assert await moved({"group_id": other}) == (other, second)
    assert await moved({"group_id": group}) == (group, None)
    assert await moved({"group_id": group, "batch_id": batch}) == (group, batch)
    assert await moved({"batch_id": None}) == (group, None)
    assert (await stack.ask("PATCH", path, {"group_id": group, "batch_id": second})).problem == (400, "invalid_parameter")
    assert (await stack.ask("PATCH", path, {"group_id": 1 << 40})).problem == (404, "not_found")
    assert (await stack.ask("POST", "/v2/tags", {})).problem == (400, "missing_parameter")


async def test_uids_are_given_once(stack: Stack) -> None:
    _, _, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "xuid_length": 8})).made
    assert re.fullmatch("[a-z0-9]{8}", tag["xuid"])
    path = f"/v2/tags/{tag['xuid']}"
    assert (await stack.ask("PATCH", path, {"uid": "04AABBCCDDEEFF"})).json["uid"] == "04AABBCCDDEEFF"
    assert (await stack.ask("PATCH", path, {"uid": "04AABBCCDDEEFF"})).status == 200
    assert (await stack.ask("PATCH", path, {"uid": "04AABBCCDDEE00"})).problem == (400, "invalid_parameter")
    assert (await stack.ask("PATCH", path, {"uid": "04aabbccddeeff"})).problem == (400, "invalid_request")


async def test_an_inactive_account_can_be_switched_on_again(stack: Stack) -> None:
    for active in (False, True):
        assert (await stack.ask("PATCH", "/v2/accounts/mine", {"active": active})).json["active"] is active
    assert (await stack.ask("PATCH", "/v2/accounts/mine", {"aid": "other"})).problem == (400, "invalid_request")


async def test_each_act_tells_the_workers_what_changed(stack: Stack) -> None:
    folder, group, batch = await folder_with_groups(stack)
    tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
    path = f"/v2/tags/{tag['xuid']}"
    connection, off = stack.pool, {"active": False}
    for method, where, body, kind in (
        ("PATCH", "/v2/accounts/mine", {"cors": False}, "account"), ("PATCH", f"/v2/folders/{folder}", off, "group"),
        ("PATCH", f"/v2/groups/{group}", off, "group"), ("PATCH", f"/v2/batches/{batch}", off, "batch"),
        ("PATCH", path, off, "tag"), ("POST", f"{path}/keys", {"key": OTHER_KEY}, "tag"),
        ("DELETE", f"{path}/keys/1", None, "tag"), ("POST", "/v2/meta-keys", {"key": KEY}, "account"),
        ("DELETE", "/v2/meta-keys/1", None, "account"), ("POST", "/v2/tags", {"batch_id": batch}, "tags_added"),
        ("PATCH", f"/v1/x/{tag['xuid']}", {"ix_dr": "x"}, "tag"), ("DELETE", path, None, "tag"),
        ("DELETE", f"/v2/api-keys/{stack.key_ids['scan']}", None, "api_key"),
    ):  # fmt: skip
        before = await connection.fetchval("SELECT generation FROM catalogue_generation")
        acts = await connection.fetchval("SELECT count(*) FROM audit_log")
        assert (await stack.ask(method, where, body)).status < 300, where
        rows = await connection.fetch("SELECT kind FROM catalogue_change WHERE generation > $1", before)
        assert [row["kind"] for row in rows] == [kind], where
        assert await connection.fetchval("SELECT count(*) FROM audit_log") == acts + 1
    for statement in ("UPDATE audit_log SET act = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(statement)


async def test_a_refused_act_leaves_nothing(stack: Stack) -> None:
    folder, _, _ = await folder_with_groups(stack)
    connection = stack.pool
    count = "SELECT (SELECT count(*) FROM audit_log) + (SELECT generation FROM catalogue_generation)"
    before = await connection.fetchval(count)
    assert (await stack.ask("DELETE", f"/v2/folders/{folder}")).problem == (409, "in_use")
    assert (await stack.ask("POST", "/v2/folders", {"name": "Shoes"})).problem == (409, "already_exists")
    assert await connection.fetchval(count) == before


async def test_what_cannot_be_done_now_is_503(stack: Stack) -> None:
    folder, _, _ = await folder_with_groups(stack)
    async with stack.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM folder FOR UPDATE")
        answer = await stack.ask("PATCH", f"/v2/folders/{folder}", {"name": "x"})
    assert answer.problem == (503, "unavailable") and answer.json["error"]["reason"] == "row_held"
    assert answer.headers["Retry-After"] == "1"
    await stack.pool.close()
    answer = await stack.ask("GET", "/v2/folders")
    assert answer.problem == (503, "unavailable") and answer.json["error"]["reason"] == "connection_lost"


async def test_commands_are_in_the_audit_log_too(stack: Stack) -> None:
    acts = await stack.all_of("/v2/audit")
    assert {(a["act"], a["object"], a["api_key_id"]) for a in acts} == {("create", "account", None), ("create", "api_key", None)}
    assert edits.SCOPES == ("scan", "read", "manage", "keys")


async def test_a_profile_that_v1_can_mistake_is_saved_with_a_warning(stack: Stack) -> None:
    profile = {"name": "own", "scheme": "ntag424-aes", "template": "a={uid}&n={counter}&e={mac}"}
    _, group, _ = await folder_with_groups(stack, profile=profile)
    shown = await stack.ask("GET", f"/v2/groups/{group}")
    (warning,) = shown.json["warnings"]
    assert warning.startswith("On /v1/t, the parameter a of this profile names the account. ")
    assert "POST /v2/scans" in warning
    patched = await stack.ask("PATCH", f"/v2/groups/{group}", {"name": "Other"}, headers={"If-Match": shown.headers["ETag"]})
    assert patched.json["warnings"] == [warning]
    assert "warnings" not in (await stack.ask("PATCH", f"/v2/groups/{group}", {"profile": "boltcard"})).json
    changed = (await stack.ask("PATCH", f"/v2/groups/{group}", {"profile": {**profile, "template": "x={counter}&c={mac}"}})).json
    assert "looked up as a tag code first" in changed["warnings"][0]
    assert [each["warnings"] for each in await stack.all_of("/v2/groups")] == [changed["warnings"]]
