"""Notices UIDs whose bytes are in reverse order, wherever a person or a program gives one.

Many readers print the 7 bytes of a UID in the order in which they arrived, last byte first. All supported chips are NXP's, whose
UIDs begin with 04, so a UID that ends with 04 instead is most likely reversed. A tag that has it would never be found, and its
keys would be derived wrongly, with no hint at why. One in 256 UIDs of another manufacturer looks the same, so there is a way to
allow such a UID.

Taps are not checked: what a chip mirrors is what it has.
"""

from __future__ import annotations

from typing import Literal

from ixfast.errors import InputError

_NXP = 0x04  # the manufacturer code (ISO/IEC 7816-6) with which the 7-byte UIDs of its chips begin
REVERSED_UID = "The bytes of the UID are in reverse order: they end with 04 instead of beginning with it."
"""What is wrong with a reversed UID."""
_REMEDY = "Write them in the order in which the chip sends them"

REVERSED = REVERSED_UID, f"{_REMEDY}, or allow such UIDs (--allow-any-uid, allow_any_uid=true)."
"""The fault and its remedy, as a problem of a tag file."""


def uid_problem(uid: bytes) -> Literal["uid_reversed", "uid_not_nxp"] | None:
    """What is odd about a UID (7 bytes), as a code; None if it is that of an NXP chip."""
    if uid[0] == _NXP:
        return None
    return "uid_reversed" if uid[-1] == _NXP else "uid_not_nxp"


def is_reversed(uid: bytes) -> bool:
    """Whether the bytes of a UID (7) look like those of an NXP chip in reverse order."""
    return uid_problem(uid) == "uid_reversed"


def refuse_reversed_uid(uid: bytes, field: str, allowed_by: str | None = None) -> None:
    """Raise InputError with the code `uid_reversed` for `field` if the bytes of a UID (7) are in reverse order.

    `allowed_by` is what the caller can use to allow such a UID; None if the UID only names something that does not exist.
    """
    if is_reversed(uid):
        remedy = f"{_REMEDY}, or allow such UIDs ({allowed_by})." if allowed_by is not None else f"{_REMEDY}."
        raise InputError("uid_reversed", f"{REVERSED_UID} {remedy}", field)
