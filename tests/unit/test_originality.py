"""The originality signature over the raw UID: a real chip, every flipped bit, and values that are not signatures.

The chip is NXP's own example. Signatures with other keys are made here, with `cryptography` as the oracle.
"""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP224R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA224, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ixfast.chips.originality import NTAG424_PUBLIC_KEY, SIGNATURE_BYTES, _point, judge_originality, verify_originality

UID = bytes.fromhex("04518dfaa96180")
SIGNATURE = bytes.fromhex(
    "d1940d17cfeda4bff80359ab975f9f6514313e8f90c1d3caaf5941ad744a1cdf9a83f883cafe0fe95d1939b1b7e47113993324473b785d21"
)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D  # of secp224r1, SEC 2 section 2.6.2


def public(key: EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def sign(key: EllipticCurvePrivateKey, digest: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(digest, ECDSA(Prehashed(SHA224()))))
    return r.to_bytes(28) + s.to_bytes(28)


def test_a_real_chip() -> None:
    assert verify_originality(NTAG424_PUBLIC_KEY, UID, SIGNATURE)


def test_no_bit_can_be_changed() -> None:
    for bit in range(8 * len(UID)):
        assert not verify_originality(NTAG424_PUBLIC_KEY, (int.from_bytes(UID) ^ 1 << bit).to_bytes(7), SIGNATURE)
    for bit in range(8 * SIGNATURE_BYTES):
        changed = (int.from_bytes(SIGNATURE) ^ 1 << bit).to_bytes(SIGNATURE_BYTES)
        assert not verify_originality(NTAG424_PUBLIC_KEY, UID, changed)


@pytest.mark.parametrize("number", [0, 1, ORDER - 1, ORDER, ORDER + 1, (1 << 224) - 1])
def test_numbers_at_the_edges_are_no_signature(number: int) -> None:
    half = number.to_bytes(28)
    for signature in (half + half, SIGNATURE[:28] + half, half + SIGNATURE[28:]):
        assert not verify_originality(NTAG424_PUBLIC_KEY, UID, signature)


@pytest.mark.parametrize(
    ("uid", "signature"), [(UID[:6], SIGNATURE), (UID, SIGNATURE[:55]), (UID, b"\0" + SIGNATURE), (b"", b"")]
)
def test_other_lengths_are_refused(uid: bytes, signature: bytes) -> None:
    with pytest.raises(ValueError, match="uid must be 7 bytes and signature 56"):
        verify_originality(NTAG424_PUBLIC_KEY, uid, signature)


@pytest.mark.parametrize("key", [b"", bytes(57), NTAG424_PUBLIC_KEY[:56], NTAG424_PUBLIC_KEY[:56] + b"\x11"])
def test_what_is_no_point_of_the_curve_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        verify_originality(key, UID, SIGNATURE)


@settings(max_examples=30)
@given(uid=st.binary(min_size=7, max_size=7), secret=st.integers(1, ORDER - 1), other=st.binary(min_size=7, max_size=7))
def test_any_key_and_uid(uid: bytes, secret: int, other: bytes) -> None:
    key = derive_private_key(secret, SECP224R1())
    signature = sign(key, bytes(21) + uid)
    assert verify_originality(public(key), uid, signature)
    assert verify_originality(public(key), other, signature) is (other == uid)


def verify_hashed(public_key: bytes, uid: bytes, signature: bytes) -> bool:
    """A verifier that hashes the UID, as ECDSA usually does with a message."""
    r, s = int.from_bytes(signature[:28]), int.from_bytes(signature[28:])
    try:
        _point(public_key).verify(encode_dss_signature(r, s), uid, ECDSA(SHA256()))
    except Exception:
        return False
    return True


def verify_padded_behind(public_key: bytes, uid: bytes, signature: bytes) -> bool:
    """A verifier that treats the UID as the leftmost bytes of a digest instead of as an integer."""
    r, s = int.from_bytes(signature[:28]), int.from_bytes(signature[28:])
    try:
        _point(public_key).verify(encode_dss_signature(r, s), uid.ljust(28, b"\0"), ECDSA(Prehashed(SHA224())))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("broken", [verify_hashed, verify_padded_behind])
def test_control_a_real_chip_catches_a_verifier_of_another_message(broken: object) -> None:
    assert callable(broken)
    assert not broken(NTAG424_PUBLIC_KEY, UID, SIGNATURE)


def test_a_signature_over_the_hash_is_none() -> None:
    key = generate_private_key(SECP224R1())
    signature = sign(key, hashlib.sha224(UID).digest())
    assert not verify_originality(public(key), UID, signature)


def test_what_a_registered_signature_says() -> None:
    assert judge_originality(UID, SIGNATURE) == "genuine"
    assert judge_originality(UID[:-1] + b"\x81", SIGNATURE) == "forged"
    assert judge_originality(UID, bytes(SIGNATURE_BYTES)) == "forged"
    with pytest.raises(ValueError, match="56"):
        judge_originality(UID, SIGNATURE[:-1])
