"""Tamper status as chips mirror it: the letters of its states, their pairs, and TT.

A state is `C` closed, `O` open or `I` not enabled (NT4H2421Tx section 9, AN12998). Chips mirror the stored state, which never
returns to closed, followed by the current one. The words for the states are in `rules.facts`.

TT is what StatusDetect chips mirror (AN12998): 5 bytes as 10 characters, of which the first two are the states, `0` for one
that is not mirrored, and the other eight are hex digits of the chip's measurement.
"""

from __future__ import annotations

from ixfast.domain.model import Tamper

STATES = "COI"
TAMPER_CHARS = 2
TT_CHARS = 10
PAIR_PATTERN = "[COI]{2}"
TT_PATTERN = "[COI0]{2}[0-9A-F]{8}"

PAIRS = tuple(stored + current for stored in STATES for current in STATES)
"""Every pair of stored and current state as mirrored."""

_TAMPERS = {pair: Tamper(*pair) for pair in PAIRS}
_TT_NIBBLES = {"C": 0x3, "O": 0xF, "I": 0x9, "0": 0x0}  # the low nibble of each letter's ASCII code


def read_tamper(pair: str) -> Tamper | None:
    """Stored and current state; None if `pair` does not consist of two known states."""
    return _TAMPERS.get(pair)


def pack_tt(text: bytes) -> bytes:
    """Pack TT from its 10 characters in upper case into the 5 bytes that the MAC covers. ValueError for any other text."""
    characters = text.decode("ascii")
    stored, current = _TT_NIBBLES.get(characters[:1]), _TT_NIBBLES.get(characters[1:2])
    measurement = bytes.fromhex(characters[2:])
    if stored is None or current is None or len(characters) != TT_CHARS or len(measurement) != 4:
        raise ValueError("TT must be 2 of C, O, I, 0 and 8 hex digits")
    return bytes((stored << 4 | current,)) + measurement
