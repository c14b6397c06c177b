"""The chip schemes by name."""

from __future__ import annotations

from ixfast.chips.ntag22x import Ntag22xScheme
from ixfast.chips.ntag424_aes import AesScheme
from ixfast.chips.ntag424_lrp import LrpScheme
from ixfast.chips.scheme import Scheme
from ixfast.errors import ProfileError

# Both chips compute the same: AN12196 for one, MF3D(H)x3 for the other.
_SCHEMES: dict[str, Scheme] = {name: AesScheme(name) for name in ("ntag424-aes", "desfire-ev3-aes")}
_SCHEMES |= {name: Ntag22xScheme(name, detects_status=False) for name in ("ntag223", "ntag224")}
_SCHEMES["ntag22x-sd"] = Ntag22xScheme("ntag22x-sd", detects_status=True)
_SCHEMES["ntag424-lrp"] = LrpScheme("ntag424-lrp")


def scheme_names() -> tuple[str, ...]:
    """All known schemes, in the order of their introduction in the documentation."""
    return tuple(_SCHEMES)


def find_scheme(name: str) -> Scheme:
    """The scheme of this name; ProfileError lists the known ones."""
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise ProfileError(f"unknown chip scheme {name!r}; known are {', '.join(_SCHEMES)}")
    return scheme
