"""The originality signature of NTAG 424 DNA: an ECDSA signature on secp224r1 over the UID, which NXP writes at production.

It proves who made the chip and nothing more: it never changes and can be copied together with the UID, so it proves nothing about
a tap. It is read with a command (Read_Sig), not mirrored into URLs; store it when the tag is registered.

NXP signs the 7 bytes of the UID directly, as an integer, without hashing (AN12196, asymmetric originality check).
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP224R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA224

from ixfast.limits import UID_BYTES

NTAG424_PUBLIC_KEY = bytes.fromhex(
    "048a9b380af2ee1b98dc417fecc263f8449c7625cece82d9b916c992da209d68422b81ec20b65a66b5102a61596af3379200599316a00a1410"
)
"""NXP's key for NTAG 424 DNA and NTAG 424 DNA TagTamper, an uncompressed SEC1 point; printed in AN12196."""

SIGNATURE_BYTES = 56
_NUMBER_BYTES = SIGNATURE_BYTES // 2
# ECDSA takes the leftmost bits of a digest as an integer. A digest as wide as the curve is used in full, so the UID padded with
# leading zeros is the integer that NXP signed. SHA-224 only supplies the width; it is never computed.
_AS_INTEGER = ECDSA(Prehashed(SHA224()))
_DIGEST_BYTES = SHA224.digest_size
_PUBLIC_KEYS_MAX = 16  # A chip family has one.


def verify_originality(public_key: bytes, uid: bytes, signature: bytes) -> bool:
    """Whether `signature` (56 bytes: r, then s, 28 bytes each, big-endian) is valid for `uid` (7 bytes as printed).

    `public_key` is an encoded SEC1 point on secp224r1; for NXP's chips it is `NTAG424_PUBLIC_KEY`. Raises ValueError for other
    lengths and for a point that is not on the curve.
    """
    if len(uid) != UID_BYTES or len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"uid must be {UID_BYTES} bytes and signature {SIGNATURE_BYTES}")
    r, s = int.from_bytes(signature[:_NUMBER_BYTES]), int.from_bytes(signature[_NUMBER_BYTES:])
    try:
        _point(public_key).verify(encode_dss_signature(r, s), uid.rjust(_DIGEST_BYTES, b"\0"), _AS_INTEGER)
    except InvalidSignature:
        return False
    return True


def judge_originality(uid: bytes, signature: bytes) -> str:
    """Classify the registered signature of an NTAG 424 DNA as `genuine` or `forged`. Raises ValueError for wrong lengths."""
    return "genuine" if verify_originality(NTAG424_PUBLIC_KEY, uid, signature) else "forged"


@lru_cache(_PUBLIC_KEYS_MAX)
def _point(public_key: bytes) -> EllipticCurvePublicKey:
    return EllipticCurvePublicKey.from_encoded_point(SECP224R1(), public_key)
