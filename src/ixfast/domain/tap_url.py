"""Where in a text a tap can be: splits a tapped URL, or a part of one, into paths and queries.

A phone opens URLs of several shapes: `https://host/path?query`, `scheme://query` without a path, `host/#/route?query` of a page
that keeps its state in the fragment, and queries of one text without a name. All readers of text use it, so that
scans, audits, `ixfast verify` and the detection of profiles agree. Nothing is decoded, and no text is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A query at the beginning of a text: a name and "=". Paths and hosts have one of the other characters before their first "=".
_QUERY = re.compile(r"\??[^/?#&=:]+=")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|(?=[^/?#&=:]+=))")
# What readers and copied texts add at the ends: white space, also escaped and of full width, marks of no width and of direction,
# and the padding of NDEF memory.
_AROUND = (
    " \t\n\v\f\r\0\x85\xa0\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u2060\u2066\u2067\u2068"
    "\u2069\u3000\ufeff"
)
_ESCAPED_AND = re.compile(r"&(?:amp|#0*38|#x0*26);|\\u0026", re.IGNORECASE)
_ANOTHER_URL = re.compile(r"[\s,;|<>\"'][A-Za-z][A-Za-z0-9+.-]*://")
_ESCAPED_END = re.compile(r"(?:\+|%(?:00|09|0[AaDd]|20))+\Z")


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
    """What is wrong with the text as a whole if no profile reads it: several URLs, or one that was escaped or encoded twice."""
    if _ESCAPED_AND.search(text):
        return "The URL is escaped: replace each &amp; (or \\u0026) with &."
    if "://" in text and _ANOTHER_URL.search(text, text.index("://")):
        return "The text has several URLs: read each by itself."
    if "=" not in text and "%3d" in text.lower():
        return "The URL is percent-encoded as a whole: decode it first."
    return None
