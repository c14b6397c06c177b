"""Encoding profiles in the Python API: names, documents, detection, and one exception for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import ixfast
from ixfast import EncodingProfile, InputError
from ixfast.chips import PRESETS
from ixfast.testing import VirtualFleet, VirtualTag

DOCUMENT = {"name": "mine", "scheme": "ntag424-aes", "template": "d={picc}&c={mac}"}


def test_the_built_in_profiles_are_found_by_their_names() -> None:
    assert ixfast.profile_names() == tuple(PRESETS)
    assert all(ixfast.find_profile(name) is PRESETS[name] for name in ixfast.profile_names())
    other = ixfast.find_profile("lrp-plain/ntag424-aes")
    assert (other.name, other.scheme) == ("lrp-plain/ntag424-aes", "ntag424-aes")


def test_every_form_of_a_document_is_the_same_profile(tmp_path: Path) -> None:
    text = msgspec.json.encode(DOCUMENT)
    file = tmp_path / "profile.json"
    file.write_bytes(text)
    expected = EncodingProfile(name="mine", scheme="ntag424-aes", template="d={picc}&c={mac}")
    assert [ixfast.read_profile(form) for form in (text, text.decode(), DOCUMENT, file)] == [expected] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ixfast.find_profile("encryptd"), "unknown encoding profile 'encryptd'; did you mean 'encrypted'?"),
        (lambda: ixfast.read_profile("{"), "The document is not an encoding profile: "),
        (lambda: ixfast.read_profile(b"\xff"), "The document is not an encoding profile: "),
        (lambda: ixfast.read_profile("{}"), "The document is not an encoding profile: Object missing required field `name`."),
        (
            lambda: ixfast.read_profile(DOCUMENT | {"windo": ""}),
            "not an encoding profile: Object contains unknown field `windo`",
        ),
        (lambda: ixfast.read_profile('{"name": "a", "name": "b", "scheme": "ntag424-aes", "template": "c={mac}"}'), "duplicate"),
        (lambda: ixfast.read_profile(DOCUMENT | {"name": object()}), "Expected `str`, got `object` - at `$.name`."),
        (lambda: ixfast.read_profile(424), "Expected `object`, got `int`."),  # type: ignore[arg-type]
        (lambda: ixfast.read_profile(DOCUMENT | {"scheme": "ntag99"}), "unknown chip scheme 'ntag99'"),
        (lambda: ixfast.read_profile(DOCUMENT | {"template": "d={picc}"}), "mac"),
        (lambda: ixfast.read_profile(Path("/nonexistent/profile.json")), "Cannot read /nonexistent/profile.json: "),
        (lambda: ixfast.verify("a=1", profile="nosuch", keys=bytes(16)), "unknown encoding profile 'nosuch'"),
        (lambda: ixfast.verify("a=1", profile=424, keys=bytes(16)), "profile must be an EncodingProfile or a name."),  # type: ignore[arg-type]
        (lambda: VirtualTag("nosuch"), "unknown encoding profile 'nosuch'"),
        (lambda: VirtualFleet(1, 1, "nosuch"), "unknown encoding profile 'nosuch'"),
    ],
)
def test_a_mistake_is_one_exception_with_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        make()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (raised.value.code, raised.value.field) == ("invalid_profile", "profile")


def test_detection_of_taps_with_a_derived_key_and_an_unmirrored_uid() -> None:
    scheme = ixfast.derivation("an10922", input="{uid}3042f5")
    master = bytes(range(16))
    uid = bytes.fromhex("04782e21801d80")
    tag = VirtualTag("ixkio-plain", uid=uid, file_key=ixfast.derive_keys(master, uid, scheme).file_key)
    url = "https://tag.example/t?" + "&".join(f"{name}={value}" for name, value in tag.tap_parameters().items())
    found = ixfast.detect_profile([url], keys=[master.hex()], uids=[uid.hex()], derivations=[scheme], name="mine")
    (proposal,) = found.proposals
    assert (proposal.profile.name, proposal.derivation, proposal.verified) == ("mine", scheme, (0,))
    keys = ixfast.TagKeys(master=master, derivation=scheme)
    assert ixfast.verify(url, profile=proposal.profile, keys=keys, uid=uid).authentic


def test_detection_without_the_key_explains_itself() -> None:
    found = ixfast.detect_profile(iter([VirtualTag("encrypted").forged()]), keys=iter([]))
    assert (found.proposals, found.unexplained) == ((), (0,))
    assert found.reasons[0].startswith("picc_data is decrypted by the all-zero key")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ixfast.detect_profile([]), "urls"),
        (lambda: ixfast.detect_profile(["https://tag.example/a b"]), "url"),
        (lambda: ixfast.detect_profile("https://tag.example/t?a=1"), "urls"),
        (lambda: ixfast.detect_profile(["a=1"], keys="00" * 16), "keys"),
        (lambda: ixfast.detect_profile(["a=1"], keys=["00"]), "keys"),
        (lambda: ixfast.detect_profile(["a=1"], keys=[bytes([n] * 16) for n in range(65)]), "keys"),
        (lambda: ixfast.detect_profile(["a=1"], uids=["04"]), "uid"),
    ],
)
def test_what_detection_refuses(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InputError) as raised:
        make()
    assert raised.value.field == field
