"""NTAG 424 DNA and DESFire EV3 in AES mode: PICCData, session MAC and encrypted file data.

The cryptography is done by the core; this module adds the layout of the messages. Sources: NT4H2421Gx section 9.3, AN12196.
"""

from __future__ import annotations

from ixfast import cmac
from ixfast.chips.core import Core
from ixfast.chips.picc_data import read_block, write_block
from ixfast.chips.scheme import SDM_MIRRORS, PiccData


class AesScheme:
    """A `scheme.Scheme`. `core` is the native core or its twin; by default the one that `ixfast.cmac` chose."""

    picc_chars = 32
    mirrors = SDM_MIRRORS
    signed_fields: tuple[str, ...] | None = None
    counter_can_be_off = False

    def __init__(self, name: str, core: Core = cmac) -> None:
        self.name = name
        self._core = core
        # Bound here rather than looked up on each call: these are called for every scan.
        self.verify = core.sdm_verify
        self.simulated_mac = core.sdm_mac
        self.decrypt_file = core.sdm_decrypt_file
        self.encrypt_file = core.sdm_encrypt_file

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt PICCData (16 bytes) and parse it strictly; None if it cannot have been encrypted under `meta_key`."""
        return read_block(self._core.picc_decrypt(meta_key, picc))

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """PICCData (16 bytes) of a simulated tag; `padding` supplies its random part, at least 15 bytes."""
        return self._core.aes_encrypt_block(meta_key, write_block(uid, counter, padding))
