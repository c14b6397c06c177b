"""Encoding templates: the owner's notation for a tap URL, checked and split into the pieces that a reader needs.

A template is the tail of the tap URL as the chip writes it; `model.EncodingProfile` documents the notation. There is one piece
for each path segment and query parameter. Every mirror has a fixed width and a piece contains at most one static text
(`{xuid}`, `{cuid}`, `{aid}`, `{batch}`), so a piece can be parsed in only one way.

Every contradiction in a profile is rejected here, when it is loaded, with a `ProfileError` that names the place: an undetected
mistake would make every genuine tap of a group look forged. Widths and dependencies follow NT4H2421Gx section 9.3.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple
from urllib.parse import unquote

from ixfast.chips.scheme import SDM_MIRRORS
from ixfast.chips.tamper import TAMPER_CHARS, TT_CHARS, TT_PATTERN
from ixfast.domain.model import EncodingProfile
from ixfast.errors import ProfileError, quoted
from ixfast.limits import (
    ACCOUNT_ID_CHARS_MAX,
    BATCH_NAME_CHARS_MAX,
    CUSTOMER_ID_CHARS_MAX,
    FILE_DATA_BYTES_MAX,
    REQUEST_TARGET_BYTES_MAX,
    TAG_CODE_CHARS_MAX,
    WINDOW_BYTES_MAX,
)

STATICS = {
    "xuid": TAG_CODE_CHARS_MAX, "cuid": CUSTOMER_ID_CHARS_MAX, "aid": ACCOUNT_ID_CHARS_MAX, "batch": BATCH_NAME_CHARS_MAX,
}  # fmt: skip
"""Static texts, which the owner writes to the chip, with their maximum length in characters."""

MIRROR_CHARS = {"uid": 14, "counter": 6, "tamper": TAMPER_CHARS, "tt": TT_CHARS, "mac": 16}
"""Widths of mirrors, which the chip fills in, in characters.

That of `picc` depends on the scheme, that of `enc` on the template.
"""

STANDARD_NAMES = {"uid": "u", "counter": "n", "mac": "e", "tamper": "t", "tt": "t"}
"""The parameter names of `/v1/t` for the parts of a plain mirror, whatever their names in the chip's URL."""

_NAMES = (*MIRROR_CHARS, "picc", "enc", *STATICS)
_ENC_STEP = 32  # Hex digits of one AES block; the chip encrypts whole blocks (NT4H2421Gx section 9.3.6).

_BRACES = re.compile(r"\{([^{}]*)\}|([{}])")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]|%(?![0-9A-Fa-f]{2})")
_WHOLE_URL = re.compile(r"[^{}=&?]*://|[^{}=&?/]+/")
_OWNER_CHARACTER = r"[^\x00-\x1f\x7f\ud800-\udfff]"


class Slot(NamedTuple):
    """A placeholder. `chars` is its width, for a static text its maximum width."""

    name: str
    chars: int

    def notation(self) -> str:
        return f"{{enc:{self.chars}}}" if self.name == "enc" else f"{{{self.name}}}"


Part = str | Slot


class Piece(NamedTuple):
    """One path segment (`name` is None) or one query parameter (`name` is "" if it is a text without a name).

    `pattern` matches the whole percent-decoded text, ignoring case, with one group for each slot. `expected` describes it in
    errors.
    """

    name: str | None
    parts: tuple[Part, ...]
    slots: tuple[str, ...]
    pattern: re.Pattern[str]
    expected: str


class Template(NamedTuple):
    """A checked template: its pieces in order, the authenticated text (`window`), and the slots of the pieces by name.

    `separate` has, by slot, the names under which a mirror may be passed although the template has no parameter for it alone:
    those of `STANDARD_NAMES` for a plain mirror, and the slot's own name for a mirror in the path.
    """

    path: tuple[Piece, ...]
    query: tuple[Piece, ...]
    parts: tuple[Part, ...]
    window: tuple[Part, ...]
    slots: dict[str, Slot]
    separate: dict[str, str]

    @property
    def encrypted(self) -> bool:
        return "picc" in self.slots


