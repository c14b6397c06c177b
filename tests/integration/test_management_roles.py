"""Every route of the management API for every kind of caller, on its own, foreign and non-existent objects: who gets what."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from test_management import KEY, OTHER_KEY, Stack, open_stack

from ixfast.http.management import ROUTES, Route, add_management
from ixfast.http.openapi.document import description
from ixfast.http.request_handler import handlers
from ixfast.store.queries import load

SAME_ID = {"X-Request-Id": "the-same"}
REFUSED = ("none", "unknown", "expired", "revoked")
NOBODYS = 987_654_321
_serial = itertools.count(1)


class Objects(NamedTuple):
    """One object of each kind, either all of one account or none of them existing."""

    aid: str
    folder: int
    group: int
    batch: int
    xuid: str
    cuid: str
    uid: str
    api_key: int
    masters: int  # a group that derives keys


NOTHING = Objects("nobody", NOBODYS, NOBODYS, NOBODYS, "nosuchtg", "nosuch", "04FFFFFFFFFFFF", NOBODYS, NOBODYS)


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


async def furnish(stack: Stack, aid: str, token: str) -> Objects:
    """Create one object of each kind, with two versions of each key. See `empty` for routes where `DELETE` must succeed."""
    n = next(_serial)
    cuid, uid = f"c {n}", f"04{n:012X}"

    async def made(path: str, body: Mapping[str, Any]) -> Any:
        return (await stack.ask("POST", path, body, token=token)).made

    folder = (await made("/v2/folders", {"name": f"F{n}"}))["id"]
    group = (await made("/v2/groups", {"folder_id": folder, "name": "G", "profile": "ixkio-plain"}))["id"]
    batch = (await made("/v2/batches", {"group_id": group, "name": "B"}))["id"]
    xuid = (await made("/v2/tags", {"batch_id": batch, "cuid": cuid, "uid": uid, "key": KEY}))["xuid"]
    await made(f"/v2/tags/{xuid}/keys", {"key": OTHER_KEY})
    for owner in (f"tags/{xuid}", f"batches/{batch}"):
        await made(f"/v2/{owner}/meta-keys", {"key": OTHER_KEY})
    api_key = (await made("/v2/api-keys", {"scopes": ["scan"]}))["id"]
    derived = {"folder_id": folder, "name": "D", "profile": "ixkio-plain", "derivation": {"scheme": "an10922"}}
    masters = (await made("/v2/groups", derived))["id"]
    for key in (KEY, OTHER_KEY):
        await made(f"/v2/groups/{masters}/keys", {"key": key})
    return Objects(aid, folder, group, batch, xuid, cuid, uid, api_key, masters)


BODIES: Mapping[tuple[str, str], Any] = {
    ("PATCH", "/v2/accounts/{aid}"): lambda o: {"name": "N"},
    ("POST", "/v2/api-keys"): lambda o: {"scopes": ["scan"]},
    ("PATCH", "/v2/api-keys/{id}"): lambda o: {"label": "L"},
    ("POST", "/v2/api-keys/{id}/rotate"): lambda o: {},
    ("POST", "/v2/folders"): lambda o: {"name": f"N{next(_serial)}"},
    ("PATCH", "/v2/folders/{id}"): lambda o: {"active": False},
    ("POST", "/v2/groups"): lambda o: {"folder_id": o.folder, "name": f"N{next(_serial)}"},
    ("PATCH", "/v2/groups/{id}"): lambda o: {"active": False},
    ("POST", "/v2/groups/{id}/keys"): lambda o: {"key": "ab" * 16},
    ("POST", "/v2/batches"): lambda o: {"group_id": o.group, "name": f"N{next(_serial)}"},
    ("PATCH", "/v2/batches/{id}"): lambda o: {"active": False},
    ("POST", "/v2/tags"): lambda o: {"batch_id": o.batch},
    ("PATCH", "/v2/tags/{xuid}"): lambda o: {"name": "N"},
    ("POST", "/v2/tags/{xuid}/keys"): lambda o: {"key": "ab" * 16},
    ("POST", "/v2/tags/{xuid}/meta-keys"): lambda o: {"key": f"{next(_serial):032x}", "retire_others": True},
    ("POST", "/v2/batches/{id}/meta-keys"): lambda o: {"key": f"{next(_serial):032x}", "retire_others": True},
    ("POST", "/v2/meta-keys"): lambda o: {"key": f"{next(_serial):032x}"},
    ("POST", "/v2/imports"): lambda o: f"CUID,TAGNAME\nnew {next(_serial)},N\n".encode(),
    ("POST", "/v2/rules/test"): lambda o: {"rules": {"groups": [], "default": ""}},
    ("PATCH", "/v1/x/{xuid}"): lambda o: {"ix_dr": "x"},
    ("PATCH", "/v1/a/{aid}"): lambda o: {"ix_status": "Inactive"},
}
NAMES_NOBODY = (
    "/v2/folders",
    "/v2/api-keys",
    "/v2/meta-keys",
    "/v2/meta-keys/{version}",
    "/v2/rules/test",
    "/v2/rules/schema",
    "/v2/audit",
    "/v2/accounts",
)
"""Routes whose requests name no object that could belong to another account."""


def target(route: Route, o: Objects) -> tuple[str, dict[str, str]]:
    """The path of a route for these objects, filtered by them where the route has a filter, and the headers."""
    own = next((getattr(o, kind) for kind in ("folder", "group", "batch") if route.path.startswith(f"/v2/{kind}")), o.api_key)
    own = o.masters if route.path.startswith("/v2/groups/{id}/keys") else own
    path = route.path.format(aid=o.aid, id=own, xuid=o.xuid, version=1)
    queries = {
        "/v2/groups": f"folder={o.folder}", "/v2/batches": f"group={o.group}", "/v2/tags": f"cuid={o.cuid.replace(' ', '%20')}",
        "/v2/scans": f"tag={o.xuid}", "/v2/stats": f"group={o.group}", "/v2/exports": f"group={o.group}",
        "/v2/imports": f"group={o.group}",
    }  # fmt: skip
    if (route.method == "GET" or route.streams) and path in queries:
        path += f"?{queries[path]}"
    return path, {"ix_c": o.cuid} if route.path == "/v1/a/{aid}" else {}


async def ask(stack: Stack, route: Route, o: Objects, token: str) -> tuple[int, bytes]:
    path, headers = target(route, o)
    body = BODIES[route.method, route.path](o) if route.body is not None else None
    answer = await stack.ask(route.method, path, body, token=token, headers=headers | SAME_ID)
    return answer.status, answer.body.replace(o.xuid.encode(), b"the xuid that was given")


async def unused(stack: Stack) -> dict[str, str]:
    """Tokens that grant nothing."""
    made = {}
    for role, column, moment in (("expired", "expires_at", "now() - interval '1 s'"), ("revoked", "revoked_at", "now()")):
        answer = (await stack.ask("POST", "/v2/api-keys", {"scopes": ["manage", "keys", "scan"]})).made
        await stack.pool.execute(f"UPDATE api_key SET {column} = {moment} WHERE api_key_id = $1", answer["id"])
        made[role] = answer["token"]
    return {"none": "", "unknown": "ixf_" + "a" * 32, **made}


async def test_every_route_for_every_caller(stack: Stack) -> None:
    foreign_tokens = await stack.account("other")
    foreign = await furnish(stack, "other", foreign_tokens["both"])
    own = await furnish(stack, "mine", stack.tokens["both"])
    await stack.ask("POST", "/v2/meta-keys", {"key": KEY})
    tokens = await unused(stack) | {role: stack.tokens[role] for role in ("scan", "read", "manage", "keys", "both")}
    asked = 0
    state = "SELECT array_agg(a::text ORDER BY audit_id) FROM audit_log AS a WHERE account_id = $1"
    foreign_id = await stack.pool.fetchval("SELECT account_id FROM account WHERE aid = 'other'")
    before = await stack.pool.fetchval(state, foreign_id)
    for route in ROUTES:
        name = f"{route.method} {route.path}"
        refusals = set()
        for role, token in tokens.items():
            scopes = {"both": {"manage", "keys"}}.get(role, {role})
            if scopes.isdisjoint(route.scopes):
                refusals |= {await ask(stack, route, objects, token) for objects in (own, foreign, NOTHING)}
                asked += 3
                continue
            if route.path not in NAMES_NOBODY:
                stranger, nothing = await ask(stack, route, foreign, token), await ask(stack, route, NOTHING, token)
                assert stranger == nothing, (name, role)
                assert stranger[0] == 404 or b'"items":[]' in stranger[1], (name, role)
                asked += 2
            mine = await furnish(stack, "mine", stack.tokens["both"])
            if route.method == "DELETE":
                await empty(stack, route, mine)
            status, body = await ask(stack, route, mine, token)
            assert status == route.status, (name, role, body)
            asked += 1
        (refusal,) = refusals  # the same for all of them
        assert refusal[0] == 401 and b"unauthorised" in refusal[1], name
    assert await stack.pool.fetchval(state, foreign_id) == before  # its log contains no act of the account `mine`
    assert asked > 400
    for path in ("folders", "groups", "batches", "tags", "api-keys"):
        mine_all = {str(item.get("id", item.get("xuid"))) for item in await stack.all_of(f"/v2/{path}?limit=1000")}
        assert not mine_all & {str(getattr(foreign, kind)) for kind in (path[:-1], "xuid") if hasattr(foreign, kind)}


def test_reading_is_open_to_readers_and_nothing_else_is() -> None:
    for route in ROUTES:
        assert ("read" in route.scopes) is not route.writes, route
        assert "scan" not in route.scopes, route
        ends_with_keys = route.path.removesuffix("/{version}").endswith("keys")
        assert "manage" in route.scopes or (route.scopes == ("keys",) and ends_with_keys), route
    looks = [f"{route.method} {route.path}" for route in ROUTES if "read" in route.scopes]
    assert [look for look in looks if not look.startswith("GET ")] == ["POST /v2/rules/test"]


async def test_a_reader_sees_and_changes_nothing(stack: Stack) -> None:
    """Every route with each scope alone: whatever a reader may send, the account stays as it is, and no key is shown."""
    own = await furnish(stack, "mine", stack.tokens["both"])
    await stack.ask("POST", "/v2/meta-keys", {"key": KEY})
    state = "SELECT (SELECT max(audit_id) FROM audit_log), (SELECT generation FROM catalogue_generation)"
    before = await stack.pool.fetchrow(state)
    shown = b""
    for route in ROUTES:
        status, body = await ask(stack, route, own, stack.tokens["read"])
        assert status == (200 if "read" in route.scopes else 401), (route.method, route.path, body)
        shown += body
    assert await stack.pool.fetchrow(state) == before
    for secret in (KEY, OTHER_KEY, *stack.tokens.values()):
        assert secret.encode() not in shown and secret.upper().encode() not in shown


async def test_a_route_for_readers_cannot_write_by_mistake(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes that do not declare that they write run in a transaction that cannot: the control for the test above."""
    create = next(route for route in ROUTES if (route.method, route.path) == ("POST", "/v2/folders"))
    mistaken = create._replace(method="PUT", scopes=("read", "manage"), writes=False)
    app = web.Application()
    monkeypatch.setattr("ixfast.http.management.ROUTES", (mistaken,))
    add_management(app, stack.pool, stack.keks)
    runner, _ = await handlers(app, 10.0)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/folders"
        for role, status in (("read", 503), ("manage", 503), ("scan", 401)):
            headers = {"X-API-Key": stack.tokens[role]}
            async with stack.session.put(url, json={"name": "By mistake"}, headers=headers) as response:
                assert response.status == status, role
    finally:
        await runner.cleanup()
    assert (await stack.ask("GET", "/v2/folders")).json["items"] == []


