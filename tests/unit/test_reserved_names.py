"""Taps whose parameters have the names of `/v1/t`: what those cannot mean is read by the account's profiles, as on `/v2`."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from support.two_ways import HOST, World, get, token_of

from ixfast.chips import PRESETS
from ixfast.domain.model import EncodingProfile
from ixfast.http.reserved_names import warnings_of
from ixfast.http.v1_query import sent_code
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

TEMPLATES = (
    "u={uid}&n={counter}&c={mac}",
    "u={uid}&c={counter}&m={mac}",
    "u={picc}&c={mac}",
    "n={picc}&c={mac}",
    "c={picc}&m={mac}",
    "i={uid}&k={counter}&u={mac}",
    "n={uid}&k={counter}&c={mac}",
    "u={uid}&r={counter}&m={mac}",
    "x={counter}&u={uid}&m={mac}",
    "x={uid}&n={counter}&e={mac}",
    "e={counter}&i={uid}&cmac={mac}",
    "e={uid}x{counter}&n={mac}",
    "ip={uid}&ua={counter}&c={mac}",
    "r={picc}&e={mac}",
    "c={uid}&u={counter}&x={mac}",
    "u={xuid}&i={uid}&n={counter}&e={mac}",
)
ONLY_WITH_A_KEY = ("a={uid}&n={counter}&e={mac}", "a={counter}&u={uid}&c={mac}")
"""Where `a` is the tag's own parameter, it cannot name the account."""


def fleet_of(seed: int, template: str) -> VirtualFleet:
    profile = EncodingProfile(name=f"own-{seed}", scheme="ntag424-aes", template=template)
    return VirtualFleet(700 + seed, 8, profile, account=f"acc{seed}")


FLEETS = {template: fleet_of(seed, template) for seed, template in enumerate((*TEMPLATES, *ONLY_WITH_A_KEY))}


class KnownTag(VirtualFleet):
    """One tag whose MACs are published: C49606EE6F334D39 at counter 1."""

    def uid(self, index: int) -> bytes:
        return bytes.fromhex("04A1B2C3D4E5F6")

    def file_key(self, index: int) -> bytes:
        return bytes(range(16))


KNOWN = KnownTag(692, 1, EncodingProfile(name="known", scheme="ntag424-aes", template="u={uid}&n={counter}&c={mac}"), account="A")
USUAL = VirtualFleet(690, 40, "plain-uid-counter", account="usual")
CODED = VirtualFleet(691, 20, account="coded")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    one = World(*FLEETS.values(), USUAL, CODED, KNOWN)
    await one.start()
    yield one
    await one.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(world: World, request: bytes, *, door: bool) -> tuple[int, Any]:
    stream, _ = await world.say(request, door=door)
    head, _, body = stream.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(re.sub(rb"-{20,}", b'"masked":true', body))


async def v1(world: World, query: str, fields: bytes = b"", *, door: bool = True) -> str:
    """The response text, or the error with its parameter."""
    _, said = await ask(world, get(f"/v1/t?{query}".encode(), HOST + fields), door=door)
    text: str = said.get("response") or " ".join(filter(None, (said["error"], said.get("parameter"))))
    return text


async def v2(world: World, content: dict[str, str], fields: bytes = b"") -> Any:
    body = json.dumps(content).encode()
    head = b"POST /v2/scans HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n" % (HOST, fields, len(body))
    return (await ask(world, head + body, door=False))[1]


def query_of(tag: VirtualTag) -> str:
    return tag.tap().partition("?")[2]


def key(fleet: VirtualFleet) -> bytes:
    return b"X-API-Key: %b\r\n" % token_of(fleet).encode()


