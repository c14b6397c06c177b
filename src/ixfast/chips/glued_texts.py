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
from ixfast.chips.url_readings import HEX, JOINER, NXP, ORDER, STATIC_NAMES, Own, Reading, ReadPart, joined, slots_at

GLUED_READINGS_MAX = 1024  # Per field; a MAC, alone or behind others, has one for each character of text.
GLUED_CHARS_MAX = 320  # Of a field: a text of 128 characters on each side of an encrypted mirror and a MAC.

_ENDS_WITH_JOINER = re.compile(r"(?:(?<=[^xX])[xX]|[^0-9A-Za-z]+)\Z")
_IDENTIFYING = frozenset(("uid", "picc"))
_COUNTER_OFF = "000000"
_SURE_CHARS = 4  # Of one tag, a text that is shorter may be a mirror that is too long. Of two, it may be the same by chance.
_SURE_TAGS = 3
_TWO_DIFFER = (
    "texts that differ between tags both in front of the mirrors and behind them, and a template can have only one of them in a"
    " parameter or path segment"
)
_TWO_MAY_DIFFER = (
    "texts in front of the mirrors and behind them, only one of which may differ between tags: pass taps of three different tags"
    " to show which one"
)
_ASK = (
    "the MAC matches, but {} has characters beside the mirrors: if they are a text of your own, pass taps of three different tags"
)


class Alone(NamedTuple):
    """What one sample proves by itself: its tag's UID (b"" if unknown), and the text and the parts of each field."""

    uid: bytes
    texts: tuple[str, ...]
    parts: tuple[tuple[ReadPart, ...], ...]

    def gaps(self, place: int) -> list[str]:
        """The texts in front of the mirrors of a field, between them, and behind them."""
        found, at = [""], 0
        for part in self.parts[place]:
            chars = len(part) if isinstance(part, str) else part.chars
            if isinstance(part, Slot):
                found.append("")
            else:
                found[-1] += self.texts[place][at : at + chars]
            at += chars
        return found

    @property
    def own_texts(self) -> tuple[str, ...]:
        """The texts beside the mirrors. Where they differ, the tags do, too."""
        fields = [place for place, parts in enumerate(self.parts) if _has_mirror(parts)]
        return tuple(self.gaps(place)[at].lower() for place in fields for at in (0, -1))

    @property
    def has_own_text(self) -> bool:
        """Whether a field with mirrors has more than what joins them."""
        return any(
            gap and not JOINER.fullmatch(gap)
            for place, parts in enumerate(self.parts)
            if _has_mirror(parts)
            for gap in self.gaps(place)
        )

    @property
    def layout(self) -> tuple[object, ...]:
        """What samples of one encoding have in common: their mirrors, what joins them, and where there are other texts."""
        kinds: list[tuple[object, ...]] = []
        for place, parts in enumerate(self.parts):
            front, *between, behind = self.gaps(place) if _has_mirror(parts) else ("", "")
            kinds.append((_mirrors(parts), front != "", *map(_gap_kind, between), behind != ""))
        return tuple(kinds)


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

    A text is what the problem is, if there is one. `labels` name the fields; `wrong` is what their lengths say.
    """
    tags = len({sample.uid or sample.own_texts for sample in samples})
    notes: list[str] = []
    fields: list[tuple[ReadPart, ...]] = []
    for place, parts in enumerate(samples[0].parts):
        label = labels[place]
        if not _has_mirror(parts):
            text = samples[0].texts[place]
            same = all(sample.texts[place].lower() == text.lower() for sample in samples)
            constant = same and label.lower() not in STATIC_NAMES
            fields.append(() if not text else (text,) if constant else (Own(len(text)),))
            continue
        mirrors = _mirrors(parts)
        result: list[ReadPart] = []
        unsure = False
        for at, texts in enumerate(zip(*(sample.gaps(place) for sample in samples), strict=True)):
            outside = "in front of" if at == 0 else "behind" if at == len(mirrors) else None
            same = len({text.lower() for text in texts}) == 1
            lead, own, trail = (texts[0], "", "") if same and outside is None else _divided(texts, at > 0, at < len(mirrors))
            short = 0 < len(own) < _SURE_CHARS and HEX.fullmatch(own) is not None
            if own and same and tags > 1:
                if short and tags < _SURE_TAGS:
                    return _ASK.format(label)
                notes.append(f"the text {outside} the mirrors in {label} is the same for all of these tags: taken for a constant")
                lead, own, trail = texts[0], "", ""
            unsure = unsure or short
            result += [lead, *([Own(len(own))] if own else []), trail, *mirrors[at : at + 1]]
        if sum(isinstance(part, Own) for part in result) > 1:
            return f"the MAC matches, but {label} has {_TWO_DIFFER if tags > 1 else _TWO_MAY_DIFFER}"
        if tags == 1 and unsure:
            return "; ".join([_ASK.format(label), *wrong])
        fields.append(joined([part for part in result if part != ""]))
    return tuple(fields), notes


def _divided(texts: Sequence[str], behind_mirror: bool, before_mirror: bool) -> tuple[str, str, str]:
    """The first of some texts beside mirrors, as the owner's text between what joins all of them to the mirrors."""
    lead = _common([JOINER.match(text) for text in texts]) if behind_mirror else ""
    trail = _common([_ENDS_WITH_JOINER.search(text) for text in texts]) if before_mirror else ""
    if all(len(text) > len(lead) + len(trail) for text in texts):
        return lead, texts[0][len(lead) : len(texts[0]) - len(trail)], trail
    return (texts[0], "", "") if len({*texts}) == 1 else ("", texts[0], "")


def _common(joiners: Sequence[re.Match[str] | None]) -> str:
    """What joins all texts in the same way, or ""."""
    found = {joiner[0].lower() if joiner else "" for joiner in joiners}
    return joiners[0][0] if len(found) == 1 and joiners[0] else ""


def _gap_kind(gap: str) -> str | None:
    return gap.lower() if not gap or JOINER.fullmatch(gap) else None


def _mirrors(parts: Sequence[ReadPart]) -> tuple[Slot, ...]:
    return tuple(part for part in parts if isinstance(part, Slot))


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
    joiner = JOINER.match(text)
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
    joiner = JOINER.match(text, at) if isinstance(before, Slot) else None
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
