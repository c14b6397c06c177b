"""The owner's texts in a tap URL, such as a customer's id: what they say, and how the chip may have spelled them.

The chip computes the MAC over the bytes that it stores, where a text is percent-encoded: a URI cannot contain spaces, quotes or
letters beyond ASCII. What is sent is what the chip stores, unless a program on the way decoded the text or encoded it in its own
way. A text is therefore compared by what it says, and the MAC is verified over the text as it was sent, and then over the one
other spelling that may have become it. Whichever spelling the MAC covers, it says the registered text or is that text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_TOKEN = re.compile(rf"{_ESCAPES.pattern}|.", re.DOTALL)
# What programs leave as it is when they encode one value (encodeURIComponent), and what may stand in a URL at all.
_VALUE_SAFE = "!*'()~"
_USUAL = re.compile(r"[A-Za-z0-9_.~!*'()-]*")
_URL_SAFE = _VALUE_SAFE + ":/?#[]@$&+,;=%"
# The ASCII characters that browsers escape in the URL that they open.
_ESCAPED_BY_BROWSERS = frozenset("\"#<>'`{}|\\^ ")


class SentText(str):
    """A decoded text of which it is known how it was sent."""

    __slots__ = ("sent",)

    sent: str

    def part(self, start: int, end: int) -> str:
        """A part of the text, by its offsets in the decoded text."""
        if (start, end) == (0, len(self)):
            return self
        tokens = _tokens(self.sent)
        return _sent_text(self[start:end], "".join(tokens[start:end])) if len(tokens) == len(self) else self[start:end]


class Spelling(NamedTuple):
    """How the chip may have spelled a text: `first` as it was sent, else as a program would have encoded it, or not at all."""

    first: str
    encoded: str
    plain: str
    escaped: bool  # whether `first` differs from `plain`
    by_browser: bool  # whether a browser may have made `first` of `plain`


def as_sent(text: str, sent: str, *, lowered: bool = False) -> str:
    """The text that was decoded from `sent`, with how it was sent unless that is the same.

    `lowered`: a client has lower-cased the URL, in which chips have escapes in upper case.
    """
    if text == sent:
        return text
    return _sent_text(text, _ESCAPES.sub(lambda found: found[0].upper(), sent) if lowered else sent)


def statements(text: str) -> list[str]:
    """What a text may be registered as, the likeliest first: as it reads, as it was sent, and with spaces for plus signs."""
    if type(text) is SentText:
        return list(dict.fromkeys((str(text), text.sent, unquote_plus(text.sent))))
    return [text] if _USUAL.fullmatch(text) else list(dict.fromkeys((text, text.replace("+", " "), encoded(text))))


def says(text: str, registered: str) -> bool:
    """Whether a text of a tap is the registered one. Case is ignored, because clients lower-case URLs."""
    return text.lower() == registered.lower() or any(each.lower() == registered.lower() for each in statements(text))


def spelling(text: str | None, registered: str | None) -> Spelling:
    """The spellings of a text that was sent, registered, or both and then `says` the registered one."""
    if text is None or (registered and type(text) is not SentText and text.lower() == registered.lower()):
        known = registered or ""
        return Spelling(known, encoded(known), known, escaped=False, by_browser=False)
    sent = text.sent if type(text) is SentText else text
    if registered and sent.lower() == registered.lower():  # it was registered as the chip spells it
        first = _cased(sent, sent, registered)
        other = first if "%" in first else encoded(first)
        return Spelling(first, other, first, escaped=False, by_browser=False)
    if registered and sent == text and encoded(text).lower() == registered.lower():
        return Spelling(registered, registered, registered, escaped=False, by_browser=False)
    plain = registered or str(text)
    first = _cased(sent, text, plain)
    escapes = "".join(unquote(found) for found in _ESCAPES.findall(first))
    by_browser = "+" not in first and all(char in _ESCAPED_BY_BROWSERS or not char.isascii() for char in escapes)
    return Spelling(first, encoded(plain), plain, escaped=first != plain, by_browser=by_browser)


def may_vary(literal: str) -> bool:
    """Whether a literal of a template has what a chip may have stored in another way."""
    return storable(literal) != literal or unquote(literal) != literal


def windows(literals: Sequence[str], texts: Sequence[Spelling]) -> tuple[str, ...]:
    """The one or two texts that a MAC may cover: literals of a profile, one more than the owner's texts between them."""
    stored = [*map(storable, literals)]
    first = _woven(stored, [text.first for text in texts])
    others = [_woven(stored, [text.encoded for text in texts])]
    raw = _woven([*map(unquote, literals)], [text.plain for text in texts])
    changed = [text for text in texts if text.escaped]
    others.insert(0 if changed and all(text.by_browser for text in changed) else 1, raw)
    second = next((other for other in others if other != first), None)
    return (first,) if second is None else (first, second)


def encoded(text: str) -> str:
    """A text as a program writes it into a URL that it encodes."""
    return text if _USUAL.fullmatch(text) else quote(text, safe=_VALUE_SAFE)


def storable(literal: str) -> str:
    """A literal of a template as a URL on a chip has it: what no URL can contain is escaped."""
    return quote(literal, safe=_URL_SAFE)


def _sent_text(text: str, sent: str) -> str:
    found = SentText(text)
    found.sent = sent
    return found


def _cased(sent: str, text: str, right: str) -> str:
    """The text as it was sent, with the case of the right one, which is the same but for case and plus signs."""
    tokens = _tokens(sent) if text != sent else [*sent]
    if len(tokens) != len(right):
        return sent
    mixed = "".join(
        token if len(token) > 1 or token.lower() != char.lower() else char for token, char in zip(tokens, right, strict=True)
    )
    return _ESCAPES.sub(lambda found: sent[found.start() : found.end()], mixed) if len(mixed) == len(sent) else mixed


def _tokens(sent: str) -> list[str]:
    """How each character of the decoded text was sent; too few if escapes are not UTF-8."""
    tokens = []
    for found in _TOKEN.findall(sent):
        at = 0
        for char in unquote(found) if len(found) > 1 else "":
            end = at + 3 * len(char.encode())
            tokens.append(found[at:end])
            at = end
        if len(found) == 1:
            tokens.append(found)
        elif at != len(found):
            return []
    return tokens


def _woven(literals: Sequence[str], texts: Sequence[str]) -> str:
    return literals[0] + "".join(text + literal for text, literal in zip(texts, literals[1:], strict=True))
