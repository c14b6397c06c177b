"""The owner's texts inside the MAC window, which the chip stores percent-encoded, and what programs on the way make of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, unquote_plus

import pytest
import pytest_asyncio
from support.two_ways import HOST, World, serving

import ixfast
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile, compile_profile
from ixfast.chips.scheme import Scheme
from ixfast.domain import owner_texts
from ixfast.domain.model import EncodingProfile
from ixfast.domain.owner_texts import Spelling, as_sent, encoded, says, spelling
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

KEY = bytes(range(16))
QUERY = "s={cuid}&uid={uid}&ctr={counter}&cmac="
PATH = "/t/{cuid}/{uid}/{counter}/"

# What the chip stores, what is sent instead of it if anything, and what is registered.
TEXTS = [
    ("a%20b", None, "a b"),
    ("a%20b", None, "a%20b"),
    ("a%20b", "a b", "a b"),
    ("a b", "a%20b", "a b"),
    ("%22SN-5%22", None, '"SN-5"'),
    ('"SN-5"', "%22SN-5%22", '"SN-5"'),
    ("SN-2)", None, "SN-2)"),
    ("SN-2)", "SN-2%29", "SN-2)"),
    ("SN-2%29", None, "SN-2)"),
    ("%C3%BCml%C3%A4ut.", None, "ümläut."),
    ("ümläut.", "%C3%BCml%C3%A4ut.", "ümläut."),
    ("%C3%BCml%C3%A4ut.", "ümläut.", "ümläut."),
    ("%C3%BC)", "%C3%BC%29", "ü)"),
    ("100%25", None, "100%"),
    ("100%25", None, "100%25"),
    ("50%252B", None, "50%2B"),
    ("Lot%207", None, "Lot 7"),
    ("%c3%bcml", None, "üml"),
]
IN_QUERIES = [
    ("SN-16+x", None, "SN-16+x"),
    ("SN-16+x", "SN-16%2Bx", "SN-16+x"),
    ("a+b", None, "a b"),
    ("a%20b", "a+b", "a b"),
    ("a/b%20c", None, "a/b c"),
    ("a/b c", "a/b%20c", "a/b c"),
    ("a%2Fb", "a/b", "a/b"),
]
LOWERED = "%c3%bcml"  # which is in upper case on a chip whose whole URL was lower-cased


def profile_of(window: str) -> EncodingProfile:
    return EncodingProfile(name="own-text", scheme="ntag424-aes", template=window + "{mac}", window=window)


def tap(profile: EncodingProfile | CompiledProfile, stored: str, sent: str | None, uid: bytes, counter: int) -> str:
    """The URL of a tag whose chip stores this text, of which a program on the way has made another."""
    compiled = profile if isinstance(profile, CompiledProfile) else compile_profile(profile)
    window = compiled.profile.window.replace("{uid}", uid.hex().upper()).replace("{counter}", f"{counter:06X}")
    mac = compiled.scheme.simulated_mac(KEY, uid, counter, window.replace("{cuid}", stored).encode())
    tail = window.replace("{cuid}", stored if sent is None else sent) + mac.hex().upper()
    return "https://tag.example" + (tail if tail.startswith("/") else f"/?{tail}")


class OneKey(VirtualFleet):
    """A tag for each registered text, all with the same file key."""

    def __init__(self, seed: int, window: str, texts: list[tuple[str, str | None, str]]) -> None:
        self.texts = [(f"{a}-{at}", None if b is None else f"{b}-{at}", f"{c}-{at}") for at, (a, b, c) in enumerate(texts)]
        super().__init__(seed, len(texts), profile_of(window), account=f"texts{seed}")

    def file_key(self, index: int) -> bytes:
        return KEY

    def __getitem__(self, index: Any) -> Any:
        tag = super().__getitem__(index)
        tag.cuid = self.texts[index][2]
        return tag

    def __iter__(self) -> Iterator[VirtualTag]:
        return map(self.__getitem__, range(self.count))

    def url(self, index: int, counter: int) -> str:
        stored, sent, _ = self.texts[index]
        return tap(self.profile, stored, sent, self.uid(index), counter)


FLEETS = [OneKey(940, QUERY, TEXTS + IN_QUERIES), OneKey(941, PATH, TEXTS)]
CASES = [(fleet, index) for fleet in FLEETS for index in range(len(fleet))]
by_case = pytest.mark.parametrize(
    ("fleet", "index"), CASES, ids=[f"{fleet.seed}-{'-'.join(map(str, fleet.texts[index]))}" for fleet, index in CASES]
)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with serving(*FLEETS) as one:
        yield one


async def get(world: World, target: str) -> Any:
    stream, _ = await world.say(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n", door=True)
    return json.loads(stream.partition(b"\r\n\r\n")[2])


@by_case
async def test_the_tap_is_genuine_on_every_route(world: World, fleet: OneKey, index: int) -> None:
    account, cuid = fleet.account, fleet.texts[index][2]
    lowers = not fleet.texts[index][0].startswith(LOWERED)
    for counter, spelled in ((1, str), (2, str.lower if lowers else str)):
        found = await world.post(b"/v2/scans", {"url": spelled(fleet.url(index, counter)), "account": account})
        assert (found["verdict"], found["tag"]["cuid"]) == ("genuine", cuid)
    scans = [{"url": fleet.url(index, 3), "account": account}]
    assert (await world.post(b"/v2/scans/batch", {"scans": scans}))["scans"][0]["verdict"] == "genuine"
    query = quote(fleet.url(index, 4).partition("?")[2], safe="=&%+/")
    if query:
        assert (await get(world, f"/v1/t?a={account}&{query}"))["response"] == "Pass"
        stored, plain = fleet.texts[index][0], unquote_plus(fleet.url(index, 5).partition("s=")[2].partition("&")[0])
        if stored in (plain, encoded(plain)):  # all that is known of a text that the caller has decoded
            fields = {"s": plain, "uid": fleet.uid(index).hex().upper(), "ctr": "000005", "cmac": fleet.url(index, 5)[-16:]}
            assert (await world.post(b"/v2/scans", {"parameters": fields, "account": account}))["verdict"] == "genuine"


@by_case
async def test_what_the_mac_does_not_cover_is_refused(world: World, fleet: OneKey, index: int) -> None:
    """Another tag's text, and a text that reads like the registered one but is not what the MAC covers."""
    stored, sent, _ = fleet.texts[index]
    url = fleet.url(index, 1)
    for other in ("Z" + (sent or stored), "%5A" + (sent or stored)):
        changed = url.replace(sent or stored, other)
        found = await world.post(b"/v2/scans", {"url": changed, "account": fleet.account})
        assert found["verdict"] == "forged" and found["reason"] == "static_mismatch"
    foreign = tap(fleet.profile, f"{stored}%20", f"{sent or stored}", fleet.uid(index), 1)
    assert (await world.post(b"/v2/scans", {"url": foreign, "account": fleet.account}))["reason"] == "mac_mismatch"


