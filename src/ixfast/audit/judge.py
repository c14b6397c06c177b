"""One tap as text in, one `Finding` out: the tag that it names, and what `CompiledProfile.examine` says of it."""

from __future__ import annotations

from urllib.parse import parse_qsl

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
from ixfast.domain import references
from ixfast.domain.scan import position
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX, REQUEST_TARGET_BYTES_MAX


def judge(catalogue: TagCatalogue, text: str) -> Finding:
    """What a tapped URL, its query string, or a query string with the names of `/v1/t` is."""
    if len(text) > REQUEST_TARGET_BYTES_MAX:
        return Finding(MALFORMED, problem=f"longer than {REQUEST_TARGET_BYTES_MAX} characters")
    code = references.code_in(text)
    try:
        if code is None:
            return _judge_unnamed(catalogue, text)
        place = catalogue.by_code.get(code)
        if place is None:
            return Finding(UNKNOWN)
        profile = catalogue.profile(place)
        if profile is None:
            return Finding(PLAIN, place)
        message = read(profile, text)
    except InputError as error:
        return Finding(MALFORMED, problem=_told(error))
    if not isinstance(message, Message):
        return Finding(INCOMPLETE, place)
    return _examined(catalogue, place, profile, message)


def read(profile: CompiledProfile, text: str) -> Message | Missing:
    """The tap as this profile reads it; InputError as `read_url` raises it."""
    message = profile.read_url(text)
    if isinstance(message, Message):
        return message
    # A web server's own request to `/v1/t` has the standard names instead of the template's.
    again = profile.read_parameters(_parameters(text))
    return again if message is None or isinstance(again, Message) else message


def _judge_unnamed(catalogue: TagCatalogue, text: str) -> Finding:
    """A tap without a tag code: each profile is asked whose it could be."""
    error: InputError | None = None
    readable = False
    for profile in catalogue.profiles:
        if profile is None:
            continue
        try:
            message = read(profile, text)
        except InputError as problem:
            error = error or problem
            continue
        readable = True
        if isinstance(message, Missing):
            continue
        place = catalogue.find(profile, message)
        if place is None:
            continue
        own = catalogue.profile(place)
        if own is None:
            return Finding(PLAIN, place)
        if own is not profile:
            said = read(own, text)
            if not isinstance(said, Message):
                return Finding(INCOMPLETE, place)
            message = said
        return _examined(catalogue, place, own, message)
    if error is not None and not readable:
        return Finding(MALFORMED, problem=_told(error))
    return Finding(UNKNOWN)


def _examined(catalogue: TagCatalogue, place: int, profile: CompiledProfile, message: Message) -> Finding:
    evidence = profile.examine(
        message,
        uid=catalogue.uids[place] or None,
        file_keys=catalogue.file_keys(place),
        meta_keys=catalogue.meta_keys,
        statics=catalogue.statics(place),
    )
    if not evidence.authentic:
        return Finding(BY_REASON[evidence.reason], place)
    tamper = tamper_code(evidence.tamper)
    if evidence.counter is None:
        return Finding(NOT_REPLAY_CHECKED, place, 0, tamper)
    return Finding(GENUINE, place, position(evidence.key_version, evidence.counter), tamper)


def _parameters(text: str) -> dict[str, str]:
    """The query's parameters as `/v1/t` takes them. InputError for one given twice, for too many, and for what is no text."""
    query = text.partition("?")[2] if "?" in text else text
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except (UnicodeDecodeError, ValueError):
        raise InputError("invalid_parameter", f"no query string in UTF-8 of at most {PARAMETERS_MAX} parameters") from None
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise InputError("invalid_parameter", "a parameter is given twice")
    return parameters


def _told(error: InputError) -> str:
    return f"{error.field}: {error}" if error.field is not None else str(error)
