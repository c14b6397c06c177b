"""NTAG 424 DNA and DESFire EV3 in AES mode: PICCData, session MAC and file data of one chip family.

Source: NT4H2421Gx section 9.3, AN12196. The cryptography is the core's; this module knows the layout around it.
"""

from __future__ import annotations

from typing import Protocol

from ixfast import cmac
from ixfast.chips.picc_data import read_block, write_block
from ixfast.chips.scheme import SDM_MIRRORS, PiccData


class Core(Protocol):
    """What is used of the core: the native one or its twin."""

    def aes_encrypt_block(self, key: bytes, block: bytes, /) -> bytes: ...
    def picc_decrypt(self, meta_key: bytes, picc_data: bytes, /) -> bytes: ...
    def sdm_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes: ...
    def sdm_verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool: ...
    def sdm_decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> bytes: ...
    def sdm_encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> bytes: ...


class AesScheme:
    """A `scheme.Scheme`. `core` is the native core or its twin, chosen by `ixfast.cmac` unless given."""

    picc_chars = 32
    mirrors = SDM_MIRRORS
    signed_fields: tuple[str, ...] | None = None
    counter_can_be_off = False

    def __init__(self, name: str, core: Core = cmac) -> None:
        self.name = name
        self._core = core
        # Bound once: these are called for every scan.
        self.verify = core.sdm_verify
        self.simulated_mac = core.sdm_mac
        self.decrypt_file = core.sdm_decrypt_file
        self.encrypt_file = core.sdm_encrypt_file

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt PICCData (16 bytes) and read it strictly; None if `meta_key` cannot be the one it was made with."""
        return read_block(self._core.picc_decrypt(meta_key, picc))

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """PICCData (16 bytes) as a tag makes it, for simulated tags; `padding` is its random part, at least 15
        bytes.
        """
        return self._core.aes_encrypt_block(meta_key, write_block(uid, counter, padding))
