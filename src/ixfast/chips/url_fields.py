"""Splits sample tap URLs into fields, and lists every encoding that the text of a URL allows, before any key is tried.

The fields of a URL are its path segments and parameter values. Whatever its name, a field may contain one mirror, several
mirrors in a row or joined by letters, or a static text. `encodings` lists the combinations that a chip could have written, the
most likely first; `detect.py` finds out with keys which of them it is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ixfast.chips.glued_texts import glued_readings
from ixfast.chips.template import STATICS, Part, Slot
from ixfast.chips.url_readings import NXP, STATIC_NAMES, Own, Reading, ReadPart, is_likely, mirror_readings
from ixfast.domain import references, tap_url
from ixfast.domain.tap_readings import readings
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX, REQUEST_TARGET_BYTES_MAX

ENCODINGS_MAX = 256  # Per URL; a real one has fewer than 20.
# Of the searches for combinations with text beside a mirror, and the steps of each, which take 10 ms.
_SEARCHES_MAX = 32
_STEPS_MAX = 64 * ENCODINGS_MAX

_HIDDEN = "hidden counter"  # beside the names of mirrors
_NAMES_OF_TEXTS = ("xuid", "cuid", "batch", "aid")  # last what cannot differ between the tags of an account
_IDENTIFYING = frozenset(("uid", "picc"))
_PLAIN = frozenset(("uid", "counter", "tt"))  # which no chip mirrors beside an encrypted mirror
_MAC = re.compile(r"[0-9A-Fa-f]{16}")
_MIRROR_AT_END = re.compile(r"[0-9A-Fa-f]{14}\Z")  # not the counter alone, which a text of the owner's may look like
_SEGMENT = re.compile(r"[^/]+")


class Field(NamedTuple):
    """One path segment (`name` is None) or one parameter's value, with its offset in the URL. `name` is "" if it has none."""

    name: str | None
    text: str
    start: int

    def label(self) -> str:
        return "a path segment" if self.name is None else self.name or "a text without a name"


class Sample(NamedTuple):
    """A URL and its fields. Only samples of the same `shape` can have the same encoding."""

    url: str
    fields: tuple[Field, ...]

    @property
    def tap(self) -> tuple[str, ...]:
        """What differs between any two taps, whatever else the URLs have: the fields that may have a MAC."""
        return tuple(field.text.lower() for field in self.fields if _MAC.search(field.text))

    @property
    def shape(self) -> tuple[str | None, ...]:
        return tuple(None if field.name is None else field.name.lower() for field in self.fields)


class Encoding(NamedTuple):
    """One possible reading of a URL, as a template and with the texts that its slots have in this URL."""

    template: str
    slots: dict[str, Slot]
    before_mac: tuple[Part | None, ...]  # the URL from its beginning up to the MAC; None for text without a placeholder
    texts: dict[str, str]  # by slot: its text in the URL
    fields: dict[str, str]  # by slot: the label of its field
    likely: bool  # whether its UID begins as one of NXP's, if it is not encrypted
    misfits: int  # how many other samples of the shape cannot have this encoding
    assumes_constant: bool = False  # whether it takes for a constant what one tag may have alone
    parts: tuple[tuple[ReadPart, ...], ...] = ()  # of each field, before the owner's texts have names

    @property
    def encrypted(self) -> bool:
        return "picc" in self.slots


def dissect(url: str) -> Sample:
    """Split a URL, its tail from the path on, or a bare query string into fields. Raises InputError for anything else.

    The fields of the fragment take the place of all others if only it has a text that may be a MAC.
    """
    text = _own_text(url)
    if len(text) > REQUEST_TARGET_BYTES_MAX:
        raise InputError("invalid_parameter", f"the URL is longer than {REQUEST_TARGET_BYTES_MAX} characters", "url")
    if not text.isprintable() or re.search(r"[\s{}]", text):
        raise InputError("invalid_parameter", "the URL has characters that must be percent-encoded", "url")
    mistake = tap_url.mistake(text)
    found = []
    for place in tap_url.places(text):
        if place.query.count("&") >= PARAMETERS_MAX:
            raise InputError("invalid_parameter", f"the URL has more than {PARAMETERS_MAX} parameters", "url")
        found.append(_fields(place))
    fields = next((fields for fields in found if any(_MAC.search(field.text) for field in fields)), None)
    if fields is None and mistake is not None:
        raise InputError("invalid_parameter", mistake.removesuffix("."), "url")
    return Sample(text, fields or found[0])


