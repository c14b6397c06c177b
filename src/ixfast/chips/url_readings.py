"""Reads the text of one field of a tap URL: every division into mirrors, text that joins them, and text of the owner's.

A mirror has a fixed width. Text of the owner's is what the chip does not change and what may differ between tags, such as a
serial number. Other samples show whether it does, and which division fits them: what is the same in all of them is a constant.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ixfast.chips.tamper import PAIR_PATTERN, TT_CHARS, TT_PATTERN
from ixfast.chips.template import MIRROR_CHARS, Slot
from ixfast.limits import FILE_DATA_BYTES_MAX

PICC_CHARS = (32, 48)  # AES and LRP
READINGS_MAX = 48  # Per field; what a chip writes has fewer than 20.
# Parameters that have a text of the owner's, whether or not it differs between samples.
STATIC_NAMES = {"x": "xuid", "xuid": "xuid", "cuid": "cuid", "aid": "aid"}
NXP = "04"  # the first byte of every UID of NXP's chips

_ENC_STEP = 32
HEX = re.compile(r"[0-9A-Fa-f]+")
# Text that joins mirrors: letters other than hex digits, punctuation, and runs of hex digits too short for any mirror.
_LITERAL = re.compile(r"(?:[^0-9A-Fa-f]|(?<![0-9A-Fa-f])[0-9A-Fa-f]{1,5}(?![0-9A-Fa-f]))+")
JOINER = re.compile(r"[xX]|[^0-9A-Za-z]+")
_OWN_TEXT = re.compile(r"[0-9A-WYZa-wyz]+")
_COUNTER = re.compile(r"[0-9A-Fa-f]{6}(?![0-9A-Fa-f])")
_TAMPER = re.compile(rf"{PAIR_PATTERN}(?![0-9A-Za-wyz])", re.IGNORECASE)
_TT = re.compile(TT_PATTERN, re.IGNORECASE)
_AFTER_LITERAL = re.compile(r"(?:^|[^0-9A-Za-z]|[xX])$")
# The order of mirrors within one run of hex digits: the chip's own, which every published bulk format follows.
ORDER = {name: place for place, name in enumerate(("uid", "counter", "picc", "enc", "tamper", "tt", "mac"))}
_CHANGING = frozenset(("picc", "enc", "mac"))  # differ between any two taps, whereas a disabled counter never changes


class Own(NamedTuple):
    """Text of the owner's, which differs between tags or may do so. `chars` is its length in this URL."""

    chars: int


ReadPart = str | Slot | Own


class Reading(NamedTuple):
    """A division of a field's text. `misfits` are the other samples, by index, whose text cannot be divided in the same way.

    `hides_counter` is whether it takes for text of the owner's what looks like the counter beside a UID, and `assumes_constant`
    whether it takes for a constant what is the same in taps that may be of one tag.
    """

    parts: tuple[ReadPart, ...]
    misfits: frozenset[int] = frozenset()
    hides_counter: bool = False
    assumes_constant: bool = False

    @property
    def mirrors(self) -> list[str]:
        return [part.name for part in self.parts if isinstance(part, Slot)]


def mirror_readings(text: str, others: Sequence[str]) -> list[Reading]:
    """Every division of `text` with a mirror, the likeliest first. `others` are the texts of the field in other samples."""
    divisions = (parts for parts in _walk(text, 0, ()) if _is_credible(text, parts))
    found: dict[Reading, None] = {}
    for parts in itertools.islice(divisions, READINGS_MAX):
        found.update(dict.fromkeys(_compared(text, parts, others)))
    return sorted(found, key=lambda reading: not is_likely(text, reading.parts))


def _is_credible(text: str, parts: Sequence[ReadPart]) -> bool:
    """Whether a division has a mirror, and text without a delimiter before it only behind those of an unmistakable tap."""
    names = {part.name for part in parts if isinstance(part, Slot)}
    glued = any(isinstance(part, Own) and isinstance(before, Slot) for before, part in itertools.pairwise(parts))
    return bool(names) and not (glued and not ({"uid", "mac"} <= names and is_likely(text, parts)))


def is_likely(text: str, parts: Sequence[ReadPart]) -> bool:
    """Whether what is taken for a UID begins as one of NXP's."""
    at = 0
    for part in parts:
        if isinstance(part, Slot) and part.name == "uid":
            return text.startswith(NXP, at)
        at += len(part) if isinstance(part, str) else part.chars
    return True


