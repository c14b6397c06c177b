"""Where in a text a tap can be: splits a tapped URL, or a part of one, into paths and queries.

A phone opens URLs of several shapes: `https://host/path?query`, `scheme://query` without a path, `host/#/route?query` of a page
that keeps its state in the fragment, and queries of one text without a name. All readers of text use it, so that
scans, audits, `ixfast verify` and the detection of profiles agree. Nothing is decoded, and no text is refused.

A URL that a person copied from a mail, a chat or a program may still have the quotes, brackets or punctuation around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A query at the beginning of a text: a name and "=". Paths and hosts have one of the other characters before their first "=".
_QUERY = re.compile(r"\??[^/?#&=:]+=")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|(?=[^/?#&=:]+=))")
# What readers and copied texts add at the ends: white space, also escaped, marks of no width, and the padding of NDEF memory.
_AROUND = " \t\n\v\f\r\0\x85\xa0\u200b\u2028\u2029\ufeff"
_ESCAPED_AND = re.compile(r"&(?:amp|#0*38|#x0*26);|\\u0026", re.IGNORECASE)
_ESCAPED_END = re.compile(r"(?:\+|%(?:00|09|0[AaDd]|20))+\Z")

# What encloses a copied URL: with which character each begins, and with which it may end. No tap begins with one of them.
_ENCLOSED = {
    '"': '"', "'": "'", "`": "`", "<": ">", "(": ")", "[": "]", "{": "}", "*": "*", "\\": "\\", "«": "»", "»": "«",
    "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u2018": "\u2019", "\u201a": "\u2018\u2019",  # quotation marks
    "\u2039": "\u203a", "\u203a": "\u2039",
}  # fmt: skip
_FOLLOWING = ",.;:!?…" + "".join(_ENCLOSED.values())
_ESCAPED_FOLLOWING = re.compile(r"%(?:22|27|29|2[Cc]|3[Ee]|5[Dd]|7[Dd]|E2%80%9[9D]|C2%BB)\Z")
# A mirror or a tag code, behind which punctuation is not a part of the tap. Behind a text such as "Acme Inc." it may be one.
_CODE_AT_END = re.compile(r"(?=[A-Za-z]*[0-9])[0-9A-Za-z]{6,16}\Z")
_CODE_CHARS = 16
_LAYERS_MAX = 8  # such as ("<URL>").
_WRAPPED_CHARS_MAX = 8192  # Far above the longest tap that any reader takes.

WRAPPED = "read without the quotes, brackets or punctuation around it"
"""What to report about a URL that `is_wrapped`."""


class Place(NamedTuple):
    """A path, including scheme and host if there are any, and a query without its `?`, with their offsets in the text."""

    path: str
    path_at: int
    query: str
    query_at: int


def trimmed(text: str) -> str:
    """The text without what readers of tags add at its ends, which is never part of a tap."""
    text = text.strip(_AROUND)
    return _ESCAPED_END.sub("", text) if text.endswith(("+", "%00", "%09", "%0A", "%0a", "%0D", "%0d", "%20")) else text


def unwrapped(text: str) -> str:
    """The trimmed text, without the quotes, brackets or Markdown link around it and the punctuation behind it.

    What a template could have at its end is kept: a single character is only taken away behind a mirror or a tag code.
    """
    text = trimmed(text)
    for _ in range(_LAYERS_MAX):
        if not text or (text[0] not in _ENCLOSED and text[-1] not in _FOLLOWING and text[-3:-2] != "%"):
            break
        inner = _without_outermost(text) if len(text) <= _WRAPPED_CHARS_MAX else text
        if inner == text:
            break
        text = trimmed(inner)
    return text


def is_wrapped(text: str) -> bool:
    """Whether `unwrapped` takes away more than what readers of tags add."""
    return unwrapped(text) != trimmed(text)


def _without_outermost(text: str) -> str:
    first, last = text[0], text[-1]
    link = text.rfind("](") if first in "[!" and last == ")" else -1
    if link >= 0:  # Markdown, which may have a title behind the URL
        return text[link + 2 : -1].strip().partition(" ")[0]
    if len(text) > 1 and last in _ENCLOSED.get(first, ""):
        inner = text[1:-1]
        return inner.partition("|")[0].removeprefix("URL:") if first == "<" else inner  # Slack's links; RFC 3986, appendix C
    shorter = text[:-1] if last in _FOLLOWING else _ESCAPED_FOLLOWING.sub("", text)
    if shorter != text and (first in _ENCLOSED or _ends_with_code(shorter)):
        return shorter
    is_address = first == "[" and "]" in text  # of IPv6, without a scheme
    return text[1:] if first in _ENCLOSED and not is_address else text


def _ends_with_code(text: str) -> bool:
    """Whether a mirror or a tag code is at the end, not counting punctuation behind it."""
    text = _ESCAPED_FOLLOWING.sub("", text.rstrip(_FOLLOWING + _AROUND))
    return _CODE_AT_END.search(text[-_CODE_CHARS:]) is not None


def places(text: str) -> list[Place]:
    """The URL itself, and then its fragment, which servers see only if a page sends it to them."""
    url, mark, fragment = text.partition("#")
    return [_place(url, 0), _place(fragment, len(url) + 1)] if mark else [_place(url, 0)]


def _place(text: str, at: int) -> Place:
    scheme = _SCHEME.match(text)
    start = scheme.end() if scheme else 0
    if _QUERY.match(text, start):
        start += text.startswith("?", start)
        return Place("", at, text[start:], at + start)
    path, mark, query = text.partition("?")
    if not mark and text.find("/", start) < 0:  # a host alone, or a query without a name
        return Place(text, at, text[start:], at + start)
    return Place(path, at, query, at + len(path) + len(mark))


def pairs(query: str) -> Iterator[tuple[str, str]]:
    """The names and values of a query as they are written. A text without `=` is a value without a name."""
    for parameter in query.split("&"):
        name, equals, value = parameter.partition("=")
        yield (name, value) if equals else ("", name)


def mistake(text: str) -> str | None:
    """What is wrong with the text as a whole if no profile reads it: it was escaped for a page or a file, or encoded twice."""
    if _ESCAPED_AND.search(text):
        return "The URL is escaped: replace each &amp; (or \\u0026) with &."
    if "=" not in text and "%3d" in text.lower():
        return "The URL is percent-encoded as a whole: decode it first."
    return None
