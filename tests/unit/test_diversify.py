"""Derived keys: the schemes against second implementations, what a derivation accepts, and no key in any text.

Second implementations are written here with other parts (`cryptography`'s CMAC, `hashlib`), and the broken ones among
them are controls.
"""

import hashlib
import hmac
import json
import pickle
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given, settings
from hypothesis import strategies as st

from ixfast.domain.model import Key
from ixfast.keys import check_value
from ixfast.keys.diversify import (
    LEGACY_KEYS_MAX,
    USUAL_DERIVATIONS,
    An10922,
    BoltCard,
    BoltCardKeys,
    Derivation,
    SdmBackend,
    SdmBackendLegacy,
    _legacy_key,
    an10922,
)

MASTER = bytes.fromhex("00112233445566778899aabbccddeeff")
UID = bytes.fromhex("04782e21801d80")
# AN10922 section 2.2.1: UID, AID 3042F5 and "NXP Abu".
NXP = An10922(input="{uid}{aid}{system_id}", aid="3042f5", system_id=b"NXP Abu".hex())
NXP_KEY = bytes.fromhex("a8dd63a3b89d54b37ca802473fda9175")


def cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


def keys_of(*values: bytes) -> tuple[Key, ...]:
    return tuple(Key(version, value, check_value(value)) for version, value in enumerate(values, start=1))


def test_nxps_example() -> None:
    assert NXP.input_bytes(UID).hex() == "04782e21801d803042f54e585020416275"
    assert NXP.derive_file_key(MASTER, UID) == NXP_KEY
    assert NXP.derive_meta_key(MASTER) is None


@pytest.mark.parametrize("length", range(1, 32))
@pytest.mark.parametrize("key_bytes", [16, 24, 32])
def test_an_input_of_every_length(length: int, key_bytes: int) -> None:
    """From 16 bytes on the constant and M fill two blocks by themselves, and CMAC is the same."""
    key, m = bytes(range(key_bytes)), bytes(range(100, 100 + length))
    constants = {16: (1,), 24: (0x11, 0x12), 32: (0x41, 0x42)}[key_bytes]
    parts = [cmac(key, bytes((constant,)) + m) for constant in constants]
    expected = b"".join(parts)
    if key_bytes == 24:
        middle = bytes(a ^ b for a, b in zip(parts[0][8:], parts[1][:8], strict=True))
        expected = parts[0][:8] + middle + parts[1][8:]
    assert len(an10922(key, m)) == key_bytes
    assert (an10922(key, m) == expected) is (length >= 16)


def test_control_a_short_input_tells_cmac_from_an10922() -> None:
    """The trap: for a short M one takes AN10922 for CMAC(K, 01 || M), and NXP's own example does not show the mistake."""
    m = NXP.input_bytes(UID)
    assert an10922(MASTER, m) == cmac(MASTER, b"\x01" + m)
    assert An10922().derive_file_key(MASTER, UID) != cmac(MASTER, b"\x01" + UID)


def test_a_short_input_by_hand() -> None:
    """01 || UID || 80 00..., 32 bytes, the last block xor K2, CBC-MAC: with nothing but one-block AES."""
    from ixfast._cmac_py import aes_cmac_subkeys, aes_encrypt_block

    first = b"\x01" + UID + b"\x80" + bytes(7)
    _, _, k2 = aes_cmac_subkeys(MASTER)
    chained = bytes(a ^ b for a, b in zip(aes_encrypt_block(MASTER, first), k2, strict=True))
    assert An10922().derive_file_key(MASTER, UID) == aes_encrypt_block(MASTER, chained)