def _compared(text: str, parts: tuple[ReadPart, ...], others: Sequence[str]) -> list[Reading]:
    """The readings of a division beside other samples; none if they show that it is none of a chip's.

    A text that is the same in all of them is a constant if they are taps of several tags. If no UID shows that, it may be either.
    """
    pattern = re.compile("".join(map(_pattern, parts)), re.IGNORECASE | re.DOTALL)
    matches = [pattern.fullmatch(other) for other in others]
    misfits = frozenset(index for index, match in enumerate(matches) if match is None)
    found = [match for match in matches if match is not None]
    constant: list[ReadPart] = []
    uid_group = next((group for group, part in enumerate(parts, 1) if isinstance(part, Slot) and part.name == "uid"), None)
    uids = {match[uid_group].lower() for match in found} if uid_group is not None else set()
    hides_counter = False
    at = 0
    for group, part in enumerate(parts, start=1):
        chars = len(part) if isinstance(part, str) else part.chars
        own = text[at : at + chars]
        at += chars
        same = bool(found) and all(match[group].lower() == own.lower() for match in found)
        if same and isinstance(part, Slot) and part.name in _CHANGING:
            return []
        if uid_group == group:
            uids.add(own.lower())
        constant.append(own if same and isinstance(part, Own) else part)
        hides_counter = hides_counter or (uid_group is not None and isinstance(part, Own) and _COUNTER.match(own) is not None)
    own_text = Reading(joined(parts), misfits, hides_counter)
    if tuple(constant) == parts or len(uids) == 1:
        return [own_text]
    as_constant = Reading(joined(constant), misfits, hides_counter, assumes_constant=not uids)
    return [as_constant] if uids else [as_constant, own_text]


def _pattern(part: ReadPart) -> str:
    if isinstance(part, str):
        return f"({re.escape(part)})"
    if isinstance(part, Own):
        return "(.+)"
    return f"([0-9A-Z]{{{part.chars}}})" if part.name in ("tamper", "tt") else f"([0-9A-F]{{{part.chars}}})"


def joined(parts: Sequence[ReadPart]) -> tuple[ReadPart, ...]:
    """The same parts, with literals beside each other as one."""
    result: list[ReadPart] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return tuple(result)


def _walk(text: str, at: int, done: tuple[ReadPart, ...]) -> Iterator[tuple[ReadPart, ...]]:
    """Every division of `text` from `at` on into mirrors, the text that joins them, and at most one text of the owner's."""
    if at == len(text):
        yield done
        return
    used = {part.name for part in done if isinstance(part, Slot)}
    before = done[-1] if done else None
    least = ORDER[before.name] if isinstance(before, Slot) else -1
    for slot in slots_at(text, at, after=before if isinstance(before, str) else ""):
        if slot.name not in used and ORDER[slot.name] > least:
            yield from _walk(text, at + slot.chars, (*done, slot))
    literal = None if isinstance(before, str) else _LITERAL.match(text, at)
    if literal:
        delimiter = JOINER.match(text, at)
        for end in range(literal.end(), at, -1):
            if end == literal.end() or (delimiter and end == delimiter.end()) or _TT.match(text, end) or _TAMPER.match(text, end):
                yield from _walk(text, end, (*done, text[at:end]))
    if not any(isinstance(part, Own) for part in done):
        for end in _own_ends(text, at, before):
            yield from _walk(text, end, (*done, Own(end - at)))


def _own_ends(text: str, at: int, before: ReadPart | None) -> Iterator[int]:
    """Where text of the owner's that begins at `at` can end: at the next delimiter, or with the field."""
    if JOINER.match(text, at):
        return
    if isinstance(before, Slot):
        if before.name == "mac":
            yield len(text)
        return
    if isinstance(before, str) and not JOINER.match(before[-1]):
        return
    run = _OWN_TEXT.match(text, at)
    if run and run.end() < len(text):
        yield run.end()
    if before is not None:
        yield len(text)


def slots_at(text: str, at: int, after: str) -> Iterator[Slot]:
    """The mirrors that could begin at `at`; `after` is the literal text just before, or ""."""
    if _AFTER_LITERAL.search(after):
        if _TT.match(text, at):
            yield Slot("tt", TT_CHARS)
        if _TAMPER.match(text, at):
            yield Slot("tamper", MIRROR_CHARS["tamper"])
    run = HEX.match(text, at)
    if not run:
        return
    length = run.end() - at
    for chars in PICC_CHARS:
        if length >= chars:
            yield Slot("picc", chars)
    for chars in range(_ENC_STEP, min(length, 2 * FILE_DATA_BYTES_MAX) + 1, _ENC_STEP):
        yield Slot("enc", chars)
    for name in ("uid", "counter", "mac"):
        if length >= MIRROR_CHARS[name]:
            yield Slot(name, MIRROR_CHARS[name])
