"""NTAG 424 DNA in LRP mode: the same messages as in AES mode under another cipher, with a longer encrypted mirror.

The cryptography is done by the core; this module adds the layout of the messages. Sources: NT4H2421Gx section 9.3, AN12304.

Nothing derived from a key is cached between taps. Keeping the plaintexts and subkeys of a file key ready would save 1.05 of the
4.0 microseconds of a verification, those of a meta key 0.5 of 1.0, at the cost of 350 bytes of secrets per key. That is more
than a cached tag itself takes, and most tags of a large fleet are tapped too rarely to benefit.
"""

from __future__ import annotations

from ixfast import cmac
from ixfast.chips.core import LrpCore
from ixfast.chips.picc_data import read_block, write_block
from ixfast.chips.scheme import SDM_MIRRORS, PiccData

_RANDOM_BYTES = 8


class LrpScheme:
    """A `scheme.Scheme`. `core` is the native core or its twin; by default the one that `ixfast.cmac` chose."""

    picc_chars = 48
    mirrors = SDM_MIRRORS
    signed_fields: tuple[str, ...] | None = None
    counter_can_be_off = False

    def __init__(self, name: str, core: LrpCore = cmac) -> None:
        self.name = name
        self._core = core
        # Bound here rather than looked up on each call: these are called for every scan.
        self.verify = core.lrp_sdm_verify
        self.simulated_mac = core.lrp_sdm_mac
        self.decrypt_file = core.lrp_sdm_decrypt_file
        self.encrypt_file = core.lrp_sdm_encrypt_file

    def read_picc(self, meta_key: bytes, picc: bytes) -> PiccData | None:
        """Decrypt PICCData and parse it strictly; None if it cannot have been encrypted under `meta_key`.

        `picc` is 24 bytes: 8 random bytes in the clear, then the encrypted block.
        """
        return read_block(self._core.lrp_picc_decrypt(meta_key, picc))

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes) -> bytes:
        """PICCData (24 bytes) of a simulated tag; `padding` supplies its random parts, at least 16 bytes.

        The first 8 bytes are sent in the clear. The rest fills up the block, followed by the first 8 again if it is too short.
        """
        random, rest = padding[:_RANDOM_BYTES], padding[_RANDOM_BYTES:]
        return self._core.lrp_picc_encrypt(meta_key, random, write_block(uid, counter, rest + random))