@pytest.mark.parametrize(("key", "m"), [(MASTER, b""), (MASTER, bytes(32)), (MASTER[:15], UID), (bytes(17), UID)])
def test_an10922_refuses_other_lengths(key: bytes, m: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 31"):
        an10922(key, m)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"input": "{uid}{aid}"}, "aid is required if input contains"),
        ({"aid": "3042f5"}, "aid is required if input contains"),
        ({"input": "{uid}{key_number}"}, "key_number is required if input contains"),
        ({"key_number": 0}, "key_number is required if input contains"),
        ({"input": "{uid}{key_number}", "key_number": 256}, "between 0 and 255"),
        ({"input": "{uid}{name}"}, "must consist of pairs of hex digits and"),
        ({"input": "{uid}0"}, "must consist of pairs of hex digits and"),
        ({"input": ""}, "must contain {uid}"),
        ({"input": "0102"}, "must contain {uid}"),
        ({"input": "{uid}{uid}{uid}{uid}{uid}"}, "at most 31 bytes"),
        ({"input": "{uid}{aid}", "aid": "30 42"}, "pairs of hex digits"),
        ({"input": "{uid}{aid}", "aid": "304"}, "pairs of hex digits"),
    ],
)
def test_an_input_that_cannot_be_made_is_refused(given_: dict[str, object], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(json.dumps({"scheme": "an10922", **given_}), type=Derivation)


def test_the_input_may_have_digits_of_its_own() -> None:
    derivation = An10922(input="AA{uid}{key_number}bb", key_number=3)
    assert derivation.input_bytes(UID) == b"\xaa" + UID + b"\x03\xbb"


def test_a_derivation_is_an_object_that_names_its_scheme() -> None:
    decoded = msgspec.json.decode(b'{"scheme":"boltcard","version":7}', type=Derivation)
    assert decoded == BoltCard(version=7)
    for derivation in USUAL_DERIVATIONS:
        assert msgspec.json.decode(msgspec.json.encode(derivation), type=Derivation) == derivation
    assert len(set(USUAL_DERIVATIONS)) == len(USUAL_DERIVATIONS)


@pytest.mark.parametrize(
    "text",
    [
        '{"scheme":"hkdf"}',
        '{"input":"{uid}"}',
        '{"scheme":"boltcard","key_number":1}',
        '{"scheme":"boltcard","version":-1}',
        '{"scheme":"boltcard","version":4294967296}',
        '{"scheme":"sdm-backend","key_number":256}',
        '{"scheme":"sdm-backend-legacy","meta_key_number":-1}',
    ],
)
def test_other_objects_are_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Derivation)


def test_bolt_card_keys() -> None:
    keys = BoltCardKeys(MASTER, UID, 0x01020304)
    assert keys.card_key == cmac(MASTER, bytes.fromhex("2d003f75") + UID + b"\x04\x03\x02\x01")
    assert keys.k1 == cmac(MASTER, bytes.fromhex("2d003f77"))
    for number, name in enumerate(("k0", "k2", "k3", "k4")):
        label = bytes.fromhex("2d003f") + (b"\x76", b"\x78", b"\x79", b"\x7a")[number]
        assert getattr(keys, name) == cmac(keys.card_key, label)
    assert BoltCard(version=0x01020304).derive_file_key(MASTER, UID) == keys.k2
    assert BoltCard().derive_meta_key(MASTER) == keys.k1
    with pytest.raises(ValueError, match="version"):
        BoltCardKeys(MASTER, UID, 1 << 32)


def test_standard_by_hand() -> None:
    def h(key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, hashlib.sha256).digest()

    slot = h(MASTER, b"SlotMasterKey\x03")[:16]
    expected = cmac(slot, b"\x01" + h(h(MASTER, b"DivBaseKey"), UID)[:16])
    assert SdmBackend(key_number=3).derive_file_key(MASTER, UID) == expected
    assert SdmBackend(meta_key_number=9).derive_meta_key(MASTER) == h(MASTER, b"PICCDataKey")[:16]


@pytest.mark.parametrize("derivation", [SdmBackend(), SdmBackendLegacy()])
def test_factory_keys_stay_factory_keys(derivation: SdmBackend | SdmBackendLegacy) -> None:
    assert derivation.derive_file_key(bytes(16), UID) == bytes(16)
    assert derivation.derive_meta_key(bytes(16)) == bytes(16)


