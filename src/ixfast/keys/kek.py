"""Key-encryption keys: 32 random bytes each, which open the envelopes in the database.

Keys are named by a fingerprint that is safe to store beside each envelope. This module knows one key at a time; which
ones there are is said by `key_file.py`, and `key_set.py` holds those that are open.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, NoReturn

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ixfast.errors import ConfigurationError, IxfastError

KEK_BYTES = 32
KEKS_MAX = 16  # More than one in use is a rotation; sixteen are sixteen rotations that were never finished.
_ID_LABEL = b"ixfast key-encryption key id 1"


class KeyUnavailableError(IxfastError):
    """A key of a tag cannot be read, so its scans cannot be answered; look at the key-encryption keys in use."""


class KeyEnvelopeError(KeyUnavailableError):
    """A key envelope does not open: it was altered, moved or sealed under another key. Restore it or import anew."""


class UnknownKekError(KeyUnavailableError):
    """An envelope names a key-encryption key that is not in the key file; add its line to the file."""


class KekFileError(ConfigurationError):
    """The file of key-encryption keys cannot be used; the message says what to change."""


class KeyEncryptionKey:
    """One AES-256 key with its name. It seals and opens and never shows itself."""

    __slots__ = ("aead", "id")

    def __init__(self, key32: bytes) -> None:
        """Take 32 bytes; `KekFileError` for any other length."""
        if len(key32) != KEK_BYTES:
            raise KekFileError(f"A key-encryption key has {KEK_BYTES} bytes; this one has {len(key32)}.")
        self.id = kek_id(key32)
        self.aead = AESGCM(key32)

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self.id})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A key-encryption key is not to be pickled or copied: it would leave its holder.")


def check_ids(ids: Sequence[str]) -> None:
    """`KekFileError` unless there is a key, not too many, and none twice."""
    if not ids:
        raise KekFileError("There is no key-encryption key; `ixfast keys init` makes a file with one.")
    if len(ids) > KEKS_MAX:
        raise KekFileError(f"{len(ids)} key-encryption keys; at most {KEKS_MAX} may be in use.")
    if len(set(ids)) != len(ids):
        raise KekFileError("A key-encryption key stands twice in the list; remove one of the two lines.")


def kek_id(key32: bytes) -> str:
    """Name a key: the first 8 bytes of HMAC-SHA256 over a label, keyed with it, as 16 hexadecimal digits.

    One way, and separate from every other use of the key, so that it may be stored and printed.
    """
    return hmac.new(key32, _ID_LABEL, hashlib.sha256).hexdigest()[:16]
