"""A tap is believed only as far as its MAC reaches."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import cmac
from ixfast.chips import REASONS, UNDECIDED_REASONS, CompiledProfile, Message, compile_profile, explain_message, preset
from ixfast.chips.ntag424_aes import AesScheme
from ixfast.chips.scheme import PiccData
from ixfast.domain.model import EncodingProfile, Evidence, Key, Tamper
from ixfast.limits import COUNTER_MAX, META_KEYS_TRIED_MAX
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("04A1B2C3D4E5F6")
OTHER_UID = bytes.fromhex("04A1B2C3D4E5F7")
FILE_KEY = bytes(range(16))
META_KEY = bytes(range(16, 32))
UNUSED_KEY = bytes(range(32, 48))


def compiled(
    template: str,
    window: str = "",
    *,
    tamper_offset: int | None = None,
    allow_without_counter: bool = False,
    scheme: AesScheme | None = None,
) -> CompiledProfile:
    profile = EncodingProfile(
        name="mine",
        scheme="ntag424-aes",
        template=template,
        window=window,
        tamper_offset=tamper_offset,
        allow_without_counter=allow_without_counter,
    )
    return compile_profile(profile, scheme=scheme)


def tag_of(
    profile: CompiledProfile | str, *, cuid: str | None = None, mirrors_uid: bool = True, mirrors_counter: bool = True
) -> VirtualTag:
    return VirtualTag(
        profile,
        xuid="q8w3sbcz",
        uid=UID,
        file_key=FILE_KEY,
        meta_key=META_KEY,
        counter=60,
        cuid=cuid,
        aid="acme",
        mirrors_uid=mirrors_uid,
        mirrors_counter=mirrors_counter,
    )


def key(value: bytes, version: int = 1) -> Key:
    return Key(version, value, value[:3])


def read(profile: CompiledProfile, url: str) -> Message:
    message = profile.read_url(url)
    assert isinstance(message, Message)
    return message


def examine(tag: VirtualTag, message: Message, uid: bytes | None = UID, statics: Mapping[str, str] | None = None) -> Evidence:
    return tag.profile.examine(
        message,
        uid=uid,
        file_keys=tag.file_keys(),
        meta_keys=tag.meta_keys(),
        statics=tag.statics if statics is None else statics,
    )


# Examining: which UID and which counter


def test_a_registered_uid_stands_in_for_one_that_was_not_forwarded() -> None:
    tag = tag_of("ixkio-plain")
    message = tag.profile.read_parameters(tag.tap_parameters())
    assert isinstance(message, Message)
    assert message.uid is None
    assert examine(tag, message) == Evidence(True, None, UID, 61, 1)
    assert examine(tag, message, uid=OTHER_UID).reason == "mac_mismatch"
    assert examine(tag, message, uid=None).reason == "uid_missing"


def test_an_unmirrored_uid_is_not_in_the_session_vector() -> None:
    tag = tag_of("plain-counter-only")
    message = read(tag.profile, tag.tap())
    assert examine(tag, message) == Evidence(True, None, None, 61, 1)
    other_form = compile_profile(preset("ixkio-plain"))
    evidence = other_form.examine(message, uid=UID, file_keys=tag.file_keys())
    assert evidence.reason == "mac_mismatch"


class WithUnmirroredUid(AesScheme):
    """Puts the UID into every session vector."""

    def __init__(self) -> None:
        super().__init__("ntag424-aes")
        verify = self.verify
        self.verify = lambda file_key, uid, counter, window, mac: verify(file_key, uid or UID, counter, window, mac)


class WithoutTagByte(AesScheme):
    """Takes every mirror for UID and counter, whatever its tag byte says."""

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        block = cmac.picc_decrypt(meta_key, picc)
        return PiccData(block[1:8], int.from_bytes(block[8:11], "little"))


@pytest.mark.parametrize("mirrors", [(True, False), (False, True), (True, True)], ids=["UID", "counter", "both"])
def test_an_encrypted_mirror_says_its_form_itself(mirrors: tuple[bool, bool]) -> None:
    profile = compiled("p={picc}&c={mac}", allow_without_counter=True)
    tag = tag_of(profile, mirrors_uid=mirrors[0], mirrors_counter=mirrors[1])
    evidence = examine(tag, read(profile, tag.tap()))
    assert evidence == Evidence(True, None, UID if mirrors[0] else None, 61 if mirrors[1] else None, 1)


@pytest.mark.parametrize(
    ("broken", "mirrors"),
    [(WithUnmirroredUid(), (False, True)), (WithoutTagByte("x"), (True, False)), (WithoutTagByte("x"), (False, True))],
)
def test_control_a_scheme_that_ignores_the_form_is_caught(broken: AesScheme, mirrors: tuple[bool, bool]) -> None:
    profile = compiled("p={picc}&c={mac}", allow_without_counter=True)
    tag = tag_of(profile, mirrors_uid=mirrors[0], mirrors_counter=mirrors[1])
    wrong = compiled("p={picc}&c={mac}", allow_without_counter=True, scheme=broken)
    message = read(wrong, tag.tap())
    assert not wrong.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=tag.meta_keys()).authentic


@pytest.mark.parametrize("tag_byte", sorted(set(range(256)) - {0xC7, 0x87, 0x40}))
def test_no_other_tag_byte_is_read(tag_byte: int) -> None:
    scheme = AesScheme("ntag424-aes")
    plaintext = bytes((tag_byte,)) + UID + b"\x01\0\0" + bytes(5)
    assert scheme.read_picc(META_KEY, cmac.aes_encrypt_block(META_KEY, plaintext)) is None


def test_a_mirrored_uid_must_be_the_registered_one() -> None:
    for name in ("plain-uid-counter", "encrypted"):
        tag = tag_of(name)
        evidence = examine(tag, read(tag.profile, tag.tap()), uid=OTHER_UID)
        assert evidence == Evidence(False, "uid_mismatch", UID, 61)
        assert examine(tag, read(tag.profile, tag.tap()), uid=None).authentic


@pytest.mark.parametrize("counter", [1, 255, 256, 65536, COUNTER_MAX])
def test_counters_of_genuine_taps(counter: int) -> None:
    for name in ("plain-uid-counter", "encrypted"):
        tag = tag_of(name)
        assert examine(tag, read(tag.profile, tag.tap_at(counter))).counter == counter


def test_counter_0_is_no_genuine_tap_although_its_mac_is_right() -> None:
    for name in ("plain-uid-counter", "encrypted", "plain-counter-only"):
        tag = tag_of(name)
        assert examine(tag, read(tag.profile, tag.tap_at(0))).reason == "counter_range"


def test_no_counter_needs_the_owners_word() -> None:
    lax, strict = (compiled("p={picc}&c={mac}", allow_without_counter=allowed) for allowed in (True, False))
    tag = tag_of(lax, mirrors_counter=False)
    message = read(lax, tag.tap())
    assert examine(tag, message) == Evidence(True, None, UID, None, 1)
    evidence = strict.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=tag.meta_keys())
    assert evidence == Evidence(False, "counter_missing", UID, None)
    plain = tag_of("plain-counter-only")
    assert examine(plain, Message(mac=bytes(8))).reason == "counter_missing"


def test_file_data_needs_both_mirrors() -> None:
    profile = compiled("p={picc}&f={enc:32}&c={mac}", "{enc}&c=", allow_without_counter=True)
    for uid, counter in ((None, 5), (UID, None)):
        picc = profile.scheme.write_picc(META_KEY, uid, counter, bytes(16))
        message = Message(mac=bytes(8), picc=picc, enc=bytes(16))
        evidence = profile.examine(message, uid=UID, file_keys=(key(FILE_KEY),), meta_keys=(key(META_KEY),))
        assert evidence.reason == "picc_unreadable"


# Examining: keys


def test_every_file_key_is_tried_and_the_right_one_named() -> None:
    tag = tag_of("plain-uid-counter")
    message = read(tag.profile, tag.tap())
    keys = (key(UNUSED_KEY, 9), key(FILE_KEY, 4), key(META_KEY, 2))
    assert tag.profile.examine(message, uid=UID, file_keys=keys).key_version == 4
    assert tag.profile.examine(message, uid=UID, file_keys=keys[::2]).reason == "mac_mismatch"
    assert tag.profile.examine(message, uid=UID, file_keys=()).reason == "no_key"


def test_every_meta_key_is_tried() -> None:
    tag = tag_of("encrypted")
    message = read(tag.profile, tag.tap())
    wrong = tuple(key(bytes((n,)) * 16, n) for n in range(META_KEYS_TRIED_MAX - 1))
    evidence = tag.profile.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=(*wrong, key(META_KEY)))
    assert evidence.authentic
    assert tag.profile.examine(message, uid=UID, file_keys=tag.file_keys()).reason == "no_meta_key"
    with pytest.raises(ValueError, match="more than 48 meta keys"):
        tag.profile.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=(*wrong, key(META_KEY), key(META_KEY)))


def test_wrong_meta_keys_are_seldom_taken_for_right_ones_and_never_authentic() -> None:
    tag = tag_of("encrypted")
    message = read(tag.profile, tag.tap())
    wrong = [key(n.to_bytes(16)) for n in range(4096)]
    reading = [one for one in wrong if tag.profile.candidates(message, (one,))]
    assert 4096 / 85 / 2 < len(reading) < 4096 / 85 * 2
    for one in reading:
        evidence = tag.profile.examine(message, uid=None, file_keys=tag.file_keys(), meta_keys=(one,))
        assert not evidence.authentic
        # A chance reading does not hide the right one, wherever it stands.
        assert tag.profile.examine(message, uid=None, file_keys=tag.file_keys(), meta_keys=(one, key(META_KEY))).authentic
    assert tag.profile.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=(wrong[0],)).reason in (
        "picc_unreadable",
        "uid_mismatch",
    )


def test_finding_the_tag_of_an_encrypted_mirror() -> None:
    tag = tag_of("encrypted")
    right = key(META_KEY, 7)
    assert tag.profile.find_uid(read(tag.profile, tag.tap()), (key(UNUSED_KEY), right)) == [(UID, 61, right)]
    assert tag.profile.find_uid(read(tag.profile, tag.tap()), ()) == []
    nameless = tag_of("encrypted", mirrors_uid=False)
    assert nameless.profile.find_uid(read(nameless.profile, nameless.tap()), (right,)) == []
    plain = tag_of("plain-uid-counter")
    assert plain.profile.find_uid(read(plain.profile, plain.tap()), (right,)) == []


def test_every_reason_is_explained_and_the_undecided_ones_are_reasons() -> None:
    assert REASONS.keys() > UNDECIDED_REASONS
    assert all(REASONS.values())


# Examining: window, tamper state, file data


@pytest.mark.parametrize("states", ["CC", "OC", "OO", "II", "CO"])
def test_tamper_state_from_the_window_and_from_file_data(states: str) -> None:
    for name in ("plain-tamper", "encrypted-tamper"):
        tag = tag_of(name)
        tag.stored, tag.current = states[0], states[1]
        assert examine(tag, read(tag.profile, tag.tap().lower())).tamper == Tamper(states[0], states[1])


@pytest.mark.parametrize("states", ["--", "CX", "0C"])
def test_an_unknown_tamper_state_is_none(states: str) -> None:
    for name in ("plain-tamper", "encrypted-tamper"):
        tag = tag_of(name)
        tag.stored, tag.current = states[0], states[1]
        evidence = examine(tag, read(tag.profile, tag.tap()))
        assert evidence.authentic
        assert evidence.tamper is None


def test_tamper_text_outside_the_window_is_never_believed() -> None:
    tag = tag_of(compiled("n={counter}&t={tamper}&e={mac}"))
    evidence = examine(tag, read(tag.profile, tag.tap()))
    assert evidence.authentic
    assert evidence.tamper is None


def test_tamper_text_inside_the_window_cannot_be_changed() -> None:
    tag = tag_of("plain-tamper")
    tag.stored = "O"
    assert examine(tag, read(tag.profile, tag.tap().replace("tt=OC", "tt=CC"))).reason == "mac_mismatch"


def test_file_data_is_shown_only_if_the_mac_holds() -> None:
    tag = tag_of("encrypted-file")
    tag.file_data = b"0123456789abcdef"
    assert examine(tag, read(tag.profile, tag.tap())).file_data == b"0123456789abcdef"
    assert examine(tag, read(tag.profile, tag.forged())).file_data is None


def test_file_data_beside_a_plain_mirror() -> None:
    tag = tag_of(compiled("u={uid}&n={counter}&f={enc:64}&e={mac}", "{enc}&e=", tamper_offset=30))
    tag.file_data = bytes(range(30))
    tag.stored = "O"
    evidence = examine(tag, read(tag.profile, tag.tap()))
    assert evidence.file_data == bytes(range(30)) + b"OC"
    assert evidence.tamper == Tamper("O", "C")
    message = tag.profile.read_parameters(tag.tap_parameters())
    assert isinstance(message, Message)
    assert examine(tag, message).authentic


def test_the_owners_texts_outside_the_window_prove_nothing() -> None:
    tag = tag_of("ixkio-plain")
    assert examine(tag, read(tag.profile, tag.tap().replace("q8w3sbcz", "q8w3sbcy"))).authentic


def test_the_owners_texts_inside_the_window() -> None:
    tag = tag_of(compiled("x={xuid}&n={counter}&e={mac}", "{aid}.tag.example/t?x={xuid}&n={counter}&e="), cuid="C1")
    url = tag.tap()
    assert examine(tag, read(tag.profile, url)).authentic
    assert examine(tag, read(tag.profile, url.upper())).authentic
    assert examine(tag, read(tag.profile, url.replace("q8w3sbcz", "q8w3sbcy"))).reason == "static_mismatch"
    assert examine(tag, read(tag.profile, url), statics={"aid": "acme"}).authentic
    assert examine(tag, read(tag.profile, url), statics={"xuid": "q8w3sbcz", "aid": "other"}).reason == "mac_mismatch"
    assert examine(tag, read(tag.profile, url), statics={"xuid": "q8w3sbcz"}).reason == "static_missing"
    assert examine(tag, read(tag.profile, url), statics={"xuid": "q8w3sbcz", "aid": ""}).reason == "static_missing"


# The direct way of a plain mirror


@pytest.mark.parametrize(
    ("template", "window", "is_bare"),
    [
        ("u={uid}&n={counter}&e={mac}", "", True),
        ("n={counter}&e={mac}", "", True),
        ("n={counter}&t={tamper}&e={mac}", "&e=", True),
        ("m={uid}x{counter}&e={mac}", "{uid}x{counter}&e=", True),
        ("m={uid}x{counter}&t={tamper}&e={mac}", "{tamper}&e=", False),
        ("x={xuid}&n={counter}&e={mac}", "{xuid}&n={counter}&e=", False),
        ("u={uid}&n={counter}&f={enc:32}&e={mac}", "{enc}&e=", False),
        ("p={picc}&e={mac}", "", False),
    ],
)
def test_verify_plain_agrees_with_examine(template: str, window: str, is_bare: bool) -> None:
    tag = tag_of(compiled(template, window))
    profile = tag.profile
    assert profile.is_bare_plain is is_bare
    if profile.verify_plain is None:
        assert not is_bare
        return
    message = read(profile, tag.tap())
    assert message.counter is not None
    assert profile.verify_plain(FILE_KEY, UID, message.counter, message.mac)
    assert examine(tag, message).authentic
    assert not profile.verify_plain(UNUSED_KEY, UID, message.counter, message.mac)
    assert not profile.verify_plain(FILE_KEY, UID, message.counter + 1, message.mac)
    assert profile.verify_plain(FILE_KEY, OTHER_UID, message.counter, message.mac) is not profile.uid_in_session
    assert not profile.verify_plain(FILE_KEY, UID, 0, read(profile, tag.tap_at(0)).mac)
    assert not profile.verify_plain(FILE_KEY, UID, COUNTER_MAX + 1, message.mac)
    if profile.uid_in_session:
        with pytest.raises(ValueError, match="uid must be 7 bytes"):
            profile.verify_plain(FILE_KEY, b"", message.counter, message.mac)


def test_no_counter_has_no_direct_way() -> None:
    profile = compile_profile(preset("plain-uid-only"))
    assert not profile.is_bare_plain
    assert profile.verify_plain is None
    assert not profile.counter_expected


# Explaining


def outcomes(tag: VirtualTag, message: Message, file_keys: tuple[Key, ...]) -> dict[str, str]:
    steps = explain_message(
        tag.profile, message, uid=UID, file_keys=file_keys, meta_keys=(*tag.meta_keys(3), key(UNUSED_KEY)), statics=tag.statics
    )
    return dict(steps)


def test_an_explanation_tells_every_step() -> None:
    tag = tag_of("encrypted-tamper")
    found = outcomes(tag, read(tag.profile, tag.tap()), tag.file_keys(5))
    assert found["profile"] == "encrypted-tamper, scheme ntag424-aes"
    assert found["found"] == "mac, picc, enc"
    assert found["mirror"].endswith("UID 04A1B2C3D4E5F6, counter 61")
    assert "version 3 (check value" in found["mirror"]
    assert found["session vector"] == "UID and counter"
    assert found["window"].endswith("&cmac=")
    assert found["MAC"] == "valid with file key version 5"
    assert found["tamper"] == "stored C, current C"
    assert found["result"] == "authentic"


def test_an_explanation_of_a_forgery_ends_in_its_reason() -> None:
    for name in ("plain-counter-only", "plain-tamper", "encrypted"):
        tag = tag_of(name)
        found = outcomes(tag, read(tag.profile, tag.forged()), tag.file_keys())
        assert found["result"] == "not authentic: mac_mismatch: the MAC does not match under any live file key"
        assert "MAC" not in found
    assert outcomes(tag, read(tag.profile, tag.tap()), ())["result"].startswith("not authentic: no_key")


def test_an_explanation_says_what_is_not_authenticated() -> None:
    tag = tag_of("ixkio-plain")
    assert outcomes(tag, read(tag.profile, tag.tap()), tag.file_keys())["not authenticated"] == "xuid: outside the window"
    loose = tag_of(compiled("n={counter}&t={tamper}&e={mac}"))
    found = outcomes(loose, read(loose.profile, loose.tap()), loose.file_keys())
    assert found["tamper"] == "no known state in authenticated text"
    assert found["session vector"] == "counter"


@given(
    name=st.sampled_from(["plain-tamper", "encrypted-tamper", "bulk", "path"]),
    forged=st.booleans(),
    seed=st.binary(min_size=48, max_size=48),
)
def test_an_explanation_never_shows_a_secret(name: str, forged: bool, seed: bytes) -> None:
    tag = VirtualTag(name, xuid="q8w3sbcz", uid=UID, file_key=seed[:16], meta_key=seed[16:32], counter=4)
    message = read(tag.profile, tag.forged() if forged else tag.tap())
    genuine = read(tag.profile, tag.tap_at(5))
    steps = explain_message(tag.profile, message, uid=UID, file_keys=tag.file_keys(), meta_keys=tag.meta_keys())
    text = repr(steps).lower()
    for secret in (tag.file_key, tag.meta_key, genuine.mac):
        assert secret.hex() not in text
        assert repr(secret).lower() not in text
