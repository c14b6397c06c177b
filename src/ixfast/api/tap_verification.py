"""Verifies taps in the Python API: what a tapped URL proves under given keys.

It checks authenticity and nothing else. Whether a tap is new is a question for a ledger, which a function without state cannot
answer: `Evidence.position` is what the caller compares.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from ixfast.api.arguments import check_type, shortened
from ixfast.api.encoding_profiles import compiled_profile
from ixfast.api.evidence import Claim, Evidence, TamperState
from ixfast.api.key_material import KeyInput, TagKeys, key_bytes, registered_uid
from ixfast.chips import REASONS, CompiledProfile, Message, Missing, Step, explain_message
from ixfast.chips.tap_text import first_complete, read_tap
from ixfast.domain import model
from ixfast.domain.model import TAMPER_WORDS, EncodingProfile, Key
from ixfast.domain.tap_readings import readings
from ixfast.errors import InputError

_RANKS = {reason: rank for rank, reason in enumerate(REASONS)}


def verify(
    url: str,
    *,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None = None,
    statics: Mapping[str, str] | None = None,
    allow_any_uid: bool = False,
) -> Evidence:
    """Examine what a tapped URL proves, without a server or a database.

    **This checks authenticity, not replay.** The same URL is authentic every time it is verified, so anyone who copies it from a
    browser's history passes again. Store `Evidence.position` of the last accepted tap with each tag, and accept a tap only if its
    position is greater, in one atomic step.

    - `url`: the tapped URL verbatim, at most 4096 ASCII characters. Its query string alone suffices for profiles without a path,
      and so do the parameters of `/v1/t`.
    - `profile`: the tag's encoding profile, or the name of a built-in one.
    - `keys`: the tag's keys. A bare key (16 bytes or 32 hex digits) is the file key.
    - `uid`: the tag's registered UID, 7 bytes or 14 hex digits, as printed. It is needed if the tag mirrors its UID but the URL
      does not contain it. If both are known, they must be equal.
    - `statics`: the tag's registered `xuid`, `cuid`, `aid` and `batch`. They are needed if the MAC covers them and the URL omits
      them. If both are known, they must be equal.
    - `allow_any_uid`: accept a `uid` that ends with 04 instead of beginning with it, which is refused as reversed otherwise.

    A forged tap is a result, not an error: `authentic` is false and `reason` says why. Raises `InputError` if the text is not a
    complete tap of this profile (`code` is `invalid_parameter` or `missing_parameter`, `field` names the parameter), and for an
    invalid profile, key or UID (`code` is `uid_reversed` if its bytes are in reverse order). Sources: NT4H2421Gx
    section 9.3, AN12196; docs/reference/chips.md has the others.

    >>> import ixfast
    >>> key = "000102030405060708090a0b0c0d0e0f"
    >>> tag = ixfast.testing.VirtualTag("plain-uid-counter", file_key=key, counter=60)
    >>> url = tag.tap()
    >>> url
    'https://tag.example/t?uid=04A1B2C3D4E5F6&ctr=00003D&cmac=DB1D545506818881'
    >>> evidence = ixfast.verify(url, profile="plain-uid-counter", keys=key)
    >>> evidence.authentic, evidence.uid.hex(), evidence.counter
    (True, '04a1b2c3d4e5f6', 61)
    >>> ixfast.verify(url, profile="plain-uid-counter", keys=bytes(16)).reason
    'mac_mismatch'
    """
    return _examined(url, profile, keys, uid, statics, allow_any_uid=allow_any_uid).public()


def explain(
    url: str,
    *,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None = None,
    statics: Mapping[str, str] | None = None,
    allow_any_uid: bool = False,
) -> list[Step]:
    """The steps of `verify` for the same arguments, for people who want to see why a tap is authentic or not.

    The steps show check values and key versions, but no key, no session key and no expected MAC, so that they can be pasted into
    a ticket. Their wording may change from release to release: read `Evidence` in programs. Raises what `verify` raises.

    >>> import ixfast
    >>> tag = ixfast.testing.VirtualTag(
    ...     "plain-uid-counter", file_key="000102030405060708090a0b0c0d0e0f"
    ... )
    >>> for step in ixfast.explain(tag.tap(), profile="plain-uid-counter", keys=tag.keys):
    ...     print(f"{step.name:16} {step.finding}")
    profile          plain-uid-counter, scheme ntag424-aes
    found            mac, uid, counter
    registered UID   none
    mirror           plain; UID 04A1B2C3D4E5F6, counter 1
    file keys        version 1 (check value be7ed6)
    session vector   UID and counter
    window           empty
    MAC              valid with file key version 1
    result           authentic
    """
    found = _examined(url, profile, keys, uid, statics, allow_any_uid=allow_any_uid)
    return explain_message(
        found.compiled, found.message, uid=found.uid, file_keys=found.file_keys, meta_keys=found.meta_keys, statics=found.statics
    )


def identify(url: str, *, profile: EncodingProfile | str, keys: TagKeys | None = None) -> tuple[Claim, ...]:
    """What a tapped URL states about itself, to look up the tag and its keys before you call `verify`.

    For a plain mirror the result has one claim and needs no keys. For an encrypted mirror it has one claim for each meta key in
    `keys` that reads the mirror: none if no key does, and seldom more than one, because a wrong key reads something about once in
    85 times. Look up each. If no key reads the mirror, but the URL names the tag or its batch, there is one claim with these
    texts alone: look up the meta key by them. If the URL has punctuation at its end, or quotes or brackets around it, the claims
    of the URL without them follow. Nothing is verified here. Raises `InputError` if the text is not a complete tap of
    this profile.

    >>> import ixfast
    >>> meta_key = "101112131415161718191a1b1c1d1e1f"
    >>> tag = ixfast.testing.VirtualTag("encrypted", meta_key=meta_key)
    >>> keys = ixfast.TagKeys(meta=meta_key)
    >>> (claim,) = ixfast.identify(tag.tap(), profile="encrypted", keys=keys)
    >>> claim.uid.hex(), claim.counter, claim.tag_code
    ('04a1b2c3d4e5f6', 1, None)
    """
    check_type(keys, TagKeys | None, "keys", "TagKeys")
    compiled = compiled_profile(profile)
    meta_keys = keys.meta_keys if keys is not None else ()
    message = _read(compiled, url)
    others = []
    for reading in readings(url):
        with contextlib.suppress(InputError):  # not complete in this reading
            others.append(_read_one(compiled, reading))
    messages = dict.fromkeys((message, *others))
    return tuple(dict.fromkeys(claim for message in messages for claim in _claims(compiled, message, meta_keys)))


def _claims(compiled: CompiledProfile, message: Message, meta_keys: tuple[Key, ...]) -> list[Claim]:
    if not compiled.encrypted:
        return [_claim(message, message.uid, message.counter)]
    mirrors = compiled.candidates(message, meta_keys)
    if not mirrors and (message.xuid or message.cuid or message.batch):
        return [_claim(message, None, None)]
    return [_claim(message, picc.uid, picc.counter) for picc, _ in mirrors]


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
            tamper = TamperState(TAMPER_WORDS[found.tamper.stored], TAMPER_WORDS[found.tamper.current])
        return Evidence(
            authentic=found.authentic,
            reason=found.reason,
            uid=found.uid,
            counter=found.counter,
            key_version=found.key_version if found.authentic else None,
            tamper=tamper,
            file_data=found.file_data,
            tag_code=_plain(self.message.xuid),
        )


def _examined(
    url: str,
    profile: EncodingProfile | str,
    keys: TagKeys | KeyInput,
    uid: KeyInput | None,
    statics: Mapping[str, str] | None,
    *,
    allow_any_uid: bool,
) -> _Examination:
    compiled = compiled_profile(profile)
    known = keys if isinstance(keys, TagKeys) else TagKeys(file=key_bytes(keys, "keys"))
    registered = registered_uid(uid, allow_any_uid=allow_any_uid) if uid is not None else None
    given = statics if statics is not None else {}
    check_type(given, Mapping, "statics", "a mapping")
    for text in given.values():
        check_type(text, str | None, "statics", "a mapping from names to texts")
    message = _read(compiled, url)
    meta_keys = known.meta_keys
    best: _Examination | None = None
    for own_uid in _uids(compiled, message, known, registered):
        file_keys = known.file_keys_of(own_uid)
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
    code, cuid, aid, batch = map(_plain, (message.xuid, message.cuid, message.aid, message.batch))
    return Claim(uid=uid, counter=counter, tag_code=code, cuid=cuid, aid=aid, batch=batch)


def _plain(text: str | None) -> str | None:
    """The text alone, without how it was sent."""
    return None if text is None else str(text)


def _read(compiled: CompiledProfile, url: str) -> Message:
    if not isinstance(url, str):
        raise InputError("invalid_parameter", "url must be text.", "url")
    return first_complete(partial(_read_one, compiled), readings(url))  # type: ignore[no-any-return]


def _read_one(compiled: CompiledProfile, text: str) -> Message:
    try:
        message = read_tap(compiled, text)
    except InputError as error:
        problem = re.sub(r"^(The|A) ", lambda found: found[0].lower(), str(error))
        raise InputError(error.code, shortened(f"Malformed tap: {problem}"), error.field) from None
    if isinstance(message, Missing):
        names = ", ".join(message.names)
        text = shortened(f"Incomplete tap: the profile {compiled.name} also needs {names}.")
        raise InputError("missing_parameter", text, message.names[0])
    return message
