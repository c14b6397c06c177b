"""Warns about an import of tags that stay in another group, and of meta keys that the taps of its group cannot lead to.

A meta key of a tag is tried only on taps that name the tag, and one of a batch only on taps that name the batch or the tag. If
the group's encoding profile names neither, the import succeeds and every tap of its tags is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from ixfast.chips import compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError

_NAMES = {"tag": ("{xuid}", "{cuid}"), "batch": ("{xuid}", "{cuid}", "{batch}")}
"""By owner of meta keys, the placeholders of which a profile must have one."""
_EXAMPLE = "/{xuid}?picc={picc}&cmac={mac}"


def profile_warnings(profile: EncodingProfile | None, added: Mapping[str, int]) -> list[str]:
    """What the owner must change so that taps lead to the meta keys, of which `added` has the number by owner."""
    if profile is None or "{picc}" not in profile.template:
        return []
    for owner, names in _NAMES.items():
        if added[owner] and not any(name in profile.template for name in names):
            lacks = f"{', '.join(names[:-1])} or {names[-1]}"
            return [
                f"The group's encoding profile has no {lacks}. Taps that do not name the tag do not lead to the meta keys that "
                f"each {owner} has of its own, and are unknown. Use a profile that names the tag, with a template such as "
                f"{named_template(profile)}, and write such URLs to the tags."
            ]
    return []


def place_warnings(tags: int, *, batch: int | None) -> list[str]:
    """That an import does not move the tags, of which there are so many in another group, or in another batch if one is named."""
    if not tags:
        return []
    place, are = "another group" if batch is None else "another group or batch", "1 tag is" if tags == 1 else f"{tags:,} tags are"
    return [
        f"{are} in {place} than the one named, and {'stays' if tags == 1 else 'stay'} there: an import moves no tags. Move "
        f"{'it' if tags == 1 else 'each'} with PATCH /v2/tags/{{xuid}}, with the members group_id and batch_id."
    ]


def named_template(profile: EncodingProfile) -> str:
    """The template with the tag code as the last segment of the path."""
    path, mark, query = profile.template.rpartition("?")
    named = f"{path}/{{xuid}}?{query}" if mark or not query.startswith("/") else f"/{{xuid}}{query}"
    try:
        compile_profile(replace(profile, template=named))
    except ProfileError:
        return _EXAMPLE
    return named
