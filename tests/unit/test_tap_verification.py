"""`ixfast.verify`, `explain` and `identify`: every profile, every kind of key, every refusal, and what they may never claim."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ixfast
from ixfast import EncodingProfile, Evidence, InputError, TagKeys, TamperState, explain, identify, verify
from ixfast.chips import PRESETS, REASONS, UNDECIDED_REASONS, Message, compile_profile
from ixfast.keys.diversify import USUAL_DERIVATIONS, Derivation, scheme_of
from ixfast.testing import VirtualFleet, VirtualTag

UID = bytes.fromhex("04782e21801d80")
OTHER_UID = bytes.fromhex("04782e21801d81")
FILE = bytes.fromhex("f0e1d2c3b4a5968778695a4b3c2d1e0f")
META = bytes.fromhex("1f2e3d4c5b6a798897a6b5c4d3e2f101")
MASTER = bytes.fromhex("00112233445566778899aabbccddeeff")


def tag_of(profile: str | EncodingProfile = "encrypted", **more: Any) -> VirtualTag:
    return VirtualTag(profile, **{"uid": UID, "file_key": FILE, "meta_key": META, "counter": 60, **more})


def forwarded(tag: VirtualTag) -> str:
    """The next tap as a web server would send it to `/v1/t`: without the UID, if the mirror is plain."""
    return "&".join(f"{name}={value}" for name, value in tag.tap_parameters().items())


@pytest.mark.parametrize("name", PRESETS)
def test_every_profile(name: str) -> None:
    tag = tag_of(name)
    evidence = verify(tag.tap(), profile=name, keys=tag.keys, uid=UID)
    assert (evidence.authentic, evidence.reason, evidence.explanation, evidence.undecided) == (True, None, None, False)
    assert evidence.counter == (61 if tag.profile.counter_expected else None)
    assert evidence.uid == (None if name == "plain-counter-only" else UID)
    assert (evidence.key_version, evidence.tag_code) == (1, tag.xuid if "xuid" in tag.profile.template.slots else None)
    forged = verify(tag.forged(), profile=name, keys=tag.keys, uid=UID)
    assert (forged.authentic, forged.reason, forged.key_version, forged.position) == (False, "mac_mismatch", None, None)
    assert forged.explanation == REASONS["mac_mismatch"]


@pytest.mark.parametrize("name", PRESETS)
def test_it_agrees_with_what_the_engine_examines(name: str) -> None:
    tag = tag_of(name)
    for url in (tag.tap(), tag.forged(), tag.forged("wrong_key")):
        message = tag.profile.read_url(url)
        assert isinstance(message, Message)
        known: dict[str, Any] = {"uid": UID, "statics": tag.statics}
        examined = tag.profile.examine(message, file_keys=tag.file_keys(), meta_keys=tag.meta_keys(), **known)
        evidence = verify(url, profile=name, keys=tag.keys, **known)
        for field in ("authentic", "reason", "uid", "counter", "file_data"):
            assert getattr(evidence, field) == getattr(examined, field)


@pytest.mark.parametrize("name", PRESETS)
def test_a_lower_cased_url_and_a_bare_query_string(name: str) -> None:
    tag = tag_of(name)
    url = tag.tap()
    forms = [url.lower()] if tag.profile.template.path else [url.lower(), url.partition("?")[2]]
    assert all(verify(form, profile=name, keys=tag.keys, uid=UID).authentic for form in forms)


def test_what_a_web_server_forwards() -> None:
    tag = tag_of("ixkio-plain")
    url = forwarded(tag)
    assert verify(url, profile="ixkio-plain", keys=FILE, uid=UID.hex()).counter == 61
    evidence = verify(url, profile="ixkio-plain", keys=FILE)
    assert (evidence.authentic, evidence.undecided, evidence.reason) == (False, True, "uid_missing")


def test_file_data_and_tamper_state() -> None:
    evidence = verify(
        (tag := tag_of("encrypted-tamper", stored="O", file_data=b"OCbatch 7")).tap(), profile="encrypted-tamper", keys=tag.keys
    )
    assert evidence.file_data == b"OCbatch 7-------"
    assert evidence.tamper == TamperState("open", "closed")
    strange = verify((tag := tag_of("encrypted-tamper", stored="X")).tap(), profile="encrypted-tamper", keys=tag.keys)
    assert (strange.authentic, strange.tamper) == (True, None)


def test_replays_are_authentic_and_positions_detect_them() -> None:
    tag = tag_of()
    keys = TagKeys(file={1: FILE, 2: MASTER}, meta=META)
    first, second, again = (verify(url, profile="encrypted", keys=keys) for url in (tag.tap(), tag.tap(), tag.tap_at(61)))
    assert first == again and first.authentic
    renewed = tag_of(file_key=MASTER, counter=0)
    after_key_change = verify(renewed.tap(), profile="encrypted", keys=keys)
    assert (after_key_change.key_version, after_key_change.counter) == (2, 1)
    positions = [each.position for each in (first, second, after_key_change)]
    assert positions == [(1 << 24) + 61, (1 << 24) + 62, (2 << 24) + 1]


def test_no_position_without_a_counter() -> None:
    tag = tag_of("plain-uid-only")
    evidence = verify(tag.tap(), profile="plain-uid-only", keys=FILE)
    assert (evidence.authentic, evidence.counter, evidence.position) == (True, None, None)


@pytest.mark.parametrize(
    ("profile", "more", "reason"),
    [
        ("encrypted", {"keys": TagKeys(file=MASTER, meta=META)}, "mac_mismatch"),
        ("encrypted", {"keys": TagKeys(file=FILE, meta=META), "uid": OTHER_UID}, "uid_mismatch"),
        ("plain-uid-counter", {"keys": FILE, "uid": OTHER_UID}, "uid_mismatch"),
        ("encrypted", {"keys": FILE}, "no_meta_key"),
        ("encrypted", {"keys": TagKeys(meta=META)}, "no_key"),
        ("plain-uid-counter", {"keys": TagKeys()}, "no_key"),
    ],
)
def test_reasons(profile: str, more: dict[str, Any], reason: str) -> None:
    evidence = verify(tag_of(profile).tap(), profile=profile, **more)
    assert (evidence.authentic, evidence.reason, evidence.undecided) == (False, reason, reason in UNDECIDED_REASONS)
    assert evidence.explanation == REASONS[reason]


def test_an_unreadable_mirror_is_a_refusal() -> None:
    unreadable = next(
        key
        for key in (bytes([n] * 16) for n in range(1, 200))
        if not identify(tag_of().tap(), profile="encrypted", keys=TagKeys(meta=key))
    )
    assert verify(tag_of().tap(), profile="encrypted", keys=TagKeys(file=FILE, meta=unreadable)).reason == "picc_unreadable"
    derived = TagKeys(master=MASTER, derivation="an10922", meta=unreadable)
    assert verify(tag_of().tap(), profile="encrypted", keys=derived).reason == "picc_unreadable"


@pytest.mark.parametrize("scheme", USUAL_DERIVATIONS, ids=repr)
@pytest.mark.parametrize("profile", ["plain-uid-counter", "encrypted", "lrp-encrypted"])
def test_keys_of_a_fleet_are_derived_from_its_master(scheme: Derivation, profile: str) -> None:
    fleet = VirtualFleet(7, 3, profile, derivation=scheme)
    meta = None if scheme_of(scheme) != "an10922" else fleet.meta_key
    keys = TagKeys(master={2: MASTER, 1: fleet.master}, derivation=scheme, meta=meta)
    for tag in fleet:
        evidence = verify(tag.tap(), profile=profile, keys=keys)
        assert (evidence.authentic, evidence.uid, evidence.counter, evidence.key_version) == (True, tag.uid, 1, 1)
        assert verify(tag.forged(), profile=profile, keys=keys).reason == "mac_mismatch"


def test_without_a_uid_no_key_can_be_derived_and_nothing_is_refused() -> None:
    keys = TagKeys(master=MASTER, derivation="an10922", meta=META)
    own = ixfast.derive_keys(MASTER, UID, "an10922").file_key
    for profile, more in (("encrypted", {"mirrors_uid": False}), ("plain-counter-only", {})):
        tag = tag_of(profile, file_key=own, **more)
        url = tag.tap()
        unknown = verify(url, profile=profile, keys=keys)
        assert (unknown.authentic, unknown.undecided, unknown.reason) == (False, True, "no_key")
        known = verify(url, profile=profile, keys=keys, uid=UID)
        assert (known.authentic, known.counter) == (True, 61)


def test_static_texts_in_the_window() -> None:
    profile = EncodingProfile(
        name="own", scheme="ntag424-aes", template="x={xuid}&d={picc}&c={mac}", window="x={xuid}&d={picc}&c="
    )
    tag = tag_of(profile)
    url = tag.tap()
    assert verify(url, profile=profile, keys=tag.keys).tag_code == tag.xuid
    assert verify(url, profile=profile, keys=tag.keys, statics={"xuid": "another1"}).reason == "static_mismatch"
    without = url.replace(f"x={tag.xuid}&", "")
    assert verify(without, profile=profile, keys=tag.keys).reason == "static_missing"
    assert verify(without, profile=profile, keys=tag.keys, statics=tag.statics).authentic


def test_claims() -> None:
    plain = tag_of("ixkio-plain")
    (claim,) = identify(plain.tap(), profile="ixkio-plain")
    assert (claim.uid, claim.counter, claim.tag_code) == (UID, 61, plain.xuid)
    encrypted = tag_of("encrypted")
    url = encrypted.tap()
    assert identify(url, profile="encrypted") == ()
    claims = identify(url, profile="encrypted", keys=TagKeys(meta={1: META, 2: META}))
    assert [(claim.uid, claim.counter) for claim in claims] == [(UID, 61)]
    forged = identify(encrypted.forged(), profile="encrypted", keys=TagKeys(meta=META))
    assert [claim.uid for claim in forged] == [UID]  # nothing is verified


@pytest.mark.parametrize(
    ("url", "profile", "code", "field", "message"),
    [
        ("", "encrypted", "missing_parameter", "picc_data", "Incomplete tap: the profile encrypted also needs picc_data, cmac."),
        ("https://tag.example/t?picc_data=" + "0" * 32, "encrypted", "missing_parameter", "cmac", "Incomplete tap: the profile "),
        (
            "picc_data=0&cmac=0",
            "encrypted",
            "invalid_parameter",
            "picc_data",
            "Malformed tap: picc_data must be 32",
        ),
        ("c=1&c=2", "boltcard", "invalid_parameter", "c", "Malformed tap: c appears twice."),
        (
            "https://tag.example/é",
            "encrypted",
            "missing_parameter",
            "picc_data",
            "Incomplete tap: the profile encrypted also needs",
        ),
        ("a" * 5000, "encrypted", "invalid_parameter", "url", "Malformed tap: the URL is longer than 4096 characters."),
        (
            "https://tag.example/%ff?%ff=%ff",
            "encrypted",
            "invalid_parameter",
            None,
            "Malformed tap: the URL is not UTF-8 once it is",
        ),
        (None, "encrypted", "invalid_parameter", "url", "url must be text."),
        (b"c=1", "encrypted", "invalid_parameter", "url", "url must be text."),
    ],
)
def test_text_that_is_not_a_tap(url: Any, profile: str, code: str, field: str | None, message: str) -> None:
    for call in (verify, explain, identify):
        with pytest.raises(InputError) as raised:
            call(url, profile=profile, keys=TagKeys(file=FILE, meta=META))
        assert (raised.value.code, raised.value.field) == (code, field)
        assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


@given(
    st.text()
    | st.from_regex(r"(https?://a/)?\??(picc_data|enc|cmac|uid|ctr)=[0-9A-F]{0,40}(&cmac=[0-9A-Fa-f]{0,20})?", fullmatch=True)
)
def test_any_text_gives_evidence_or_one_exception(text: str) -> None:
    for profile in ("encrypted-file", "plain-uid-counter", "path"):
        try:
            evidence = verify(text, profile=profile, keys=TagKeys(file=FILE, meta=META))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert not evidence.authentic


def test_an_explanation_has_the_result_of_the_evidence() -> None:
    fleet = VirtualFleet(7, 1, "encrypted", derivation=ixfast.derivation("boltcard"))
    keys = TagKeys(master=fleet.master, derivation="boltcard")
    tag = fleet[0]
    steps = dict(explain(tag.tap(), profile="encrypted", keys=keys))
    assert steps["MAC"] == "valid with file key version 1" and steps["result"] == "authentic"
    assert steps["registered UID"] == tag.uid.hex().upper()
    assert dict(explain(tag.forged(), profile="encrypted", keys=keys))["result"].startswith("not authentic: mac_mismatch")


def test_evidence_cannot_be_changed() -> None:
    evidence = verify(tag_of().forged(), profile="encrypted", keys=tag_of().keys)
    with pytest.raises(AttributeError):
        evidence.authentic = True  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


def test_evidence_has_no_truth_value() -> None:
    evidence = verify(tag_of().forged(), profile="encrypted", keys=tag_of().keys)
    with pytest.raises(TypeError, match="check `authentic`"):
        assert evidence


def test_a_compiled_profile_is_reused() -> None:
    profile = EncodingProfile(name="own", scheme="ntag424-aes", template="d={picc}&c={mac}")
    assert compile_profile(profile) is not compile_profile(profile)
    tag = VirtualTag(profile)
    assert tag.profile is VirtualTag(msgspec.structs.replace(profile)).profile
