"""NTAG 424 DNA and DESFire EV3 in AES mode: PICCData, session MAC and file data of one chip family.

Source: NT4H2421Gx section 9.3, AN12196. The cryptography is the core's; this module knows the layout around it.
"""

from __future__ import annotations

from typing import Protocol

from ixfast import cmac
from ixfast.chips.scheme import SDM_MIRRORS, PiccData
from ixfast.limits import UID_BYTES

_UID_MIRRORED = 0x80
_COUNTER_MIRRORED = 0x40
_RESERVED = 0x30
_LENGTH = 0x0F
_COUNTER_BYTES = 3


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
        self.mac = core.sdm_mac
        self.decrypt_file = core.sdm_decrypt_file
        self.encrypt_file = core.sdm_encrypt_file

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt PICCData (16 bytes) and read it strictly; None if `meta_key` cannot be the one it was made with.

        `P = tag || [UID 7] || [counter 3, least significant byte first] || random`. Tag byte: bit 7 UID present, bit 6
        counter present, bits 5 and 4 zero, bits 3 to 0 length of the UID (NT4H2421Gx section 9.3.4). A wrong key passes
        by chance about once in 85 times: PICCData has no integrity of its own, the MAC decides.
        """
        block = self._core.picc_decrypt(meta_key, picc)
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

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """PICCData (16 bytes) as a tag makes it, for simulated tags; `padding` is its random part, at least 15
        bytes.
        """
        tag = (_UID_MIRRORED | UID_BYTES if uid is not None else 0) | (_COUNTER_MIRRORED if counter is not None else 0)
        mirrored = (uid or b"") + (counter.to_bytes(_COUNTER_BYTES, "little") if counter is not None else b"")
        return self._core.aes_encrypt_block(meta_key, (bytes((tag,)) + mirrored + padding)[:16])
