"""Taps in every shape of URL, as readers hand them over: read by `/v2`, batches, audits, the Python API and detection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.two_ways import World, serving

import ixfast
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import Message, Missing, compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError
from ixfast.testing.virtual_tags import VirtualFleet

UID, KEY, META_KEY = bytes.fromhex("04A1B2C3D4E5F6"), bytes(range(16)), bytes(range(16, 32))
PLAIN = "uid=04A1B2C3D4E5F6&ctr=000001&cmac=C49606EE6F334D39"
ENCRYPTED = "picc_data=A2985A66BD202130E5746D91C099A9B5&cmac=C49606EE6F334D39"


class KnownTag(VirtualFleet):
    """One tag with the values of the URLs below."""

    def __init__(self, seed: int, template: str, window: str = "") -> None:
        profile = EncodingProfile(name=f"own-{seed}", scheme="ntag424-aes", template=template, window=window)
        super().__init__(seed, 1, profile, account=f"acc{seed}")
        self.meta_key = META_KEY

    def uid(self, index: int) -> bytes:
        return UID

    def file_key(self, index: int) -> bytes:
        return KEY


SHAPES = [
    (
        "tagapp://uid=04A1B2C3D4E5F6&ctr=000001&mac=FB5BB6F32387E61B",
        KnownTag(801, "uid={uid}&ctr={counter}&mac={mac}", "{uid}&ctr={counter}&mac="),
    ),
    (f"https://h.example/#/t?{ENCRYPTED}", KnownTag(802, "picc_data={picc}&cmac={mac}")),
    (f"https://h.example/#/t?{ENCRYPTED}", KnownTag(803, "/#/t?picc_data={picc}&cmac={mac}")),
    (f"https://h.example/app?lang=en#!/t?{ENCRYPTED}", KnownTag(804, "/t?picc_data={picc}&cmac={mac}")),
    (f"https://h.example/#{PLAIN}", KnownTag(805, "uid={uid}&ctr={counter}&cmac={mac}")),
    ("https://h.example/#/A2985A66BD202130E5746D91C099A9B5/C49606EE6F334D39", KnownTag(806, "/{picc}/{mac}")),
    ("https://h.example/t?04A1B2C3D4E5F6x000001xC49606EE6F334D39", KnownTag(807, "{uid}x{counter}x{mac}")),
    ("https://h.example/?04A1B2C3D4E5F6x000001xC49606EE6F334D39&lang=en", KnownTag(808, "?{uid}x{counter}x{mac}")),
    ("tagapp://04A1B2C3D4E5F6x000001xC49606EE6F334D39", KnownTag(809, "{uid}x{counter}x{mac}")),
    ("https://h.example/?04A1B2C3D4E5F6&v2&000001&C49606EE6F334D39", KnownTag(810, "{uid}&{counter}&{mac}")),
    (f"tagapp:{PLAIN}", KnownTag(811, "uid={uid}&ctr={counter}&cmac={mac}")),
    ("04A1B2C3D4E5F6x000001xC49606EE6F334D39", KnownTag(812, "{uid}x{counter}x{mac}")),
    (f"https://müller.example/?{PLAIN}", KnownTag(813, "uid={uid}&ctr={counter}&cmac={mac}")),
    (f"https://h.example/Schuhe-größe?farbe=grün&{PLAIN}", KnownTag(814, "uid={uid}&ctr={counter}&cmac={mac}")),
    (f"https://h.example/店?farbe=gr%C3%BCn&{PLAIN}", KnownTag(815, "farbe=grün&uid={uid}&ctr={counter}&cmac={mac}")),
    *((around.format(f"https://h.example/?{PLAIN}"), KnownTag(820 + at, "uid={uid}&ctr={counter}&cmac={mac}"))
      for at, around in enumerate(("{}\n", "{} ", "\r\n\t{}\0", "\ufeff{}\u200b", "{}%0D%0A"))),
    *((around.format(f"https://h.example/?{PLAIN}"), KnownTag(830 + at, "uid={uid}&ctr={counter}&cmac={mac}"))
      for at, around in enumerate(('"{}"', '{}"', "<{}>", "({}).", "{},", "[x]({})", "\u201c{}\u201d,", "{}%22"))),
    ("'https://h.example/A2985A66BD202130E5746D91C099A9B5/C49606EE6F334D39'", KnownTag(840, "/{picc}/{mac}")),
    ("<https://h.example/t?04A1B2C3D4E5F6x000001xC49606EE6F334D39>.", KnownTag(841, "{uid}x{counter}x{mac}")),
    (f"(https://h.example/#/t?{ENCRYPTED})", KnownTag(842, "/#/t?picc_data={picc}&cmac={mac}")),
    (f'"{PLAIN}"', KnownTag(843, "uid={uid}&ctr={counter}&cmac={mac}")),
]  # fmt: skip
by_shape = pytest.mark.parametrize(("url", "fleet"), SHAPES, ids=[str(fleet.seed) for _, fleet in SHAPES])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    async with serving(*(fleet for _, fleet in SHAPES)) as one:
        yield one


@by_shape
@pytest.mark.asyncio(loop_scope="module")
async def test_a_scan_is_genuine_and_then_used(world: World, url: str, fleet: VirtualFleet) -> None:
    peeked = await world.post(b"/v2/scans?peek=true", {"query": url, "account": fleet.account})
    assert peeked["verdict"] == "genuine"
    batch = {"scans": [{"url": url, "account": fleet.account}, {"url": url[:-20], "account": fleet.account}]}
    assert (await world.post(b"/v2/scans/batch", batch))["scans"][0]["verdict"] == "genuine"
    assert (await world.post(b"/v2/scans", {"url": url, "account": fleet.account}))["verdict"] == "replayed"


@by_shape
def test_python_and_detection_read_it(url: str, fleet: VirtualFleet) -> None:
    own = fleet.profile.profile
    keys = ixfast.TagKeys(file=KEY, meta=META_KEY)
    evidence = ixfast.verify(url, profile=own, keys=keys)
    assert (evidence.authentic, evidence.uid, evidence.counter) == (True, UID, 1)
    found = ixfast.detect_profile([url], keys=[KEY], meta_keys=[META_KEY]).proposals[0].profile
    assert ixfast.verify(url, profile=found, keys=keys).authentic
    assert found.window == own.window


@by_shape
def test_an_audit_reads_it(url: str, fleet: VirtualFleet) -> None:
    catalogue, tag = TagCatalogue(), fleet[0]
    catalogue.add_meta_keys(tag.meta_keys())
    catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys())
    assert OUTCOMES[judge(catalogue, url).code] == ("genuine", None)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/?uid={uid}#/t?ctr={counter}&cmac={mac}", "placeholders are either all before # or all behind it"),
        ("tagapp://uid={uid}&ctr={counter}&cmac={mac}", "leave out the scheme and the host"),
        ("{uid}=1&{counter}&{mac}", "a parameter's name cannot contain a placeholder"),
        ("{uid}&&{counter}&{mac}", "joined by &"),
    ],
)
def test_templates_that_no_url_can_have(template: str, problem: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(problem)):
        compile_profile(EncodingProfile(name="own", scheme="ntag424-aes", template=template))


def test_a_text_without_a_name_among_others() -> None:
    profile = compile_profile(EncodingProfile(name="own", scheme="ntag424-aes", template="{uid}&v1&{counter}&c={mac}"))
    uid, mac = UID.hex(), "c49606ee6f334d39"
    assert profile.read_url(f"?{uid}&v1&000001&c={mac}") == Message(bytes.fromhex(mac), UID, 1)
    assert profile.read_url(f"?flag&{uid}&v1&000001&c={mac}&flag") == Message(bytes.fromhex(mac), UID, 1)
    assert profile.read_url(f"?v1&{uid}&000001&c={mac}") is None
    assert profile.read_parameters({"": f"{uid}&v1&000001", "c": mac}) == Message(bytes.fromhex(mac), UID, 1)
    assert profile.read_parameters({"c": mac}) == Missing(("n",))


def test_a_window_with_letters_that_are_not_ascii() -> None:
    own = EncodingProfile(
        name="own",
        scheme="ntag424-aes",
        template="ort=köln&u={uid}&n={counter}&e={mac}",
        window="ort=köln&u={uid}&n={counter}&e=",
    )
    tag = ixfast.testing.VirtualTag(own)
    for url in (tag.tap(), tag.tap().replace("ö", "%C3%B6")):
        assert ixfast.verify(url, profile=own, keys=tag.keys).authentic
    assert not ixfast.verify(tag.forged(), profile=own, keys=tag.keys).authentic


@pytest.mark.parametrize("name", ["n\u212aey", "\u017fig"])
def test_names_that_only_look_like_the_profiles_are_others(name: str) -> None:
    profile = compile_profile(EncodingProfile(name="own", scheme="ntag424-aes", template="nkey={counter}&sig={mac}"))
    assert profile.read_url(f"?nkey=000001&sig={'0' * 16}&{name}=1") == Message(bytes(8), None, 1)


def test_empty_values_are_absent() -> None:
    profile = compile_profile(EncodingProfile(name="own", scheme="ntag424-aes", template="x={xuid}&n={counter}&e={mac}"))
    assert profile.read_url("?x=abcd1234&n=000001&e=") == Missing(("e",), xuid="abcd1234")
    assert profile.read_parameters({"x": "abcd1234", "n": "", "e": ""}) == Missing(("n", "e"), xuid="abcd1234")
    assert profile.read_url(f"?n=&n=000001&e={'0' * 16}") == Message(bytes(8), None, 1)


TWO_GROUPS = [KnownTag(851, "uid={uid}x{counter}x{mac}"), KnownTag(852, "uid={uid}&ctr={counter}&cmac={mac}")]
for fleet in TWO_GROUPS:
    fleet.account = "two"


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        (f"{PLAIN}&cmac=0000000000000000", "cmac", "cmac appears twice."),
        (PLAIN[:-1], "cmac", "cmac must be 16 hex digits (it has 15 characters)."),
        (PLAIN.replace("&", "&amp;"), "url", "The URL is escaped: replace each &amp; (or \\u0026) with &."),
    ],
)
async def test_a_scan_names_the_parameter_of_the_profile_that_fits_best(query: str, field: str, message: str) -> None:
    world = World(*TWO_GROUPS)
    await world.start()
    try:
        body = {"url": f"https://h.example/?{query}", "account": "two"}
        alone, batch = await world.post(b"/v2/scans", body), await world.post(b"/v2/scans/batch", {"scans": [body]})
        for error in (alone["error"], batch["scans"][0]["error"]):
            assert (error["code"], error["field"], error["message"]) == ("invalid_parameter", field, message)
    finally:
        await world.stop()


async def test_a_scan_of_a_named_tag_says_what_is_malformed() -> None:
    world = World(KnownTag(853, "x={xuid}&n={counter}&e={mac}"))
    await world.start()
    try:
        code = KnownTag(853, "x={xuid}&n={counter}&e={mac}").xuid(0)
        error = (await world.post(b"/v2/scans", {"url": f"https://h.example/?x={code}&n=1&e=00"}))["error"]
        assert (error["field"], error["message"]) == ("n", "n must be 6 hex digits (it has 1 character).")
    finally:
        await world.stop()