@pytest.mark.parametrize("door", [True, False], ids=["front door", "aiohttp"])
@pytest.mark.parametrize("template", TEMPLATES)
async def test_a_genuine_tap_passes_once_whatever_its_names(world: World, template: str, door: bool) -> None:
    fleet = FLEETS[template]
    tag = fleet[0 if door else 1]
    for query in (f"{query_of(tag)}&a={fleet.account}", f"a={fleet.account}&{query_of(tag)}"):
        assert [await v1(world, query, door=door) for _ in "12"] == ["Pass", "Fail"]
    forged = f"{tag.forged().partition('?')[2]}&a={fleet.account}"
    assert await v1(world, forged, door=door) in ("Fail", "not_found")  # a forged mirror may name no tag at all


@pytest.mark.parametrize("template", [*TEMPLATES, *ONLY_WITH_A_KEY])
async def test_a_key_names_the_account_as_well(world: World, template: str) -> None:
    fleet = FLEETS[template]
    tag = fleet[2]
    for door in (True, False):
        query = query_of(tag)
        assert [await v1(world, query, key(fleet), door=door) for _ in "12"] == ["Pass", "Fail"]
    with_both = f"{query_of(tag)}&r={token_of(fleet)}"
    if "r={" not in template:
        assert await v1(world, with_both) == "Pass"


@pytest.mark.parametrize("template", [*TEMPLATES, *ONLY_WITH_A_KEY])
async def test_both_endpoints_say_the_same(world: World, template: str) -> None:
    fleet = FLEETS[template]
    tag = fleet[3]
    assert (await v2(world, {"url": tag.tap(), "account": fleet.account}))["verdict"] == "genuine"
    assert (await v2(world, {"url": tag.tap()}, key(fleet)))["verdict"] == "genuine"
    assert await v1(world, query_of(tag), key(fleet)) == "Pass"


async def test_a_tap_with_published_values(world: World) -> None:
    query = "a=A&u=04A1B2C3D4E5F6&n=000001&c=C49606EE6F334D39"
    assert [await v1(world, query) for _ in "12"] == ["Pass", "Fail"]
    assert await v1(world, query.replace("000001", "000002")) == "Fail"


FOREIGN = (
    "n=1",
    "c=red",
    "u=7",
    "e=z",
    "x=1",
    "x=a-b",
    "r=summer",
    "ip=shop",
    "ua=kiosk",
    "n=000001",
    "e=0011223344556677",
    "x=1&c=2&u=3",
)


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_a_constant_of_such_a_name_beside_a_tap(world: World, foreign: str) -> None:
    tag = USUAL[FOREIGN.index(foreign)]
    for query in (f"{query_of(tag)}&{foreign}&a=usual", f"{foreign}&{query_of(tag)}&a=usual"):
        assert await v1(world, query) == "Pass"
    assert await v1(world, f"{query_of(tag)}&{foreign}", key(USUAL)) == "Pass"
    assert (await v2(world, {"url": f"{tag.tap()}&{foreign}", "account": "usual"}))["verdict"] == "genuine"


async def test_the_profile_of_the_named_tag_decides_about_n_and_e(world: World) -> None:
    """Also without an account: `n` means nothing to a profile that calls the counter `ctr`."""
    fleet = FLEETS["u={xuid}&i={uid}&n={counter}&e={mac}"]
    assert await v1(world, f"x={USUAL.xuid(30)}&n=1&{query_of(USUAL[30])}") == "Pass"
    assert await v1(world, f"x={CODED.xuid(0)}&n=1&e=0011223344556677") == "invalid_parameter n"
    assert await v1(world, f"x={fleet.xuid(7)}&n=000001&e=zz") == "invalid_parameter e"


async def test_where_the_account_is_unknown_a_malformed_reference_is_an_error(world: World) -> None:
    said = {
        "u=123&n=000001": "missing_parameter a",
        "x=a-b": "invalid_parameter x",
        "n=000001": "missing_parameter x",
        "x=abcd1234&r=summer": "unauthorised",
        "a=b/c&u=04A1B2C3D4E5F6": "invalid_parameter a",
    }
    assert {query: await v1(world, query) for query in said} == said