def is_wrapped(url: str) -> bool:
    """Whether `dissect` leaves out quotes, brackets or punctuation around a URL."""
    return _own_text(url) != tap_url.trimmed(url)


def _own_text(url: str) -> str:
    """The URL without what is around it. No tag is known that could show whether punctuation at the end belongs to a text of the
    owner's: only that behind a mirror or a tag code does not."""
    found = tap_url.trimmed(url)
    for text in readings(url):
        if not found.startswith(text) or _MIRROR_AT_END.search(text) or references.code_in(text) != references.code_in(found):
            found = text
    return found


def _fields(place: tap_url.Place) -> tuple[Field, ...]:
    """Path segments, behind scheme and host, and parameters. A text without a name counts only if it may be a mirror."""
    path = place.path.removesuffix("?") if place.path != place.query else ""
    segments = _SEGMENT.finditer(path, _path_start(path))
    found = [Field(None, segment[0], place.path_at + segment.start()) for segment in segments]
    at = place.query_at
    for parameter in place.query.split("&"):
        name, equals, value = parameter.partition("=")
        if name and equals:
            found.append(Field(name, value, at + len(name) + 1))
        elif name and (_MAC.search(name) or mirror_readings(name, ())):
            found.append(Field("", name, at))
        at += len(parameter) + 1
    return tuple(found)


def _path_start(text: str) -> int:
    """The offset of the path, behind scheme and host if present."""
    host = text.find("://") + 3 if "://" in text else 0
    return len(text) if (slash := text.find("/", host)) < 0 else slash


def encodings(sample: Sample, alike: Sequence[Sample]) -> list[Encoding]:
    """Every encoding of `sample` that has a MAC, the most likely first.

    `alike` are the samples of the same shape, including `sample`; text that does not change among them may be a constant.
    """
    others = [other for other in alike if other.tap != sample.tap]
    choices = []
    for place, field in enumerate(sample.fields):
        texts = [other.fields[place].text for other in others]
        constant = all(text.lower() == field.text.lower() for text in texts)
        mirrors = mirror_readings(field.text, texts)
        own = _own_reading(field, constant=constant and (bool(others) or not mirrors))
        choices.append(sorted([*mirrors, own], key=lambda reading: not is_likely(field.text, reading.parts)))
    found: dict[tuple[str, tuple[Part | None, ...]], Encoding] = {}
    for combination in itertools.islice(_combinations(choices), ENCODINGS_MAX):
        misfits = len(frozenset().union(*(reading.misfits for reading in combination)))
        assumes = any(reading.assumes_constant for reading in combination)
        for encoding in named_encodings(sample, [reading.parts for reading in combination], misfits):
            found.setdefault((encoding.template, encoding.before_mac), encoding._replace(assumes_constant=assumes))
    return sorted(found.values(), key=_rank)[:ENCODINGS_MAX]


def glued_encodings(sample: Sample, opens: Callable[[str], bool]) -> list[Encoding]:
    """The encodings of `sample` alone with texts of the owner's directly beside mirrors, the most likely first.

    Only what begins as one of NXP's is a UID here, and only what one of the keys `opens` an encrypted mirror.
    """
    glued = [glued_readings(field.text, opens) for field in sample.fields]
    others = [
        [*(each for each in mirror_readings(field.text, ()) if _is_sure(field.text, each, opens)), _constant(field.text)]
        for field in sample.fields
    ]
    found: dict[tuple[Reading, ...], list[Encoding]] = {}
    for combination in itertools.islice(_glued_combinations(others, glued), 2 * ENCODINGS_MAX):
        if combination not in found and len(found) < ENCODINGS_MAX:
            found[combination] = list(itertools.islice(named_encodings(sample, [reading.parts for reading in combination]), 1))
    return sorted(itertools.chain.from_iterable(found.values()), key=_rank)


def _is_sure(text: str, reading: Reading, opens: Callable[[str], bool]) -> bool:
    at = 0
    for part in reading.parts:
        chars = len(part) if isinstance(part, str) else part.chars
        if isinstance(part, Slot) and part.name == "picc" and not opens(text[at : at + chars]):
            return False
        at += chars
    return is_likely(text, reading.parts)


def _constant(text: str) -> Reading:
    return Reading((text,) if text else ())


