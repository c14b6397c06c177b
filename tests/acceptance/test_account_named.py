"""A scan that names an account is about the tags of that account, whichever tag its URL names.

A tag of another account gets, byte for byte, the answer of one that does not exist, and is not consumed.
"""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from support.served import Connection, Served, once

from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

TEMPLATES = {"code": "x={xuid}&u={uid}&n={counter}&e={mac}", "path": "/{aid}/{xuid}/{uid}/{counter}/{mac}"}
B, C = {"open": "b-open", "closed": "b-closed"}, {"open": "c-open", "closed": "c-closed"}
KEYS = ("none", "of B", "of C")
MEMBERS = ("absent", "B", "C", "nobody")
ROUTES = ("/v2/scans", "/v2/scans?peek=true", "/v2/scans/batch", "/v2/scans/batch?peek=true")
COUNT = 450


def fleet(place: str, account: str, seed: int) -> VirtualFleet:
    """Tags whose taps name them by a code, or by account and code in the path. All accounts have the same profiles."""
    profile = EncodingProfile(name=place, scheme="ntag424-aes", template=TEMPLATES[place])
    return VirtualFleet(seed, COUNT, profile, account=account)


ACCOUNTS = (*B.values(), *C.values())
FLEETS = {
    (place, aid): fleet(place, aid, 600 + 2 * ACCOUNTS.index(aid) + (place == "path")) for place in TEMPLATES for aid in ACCOUNTS
}
ABSENT = {(place, aid): fleet(place, aid, 640 + 2 * ACCOUNTS.index(aid) + (place == "path")) for place, aid in FLEETS}


