"""What a chip scheme is to a profile: the few operations in which chips differ.

A further chip is one more module with a class of this shape and one line in `schemes.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

SDM_MIRRORS = frozenset(("uid", "counter", "picc", "enc", "tamper", "mac"))
"""The placeholders that a chip with Secure Dynamic Messaging can write."""


class PiccData(NamedTuple):
    """A decrypted mirror; None is what the tag does not mirror, and what is not mirrored is in no session vector."""

    uid: bytes | None  # 7 bytes
    counter: int | None


class Scheme(Protocol):
    """Keys are 16 bytes, a MAC 8; `uid` is b"" and `counter` -1 where the tag does not mirror them.

    Wrong lengths are ValueErrors of the core: readers let none through.
    """

    name: str
    picc_chars: int  # width of `{picc}` in hex digits; 0: no encrypted mirror
    mirrors: frozenset[str]  # the placeholders that the chip can write
    # None: the MAC covers a window of the URL. Otherwise it covers UID, counter and those of these mirrors that are
    # there, as fields: the profile has no window, and `verify` and `simulated_mac` get the mirrors' characters in its place.
    signed_fields: tuple[str, ...] | None
    counter_can_be_off: bool  # a mirrored counter of 0 is genuine and means that the chip does not count

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """The mirror under this meta key, or None if it cannot be the right one."""

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """The encrypted mirror of a simulated tag."""

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        """Whether the tag that holds `file_key` made `mac` over `window`, compared in constant time."""

    def simulated_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes:
        """The MAC of a simulated tag."""

    def decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> bytes:
        """File data in the clear; only after the MAC holds."""

    def encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> bytes:
        """File data of a simulated tag."""
