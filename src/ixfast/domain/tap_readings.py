"""Which texts a copied URL may stand for, in the order in which all readers of taps try them.

A URL that a person copied from a mail, a chat or a program may still have the quotes, brackets or punctuation around it. The
owner's own text at the end of a tap may end with the same characters, and only the tag that it names shows which it is. So the
text is read as it was given, and a reading without what is around it counts only if that finds no tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ixfast.domain.tap_url import trimmed

# What encloses a copied URL: with which character each begins, and with which it may end. No tap begins with one of them.
_ENCLOSED = {
    '"': '"', "'": "'", "`": "`", "<": ">", "(": ")", "[": "]", "{": "}", "*": "*", "\\": "\\", "«": "»", "»": "«",
    "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u2018": "\u2019", "\u201a": "\u2018\u2019",  # quotation marks
    "\u2039": "\u203a", "\u203a": "\u2039",
    "\uff08": "\uff09", "\uff3b": "\uff3d", "\uff5b": "\uff5d", "\uff1c": "\uff1e", "\uff02": "\uff02",  # full width
    "\u3008": "\u3009", "\u300a": "\u300b", "\u300c": "\u300d", "\u300e": "\u300f", "\u3010": "\u3011", "\u3014": "\u3015",
}  # fmt: skip
_FOLLOWING = ",.;:!?&…\u3001\u3002\uff0c\uff0e\uff1b\uff1a\uff01\uff1f" + "".join(_ENCLOSED.values())
_ESCAPED_FOLLOWING = re.compile(r"%(?:22|27|29|2[Cc]|3[Ee]|5[Dd]|7[Dd]|E2%80%9[9D]|C2%BB)\Z")
# A label before a URL in a page or a list: `href="`, `url=`, `URL: `.
_LABEL = re.compile(r"(?:<?a\s[^>]*?)?(?:href|src|link|url|uri)\s*[=:]\s*([\"'<]?)(?=[A-Za-z][A-Za-z0-9+.-]*://)", re.IGNORECASE)
_LABELS = tuple(each for name in ("href", "src", "link", "url", "uri") for each in (name, name.title(), name.upper()))
_LAYERS_MAX = 8  # such as ("<URL>").
_WRAPPED_CHARS_MAX = 8192  # Far above the longest tap that any reader takes.

WRAPPED = "read without the quotes, brackets or punctuation around it"
"""What to report about a URL that was not read as it was given."""


def readings(text: str) -> Iterator[str]:
    """The trimmed text, and then what is left of it without quotes, brackets, a label or a Markdown link around it and without
    the punctuation behind it, layer by layer."""
    text = trimmed(text)
    yield text
    if not text or len(text) > _WRAPPED_CHARS_MAX:
        return
    if not (text[0] in _ENCLOSED or text[-1] in _FOLLOWING or text[-3:-2] == "%" or text.startswith(_LABELS)):
        return
    for _ in range(_LAYERS_MAX):
        inner = trimmed(_without_outermost(text))
        if inner in ("", text):
            return
        text = inner
        yield text


def parameter_readings(parameters: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """The readings of a query of which only the decoded parameters are left, in their order."""
    yield parameters
    if parameters:
        name, value = [*parameters.items()][-1]
        for reading in readings(f"={value}"):
            if reading != f"={value}":
                yield {**parameters, name: reading[1:]}


def _without_outermost(text: str) -> str:
    first, last = text[0], text[-1]
    label = _LABEL.match(text)
    if label is not None:
        rest, quote = text[label.end() :], _ENCLOSED.get(label[1])
        return rest.partition(quote)[0] if quote else rest
    link = text.rfind("](") if first in "[!" and last == ")" else -1
    if link >= 0:  # Markdown, which may have a title behind the URL
        return text[link + 2 : -1].strip().partition(" ")[0]
    if len(text) > 1 and last in _ENCLOSED.get(first, ""):
        inner = text[1:-1]
        if first == "[":  # Wikis, Org
            return inner.partition("][")[0].partition("|")[0]
        return inner.partition("|")[0].removeprefix("URL:") if first == "<" else inner  # Slack's links; RFC 3986, appendix C
    shorter = text[:-1] if last in _FOLLOWING else _ESCAPED_FOLLOWING.sub("", text)
    if shorter != text:
        return shorter
    is_address = first == "[" and "]" in text  # of IPv6, without a scheme
    return text[1:] if first in _ENCLOSED and not is_address else text
