"""NTAG 223 DNA, NTAG 224 DNA and their StatusDetect variants: one MAC over the mirrored fields, without a session key.

`MACt(CMAC(K, UID || counter || [TT]))`, with the counter **most significant byte first**, the reverse of NTAG 424 DNA. The chip
mirrors `UID x counter x MAC`, a StatusDetect chip `UID x counter x TT x MAC`. The MAC covers these fields, but neither the
letters between them nor any other text of the URL, so a profile of these chips has no window. TT is described in `tamper.py`;
each of its two letters enters the MAC as the low nibble of its ASCII code (C 3, O F, I 9, 0 0).

The counter is the NFC counter of the NTAG 21x line: it counts the first read after power-up, *if* it is enabled (NFC_CNT_EN). A
chip that counts never shows 0, because the read that shows the mirror has been counted already. Real chips that show `000000`
do not count, and all their taps are identical. Such a tap is genuine but cannot be checked for replay, so only a profile with
`allow_without_counter` accepts it.

Source: AN12998.
"""

from __future__ import annotations

from typing import NoReturn

from ixfast import cmac
from ixfast.chips.core import Core
from ixfast.chips.tamper import pack_tt
from ixfast.limits import COUNTER_MAX, UID_BYTES


class Ntag22xScheme:
    """A `scheme.Scheme` whose window is TT as mirrored (10 characters), or empty.

    `core` is the native core or its twin; by default the one that `ixfast.cmac` chose.
    """

    picc_chars = 0
    counter_can_be_off = True

    def __init__(self, name: str, *, detects_status: bool, core: Core = cmac) -> None:
        self.name = name
        status = ("tt",) if detects_status else ()
        self.signed_fields: tuple[str, ...] | None = status
        self.mirrors = frozenset(("uid", "counter", "mac", *status))
        self._core = core

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        """Whether `mac` (8 bytes) is the MACt of these fields; the core compares in constant time.

        `uid` (7 bytes) and `counter` (0 to 0xFFFFFF) are always mirrored by these chips: ValueError if one is missing.
        """
        return self._core.mact_verify(file_key, self._signed(uid, counter, window), mac)

    def simulated_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes:
        """The MACt (8 bytes) of a simulated tag; fields as for `verify`."""
        return self._core.mact(file_key, self._signed(uid, counter, window))

    def _signed(self, uid: bytes, counter: int, window: bytes) -> bytes:
        """The message that the MAC covers: 10 bytes, or 15 with TT."""
        if len(uid) != UID_BYTES or not 0 <= counter <= COUNTER_MAX:
            raise ValueError(f"uid must be {UID_BYTES} bytes and counter 0 to {COUNTER_MAX}: this chip mirrors both")
        return uid + counter.to_bytes(3, "big") + (pack_tt(window) if window else b"")

    def read_picc(self, meta_key: bytes, picc: bytes, /) -> None:
        """Always None: these chips have no encrypted mirror."""

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes, /) -> NoReturn:
        _raise_unsupported()

    def decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> NoReturn:
        _raise_unsupported()

    def encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> NoReturn:
        _raise_unsupported()


def _raise_unsupported() -> NoReturn:
    raise ValueError("this chip does not encrypt anything")
