"""Whether pages of other origins may read answers: all may, unless the account forbids it; by the front door and by aiohttp."""

from collections.abc import Mapping
from typing import Any

import pytest
from support import eventually, in_own_loop
from support.served import Answer, Connection, Served, manage, once, plain_target, target

from ixfast.testing.virtual_tags import VirtualFleet

SHUT = VirtualFleet(101, 30, account="shut")
READABLE = VirtualFleet(102, 30, account="readable")
SHUT_URLS = VirtualFleet(103, 2, "plain-uid-counter", account="shut-urls")
READABLE_URLS = VirtualFleet(104, 2, "plain-uid-counter", account="readable-urls")
WAYS: Mapping[str, Mapping[str, str]] = {"hot": {}, "aiohttp": {"Expect": ""}}
FIELD = "access-control-allow-origin"


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    for fleet in (SHUT, READABLE, SHUT_URLS, READABLE_URLS):
        server.provision(fleet)
    in_own_loop(lambda: forbid(server))
    return server


async def forbid(server: Served) -> None:
    token = server.cli("api-key", "create", SHUT.account, "--scope", "manage").strip()
    path = plain_target(SHUT, 0, 1)
    assert FIELD in (await once(server.port, path)).headers  # the control: before it is forbidden
    updated = await manage(server, token, "PATCH", f"/v2/accounts/{SHUT.account}", {"cors": False})
    assert updated["cors"] is False

    async def every_worker_knows() -> bool:
        return not any([FIELD in (await once(server.port, path)).headers for _ in range(8)])

    await eventually(every_worker_knows)
    # No worker has looked this account up yet.
    token = server.cli("api-key", "create", SHUT_URLS.account, "--scope", "manage").strip()
    await manage(server, token, "PATCH", f"/v2/accounts/{SHUT_URLS.account}", {"cors": False})


async def answers(server: Served, fleet: VirtualFleet, index: int, headers: Mapping[str, str]) -> dict[str, Answer]:
    """A pass, and every other kind of answer about a tag."""
    path, parameters = plain_target(fleet, index, 1), fleet[index].parameters_at(1)
    asked = {
        "pass": path,
        "used": path,
        "forged": target({**parameters, "e": "0" * 16}),
        "incomplete": target({"x": fleet.xuid(index)}),
        "bad form": target({**parameters, "e": "00"}),
        "by uid": target({**parameters, "a": fleet.account, "u": fleet.uid(index).hex().upper()}),
    }
    return {name: await once(server.port, each, {"Origin": "https://shop.example", **headers}) for name, each in asked.items()}


@pytest.mark.parametrize("way", WAYS)
async def test_an_account_may_forbid_that_other_origins_read_answers(fleets: Served, way: str) -> None:
    index = 1 + list(WAYS).index(way)
    shut, readable = [await answers(fleets, fleet, index, WAYS[way]) for fleet in (SHUT, READABLE)]
    assert shut["pass"].passed and readable["pass"].passed
    for name in shut:
        assert shut[name].status == readable[name].status
        assert FIELD not in shut[name].headers, name
        assert readable[name].headers.pop(FIELD) == "*", name
        assert {*shut[name].headers} == {*readable[name].headers}, name


@pytest.mark.parametrize("way", WAYS)
async def test_what_belongs_to_no_account_is_open(fleets: Served, way: str) -> None:
    for parameters, status in (({"x": "nosuchtag"}, 404), ({"n": "000001"}, 400)):
        answer = await once(fleets.port, target(parameters), WAYS[way])
        assert (answer.status, answer.headers[FIELD]) == (status, "*")


PREFLIGHTS = {
    "content-type": "content-type",
    "cache-control": "cache-control, pragma",
    "a key": "x-api-key, authorization, ixkio-r",
    "a retry": "idempotency-key,x-request-id",
    "tracing": "traceparent, x-requested-with",
}


