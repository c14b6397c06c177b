"""The registry of chip schemes, by the names that encoding profiles use."""

from __future__ import annotations

from ixfast.chips.ntag22x import Ntag22xScheme
from ixfast.chips.ntag424_aes import AesScheme
from ixfast.chips.ntag424_lrp import LrpScheme
from ixfast.chips.scheme import Scheme
from ixfast.errors import ProfileError, quoted

# Both chips compute the same messages: AN12196 describes one, MF3D(H)x3 the other.
_SCHEMES: dict[str, Scheme] = {name: AesScheme(name) for name in ("ntag424-aes", "desfire-ev3-aes")}
_SCHEMES |= {name: Ntag22xScheme(name, detects_status=False) for name in ("ntag223", "ntag224")}
_SCHEMES["ntag22x-sd"] = Ntag22xScheme("ntag22x-sd", detects_status=True)
_SCHEMES["ntag424-lrp"] = LrpScheme("ntag424-lrp")


def scheme_names() -> tuple[str, ...]:
    """All scheme names, in the order of the documentation."""
    return tuple(_SCHEMES)


def find_scheme(name: str) -> Scheme:
    """Return the scheme of this name. Raises ProfileError, which lists the known names."""
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise ProfileError(f"unknown chip scheme {quoted(name)}; the schemes are {', '.join(_SCHEMES)}")
    return scheme


def distinct_schemes() -> list[Scheme]:
    """The schemes, one of each set that computes the same."""
    found: dict[tuple[object, ...], Scheme] = {}
    for scheme in map(find_scheme, scheme_names()):
        found.setdefault((type(scheme), scheme.picc_chars, scheme.mirrors, scheme.signed_fields), scheme)
    return list(found.values())
