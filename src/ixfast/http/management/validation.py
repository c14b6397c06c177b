"""Checks of what the owner wrote: names and values of extended fields, rule sets, profiles, keys, moments.

Everything here raises InputError with the code, the place and what to write instead, and never quotes a key.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from ixfast.chips import compile_profile, preset
from ixfast.chips.originality import judge_originality
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError, ProfileError
from ixfast.http.management.schemas import Definition, FieldsPatch
from ixfast.keys.diversify import Derivation
from ixfast.responses import response_text
from ixfast.rules import RuleError, Rules, read_rules
from ixfast.rules.facts import field_key

REPLY_MEMBERS = frozenset(("xuid", "cuid", "response", "error", "parameter", "reason"))
"""Members of `/v1` replies, which no extended field may hide."""

_KEY = re.compile(r"[0-9A-Fa-f]{32}", re.ASCII)
_EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def definitions(given: Sequence[Definition]) -> None:
    """Extended fields of a folder."""
    seen: set[str] = set()
    for index, definition in enumerate(given):
        name, place = definition.name, f"fields[{index}].name"
        if not name.isprintable() or name != name.strip() or "{" in name or "}" in name:
            raise InputError("invalid_parameter", "A field's name is printable, without braces or space at its ends.", place)
        key = field_key(name)
        if key in REPLY_MEMBERS:
            raise InputError("invalid_parameter", f"{', '.join(sorted(REPLY_MEMBERS))} are members of the reply.", place)
        if key in seen:
            raise InputError("invalid_parameter", "Another field has this name, or the same one in a URL.", place)
        seen.add(key)


def values(given: Mapping[str, str | None], known: Collection[str]) -> None:
    """Values of extended fields, which the folder has to define; like responses they may have subtags."""
    for index, (name, value) in enumerate(given.items()):
        if value is None:  # removes what is there, whatever its name
            continue
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InputError("invalid_parameter", f"Field {index + 1} is not defined on the folder, which has {names}.", "fields")
        if "\0" in value:
            raise InputError("invalid_parameter", "A value is text without NUL.", "fields")
        try:
            response_text.compile_response(value, inner=True)
        except InputError as error:
            raise InputError(error.code, str(error), f"fields.{name}") from None


def merged(held: Mapping[str, str], patch: FieldsPatch) -> dict[str, str]:
    """Values after a patch; null removes one."""
    return {name: value for name, value in {**held, **patch}.items() if value is not None}


def rule_set(document: Mapping[str, Any], place: str = "rules") -> Rules:
    """A rule set with its responses; the error's field is the place inside `place`."""
    encoded = msgspec.json.encode(document)
    try:
        rules = read_rules(encoded)
    except RuleError as error:
        raise InputError(error.code, str(error), place + error.path.removeprefix("$")) from None
    texts = {f"{place}.groups[{i}].response": group.response for i, group in enumerate(rules.groups)}
    for where, text in (*texts.items(), (f"{place}.default", rules.default)):
        try:
            response_text.compile_response(text)
        except InputError as error:
            raise InputError(error.code, f"{error} (at {where})", where) from None
    if b"\\u0000" in encoded and _has_nul(document):
        raise InputError("invalid_rule", "A rule set has no NUL in its texts.", place)
    return rules


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(each) for pair in value.items() for each in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


def profile(given: str | dict[str, Any] | None) -> EncodingProfile | None:
    """An encoding profile, by a preset's name or in full; None for a standard group."""
    if given is None:
        return None
    try:
        found = preset(given) if isinstance(given, str) else msgspec.convert(given, EncodingProfile)
        compile_profile(found)
    except (ProfileError, msgspec.ValidationError) as error:
        raise InputError("invalid_profile", str(error), "profile") from None
    if "\0" in found.name + found.template + found.window:
        raise InputError("invalid_profile", "A profile has no NUL in its texts.", "profile")
    return found


def derivation(profile: EncodingProfile | None, given: Derivation | None, *, enrols: bool) -> None:
    """Whether a group of this profile can derive keys, and enrol tags by what their taps say."""
    if given is not None and profile is None:
        raise InputError("invalid_parameter", "A standard group has no keys to derive: give it a profile.", "derivation")
    if not enrols:
        return
    if given is None or profile is None:
        raise InputError("invalid_parameter", "Only a group that derives keys can enrol: give it a derivation.", "enrols")
    compiled = compile_profile(profile)
    if not compiled.counter_expected or not (compiled.encrypted or "uid" in compiled.template.slots):
        raise InputError("invalid_parameter", "To enrol, taps must have a UID and a counter: the profile has not both.", "enrols")
    if {"xuid", "cuid"} & set(compiled.window_statics):
        message = "To enrol, the MAC window must not have the tag's code or CUID, which nobody knows before."
        raise InputError("invalid_parameter", message, "enrols")


def originality(uid: str | None, signature: str, profile: str | None) -> str:
    """What an originality signature says; `profile` is that of the tag's group as it is stored."""
    place = "originality_signature"
    if uid is None:
        raise InputError("invalid_parameter", "A signature is one of the chip's UID: give that, too.", place)
    scheme = msgspec.json.decode(profile, type=EncodingProfile).scheme if profile is not None else "ntag424"
    if not scheme.startswith("ntag424"):
        raise InputError("invalid_parameter", "Signatures are known of NTAG 424 DNA; the group's chips are others.", place)
    return judge_originality(bytes.fromhex(uid), bytes.fromhex(signature))


def key(text: str) -> bytes:
    """An AES-128 key of 32 hex digits."""
    if not _KEY.fullmatch(text):
        raise InputError("invalid_parameter", "A key has 32 hex digits.", "key")
    value = bytes.fromhex(text)
    if not any(value):
        raise InputError("invalid_parameter", "This is the key of a chip that was never personalised: all zero.", "key")
    return value


def moment(text: str, place: str) -> dt.datetime:
    """A moment in ISO 8601 with its difference to UTC, or a day, which begins in UTC."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        message = "Write a moment as 2026-01-31T09:30:00+01:00, or a day as 2026-01-31."
        raise InputError("invalid_parameter", message, place) from None
    return in_range(found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC), place)


def in_range(given: dt.datetime, place: str) -> dt.datetime:
    if not _EARLIEST <= given <= _LATEST:
        raise InputError("invalid_parameter", f"A moment from {_EARLIEST:%Y} to {_LATEST:%Y}.", place)
    return given


def future(given: dt.datetime | None, place: str) -> dt.datetime | None:
    """When something expires: later than now, or never."""
    if given is not None and in_range(given, place) <= dt.datetime.now(dt.UTC):
        raise InputError("invalid_parameter", "This moment has passed.", place)
    return given
