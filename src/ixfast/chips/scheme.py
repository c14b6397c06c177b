"""The interface between encoding profiles and chips: the few operations in which chips differ.

To support another chip, add a module with a class that implements `Scheme` and register it in `registry.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

SDM_MIRRORS = frozenset(("uid", "counter", "picc", "enc", "tamper", "mac"))
"""The placeholders that a chip with Secure Dynamic Messaging can fill in."""


class PiccData(NamedTuple):
    """A decrypted mirror. None means that the tag does not mirror the field, which is then not in the session vector either."""

    uid: bytes | None  # 7 bytes
    counter: int | None


class Scheme(Protocol):
    """One chip family. Keys are 16 bytes, MACs 8; `uid` is b"" and `counter` -1 where the tag does not mirror them.

    The core raises ValueError for wrong lengths, which the readers never let through.
    """

    name: str
    picc_chars: int  # width of `{picc}` in hex digits; 0: no encrypted mirror
    mirrors: frozenset[str]  # the placeholders that the chip can fill in
    # None: the MAC covers a window of the URL. Otherwise it covers UID, counter and those of these mirrors that are present,
    # as fields. The profile then has no window, and `verify` and `simulated_mac` get the mirrors' characters instead.
    signed_fields: tuple[str, ...] | None
    counter_can_be_off: bool  # a mirrored counter of 0 is genuine and means that the chip does not count

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt and parse an encrypted mirror; None if it cannot have been encrypted under this meta key."""

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """Encrypt the mirror of a simulated tag."""

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        """Whether `mac` is that of a tag with `file_key` over `window`, compared in constant time."""

    def simulated_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes:
        """Compute the MAC of a simulated tag."""

    def decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> bytes:
        """Decrypt file data. Call it only after the MAC has been verified."""

    def encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> bytes:
        """Encrypt the file data of a simulated tag."""
