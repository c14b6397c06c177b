"""Values of the domain: encoding profiles, keys, and what a tap proves.

All values are immutable. Keys are held by the catalogue's records (`records.py`) and nowhere else. No `repr` shows a key, and a
key cannot be pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec

from ixfast.verdict import Verdict as Verdict


class EncodingProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the chips of a group encode a tap in a URL.

    `template` is the end of the tap URL with placeholders, in the order in which the chip mirrors them:
    `{uid}` 14 hex digits, `{counter}` 6, `{picc}` 32 (AES) or 48 (LRP), `{enc:N}` N hex digits of file data,
    `{tamper}` 2 characters, `{tt}` the 10 characters of a StatusDetect chip, `{mac}` 16 hex digits, and `{xuid}` `{cuid}` `{aid}`
    `{batch}` for texts that the owner wrote to the chip.
    It is a query string (`x={xuid}&n={counter}&e={mac}`), or a path with or without a query if it begins with `/`.
    `window` is the authenticated text in the same notation: everything from SDMMACInputOffset up to the MAC
    (NT4H2421Gx §9.3.8); often empty.
    """

    name: str
    scheme: str  # name of the chip scheme, one of `chips.scheme_names()`
    template: str
    window: str = ""
    tamper_offset: int | None = None  # offset in bytes of TTStatus in the decrypted file data
    allow_without_counter: bool = False  # without a counter there is no replay check: an explicit opt-in


class FieldDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An extended field as its folder defines it. `in_reply` adds it to the response as a member ("add to response")."""

    name: str
    in_reply: bool = False


TamperWord = Literal["closed", "open", "not_enabled", "invalid"]
"""The state of a tamper wire, as the API names it. To rules, an invalid state is unknown."""

TAMPER_WORDS: Mapping[str, TamperWord] = MappingProxyType({"C": "closed", "O": "open", "I": "not_enabled"})
"""The word for each letter that a chip reports; any other letter is `invalid`."""

OriginalityWord = Literal["genuine", "forged"]
"""What the chip's originality signature proved when it was registered."""

ORIGINALITY_WORDS: tuple[OriginalityWord, ...] = get_args(OriginalityWord)


class Tamper(msgspec.Struct, frozen=True):
    """TTPermStatus and TTCurrStatus (NT4H2421Tx §9), each one of the letters of `TAMPER_WORDS`."""

    stored: str
    current: str


class Evidence(msgspec.Struct, frozen=True):
    """What a chip scheme proved about one tap. `reason` is None if and only if `authentic`."""

    authentic: bool
    reason: str | None = None
    uid: bytes | None = None  # 7 bytes, mirrored in the clear or decrypted
    counter: int | None = None  # None: not mirrored
    key_version: int = 0
    tamper: Tamper | None = None
    file_data: bytes | None = None


class Key:
    """One AES-128 key of a tag, a group or an account. Its `repr` shows the version and the check value, never the key."""

    __slots__ = ("check_value", "value", "version")

    def __init__(self, version: int, value: bytes, check_value: bytes) -> None:
        self.version = version
        self.value = value  # 16 bytes
        self.check_value = check_value  # 3 bytes, see `keys.check_value`

    def __repr__(self) -> str:
        return f"Key(version={self.version}, check_value={self.check_value.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError("A key cannot be pickled: it would leave the process.")
