"""Splits sample tap URLs into fields, and lists every encoding that the text of a URL allows, before any key is tried.

The fields of a URL are its path segments and parameter values. Whatever its name, a field may contain one mirror, several
mirrors in a row or joined by letters, or a static text. `encodings` lists the combinations that a chip could have written, the
most likely first; `detect.py` finds out with keys which of them it is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ixfast.chips.tamper import PAIR_PATTERN, TT_CHARS, TT_PATTERN
from ixfast.chips.template import MIRROR_CHARS, STATICS, Part, Slot
from ixfast.errors import InputError
from ixfast.limits import FILE_DATA_BYTES_MAX, PARAMETERS_MAX, REQUEST_TARGET_BYTES_MAX

PICC_CHARS = (32, 48)  # AES and LRP
READINGS_MAX = 24  # Per field; what a chip writes has fewer than 10.
ENCODINGS_MAX = 256  # Per URL; a real one has fewer than 20.

_ENC_STEP = 32
_HEX = re.compile(r"[0-9A-Fa-f]+")
# Text that joins mirrors: letters other than hex digits, punctuation, and runs of hex digits too short for any mirror.
_LITERAL = re.compile(r"(?:[^0-9A-Fa-f]|(?<![0-9A-Fa-f])[0-9A-Fa-f]{1,5}(?![0-9A-Fa-f]))+")
_TAMPER = re.compile(rf"{PAIR_PATTERN}(?![0-9A-Za-wyz])", re.IGNORECASE)
_TT = re.compile(TT_PATTERN, re.IGNORECASE)
_AFTER_LITERAL = re.compile(r"(?:^|[^0-9A-Za-z]|[xX])$")
# The order of mirrors within one run of hex digits: the chip's own, which every published bulk format follows.
_ORDER = {name: place for place, name in enumerate(("uid", "counter", "picc", "enc", "tamper", "tt", "mac"))}
_CHANGING = frozenset(("picc", "enc", "mac"))  # differ between any two taps, whereas a disabled counter never changes
_STATIC_NAMES = {"x": "xuid", "xuid": "xuid", "cuid": "cuid", "aid": "aid"}


class Field(NamedTuple):
    """One path segment (`name` is None) or one parameter's value, with its offset in the URL."""

    name: str | None
    text: str
    start: int

    def label(self) -> str:
        return "a path segment" if self.name is None else self.name


class Sample(NamedTuple):
    """A URL and its fields. Only samples of the same `shape` can have the same encoding."""

    url: str
    fields: tuple[Field, ...]

    @property
    def shape(self) -> tuple[str | None, ...]:
        return tuple(None if field.name is None else field.name.lower() for field in self.fields)


class Encoding(NamedTuple):
    """One possible reading of a URL, as a template and with the texts that its slots have in this URL."""

    template: str
    slots: dict[str, Slot]
    before_mac: tuple[Part, ...]  # the URL from its beginning up to the MAC
    texts: dict[str, str]  # by slot: its text in the URL
    fields: dict[str, str]  # by slot: the label of its field

    @property
    def encrypted(self) -> bool:
        return "picc" in self.slots


def dissect(url: str) -> Sample:
    """Split a URL, its tail from the path on, or a bare query string into fields. Raises InputError for anything else."""
    if len(url) > REQUEST_TARGET_BYTES_MAX:
        raise InputError("invalid_parameter", f"the URL is longer than {REQUEST_TARGET_BYTES_MAX} characters", "url")
    text = url.strip().partition("#")[0]
    if not text.isascii() or re.search(r"[^!-~]|[{}]", text):
        raise InputError("invalid_parameter", "the URL has characters that must be percent-encoded", "url")
    bare = re.match(r"[^/?#&=:]+=", text)
    query_start = 0 if bare else text.find("?") + 1 or len(text)
    if text.count("&", query_start) >= PARAMETERS_MAX:
        raise InputError("invalid_parameter", f"the URL has more than {PARAMETERS_MAX} parameters", "url")
    path = text[: max(query_start, _path_start(text))].removesuffix("?")
    segments = (found for found in re.finditer(r"[^/]+", path) if found.start() >= _path_start(path))
    parameters = re.finditer(r"([^&=]+)=([^&]*)", text[query_start:])
    return Sample(
        text,
        (
            *(Field(None, found[0], found.start()) for found in segments),
            *(Field(found[1], found[2], query_start + found.start(2)) for found in parameters),
        ),
    )


def _path_start(text: str) -> int:
    """The offset of the path, behind scheme and host if present."""
    host = text.find("://") + 3 if "://" in text else 0
    return len(text) if (slash := text.find("/", host)) < 0 else slash


def encodings(sample: Sample, alike: Sequence[Sample]) -> list[Encoding]:
    """Every encoding of `sample` that has a MAC, the most likely first.

    `alike` are the samples of the same shape, including `sample`; text that does not change among them may be a constant.
    """
    several = len({other.url.lower() for other in alike}) > 1
    choices = []
    for place, field in enumerate(sample.fields):
        constant = all(other.fields[place].text.lower() == field.text.lower() for other in alike)
        mirrors = _mirrors(field.text)
        if constant and several:  # unchanged over several taps, so it cannot be a mirror that changes with each
            mirrors = [parts for parts in mirrors if _CHANGING.isdisjoint(part.name for part in parts if isinstance(part, Slot))]
        choices.append([*mirrors, _as_static(field, constant=constant and (several or not mirrors))])
    found: list[Encoding] = []
    for combination in _combinations(choices):
        encoding = _encoding(sample, combination)
        if encoding is not None:
            found.append(encoding)
    return sorted(found, key=_rank)


def _rank(encoding: Encoding) -> tuple[int, int, int]:
    statics = sum(name in STATICS for name in encoding.slots)
    return statics - len(encoding.slots), statics, len(encoding.template)