class Accounts:
    """The server with all accounts, an API key of each, and tags that have not been tapped."""

    def __init__(self, server: Served) -> None:
        self.port = server.port
        for aid in ACCOUNTS:
            server.provision(*(FLEETS[place, aid] for place in TEMPLATES), is_open="open" in aid)
        self._keys = {aid: server.cli("api-key", "create", aid).strip() for aid in ACCOUNTS}
        self._used = 0

    def header(self, aid: str | None) -> dict[str, str]:
        return {"X-API-Key": self._keys[aid]} if aid is not None else {}

    def fresh(self, place: str, aid: str) -> tuple[VirtualTag, VirtualTag]:
        """A tag that has not been tapped, and one that does not exist."""
        self._used += 1
        return FLEETS[place, aid][self._used], ABSENT[place, aid][self._used]

    async def ask(self, route: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and answer, without what differs between any two scans."""
        async with await Connection.open(self.port) as connection:
            sent = {"scans": [body]} if "batch" in route else body
            answer = await connection.post(route, sent, {"X-Request-Id": "same", **headers})
        said = answer.json["scans"][0] if "batch" in route else answer.json
        said.pop("scan_id", None)
        return answer.status, said


@pytest.fixture(scope="module")
def accounts(server: Served) -> Accounts:
    return Accounts(server)


def expected(place: str, which: str, member: str, key: str) -> str:
    """The verdict on a genuine tap of B's tag, or the error."""
    if key == "of B":
        return "genuine" if member in ("absent", "B") else "invalid_parameter"
    if key == "of C":
        return "unknown" if member in ("absent", "C") else "invalid_parameter"
    if member == "absent" and place == "path" and which == "closed":
        return "missing_parameter"  # for callers without a key, the path names no account
    return "genuine" if member in ("absent", "B") and which == "open" else "unknown"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("which", B)
@pytest.mark.parametrize("place", TEMPLATES)
async def test_whose_tags_a_scan_is_about(accounts: Accounts, place: str, which: str, member: str, key: str) -> None:
    for c in C.values():
        named = {"absent": {}, "B": {"account": B[which]}, "C": {"account": c}, "nobody": {"account": "nobody"}}[member]
        headers = accounts.header({"none": None, "of B": B[which], "of C": c}[key])
        for route in ROUTES:
            tag, absent = accounts.fresh(place, B[which])
            url = tag.tap_at(1)
            status, said = await accounts.ask(route, {"url": url, **named}, headers)
            verdict = said["error"]["code"] if "error" in said else said["verdict"]
            assert verdict == expected(place, which, member, key), (route, said)
            if verdict == "genuine":
                continue
            assert (status, said) == await accounts.ask(route, {"url": absent.tap_at(1), **named}, headers)
            _, owners = await accounts.ask("/v2/scans", {"url": url}, accounts.header(B[which]))
            assert (owners["verdict"], owners["scan_count"], owners["previous_counter"]) == ("genuine", 1, None), route


@pytest.mark.parametrize("member", ["C", "nobody"])
@pytest.mark.parametrize("by", ["xuid", "query", "the url of another profile"])
async def test_however_the_tag_is_named(accounts: Accounts, by: str, member: str) -> None:
    account = {"C": C["open"], "nobody": "nobody"}[member]
    said = []
    for tag in accounts.fresh("code", B["open"]):
        query = tag.tap_at(1).partition("?")[2]
        sent: dict[str, Any] = {"query": query}
        if by == "xuid":
            x, _, n, e = (text.partition("=")[2] for text in query.split("&"))
            sent = {"xuid": x, "counter": n, "code": e}
        elif by == "the url of another profile":
            sent = {"url": f"https://tag.example/any?lang=de&{query}#top"}
        said.append(await accounts.ask("/v2/scans", {**sent, "account": account}, {}))
        control = await accounts.ask("/v2/scans", {**sent, "account": ""}, {})
        assert control[1]["verdict"] == ("unknown" if len(said) == 2 else "genuine")
    assert said[0] == said[1] and said[0][1]["verdict"] == "unknown"


@pytest.mark.parametrize("way", [{}, {"Expect": ""}], ids=["front door", "aiohttp"])
@pytest.mark.parametrize(
    ("named", "key", "answer"),
    [
        (B["open"], None, "Pass"),
        (C["open"], None, "not_found"),
        (B["open"], B["open"], "Pass"),
        (C["open"], B["open"], "Pass"),  # the key says whose tag it is, and `a` may be the tap's own
        (B["open"], C["open"], "not_found"),
        (C["open"], C["open"], "not_found"),
        (C["closed"], None, "Pass"),  # to a caller without a key, these name no account, as any text of the tap's own
        ("red", None, "Pass"),
    ],
)
async def test_the_a_of_v1(accounts: Accounts, named: str, key: str | None, answer: str, way: dict[str, str]) -> None:
    headers = {**accounts.header(key), **way}
    said = []
    for tag in accounts.fresh("code", B["open"]):
        for extra in ("", "&lang=de"):  # with parameters that only a profile may know, and without
            query = f"{tag.tap_at(1).partition('?')[2].replace('&u=', '&w=')}{extra}&a={named}"
            found = await once(accounts.port, f"/v1/t?{query}", headers)
            said.append((found.status, re.sub(rb'"xuid":"\w+"', b"", found.body)))
    for (_, body), word in zip(said[:2], (answer, "Fail" if answer == "Pass" else answer), strict=True):
        assert f'"{word}"'.encode() in body
    assert said[2:] == [(404, said[2][1])] * 2 and b'"not_found"' in said[2][1]
    assert answer == "Pass" or said[:2] == said[2:]


@pytest.mark.parametrize("account", ["no such account", "a" * 65, "b-open\0", "ä"])
async def test_an_account_that_cannot_be_one(accounts: Accounts, account: str) -> None:
    tag, _ = accounts.fresh("code", B["open"])
    status, said = await accounts.ask("/v2/scans", {"url": tag.tap_at(1), "account": account}, {})
    assert (status, said["error"]["field"]) == (400, "account")
    assert said["error"]["message"] == "account must be 1 to 64 letters, digits, hyphens and underscores."
