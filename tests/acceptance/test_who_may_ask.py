"""Which callers get answers about a tag: those with a valid, an invalid, another account's or no API key.

A tag that a caller may not know about gets, byte for byte, the same answer as one that does not exist.
"""

import asyncio
import datetime as dt
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from support.served import Answer, Connection, Served, once, plain_target, target

from ixfast.store.admin import edits
from ixfast.testing.virtual_tags import VirtualFleet

CLOSED = VirtualFleet(72, 20, account="closed-account")
ABSENT = VirtualFleet(74, 20, account="absent-stack")
CLOSED_MIRROR = VirtualFleet(75, 5, profile="encrypted-file", account="closed-mirror")
ABSENT_MIRROR = VirtualFleet(76, 5, profile="encrypted-file", account="absent-mirror")
PAIRS = {"plain": (CLOSED, ABSENT), "mirror": (CLOSED_MIRROR, ABSENT_MIRROR)}
IDEMPOTENT = {"Idempotency-Key": "the same", "X-Request-Id": "the same"}
INACTIVE = 4
"""The deactivated tag of every closed fleet."""


@pytest.fixture(scope="module")
def fleets(server: Served) -> Iterator[Served]:
    server.provision(CLOSED, is_open=False)
    server.provision(CLOSED_MIRROR, is_open=False)
    server.provision(VirtualFleet(77, 1, account="stranger"))
    names = [CLOSED.xuid(INACTIVE), CLOSED_MIRROR.xuid(INACTIVE)]
    server.in_database(lambda c: c.execute("UPDATE tag SET active = false WHERE xuid = ANY ($1)", names))
    yield server


def _api_key(server: Served, aid: str, *scopes: str, expired: bool = False) -> str:
    async def work(connection: Any) -> str:
        past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1) if expired else None
        async with connection.transaction():
            account_id = await edits.account_id_of(connection, aid)
            token = await edits.create_api_key(connection, account_id, scopes, expires_at=past)
            await edits.changed(connection, ("api_key", None, None))
            return token

    token: str = server.in_database(work)
    return token


def _shown(token: str) -> list[tuple[str, Mapping[str, str]]]:
    """The four ways to send a token: what is added to the query, and the header."""
    headers = ({"X-API-Key": token}, {"Ixkio-R": token}, {"Authorization": f"Bearer {token}"})
    return [("", header) for header in headers] + [(f"&r={token}", {})]


