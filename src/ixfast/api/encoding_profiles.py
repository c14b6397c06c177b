"""Encoding profiles in the Python API: names, documents, and detection from tapped URLs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ixfast.api.key_material import KeyInput, key_bytes, uid_of
from ixfast.chips import PRESETS, CompiledProfile, compile_profile, named_profiles
from ixfast.chips.detect import Detection, detect
from ixfast.domain.model import EncodingProfile, Key
from ixfast.errors import InputError, ProfileError
from ixfast.keys.diversify import USUAL_DERIVATIONS, Derivation
from ixfast.keys.envelope import check_value

_COMPILED_MAX = 256  # A program verifies taps of a few profiles.


def profile_names() -> tuple[str, ...]:
    """The names of the built-in encoding profiles, described in docs/reference/chips.md."""
    return tuple(PRESETS)


def find_profile(name: str) -> EncodingProfile:
    """The built-in encoding profile of this name, or for `name/scheme` its encoding with another chip scheme."""
    try:
        return named_profiles.find_profile(name)
    except ProfileError as error:
        raise _invalid(error) from None


def read_profile(document: Path | str | bytes | Mapping[str, Any]) -> EncodingProfile:
    """Read an encoding profile of your own: JSON text, the decoded document, or the path of a file with it."""
    try:
        if isinstance(document, Path):
            profile = named_profiles.read_profile_file(document)
        else:
            text = msgspec.json.encode(document) if isinstance(document, Mapping) else document
            profile = named_profiles.decode_profile(text, "The document")
        compile_profile(profile)
    except ProfileError as error:
        raise _invalid(error) from None
    return profile


def detect_profile(
    urls: Iterable[str],
    *,
    keys: Iterable[KeyInput] = (),
    meta_keys: Iterable[KeyInput] = (),
    uids: Iterable[KeyInput] = (),
    derivations: Iterable[Derivation] = (),
    name: str = "detected",
) -> Detection:
    """Find the encoding profile of tapped URLs by trying candidate keys."""
    return detect(
        tuple(urls),
        _numbered(keys, "keys"),
        _numbered(meta_keys, "meta_keys"),
        derivations=(*derivations, *USUAL_DERIVATIONS),
        uids=tuple(map(uid_of, uids)),
        name=name,
    )


def compiled_profile(profile: EncodingProfile | str) -> CompiledProfile:
    """The compiled form of a profile or of a built-in one; recent ones are cached. Raises InputError."""
    if isinstance(profile, str):
        profile = find_profile(profile)
    if not isinstance(profile, EncodingProfile):
        raise InputError("invalid_profile", "The profile must be an EncodingProfile or a name.", "profile")
    try:
        return _compiled(profile)
    except ProfileError as error:
        raise _invalid(error) from None


@lru_cache(_COMPILED_MAX)
def _compiled(profile: EncodingProfile) -> CompiledProfile:
    return compile_profile(profile)


def _numbered(keys: Iterable[KeyInput], name: str) -> list[Key]:
    values = dict.fromkeys(key_bytes(key, name) for key in keys)
    return [Key(place, value, check_value(value)) for place, value in enumerate(values, start=1)]


def _invalid(error: ProfileError) -> InputError:
    return InputError("invalid_profile", str(error), "profile")
