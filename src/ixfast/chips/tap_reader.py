"""Parses a tap's URL or parameters into a `Message` by the template of a profile. Nothing is authenticated here.

The same tap is accepted in three forms: the URL verbatim (or lower-cased, or only its query string), its parameters under the
template's names, and for a plain mirror under the names of `/v1/t`. `tap_url` lists the shapes of URLs. An empty value counts as
absent. A UID in a parameter of its own is optional: callers often forward only tag code, counter and MAC. The registered UID then
takes its place in the session vector, where a wrong one would make the MAC fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote

import msgspec

from ixfast.chips.message import Message, Missing
from ixfast.chips.template import STATICS, Piece, Template, mirror_piece
from ixfast.domain.owner_texts import SentText, as_sent
from ixfast.domain.tap_url import Place, pairs, places, trimmed
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX, REQUEST_TARGET_BYTES_MAX

_CUT_CHARS_MIN = 4  # A segment that is shorter is not a mirror that was cut.
_NEAR = 8  # By how many characters the only segment of a path may be too short or too long.


class Reader:
    """Parses taps of one template. Created once per profile and shared by all scans."""

    __slots__ = ("_alternatives", "_constants", "_folded", "_names", "_path", "_query", "_required", "_unnamed", "parameters")

    def __init__(self, template: Template, tamper_authenticated: bool) -> None:
        self._path = template.path
        self._unnamed = tuple(piece for piece in template.query if not piece.name)
        self._query = tuple(piece for piece in template.query if piece.name and piece.slots)
        self._constants = tuple(piece for piece in template.query if piece.name and not piece.slots)
        own = {piece.name for piece in template.query}
        # A lower-cased URL has lower-cased names. Two names that differ only in case match only as they are written.
        folded = [name.lower() for name in own if name]
        self._folded = {name.lower(): name for name in own if name and folded.count(name.lower()) == 1}
        self._folded |= {name: name for name in own if name}
        separate = template.separate
        self._alternatives = tuple((slot, mirror_piece(name, template.slots[slot])) for slot, name in separate.items())
        optional = {"uid", *STATICS} if tamper_authenticated else {"uid", "tamper", *STATICS}
        self._required = tuple(slot for slot in template.slots if slot not in optional)
        # The name by which an error refers to a slot: the template's own name takes precedence.
        self._names = separate | {slot: piece.name or slot for piece in self._query for slot in piece.slots}
        names = [*(piece.name for piece in self._query), *separate.values()]
        self.parameters = tuple(dict.fromkeys(name for name in names if name))

    def from_parameters(self, parameters: Mapping[str, str]) -> Message | Missing:
        """Parse percent-decoded parameters; names that the profile does not use are ignored.

        Raises InputError `invalid_parameter`, with the name in `field`, for a malformed value (not hex digits, wrong width).
        """
        found: dict[str, str] = {}
        if self._unnamed:
            self._read_unnamed(parameters.get("", "").split("&"), found)
        for piece in self._query:
            value = parameters.get(piece.name or "")
            if value:
                _read(piece, value, found)
        for slot, piece in self._alternatives:
            if slot not in found:
                value = parameters.get(piece.name or "")
                if value:
                    _read(piece, value, found)
        return self._message(found)

    def from_url(self, url: str) -> Message | Missing | None:
        """Parse a tap URL as the phone opened it, with or without scheme and host, or its bare query string.

        None if the URL does not match this profile: another path, a constant parameter that is absent, or none of the mirrors.
        Raises InputError `invalid_parameter` for a mirror that is malformed or given twice (`field` has its name), and for text
        that is too long (`field` is `url`).
        """
        text = trimmed(url)
        if len(text) > REQUEST_TARGET_BYTES_MAX:
            raise InputError("invalid_parameter", f"The URL is longer than {REQUEST_TARGET_BYTES_MAX} characters.", "url")
        incomplete = None
        lowered = "%" in text and text == text.lower()
        for place in places(text):
            message = self._from_place(place, lowered=lowered)
            if isinstance(message, Message):
                return message
            incomplete = incomplete or message
        if incomplete is None and self._path:
            incomplete = next(filter(None, (self._read_cut_path(place.path) for place in places(text))), None)
        return incomplete

    def _from_place(self, place: Place, *, lowered: bool) -> Message | Missing | None:
        if place.query.count("&") >= PARAMETERS_MAX:
            raise InputError("invalid_parameter", f"The URL has more than {PARAMETERS_MAX} parameters.", "url")
        found: dict[str, str] = {}
        if self._path and not self._read_path(place.path, found, lowered=lowered):
            return None
        values: dict[str, str] = {}
        unnamed = []
        for sent, value in pairs(place.query):
            if not sent:
                unnamed.append(_decoded(value, lowered=lowered))
                continue
            name = self._own_name(unquote(sent))
            if name is not None and value:
                if name in values:
                    raise InputError("invalid_parameter", f"{name} appears twice.", name)
                values[name] = _decoded(value, lowered=lowered) if "%" in value else value
        for piece in self._constants:
            if not piece.pattern.fullmatch(values.get(piece.name or "", "")):
                return None
        if self._unnamed and not self._read_unnamed(unnamed, found):
            return None
        for piece in self._query:
            if piece.name in values:
                _read(piece, values[piece.name], found)
        if "uid" not in found and not any(slot in found for slot in self._required):
            return None
        return self._message(found)

    def fit(self, parameters: Mapping[str, str], url: str | None = None) -> tuple[int, ...]:
        """How well percent-decoded parameters, and the path of their URL, fit this template: greater is better.

        First come the mirrors and texts that they have, less the parameters and segments that they lack; then minus those that
        they lack, those that are malformed, and the characters by which the lengths of these differ; last the mirrors and texts
        that they have. For choosing among the complaints of several profiles.
        """
        own = {self._own_name(sent): value for sent, value in parameters.items()}
        pairs = [(piece, own.get(piece.name)) for piece in self._query]
        if self._path:
            segments = max((_segments(place.path, len(self._path)) for place in places(url)), key=len) if url is not None else []
            pairs += self._path_pairs(segments, parameters)
        good = absent = bad = distance = 0
        for piece, value in pairs:
            if value is None:
                absent += 1
            elif value and piece.pattern.fullmatch(value):
                good += len(piece.slots)
            elif value:
                bad += 1
                distance += abs(len(value) - _width(piece))
        return good - absent, -absent, -bad, -distance, good

    def _path_pairs(self, segments: Sequence[str], parameters: Mapping[str, str]) -> list[tuple[Piece, str | None]]:
        """The pieces of the path with mirrors, and what a tap has in their place; None for all if its path is another one."""
        if segments and self._is_cut(segments):
            return [(piece, segment) for piece, segment in zip(self._path, segments, strict=False) if piece.slots]
        slots = {slot for piece in self._path for slot in piece.slots}
        return [(piece, parameters.get(piece.name or "")) for slot, piece in self._alternatives if slot in slots]

    def _own_name(self, sent: str) -> str | None:
        return self._folded.get(sent) or (self._folded.get(sent.lower()) if sent.isascii() else None)

    def _read_unnamed(self, values: Iterable[str], found: dict[str, str]) -> bool:
        """Match the pieces without a name, in their order, and skip texts that are none of them."""
        rest = iter(values)
        for piece in self._unnamed:
            match = next(filter(None, map(piece.pattern.fullmatch, rest)), None)
            if match is None:
                return False
            _take(piece, match, found)
        return True

    def _read_path(self, path: str, found: dict[str, str], *, lowered: bool) -> bool:
        """Match the last segments. The host counts as a segment, so that a URL without its scheme needs no special case."""
        segments = path.removesuffix("/").split("/")[-len(self._path) :]
        if len(segments) != len(self._path):
            return False
        for piece, segment in zip(self._path, segments, strict=True):
            match = piece.pattern.fullmatch(_decoded(segment, lowered=lowered))
            if not match:
                return False
            _take(piece, match, found)
        return True

    def _read_cut_path(self, path: str) -> Missing | None:
        """What is wrong with a path whose mirrors are cut or whose last segments are missing; None if it is another path."""
        pieces = self._path
        segments = _segments(path, len(pieces))
        if self._is_cut(segments):
            for piece, segment in zip(pieces, segments, strict=True):
                if not piece.pattern.fullmatch(segment):
                    slot = piece.slots[0]
                    expected = f"{slot} in the path must be {piece.expected} ({_length(piece, segment)})."
                    raise InputError("invalid_parameter", expected, slot)
        for count in range(len(pieces) - 1, 0, -1):
            matches = [*map(_match, pieces, segments[-count:])]
            if len(segments) >= count and all(matches) and any(map(_fixed_hex, pieces[:count])):
                found: dict[str, str] = {}
                for piece, match in zip(pieces, matches, strict=False):
                    if match is not None:
                        _take(piece, match, found)
                message = self._message(found)
                names = tuple(slot for slot in self._required if slot not in found)
                return msgspec.structs.replace(message, names=names) if isinstance(message, Missing) else None
        return None

    def _is_cut(self, segments: Sequence[str]) -> bool:
        """Whether segments are those of a tap some of whose mirrors have another length, and at least one piece is as it must be,
        or nearly so if there is only one."""
        if len(segments) != len(self._path):
            return False
        cut = [(piece, text) for piece, text in zip(self._path, segments, strict=True) if not piece.pattern.fullmatch(text)]
        if not all(_fixed_hex(piece) and _may_be_cut(piece, text) for piece, text in cut):
            return False
        return len(cut) < len(segments) or all(abs(len(text) - _width(piece)) <= _NEAR for piece, text in cut)

    def _message(self, found: dict[str, str]) -> Message | Missing:
        missing = [self._names[slot] for slot in self._required if slot not in found]
        get = found.get
        counter, enc, tamper, tt = get("counter"), get("enc"), get("tamper"), get("tt")
        uid = bytes.fromhex(found["uid"]) if "uid" in found else None
        picc = bytes.fromhex(found["picc"]) if "picc" in found else None
        if missing:
            return Missing(tuple(dict.fromkeys(missing)), uid, picc, get("xuid"), get("cuid"), get("batch"))
        return Message(
            mac=bytes.fromhex(found["mac"]),
            uid=uid,
            counter=None if counter is None else int(counter, 16),
            picc=picc,
            enc=None if enc is None else bytes.fromhex(enc),
            tamper=None if tamper is None else tamper.upper(),
            tt=None if tt is None else tt.upper(),
            xuid=get("xuid"),
            cuid=get("cuid"),
            aid=get("aid"),
            batch=get("batch"),
        )


def _read(piece: Piece, value: str, found: dict[str, str]) -> None:
    match = piece.pattern.fullmatch(value)
    if not match:
        raise InputError("invalid_parameter", f"{piece.name} must be {piece.expected} ({_length(piece, value)}).", piece.name)
    found.update(zip(piece.slots, match.groups(), strict=True))
    if type(value) is SentText:
        _take(piece, match, found)


def _take(piece: Piece, match: re.Match[str], found: dict[str, str]) -> None:
    """Add the texts of a piece's slots; those of the owner's keep how they were sent."""
    found.update(zip(piece.slots, match.groups(), strict=True))
    text = match.string
    if type(text) is SentText:
        statics = ((slot, group) for group, slot in enumerate(piece.slots, start=1) if slot in STATICS)
        found.update((slot, text.part(*match.span(group))) for slot, group in statics)


def _decoded(sent: str, *, lowered: bool) -> str:
    return as_sent(unquote(sent), sent, lowered=lowered) if "%" in sent else sent


def _segments(path: str, count: int) -> list[str]:
    """The last segments of a path, decoded."""
    return [*map(unquote, path.removesuffix("/").split("/")[-count:])]


def _match(piece: Piece, text: str) -> re.Match[str] | None:
    return piece.pattern.fullmatch(text)


def _fixed_hex(piece: Piece) -> bool:
    """Whether a piece has mirrors and no text of the owner's, so that its length shows whether it was cut."""
    return bool(piece.slots) and not any(slot in STATICS for slot in piece.slots)


def _may_be_cut(piece: Piece, text: str) -> bool:
    """Whether a text has the characters of this piece, but another length."""
    literal = "".join(part for part in piece.parts if isinstance(part, str)).lower()
    mirrored = "ciox" if {"tt", "tamper"} & {*piece.slots} else ""
    known = frozenset(f"0123456789abcdef{literal}{mirrored}")
    return len(text) >= _CUT_CHARS_MIN and len(text) != _width(piece) and known.issuperset(text.lower())


def _width(piece: Piece) -> int:
    return sum(len(part) if isinstance(part, str) else part.chars for part in piece.parts)


def _length(piece: Piece, value: str) -> str:
    """What is wrong with a value that does not match, without a part of it."""
    chars = f"it has {len(value)} character{'s' if len(value) != 1 else ''}"
    fixed = not any(slot in STATICS for slot in piece.slots)
    width = _width(piece)
    if not fixed or len(value) == width:
        return f"{chars}, some of which do not fit"
    return chars if len(piece.parts) == 1 else f"{chars} instead of {width}"