def _said(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, sorted(answer.headers.items()), answer.body


async def test_a_closed_account_has_one_answer_for_every_bad_token(fleets: Served) -> None:
    path = plain_target(CLOSED, 0, 1)
    good = fleets.cli("api-key", "create", CLOSED.account).strip()
    bad = ["ixf_unknown", _api_key(fleets, CLOSED.account, "manage"), _api_key(fleets, CLOSED.account, "scan", expired=True)]
    refused = []
    for token in bad:
        refused += [_said(await once(fleets.port, path + query, headers)) for query, headers in _shown(token)]
    assert refused[0][0] == 401
    assert all(said == refused[0] for said in refused)
    for counter, (query, headers) in enumerate(_shown(good), start=1):
        answer = await once(fleets.port, plain_target(CLOSED, 0, counter) + query, headers)
        assert answer.passed, (query, headers)


async def test_an_account_that_is_switched_off_takes_its_keys_with_it(fleets: Served) -> None:
    fleet = VirtualFleet(78, 2, account="switched-off")
    fleets.provision(fleet)
    with_key = {"X-API-Key": _api_key(fleets, fleet.account, "scan")}
    assert (await once(fleets.port, plain_target(fleet, 0, 1), with_key)).passed
    await _switch(fleets, fleet.account, active=False)
    assert (await once(fleets.port, plain_target(fleet, 0, 2), with_key)).status == 401
    assert (await once(fleets.port, plain_target(fleet, 0, 2))).json["error"] == "folder_inactive"
    await _switch(fleets, fleet.account, active=True)
    assert (await once(fleets.port, plain_target(fleet, 0, 2), with_key)).passed


async def _switch(server: Served, aid: str, *, active: bool) -> None:
    """Activate or deactivate an account, and wait for as long as a change may take to reach every worker."""

    async def work(connection: Any) -> None:
        async with connection.transaction():
            account_id = await edits.account_id_of(connection, aid)
            await connection.execute("UPDATE account SET active = $2 WHERE account_id = $1", account_id, active)
            await edits.changed(connection, ("account", account_id, None))

    await asyncio.to_thread(server.in_database, work)
    await asyncio.sleep(1)


async def test_a_bad_token_is_401_through_v2_in_every_form(fleets: Served) -> None:
    body = {"xuid": CLOSED.xuid(1), "counter": 1, "code": CLOSED.plain_tap(1, 1)[2]}
    async with await Connection.open(fleets.port) as connection:
        for query, headers in _shown("ixf_unknown"):
            answer = await connection.post(f"/v2/scans?{query}", body, headers)
            assert (answer.status, answer.json["error"]["code"]) == (401, "unauthorised")


class Question(NamedTuple):
    """A request about a tag: a target of `/v1/t`, or a body for `/v2`."""

    path: str
    body: Any = None


def questions(fleet: VirtualFleet, index: int) -> dict[str, Question]:
    """Every way to identify a tag, on `/v1` in the hot form and in others, and on `/v2`."""
    tag = fleet[index]
    aid, xuid, uid = fleet.account, fleet.xuid(index), fleet.uid(index).hex().upper()
    named = {"x": {"x": xuid}, "u": {"a": aid, "u": uid}, "c": {"a": aid, "c": "own id"}, "x and u": {"x": xuid, "u": uid}}
    parameters = tag.parameters_at(1)
    asked = {f"/v1 {name}": Question(target({**parameters, **by})) for name, by in named.items()}
    asked |= {f"/v1 {name} alone": Question(target(by)) for name, by in named.items()}
    asked["/v1 mirror"] = Question(target({"a": aid, **{n: v for n, v in parameters.items() if n not in ("x", "u")}}))
    asked["/v1 bad mirror"] = Question(target({"a": aid, "picc_data": "zz", "enc": "zz", "cmac": "zz", "e": "0"}))
    bodies = {
        "url": {"url": tag.tap_at(1), "account": aid},
        "uid": {"uid": uid, "account": aid},
        "cuid": {"cuid": "own id", "account": aid, "counter": 1},
        "xuid": {"xuid": xuid, "counter": 1, "code": "0" * 16},
        "parameters": {"parameters": parameters, "account": aid},
        "bad mirror": {"url": "https://tag.example/?picc_data=zz&enc=zz&cmac=zz&e=0", "account": aid},
    }
    # A key says by itself which account is meant; another one in the body is an error.
    bodies |= {f"{name} without account": {**body, "account": ""} for name, body in bodies.items()}
    for path in ("/v2/scans", "/v2/scans?peek=true"):
        asked |= {f"{path} {name}": Question(path, body) for name, body in bodies.items()}
    asked["/v2/scans/batch"] = Question("/v2/scans/batch", {"scans": list(bodies.values())})
    return asked


async def ask(port: int, question: Question, headers: Mapping[str, str], fleet: VirtualFleet, index: int) -> Any:
    """Status, headers and body, with the requested tag code replaced."""
    async with await Connection.open(port) as connection:
        if question.body is None:
            answer = await connection.get(question.path, headers)
        else:
            answer = await connection.post(question.path, question.body, {**IDEMPOTENT, **headers})
    status, fields, body = _said(answer)
    body = re.sub(rb'"scan_id":"[0-9a-f]{16}"', b'"scan_id":""', body)  # derived from the caller's own input, or random
    return status, fields, body.replace(fleet.xuid(index).encode(), b"XUID")


@pytest.mark.parametrize("index", [0, INACTIVE], ids=["active", "inactive"])
@pytest.mark.parametrize("way", PAIRS)
async def test_what_a_caller_may_not_know_about_is_what_does_not_exist(fleets: Served, way: str, index: int) -> None:
    closed, absent = PAIRS[way]
    stranger = fleets.cli("api-key", "create", "stranger").strip()
    found = set()
    # aiohttp serves requests with a header field that the front door does not expect.
    for headers in ({}, {"Expect": ""}, {"X-API-Key": stranger}, {"Expect": "", "X-API-Key": stranger}):
        pairs = zip(questions(closed, index).items(), questions(absent, index).values(), strict=True)
        for (name, theirs), nobodys in pairs:
            said = await ask(fleets.port, theirs, headers, closed, index)
            assert said == await ask(fleets.port, nobodys, headers, absent, index), (name, headers)
            assert said[0] in (200, 400, 404) and b"unauthorised" not in said[2], (name, said)
            challenge = [value for field, value in said[1] if field == "www-authenticate"]
            unknown = b'"not_found"' in said[2] and "batch" not in name
            assert challenge == ['Bearer realm="ixfast"'] * (unknown and "X-API-Key" not in headers), (name, said)
            found.add((name.split()[0], said[0]))
    assert {("/v1", 404), ("/v2/scans", 200), ("/v2/scans/batch", 200)} <= found


async def test_whoever_may_ask_is_answered(fleets: Served) -> None:
    """The control: with the account's own key, the answers for the two fleets of a pair differ."""
    for way, (closed, absent) in PAIRS.items():
        own = {"X-API-Key": fleets.cli("api-key", "create", closed.account).strip()}
        for name in ("/v1 x", "/v1 u", "/v2/scans?peek=true url", *(["/v1 mirror"] if way == "mirror" else [])):
            theirs, nobodys = questions(closed, 1)[name], questions(absent, 1)[name]
            said = await ask(fleets.port, theirs, own, closed, 1)
            assert said != await ask(fleets.port, nobodys, own, absent, 1), name
            assert b'"response"' in said[2], (name, said)
