"""The nouns of the domain: what is looked up, what a tap proves, what becomes of it.

Everything here is plain values. Records of the catalogue are shared by all scans of a worker: a scan reads them and
never writes, except `TagRecord.floor`, which only ever rises. Keys live in records and nowhere else, and no `repr`
here shows one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ixfast.verdict import Verdict as Verdict


class EncodingProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a group's chips write themselves into a URL.

    `template` is the tail of the tap URL with placeholders, in the order in which the chip mirrors them:
    `{uid}` 14 hex digits, `{counter}` 6, `{picc}` 32 (AES) or 48 (LRP), `{enc:N}` N hex digits of file data,
    `{tamper}` 2 characters, `{tt}` the 10 of a StatusDetect chip, `{mac}` 16 hex digits, and `{xuid}` `{cuid}` `{aid}`
    for what the owner wrote himself.
    It is a query string (`x={xuid}&n={counter}&e={mac}`), or a path with or without a query when it begins with `/`.
    `window` is the authenticated text in the same notation: what stands from SDMMACInputOffset up to the MAC
    (NT4H2421Gx §9.3.8); often empty.
    """

    name: str
    scheme: str  # the chip scheme by name, see `chips.scheme_names`
    template: str
    window: str = ""
    tamper_offset: int | None = None  # where TTStatus lies in the decrypted file data
    allow_without_counter: bool = False  # no counter, no replay check: only on the owner's explicit word


class FieldDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An extended field as its folder defines it. `in_reply` makes it a member of the reply ("add to response")."""

    name: str
    in_reply: bool = False


class Tamper(msgspec.Struct, frozen=True):
    """TTPermStatus and TTCurrStatus (NT4H2421Tx §9): `C` closed, `O` open, `I` not enabled."""

    stored: str
    current: str


class Evidence(msgspec.Struct, frozen=True):
    """What a chip scheme proved about one tap. `reason` is None exactly if `authentic`."""

    authentic: bool
    reason: str | None = None
    uid: bytes | None = None  # 7 bytes, as mirrored or decrypted
    counter: int | None = None  # None: not mirrored
    key_version: int = 0
    tamper: Tamper | None = None
    file_data: bytes | None = None


class Key:
    """One AES-128 key of a tag or an account. Its `repr` names the version and never the value."""

    __slots__ = ("check_value", "value", "version")

    def __init__(self, version: int, value: bytes, check_value: bytes) -> None:
        self.version = version
        self.value = value  # 16 bytes
        self.check_value = check_value  # 3 bytes, see keys.check_value

    def __repr__(self) -> str:
        return f"Key(version={self.version}, check_value={self.check_value.hex()})"

    def __reduce__(self) -> Any:
        raise TypeError("A key is not to be pickled: it would leave the process.")
