"""Every preset reads its own taps, and not one bit of what it authenticates can be changed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import cmac
from ixfast.chips import PRESETS, CompiledProfile, Message, compile_profile, find_scheme, preset, scheme_names
from ixfast.chips.ntag22x import Ntag22xScheme
from ixfast.chips.scheme import Scheme
from ixfast.chips.template import Slot
from ixfast.domain.model import Evidence, Tamper
from ixfast.errors import InputError, ProfileError
from ixfast.limits import COUNTER_MAX
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("049A0BC7D1E2F3")
FILE_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
META_KEY = bytes.fromhex("101112131415161718191a1b1c1d1e1f")


def tag_of(profile: CompiledProfile | str) -> VirtualTag:
    return VirtualTag(
        profile, xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY, meta_key=META_KEY, counter=0xABCDE, aid="acme", current="O"
    )


def examine(tag: VirtualTag, message: Message, uid: bytes | None = UID) -> Evidence:
    return tag.profile.examine(message, uid=uid, file_keys=tag.file_keys(), meta_keys=tag.meta_keys(), statics=tag.statics)


def test_the_presets_are_these() -> None:
    assert list(PRESETS) == [
        "ixkio-plain",
        "plain-counter-only",
        "plain-uid-counter",
        "plain-joined",
        "plain-uid-only",
        "plain-tamper",
        "encrypted",
        "encrypted-file",
        "encrypted-tamper",
        "boltcard",
        "bulk",
        "path",
        "ntag223",
        "ntag224",
        "ntag22x-sd",
        "lrp-plain",
        "lrp-encrypted",
        "lrp-encrypted-file",
        "lrp-tamper",
    ]
    assert all(name == profile.name for name, profile in PRESETS.items())


def test_an_unknown_preset_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ProfileError, match="unknown encoding profile 'encrypt'; did you mean 'encrypted'"):
        preset("encrypt")
    with pytest.raises(ProfileError, match=r"unknown encoding profile '\?\?'; the presets are ixkio-plain, "):
        preset("??")


def test_only_the_preset_that_says_so_does_without_a_counter() -> None:
    assert [name for name, profile in PRESETS.items() if not compile_profile(profile).counter_expected] == ["plain-uid-only"]
    assert PRESETS["plain-uid-only"].allow_without_counter


MAC_MAKERS = "mact", "sdm_mac", "lrp_sdm_mac", "aes_cmac", "lrp_cmac", "sdm_session_keys", "lrp_session_master"


def assert_judging_makes_no_mac(name: str, patch: pytest.MonkeyPatch, scheme: Scheme | None = None) -> None:
    tag, profile = tag_of(name), compile_profile(preset(name), scheme=scheme)
    taps = (tag.tap_at(9), True), (tag.forged(), False)
    file_keys, meta_keys = tag.file_keys(), tag.meta_keys()

    def refuse(*_: object) -> bytes:
        raise AssertionError("the MAC that a tap should have has left the core")

    for maker in MAC_MAKERS:
        patch.setattr(cmac, maker, refuse)
    if scheme is None:
        patch.setattr(profile.scheme, "simulated_mac", refuse)
    for url, authentic in taps:
        message = profile.read_url(url)
        assert isinstance(message, Message)
        evidence = profile.examine(message, uid=UID, file_keys=file_keys, meta_keys=meta_keys, statics=tag.statics)
        assert evidence.authentic is authentic


@pytest.mark.parametrize("name", PRESETS)
def test_the_mac_that_a_tap_should_have_never_leaves_the_core(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_judging_makes_no_mac(name, monkeypatch)


def test_control_a_comparison_outside_the_core_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Comparing(Ntag22xScheme):
        def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
            return self.simulated_mac(file_key, uid, counter, window) == mac

    with pytest.raises(AssertionError, match="has left the core"):
        assert_judging_makes_no_mac("ntag223", monkeypatch, Comparing("ntag223", detects_status=False))


def test_the_hot_presets() -> None:
    hot = [name for name, profile in PRESETS.items() if compile_profile(profile).is_bare_plain]
    assert hot == ["ixkio-plain", "plain-counter-only", "plain-uid-counter", "plain-joined", "ntag223", "ntag224", "lrp-plain"]


@pytest.mark.parametrize("name", PRESETS)
def test_url_and_parameters_of_a_tap(name: str) -> None:
    tag = tag_of(name)
    by_url = tag.profile.read_url(tag.tap())
    by_parameters = tag.profile.read_parameters(tag.parameters_at(tag.counter))
    assert isinstance(by_url, Message)
    assert isinstance(by_parameters, Message)
    evidence = examine(tag, by_url)
    assert evidence.authentic
    assert evidence.counter == (None if name == "plain-uid-only" else 0xABCDF)
    assert evidence.uid == (None if name == "plain-counter-only" else UID)
    assert evidence.tamper == (Tamper("C", "O") if "tamper" in name or name == "ntag22x-sd" else None)
    assert examine(tag, by_parameters) == evidence
    without_registered_uid = examine(tag, by_url, uid=None)
    assert without_registered_uid == evidence


def canonical(url: str) -> str:
    """A change of case is none: clients lower-case URLs, so hex and names are read in any case."""
    return url.lower()


def protected_positions(tag: VirtualTag, url: str) -> set[int]:
    """Where the URL has a mirror of the chip or text of the window."""
    positions: set[int] = set()
    at = len(url)
    for part in reversed(tag.profile.template.parts):
        length = len(tag.xuid) if part == Slot("xuid", 64) else len(part) if isinstance(part, str) else part.chars
        at -= length
        if isinstance(part, Slot) and part.name != "xuid":
            positions.update(range(at, at + length))
    if tag.profile.scheme.signed_fields is not None:
        return positions
    mac_at = url.index(examine_mac(tag, url))
    uid = UID if tag.profile.uid_in_session else b""
    message = tag.profile.read_url(url)
    assert isinstance(message, Message)
    window = tag.profile.windows(message, uid, tag.statics)[0].decode()
    assert url[:mac_at].endswith(window)
    positions.update(range(mac_at - len(window), mac_at))
    return positions


def examine_mac(tag: VirtualTag, url: str) -> str:
    message = tag.profile.read_url(url)
    assert isinstance(message, Message)
    return message.mac.hex().upper()


def alike(scheme: str) -> set[str]:
    """The schemes that mirror what this one mirrors, so that a preset of one suits them all."""
    chip = find_scheme(scheme)
    return {
        name
        for name in scheme_names()
        if (find_scheme(name).mirrors, find_scheme(name).signed_fields) == (chip.mirrors, chip.signed_fields)
    }


@pytest.mark.parametrize("registered", [UID, None], ids=["UID-registered", "UID-unknown"])
@pytest.mark.parametrize(("name", "scheme"), [(name, chip) for name in PRESETS for chip in sorted(alike(PRESETS[name].scheme))])
def test_no_bit_of_a_tap_can_be_changed(name: str, scheme: str, registered: bytes | None) -> None:
    """Exhaustive for one tap of every preset by every chip: each bit of each mirror, of the window and of the MAC."""
    tag = tag_of(compile_profile(msgspec.structs.replace(preset(name), scheme=scheme)))
    url = tag.tap()
    accepted = []
    flips = 0
    for position in protected_positions(tag, url):
        for bit in range(8):
            changed = url[:position] + chr(ord(url[position]) ^ 1 << bit) + url[position + 1 :]
            if canonical(changed) == canonical(url):
                continue
            flips += 1
            try:
                message = tag.profile.read_url(changed)
            except InputError:
                continue
            if isinstance(message, Message) and examine(tag, message, registered).authentic:
                accepted.append(changed)
    assert accepted == []
    assert flips > 7 * 16


def test_control_the_bit_flips_find_an_unauthenticated_text() -> None:
    """The owner's tag code is outside the window: its changes pass, so a flip that passes is seen."""
    tag = tag_of("ixkio-plain")
    url = tag.tap()
    start = url.index(tag.xuid)
    changed = url[:start] + chr(ord(url[start]) ^ 1) + url[start + 1 :]
    message = tag.profile.read_url(changed)
    assert isinstance(message, Message)
    assert message.xuid != tag.xuid
    assert examine(tag, message).authentic


