"""Envelopes: AES-128 keys sealed with AES-256-GCM for one location in the database.

An envelope is 45 bytes: format byte 0x01, random nonce of 12 bytes, ciphertext of 16 bytes, GCM tag of 16 bytes. The location
is bound to it as associated data of 27 bytes, big-endian, with fixed widths so that no two locations have the same encoding:

    bytes  0-7   label "ixfkey01"
    bytes  8-15  account id, signed 64 bit (the database's bigint)
    bytes 16-23  tag id, signed 64 bit; 0 for a key of the whole account; the id of the group for a master, that of the
                 batch for a batch's key
    byte  24     slot, see `KeySlot`
    bytes 25-26  key version, unsigned 16 bit

An envelope that was copied to another tag or account, or restored under a newer version number, therefore does not open. Random
nonces limit one key-encryption key to 2**32 envelopes (NIST SP 800-38D §8.3); a fleet has one or two per tag.
"""

import os
import struct
from collections.abc import Sequence
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.cmac import CMAC

from ixfast.keys.kek import KeyEncryptionKey, KeyEnvelopeError

FORMAT = b"\x01"
KEY_BYTES = 16
NONCE_BYTES = 12  # NIST SP 800-38D §8.2.2: the length at which a nonce is used as it is, without hashing.
TAG_BYTES = 16
ENVELOPE_BYTES = len(FORMAT) + NONCE_BYTES + KEY_BYTES + TAG_BYTES
CHECK_VALUE_BYTES = 3

_CIPHERTEXT_AT = len(FORMAT) + NONCE_BYTES
_pack_location = struct.Struct(">8sqqBH").pack
_LABEL = b"ixfkey01"


class KeySlot(IntEnum):
    """The purpose of a key. The numbers are stored and bound to envelopes; their meaning never changes."""

    META = 1  # SDMMetaReadKey: decrypts PICC data. Its tag id is 0 for a key of the whole account.
    FILE = 2  # SDMFileReadKey of a tag: authenticates taps and encrypts file data.
    MASTER = 3  # Master of a group, from which the keys of its tags are derived. Its tag id is the group's id.
    BATCH = 4  # SDMMetaReadKey of a batch. Its tag id is the batch's id.


def wrap(kek: KeyEncryptionKey, key16: bytes, *, account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    """Seal `key16` (16 bytes) for one location. Returns `ENVELOPE_BYTES` bytes, which differ on every call.

    Raises KeyEnvelopeError if the key has another length or the location is out of range.
    """
    if len(key16) != KEY_BYTES:
        raise KeyEnvelopeError(f"A tag's key must be {KEY_BYTES} bytes (AES-128); got {len(key16)}.")
    location = _location(account_id, tag_id, slot, version)
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + kek.aead.encrypt(nonce, key16, location)


def wrap_all(kek: KeyEncryptionKey, keys: Sequence[tuple[int, int, bytes]], *, account_id: int, slot: int) -> list[bytes]:
    """`wrap` for many tags of an account: tag id, version and key of each. All nonces come from one call of the system's
    random generator, which saves a third of the time. Raises like `wrap`."""
    nonces, encrypt, sealed = os.urandom(NONCE_BYTES * len(keys)), kek.aead.encrypt, []
    for number, (tag_id, version, key16) in enumerate(keys):
        if len(key16) != KEY_BYTES:
            raise KeyEnvelopeError(f"A tag's key must be {KEY_BYTES} bytes (AES-128); got {len(key16)}.")
        nonce = nonces[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]
        sealed.append(FORMAT + nonce + encrypt(nonce, key16, _location(account_id, tag_id, slot, version)))
    return sealed


def unwrap(kek: KeyEncryptionKey, envelope: bytes, *, account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    """Open an envelope in the location that it was sealed for. Returns the key, 16 bytes.

    Raises KeyEnvelopeError if the envelope was altered, or belongs to another location or key-encryption key. GCM cannot
    distinguish these cases, so neither does the error.
    """
    if len(envelope) != ENVELOPE_BYTES or envelope[:1] != FORMAT:
        raise KeyEnvelopeError(
            f"A key envelope must be {ENVELOPE_BYTES} bytes and begin with 0x01. The row is damaged or was not written by "
            "this version of ixfast: restore it from a backup, or import the key again."
        )
    location = _location(account_id, tag_id, slot, version)
    try:
        return kek.aead.decrypt(envelope[1:_CIPHERTEXT_AT], envelope[_CIPHERTEXT_AT:], location)
    except InvalidTag:
        raise KeyEnvelopeError(
            f"The envelope of account {account_id}, tag {tag_id}, slot {slot}, version {version} does not open under "
            f"key-encryption key {kek.id}: it was altered or moved. Restore the row, or import the key again."
        ) from None


def check_value(key16: bytes) -> bytes:
    """The key check value: the leftmost 3 bytes of AES-CMAC over 16 zero bytes.

    ANSI X9.24-1-2017 and PCI PIN Security (requirement 15-1) prescribe this method for AES keys. They allow up to 5 bytes; key
    management systems usually print 3. The value distinguishes keys without revealing them. A session vector of SDM is never 16
    zero bytes (NT4H2421Gx §9.3.9.1), so the value reveals no session key. Raises KeyEnvelopeError unless `key16` is 16 bytes.
    """
    if len(key16) != KEY_BYTES:
        raise KeyEnvelopeError(f"A tag's key must be {KEY_BYTES} bytes (AES-128); got {len(key16)}.")
    mac = CMAC(AES128(key16))
    mac.update(bytes(16))
    return mac.finalize()[:CHECK_VALUE_BYTES]


def _location(account_id: int, tag_id: int, slot: int, version: int) -> bytes:
    try:
        return _pack_location(_LABEL, account_id, tag_id, slot, version)
    except struct.error:
        raise KeyEnvelopeError(
            f"Invalid key location: account {account_id}, tag {tag_id}, slot {slot}, version {version}. "
            "Ids must fit 64 bits, slots be 0 to 255 and versions 0 to 65535."
        ) from None
