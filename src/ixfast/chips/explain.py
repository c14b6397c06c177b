"""Explains the examination of a tap step by step, for people who want to see why it passes or not.

An explanation shows check values, key versions and what the tap itself contains. It never shows a key, a session key or the
expected MAC, because explanations are pasted into tickets and chats.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ixfast.chips.message import Message
from ixfast.chips.profile import CompiledProfile
from ixfast.chips.reasons import REASONS
from ixfast.chips.template import STATICS
from ixfast.domain.model import Evidence, Key

_NO_STATICS: Mapping[str, str] = MappingProxyType({})


class Step(NamedTuple):
    """One step of an explanation: what was examined, and what was found."""

    name: str
    finding: str


def explain_message(
    compiled: CompiledProfile,
    message: Message,
    *,
    uid: bytes | None,
    file_keys: tuple[Key, ...],
    meta_keys: tuple[Key, ...] = (),
    statics: Mapping[str, str] = _NO_STATICS,
) -> list[Step]:
    """The steps of `CompiledProfile.examine` for the same arguments, in order."""
    evidence = compiled.examine(message, uid=uid, file_keys=file_keys, meta_keys=meta_keys, statics=statics)
    steps = [
        Step("profile", f"{compiled.name}, scheme {compiled.scheme.name}"),
        Step("found", ", ".join(name for name in message.__struct_fields__ if getattr(message, name) is not None)),
        Step("registered UID", "none" if uid is None else uid.hex().upper()),
    ]
    if compiled.encrypted:
        steps.append(Step("meta keys", _keys(meta_keys)))
        steps += _mirror_steps(compiled, message, meta_keys)
    else:
        steps.append(Step("mirror", f"plain; {_claims(message.uid, message.counter)}"))
    steps.append(Step("file keys", _keys(file_keys)))
    if evidence.authentic or evidence.reason == "mac_mismatch":
        steps.append(Step("session vector", _session(evidence)))
        steps.append(Step("window", _window(compiled, message, evidence, file_keys, statics)))
    steps += _result_steps(compiled, evidence)
    return steps


def _mirror_steps(compiled: CompiledProfile, message: Message, meta_keys: tuple[Key, ...]) -> list[Step]:
    readings = compiled.candidates(message, meta_keys)
    if not readings:
        return [Step("mirror", "encrypted; read by none of the meta keys")]
    return [
        Step("mirror", f"encrypted; read by {_key(key)}: {_claims(reading.uid, reading.counter)}") for reading, key in readings
    ]


def _result_steps(compiled: CompiledProfile, evidence: Evidence) -> list[Step]:
    if not evidence.authentic:
        reason = evidence.reason or ""
        return [Step("result", f"not authentic: {reason}: {REASONS[reason]}")]
    steps = [Step("MAC", f"valid with file key version {evidence.key_version}")]
    if evidence.file_data is not None:
        steps.append(Step("file data", f"{len(evidence.file_data)} bytes, decrypted"))
    if evidence.tamper is not None:
        steps.append(Step("tamper", f"stored {evidence.tamper.stored}, current {evidence.tamper.current}"))
    elif "tamper" in compiled.template.slots or "tt" in compiled.template.slots:
        steps.append(Step("tamper", "no known state in authenticated text"))
    unproven = [name for name in compiled.template.slots if name in STATICS and name not in compiled.window_statics]
    if unproven:
        steps.append(Step("not authenticated", f"{', '.join(unproven)}: outside the window"))
    return [*steps, Step("result", "authentic")]


def _claims(uid: bytes | None, counter: int | None) -> str:
    uid_text = "not mirrored" if uid is None else uid.hex().upper()
    return f"UID {uid_text}, counter {'not mirrored' if counter is None else counter}"


def _session(evidence: Evidence) -> str:
    inside = [name for name, value in (("UID", evidence.uid), ("counter", evidence.counter)) if value is not None]
    return " and ".join(inside) or "neither UID nor counter"


def _window(
    compiled: CompiledProfile, message: Message, evidence: Evidence, file_keys: tuple[Key, ...], statics: Mapping[str, str]
) -> str:
    """The window that the MAC covers, or those that it may cover if it covers none of them."""
    uid, counter = evidence.uid or b"", -1 if evidence.counter is None else evidence.counter
    windows = compiled.windows(message, uid, statics)
    if len(windows) > 1 and evidence.authentic:
        verify, mac = compiled.scheme.verify, message.mac
        windows = tuple(each for each in windows if any(verify(key.value, uid, counter, each, mac) for key in file_keys))
    return " or ".join(window.decode() for window in windows) or "empty"


def _key(key: Key) -> str:
    return f"version {key.version} (check value {key.check_value.hex()})"


def _keys(keys: tuple[Key, ...]) -> str:
    return ", ".join(map(_key, keys)) or "none"