@by_case
def test_audits_python_and_detection_agree(fleet: OneKey, index: int) -> None:
    url, (_, _, registered) = fleet.url(index, 1), fleet.texts[index]
    catalogue = TagCatalogue()
    for tag in fleet:
        catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys(), cuid=tag.cuid)
    finding = judge(catalogue, url)
    assert OUTCOMES[finding.code] == ("genuine", None) and finding.tag == index
    known = {"profile": fleet.profile.profile, "keys": KEY, "statics": {"cuid": registered}}
    assert ixfast.verify(url, **known).authentic
    (claim,) = ixfast.identify(url, profile=fleet.profile.profile)
    assert type(claim.cuid) is str


@pytest.mark.parametrize(("stored", "sent"), [("a%20{}", None), ("a {}", "a%20{}"), ("%C3%BC{}", "ü{}"), ("%22{}%22", None)])
@pytest.mark.parametrize("window", [QUERY, PATH])
def test_a_profile_is_detected_from_escaped_texts(window: str, stored: str, sent: str | None) -> None:
    uids = [bytes.fromhex(f"04A1B2C3D4E5F{n}") for n in range(3)]
    urls = [
        tap(profile_of(window), stored.format("xyz"[n]), sent and sent.format("xyz"[n]), uid, n + 1) for n, uid in enumerate(uids)
    ]
    found = ixfast.detect_profile(urls, keys=[KEY])
    assert found.reasons == () and found.proposals[0].verified == (0, 1, 2)
    assert "{cuid}" in found.proposals[0].profile.window or "{xuid}" in found.proposals[0].profile.window


@pytest.mark.parametrize(
    ("window", "stored", "sent"),
    [
        ("k=a%20b&n={counter}&e=", None, None),
        ("k=a%20b&n={counter}&e=", "k=a b&n={counter}&e=", None),
        ("k=ü&n={counter}&e=", "k=%C3%BC&n={counter}&e=", "k=%C3%BC&n={counter}&e="),
        ("k=ü&n={counter}&e=", "k=ü&n={counter}&e=", "k=%C3%BC&n={counter}&e="),
        ("k=%22x%22&e=", None, None),
        ("k=%22x%22&e=", 'k="x"&e=', None),
        ("/t%20x/{counter}/", None, None),
    ],
)
def test_constants_are_verified_as_the_chip_stores_them(window: str, stored: str | None, sent: str | None) -> None:
    template = window + "{mac}" if "{counter}" in window else f"n={{counter}}&{window}{{mac}}"
    profile = EncodingProfile(name="constant", scheme="ntag424-aes", template=template, window=window)
    compiled = compile_profile(profile)
    mac = compiled.scheme.simulated_mac(KEY, b"", 1, (stored or window).replace("{counter}", "000001").encode())
    url = template.replace(window, sent or window).replace("{counter}", "000001").replace("{mac}", mac.hex().upper())
    url = url if url.startswith("/") else f"?{url}"
    assert ixfast.verify(url, profile=profile, keys=KEY).authentic
    if compiled.verify_plain is not None:
        assert compiled.verify_plain(KEY, b"", 1, mac) and not compiled.verify_plain(KEY, b"", 2, mac)


