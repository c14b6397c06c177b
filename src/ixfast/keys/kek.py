"""Key-encryption keys: 32 random bytes each, which seal and open the envelopes in the database.

A key is named by a fingerprint that is safe to store next to each envelope. This module handles single keys; `key_file.py`
lists which keys there are, and `key_set.py` holds the open ones.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ixfast.errors import ConfigurationError, IxfastError

KEK_BYTES = 32
KEKS_MAX = 16  # More than one is in use only during a rotation; sixteen are sixteen unfinished rotations.
_ID_LABEL = b"ixfast key-encryption key id 1"


class KeyUnavailableError(IxfastError):
    """A tag's key cannot be opened, so its scans cannot be answered; check the key-encryption keys in use."""


class KeyEnvelopeError(KeyUnavailableError):
    """A key envelope does not open: it was altered, moved or sealed under another key. Restore it or import the key again."""


class UnknownKekError(KeyUnavailableError):
    """An envelope refers to a key-encryption key that is not in the key file; add the key's line to the file."""


class KekFileError(ConfigurationError):
    """The file of key-encryption keys cannot be used; the message states what to change."""


class KeyEncryptionKey:
    """One AES-256 key and its id. Neither its `repr` nor a pickle contains the key."""

    __slots__ = ("aead", "id")

    def __init__(self, key32: bytes) -> None:
        """`key32` is 32 bytes; raises KekFileError for any other length."""
        if len(key32) != KEK_BYTES:
            raise KekFileError(f"A key-encryption key must be {KEK_BYTES} bytes; got {len(key32)}.")
        self.id = kek_id(key32)
        self.aead = AESGCM(key32)

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self.id})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A key-encryption key cannot be pickled or copied: it must not leave the process.")


def check_ids(ids: Sequence[str]) -> None:
    """Raise KekFileError if there is no key, if there are more than `KEKS_MAX`, or if one is listed twice."""
    if not ids:
        raise KekFileError("There is no key-encryption key; create a key file with `ixfast keys init`.")
    if len(ids) > KEKS_MAX:
        raise KekFileError(f"There are {len(ids)} key-encryption keys; at most {KEKS_MAX} may be in use.")
    if len(set(ids)) != len(ids):
        raise KekFileError("A key-encryption key is listed twice; remove one of the two lines.")


def kek_id(key32: bytes) -> str:
    """The id of a key: the first 8 bytes of HMAC-SHA256 over a label, keyed with the key, as 16 hexadecimal digits.

    It is one-way and independent of every other use of the key, so it may be stored and printed.
    """
    return hmac.new(key32, _ID_LABEL, hashlib.sha256).hexdigest()[:16]
