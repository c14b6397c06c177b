"""Checks of what owners send: names and values of extended fields, rule sets, profiles, keys, times.

Each function raises InputError with the error code, the path of the member as its `field`, and what to send instead. A key is
never quoted.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from ixfast.chips import PRESETS, compile_profile, preset
from ixfast.chips.originality import judge_originality
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError, ProfileError
from ixfast.http.json_body import explained
from ixfast.http.management.schemas import Definition, FieldsPatch
from ixfast.http.unknown_names import suggestion
from ixfast.keys.diversify import Derivation
from ixfast.responses import response_text
from ixfast.rules import RuleError, Rules, read_rules
from ixfast.rules.facts import field_key

REPLY_MEMBERS = frozenset(("xuid", "cuid", "response", "error", "parameter", "reason"))
"""Members of `/v1` responses, which no extended field may replace."""

_KEY = re.compile(r"[0-9A-Fa-f]{32}", re.ASCII)
_EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_LATEST = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)


def definitions(definitions: Sequence[Definition]) -> None:
    """Check the extended fields that a folder defines."""
    seen: set[str] = set()
    for index, definition in enumerate(definitions):
        name, place = definition.name, f"fields[{index}].name"
        if not name.isprintable() or name != name.strip() or "{" in name or "}" in name:
            raise InputError(
                "invalid_parameter",
                "A field name must be printable, without braces and without leading or trailing spaces.",
                place,
            )
        key = field_key(name)
        if key in REPLY_MEMBERS:
            raise InputError(
                "invalid_parameter",
                f"A field cannot be named {', '.join(sorted(REPLY_MEMBERS))}, because responses have members of these names.",
                place,
            )
        if key in seen:
            raise InputError(
                "invalid_parameter", "Another field has this name, or a name that becomes the same URL parameter.", place
            )
        seen.add(key)


def values(values: Mapping[str, str | None], defined: Collection[str]) -> None:
    """Check values of extended fields, which the folder must define. Like response texts they may contain subtags."""
    for number, (name, value) in enumerate(values.items(), start=1):
        if value is None:  # removes a value, whatever its name
            continue
        if name not in defined:  # the name is not quoted: it may be a key that was pasted into the wrong place
            names = ", ".join(sorted(defined)) or "none"
            raise InputError(
                "invalid_parameter",
                f"The folder does not define the field at position {number} of `fields`. Defined fields: {names}.",
                "fields",
            )
        if "\0" in value:
            raise InputError("invalid_parameter", "A value must not contain NUL.", "fields")
        try:
            response_text.compile_response(value, inner=True)
        except InputError as error:
            raise InputError(error.code, str(error), f"fields.{name}") from None


def merged(current: Mapping[str, str], patch: FieldsPatch) -> dict[str, str]:
    """Values after a patch; null removes one."""
    return {name: value for name, value in {**current, **patch}.items() if value is not None}


def rule_set(document: Mapping[str, Any], place: str = "rules") -> Rules:
    """A rule set with its response texts. `place` is its member in the body, with which the `field` of an error begins."""
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
        raise InputError("invalid_rule", "A rule set must not contain NUL characters.", place)
    return rules


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(each) for pair in value.items() for each in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


def profile(value: str | dict[str, Any] | None) -> EncodingProfile | None:
    """An encoding profile, given in full or by the name of a preset; None for a standard group."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value not in PRESETS:  # not quoted: it may be a key in the wrong place
            presets = ", ".join(PRESETS)
            raise InputError("invalid_profile", f"Unknown preset.{suggestion(value, PRESETS)} Presets: {presets}.", "profile")
        found = preset(value) if isinstance(value, str) else msgspec.convert(value, EncodingProfile)
        compile_profile(found)
    except msgspec.ValidationError as error:
        reason, place = explained(error, EncodingProfile)
        raise InputError("invalid_profile", reason, f"profile.{place}" if place is not None else "profile") from None
    except ProfileError as error:
        raise InputError("invalid_profile", str(error), "profile") from None
    if "\0" in found.name + found.template + found.window:
        raise InputError("invalid_profile", "A profile must not contain NUL characters.", "profile")
    return found


def derivation(profile: EncodingProfile | None, derivation: Derivation | None, *, enrols: bool) -> None:
    """Check that a group with this profile can derive keys, and enrol tags from their taps."""
    if derivation is not None and profile is None:
        raise InputError("invalid_parameter", "A standard group has no keys to derive; set a profile first.", "derivation")
    if not enrols:
        return
    if derivation is None or profile is None:
        raise InputError(
            "invalid_parameter", "Only a group that derives its keys can enrol tags; set a derivation first.", "enrols"
        )
    compiled = compile_profile(profile)
    if not compiled.counter_expected or not (compiled.encrypted or "uid" in compiled.template.slots):
        raise InputError("invalid_parameter", "To enrol tags, the profile must mirror both UID and counter.", "enrols")
    if {"xuid", "cuid"} & set(compiled.window_statics):
        message = "To enrol tags, the MAC window must not contain a tag code or CUID, which a new tag does not have yet."
        raise InputError("invalid_parameter", message, "enrols")


def originality(uid: str | None, signature: str, profile: str | None) -> str:
    """The result of checking an originality signature; `profile` is the JSON of the group's encoding profile."""
    place = "originality_signature"
    if uid is None:
        raise InputError(
            "invalid_parameter", "The signature covers the chip's UID, which is not registered; send uid as well.", place
        )
    scheme = msgspec.json.decode(profile, type=EncodingProfile).scheme if profile is not None else "ntag424"
    if not scheme.startswith("ntag424"):
        raise InputError(
            "invalid_parameter",
            "Only signatures of NTAG 424 DNA can be checked, but the group's profile is for another chip.",
            place,
        )
    return judge_originality(bytes.fromhex(uid), bytes.fromhex(signature))


def key(text: str, field: str = "key") -> bytes:
    """An AES-128 key of 32 hex digits; InputError for `field` otherwise."""
    if not _KEY.fullmatch(text):
        raise InputError("invalid_parameter", "A key must be 32 hex digits.", field)
    value = bytes.fromhex(text)
    if not any(value):
        raise InputError(
            "invalid_parameter", "The all-zero key is the public factory default of every chip; program a key of your own.", field
        )
    return value


def moment(text: str, place: str) -> dt.datetime:
    """A time in ISO 8601 with an offset, or a day, which stands for its beginning in UTC."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        message = "Send a time such as 2026-01-31T09:30:00+01:00, or a day such as 2026-01-31."
        raise InputError("invalid_parameter", message, place) from None
    return in_range(found if found.tzinfo is not None else found.replace(tzinfo=dt.UTC), place)


def in_range(time: dt.datetime, place: str) -> dt.datetime:
    if not _EARLIEST <= time <= _LATEST:
        raise InputError("invalid_parameter", f"The time must be between {_EARLIEST:%Y} and {_LATEST:%Y}.", place)
    return time


def future(time: dt.datetime | None, place: str) -> dt.datetime | None:
    """A time of expiry, which must be in the future; None for never."""
    if time is not None and in_range(time, place) <= dt.datetime.now(dt.UTC):
        raise InputError("invalid_parameter", "The time must be in the future.", place)
    return time
