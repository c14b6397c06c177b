"""Reads mirrors that have texts of the owner's directly in front of them or behind them, such as serial numbers in hex.

Nothing in such a text shows where it ends, so every place is tried: a UID has to begin as NXP's do, an encrypted mirror has to be
read by one of the keys, and the MAC decides. That is why each sample is read alone, before the readings are compared: what is the
same for several tags is a constant, and what differs between them is a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ixfast.chips.template import Slot
from ixfast.chips.url_readings import NXP, ORDER, Own, Reading, ReadPart, joined, slots_at

GLUED_READINGS_MAX = 1024  # Per field; a MAC, alone or behind others, has one for each character of text.
GLUED_CHARS_MAX = 320  # Of a field: a text of 128 characters on each side of an encrypted mirror and a MAC.

_JOINER = re.compile(r"[xX]|[^0-9A-Za-z]+")
_ENDS_WITH_JOINER = re.compile(r"(?:(?<=[^xX])[xX]|[^0-9A-Za-z]+)\Z")
_IDENTIFYING = frozenset(("uid", "picc"))
_COUNTER_OFF = "000000"
_SURE_CHARS = 4  # Of one tag, a text that is shorter may be a mirror that is too long. Of two, it may be the same by chance.
_SURE_TAGS = 3
_ASK = (
    "the MAC matches, but {} has characters beside the mirrors: if they are a text of your own, pass taps of three different tags"
)


class Alone(NamedTuple):
    """What one sample proves by itself: its tag's UID (b"" if unknown), and the text and the parts of each field."""

    uid: bytes
    texts: tuple[str, ...]
    parts: tuple[tuple[ReadPart, ...], ...]

    @property
    def own_texts(self) -> tuple[str, ...]:
        """The owner's texts beside the mirrors. Where they differ, the tags do, too."""
        fields = [place for place, parts in enumerate(self.parts) if _has_mirror(parts)]
        return tuple(_end(self, place, at).lower() for place in fields for at in (0, -1))

    @property
    def layout(self) -> tuple[tuple[ReadPart, ...], ...]:
        """What samples of one encoding have in common: their mirrors, and what joins them."""
        return tuple(
            tuple(part for part in parts if not isinstance(part, Own)) if _has_mirror(parts) else () for parts in self.parts
        )


def glued_readings(text: str, opens: Callable[[str], bool]) -> list[Reading]:
    """The divisions of a field into mirrors and text before or behind them, those with the most mirrors first.

    `opens` is whether one of the keys reads a text as an encrypted mirror.
    """
    found: list[Reading] = []
    if len(text) > GLUED_CHARS_MAX:
        return found
    for start in range(len(text)):
        for core, end in _cores(text, start, (), opens):
            if end - start == len(text):
                continue
            parts = (*_before(text[:start]), *core, *_behind(text[end:]))
            hidden = any(_COUNTER_OFF in own for own in (text[:start], text[end:]))
            found.append(Reading(parts, hides_counter=hidden))
    return sorted(found, key=lambda each: (_IDENTIFYING.isdisjoint(each.mirrors), -len(each.mirrors)))[:GLUED_READINGS_MAX]


def merged(
    samples: Sequence[Alone], labels: Sequence[str], wrong: Sequence[str]
) -> tuple[tuple[tuple[ReadPart, ...], ...], list[str]] | str:
    """The parts that the first of some samples of one layout has in the encoding of them all, with notes for the owner.

    A text is what the problem is, if there is one. `labels` name the fields;
    `wrong` is what their lengths say.
    """
    tags = len({sample.uid or sample.own_texts for sample in samples})
    several = tags > 1
    notes: list[str] = []
    fields: list[tuple[ReadPart, ...]] = []
    for place, parts in enumerate(samples[0].parts):
        if not _has_mirror(parts):
            text = samples[0].texts[place]
            same = all(sample.texts[place].lower() == text.lower() for sample in samples)
            fields.append(() if not text else (text,) if same else (Own(len(text)),))
            continue
        result = list(parts)
        for at in (0, -1):
            own = _end(samples[0], place, at)
            if own and several and all(_end(sample, place, at).lower() == own.lower() for sample in samples):
                if len(own) < _SURE_CHARS and tags < _SURE_TAGS:
                    return _ASK.format(labels[place])
                result[at] = own
                side = "in front of" if at == 0 else "behind"
                notes.append(
                    f"the text {side} the mirrors in {labels[place]} is the same for all of these tags: taken for a constant"
                )
        count = sum(isinstance(part, Own) for part in result)
        if count > 1 and several:
            return (
                f"the MAC matches, but {labels[place]} has texts that differ between tags both in front of the mirrors and behind"
                " them, and a template can have only one of them in a parameter or path segment"
            )
        if count > 1:
            return (
                f"the MAC matches, but {labels[place]} has texts in front of the mirrors and behind them, only one of which may"
                " differ between tags: pass taps of three different tags to show which one"
            )
        if not several and any(isinstance(part, Own) and part.chars < _SURE_CHARS for part in result):
            return "; ".join([_ASK.format(labels[place]), *wrong])
        fields.append(joined(result))
    return tuple(fields), notes


def _end(sample: Alone, place: int, at: int) -> str:
    """The text of the owner's at the beginning (0) or the end (-1) of a field."""
    part, text = sample.parts[place][at], sample.texts[place]
    chars = part.chars if isinstance(part, Own) else 0
    return text[:chars] if at == 0 else text[len(text) - chars :]


def _has_mirror(parts: Sequence[ReadPart]) -> bool:
    return any(isinstance(part, Slot) for part in parts)


def _before(text: str) -> Iterator[ReadPart]:
    """Text in front of the mirrors: the owner's, and what joins it to them."""
    joiner = _ENDS_WITH_JOINER.search(text)
    end = joiner.start() if joiner else len(text)
    if end:
        yield Own(end)
    if end < len(text):
        yield text[end:]


def _behind(text: str) -> Iterator[ReadPart]:
    joiner = _JOINER.match(text)
    start = joiner.end() if joiner else 0
    if start:
        yield text[:start]
    if start < len(text):
        yield Own(len(text) - start)


def _cores(
    text: str, at: int, done: tuple[ReadPart, ...], opens: Callable[[str], bool]
) -> Iterator[tuple[tuple[ReadPart, ...], int]]:
    """Every row of mirrors that begins at `at`, with what joins them, and where it ends."""
    before = done[-1] if done else None
    used = {part.name for part in done if isinstance(part, Slot)}
    least = ORDER[before.name] if isinstance(before, Slot) else -1
    for slot in slots_at(text, at, after=before if isinstance(before, str) else ""):
        if slot.name in used or ORDER[slot.name] <= least or not _is_likely(text, at, slot, used, opens):
            continue
        yield (*done, slot), at + slot.chars
        yield from _cores(text, at + slot.chars, (*done, slot), opens)
    joiner = _JOINER.match(text, at) if isinstance(before, Slot) else None
    if joiner:
        yield from _cores(text, joiner.end(), (*done, joiner[0]), opens)


def _is_likely(text: str, at: int, slot: Slot, used: set[str], opens: Callable[[str], bool]) -> bool:
    if slot.name == "uid":
        return "picc" not in used and text.startswith(NXP, at)
    if slot.name == "picc":
        return not used and opens(text[at : at + slot.chars])
    if slot.name == "counter":
        return "picc" not in used
    return slot.name != "enc" or not used or "picc" in used or {"uid", "counter"} <= used