@pytest.mark.parametrize("path", ["/v1/t", "/v1/t/", "/v2/scans", "/v2/scans/", "/v2/scans/batch", "/v2/scans/batch/"])
@pytest.mark.parametrize("fields", PREFLIGHTS)
async def test_preflight_requests_are_answered_for_every_header_field(fleets: Served, path: str, fields: str) -> None:
    method = "GET" if path.startswith("/v1") else "POST"
    asked = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": PREFLIGHTS[fields],
    }
    answer = await once(fleets.port, f"{path}?x=abcd1234", asked, method="OPTIONS")
    assert (answer.status, answer.headers[FIELD]) == (204, "*")
    assert {method, "OPTIONS"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert all(name in allowed or (name != "authorization" and "*" in allowed) for name in PREFLIGHTS[fields].split(", "))


async def v2(server: Served, content: Any, path: str = "/v2/scans", headers: Mapping[str, str] | None = None) -> Answer:
    async with await Connection.open(server.port) as connection:
        return await connection.post(path, content, {"Origin": "https://shop.example", **(headers or {})})


def v2_scan(fleet: VirtualFleet, index: int, **changed: str) -> dict[str, str]:
    x, n, e = fleet.plain_tap(index, 1)
    return {"xuid": x, "counter": n, "code": e, **changed}


async def test_the_accounts_switch_counts_on_v2(fleets: Served) -> None:
    for fleet, readable in ((SHUT, False), (READABLE, True)):
        answers = {
            "pass": await v2(fleets, v2_scan(fleet, 10)),
            "used": await v2(fleets, v2_scan(fleet, 10)),
            "bad form": await v2(fleets, v2_scan(fleet, 11, code="00")),
            "batch": await v2(fleets, {"scans": [v2_scan(READABLE, 12), v2_scan(fleet, 13)]}, "/v2/scans/batch"),
            "with a slash": await v2(fleets, v2_scan(fleet, 14), "/v2/scans/"),
        }
        assert answers["pass"].json["verdict"] == answers["with a slash"].json["verdict"] == "genuine"
        assert {name: answer.headers.get(FIELD) for name, answer in answers.items()} == dict.fromkeys(
            answers, "*" if readable else None
        )


async def test_a_complaint_about_a_profile_belongs_to_its_account(fleets: Served) -> None:
    """Also on taps that lead to no tag. That there is no such tag reveals nothing of the account."""
    for fleet, field in ((SHUT_URLS, None), (READABLE_URLS, "*")):
        whole = fleet[0].tap().partition("?")[2]
        for query in (whole[:-1], whole.replace("&", "&amp;"), whole.replace("uid=04", "uid=0g")):
            malformed = await v2(fleets, {"query": query, "account": fleet.account})
            assert (malformed.status, malformed.headers.get(FIELD)) == (400, field), query
        on_v1 = await once(fleets.port, f"/v1/t?{whole[:-1]}&a={fleet.account}")
        assert (on_v1.status, on_v1.headers.get(FIELD)) == (400, field)
        unknown = await v2(fleets, {"query": whole.replace("uid=04", "uid=05"), "account": fleet.account})
        assert (unknown.json["verdict"], unknown.headers.get(FIELD)) == ("unknown", "*")


async def test_what_belongs_to_no_account_is_open_on_v2(fleets: Served) -> None:
    for content, status in (({"xuid": "nosuchtag"}, 200), ({"xuid": "?"}, 400), ({"surprise": 1}, 400)):
        answer = await v2(fleets, content)
        assert (answer.status, answer.headers[FIELD]) == (status, "*")
    refused = await v2(fleets, {"xuid": "nosuchtag"}, headers={"X-API-Key": "unknown"})
    assert (refused.status, refused.headers[FIELD]) == (401, "*")
    for path, status in (("/v1/nothing", 404), ("/v2/scans", 405)):
        answer = await once(fleets.port, path)
        assert (answer.status, answer.headers[FIELD]) == (status, "*")


async def test_a_path_may_end_with_a_slash(fleets: Served) -> None:
    x, n, e = READABLE.plain_tap(20, 1)
    path = f"/v1/t/?x={x}&n={n}&e={e}"
    assert (await once(fleets.port, path, method="HEAD")).status == 200
    assert (await once(fleets.port, path)).passed
    assert (await once(fleets.port, path)).failed
    shut = await once(fleets.port, plain_target(SHUT, 21, 1).replace("/v1/t?", "/v1/t/?"))
    assert shut.passed and FIELD not in shut.headers
    assert (await once(fleets.port, path.replace("/t/?", "/t//?"))).status == 404