async def test_scopes_that_a_key_can_grant(stack: Stack) -> None:
    for role, scopes, status in (
        ("manage", ["read"], 201),
        ("manage", ["read", "scan", "manage"], 201),
        ("manage", ["read", "keys"], 401),
        ("both", ["scan", "read", "manage", "keys"], 201),
        ("read", ["read"], 401),
        ("both", ["look"], 400),
        ("both", [], 400),
    ):
        answer = await stack.ask("POST", "/v2/api-keys", {"scopes": scopes}, token=stack.tokens[role])
        assert answer.status == status, (role, scopes, answer.text)
        if status == 201:
            assert sorted(answer.json["scopes"]) == sorted(scopes)
    assert "keys, manage, read, scan" in (await stack.ask("POST", "/v2/api-keys", {"scopes": ["look"]})).text


async def test_health_needs_no_key(stack: Stack) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/versions", "/openapi.json"):
        for token in ("", *(stack.tokens[role] for role in ("scan", "read", "manage", "keys"))):
            assert (await stack.ask("GET", path, token=token)).status == 200, path


def test_the_description_names_the_scopes() -> None:
    paths = description()["paths"]
    for route in ROUTES:
        security = paths[route.path][route.method.lower()]["security"]
        assert {(header, *scopes) for each in security for header, scopes in each.items()} == {
            (header, scope) for header in ("X-API-Key", "Ixkio-R", "bearer") for scope in route.scopes
        }, route
    for path, method in (("/v1/t", "get"), ("/v2/scans", "post"), ("/v2/scans/batch", "post")):
        assert paths[path][method]["security"][:2] == [{}, {"X-API-Key": ["scan"]}]


