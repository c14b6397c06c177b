"""NTAG 424 DNA in LRP mode: the same messages as in AES mode under another cipher, with a longer encrypted mirror.

Source: NT4H2421Gx section 9.3, AN12304. The cryptography is the core's; this module knows the layout around it.

Nothing is remembered of a key between taps. Plaintexts and subkeys of a file key kept ready would save 1.05 of the 4.0
microseconds of a verification, those of a meta key 0.5 of 1.0, and would take 350 bytes of secrets a key, more than a
cached tag itself; most tags of a large fleet are tapped too seldom to find them.
"""

from __future__ import annotations

from typing import Protocol

from ixfast import cmac
from ixfast.chips.picc_data import read_block, write_block
from ixfast.chips.scheme import SDM_MIRRORS, PiccData

_RANDOM_BYTES = 8


class Core(Protocol):
    """What is used of the core: the native one or its twin."""

    def lrp_picc_encrypt(self, meta_key: bytes, random: bytes, block: bytes, /) -> bytes: ...
    def lrp_picc_decrypt(self, meta_key: bytes, picc_data: bytes, /) -> bytes: ...
    def lrp_sdm_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes: ...
    def lrp_sdm_verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool: ...
    def lrp_sdm_decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> bytes: ...
    def lrp_sdm_encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> bytes: ...


class LrpScheme:
    """A `scheme.Scheme`. `core` is the native core or its twin, chosen by `ixfast.cmac` unless given."""

    picc_chars = 48
    mirrors = SDM_MIRRORS
    signed_fields: tuple[str, ...] | None = None
    counter_can_be_off = False

    def __init__(self, name: str, core: Core = cmac) -> None:
        self.name = name
        self._core = core
        # Bound once: these are called for every scan.
        self.verify = core.lrp_sdm_verify
        self.simulated_mac = core.lrp_sdm_mac
        self.decrypt_file = core.lrp_sdm_decrypt_file
        self.encrypt_file = core.lrp_sdm_encrypt_file

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt PICCData (24 bytes: random part, block) and read it strictly; None if `meta_key` cannot be the one
        it was made with.
        """
        return read_block(self._core.lrp_picc_decrypt(meta_key, picc))

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """PICCData (24 bytes) as a tag makes it, for simulated tags; `padding` is its random part, at least 16 bytes:
        the first 8 are sent in the clear, what follows them (and, where the block is emptier, they again) fills it up.
        """
        random, rest = padding[:_RANDOM_BYTES], padding[_RANDOM_BYTES:]
        return self._core.lrp_picc_encrypt(meta_key, random, write_block(uid, counter, rest + random))
