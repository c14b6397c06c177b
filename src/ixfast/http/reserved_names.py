"""Warnings about encoding profiles that use the parameter names of `/v1/t` for contents that both meanings can have.

Most values have one meaning only: a MAC in `u` is not a UID, so the account's profiles read it. These warnings are about the
others, which may be taken for something else than the owner means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from ixfast.chips import compile_profile
from ixfast.domain.model import EncodingProfile

_REMEDY = "Rename the parameter, or send the whole URL to POST /v2/scans."
_SHORT = frozenset(("counter", "tamper", "tt"))  # texts that an owner's own ids may equal
_ALL = frozenset(("uid", "counter", "picc", "enc", "tamper", "tt", "mac", "xuid", "cuid", "aid"))

_CONFUSED_WITH: Mapping[str, tuple[frozenset[str], str]] = MappingProxyType({
    "x": (_SHORT | {"cuid", "aid"}, "is looked up as a tag code first, on /v1/t and on /v2. Rename the parameter."),
    "c": (_SHORT | {"xuid", "aid"}, f"is looked up as a CUID first. {_REMEDY}"),
    "u": (frozenset(("xuid", "cuid", "aid")), f"is looked up as a UID first if it has 14 hex digits. {_REMEDY}"),
    "a": (
        _ALL,
        "names the account. Rename the parameter, or send an API key, or the whole URL and the member account to POST /v2/scans.",
    ),
    "ip": (_ALL, f"is also taken for the visitor's address. {_REMEDY}"),
    "ua": (_ALL, f"is also taken for the visitor's user agent. {_REMEDY}"),
})  # fmt: skip
"""By name: the placeholders that can be mistaken, and for what."""


@lru_cache(1024)
def warnings_of(profile: EncodingProfile) -> tuple[str, ...]:
    """What may be mistaken in taps of this valid profile, and what to do about it."""
    found = []
    for piece in compile_profile(profile).template.query:
        placeholders, meaning = _CONFUSED_WITH.get(piece.name or "", (frozenset(), ""))
        if not placeholders.isdisjoint(piece.slots) or (piece.name == "a" and not piece.slots):
            found.append(f"On /v1/t, the parameter {piece.name} of this profile {meaning}")
    return tuple(found)
