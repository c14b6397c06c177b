"""Simulated tags behave like chips, and fleets are the same in every run."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import cmac
from ixfast.chips import PRESETS, CompiledProfile, Message, compile_profile, preset
from ixfast.domain.model import EncodingProfile, Evidence
from ixfast.errors import InputError
from ixfast.keys.diversify import An10922, BoltCard, BoltCardKeys
from ixfast.limits import COUNTER_MAX
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

UID = bytes.fromhex("04A1B2C3D4E5F6")
FILE_KEY = bytes.fromhex("f0e1d2c3b4a5968778695a4b3c2d1e0f")


def tag_of(
    profile: EncodingProfile | CompiledProfile | str = "plain-uid-counter", *, counter: int = 0, seed: int = 0
) -> VirtualTag:
    return VirtualTag(profile, xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY, counter=counter, aid="acme", seed=seed)


def examine(tag: VirtualTag, url: str) -> Evidence:
    message = tag.profile.read_url(url)
    assert isinstance(message, Message)
    return tag.profile.examine(message, uid=tag.uid, file_keys=tag.file_keys(), meta_keys=tag.meta_keys(), statics=tag.statics)


def test_each_tap_has_the_next_counter() -> None:
    tag = tag_of()
    assert [examine(tag, tag.tap()).counter for _ in range(3)] == [1, 2, 3]
    assert tag.tap_parameters()["n"] == "000004"
    assert tag.counter == 4


def test_a_tap_at_a_counter_leaves_the_tag_alone() -> None:
    tag = tag_of(counter=7)
    replayed = tag.tap_at(3)
    assert tag.parameters_at(3)["n"] == "000003"
    assert tag.counter == 7
    assert replayed == tag.tap_at(3)
    assert examine(tag, replayed).counter == 3


def test_a_tag_stops_at_the_end_of_its_counter() -> None:
    tag = tag_of(counter=COUNTER_MAX - 1)
    assert examine(tag, tag.tap()).counter == COUNTER_MAX
    for tap in (tag.tap, tag.tap_parameters, tag.forged):
        with pytest.raises(InputError, match="has reached its maximum"):
            tap()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ixkio-plain", {"x", "n", "e"}),
        ("plain-counter-only", {"x", "n", "e"}),
        ("plain-joined", {"x", "n", "e"}),
        ("plain-uid-only", {"x", "e"}),
        ("plain-tamper", {"x", "n", "e", "t"}),
        ("encrypted", {"x", "picc_data", "cmac"}),
        ("encrypted-file", {"x", "picc_data", "enc", "cmac"}),
        ("boltcard", {"x", "p", "c"}),
        ("bulk", {"x", "e"}),
        ("path", {"x", "picc", "mac"}),
    ],
)
def test_parameters_for_the_response_api(name: str, parameters: set[str]) -> None:
    assert set(tag_of(name).tap_parameters()) == parameters


@pytest.mark.parametrize("name", PRESETS)
def test_forgeries_are_refused(name: str) -> None:
    tag = tag_of(name)
    for _ in range(70):
        assert examine(tag, tag.forged()).reason == "mac_mismatch"
    assert examine(tag, tag.forged("wrong_key")).reason == "mac_mismatch"
    assert tag.counter == 71
    assert examine(tag, tag.tap()).authentic


def test_a_url_is_complete() -> None:
    tag = tag_of("path")
    tag.base_url = "https://acme.example/scan"
    assert tag.tap().startswith("https://acme.example/scan/")
    assert tag_of().tap().startswith("https://tag.example/t?uid=04A1B2C3D4E5F6&ctr=000001&cmac=")


def test_the_owners_texts_are_escaped() -> None:
    profile = EncodingProfile(
        name="mine", scheme="ntag424-aes", template="c={cuid}&n={counter}&e={mac}", window="{cuid}&n={counter}&e="
    )
    tag = VirtualTag(profile, xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY, cuid="a&b/ü C")
    url = tag.tap()
    assert "c=a%26b%2F%C3%BC%20C&" in url
    assert examine(tag, url).authentic


def test_padding_of_the_encrypted_mirror_follows_the_seed() -> None:
    assert tag_of("encrypted").tap() == tag_of("encrypted").tap()
    assert tag_of("encrypted").tap() != tag_of("encrypted", seed=1).tap()
    tag = tag_of("encrypted")
    endings = {cmac.picc_decrypt(tag.meta_key, bytes.fromhex(tag.parameters_at(n)["picc_data"]))[11:] for n in range(1, 50)}
    assert len(endings) == 49


def test_file_data_must_fit() -> None:
    tag = tag_of("encrypted-file")
    tag.file_data = bytes(17)
    with pytest.raises(InputError, match="mirrors 16 bytes of file data, the tag has 17"):
        tag.tap()


def test_lengths_are_checked() -> None:
    with pytest.raises(InputError, match="uid must be 7 bytes"):
        VirtualTag("encrypted", xuid="a", uid=bytes(4), file_key=bytes(16))
    with pytest.raises(InputError, match="file_key must be 16 bytes"):
        VirtualTag("encrypted", xuid="a", uid=bytes(7), file_key=bytes(15))
    with pytest.raises(InputError, match="meta_key must be 16 bytes"):
        VirtualTag("encrypted", xuid="a", uid=bytes(7), file_key=bytes(16), meta_key=b"")


def test_keys_come_with_their_check_values() -> None:
    (key,) = tag_of().file_keys(3)
    assert (key.version, key.value) == (3, FILE_KEY)
    assert key.check_value == cmac.aes_cmac(FILE_KEY, bytes(16))[:3]


def test_no_repr_shows_a_key() -> None:
    fleet = VirtualFleet(1, 10)
    texts = [repr(x) for x in (tag_of(), fleet, fleet[0], fleet[0].file_keys(), fleet[0].meta_keys(), fleet[0].profile)]
    for secret in (FILE_KEY, fleet.file_key(0), fleet.meta_key):
        assert not any(secret.hex() in text.lower() or repr(secret) in text for text in texts)
    assert texts[1] == "VirtualFleet(seed=1, count=10, profile='ixkio-plain', account='acme')"


# Fleets


def test_a_fleet_is_derived_from_its_seed() -> None:
    first, again, other = VirtualFleet(1, 100), VirtualFleet(1, 100), VirtualFleet(2, 100)
    assert [tag.tap() for tag in first] == [tag.tap() for tag in again]
    assert {tag.xuid for tag in first}.isdisjoint(tag.xuid for tag in other)
    assert first.meta_key != other.meta_key
    # Fleets stand in data sets of load tests, so a change here must be a decision.
    assert (first.xuid(0), first.uid(0).hex()) == ("aifce6qy", "0474814bd54ea2")


def test_a_fleet_is_a_sequence() -> None:
    fleet = VirtualFleet(1, 10, "encrypted", "acme")
    assert len(fleet) == 10
    assert [tag.xuid for tag in fleet[2:4]] == [fleet[2].xuid, fleet[3].xuid]
    assert fleet[-1].uid == fleet[9].uid
    assert fleet[0].aid == "acme"
    assert fleet[0].meta_key == fleet[9].meta_key
    for index in (10, -11):
        with pytest.raises(IndexError, match="the fleet has 10 tags"):
            fleet[index]
    with pytest.raises(ValueError, match="count must be"):
        VirtualFleet(1, -1)


def test_no_two_tags_are_alike() -> None:
    fleet = VirtualFleet(5, 50_000)
    indices = range(50_000)
    xuids = {fleet.xuid(i) for i in indices}
    assert len(xuids) == len({fleet.uid(i) for i in indices}) == len({fleet.file_key(i) for i in indices}) == 50_000
    assert all(len(xuid) == 8 and xuid.isalnum() and xuid == xuid.lower() for xuid in xuids)


@given(seed=st.integers(0, 2**64), index=st.integers(0, 10**9 - 1))
def test_a_tag_of_a_huge_fleet_costs_no_more(seed: int, index: int) -> None:
    fleet = VirtualFleet(seed, 10**9, "encrypted-file")
    tag = fleet[index]
    assert len(tag.uid) == 7
    assert tag.uid[0] == 4
    assert examine(tag, tag.tap()).authentic


@pytest.mark.parametrize("name", ["ixkio-plain", "plain-counter-only", "plain-uid-counter", "plain-joined"])
def test_the_fast_tap_is_the_tags_own(name: str) -> None:
    fleet = VirtualFleet(3, 20, name)
    for index, counter in itertools.product((0, 19), (1, 2, COUNTER_MAX)):
        parameters = fleet[index].parameters_at(counter)
        assert fleet.plain_tap(index, counter) == (parameters["x"], parameters["n"], parameters["e"])


def test_the_fast_tap_with_a_window() -> None:
    profile = EncodingProfile(
        name="mine", scheme="ntag424-aes", template="m={uid}x{counter}&e={mac}", window="{uid}x{counter}&e="
    )
    fleet = VirtualFleet(3, 20, compile_profile(profile))
    assert fleet.plain_tap(4, 9)[2] == fleet[4].parameters_at(9)["e"]


@pytest.mark.parametrize("name", ["encrypted", "plain-uid-only", "plain-tamper"])
def test_the_fast_tap_is_only_for_bare_plain_profiles(name: str) -> None:
    with pytest.raises(ValueError, match="is not a plain mirror with a counter"):
        VirtualFleet(3, 20, preset(name)).plain_tap(0, 1)


def test_a_derived_fleet_has_keys_of_its_scheme() -> None:
    plain, derived = VirtualFleet(3, 5, "encrypted"), VirtualFleet(3, 5, "encrypted", derivation=BoltCard())
    keys = BoltCardKeys(derived.master, derived.uid(2), 1)
    assert (derived.file_key(2), derived.meta_key) == (keys.k2, keys.k1) and derived.derives_meta_key
    assert derived.uid(2) == plain.uid(2) and derived.file_key(2) != plain.file_key(2)
    assert not plain.derives_meta_key and not VirtualFleet(3, 5, "encrypted", derivation=An10922()).derives_meta_key
