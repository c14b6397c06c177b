"""Finds mirrors in a URL that are cut, too long or not filled in: what may keep a tap from being explained.

A chip overwrites a placeholder in its NDEF file. One that is too short, or that another program cut, leaves a mirror with the
wrong number of digits, which is none of any encoding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from ixfast.chips.url_fields import Sample
from ixfast.chips.url_readings import NXP, PICC_CHARS
from ixfast.domain.chip_uids import REVERSED_UID, is_reversed

_ENCRYPTED, _MAC, _UID, _COUNTER = "an encrypted mirror", "a MAC", "a UID", "a counter"
_LENGTHS = {_ENCRYPTED: PICC_CHARS, _MAC: (16,), _UID: (14,), _COUNTER: (6,)}
# What a parameter has according to its name, in lower case; the first that occurs in it.
_NAMES = {"picc": _ENCRYPTED, "mac": _MAC, "uid": _UID, "ctr": _COUNTER, "count": _COUNTER, "cnt": _COUNTER}
_NEAR = 2  # A text without a telling name is a mirror if it is shorter or longer by no more than this.
_NAMED_MIN = 4  # A text that is shorter is not a mirror that was cut, whatever its name.
_ZEROS = re.compile(r"(?<![0-9A-Fa-f])0{14,}(?![0-9A-Fa-f])")  # not 6, as a disabled counter is all zeros, too
REVERSED = REVERSED_UID[0].lower() + REVERSED_UID[1:].removesuffix(".")
_HEX_RUN = re.compile(r"[0-9A-Fa-f]+")


def wrong_lengths(sample: Sample, explained: Collection[str] = ()) -> list[str]:
    """What is wrong with mirrors of a URL, one sentence each.

    `explained` are labels of fields that have mirrors as they are; beside them, only fields with a telling name are mirrors.
    """
    found = []
    for field in sample.fields:
        if field.label() in explained:
            continue
        named = next((kind for part, kind in _NAMES.items() if part in (field.name or "").lower()), None)
        runs = _HEX_RUN.findall(field.text)
        if named is not None and "".join(runs) != field.text and len(field.text) in _LENGTHS[named]:
            found.append(f"{field.label()} has characters that are not hex digits")
        elif named is not None and runs == [field.text]:
            found += _odd(field.label(), field.text, named)
            if named == _UID and len(field.text) in _LENGTHS[_UID] and not field.text.startswith(NXP):
                fault = f": {REVERSED}" if is_reversed(bytes.fromhex(field.text)) else f" does not begin with {NXP} as UIDs do"
                found.append(f"{field.label()}{fault}")
        elif not explained:
            found += [text for run in runs for kind in _kinds(run) for text in _odd(field.label(), run, kind)][:1]
    return found


def not_filled_in(sample: Sample) -> list[str]:
    """The fields of a URL that still have the zeros of a placeholder, one sentence each."""
    labels = dict.fromkeys(field.label() for field in sample.fields if _ZEROS.search(field.text))
    return [f"{label} is all zeros: the chip did not fill it in; is SDM enabled?" for label in labels]


def _kinds(run: str) -> Iterator[str]:
    """What a run of hex digits that has no telling name nearly is."""
    if run.startswith(NXP) and abs(len(run) - _LENGTHS[_UID][0]) == 1:
        yield _UID
    elif abs(len(run) - _LENGTHS[_MAC][0]) == 1:
        yield _MAC
    elif any(0 < abs(len(run) - length) <= _NEAR for length in PICC_CHARS):
        yield _ENCRYPTED


def _odd(label: str, run: str, kind: str) -> Iterator[str]:
    lengths = _LENGTHS[kind]
    if len(run) not in lengths and len(run) >= _NAMED_MIN:
        yield f"{label} has {len(run)} hex digits; {kind} has {' or '.join(map(str, lengths))}"
