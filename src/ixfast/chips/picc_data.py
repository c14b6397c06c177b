"""The block inside PICCData, the same in AES and LRP mode: `tag || [UID 7] || [counter 3] || random`, 16 bytes.

The counter is little-endian. Tag byte: bit 7 UID present, bit 6 counter present, bits 5 and 4 zero, bits 3 to 0 length of the UID
(NT4H2421Gx section 9.3.4).
"""

from __future__ import annotations

from ixfast.chips.scheme import PiccData
from ixfast.limits import UID_BYTES

_UID_MIRRORED = 0x80
_COUNTER_MIRRORED = 0x40
_RESERVED = 0x30
_LENGTH = 0x0F
_COUNTER_BYTES = 3
_BLOCK_BYTES = 16


def read_block(block: bytes) -> PiccData | None:
    """Parse a decrypted block (16 bytes) strictly; None if it is malformed.

    A block decrypted with a wrong key is well-formed by chance about once in 85 times: PICCData has no integrity protection of
    its own, so only the MAC decides.
    """
    tag = block[0]
    uid_mirrored, counter_mirrored = bool(tag & _UID_MIRRORED), bool(tag & _COUNTER_MIRRORED)
    if tag & _RESERVED or tag & _LENGTH != (UID_BYTES if uid_mirrored else 0):
        return None
    if not uid_mirrored and not counter_mirrored:
        return None
    uid = block[1 : 1 + UID_BYTES] if uid_mirrored else None
    at = 1 + UID_BYTES if uid_mirrored else 1
    counter = int.from_bytes(block[at : at + _COUNTER_BYTES], "little") if counter_mirrored else None
    return PiccData(uid, counter)


def write_block(uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
    """Build the block (16 bytes) of a simulated tag; `padding` supplies its random part, at least 15 bytes."""
    tag = (_UID_MIRRORED | UID_BYTES if uid is not None else 0) | (_COUNTER_MIRRORED if counter is not None else 0)
    mirrored = (uid or b"") + (counter.to_bytes(_COUNTER_BYTES, "little") if counter is not None else b"")
    return (bytes((tag,)) + mirrored + padding)[:_BLOCK_BYTES]
