"""`x` is a tag code, unless no tag has that code and a profile of the account puts a mirror there.

None of this reveals which codes another account has: such a code is treated like one that no account has.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from support.served import Answer, Connection, Served

from ixfast.domain.model import EncodingProfile
from ixfast.store.admin import edits
from ixfast.testing.virtual_tags import VirtualFleet

WHOLE = VirtualFleet(
    91, 20, EncodingProfile(name="x-whole", scheme="ntag223", template="x={uid}x{counter}x{mac}"), account="whole"
)
PART = VirtualFleet(
    92, 20, EncodingProfile(name="x-part", scheme="ntag424-aes", template="x={uid}x{counter}&e={mac}"), account="part"
)
CODED = VirtualFleet(
    93, 20, EncodingProfile(name="coded", scheme="ntag424-aes", template="x={xuid}&u={uid}&n={counter}&e={mac}"), account="coded"
)
BESIDE = VirtualFleet(94, 40, "plain-joined", account="beside")
FLEETS = (WHOLE, PART, CODED, BESIDE)
LONG_CODES = {"coded": "codedscodewithtwentyfourcharacters", "beside": "besidescodewithtwentyfourcharacters"}
NOBODYS = "nobodyscodewithtwentyfourcharacters"


async def _lengthen(connection: Any) -> None:
    """Give the first tag of two fleets a code that is as long as a mirror."""
    for fleet in (CODED, BESIDE):
        await connection.execute("UPDATE tag SET xuid = $2 WHERE xuid = $1", fleet.xuid(0), LONG_CODES[fleet.account])
        account_id = await edits.account_id_of(connection, fleet.account)
        await edits.changed(connection, ("account", account_id, None), ("all", None, None))


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    for fleet in FLEETS:
        server.provision(fleet, is_open=fleet is not CODED)
    server.in_database(_lengthen)
    return server


def query_of(url: str) -> str:
    return url.partition("?")[2]


async def v1(connection: Connection, aid: str, query: str, headers: Mapping[str, str]) -> Answer:
    return await connection.get(f"/v1/t?a={aid}&{query}", headers)


async def v1_by_aiohttp(connection: Connection, aid: str, query: str, headers: Mapping[str, str]) -> Answer:
    return await connection.get(f"/v1/t?a={aid}&{query}", {"Expect": "", **headers})


async def v2(connection: Connection, aid: str, query: str, headers: Mapping[str, str]) -> Answer:
    body = {"url": f"https://tag.example/t?{query}", "account": aid}
    return await connection.post("/v2/scans", body, headers)


async def v2_by_the_url(connection: Connection, aid: str, query: str, headers: Mapping[str, str]) -> Answer:
    return await connection.post("/v2/scans", {"url": f"https://tag.example/t?a={aid}&{query}"}, headers)


WAYS = {"v1": v1, "v1 by aiohttp": v1_by_aiohttp, "v2": v2, "v2, account in the URL": v2_by_the_url}


def verdict(answer: Answer) -> str:
    """The verdict in the terms of `/v1`."""
    said = answer.json
    word = said.get("error") or said.get("response")
    return {"unknown": "not_found"}.get(said.get("verdict"), word)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fleet", [WHOLE, PART], ids=["whole", "part"])
async def test_a_mirror_in_x_is_a_tap(fleets: Served, fleet: VirtualFleet, way: str) -> None:
    tag = fleet[list(WAYS).index(way)]
    key = {"X-API-Key": fleets.cli("api-key", "create", fleet.account).strip()}
    async with await Connection.open(fleets.port) as connection:
        for counter, headers in enumerate(({}, key), start=1):
            query = query_of(tag.tap_at(counter))
            said = [verdict(await WAYS[way](connection, fleet.account, query, headers)) for _ in "12"]
            assert said == ["Pass", "Fail"], (way, headers)
        forged = query_of(tag.forged())
        assert verdict(await WAYS[way](connection, fleet.account, forged, {})) == "Fail"
        assert verdict(await WAYS[way](connection, "stranger", query, {})) == "not_found"


@pytest.mark.parametrize("way", WAYS)
async def test_a_code_is_a_code_however_long(fleets: Served, way: str) -> None:
    """With a key, whichever account `a` names; and the rest of the tap does not excuse an unknown code."""
    tag, key = CODED[0], {"X-API-Key": fleets.cli("api-key", "create", CODED.account).strip()}
    counter = 1 + 2 * list(WAYS).index(way)
    async with await Connection.open(fleets.port) as connection:

        async def ask(aid: str, counter: int, code: str) -> str:
            query = query_of(tag.tap_at(counter)).replace(f"x={tag.xuid}", f"x={code}")
            return verdict(await WAYS[way](connection, aid, query, key))

        code = LONG_CODES[CODED.account]
        assert await ask(CODED.account, counter, NOBODYS) == "not_found"
        assert await ask(CODED.account, counter, code) == "Pass"
        if way != "v2":  # where `account` has no other meaning
            assert await ask("another", counter + 1, code) == "Pass"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asks", ["with its key", "without a key"])
async def test_another_accounts_code_is_what_nobody_has(fleets: Served, way: str, asks: str) -> None:
    """A genuine tap of the caller's own tag in the same query must not make a difference."""
    headers = {"X-API-Key": fleets.cli("api-key", "create", BESIDE.account).strip()} if asks == "with its key" else {}
    index = 1 + 4 * list(WAYS).index(way) + 2 * (asks == "with its key")
    said = []
    async with await Connection.open(fleets.port) as connection:
        for offset, code in enumerate((LONG_CODES[CODED.account], NOBODYS)):
            query = query_of(BESIDE[index + offset].tap_at(1))
            said.append(verdict(await WAYS[way](connection, BESIDE.account, f"x={code}&{query}", headers)))
        own = query_of(BESIDE[index].tap_at(2))  # not a tap of the tag that has this code
        control = verdict(await WAYS[way](connection, BESIDE.account, f"x={LONG_CODES[BESIDE.account]}&{own}", headers))
    assert said == ["Pass", "Pass"]
    assert control == "Fail"