def compile_template(
    profile: EncodingProfile,
    *,
    picc_chars: int,
    mirrors: frozenset[str] = SDM_MIRRORS,
    signed_fields: tuple[str, ...] | None = None,
) -> Template:
    """Check and split the template of a profile. The keyword arguments are attributes of its `scheme.Scheme`.

    Raises ProfileError, which names the profile, the place and the remedy.
    """
    where = f"profile {quoted(profile.name)}, template"
    text = profile.template.removeprefix("?")
    parts = _parse(text, where, picc_chars, enc=None)
    slots: dict[str, Slot] = {}
    for part in parts:
        if isinstance(part, Slot):
            if part.name in slots:
                raise ProfileError(f"{where}: {part.notation()} appears twice; the chip mirrors it once")
            slots[part.name] = part
            if part.name not in mirrors and part.name not in STATICS:
                known = ", ".join(f"{{{name}}}" for name in _NAMES if name in mirrors)
                raise ProfileError(
                    f"{where}: chips of scheme {profile.scheme} do not mirror {{{part.name}}}; they mirror {known}"
                )
    window_where = f"profile {quoted(profile.name)}, window"
    if signed_fields is None:
        window = _parse(profile.window, window_where, picc_chars, enc=slots.get("enc"))
        _check_mirrors(profile, slots, where)
        _check_window(parts, window, slots, window_where)
    else:
        window = _signed(profile, slots, signed_fields)
        _check_mirrors(profile, slots, where)
    _check_tamper(profile, slots, window)
    path_text, mark, query_text = _places(text, where)
    path = _path_pieces(path_text, where, picc_chars)
    query = _query_pieces(query_text, where, picc_chars) if query_text or mark or not path else ()
    separate = _check_names(path, query, slots, where)
    return Template(path, query, parts, window, slots, separate)


def _places(text: str, where: str) -> tuple[str, str, str]:
    """Path, `?` and query of a template, before or behind its `#`: where the placeholders are."""
    outside, mark, fragment = text.partition("#")
    if "{" in outside and "{" in fragment:
        raise ProfileError(f"{where}: placeholders are either all before # or all behind it")
    text = fragment.removeprefix("!") if mark and "{" in fragment else outside
    if text.startswith(("/", "?")):
        return text.partition("?")[0], "?" if "?" in text else "", text.partition("?")[2]
    if _WHOLE_URL.match(text):
        raise ProfileError(f"{where}: leave out the scheme and the host; a path begins with /")
    return "", "", text


def _parse(text: str, where: str, picc_chars: int, enc: Slot | None) -> tuple[Part, ...]:
    """Split `text` at its placeholders; `enc` is the slot that an `{enc}` without a width refers to."""
    if len(text) > REQUEST_TARGET_BYTES_MAX:
        raise ProfileError(f"{where}: longer than {REQUEST_TARGET_BYTES_MAX} characters")
    stray = _NOT_IN_A_URL.search(text)
    if stray:
        place = f"{where}, character {stray.start() + 1}"
        raise ProfileError(f"{place}: not allowed in a tap URL; write the character as % and two hex digits")
    parts: list[Part] = []
    end = 0
    for found in _BRACES.finditer(text):
        place = f"{where}, character {found.start() + 1}"
        if found[2]:
            raise ProfileError(f"{place}: unbalanced brace; write %7B or %7D for a literal brace")
        if found.start() > end:
            parts.append(text[end : found.start()])
        parts.append(_slot(found[1], place, picc_chars, enc))
        end = found.end()
    if end < len(text):
        parts.append(text[end:])
    return tuple(parts)


def _slot(notation: str, place: str, picc_chars: int, enc: Slot | None) -> Slot:
    name, colon, width = notation.partition(":")
    if name not in _NAMES:
        near = difflib.get_close_matches(name.lower(), _NAMES, n=1, cutoff=0.5)
        advice = f"did you mean {{{near[0]}}}?" if near else "known are " + ", ".join(f"{{{known}}}" for known in _NAMES)
        shown = quoted(name)
        raise ProfileError(f"{place}: unknown placeholder {f'{{{name}}}' if shown == repr(name) else shown}; {advice}")
    if name == "enc":
        return _enc_slot(width, place, enc)
    if colon:
        raise ProfileError(f"{place}: {{{name}}} has a fixed width; only {{enc:N}} takes a number")
    if name in STATICS:
        return Slot(name, STATICS[name])
    return Slot(name, picc_chars if name == "picc" else MIRROR_CHARS[name])


