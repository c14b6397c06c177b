"""Whether pages of other origins may read answers: all may, unless the account forbids it; by the front door and by aiohttp."""

from collections.abc import Mapping

import pytest
from support import eventually, in_own_loop
from support.served import Answer, Served, manage, once, plain_target, target

from ixfast.testing.virtual_tags import VirtualFleet

SHUT = VirtualFleet(101, 30, account="shut")
READABLE = VirtualFleet(102, 30, account="readable")
WAYS: Mapping[str, Mapping[str, str]] = {"hot": {}, "aiohttp": {"Expect": ""}}
FIELD = "access-control-allow-origin"


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    for fleet in (SHUT, READABLE):
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
