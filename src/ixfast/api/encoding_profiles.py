"""Encoding profiles in the Python API: names, documents, and detection from tapped URLs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ixfast.api.arguments import check_type, listed, shortened
from ixfast.api.key_material import KeyInput, key_bytes, registered_uid
from ixfast.chips import PRESETS, CompiledProfile, compile_profile, named_profiles
from ixfast.chips.detect import Detection, detect
from ixfast.domain.model import EncodingProfile, Key
from ixfast.errors import InputError, ProfileError
from ixfast.keys.diversify import USUAL_DERIVATIONS, Derivation
from ixfast.keys.envelope import check_value

_COMPILED_MAX = 256  # A program verifies taps of a few profiles.


def profile_names() -> tuple[str, ...]:
    """The names of the built-in encoding profiles, in the order of docs/reference/chips.md, which describes them.

    >>> import ixfast
    >>> ixfast.profile_names()[:3]
    ('ixkio-plain', 'plain-counter-only', 'plain-uid-counter')
    """
    return tuple(PRESETS)


def find_profile(name: str) -> EncodingProfile:
    """The built-in encoding profile of this name, or for `name/scheme` its encoding with another chip scheme.

    Raises `InputError` for an unknown name; the message suggests the nearest one.

    >>> import ixfast
    >>> ixfast.find_profile("encrypted").template
    'picc_data={picc}&cmac={mac}'
    >>> ixfast.find_profile("plain-joined/desfire-ev3-aes").scheme
    'desfire-ev3-aes'
    """
    check_type(name, str, "profile", "the name of a profile", "invalid_profile")
    try:
        return named_profiles.find_profile(name)
    except ProfileError as error:
        raise _invalid(error) from None


def read_profile(document: Path | str | bytes | Mapping[str, Any]) -> EncodingProfile:
    """Read an encoding profile of your own: JSON text, the decoded document, or the `Path` of a file.

    The document has the members of `EncodingProfile`; `ixfast profile detect` prints one. Raises `InputError` for text that is
    not such a document, an unknown or repeated member, a contradictory profile, and a file that cannot be read.

    >>> import ixfast
    >>> profile = ixfast.read_profile(
    ...     {"name": "mine", "scheme": "ntag424-aes", "template": "d={picc}&c={mac}"}
    ... )
    >>> tag = ixfast.testing.VirtualTag(profile)
    >>> ixfast.verify(tag.tap(), profile=profile, keys=tag.keys).authentic
    True
    """
    try:
        profile = named_profiles.read_profile_file(document) if isinstance(document, Path) else _decoded(document)
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
    allow_any_uid: bool = False,
) -> Detection:
    """Find the encoding profile of tapped URLs by trying candidate keys until their MACs are valid.

    - `urls`: 1 to 64 tapped URLs, verbatim or lower-cased. Two taps of each of a few tags are enough.
    - `keys`: candidates, 16 bytes or 32 hex digits each. Each is tried as a file key, as a meta key, and as the master of every
      derivation. The factory key (16 zero bytes) is always tried. `meta_keys` are tried as meta keys only. At most 64 together.
    - `uids`: UIDs, 7 bytes or 14 hex digits each, that the MAC may cover although the URL omits them.
    - `derivations`: key derivation schemes to try before the usual ones, for tags with unusual parameters.
    - `name`: the name of the profile.
    - `allow_any_uid`: accept `uids` that end with 04 instead of beginning with it, which are refused as reversed otherwise.

    The best proposal is the first; `unexplained` are the indexes of the URLs that no proposal verifies, and `reasons` say why.
    Keys are described by their place and check value, never shown. Takes milliseconds to seconds. Raises `InputError` for text
    that is not a URL, an invalid key, and too many of either.

    >>> import ixfast
    >>> tag = ixfast.testing.VirtualTag(
    ...     "encrypted-file", meta_key="101112131415161718191a1b1c1d1e1f"
    ... )
    >>> urls = [tag.tap(), tag.tap()]
    >>> found = ixfast.detect_profile(urls, keys=[tag.file_key, tag.meta_key])
    >>> found.proposals[0].profile.template, found.proposals[0].profile.window
    ('picc_data={picc}&enc={enc:32}&cmac={mac}', '{enc:32}&cmac=')
    >>> found.unexplained
    ()
    """
    samples, own = listed(urls, "urls"), listed(derivations, "derivations")
    for url in samples:
        check_type(url, str, "urls", "a list of texts")
    for each in own:
        check_type(each, Derivation, "derivations", "a list of what ixfast.derivation returns")
    check_type(name, str, "name", "text")
    return detect(
        samples,
        _numbered(keys, "keys"),
        _numbered(meta_keys, "meta_keys"),
        derivations=(*own, *USUAL_DERIVATIONS),
        uids=tuple(registered_uid(uid, "uids", allow_any_uid=allow_any_uid) for uid in listed(uids, "uids")),
        name=name,
    )


def compiled_profile(profile: EncodingProfile | str) -> CompiledProfile:
    """The compiled form of a profile or of a built-in one; recent ones are cached. Raises InputError."""
    if isinstance(profile, str):
        profile = find_profile(profile)
    if not isinstance(profile, EncodingProfile):
        raise InputError("invalid_profile", "profile must be an EncodingProfile or a name.", "profile")
    try:
        return _compiled(profile)
    except ProfileError as error:
        raise _invalid(error) from None


def _decoded(document: str | bytes | Mapping[str, Any]) -> EncodingProfile:
    if isinstance(document, str | bytes):
        return named_profiles.decode_profile(document, "The document")
    try:
        return msgspec.convert(document, EncodingProfile)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise ProfileError(f"The document is not an encoding profile: {error}.") from None


@lru_cache(_COMPILED_MAX)
def _compiled(profile: EncodingProfile) -> CompiledProfile:
    return compile_profile(profile)


def _numbered(keys: Iterable[KeyInput], name: str) -> list[Key]:
    values = dict.fromkeys(key_bytes(key, f"each of {name}") for key in listed(keys, name))
    return [Key(place, value, check_value(value)) for place, value in enumerate(values, start=1)]


def _invalid(error: ProfileError) -> InputError:
    return InputError("invalid_profile", shortened(str(error)), "profile")
