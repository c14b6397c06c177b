"""What an audit says about taps that were copied badly: escaped, cut, with a reversed UID, or without parameters."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from ixfast.audit import Audit, Summary, TagCatalogue, json_lines
from ixfast.audit.tap_bytes import chunks
from ixfast.chips import compile_profile
from ixfast.domain.chip_uids import REVERSED_UID
from ixfast.domain.model import EncodingProfile
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

ESCAPED = "The URL is escaped: replace each &amp; (or \\u0026) with &"
ENCODED = "The URL is percent-encoded as a whole: decode it first"
FLEET = VirtualFleet(1, 4, "plain-uid-counter")


def catalogue_of(*tags: VirtualTag) -> TagCatalogue:
    catalogue = TagCatalogue()
    for tag in tags:
        catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys())
    return catalogue


def audited(text: str, *tags: VirtualTag) -> tuple[list[dict[str, Any]], list[str]]:
    """The report of each tap in a file, and the warnings of the summary."""
    catalogue = catalogue_of(*(tags or FLEET))
    audit, summary = Audit(catalogue), Summary()
    reports: list[dict[str, Any]] = []
    for judged in audit.judged(chunks(io.BytesIO(text.encode()))):
        summary.add(judged, 1)
        reports += [orjson.loads(line) for some in json_lines(judged, catalogue, 1) for line in some.splitlines()]
    return reports, summary.warnings(audit.format)


FILES: dict[str, Callable[[str], str]] = {
    "bare": lambda url: f"{url}\n",
    "CSV": lambda url: f"at,url\n2026-01-01T00:00:00Z,{url}\n",
    "JSON": lambda url: orjson.dumps({"at": "2026-01-01T00:00:00Z", "url": url}).decode() + "\n",
}


def access_log(url: str) -> str:
    return f'192.0.2.1 - - [01/Jan/2026:00:00:00 +0000] "GET {url.removeprefix("https://tag.example")} HTTP/1.1" 200 1\n'


@pytest.mark.parametrize("escaped", ["&amp;", "&#38;", "\\u0026", "&AMP;"])
@pytest.mark.parametrize("file", [*FILES.values(), access_log], ids=[*FILES, "log"])
def test_an_escaped_url_is_called_so(file: Callable[[str], str], escaped: str) -> None:
    url = f"https://tag.example/?{FLEET[0].tap().partition('?')[2]}"
    reports, warnings = audited(file(url.replace("&", escaped)))
    assert [(report["verdict"], report.get("problem")) for report in reports] == [("malformed", ESCAPED)]
    assert warnings[0].startswith("1 line could not be read; line ") and warnings[0].endswith(f": {ESCAPED}")
    assert [report["verdict"] for report in audited(file(url))[0]] == ["genuine"]


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_url_that_was_encoded_as_a_whole_is_called_so(file: Callable[[str], str]) -> None:
    reports, _ = audited(file(quote(FLEET[0].tap(), safe="")))
    assert [(report["verdict"], report.get("problem")) for report in reports] == [("malformed", ENCODED)]


def test_an_escaped_url_with_a_tag_code_is_incomplete_for_that_reason() -> None:
    tag = VirtualFleet(2, 1, "ixkio-plain")[0]
    reports, warnings = audited(tag.tap().replace("&", "&amp;") + "\n", tag)
    assert [(report["verdict"], report.get("problem")) for report in reports] == [("incomplete", ESCAPED)]
    assert f"1 line with a tap that is not genuine: {ESCAPED}" in warnings


@pytest.mark.parametrize("lower", [False, True])
def test_a_reversed_uid_is_noticed(lower: bool) -> None:
    tag = FLEET[0]
    uid = tag.uid.hex().upper()
    url = tag.tap().replace(uid, tag.uid[::-1].hex().upper())
    stranger = VirtualFleet(9, 1, "plain-uid-counter")[0].tap()
    reports, warnings = audited("".join(f"{each.lower() if lower else each}\n" for each in (url, stranger, FLEET[1].tap())))
    assert [(report["verdict"], report.get("problem")) for report in reports] == [
        ("unknown", REVERSED_UID.removesuffix(".")), ("unknown", None), ("genuine", None),
    ]  # fmt: skip
    assert f"1 line with a tap that is not genuine: {REVERSED_UID.removesuffix('.')}" in warnings


@pytest.mark.parametrize("kept", ["uid ctr", "uid cmac", "uid"])
def test_a_tap_of_a_known_tag_without_a_mirror_is_incomplete(kept: str) -> None:
    one_field = EncodingProfile(name="one-field", scheme="ntag424-aes", template="uid={uid}x{counter}x{mac}")
    other = VirtualTag(one_field, xuid="other123", uid=b"\4" * 7, file_key=bytes(range(16)))
    query = dict(pair.split("=") for pair in FLEET[0].tap().partition("?")[2].split("&"))
    cut = "https://h/?" + "&".join(f"{name}={value}" for name, value in query.items() if name in kept.split())
    for tags in ((*FLEET,), (*FLEET, other), (other, *FLEET)):
        reports, _ = audited(f"{cut}\n", *tags)
        assert [(report["verdict"], report.get("tag")) for report in reports] == [("incomplete", FLEET[0].xuid)]
    unknown = cut.replace(FLEET[0].uid.hex().upper(), "04000000000000")
    assert [report["verdict"] for report in audited(f"{unknown}\n")[0]] == ["unknown"]


@pytest.mark.parametrize("before", ["tagapp:", "", "https://h/"])
def test_a_tap_without_parameters_may_come_first(before: str) -> None:
    profile = EncodingProfile(name="one-text", scheme="ntag424-aes", template="{uid}x{counter}x{mac}")
    assert not compile_profile(profile).encrypted
    tag = VirtualTag(profile, xuid="first123", uid=bytes.fromhex("04A1B2C3D4E5F6"), file_key=bytes(range(16)))
    taps = [before + tag.tap().rpartition("/")[2].removeprefix("?") for _ in range(3)]
    reports, _ = audited("".join(f"{tap}\n" for tap in taps), tag)
    assert [report["verdict"] for report in reports] == ["genuine"] * 3
