"""Common encoding profiles by name, to use as they are or as a starting point.

A preset is an ordinary `EncodingProfile`. Which one applies depends on the chip's configuration, above all on whether it
mirrors its UID. The session vector contains what is mirrored and nothing else (NT4H2421Gx section 9.3.9), so `ixkio-plain` and
`plain-counter-only` compute different MACs although their callers may send the same three parameters.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType

from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError, quoted

_SCHEME = "ntag424-aes"
_LRP = "ntag424-lrp"


def _profile(
    name: str,
    template: str,
    window: str = "",
    *,
    scheme: str = _SCHEME,
    tamper_offset: int | None = None,
    without_counter: bool = False,
) -> EncodingProfile:
    return EncodingProfile(
        name=name,
        scheme=scheme,
        template=template,
        window=window,
        tamper_offset=tamper_offset,
        allow_without_counter=without_counter,
    )


_ALL = (
    # The chip mirrors UID, counter and MAC. The caller may forward only x, n and e; the registered UID is used then.
    _profile("ixkio-plain", "x={xuid}&u={uid}&n={counter}&e={mac}"),
    # The chip mirrors no UID at all, so only a key of its own ties the tap to the tag.
    _profile("plain-counter-only", "x={xuid}&n={counter}&e={mac}"),
    _profile("plain-uid-counter", "uid={uid}&ctr={counter}&cmac={mac}"),
    # The chip joins both mirrors with an x by default.
    _profile("plain-joined", "m={uid}x{counter}&cmac={mac}"),
    # Without a counter there is no replay check: the same URL stays authentic forever.
    _profile("plain-uid-only", "uid={uid}&cmac={mac}", without_counter=True),
    _profile("plain-tamper", "m={uid}x{counter}&tt={tamper}&cmac={mac}", "{uid}x{counter}&tt={tamper}&cmac="),
    _profile("encrypted", "picc_data={picc}&cmac={mac}"),
    _profile("encrypted-file", "picc_data={picc}&enc={enc:32}&cmac={mac}", "{enc}&cmac="),
    _profile("encrypted-tamper", "picc_data={picc}&enc={enc:32}&cmac={mac}", "{enc}&cmac=", tamper_offset=0),
    _profile("boltcard", "p={picc}&c={mac}"),
    # One parameter holds everything; the window is the file data alone.
    _profile("bulk", "e={picc}{enc:32}{mac}", "{enc}"),
    _profile("path", "/{picc}/{mac}"),
    # These chips mirror all fields as one text, separated by x.
    _profile("ntag223", "m={uid}x{counter}x{mac}", scheme="ntag223"),
    _profile("ntag224", "m={uid}x{counter}x{mac}", scheme="ntag224"),
    _profile("ntag22x-sd", "m={uid}x{counter}x{tt}x{mac}", scheme="ntag22x-sd"),
    # LRP mode changes the cipher and the length of {picc}, so a profile of one mode does not read URLs of the other.
    _profile("lrp-plain", "x={xuid}&u={uid}&n={counter}&e={mac}", scheme=_LRP),
    _profile("lrp-encrypted", "picc_data={picc}&cmac={mac}", scheme=_LRP),
    _profile("lrp-encrypted-file", "picc_data={picc}&enc={enc:32}&cmac={mac}", "{enc}&cmac=", scheme=_LRP),
    _profile("lrp-tamper", "picc_data={picc}&enc={enc:32}&cmac={mac}", "{enc}&cmac=", scheme=_LRP, tamper_offset=0),
)

PRESETS = MappingProxyType({profile.name: profile for profile in _ALL})
"""All presets by name, in the order of the documentation."""


def preset(name: str) -> EncodingProfile:
    """Return the preset of this name. Raises ProfileError, which lists the known names."""
    found = PRESETS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}? " if near else ""
        raise ProfileError(f"unknown encoding profile {quoted(name)}; {advice}the presets are {', '.join(PRESETS)}")
    return found
