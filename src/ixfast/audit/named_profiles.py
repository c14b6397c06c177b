"""Encoding profiles as a key file or a command names them: `encrypted`, `encrypted/ntag424-lrp`, or one of the owner's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from ixfast.chips import preset
from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError
from ixfast.json_members import repeated_members

_NONE: Mapping[str, EncodingProfile] = MappingProxyType({})


def find_profile(notation: str, own: Mapping[str, EncodingProfile] = _NONE) -> EncodingProfile:
    """One of the `own` profiles by its name, a preset, or `preset/scheme`: the preset's encoding by another chip.

    The profile has the notation for its name. ProfileError for a name that is none; whether preset and scheme go together is
    found out when the profile is compiled.
    """
    if notation in own:
        return own[notation]
    name, slash, scheme = notation.partition("/")
    profile = preset(name)
    return msgspec.structs.replace(profile, name=notation, scheme=scheme) if slash else profile


def read_profile_file(path: Path) -> EncodingProfile:
    """A profile as `ixfast profile detect` prints it. ProfileError names the file and the place."""
    try:
        document = path.read_bytes()
        profile = msgspec.json.decode(document, type=EncodingProfile)
        repeated = repeated_members(document)
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{path} is no encoding profile: {error}.") from None
    if repeated:
        raise ProfileError(f"{path} is no encoding profile: an object has the member {repeated[0]!r} twice.")
    return profile
