"""The notes of `detect`: what the owner of the tags should know about a proposed profile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ixfast.chips.tamper import STATES
from ixfast.chips.template import STATICS
from ixfast.chips.url_readings import JOINER
from ixfast.domain.model import EncodingProfile
from ixfast.limits import META_KEYS_MAX

_CODE_CHARS_MIN = 6
_REGISTERED = {
    "xuid": "its tag code (XUID)", "cuid": "its CUID", "batch": "the name of its batch", "aid": "the account's id (AID)",
}  # fmt: skip
_PLACEHOLDER = re.compile(r"\{[^}]*\}")
_ONE_TAG = "which taps of one tag do not show: pass taps of three different tags"


def names_tag(profile: EncodingProfile) -> bool:
    return "{xuid}" in profile.template or "{cuid}" in profile.template


def several_meta_keys(profile: EncodingProfile) -> str:
    if names_tag(profile):
        return "the tags have different meta keys: import each with its tag, whose taps name it"
    return f"the tags have different meta keys, of which an account can have {META_KEYS_MAX}: more need the tag's name in the URL"


def text_of_one_tag(profile: EncodingProfile) -> str | None:
    """The note for taps of a single tag with a text beside mirrors, or in a field between them: is it the same on all tags?"""
    for name, text in _pieces(profile.template):
        static = next((name for name in STATICS if f"{{{name}}}" in text), None)
        if static is not None and text.count("{") > 1:
            return f"the text for {{{static}}} in {name} may be a constant, {_ONE_TAG}"
    for name, text in _pieces(profile.template):
        if any(not JOINER.fullmatch(literal) for literal in _PLACEHOLDER.split(text) if literal):
            return f"the constant text in {name} may differ between tags, {_ONE_TAG}"
    return None


def texts_in_window(profile: EncodingProfile, fields: Mapping[str, str]) -> str | None:
    """The note for texts of the owner's that the MAC covers: a tap is genuine only if its tag is registered with them."""
    covered = [f"{fields[name]} is {what}" for name, what in _REGISTERED.items() if f"{{{name}}}" in profile.window]
    return f"the MAC covers texts of your own, with which each tag must be registered: {', '.join(covered)}" if covered else None


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """The path segments and parameters of a template, each with what to call it."""
    path, _, query = template.partition("?") if template.startswith("/") else ("", "", template)
    yield from (("the path", segment) for segment in path.split("/") if segment)
    for parameter in query.split("&"):
        name, equals, text = parameter.partition("=")
        yield (name, text) if equals else ("the text without a name", parameter)


def unused_path_text(profile: EncodingProfile, urls: Sequence[str]) -> str | None:
    """The note for taps of one encrypted tag with a text in the path that may be its code, which one tag alone does not show."""
    if "{picc}" not in profile.template or names_tag(profile):
        return None
    ends = {_last_segment(url) for url in urls}
    end = ends.pop() if len(ends) == 1 else ""
    if len(end) < _CODE_CHARS_MIN or not end.isalnum() or end.isalpha() or not end.isascii():
        return None
    return (
        "the last segment of the path may be the tag's code: pass taps of several tags to find out; if each has "
        "another meta key, the template must begin with /{xuid}?"
    )


def _last_segment(url: str) -> str:
    path = url.partition("?")[0].partition("://")[2] or url.partition("?")[0]
    return path.rstrip("/").rpartition("/")[2]


def tamper_offset(texts: Sequence[bytes | None]) -> tuple[int | None, str | None]:
    """The likely offset of tamper characters in the file data, if all samples have two of C, O and I at just one offset."""
    known = [text for text in texts if text is not None]
    if not known:
        return None, None
    length = min(map(len, known))
    offsets = [at for at in range(length - 1) if all(set(text[at : at + 2]) <= set(STATES.encode()) for text in known)]
    if len(offsets) == 1:
        return offsets[0], f"file data has tamper characters at offset {offsets[0]}; set tamper_offset to null if by chance"
    if offsets:
        return None, f"file data could have tamper characters at offsets {', '.join(map(str, offsets))}; set tamper_offset"
    return None, None
