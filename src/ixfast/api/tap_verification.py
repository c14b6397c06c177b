"""Verifies taps in the Python API: what a tapped URL proves under given keys, without a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ixfast.api.encoding_profiles import compiled_profile
from ixfast.api.evidence import Claim, Evidence, TamperState
from ixfast.api.key_material import KeyInput, TagKeys, uid_of
from ixfast.chips import REASONS, CompiledProfile, Message, Missing, Step, explain_message
from ixfast.chips.tap_text import read_tap
from ixfast.domain import model
from ixfast.domain.model import TAMPER_WORDS, EncodingProfile, Key
from ixfast.errors import InputError

_RANKS = {reason: rank for rank, reason in enumerate(REASONS)}


def verify(
    url: str,
    *,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None = None,
    statics: Mapping[str, str] | None = None,
) -> Evidence:
    """Examine what a tapped URL proves, without a server or a database."""
    return _examined(url, profile, keys, uid, statics).public()


def explain(
    url: str,
    *,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None = None,
    statics: Mapping[str, str] | None = None,
) -> list[Step]:
    """The steps of `verify` for the same arguments, for people who want to see why a tap is authentic or not."""
    found = _examined(url, profile, keys, uid, statics)
    return explain_message(
        found.compiled, found.message, uid=found.uid, file_keys=found.file_keys, meta_keys=found.meta_keys, statics=found.statics
    )


def identify(url: str, *, profile: EncodingProfile | str, keys: TagKeys | None = None) -> tuple[Claim, ...]:
    """What a tapped URL states about itself, to look up the tag and its keys before `verify`."""
    compiled = compiled_profile(profile)
    message = _read(compiled, url)
    if not compiled.encrypted:
        return (_claim(message, message.uid, message.counter),)
    readings = compiled.candidates(message, keys.meta_keys if keys is not None else ())
    return tuple(dict.fromkeys(_claim(message, picc.uid, picc.counter) for picc, _ in readings))


class _Examination(NamedTuple):
    """The arguments and the result of `CompiledProfile.examine`."""

    compiled: CompiledProfile
    message: Message
    uid: bytes | None
    file_keys: tuple[Key, ...]
    meta_keys: tuple[Key, ...]
    statics: Mapping[str, str]
    evidence: model.Evidence

    def public(self) -> Evidence:
        found = self.evidence
        tamper = None
        if found.tamper is not None:
            tamper = TamperState(*(TAMPER_WORDS.get(each, "invalid") for each in (found.tamper.stored, found.tamper.current)))
        return Evidence(
            authentic=found.authentic,
            reason=found.reason,
            uid=found.uid,
            counter=found.counter,
            key_version=found.key_version if found.authentic else None,
            tamper=tamper,
            file_data=found.file_data,
            tag_code=self.message.xuid,
        )


def _examined(
    url: str,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None,
    statics: Mapping[str, str] | None,
) -> _Examination:
    compiled = compiled_profile(profile)
    known = keys if isinstance(keys, TagKeys) else TagKeys(file=keys)
    registered = uid_of(uid) if uid is not None else None
    message = _read(compiled, url)
    meta_keys = known.meta_keys
    best: _Examination | None = None
    for own_uid in _uids(compiled, message, known, registered):
        file_keys = known.file_keys_of(own_uid)
        given = statics or {}
        evidence = compiled.examine(message, uid=own_uid, file_keys=file_keys, meta_keys=meta_keys, statics=given)
        if best is None or _rank(evidence) > _rank(best.evidence):
            best = _Examination(compiled, message, own_uid, file_keys, meta_keys, given, evidence)
    assert best is not None
    return best


def _rank(evidence: model.Evidence) -> int:
    """How far the examination got: of several possible UIDs, the result of the highest rank counts."""
    return len(_RANKS) if evidence.authentic else _RANKS[evidence.reason or ""]


def _uids(compiled: CompiledProfile, message: Message, keys: TagKeys, registered: bytes | None) -> list[bytes | None]:
    """The UIDs under which a tap is examined; None where it is unknown, so that no key can be derived."""
    if registered is not None or not keys.derived:
        return [registered]
    if not compiled.encrypted:
        return [message.uid]
    readings = compiled.candidates(message, keys.meta_keys)
    return list(dict.fromkeys(picc.uid for picc, _ in readings)) or [bytes(7)]  # unreadable under any file key


def _claim(message: Message, uid: bytes | None, counter: int | None) -> Claim:
    return Claim(uid=uid, counter=counter, tag_code=message.xuid, cuid=message.cuid, aid=message.aid)


def _read(compiled: CompiledProfile, url: str) -> Message:
    if not isinstance(url, str):
        raise InputError("invalid_parameter", "The URL must be text.", "url")
    try:
        message = read_tap(compiled, url)
    except InputError as error:
        place = f"{error.field}: " if error.field is not None else ""
        raise InputError(error.code, f"Malformed tap: {place}{error}.", error.field) from None
    if isinstance(message, Missing):
        names = ", ".join(message.names)
        raise InputError(
            "missing_parameter", f"Incomplete tap: the profile {compiled.name} also needs {names}.", message.names[0]
        )
    return message