async def empty(stack: Stack, route: Route, o: Objects) -> None:
    """Delete everything below the object that is to be deleted."""
    below = [f"/v2/tags/{o.xuid}", f"/v2/batches/{o.batch}", f"/v2/groups/{o.group}", f"/v2/groups/{o.masters}"]
    depth = {"/v2/batches/{id}": 1, "/v2/groups/{id}": 2, "/v2/folders/{id}": 4}.get(route.path, 0)
    for path in below[:depth]:
        assert (await stack.ask("DELETE", path)).status == 204


async def test_another_accounts_objects_cannot_be_attached(stack: Stack) -> None:
    foreign = await furnish(stack, "other", (await stack.account("other"))["both"])
    own = await furnish(stack, "mine", stack.tokens["both"])
    for method, path, body in (
        ("PATCH", f"/v2/tags/{own.xuid}", {"group_id": "group"}),
        ("PATCH", f"/v2/tags/{own.xuid}", {"batch_id": "batch"}),
        ("PATCH", f"/v2/tags/{own.xuid}", {"batch_id": "batch", "group_id": own.group}),
        ("POST", "/v2/tags", {"group_id": "group"}),
        ("POST", "/v2/tags", {"group_id": own.group, "batch_id": "batch"}),
    ):
        answers = set()
        for objects in (foreign, NOTHING):
            given = {name: getattr(objects, value) if isinstance(value, str) else value for name, value in body.items()}
            answer = await stack.ask(method, path, given, headers=SAME_ID)
            answers.add((answer.status, answer.body))
        ((status, _),) = answers
        assert status == 404, body
    # Account-specific ids are free even if another account uses them.
    shared = {"cuid": foreign.cuid, "uid": foreign.uid, "batch_id": own.batch}
    assert (await stack.ask("POST", "/v2/tags", shared)).status == 201


