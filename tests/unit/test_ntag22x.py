"""NTAG 223, 224 and StatusDetect: what the MAC covers, TT, a disabled counter, and profiles that contradict themselves."""

import importlib
import os
import string
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import _cmac_py
from ixfast.chips import CompiledProfile, Message, Missing, compile_profile, explain_message, preset
from ixfast.chips.core import Core
from ixfast.chips.ntag22x import Ntag22xScheme
from ixfast.chips.tamper import pack_tt
from ixfast.domain.model import EncodingProfile, Evidence, Key, Tamper
from ixfast.errors import InputError, ProfileError
from ixfast.limits import COUNTER_MAX
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("04aa2bd2335780")
KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
NAMES = ("ntag223", "ntag224", "ntag22x-sd")


def cores() -> dict[str, Core]:
    found: dict[str, Core] = {"twin": _cmac_py}
    if os.environ.get("IXFAST_NO_EXTENSIONS") != "1":
        found["native"] = importlib.import_module("ixfast._cmac")
    return found


CORES = cores()


def compiled(template: str, *, scheme: str = "ntag22x-sd", window: str = "", without_counter: bool = False) -> CompiledProfile:
    return compile_profile(
        EncodingProfile(name="mine", scheme=scheme, template=template, window=window, allow_without_counter=without_counter)
    )


def tag_of(profile: CompiledProfile | str, counter: int = 0x102FF) -> VirtualTag:
    return VirtualTag(
        profile, xuid="q8w3sbcz", uid=UID, file_key=KEY, counter=counter, current="O", status=bytes.fromhex("0a1b2c3d")
    )


def examine(tag: VirtualTag, url: str, uid: bytes | None = UID) -> Evidence:
    message = tag.profile.read_url(url)
    assert isinstance(message, Message)
    return tag.profile.examine(message, uid=uid, file_keys=tag.file_keys())


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("CO00000000", "3f00000000"),
        ("OI12345678", "f912345678"),
        ("0000000000", "0000000000"),
        ("C0ABCDEF00", "30abcdef00"),
    ],
)
def test_tt_is_two_nibbles_and_four_bytes(text: str, packed: str) -> None:
    assert pack_tt(text.encode()).hex() == packed


@pytest.mark.parametrize(
    "text", ["", "C", "CO", "CO0000000", "CO000000000", "XO00000000", "co00000000", "CO0000000G", "CO 0000000"]
)
def test_other_texts_are_no_tt(text: str) -> None:
    with pytest.raises(ValueError):
        pack_tt(text.encode())


def test_the_letters_enter_as_the_low_nibble_of_their_code() -> None:
    """The table in the datasheet follows a single rule."""
    for letter in "COI0":
        assert pack_tt(f"{letter}0".encode() + b"0" * 8)[0] == (ord(letter) & 0xF) << 4


@pytest.mark.parametrize("core", CORES)
def test_the_counter_goes_in_with_its_most_significant_byte_first(core: str) -> None:
    scheme = Ntag22xScheme("ntag223", detects_status=False, core=CORES[core])
    assert scheme.simulated_mac(KEY, UID, 0x010203, b"") == _cmac_py.aes_cmac(KEY, UID + b"\1\2\3")[1::2]
    assert scheme.verify(KEY, UID, 0x010203, b"", scheme.simulated_mac(KEY, UID, 0x010203, b""))
    assert not scheme.verify(KEY, UID, 0x030201, b"", scheme.simulated_mac(KEY, UID, 0x010203, b""))


@pytest.mark.parametrize(("uid", "counter"), [(b"", 1), (UID[:6], 1), (UID, -1), (UID, COUNTER_MAX + 1)])
def test_both_mirrors_are_always_signed(uid: bytes, counter: int) -> None:
    scheme = Ntag22xScheme("ntag223", detects_status=False)
    with pytest.raises(ValueError, match="mirrors both"):
        scheme.simulated_mac(KEY, uid, counter, b"")