def _glued_combinations(others: list[list[Reading]], glued: list[list[Reading]]) -> Iterator[tuple[Reading, ...]]:
    """Combinations with a reading of `glued`: those with a UID or an encrypted mirror, which only few texts can be, come first.

    They take turns, because a text such as a GTIN may look like a UID.
    """
    named = [
        ("picc" not in reading.mirrors, turn, place, reading)
        for place, readings in enumerate(zip(others, glued, strict=True))
        for turn, reading in enumerate(itertools.chain(*readings))
        if not _IDENTIFYING.isdisjoint(reading.mirrors)
    ]
    named = sorted(named, key=lambda each: each[:3])[:_SEARCHES_MAX]
    for _, group in itertools.groupby(named, key=lambda each: each[0]):
        searches = [_search(others, glued, place, reading) for _, _, place, reading in group]
        for row in itertools.zip_longest(*searches):
            yield from (combination for combination in row if combination is not None)
    yield from _with_glued(others, glued, range(len(others)))


def _search(
    others: list[list[Reading]], glued: list[list[Reading]], place: int, reading: Reading
) -> Iterator[tuple[Reading, ...]]:
    """Combinations with one reading of one field."""
    if "picc" in reading.mirrors:
        others, glued = (
            [[each for each in some if _PLAIN.isdisjoint(each.mirrors)] for some in all_] for all_ in (others, glued)
        )
    others = [*others[:place], [reading], *others[place + 1 :]]
    if reading in glued[place]:
        yield from _combinations(others, _STEPS_MAX // 2)
        glued = [*glued[:place], [reading], *glued[place + 1 :]]
    else:
        glued = [*glued[:place], [], *glued[place + 1 :]]
    yield from _with_glued(others, glued, [each for each in range(len(others)) if each != place])


def _with_glued(others: list[list[Reading]], glued: list[list[Reading]], places: Sequence[int]) -> Iterator[tuple[Reading, ...]]:
    """Combinations with a reading of `glued` in just one of some fields, and then in any of the fields."""
    for place in places:
        if glued[place]:
            yield from _combinations([*others[:place], glued[place], *others[place + 1 :]], _STEPS_MAX // 2 // len(places))
    both = [some if some == more else [*some, *more] for some, more in zip(others, glued, strict=True)]
    yield from (each for each in _combinations(both, _STEPS_MAX // 2) if any(map(list.__contains__, glued, each)))


def named_encodings(sample: Sample, parts: Sequence[tuple[ReadPart, ...]], misfits: int = 0) -> Iterator[Encoding]:
    """The encodings for the parts of each field: one for each way to name the owner's texts."""
    for named in _namings(sample, parts):
        yield _encoding(sample, named, misfits)._replace(parts=tuple(parts))


def _rank(encoding: Encoding) -> tuple[bool, int, bool, int, int, int]:
    statics = sum(name in STATICS for name in encoding.slots)
    names_tag = statics or not {"uid", "picc"}.isdisjoint(encoding.slots)
    mirrors = len(encoding.slots) - statics
    return not encoding.likely, encoding.misfits, not names_tag, -mirrors, statics, len(encoding.template)


def _own_reading(field: Field, *, constant: bool) -> Reading:
    """The reading of a field as text that the chip does not change: a constant, or text that differs between tags."""
    if field.text and ((field.name or "").lower() in STATIC_NAMES or not constant):
        return Reading((Own(len(field.text)),))
    return _constant(field.text)


def _combinations(choices: list[list[Reading]], steps: int = -1) -> Iterator[tuple[Reading, ...]]:
    """Products of the fields' readings in which no mirror occurs twice. `steps` limits the search, unless it is negative."""

    def extend(place: int, used: frozenset[str]) -> Iterator[tuple[Reading, ...]]:
        nonlocal steps
        if place == len(choices):
            if _is_whole(used - {_HIDDEN}) and {_HIDDEN} != used & {_HIDDEN, "counter", "picc"}:
                yield ()
            return
        for reading in choices[place]:
            if steps == 0:
                return
            steps -= 1
            if used.isdisjoint(reading.mirrors):
                hidden = {_HIDDEN} if reading.hides_counter else set()
                for rest in extend(place + 1, used.union(reading.mirrors, hidden)):
                    yield (reading, *rest)

    return extend(0, frozenset())


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


def _namings(sample: Sample, combination: Sequence[tuple[ReadPart, ...]]) -> Iterator[list[tuple[Part | None, ...]]]:
    """The ways to give the owner's texts the names of static texts: to as few of them as possible, to one more, and so on.

    A text without a name becomes None and is not part of the template. That is possible for a parameter, and for a path segment
    above the first one with a placeholder. As only a named text can be in the window, those just before the MAC come first; those
    behind it have names only where as many as possible have.
    """
    free: list[int] = []
    names: dict[int, str] = {}
    in_path = False
    for place, parts in enumerate(combination):
        if any(isinstance(part, Own) for part in parts):
            field = sample.fields[place]
            own_name = STATIC_NAMES.get((field.name or "").lower()) if len(parts) == 1 else None
            if own_name is not None and own_name not in names.values():
                names[place] = own_name
            elif len(parts) > 1 or (in_path and field.name is None):
                names[place] = ""
            else:
                free.append(place)
        in_path = in_path or (sample.fields[place].name is None and any(isinstance(part, Slot) for part in parts))
    spare = len(STATICS) - sum(isinstance(part, Own) for place in names for part in combination[place])
    if spare < 0:
        return
    mac = next(place for place, parts in enumerate(combination) if any(isinstance(p, Slot) and p.name == "mac" for p in parts))
    near = sorted(free, key=lambda place: (place > mac, -place))[:spare]
    mirrors = {part.name for parts in combination for part in parts if isinstance(part, Slot)}
    # Where no mirror names the tag, any of the texts may do so.
    in_reach = sum(place < mac for place in near) if not _IDENTIFYING.isdisjoint(mirrors) else 0
    for count in dict.fromkeys((*range(in_reach + 1), len(near))):
        yield _named(combination, names | dict.fromkeys(near[:count], ""))


def _named(combination: Sequence[tuple[ReadPart, ...]], names: dict[int, str]) -> list[tuple[Part | None, ...]]:
    """The parts of the fields with the owner's texts named; unless a name is given, in the order of `_NAMES_OF_TEXTS`."""
    unused = [name for name in _NAMES_OF_TEXTS if name not in names.values()]
    named: list[tuple[Part | None, ...]] = []
    for place, parts in enumerate(combination):
        name = names.get(place)
        named.append(
            tuple(
                _slot(part, _take(unused, part.chars) if name == "" else name) if isinstance(part, Own) else part
                for part in parts
            )
        )
    return named


def _take(unused: list[str], chars: int) -> str:
    """Take the first name whose texts can be that long."""
    name = next((name for name in unused if STATICS[name] >= chars), unused[0])
    unused.remove(name)
    return name


def _slot(own: Own, name: str | None) -> Slot | None:
    """The slot of a text, with the width that it has in this URL."""
    return Slot(name, own.chars) if name is not None else None


def _encoding(sample: Sample, named: Sequence[tuple[Part | None, ...]], misfits: int) -> Encoding:
    slots: dict[str, Slot] = {}
    texts: dict[str, str] = {}
    labels: dict[str, str] = {}
    whole: list[Part | None] = []
    at = 0
    for field, parts in zip(sample.fields, named, strict=True):
        whole.append(sample.url[at : field.start])
        at = field.start
        for part in parts:
            if part is None:
                whole.append(None)
                at += len(field.text)
                continue
            chars = len(part) if isinstance(part, str) else part.chars
            if isinstance(part, Slot):
                slot = Slot(part.name, STATICS.get(part.name, part.chars))
                slots[slot.name], texts[slot.name], labels[slot.name] = slot, sample.url[at : at + chars], field.label()
                whole.append(slot)
            else:
                whole.append(sample.url[at : at + chars])
            at += chars
    before_mac = tuple(part for part in whole[: whole.index(slots["mac"])] if part != "")
    likely = texts.get("uid", NXP).startswith(NXP)
    return Encoding(_template(sample, named), slots, before_mac, texts, labels, likely, misfits)


def _template(sample: Sample, named: Sequence[tuple[Part | None, ...]]) -> str:
    """The template from the first field with a placeholder to the last; constants around them identify nothing.

    A path is matched from its end, so that its last segment is always part of the template.
    """
    places = [place for place, parts in enumerate(named) if any(isinstance(part, Slot) for part in parts)]
    last = places[-1]
    if sample.fields[places[0]].name is None:
        last = max(last, *(place for place, field in enumerate(sample.fields) if field.name is None))
    path, query = [], []
    for place in range(places[0], last + 1):
        field = sample.fields[place]
        if None in named[place]:
            continue
        text = "".join(part if isinstance(part, str) else part.notation() for part in named[place] if part is not None)
        if field.name is None:
            path.append(f"/{text}")
        else:
            query.append(f"{field.name}={text}" if field.name else text)
    return "".join(path) + ("?" if path and query else "") + "&".join(query)
