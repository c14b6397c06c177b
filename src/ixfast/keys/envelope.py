"""Envelopes: AES-128 keys sealed with AES-256-GCM for one place in the database.

An envelope is 45 bytes: format byte 0x01, nonce of 12 random bytes, 16 bytes of ciphertext, GCM tag of 16 bytes. The
place is bound as associated data of 27 bytes, big-endian and of fixed width so that no two places read alike:

    bytes  0-7   label "ixfkey01"
    bytes  8-15  account id, signed 64 bit (the database's bigint)
    bytes 16-23  tag id, signed 64 bit; 0 for a key of the whole account, the group's id for a master
    byte  24     slot, see `KeySlot`
    bytes 25-26  key version, unsigned 16 bit

A row copied to another tag or account, or an old version put back under a newer number, therefore does not open.
Random nonces bound one key-encryption key to 2**32 envelopes (NIST SP 800-38D §8.3); a fleet has one or two a tag.
"""

import os
import struct
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.cmac import CMAC

from ixfast.keys.kek import KeyEncryptionKey, KeyEnvelopeError

FORMAT = b"\x01"
KEY_BYTES = 16
NONCE_BYTES = 12  # NIST SP 800-38D §8.2.2: the width for which a random nonce needs no further hashing.
TAG_BYTES = 16
ENVELOPE_BYTES = len(FORMAT) + NONCE_BYTES + KEY_BYTES + TAG_BYTES
CHECK_VALUE_BYTES = 3

_CIPHERTEXT_AT = len(FORMAT) + NONCE_BYTES
_pack_place = struct.Struct(">8sqqBH").pack
_LABEL = b"ixfkey01"


class KeySlot(IntEnum):
    """What a key is for. The numbers are stored and bound into envelopes; they never change their meaning."""

    META = 1  # SDMMetaReadKey of an account: opens encrypted PICC data. Its tag id is 0.
    FILE = 2  # SDMFileReadKey of a tag: signs the tap and encrypts file data.
    MASTER = 3  # Of a group: the keys of its tags are derived from it. Its tag id is the group's id.


def wrap(kek: KeyEncryptionKey, key16: bytes, *, account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    """Seal `key16` (16 bytes) for one place; returns `ENVELOPE_BYTES` bytes, different at every call.

    `KeyEnvelopeError` when the key has another length or the place is out of range.
    """
    if len(key16) != KEY_BYTES:
        raise KeyEnvelopeError(f"A key of a tag has {KEY_BYTES} bytes (AES-128); this one has {len(key16)}.")
    place = _place(account_id, tag_id, slot, version)
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + kek.aead.encrypt(nonce, key16, place)


def unwrap(kek: KeyEncryptionKey, envelope: bytes, *, account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    """Open an envelope for the place that it was sealed for; returns the key, 16 bytes.

    `KeyEnvelopeError` when it was altered, belongs to another place or another key-encryption key. The error does not
    say which of these it was, because GCM cannot know.
    """
    if len(envelope) != ENVELOPE_BYTES or envelope[:1] != FORMAT:
        raise KeyEnvelopeError(
            f"A key envelope has {ENVELOPE_BYTES} bytes and begins with 0x01; this one does not. The row was not "
            "written by this version of ixfast or has been damaged: restore it from a backup or import the key again."
        )
    place = _place(account_id, tag_id, slot, version)
    try:
        return kek.aead.decrypt(envelope[1:_CIPHERTEXT_AT], envelope[_CIPHERTEXT_AT:], place)
    except InvalidTag:
        raise KeyEnvelopeError(
            f"The envelope of account {account_id}, tag {tag_id}, slot {slot}, version {version} does not open under "
            f"key-encryption key {kek.id}: it was altered or moved. Restore the row or import the key again."
        ) from None


def check_value(key16: bytes) -> bytes:
    """Key check value: the leftmost 3 bytes of AES-CMAC over 16 zero bytes.

    The CMAC method is the one that ANSI X9.24-1-2017 (and PCI PIN Security, requirement 15-1) prescribes for AES
    keys; it allows up to 5 bytes, and 3 are what key management systems print. It tells candidate keys apart without
    showing them. A session vector of SDM never is 16 zero bytes (NT4H2421Gx §9.3.9.1), so the value gives away no
    session key. `KeyEnvelopeError` when `key16` has not 16 bytes.
    """
    if len(key16) != KEY_BYTES:
        raise KeyEnvelopeError(f"A key of a tag has {KEY_BYTES} bytes (AES-128); this one has {len(key16)}.")
    mac = CMAC(AES128(key16))
    mac.update(bytes(16))
    return mac.finalize()[:CHECK_VALUE_BYTES]


def _place(account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    try:
        return _pack_place(_LABEL, account_id, tag_id, slot, version)
    except struct.error:
        raise KeyEnvelopeError(
            f"No key lives at account {account_id}, tag {tag_id}, slot {slot}, version {version}: "
            "ids are 64 bit, slots 0 to 255, versions 0 to 65535."
        ) from None
