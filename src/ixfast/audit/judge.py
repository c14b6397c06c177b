"""Judges one tap: finds its tag and examines it with the tag's profile and keys, as the engine does.

Slow and complete: `url_layout` verifies batches, but only this module refuses. Replays are found afterwards, by `tap_order`.
"""

from __future__ import annotations

from ixfast.audit.findings import (
    BY_REASON,
    GENUINE,
    INCOMPLETE,
    MALFORMED,
    NOT_REPLAY_CHECKED,
    PLAIN,
    UNKNOWN,
    Finding,
    tamper_code,
)
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile, Message, Missing
from ixfast.chips.complaints import Complaint, complaint_about, malformed
from ixfast.chips.tap_text import parameters_in, read_tap
from ixfast.domain import chip_uids, references, tap_url
from ixfast.domain.scan import position
from ixfast.domain.tap_readings import readings
from ixfast.errors import InputError
from ixfast.limits import REQUEST_TARGET_BYTES_MAX


def judge(catalogue: TagCatalogue, text: str) -> Finding:
    """Judge a tapped URL, its query string, or a query string with the parameter names of `/v1/t`."""
    if len(text) > REQUEST_TARGET_BYTES_MAX:
        return Finding(MALFORMED, problem=f"longer than {REQUEST_TARGET_BYTES_MAX} characters")
    given: Finding | None = None
    for reading in readings(text):
        finding = _judge(catalogue, reading)
        if finding.code not in (UNKNOWN, MALFORMED, INCOMPLETE):
            return finding
        given = given or finding
        if given.code != UNKNOWN:
            given = finding
    assert given is not None
    return given


def _judge(catalogue: TagCatalogue, text: str) -> Finding:
    code = references.code_in(text)
    try:
        if code is None:
            return _judge_unnamed(catalogue, text)
        tag = catalogue.by_code.get(code)
        if tag is None:
            return Finding(UNKNOWN)
        profile = catalogue.profile(tag)
        if profile is None:
            return Finding(PLAIN, tag)
        message = read_tap(profile, text)
    except InputError as error:
        return Finding(MALFORMED, problem=_problem(error))
    if not isinstance(message, Message):
        return Finding(INCOMPLETE, tag, problem=_mistake(text))
    return _examine(catalogue, tag, profile, message)


def _judge_unnamed(catalogue: TagCatalogue, text: str) -> Finding:
    """Judge a tap without a tag code, whose tag is found by each profile in turn."""
    complaints: list[Complaint] = []
    well_formed = is_reversed = False
    incomplete: int | None = None
    for profile in catalogue.profiles:
        if profile is None:
            continue
        try:
            message = read_tap(profile, text)
        except InputError as problem:
            complaints.append((profile, problem))
            continue
        tag = catalogue.find(profile, message)
        if isinstance(message, Missing):
            incomplete = tag if incomplete is None else incomplete
        names_tag = message.uid is not None or message.xuid is not None or message.cuid is not None
        complaint = complaint_about(profile, message, leads_to_tag=names_tag)
        if complaint is not None:
            complaints.append((profile, complaint))
        well_formed = well_formed or complaint is None
        is_reversed = is_reversed or (message.uid is not None and chip_uids.is_reversed(message.uid))
        if tag is None or isinstance(message, Missing):
            continue
        own_profile = catalogue.profile(tag)
        if own_profile is None:
            return Finding(PLAIN, tag)
        if own_profile is not profile:
            own_message = read_tap(own_profile, text)
            if not isinstance(own_message, Message):
                return Finding(INCOMPLETE, tag)
            message = own_message
        return _examine(catalogue, tag, own_profile, message)
    mistake = None if well_formed else _mistake(text)
    if mistake is not None:
        return Finding(MALFORMED, problem=mistake)
    if incomplete is not None:
        return Finding(PLAIN if catalogue.profile(incomplete) is None else INCOMPLETE, incomplete)
    error = malformed(complaints, parameters_in(text), text) if not well_formed else None
    if error is not None:
        return Finding(MALFORMED, problem=_problem(error))
    if not catalogue.likeness.may_be_tap(text):
        own = catalogue.likeness.shown
        return Finding(MALFORMED, problem=f"no tap: it has none of the parameters {own}" if own else "no tap")
    return Finding(UNKNOWN, problem=chip_uids.REVERSED_UID.removesuffix(".") if is_reversed else None)


def _mistake(text: str) -> str | None:
    """What is wrong with the text as a whole, in the words that scans have for it."""
    mistake = tap_url.mistake(text)
    return mistake.removesuffix(".") if mistake is not None else None


def _examine(catalogue: TagCatalogue, tag: int, profile: CompiledProfile, message: Message) -> Finding:
    evidence = profile.examine(
        message,
        uid=catalogue.uids[tag] or None,
        file_keys=catalogue.file_keys(tag),
        meta_keys=catalogue.meta_keys_of(tag),
        statics=catalogue.statics(tag),
    )
    if not evidence.authentic:
        return Finding(BY_REASON[evidence.reason], tag)
    tamper = tamper_code(evidence.tamper)
    if evidence.counter is None:
        return Finding(NOT_REPLAY_CHECKED, tag, 0, tamper)
    return Finding(GENUINE, tag, position(evidence.key_version, evidence.counter), tamper)


def _problem(error: InputError) -> str:
    return str(error).removesuffix(".")