def test_legacy_keys_are_remembered_within_a_bound() -> None:
    _legacy_key.cache_clear()
    derivation = SdmBackendLegacy(key_number=1)
    first = derivation.derive_file_key(MASTER, UID)
    started = time.perf_counter()
    for _ in range(1000):
        assert derivation.derive_file_key(MASTER, UID) == first
    assert time.perf_counter() - started < 0.5
    assert _legacy_key.cache_info().misses == 1
    assert _legacy_key.cache_info().maxsize == LEGACY_KEYS_MAX


@pytest.mark.parametrize("derivation", USUAL_DERIVATIONS, ids=lambda d: msgspec.json.encode(d).decode())
def test_every_derivation_binds_the_uid_and_the_master(derivation: Derivation) -> None:
    key = derivation.derive_file_key(MASTER, UID)
    assert len(key) == 16
    assert key == derivation.derive_file_key(MASTER, UID)
    assert key != derivation.derive_file_key(MASTER, UID[:-1] + b"\x81")
    assert key != derivation.derive_file_key(MASTER[:-1] + b"\xfe", UID)
    for master, uid in ((MASTER[:15], UID), (MASTER, UID[:6]), (MASTER, b"")):
        with pytest.raises(ValueError):
            derivation.derive_file_key(master, uid)
    if not isinstance(derivation, An10922):
        with pytest.raises(ValueError):
            derivation.derive_meta_key(MASTER[:15])


def test_no_two_usual_derivations_give_one_key() -> None:
    assert len({derivation.derive_file_key(MASTER, UID) for derivation in USUAL_DERIVATIONS}) == len(USUAL_DERIVATIONS)


def test_keys_keep_their_masters_versions_and_order() -> None:
    masters = (Key(9, MASTER, b"\0\0\0"), Key(4, bytes(15) + b"\1", b"\0\0\0"))
    derived = BoltCard().file_keys(masters, UID)
    assert [key.version for key in derived] == [9, 4]
    assert derived[0].value == BoltCardKeys(MASTER, UID, 1).k2
    assert all(key.check_value == check_value(key.value) for key in derived)
    assert [key.version for key in BoltCard().meta_keys(masters)] == [9, 4]
    assert NXP.meta_keys(masters) == ()
    assert BoltCard().file_keys((), UID) == ()


@pytest.mark.parametrize("derivation", USUAL_DERIVATIONS[::3], ids=lambda d: msgspec.json.encode(d).decode())
def test_no_text_shows_a_key(derivation: Derivation) -> None:
    masters = keys_of(MASTER)
    derived = (*derivation.file_keys(masters, UID), *derivation.meta_keys(masters))
    texts = [repr(derivation), repr(derived), repr(masters), repr(_legacy_key), repr(BoltCardKeys(MASTER, UID, 1))]
    for key in (*masters, *derived):
        assert not any(key.value.hex() in text.lower() or repr(key.value) in text for text in texts)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(derived)


@settings(max_examples=50)
@given(
    master=st.binary(min_size=16, max_size=16),
    uid=st.binary(min_size=7, max_size=7),
    version=st.integers(0, 2**32 - 1),
    number=st.integers(0, 255),
    aid=st.binary(max_size=8),
    system_id=st.binary(max_size=15),
)
def test_any_parameters(master: bytes, uid: bytes, version: int, number: int, aid: bytes, system_id: bytes) -> None:
    texts = {"aid": aid.hex(), "system_id": system_id.hex(), "key_number": number}
    used = {name: text for name, text in texts.items() if text != ""}
    derivation = An10922(input="{uid}" + "".join(f"{{{name}}}" for name in used), **used)  # type: ignore[arg-type]
    m = uid + aid + system_id + bytes((number,))
    assert derivation.input_bytes(uid) == m
    assert derivation.derive_file_key(master, uid) == an10922(master, m)
    card = cmac(master, b"-\x00?u" + uid + version.to_bytes(4, "little"))
    assert BoltCard(version=version).derive_file_key(master, uid) == cmac(card, b"-\x00?x")