async def test_what_no_profile_reads_is_the_error_it_was(world: World) -> None:
    said = {
        "u=123&a=coded": "invalid_parameter u",
        "c=nobody&a=coded": "not_found",
        "u=04FFFFFFFFFFFF&a=coded": "not_found",
        "u=123&a=nobody": "invalid_parameter u",
        "x=a-b&a=usual&k=1": "invalid_parameter x",
        "a=coded": "not_found",
    }
    assert {query: await v1(world, query) for query in said} == said


async def test_the_meaning_that_v1_reserves_goes_first(world: World) -> None:
    tag = CODED[1]
    rest = "&".join(pair for pair in query_of(tag).split("&") if pair[:2] not in ("x=", "u="))
    for counter, reference in enumerate((f"x={tag.xuid}", "c=691-1", f"u={tag.uid.hex().upper()}"), start=1):
        assert counter == tag.counter
        assert [await v1(world, f"{reference}&{rest}&a=coded") for _ in "12"] == ["Pass", "Fail"]
        rest = "&".join(pair for pair in query_of(tag).split("&") if pair[:2] not in ("x=", "u="))


async def test_the_rest_of_a_tap_does_not_excuse_an_unknown_code(world: World) -> None:
    query = query_of(CODED[2]).replace(f"x={CODED.xuid(2)}", "x=nosuchtag")
    assert await v1(world, f"{query}&a=coded") == "not_found"
    assert await v1(world, query, key(CODED)) == "not_found"


async def test_a_token_stays_a_token(world: World) -> None:
    query = query_of(USUAL[31])
    assert await v1(world, f"{query}&a=usual&r=ixf_revoked") == "unauthorised"
    assert await v1(world, f"{query}&a=usual", b"X-API-Key: unknown\r\n") == "unauthorised"
    assert await v1(world, f"{query}&a=usual&r={token_of(USUAL)}") == "Pass"


async def test_another_accounts_tap_is_not_found(world: World) -> None:
    for template in ("u={picc}&c={mac}", "u={uid}&n={counter}&c={mac}"):
        query = query_of(FLEETS[template][5])
        assert await v1(world, f"{query}&a={FLEETS[template].account}", key(USUAL)) != "Pass"
        assert await v1(world, f"{query}&a=usual") != "Pass"


async def test_a_world_that_reads_nothing_again_would_be_noticed(world: World) -> None:
    """A control: without the second reading, such taps are those of unknown tags."""
    engine = world.dispatcher.engine
    query = f"{query_of(USUAL[32])}&c=red&a=usual"
    engine.read_again_by(lambda _scan: False)
    assert await v1(world, query) == "not_found"
    engine.read_again_by(world.dispatcher._reads_again)
    assert await v1(world, query) == "Pass"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("x=abcd1234&n=1&n=2", b"abcd1234"),
        ("x=&x=abcd1234&n=1&n=2", b"abcd1234"),
        ("x=abcd1234&x=abcd1234", None),
        ("x=a-b", None),
        ("n=1", None),
        ("xx=abcd1234", None),
    ],
)
async def test_the_code_of_a_query_that_cannot_be_read(query: str, code: bytes | None) -> None:
    assert sent_code(query) == code


@pytest.mark.parametrize("more", ["", "&n=&e=", "&c=&u=&a=&r=&ip=&ua=&t="])
async def test_an_empty_value_is_no_value(world: World, more: str) -> None:
    tag = CODED[{0: 5, 6: 6}.get(len(more), 7)]
    query = query_of(tag)
    assert await v1(world, f"x={tag.xuid}{more}") == "Fail"
    empties = "".join(f"&{name}=" for name in ("r", "a", "c", "u", "t", "ip") if f"{name}=" not in query)
    assert await v1(world, query + empties) == "Pass"