def test_there_is_nothing_encrypted() -> None:
    scheme = Ntag22xScheme("ntag223", detects_status=False)
    assert scheme.read_picc(KEY, bytes(16)) is None
    for refused in (
        lambda: scheme.write_picc(KEY, UID, 1, bytes(16)),
        lambda: scheme.decrypt_file(KEY, UID, 1, bytes(16)),
        lambda: scheme.encrypt_file(KEY, UID, 1, bytes(16)),
    ):
        with pytest.raises(ValueError, match="does not encrypt anything"):
            refused()
    with pytest.raises(ValueError, match="8 bytes"):
        scheme.verify(KEY, UID, 1, b"", bytes(7))


@pytest.mark.parametrize(
    ("template", "scheme", "window", "message"),
    [
        ("m={uid}x{mac}", "ntag223", "", r"\{counter\} is missing; scheme ntag223 signs it"),
        ("m={counter}x{mac}", "ntag22x-sd", "", r"\{uid\} is missing; scheme ntag22x-sd signs it"),
        ("m={uid}x{counter}x{mac}", "ntag223", "{uid}x{counter}x", "signs the mirrored fields only; leave the window empty"),
        ("m={uid}x{counter}x{tt}x{mac}", "ntag223", "", r"do not mirror \{tt\}; they mirror \{uid\}, \{counter\}, \{mac\}"),
        ("m={uid}x{counter}x{tt}x{mac}", "ntag424-aes", "", r"do not mirror \{tt\}"),
        ("p={picc}&c={mac}", "ntag224", "", r"do not mirror \{picc\}"),
        ("m={uid}x{counter}x{tamper}x{mac}", "ntag22x-sd", "", r"do not mirror \{tamper\}; they mirror .*\{tt\}"),
    ],
)
def test_a_profile_of_another_chip_is_refused(template: str, scheme: str, window: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        compiled(template, scheme=scheme, window=window)


@pytest.mark.parametrize(
    "template",
    [
        "m={uid}x{counter}x{tt}x{mac}",
        "uid={uid}&ctr={counter}&tt={tt}&cmac={mac}",
        "/t/{uid}x{counter}x{tt}x{mac}",
        "u={uid}&m={counter}x{tt}x{mac}",
        "x={xuid}&c={mac}&t={tt}&m={uid}x{counter}",
    ],
)
@pytest.mark.parametrize("change", [str, str.lower], ids=["verbatim", "lower-cased"])
def test_one_mirror_or_split(template: str, change: Callable[[str], str]) -> None:
    tag = tag_of(compiled(template))
    evidence = examine(tag, change(tag.tap()))
    assert evidence == Evidence(True, None, UID, 0x10300, 1, Tamper("C", "O"))


def test_split_parameters_have_the_names_of_v1() -> None:
    tag = tag_of("ntag22x-sd")
    parameters = tag.tap_parameters()
    assert list(parameters) == ["x", "n", "e", "t"]
    assert parameters["t"] == "CO0A1B2C3D"
    message = tag.profile.read_parameters(parameters)
    assert isinstance(message, Message)
    assert tag.profile.examine(message, uid=UID, file_keys=tag.file_keys()).tamper == Tamper("C", "O")
    del parameters["t"]
    missing = tag.profile.read_parameters(parameters)
    assert isinstance(missing, Missing)
    assert tag.profile.examine(message, uid=None, file_keys=tag.file_keys()).reason == "uid_missing"


def test_a_state_that_is_not_mirrored_is_no_tamper_state() -> None:
    tag = tag_of("ntag22x-sd")
    tag.stored = tag.current = "0"
    evidence = examine(tag, tag.tap())
    assert evidence.authentic
    assert evidence.tamper is None


def test_a_counter_of_0_needs_the_owners_word() -> None:
    """A chip with an enabled counter never shows 0: reading the mirror raises the counter first."""
    strict, lenient = tag_of("ntag223"), tag_of(compiled(preset("ntag223").template, scheme="ntag223", without_counter=True))
    url = strict.tap_at(0)
    assert examine(strict, url).reason == "counter_range"
    evidence = examine(lenient, url)
    assert evidence.authentic
    assert evidence.counter is None
    assert examine(lenient, lenient.tap_at(1)).counter == 1
    other = url[:-1] + ("0" if url[-1] != "0" else "1")
    assert examine(lenient, other).reason == "mac_mismatch"
    verify_plain = strict.profile.verify_plain
    assert verify_plain is not None
    message = strict.profile.read_url(url)
    assert isinstance(message, Message)
    assert not verify_plain(KEY, UID, 0, message.mac)


def test_a_chip_with_sdm_keeps_refusing_0() -> None:
    profile = msgspec.structs.replace(preset("plain-uid-counter"), allow_without_counter=True)
    tag = tag_of(compile_profile(profile))
    assert examine(tag, tag.tap_at(0)).reason == "counter_range"


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_a_message_can_be_changed(name: str, core: str) -> None:
    """Flips every bit of UID, counter, TT, MAC and key, for one message of each scheme."""
    scheme = Ntag22xScheme(name, detects_status=name == "ntag22x-sd", core=CORES[core])
    tt = b"CO0A1B2C3D" if scheme.signed_fields else b""
    mac = scheme.simulated_mac(KEY, UID, 0x102FF, tt)
    assert scheme.verify(KEY, UID, 0x102FF, tt, mac)
    fields = (KEY, UID, (0x102FF).to_bytes(3), mac)
    flips = 0
    for index, field in enumerate(fields):
        for bit in range(8 * len(field)):
            changed = list(fields)
            changed[index] = (int.from_bytes(field) ^ 1 << bit).to_bytes(len(field))
            key, uid, counter, mac_changed = changed
            assert not scheme.verify(key, uid, int.from_bytes(counter), tt, mac_changed)
            flips += 1
    assert flips == 8 * (16 + 7 + 3 + 8)
    for position in range(len(tt)):
        for letter in "COI0" if position < 2 else string.hexdigits.upper():
            changed_tt = tt[:position] + letter.encode() + tt[position + 1 :]
            assert scheme.verify(KEY, UID, 0x102FF, changed_tt, mac) is (changed_tt == tt)


@given(
    name=st.sampled_from(NAMES),
    uid=st.binary(min_size=7, max_size=7),
    key=st.binary(min_size=16, max_size=16),
    counter=st.integers(1, COUNTER_MAX),
    states=st.text("COI0", min_size=2, max_size=2),
    status=st.binary(min_size=4, max_size=4),
    lower=st.booleans(),
)
def test_round_trip(name: str, uid: bytes, key: bytes, counter: int, states: str, status: bytes, lower: bool) -> None:
    tag = VirtualTag(name, xuid="q8w3sbcz", uid=uid, file_key=key, stored=states[0], current=states[1], status=status)
    url = tag.tap_at(counter)
    message = tag.profile.read_url(url.lower() if lower else url)
    assert isinstance(message, Message)
    evidence = tag.profile.examine(message, uid=uid, file_keys=(Key(1, key, b"\0\0\0"),))
    tamper = Tamper(*states) if name == "ntag22x-sd" and "0" not in states else None
    assert evidence == Evidence(True, None, uid, counter, 1, tamper)


@given(st.text("COI0123456789abcdefxX", min_size=8, max_size=12))
def test_any_text_in_the_place_of_tt_is_read_or_refused(text: str) -> None:
    profile = compile_profile(preset("ntag22x-sd"))
    url = f"https://tag.example/t?m=04AA2BD2335780x000001x{text}xB188AC6F69140B92"
    try:
        message = profile.read_url(url)
    except InputError as error:
        assert error.field == "m"
        return
    assert isinstance(message, Message)
    assert message.tt == text.upper()
    assert not profile.examine(message, uid=UID, file_keys=(Key(1, KEY, b"\0\0\0"),)).authentic


def test_the_explanation_names_a_state_that_is_unknown() -> None:
    tag = tag_of("ntag22x-sd")
    tag.stored = "0"
    message = tag.profile.read_url(tag.tap())
    assert isinstance(message, Message)
    steps = explain_message(tag.profile, message, uid=UID, file_keys=tag.file_keys())
    assert ("tamper", "no known state in authenticated text") in steps