async def test_a_key_is_shown_in_any_of_three_ways(stack: Stack) -> None:
    token = stack.tokens["manage"]
    for headers in ({"X-API-Key": token}, {"Ixkio-R": token}, {"Authorization": f"Bearer {token}"}):
        assert (await stack.ask("GET", "/v2/folders", token="", headers=headers)).status == 200
    assert (await stack.ask("GET", f"/v2/folders?r={token}", token="")).problem == (401, "unauthorised")


def test_every_route_is_in_the_matrix() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.body is not None} == set(BODIES)
    known = {"aid", "id", "xuid", "version"}
    assert {name for route in ROUTES for name in re.findall(r"\{(\w+)\}", route.path)} == known


async def test_an_account_that_was_forgotten_in_a_query_would_be_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the matrix: the responses differ as soon as one statement does not check the account of its object."""
    foreign = await furnish(stack, "other", (await stack.account("other"))["both"])
    route = next(route for route in ROUTES if (route.method, route.path) == ("GET", "/v2/tags/{xuid}"))
    token = stack.tokens["manage"]
    assert await ask(stack, route, foreign, token) == await ask(stack, route, NOTHING, token)
    statements = load("management")
    forgetful = statements["tag_by_xuid"].replace("account_id = $1", "$1::bigint IS NOT NULL")
    monkeypatch.setitem(statements, "tag_by_xuid", forgetful)
    assert await ask(stack, route, foreign, token) != await ask(stack, route, NOTHING, token)
