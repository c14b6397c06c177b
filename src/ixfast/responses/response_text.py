"""Response texts: subtags (`{cuid}`, `{meta:Product Name}`) in the owner's texts, and extended fields merged into URLs.

A text is split once, when it is loaded, into constant and variable parts. Most texts have no variable part and are encoded as
JSON at once. Names of subtags are case-insensitive. An unknown subtag stays as typed; a known one without a value is replaced
by nothing. A value is inserted as it is and never expanded again, even if it contains braces.

Two kinds of values are themselves texts that an owner wrote: the name of a tag and the value of an extended field. They are
expanded once wherever they are shown; inside them, `{tagname}` and `{meta:NAME}` give what was typed. So nothing is expanded
twice.

A response text that begins with `http://` or `https://` is a URL: values are percent-encoded, and the extended fields that are
enabled for the response are appended as query parameters, before a fragment, unless the URL has a parameter of that name.
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
_INNER_TEXTS_REMEMBERED = 4096  # The groups' defaults fit in; a tag's own text is split again after an eviction.


class ResponseText:
    """A compiled response text. `constant` is the text as a JSON string if it does not depend on the scan, otherwise None.

    `subtags` are the names of the subtags that it uses, in lower case; `visitors.lacking` reports those without a source here.
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
        # Copied: the bytes that orjson returns hold on to a buffer of 4 KB, and these live as long as the rule set.
        self.constant: bytes | None = None if self._merges or subtags else bytes(memoryview(orjson.dumps(text)))

    def render(self, scan: Scan) -> str:
        """The text for this scan, at most RESPONSE_RENDERED_CHARS_MAX characters: a value that does not fit is left out."""
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
    """Compile a response text.

    `inner` marks the name of a tag or the value of an extended field: a URL there gets no extended fields. Raises InputError
    `invalid_response` if the text is too long, has too many subtags, or cannot be encoded as UTF-8.
    """
    if len(text) > RESPONSE_CHARS_MAX:
        raise InputError("invalid_response", f"A response must have at most {RESPONSE_CHARS_MAX} characters.", "response")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            "invalid_response", "The response is not valid text: it contains an unpaired surrogate.", "response"
        ) from None
    parts: list[str | Reader] = []
    subtags: set[str] = set()
    end = found = 0
    for match in _SUBTAG.finditer(text):
        reader = _reader(match, inner=inner)
        if reader is None:
            continue
        found += 1
        if found > RESPONSE_SUBTAGS_MAX:
            raise InputError("invalid_response", f"A response must have at most {RESPONSE_SUBTAGS_MAX} subtags.", "response")
        parts += [text[end : match.start()], reader]
        end = match.end()
        subtags.add(match[1].lower())
    parts.append(text[end:])
    pieces = tuple(part for part in parts if part != "")
    visitors.prepare(subtags)
    return ResponseText(text, pieces, frozenset(subtags), is_url=_URL.match(text) is not None, merges=not inner)


@functools.lru_cache(_INNER_TEXTS_REMEMBERED)
def inner_text(text: str) -> ResponseText:
    """The compiled name of a tag or value of an extended field. Raises what `compile_response` raises, but not for a stored text,
    which has been checked."""
    return compile_response(text, inner=True)


def expanded(text: str, scan: Scan) -> str:
    """The name of a tag or the value of an extended field as this scan shows it."""
    # Nearly all names are constant, and a million of them would evict everything else from the cache.
    return inner_text(text).render(scan) if "{" in text else text


def never_known(rules: Rules) -> tuple[str, ...]:
    """Warnings about the facts and subtags of a rule set that have no source in this process, one for each missing source: the
    address database, or a library that is not installed. Raises what `compile_response` raises."""
    texts = (*(group.response for group in rules.groups), rules.default)
    return visitors.lacking(rules.facts.union(*(compile_response(text).subtags for text in texts)))


def merge_fields(url: str, fields: Mapping[str, str]) -> str:
    """`url` with `fields` appended as query parameters, named in lower case with `_` for spaces.

    Existing parameters stay first and win. A field that would make the URL longer than RESPONSE_RENDERED_CHARS_MAX is left out.
    """
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


# Readers of single subtags. A scan that is answered with a response text always has a record.


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
    """A reader of a moment in ISO 8601, UTC, to the second."""

    def formatted(scan: Scan) -> str | None:
        at = read(scan)
        return None if at is None else datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    return formatted


def _random_number(_scan: Scan) -> str:
    return f"{secrets.randbelow(10**_RANDOM_DIGITS):0{_RANDOM_DIGITS}}"


def _random_hex(_scan: Scan) -> str:
    return secrets.token_hex(_RANDOM_DIGITS // 2).upper()


def _local_time(scan: Scan) -> str | None:
    """The visitor's local time, ISO 8601 with the offset from UTC."""
    zone = visitors.place(scan).time_zone
    try:
        local_zone = wall_clock.find_zone(zone or "").info
    except ValueError:
        return None
    return datetime.fromtimestamp(int(wall_clock.now()), local_zone).isoformat()


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
"""Readers of the subtags by name, except `{meta:NAME}`."""
