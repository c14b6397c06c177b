"""NTAG 223 DNA, NTAG 224 DNA and their StatusDetect variants: one MAC over what is mirrored, no session key.

`MACt(CMAC(K, UID || counter || [TT]))` with the counter **most significant byte first**, the other way round than in an
NTAG 424 DNA. The chip mirrors `UID x counter x MAC`, a StatusDetect chip `UID x counter x TT x MAC`; the MAC covers
the fields and neither the letters between them nor any other text of the URL, so a profile of these chips has no window.
Source: AN12998.

TT is 5 bytes, mirrored as 10 characters. The first two are letters, stored and current state: C closed, O open, I not
enabled, 0 not mirrored. Each enters the MAC as the low nibble of its ASCII code (3, F, 9, 0). The other eight characters
are hex digits of what the chip measured.

The counter is the NFC counter of the NTAG 21x line: it counts the first read after power-up, *if* it is switched on
(NFC_CNT_EN). A mirror is read before it is seen, so a chip that counts never shows 0; real chips that show `000000` do
not count, and their taps are alike for ever. That is genuine and cannot be replay-checked, so only a profile with
`allow_without_counter` takes it.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from ixfast import cmac
from ixfast.limits import COUNTER_MAX, UID_BYTES

TT_CHARS = 10
_STATES = {"C": 0x3, "O": 0xF, "I": 0x9, "0": 0x0}


class Core(Protocol):
    """What is used of the core: the native one or its twin."""

    def mact(self, key: bytes, message: bytes, /) -> bytes: ...
    def mact_verify(self, key: bytes, message: bytes, mac: bytes, /) -> bool: ...


def pack_tt(text: bytes) -> bytes:
    """The 5 bytes of TT from its 10 characters in upper case; ValueError for any other text."""
    characters = text.decode("ascii")
    stored, current = _STATES.get(characters[:1]), _STATES.get(characters[1:2])
    rest = bytes.fromhex(characters[2:])
    if stored is None or current is None or len(characters) != TT_CHARS or len(rest) != 4:
        raise ValueError("TT must be 2 of C, O, I, 0 and 8 hex digits")
    return bytes((stored << 4 | current,)) + rest


class Ntag22xScheme:
    """A `scheme.Scheme` whose window is TT as mirrored, 10 characters, or empty. `core` is as in `AesScheme`."""

    picc_chars = 0
    counter_can_be_off = True

    def __init__(self, name: str, *, detects_status: bool, core: Core = cmac) -> None:
        self.name = name
        status = ("tt",) if detects_status else ()
        self.signed_fields: tuple[str, ...] | None = status
        self.mirrors = frozenset(("uid", "counter", "mac", *status))
        self._core = core

    def verify(self, file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes, /) -> bool:
        """Whether `mac` (8 bytes) is the MACt of these fields, compared in constant time by the core.

        Both `uid` (7 bytes) and `counter` (0 to 0xFFFFFF) are always mirrored: ValueError otherwise.
        """
        return self._core.mact_verify(file_key, self._signed(uid, counter, window), mac)

    def simulated_mac(self, file_key: bytes, uid: bytes, counter: int, window: bytes, /) -> bytes:
        """MACt, 8 bytes, of a simulated tag; fields as for `verify`."""
        return self._core.mact(file_key, self._signed(uid, counter, window))

    def _signed(self, uid: bytes, counter: int, window: bytes) -> bytes:
        """What the MAC covers, 10 bytes or 15 with TT."""
        if len(uid) != UID_BYTES or not 0 <= counter <= COUNTER_MAX:
            raise ValueError(f"uid must be {UID_BYTES} bytes and counter 0 to {COUNTER_MAX}: this chip mirrors both")
        return uid + counter.to_bytes(3, "big") + (pack_tt(window) if window else b"")

    def read_picc(self, meta_key: bytes, picc: bytes, /) -> None:
        """No meta key reads anything: this chip has no encrypted mirror."""

    def write_picc(self, meta_key: bytes, uid: bytes | None, counter: int | None, padding: bytes, /) -> NoReturn:
        _refuse()

    def decrypt_file(self, file_key: bytes, uid: bytes, counter: int, ciphertext: bytes, /) -> NoReturn:
        _refuse()

    def encrypt_file(self, file_key: bytes, uid: bytes, counter: int, plaintext: bytes, /) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise ValueError("this chip encrypts nothing")