def test_the_explanation_shows_the_window_that_the_mac_covers() -> None:
    profile, uid = profile_of(QUERY), bytes.fromhex("04A1B2C3D4E5F6")
    rest = "&uid=04A1B2C3D4E5F6&ctr=000001&cmac="
    for stored in ("a%20b", "a b"):
        url = tap(profile, stored, "a%20b", uid, 1)
        steps = dict(ixfast.explain(url, profile=profile, keys=KEY, statics={"cuid": "a b"}))
        assert steps["window"] == f"s={stored}{rest}" and steps["result"] == "authentic"
        steps = dict(ixfast.explain(url, profile=profile, keys=bytes(16), statics={"cuid": "a b"}))
        assert steps["window"] == f"s=a%20b{rest} or s=a b{rest}"


def test_a_simulated_tag_stores_its_texts_escaped() -> None:
    tag = VirtualTag(profile_of(QUERY), cuid='"ü b)"', file_key=KEY)
    url = tag.tap()
    assert "?s=%22%C3%BC%20b)%22&" in url
    window = url.partition("?")[2][:-16]
    assert bytes.fromhex(url[-16:]) == tag.profile.scheme.simulated_mac(KEY, tag.uid, 1, window.encode())


@pytest.mark.parametrize(("stored", "sent", "registered"), TEXTS + IN_QUERIES)
def test_no_more_than_two_windows_are_tried(stored: str, sent: str | None, registered: str) -> None:
    tried: list[bytes] = []
    counted = counting(tried)
    message = counted.read_url(tap(profile_of(QUERY), stored, sent, bytes.fromhex("04A1B2C3D4E5F6"), 1))
    keys = VirtualTag(profile_of(QUERY), file_key=bytes(16)).file_keys()
    counted.examine(message, uid=None, file_keys=keys, statics={"cuid": registered})  # type: ignore[arg-type]
    assert len(tried) == len(set(tried)) <= 2


@pytest.mark.parametrize("text", ["SN-12345", "abc", "A.b_c~d", "SN-2)", "it's!"])
def test_one_window_is_tried_for_a_usual_text(text: str) -> None:
    tried: list[bytes] = []
    counted = counting(tried)
    message = counted.read_url(tap(profile_of(QUERY), text, None, bytes.fromhex("04A1B2C3D4E5F6"), 1))
    keys = VirtualTag(profile_of(QUERY), file_key=bytes(16)).file_keys()
    counted.examine(message, uid=None, file_keys=keys, statics={"cuid": text})  # type: ignore[arg-type]
    assert len(tried) == 1


def counting(tried: list[bytes]) -> CompiledProfile:
    real = compile_profile(profile_of(QUERY)).scheme

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def verify(self, key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
            tried.append(window)
            return real.verify(key, uid, counter, window, mac)

    scheme: Scheme = Counting()  # type: ignore[assignment]
    return compile_profile(profile_of(QUERY), scheme=scheme)


def test_a_text_registered_as_the_chip_spells_it_is_not_decoded() -> None:
    """Otherwise the answer would show a text that the MAC does not cover."""
    profile = profile_of(QUERY)
    url = tap(profile, "a b", "a%20b", bytes.fromhex("04A1B2C3D4E5F6"), 1)
    assert ixfast.verify(url, profile=profile, keys=KEY, statics={"cuid": "a b"}).authentic
    assert ixfast.verify(url, profile=profile, keys=KEY, statics={"cuid": "a%20b"}).reason == "mac_mismatch"


def decodes_all(text: str | None, registered: str | None) -> Spelling:
    plain = registered or str(text)
    return Spelling(plain, plain, plain, escaped=False, by_browser=False)


async def test_control_a_window_of_decoded_texts_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixfast.chips.profile.spelling", decodes_all)
    with pytest.raises(AssertionError, match="forged"):
        await test_the_tap_is_genuine_on_every_route(world, FLEETS[0], 0)


def test_parts_of_a_text_keep_how_they_were_sent() -> None:
    text = as_sent("ab ü(c", "a%62%20%C3%BC(c")
    assert isinstance(text, owner_texts.SentText)
    parts = [text.part(0, 1), text.part(1, 4), text.part(5, 6)]
    assert parts == ["a", "b ü", "c"] and [getattr(part, "sent", part) for part in parts] == ["a", "%62%20%C3%BC", "c"]
    broken = as_sent("a\ufffdb", "a%FCb")
    assert isinstance(broken, owner_texts.SentText) and broken.part(0, 1) == "a" and broken.sent == "a%FCb"


def test_what_a_text_says() -> None:
    assert (
        says("a b", "A B")
        and says(as_sent("a b", "a%20b"), "a%20b")
        and says("a+b", "a b")
        and says(as_sent("a b", "a+b"), "a+b")
    )
    assert not says("a b", "a+b") and not says("a%20b", "a b") and not says(as_sent("a b", "a%20b"), "a%2520b")
    assert spelling(None, "a b").first == "a b" and spelling(None, "a b").encoded == "a%20b"
