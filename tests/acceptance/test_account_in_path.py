"""Whose tap it is may stand in the path of its URL, where an encoding profile of that account says so."""

from typing import Any

import pytest
from support.served import Connection, Served

from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualFleet

PROFILE = EncodingProfile(name="named", scheme="ntag424-aes", template="/{aid}/{picc}/{mac}")
OPEN = VirtualFleet(95, 10, PROFILE, account="open-path")
CLOSED = VirtualFleet(96, 10, PROFILE, account="closed-path")
ABSENT = VirtualFleet(97, 10, PROFILE, account="absent-path")
UNNAMED = VirtualFleet(98, 10, "path", account="t")  # as the first segment of every simulated tap


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    server.provision(OPEN)
    server.provision(CLOSED, is_open=False)
    server.provision(UNNAMED)
    return server


async def scan(server: Served, url: str, **headers: str) -> Any:
    """The answer to a scan, and to the same one as the only one of a batch, without their ids."""
    async with await Connection.open(server.port) as connection:
        answer = await connection.post("/v2/scans?peek=true", {"url": url}, {"X-Request-Id": "same", **headers})
        batch = await connection.post("/v2/scans/batch?peek=true", {"scans": [{"url": url}]}, {"X-Request-Id": "same", **headers})
    one, of_batch = answer.json, batch.json["scans"][0]
    for said in (one, of_batch):
        said.pop("scan_id", None)
    assert one == of_batch
    return one


async def test_the_path_says_whose_tap_it_is(fleets: Served) -> None:
    tap = OPEN[0].tap()
    path = tap.removeprefix("https://tag.example")
    for url in (tap, f"tag.example{path}", f"localhost:80{path}", tap.replace("/t/", "/"), f"{tap}?lang=de", f"{tap}#top"):
        said = await scan(fleets, url)
        assert (said["verdict"], said["tag"]["xuid"]) == ("genuine", OPEN.xuid(0)), url
    async with await Connection.open(fleets.port) as connection:
        verdicts = [(await connection.post("/v2/scans", {"url": tap})).json["verdict"] for _ in "12"]
    assert verdicts == ["genuine", "replayed"]


async def test_a_segment_that_no_profile_names_is_no_account(fleets: Served) -> None:
    said = await scan(fleets, UNNAMED[0].tap())
    assert (said["error"]["code"], said["error"]["field"]) == ("missing_parameter", "account")
    said = await scan(fleets, OPEN[1].tap().replace("/t/", "/a/b/c/d/"))  # too deep in
    assert said["error"]["code"] == "missing_parameter"


async def test_a_closed_account_is_none_without_its_key(fleets: Served) -> None:
    tap = CLOSED[0].tap()
    closed, absent = await scan(fleets, tap), await scan(fleets, ABSENT[0].tap())
    assert closed == absent and closed["error"]["code"] == "missing_parameter"
    token = fleets.cli("api-key", "create", CLOSED.account).strip()
    assert (await scan(fleets, tap, **{"X-API-Key": token}))["verdict"] == "genuine"
