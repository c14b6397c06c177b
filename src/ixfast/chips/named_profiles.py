"""Finds encoding profiles by the names that key files and commands use: `encrypted`, `encrypted/ntag424-lrp`, or a custom one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from ixfast.chips.presets import preset
from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError, quoted
from ixfast.json_members import repeated_members

_NONE: Mapping[str, EncodingProfile] = MappingProxyType({})


def find_profile(notation: str, own: Mapping[str, EncodingProfile] = _NONE) -> EncodingProfile:
    """Return one of the `own` profiles by name, a preset, or for `preset/scheme` the preset's encoding with another chip scheme.

    A profile of the last kind is named by its notation. Raises ProfileError for an unknown name; whether preset and scheme are
    compatible is checked only when the profile is compiled.
    """
    if notation in own:
        return own[notation]
    name, slash, scheme = notation.partition("/")
    profile = preset(name)
    return msgspec.structs.replace(profile, name=notation, scheme=scheme) if slash else profile


def read_profile_file(path: Path) -> EncodingProfile:
    """Read a profile as `ixfast profile detect` prints it. Raises ProfileError, which names the file and the position."""
    try:
        document = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError:  # NUL, or an unpaired surrogate
        raise ProfileError(f"Cannot read {path}: Invalid path.") from None
    return decode_profile(document, str(path))


def decode_profile(document: bytes | str, source: str) -> EncodingProfile:
    """Decode a profile from JSON text. Raises ProfileError, which names `source` and the position."""
    try:
        document = document.encode() if isinstance(document, str) else document
        profile = msgspec.json.decode(document, type=EncodingProfile)
        repeated = repeated_members(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProfileError(f"{source} is not an encoding profile: {error}.") from None
    if repeated:
        raise ProfileError(f"{source} is not an encoding profile: duplicate member {quoted(repeated[0])}.")
    return profile
