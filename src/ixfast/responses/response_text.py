"""Dynamic response: subtags (`{cuid}`, `{meta:Product Name}`) in the owner's texts, and data merge into URLs.

A text is split once, when it is loaded, into constant and variable parts; most have no variable part and are JSON then already.
Names of subtags are read in any case; one that nobody knows stays as typed; a known one whose value is not known is empty.
A value is put in as it is and never expanded again, whatever braces it has.

Two kinds of values are texts of the owner's themselves, a tag's name and the value of an extended field: they are expanded once
wherever they are shown, and in them `{tagname}` and `{meta:NAME}` are what was typed. So nothing is ever expanded twice.

A response that begins with `http://` or `https://` is a URL: values are percent-encoded, and the extended fields that are
switched on follow as query parameters, before a fragment, unless the URL has a parameter of that name.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson

from ixfast.errors import InputError
from ixfast.limits import (
    FIELD_NAME_CHARS_MAX,
    RESPONSE_CHARS_MAX,
    RESPONSE_RENDERED_CHARS_MAX,
    RESPONSE_SUBTAGS_MAX,
    SUBTAG_VALUE_CHARS_MAX,
)
from ixfast.rules import facts, visitors, wall_clock

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan
    from ixfast.rules.rule_document import Rules

Reader = Callable[["Scan"], str | None]

_SUBTAG = re.compile(rf"\{{([A-Za-z]+)(?::([^{{}}]{{1,{FIELD_NAME_CHARS_MAX}}}))?\}}")
_URL = re.compile(r"https?://", re.IGNORECASE)
_RANDOM_DIGITS = 8
_META = "meta"
_TAG_NAME = "tagname"
_INNER_TEXTS_REMEMBERED = 4096  # Defaults of groups; a tag's own text is split anew when it was forgotten.


class ResponseText:
    """A response text, ready to be given. `constant` is its JSON text if no scan can change it, else None.

    `subtags` are the names of what it asks for; `visitors.lacking` says which of them can never be known.
    """

    __slots__ = ("_is_url", "_merges", "_parts", "constant", "subtags", "text")

    def __init__(
        self, text: str, parts: tuple[str | Reader, ...], subtags: frozenset[str], *, is_url: bool, merges: bool
    ) -> None:
        self.text = text
        self.subtags = subtags
        self._parts = parts
        self._is_url = is_url
        self._merges = is_url and merges
        # Copied, because what orjson gives holds on to its buffer of 4 KB, and this is kept as long as the rule set.
        self.constant: bytes | None = None if self._merges or subtags else bytes(memoryview(orjson.dumps(text)))

    def render(self, scan: Scan) -> str:
        """The text for this scan, at most RESPONSE_RENDERED_CHARS_MAX long: a value that does not fit is left out."""
        if self.constant is not None:
            return self.text
        space = RESPONSE_RENDERED_CHARS_MAX - sum(len(part) for part in self._parts if isinstance(part, str))
        pieces = []
        for part in self._parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = (part(scan) or "")[:SUBTAG_VALUE_CHARS_MAX]
            if self._is_url:
                value = quote(value, safe="")
            if len(value) <= space:
                space -= len(value)
                pieces.append(value)
        text = "".join(pieces)
        if not self._merges:
            return text
        return merge_fields(text, {name: expanded(value, scan) for name, value in facts.reply_fields(scan).items()})

    def json(self, scan: Scan) -> bytes:
        """The text for this scan as a JSON string."""
        return self.constant if self.constant is not None else orjson.dumps(self.render(scan))


def compile_response(text: str, *, inner: bool = False) -> ResponseText:
    """Split a response text. InputError `invalid_response` if it is too long, has too many subtags, or is no text.

    `inner` is for a text that stands inside a response or beside it; a URL there gets no extended fields.
    """
    if len(text) > RESPONSE_CHARS_MAX:
        raise InputError("invalid_response", f"A response has at most {RESPONSE_CHARS_MAX} characters.", "response")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("invalid_response", "The response is not text: it has half a surrogate pair.", "response") from None
    parts: list[str | Reader] = []
    subtags: set[str] = set()
    place = found = 0
    for match in _SUBTAG.finditer(text):
        reader = _reader(match, inner=inner)
        if reader is None:
            continue
        found += 1
        if found > RESPONSE_SUBTAGS_MAX:
            raise InputError("invalid_response", f"A response has at most {RESPONSE_SUBTAGS_MAX} subtags.", "response")
        parts += [text[place : match.start()], reader]
        place = match.end()
        subtags.add(match[1].lower())
    parts.append(text[place:])
    pieces = tuple(part for part in parts if part != "")
    visitors.prepare(subtags)
    return ResponseText(text, pieces, frozenset(subtags), is_url=_URL.match(text) is not None, merges=not inner)


@functools.lru_cache(_INNER_TEXTS_REMEMBERED)
def inner_text(text: str) -> ResponseText:
    """A tag's name or an extended field's value, ready to be shown. Raises as `compile_response` does; no text that was checked
    when it was stored does."""
    return compile_response(text, inner=True)


def expanded(text: str, scan: Scan) -> str:
    """What a tag's name or an extended field's value shows for this scan."""
    # Nearly all are constant, and a million names of tags would push the others out of what is remembered.
    return inner_text(text).render(scan) if "{" in text else text


def never_known(rules: Rules) -> tuple[str, ...]:
    """Warnings, one a source, of the facts and subtags of a rule set that can never be known in this process, and why: no file of
    addresses, a library that is not installed. Raises as `compile_response` does."""
    texts = (*(group.response for group in rules.groups), rules.default)
    return visitors.lacking(rules.facts.union(*(compile_response(text).subtags for text in texts)))


def merge_fields(url: str, fields: Mapping[str, str]) -> str:
    """`url` with `fields` as query parameters: names in lower case, `_` for spaces. What it has already goes first and stays;
    a field that would make it longer than RESPONSE_RENDERED_CHARS_MAX is left out."""
    if not fields:
        return url
    front, hash_sign, fragment = url.partition("#")
    path, _, query = front.partition("?")
    present = {parameter.partition("=")[0] for parameter in query.split("&")}
    space = RESPONSE_RENDERED_CHARS_MAX - len(url) - 1
    added = [] if query.rstrip("&") == "" else [query.rstrip("&")]
    for name, value in fields.items():
        parameter = f"{quote(facts.field_key(name), safe='')}={quote(value[:SUBTAG_VALUE_CHARS_MAX], safe='')}"
        if parameter.partition("=")[0] not in present and len(parameter) < space:
            space -= len(parameter) + 1
            added.append(parameter)
    return f"{path}?{'&'.join(added)}{hash_sign}{fragment}" if added else url


def _reader(match: re.Match[str], *, inner: bool) -> Reader | None:
    name, field = match[1].lower(), match[2]
    if name == _META:
        if field is None:
            return None
        return _typed_field(field) if inner else _shown(_typed_field(field))
    if field is not None:
        return None
    return _typed_name if inner and name == _TAG_NAME else SUBTAGS.get(name)


def _typed_field(name: str) -> Reader:
    return lambda scan: facts.field_value(scan, name)


def _shown(typed: Reader) -> Reader:
    return lambda scan: None if (text := typed(scan)) is None else expanded(text, scan)


# Readers of single subtags. The record is always there when a scan has a response.


def _xuid(scan: Scan) -> str | None:
    return scan.record.xuid.decode() if scan.record is not None else None


def _cuid(scan: Scan) -> str | None:
    return scan.record.cuid if scan.record is not None else None


def _uid(scan: Scan) -> str | None:
    return scan.record.uid.hex().upper() if scan.record is not None and scan.record.uid is not None else None


def _folder(scan: Scan) -> str | None:
    return scan.record.group.folder_name if scan.record is not None else None


def _batch(scan: Scan) -> str | None:
    return scan.record.batch.name if scan.record is not None and scan.record.batch is not None else None


def _group(scan: Scan) -> str | None:
    return scan.record.group.name if scan.record is not None else None


def _typed_name(scan: Scan) -> str | None:
    return scan.record.name if scan.record is not None else None


def _count(read: Callable[[Scan], int | None]) -> Reader:
    return lambda scan: None if (count := read(scan)) is None else str(count)


def _moment(read: Callable[[Scan], float | None]) -> Reader:
    """ISO 8601 in UTC, to the second."""

    def written(scan: Scan) -> str | None:
        at = read(scan)
        return None if at is None else datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return written


def _random_number(_scan: Scan) -> str:
    return f"{secrets.randbelow(10**_RANDOM_DIGITS):0{_RANDOM_DIGITS}}"


def _random_hex(_scan: Scan) -> str:
    return secrets.token_hex(_RANDOM_DIGITS // 2).upper()


def _local_time(scan: Scan) -> str | None:
    """What the clock on the visitor's wall shows, ISO 8601 with the difference to UTC."""
    zone = visitors.place(scan).time_zone
    try:
        there = wall_clock.find_zone(zone or "").info
    except ValueError:
        return None
    return datetime.fromtimestamp(int(wall_clock.now()), there).isoformat()


SUBTAGS: Mapping[str, Reader] = {
    "xuid": _xuid,
    "cuid": _cuid,
    "uid": _uid,
    "scount": _count(facts.scan_count),
    "ccount": _count(facts.chip_count),
    "folder": _folder,
    "batch": _batch,
    "taggroup": _group,
    _TAG_NAME: _shown(_typed_name),
    "dtcreated": _moment(facts.created_at),
    "dtassigned": _moment(facts.assigned_at),
    "randnum": _random_number,
    "randhex": _random_hex,
    "countrycode": visitors.country,
    "timezone": lambda scan: visitors.place(scan).time_zone,
    "currency": lambda scan: visitors.place(scan).currency,
    "tzlocal": _local_time,
    "browser": lambda scan: visitors.device(scan).browser,
    "os": lambda scan: visitors.device(scan).system,
}
"""Subtags by name; `{meta:NAME}` is beside them."""
