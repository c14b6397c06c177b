"""Texts of the owner's that end with punctuation, at the end of a URL: they are read as they are, before anything is left out.

All tags have one file key and send no UID, so that only the text decides whose tap it is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from support.two_ways import HOST, World, serving

import ixfast
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.domain import tap_readings
from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

CUIDS = [
    "SN-123456.", "LOT123456)", "AB1234!", "A1B2C3;", "(AB1234)", "123456*", "77777A'",
    "SN-987654...", "[AB1234]", '12345678"', "Größe-12345。", "N123456>", "{A12345}",
]  # fmt: skip
PLAIN = ["SN-123456", "LOT123456", "AB123456", "Größe", "A-1"]
WRAPPINGS = ['{}"', "{})", "{}.", "{}]", '"{}"', "（{}）", "「{}」", "{}。", 'href="{}"', "[[{}|Tag]]", "url={}", "[x]({})"]  # noqa: RUF001
TEMPLATES = ["n={counter}&e={mac}&id={cuid}", "ctr={counter}&cmac={mac}&c={cuid}"]


class OneKey(VirtualFleet):
    """Tags with these CUIDs and the same file key."""

    def __init__(self, seed: int, template: str, cuids: list[str]) -> None:
        profile = EncodingProfile(name=f"own-{seed}", scheme="ntag424-aes", template=template)
        super().__init__(seed, len(cuids), profile, account=f"acc{seed}")
        self.cuids = cuids

    def file_key(self, index: int) -> bytes:
        return bytes(range(16))

    def __getitem__(self, index: Any) -> Any:
        tag = super().__getitem__(index)
        tag.cuid = self.cuids[index]
        return tag

    def __iter__(self) -> Iterator[VirtualTag]:
        return map(self.__getitem__, range(self.count))


FLEETS = [OneKey(900 + at, template, CUIDS + PLAIN) for at, template in enumerate(TEMPLATES)]
CASES = [(fleet, cuid) for fleet in FLEETS for cuid in CUIDS]
by_case = pytest.mark.parametrize(("fleet", "cuid"), CASES, ids=[f"{fleet.seed}-{cuid}" for fleet, cuid in CASES])


def written(fleet: OneKey, cuid: str, counter: int, *, encoded: bool) -> str:
    url: str = fleet[fleet.cuids.index(cuid)].tap_at(counter)
    return url if encoded else url.replace(quote(cuid, safe=""), cuid)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with serving(*FLEETS) as one:
        yield one


async def get(world: World, fleet: OneKey, url: str) -> Any:
    query = quote(url.partition("?")[2], safe="=&%")
    stream, _ = await world.say(f"GET /v1/t?a={fleet.account}&{query} HTTP/1.1\r\n".encode() + HOST + b"\r\n", door=True)
    return json.loads(stream.partition(b"\r\n\r\n")[2])


@by_case
async def test_a_tap_is_that_of_the_tag_with_the_whole_text(world: World, fleet: OneKey, cuid: str) -> None:
    for counter, encoded in enumerate((False, True), start=1):
        url = written(fleet, cuid, counter, encoded=encoded)
        found = await world.post(b"/v2/scans", {"url": url, "account": fleet.account})
        assert (found["verdict"], found["tag"]["cuid"]) == ("genuine", cuid)
        assert (await get(world, fleet, url))["response"] == "Fail"
        later = written(fleet, cuid, counter + 10, encoded=encoded)
        assert (await get(world, fleet, later))["response"] == "Pass"
        batch = await world.post(b"/v2/scans/batch", {"scans": [{"query": later.partition("?")[2], "account": fleet.account}]})
        assert [(each["verdict"], each["tag"]["cuid"]) for each in batch["scans"]] == [("replayed", cuid)]
        await world.stop()
        await world.start()


@by_case
def test_audits_and_python_read_the_whole_text(fleet: OneKey, cuid: str) -> None:
    catalogue = catalogue_of(fleet)
    for encoded in (False, True):
        url = written(fleet, cuid, 1, encoded=encoded)
        finding = judge(catalogue, url)
        assert OUTCOMES[finding.code] == ("genuine", None) and fleet.cuids[finding.tag] == cuid
        claims = ixfast.identify(url, profile=fleet.profile.profile)
        assert claims[0].cuid == cuid
        assert ixfast.verify(url, profile=fleet.profile.profile, keys=bytes(range(16))).authentic


def catalogue_of(fleet: OneKey) -> TagCatalogue:
    catalogue = TagCatalogue()
    for tag in fleet:
        catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys(), cuid=tag.cuid)
    return catalogue


async def assert_counted_once(world: World) -> None:
    """The pass of a tap of SN-123456. is not one of SN-123456, and the tap does not pass again by another route."""
    fleet = FLEETS[0]
    url = written(fleet, "SN-123456.", 7, encoded=False)
    first = await world.post(b"/v2/scans", {"url": url, "account": fleet.account})
    assert (first["verdict"], first["tag"]["cuid"], first["scan_count"]) == ("genuine", "SN-123456.", 1)
    assert (await get(world, fleet, url))["response"] == "Fail"
    assert (await world.post(b"/v2/scans", {"url": url, "account": fleet.account}))["verdict"] == "replayed"
    other = written(fleet, "SN-123456", 7, encoded=False)
    second = await world.post(b"/v2/scans", {"url": f'"{other}"', "account": fleet.account})
    assert (second["verdict"], second["tag"]["cuid"], second["scan_count"]) == ("genuine", "SN-123456", 1)


async def test_a_pass_is_counted_once_for_the_tag_of_the_text(world: World) -> None:
    await assert_counted_once(world)


def unwrapped_first(text: str) -> Iterator[str]:
    yield from reversed([*READINGS(text)])


READINGS = tap_readings.readings


async def test_control_leaving_out_punctuation_first_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixfast.domain.tap_readings.readings", unwrapped_first)
    with pytest.raises(AssertionError, match="SN-123456"):
        await assert_counted_once(world)
    monkeypatch.setattr("ixfast.audit.judge.readings", unwrapped_first)
    finding = judge(catalogue_of(FLEETS[0]), written(FLEETS[0], "SN-123456.", 1, encoded=False))
    assert FLEETS[0].cuids[finding.tag] == "SN-123456"


@pytest.mark.parametrize(
    ("around", "cuid"),
    [
        *((around, cuid) for around in WRAPPINGS for cuid in ("AB123456", "Größe", "A-1")),
        *((around, "AB1234!") for around in WRAPPINGS if not around.startswith("{}")),
    ],
)
async def test_what_is_around_it_is_left_out_where_no_tag_has_that_text(world: World, around: str, cuid: str) -> None:
    fleet = FLEETS[0]
    url = around.format(written(fleet, cuid, 1, encoded=False))
    found = await world.post(b"/v2/scans", {"url": url, "account": fleet.account})
    assert (found["verdict"], found["tag"]["cuid"]) == ("genuine", cuid)
    finding = judge(catalogue_of(fleet), url)
    assert OUTCOMES[finding.code] == ("genuine", None) and fleet.cuids[finding.tag] == cuid


@pytest.mark.parametrize("end", ['"', "%22", ")", ".", "'", "%29", "%3E", "。"])
@pytest.mark.parametrize(
    "template", ["id={cuid}&ctr={counter}&cmac={mac}", "n={counter}&e={mac}&c={cuid}", "u={uid}&n={counter}&k={mac}"]
)
async def test_both_versions_leave_out_the_same(template: str, end: str) -> None:
    fleet = OneKey(920, template, ["AB123456"])
    async with serving(fleet) as world:
        first, second = (fleet[0].tap_at(counter) + end for counter in (1, 2))
        assert (await world.post(b"/v2/scans", {"url": first, "account": fleet.account}))["verdict"] == "genuine"
        assert (await get(world, fleet, first))["response"] == "Fail"
        assert (await get(world, fleet, second))["response"] == "Pass"
        assert (await world.post(b"/v2/scans", {"url": second, "account": fleet.account}))["verdict"] == "replayed"


@pytest.mark.parametrize("around", ['"{}"', "（{}）", "{}.", '{}"', "{}&", 'href="{}"', "[[{}|Tag]]", "url={}"])  # noqa: RUF001
@pytest.mark.parametrize(
    "template", ["n={counter}&e={mac}&x={xuid}", "/{aid}/{uid}/{counter}/{mac}", "x={xuid}&n={counter}&e={mac}"]
)
async def test_a_wrapped_url_that_names_tag_or_account_itself(template: str, around: str) -> None:
    fleet = OneKey(921, template, ["AB123456"])
    async with serving(fleet) as world:
        found = await world.post(b"/v2/scans", {"url": around.format(fleet[0].tap_at(1))})
        assert (found["verdict"], found["tag"]["cuid"]) == ("genuine", "AB123456")


async def test_no_work_is_done_for_what_is_not_needed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tap that is found as it was given is looked up by that text alone, and one without anything around it once."""
    fleet, catalogue = FLEETS[0], world.dispatcher.catalogue
    asked: list[Any] = []
    fetch, account = catalogue.fetch, catalogue.account
    monkeypatch.setattr(catalogue, "fetch", lambda scan, ref, found: asked.append(ref) or fetch(scan, ref, found))
    monkeypatch.setattr(catalogue, "account", lambda aid, *, is_owner: asked.append(aid) or account(aid, is_owner=is_owner))
    aid = fleet.account
    for text, refs in (("SN-123456.", ["SN-123456."]), ("nothing-123456", ["nothing-123456"] * 2), ("AB-7.5", ["AB-7.5"] * 2)):
        asked.clear()
        url = written(fleet, "AB123456", 1, encoded=False).replace("AB123456", text)
        await world.post(b"/v2/scans?peek=true", {"url": url, "account": aid})
        assert asked == [aid, *(b"\0c" + aid.encode() + b"\0" + ref.encode() for ref in refs)]


@pytest.mark.parametrize("cuid", ["SN-123456.", "LOT123456)", "AB1234!", "77777A'"])
def test_detection_keeps_a_text_of_the_owners(cuid: str) -> None:
    profile = EncodingProfile(name="own", scheme="ntag424-aes", template=f"uid={{uid}}&ctr={{counter}}&cmac={{mac}}&maker={cuid}")
    tag = VirtualTag(profile)
    found = ixfast.detect_profile([tag.tap(), tag.tap()], keys=[tag.file_key]).proposals[0].profile
    assert ixfast.verify(tag.tap(), profile=found, keys=tag.keys).authentic
    assert found.template.endswith(f"maker={cuid}") or "maker" not in found.template
