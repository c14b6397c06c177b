"""The windows under which the MAC of a tap may have been computed, for the detection of encoding profiles."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from ixfast.chips.scheme import Scheme
from ixfast.chips.template import STATICS, Slot
from ixfast.chips.url_fields import Encoding
from ixfast.domain import references
from ixfast.domain.owner_texts import storable

_BOUNDARY = frozenset(":/?&=.-_~x")


def registrable(encoding: Encoding, window: str) -> tuple[Encoding, str]:
    """An encoding and its window with such names of texts that tags can be registered with those in the window.

    A tag code has only letters and digits, so that any other text becomes the CUID, if that name is free or fits the other text.
    """
    texts = encoding.texts
    if "{xuid}" not in window or references.CODE.fullmatch(texts["xuid"]):
        return encoding, window
    if "cuid" in texts and not references.CODE.fullmatch(texts["cuid"]):
        return encoding, window
    other = {"xuid": "cuid", "cuid": "xuid"}
    slots = {
        other.get(name, name): Slot(other[name], STATICS[other[name]]) if name in other else slot
        for name, slot in encoding.slots.items()
    }
    renamed = encoding._replace(
        template=_swapped(encoding.template),
        slots=slots,
        texts={other.get(name, name): text for name, text in texts.items()},
        fields={other.get(name, name): label for name, label in encoding.fields.items()},
    )
    return renamed, _swapped(window)


def _swapped(notation: str) -> str:
    return notation.replace("{xuid}", "{}").replace("{cuid}", "{xuid}").replace("{}", "{cuid}")


def mac_windows(encoding: Encoding, scheme: Scheme) -> list[tuple[str, bytes]]:
    """The windows that a chip could be configured with, each in template notation and as the text that the tag authenticated.

    A window ends where the MAC begins. It begins at a mirror, at a delimiter or just behind one, or at the URL's first character.
    """
    if scheme.signed_fields is not None:
        return [("", "".join(encoding.texts[name] for name in scheme.signed_fields).upper().encode())]
    return [(notation, each.encode()) for notation, text in _windows(encoding) for each in _spellings(text)]


def _spellings(text: str) -> Iterator[str]:
    """A text as it was sent, and as the chip may store it if a program on the way has escaped or decoded it."""
    return iter(dict.fromkeys((text, unquote(text), storable(text))))


def _windows(encoding: Encoding) -> list[tuple[str, str]]:
    windows = [("", "")]
    notation, text = "", ""
    needed = "enc" in encoding.slots
    found: list[tuple[str, str]] = [] if needed else windows
    for part in reversed(encoding.before_mac):
        if part is None:
            break  # text without a placeholder cannot be in the window
        if isinstance(part, Slot):
            sent = encoding.texts[part.name]
            notation, text = part.notation() + notation, (sent if part.name in STATICS else sent.upper()) + text
            if part.name == "enc":
                needed = False
            if not needed:
                found.append((notation, text))
            continue
        starts = range(len(part) - 1, -1, -1) if not needed else ()
        found.extend(
            (part[start:] + notation, part[start:] + text)
            for start in starts
            if start == 0 or part[start] in _BOUNDARY or part[start - 1] in _BOUNDARY
        )
        notation, text = part + notation, part + text
    return found