def _enc_slot(width: str, place: str, enc: Slot | None) -> Slot:
    most = 2 * FILE_DATA_BYTES_MAX
    if not width:
        if enc is None:
            raise ProfileError(f"{place}: {{enc}} requires its number of hex digits, for example {{enc:32}}")
        return enc
    digits = int(width) if width.isascii() and width.isdigit() and len(width) <= len(str(most)) else 0
    if not 0 < digits <= most or digits % _ENC_STEP:
        raise ProfileError(
            f"{place}: N in {{enc:N}} must be a multiple of {_ENC_STEP} up to {most}: hex digits of whole AES blocks"
        )
    return Slot("enc", digits)


def _check_mirrors(profile: EncodingProfile, slots: dict[str, Slot], where: str) -> None:
    if "mac" not in slots:
        raise ProfileError(f"{where}: {{mac}} is missing; without a MAC nothing is authenticated")
    if "picc" in slots:
        for name in ("uid", "counter"):
            if name in slots:
                raise ProfileError(
                    f"{where}: {{picc}} and {{{name}}} exclude each other; a chip mirrors either encrypted or plain"
                )
        return
    if "uid" not in slots and "counter" not in slots:
        raise ProfileError(f"{where}: requires {{picc}}, {{uid}} or {{counter}}; otherwise all taps would be identical")
    if "enc" in slots and not ("uid" in slots and "counter" in slots):
        raise ProfileError(f"{where}: {{enc}} requires {{picc}}, or both {{uid}} and {{counter}}; its key is derived from both")
    if "counter" not in slots and not profile.allow_without_counter:
        raise ProfileError(
            f"{where}: {{counter}} is missing, so a tap could be replayed forever; set allow_without_counter to accept that"
        )


def _signed(profile: EncodingProfile, slots: dict[str, Slot], fields: tuple[str, ...]) -> tuple[Part, ...]:
    """The signed fields that take the place of the window, for chips that sign fields; UID and counter are always signed."""
    for name in ("uid", "counter"):
        if name not in slots:
            raise ProfileError(
                f"profile {quoted(profile.name)}, template: {{{name}}} is missing; scheme {profile.scheme} signs it"
            )
    if profile.window:
        raise ProfileError(
            f"profile {quoted(profile.name)}, window: scheme {profile.scheme} signs the mirrored fields only; leave the window"
            " empty"
        )
    return tuple(slots[name] for name in fields if name in slots)


def _check_window(parts: tuple[Part, ...], window: tuple[Part, ...], slots: dict[str, Slot], where: str) -> None:
    """The window is the text just before the MAC, so either text must end with the other."""
    seen: set[str] = set()
    for part in window:
        if isinstance(part, Slot):
            if part.name == "mac":
                raise ProfileError(f"{where}: {{mac}} cannot authenticate itself; the window ends before it")
            if part.name not in slots and part.name not in STATICS:
                raise ProfileError(f"{where}: {part.notation()} is not in the template, of which the window is a part")
            if part.name == "enc" and part != slots["enc"]:
                raise ProfileError(f"{where}: {part.notation()} must be {slots['enc'].notation()}, as in the template")
            if part.name in seen:
                raise ProfileError(f"{where}: {part.notation()} appears twice")
            seen.add(part.name)
    if "enc" in slots and "enc" not in seen:
        raise ProfileError(f"{where}: must contain {{enc}}; unauthenticated file data proves nothing")
    if sum(part.chars if isinstance(part, Slot) else len(part.encode()) for part in window) > WINDOW_BYTES_MAX:
        raise ProfileError(f"{where}: longer than {WINDOW_BYTES_MAX} characters")
    before_mac = render(parts).partition("{mac}")[0]
    text = render(window)
    if not before_mac.endswith(text) and not text.endswith(before_mac):
        raise ProfileError(
            f"{where}: must be the text just before {{mac}}, but the template has {before_mac!r} there;"
            " write template and window exactly as the chip does"
        )