@pytest.mark.parametrize("query", ["x=&n=000001", "x&n=000001", "a=&c=1", "x=&c=&u="])
async def test_an_empty_reference_names_nothing(world: World, query: str) -> None:
    assert (await v1(world, query)).startswith("missing_parameter ")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("n=1", "n"), ("n=000001&n=000002&e=11", "n"), ("e=zz", "e"), ("n=%FF", "n"), ("u=04&u=05", "u"), ("t=%01", "t")],
)
async def test_an_error_has_the_code_that_was_sent(world: World, query: str, parameter: str) -> None:
    for door in (True, False):
        status, said = await ask(world, get(f"/v1/t?x={CODED.xuid(9)}&{query}".encode()), door=door)
        expected = {"xuid": CODED.xuid(9), "error": "invalid_parameter", "parameter": parameter}
        assert (status, said) == (400, expected)


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("a={uid}&n={counter}&e={mac}", ["a"]),
        ("a=1&u={uid}&n={counter}&e={mac}", ["a"]),
        ("u={uid}&c={counter}&m={mac}", ["c"]),
        ("x={counter}&u={uid}&m={mac}", ["x"]),
        ("x={cuid}&u={xuid}&ip={counter}&ua={uid}&e={mac}", ["x", "u", "ip", "ua"]),
        ("x={xuid}&u={uid}&n={counter}&e={mac}", []),
        ("c={cuid}&n={counter}&e={mac}", []),
        ("u={picc}&c={mac}", []),
        ("p={picc}&c={mac}", []),
        ("/{picc}/{mac}", []),
    ],
)
async def test_what_both_meanings_can_have_is_warned_of(template: str, names: list[str]) -> None:
    warnings = warnings_of(EncodingProfile(name="own", scheme="ntag424-aes", template=template))
    assert [re.search(r"the parameter (\w+) of", warning)[1] for warning in warnings] == names  # type: ignore[index]
    assert all("ename the parameter" in warning for warning in warnings)


async def test_no_preset_can_be_mistaken() -> None:
    assert {name for name, preset in PRESETS.items() if warnings_of(preset)} == set()


BOLT = fleet_of(31, "p={picc}&c={mac}")


async def test_white_space_at_the_end_of_a_value() -> None:
    world = World(BOLT)
    await world.start()
    try:
        for index, end in enumerate(("%0A", "%0d%0a", "%20", "+", "%00", "%20+%0A")):
            tag = BOLT[index]
            for mirror, mac in (("", end), (end, ""), (end, end)):
                for door in (True, False):
                    found = dict(pair.split("=") for pair in query_of(tag).split("&"))
                    query = f"p={found['p']}{mirror}&c={found['c']}{mac}&a={BOLT.account}"
                    assert await v1(world, query, door=door) == "Pass", query
        for inside in ("%0A", "%20", "%00"):
            found = dict(pair.split("=") for pair in query_of(BOLT[7]).split("&"))
            assert await v1(world, f"p={found['p'][:9]}{inside}{found['p'][9:]}&c={found['c']}&a={BOLT.account}") != "Pass"
    finally:
        await world.stop()


NAMELESS = fleet_of(30, "{uid}x{counter}x{mac}")


async def test_a_query_without_names_and_white_space_at_its_end() -> None:
    world = World(NAMELESS)
    await world.start()
    try:
        for door in (True, False):
            query = query_of(NAMELESS[int(door)])
            assert [await v1(world, f"a={NAMELESS.account}&{query}", door=door) for _ in "12"] == ["Pass", "Fail"]
        for index, end in enumerate(("%0A", "%0d%0a", "%20", "+", "%00"), start=2):
            tag = NAMELESS[index]
            assert await v1(world, f"a={NAMELESS.account}&{query_of(tag)}{end}") == "Pass"
            assert await v1(world, f"{query_of(tag)}{end}", key(NAMELESS)) == "Pass"
    finally:
        await world.stop()