@given(
    name=st.sampled_from(list(PRESETS)),
    scheme=st.sampled_from(scheme_names()),
    uid=st.binary(min_size=7, max_size=7),
    keys=st.binary(min_size=32, max_size=32),
    counter=st.integers(1, COUNTER_MAX),
    states=st.text("COI", min_size=2, max_size=2),
    file_data=st.binary(max_size=16),
    seed=st.integers(0, 2**64 - 1),
    spelling=st.sampled_from([str, str.lower]),
    flip=st.integers(0, 63),
)
def test_any_tag_of_any_preset(
    name: str,
    scheme: str,
    uid: bytes,
    keys: bytes,
    counter: int,
    states: str,
    file_data: bytes,
    seed: int,
    spelling: type[str],
    flip: int,
) -> None:
    if scheme in alike(preset(name).scheme):
        profile = compile_profile(msgspec.structs.replace(preset(name), scheme=scheme))
    else:
        profile = compile_profile(preset(name))
    tag = VirtualTag(
        profile,
        xuid="q8w3sbcz",
        uid=uid,
        file_key=keys[:16],
        meta_key=keys[16:],
        stored=states[0],
        current=states[1],
        file_data=file_data,
        seed=seed,
    )
    message = profile.read_url(spelling(tag.tap_at(counter)))
    assert isinstance(message, Message)
    evidence = examine(tag, message, uid)
    assert evidence.authentic
    assert evidence.counter in (counter, None)
    if evidence.file_data is not None and profile.profile.tamper_offset is None:
        assert evidence.file_data == file_data.ljust(16, b"-")
    if evidence.tamper is not None:
        assert evidence.tamper == Tamper(states[0], states[1])
    mac = (int.from_bytes(message.mac) ^ 1 << flip).to_bytes(8)
    assert examine(tag, msgspec.structs.replace(message, mac=mac), uid).reason == "mac_mismatch"
    other = bytes((uid[0] ^ 1,)) + uid[1:]
    assert examine(tag, message, other).authentic is (name == "plain-counter-only")