def _check_tamper(profile: EncodingProfile, slots: dict[str, Slot], window: tuple[Part, ...]) -> None:
    offset = profile.tamper_offset
    if offset is None:
        return
    where = f"profile {quoted(profile.name)}, tamper_offset"
    if "enc" not in slots:
        raise ProfileError(f"{where}: refers to file data, but the template has no {{enc:N}}")
    last = slots["enc"].chars // 2 - TAMPER_CHARS
    if not 0 <= offset <= last:
        raise ProfileError(f"{where}: must be between 0 and {last}, so that both characters lie in the file data (got {offset})")
    if any(isinstance(part, Slot) and part.name == "tamper" for part in window):
        raise ProfileError(f"{where}: the window also contains {{tamper}}; the chip mirrors it in only one place")


def _path_pieces(text: str, where: str, picc_chars: int) -> tuple[Piece, ...]:
    if text in ("", "/"):  # "/?uid=..." restricts the path no more than "uid=..." does
        return ()
    segments = text[1:].removesuffix("/").split("/")
    if not all(segments):
        raise ProfileError(f"{where}: empty path segment")
    return tuple(_piece(None, segment, where, picc_chars) for segment in segments)


def _query_pieces(text: str, where: str, picc_chars: int) -> tuple[Piece, ...]:
    pieces = []
    for parameter in text.split("&"):
        name, equals, value = parameter.partition("=")
        if not equals and name:
            pieces.append(_piece("", name, where, picc_chars))
            continue
        if not name:
            raise ProfileError(f"{where}: a query consists of name=value pairs, or texts without =, joined by &")
        if "{" in name:
            raise ProfileError(f"{where}: a parameter's name cannot contain a placeholder; put it in the value")
        pieces.append(_piece(unquote(name), value, where, picc_chars))
    return tuple(pieces)


def _check_names(path: tuple[Piece, ...], query: tuple[Piece, ...], slots: dict[str, Slot], where: str) -> dict[str, str]:
    """The names for `Template.separate`. Raises ProfileError if a name would have two meanings."""
    own = {piece.name for piece in query}
    in_path = {slot for piece in (*path, *query) for slot in piece.slots if not piece.name}
    separate: dict[str, str] = {}
    for slot in slots:
        standard = None if "picc" in slots else STANDARD_NAMES.get(slot)
        if standard is not None and standard not in own:
            separate[slot] = standard
        elif slot in in_path and slot not in STATICS:
            separate[slot] = slot
    names: set[str] = set()
    for name in (*(piece.name for piece in query if piece.name), *separate.values()):
        if name in names:
            raise ProfileError(f"{where}: parameter {name!r} appears twice")
        names.add(name)
    return separate


def _piece(name: str | None, text: str, where: str, picc_chars: int) -> Piece:
    parts = _parse(text, where, picc_chars, enc=None)
    patterns: list[str] = []
    words: list[str] = []
    for part in parts:
        if isinstance(part, str):
            patterns.append(re.escape(unquote(part)))
            words.append(repr(unquote(part)))
        elif part.name in STATICS:
            patterns.append(f"({_OWNER_CHARACTER}{{1,{part.chars}}})")
            words.append(f"1 to {part.chars} characters")
        elif part.name == "tamper":
            patterns.append("([!-~]{2})")
            words.append("2 characters of tamper status")
        elif part.name == "tt":
            patterns.append(f"({TT_PATTERN})")
            words.append(f"{TT_CHARS} characters of tamper status")
        else:
            patterns.append(f"([0-9a-f]{{{part.chars}}})")
            words.append(f"{part.chars} hex digits")
    slots = tuple(part.name for part in parts if isinstance(part, Slot))
    if sum(slot in STATICS for slot in slots) > 1:
        raise ProfileError(
            f"{where}: {text!r} contains two texts of variable width, so it is ambiguous where the first one ends; keep only one"
        )
    # ASCII, because IGNORECASE would otherwise match U+017F as s and U+212A as k.
    pattern = re.compile("".join(patterns), re.IGNORECASE | re.ASCII)
    return Piece(name, parts, slots, pattern, " then ".join(words) or "empty")


def mirror_piece(name: str, slot: Slot) -> Piece:
    """A piece that contains only one mirror, under a name that is not in the template."""
    return _piece(name, slot.notation(), name, slot.chars)


def render(parts: tuple[Part, ...]) -> str:
    """The notation that `parts` were parsed from, with the width of `{enc}`."""
    return "".join(part if isinstance(part, str) else part.notation() for part in parts)