def _mirrors(text: str) -> list[tuple[Part, ...]]:
    return list(
        itertools.islice((parts for parts in _walk(text, 0, ()) if any(isinstance(p, Slot) for p in parts)), READINGS_MAX)
    )


def _walk(text: str, at: int, done: tuple[Part, ...]) -> Iterator[tuple[Part, ...]]:
    """Every division of `text` from `at` on into mirrors and the text that joins them."""
    if at == len(text):
        yield done
        return
    used = {part.name for part in done if isinstance(part, Slot)}
    before = done[-1] if done else None
    least = _ORDER[before.name] if isinstance(before, Slot) else -1
    for slot in _slots_at(text, at, after=before if isinstance(before, str) else ""):
        if slot.name not in used and _ORDER[slot.name] > least:
            yield from _walk(text, at + slot.chars, (*done, slot))
    literal = None if isinstance(before, str) else _LITERAL.match(text, at)
    if literal:
        for end in range(literal.end(), at, -1):
            if end == literal.end() or _TT.match(text, end) or _TAMPER.match(text, end):
                yield from _walk(text, end, (*done, text[at:end]))


def _slots_at(text: str, at: int, after: str) -> Iterator[Slot]:
    """The mirrors that could begin at `at`; `after` is the literal text just before, or ""."""
    if _AFTER_LITERAL.search(after):
        if _TT.match(text, at):
            yield Slot("tt", TT_CHARS)
        if _TAMPER.match(text, at):
            yield Slot("tamper", MIRROR_CHARS["tamper"])
    run = _HEX.match(text, at)
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


def _as_static(field: Field, *, constant: bool) -> tuple[Part, ...]:
    """The reading of a field as text that the chip does not change: a constant, or a static text that differs between tags.

    A static slot has width 0 here, and an empty name if the name depends on the other fields; see `_name_statics`.
    """
    static = _STATIC_NAMES.get((field.name or "").lower())
    if field.text and (static or not constant):
        return (Slot(static or "", 0),)
    return (field.text,) if field.text else ()


def _combinations(choices: list[list[tuple[Part, ...]]]) -> Iterator[tuple[tuple[Part, ...], ...]]:
    """Products of the fields' readings in which no mirror occurs twice, at most `ENCODINGS_MAX`."""

    def extend(place: int, used: frozenset[str]) -> Iterator[tuple[tuple[Part, ...], ...]]:
        if place == len(choices):
            if _is_whole(used):
                yield ()
            return
        for reading in choices[place]:
            names = [part.name for part in reading if isinstance(part, Slot) and part.name not in ("", *STATICS)]
            if used.isdisjoint(names):
                for rest in extend(place + 1, used.union(names)):
                    yield (reading, *rest)

    return itertools.islice(extend(0, frozenset()), ENCODINGS_MAX)


def _is_whole(mirrors: frozenset[str]) -> bool:
    """Whether a chip can be configured to mirror exactly these fields (NT4H2421Gx section 9.3.3, AN12998)."""
    if "mac" not in mirrors or ("tamper" in mirrors and "tt" in mirrors):
        return False
    both = {"uid", "counter"} <= mirrors
    if "picc" in mirrors:
        return not mirrors & {"uid", "counter", "tt"}
    if "enc" in mirrors or "tt" in mirrors:
        return both
    return bool(mirrors & {"uid", "counter"})


def _encoding(sample: Sample, combination: tuple[tuple[Part, ...], ...]) -> Encoding | None:
    named = _name_statics(combination)
    if named is None:
        return None
    slots: dict[str, Slot] = {}
    texts: dict[str, str] = {}
    labels: dict[str, str] = {}
    whole: list[Part] = []
    at = 0
    for field, parts in zip(sample.fields, named, strict=True):
        whole.append(sample.url[at : field.start])
        at = field.start
        for part in parts:
            chars = len(part) if isinstance(part, str) else part.chars or len(field.text)
            if isinstance(part, Slot):
                part = part if part.chars else Slot(part.name, STATICS[part.name])
                slots[part.name], texts[part.name], labels[part.name] = part, sample.url[at : at + chars], field.label()
                whole.append(part)
            else:
                whole.append(sample.url[at : at + chars])
            at += chars
    before_mac = tuple(part for part in whole[: whole.index(slots["mac"])] if part)
    return Encoding(_template(sample, named), slots, before_mac, texts, labels)


def _name_statics(combination: tuple[tuple[Part, ...], ...]) -> list[tuple[Part, ...]] | None:
    """Assign names to the static texts in their order; None if there are more of them than names."""
    taken = {part.name for parts in combination for part in parts if isinstance(part, Slot)}
    free = [name for name in STATICS if name not in taken]
    named = []
    seen: set[str] = set()
    for parts in combination:
        if len(parts) == 1 and isinstance(parts[0], Slot) and not parts[0].chars:
            name = parts[0].name
            if not name or name in seen:
                if not free:
                    return None
                name = free.pop(0)
            seen.add(name)
            parts = (Slot(name, 0),)
        named.append(parts)
    return named


def _template(sample: Sample, named: Sequence[tuple[Part, ...]]) -> str:
    """The template from the first field with a placeholder to the last; constants around them identify nothing."""
    places = [place for place, parts in enumerate(named) if any(isinstance(part, Slot) for part in parts)]
    path, query = [], []
    for place in range(places[0], places[-1] + 1):
        field = sample.fields[place]
        text = "".join(part if isinstance(part, str) else part.notation() for part in named[place])
        if field.name is None:
            path.append(f"/{text}")
        else:
            query.append(f"{field.name}={text}")
    return "".join(path) + ("?" if path and query else "") + "&".join(query)
