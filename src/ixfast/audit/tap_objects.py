"""Reads taps from JSON Lines: from objects with a `url` or `query`, with the parameters of a tap, and from logs in JSON.

The members of an object and of the objects inside it are known by their names (`tap_names`), those of the outer object first.
Caddy, for example, logs `{"ts": ..., "request": {"uri": "/t?uid=..."}}`. A log line that another program wrapped in an object is
read as such.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import orjson

from ixfast.audit.log_lines import LogLine, characters, read_log_line, target_of
from ixfast.audit.tap_names import (
    CLOCK,
    EXPECTED,
    LINE,
    LINE_NAMES,
    LIST_NAMES,
    QUERY,
    QUERY_NAMES,
    STANDARD,
    TIME,
    TIME_NAMES,
    URL,
    URL_NAMES,
    folded,
)
from ixfast.audit.tap_times import is_time
from ixfast.json_members import repeated_in_line
from ixfast.tag_files.columns import shown

NOT_PARAMETERS = frozenset(("", TIME, CLOCK, URL, QUERY, LINE, EXPECTED))
NO_TAP = "the line contains no tap"
_NO_TAP_MEMBER = f"{NO_TAP}: no member is called url or query, or like a parameter of one"

_ESCAPED_BYTES = re.compile(r"(?<!\\)(?:\\x[0-9A-Fa-f]{2})+")  # of nginx, which is not JSON unless `escape=json` is set

_RESERVED = frozenset((*URL_NAMES, *QUERY_NAMES, *TIME_NAMES, EXPECTED))
_DEPTH = 3


class Rows(NamedTuple):
    """The lines of a chunk in columns: the tap as text (None for a blank or malformed line), and its time as given.

    `skipped` are the lines of a log that contain no request; they are neither taps nor malformed.
    """

    texts: list[str | None]
    times: list[Any]
    problems: dict[int, str]
    skipped: tuple[int, ...] = ()


class _TapObject(msgspec.Struct):
    at: str | float | None = None
    url: str | None = None
    query: str | None = None


_TAP_OBJECT = msgspec.json.Decoder(_TapObject)


def read_objects(text: str, parameters: Collection[str]) -> Rows:
    """Parse lines of JSON. `parameters` are the names, in lower case, that parameters of a tap have; any if there are none."""
    lines = text.split("\n")
    uniform = _uniform_objects(text, len(lines))
    if uniform is not None:
        return uniform
    texts: list[str | None] = []
    times: list[Any] = []
    problems: dict[int, str] = {}
    skipped: list[int] = []
    for row, line in enumerate(lines):
        tap = None
        at = None
        found, repeated = _object(line)
        if isinstance(found, dict):
            tap, at, of_log = _tap_of(found, parameters)
            if repeated and (not tap or any(_is_read(name, parameters) for name in repeated)):
                tap, problems[row] = None, "duplicate member"
            elif tap is None and of_log:
                skipped.append(row)
            elif tap is None:
                problems[row] = _NO_TAP_MEMBER
        elif line.strip():
            problems[row] = "not a JSON object"
        texts.append(tap)
        times.append(at)
    return Rows(texts, times, problems, tuple(skipped))


def sample(lines: Iterable[str], parameters: frozenset[str]) -> tuple[bool, tuple[str, ...]]:
    """Whether objects are those of a log and not of a list of taps, and the names that are not read in the first with a tap."""
    for line in lines:
        found, _ = _object(line)
        members = _members(found) if isinstance(found, dict) else {}
        named = (name for name in (*URL_NAMES, *QUERY_NAMES, *LINE_NAMES) if isinstance(members.get(name), str))
        name = next(named, None)
        if name is not None or not parameters.isdisjoint(map(str.lower, found or ())):
            unread = [shown(each) for each in found if folded(each) not in _RESERVED and each.lower() not in parameters]
            return name is not None and name not in LIST_NAMES and name != QUERY, tuple(filter(None, unread))
    return False, ()


def unwrapped(line: str, parameters: Collection[str]) -> LogLine:
    """The tap and the time of a line that another program wrapped, which may be JSON in its turn."""
    found = _object(line)[0] if line.lstrip().startswith("{") else None
    if not isinstance(found, dict):
        return read_log_line(line)
    tap, at, _ = _tap_of(found, parameters)
    return LogLine(tap, at)


def query_of(parameters: Mapping[str, Any]) -> str | None:
    """Join parameters to a query string; None if there are none."""
    pairs = [
        f"{name}={value if needs_no_quotes(value) else quote(value, safe='')}"
        for name, value in parameters.items()
        if value and isinstance(value, str) and name not in NOT_PARAMETERS
    ]
    return "&".join(pairs) or None


def joined(url: str, query: str) -> str:
    """A URL with its query, which logs often have in members of their own; `-` stands for none."""
    return url if "?" in url or query in ("", "-") else f"{url}?{query.removeprefix('?')}" if url else query


def needs_no_quotes(text: str) -> bool:
    return text.isascii() and text.encode().isalnum()


def _uniform_objects(text: str, lines: int) -> Rows | None:
    """Parse lines that are all objects with `at` and a `url` or `query`, at once and in a third of the time; None for others."""
    try:
        objects = _TAP_OBJECT.decode_lines(text)
    except msgspec.DecodeError:
        return None
    texts = [each.url or each.query for each in objects]
    if len(texts) != lines or not all(texts):
        return None
    # Each line has one tap and one time. More occurrences of these names, or escaped ones, may be duplicate members.
    times = [each.at for each in objects]
    if None in times or text.count('"url"') + text.count('"query"') != lines or text.count('"at"') != lines:
        return None
    if "\\" in text and "\\u00" in text:
        return None
    return Rows(texts, times, {})


def _object(line: str) -> tuple[Any, list[str]]:
    """The JSON value of a line, and its duplicate members; None if it is not JSON."""
    line = (
        _ESCAPED_BYTES.sub(lambda escapes: orjson.dumps(characters(escapes[0])).decode()[1:-1], line) if "\\x" in line else line
    )
    try:
        found = orjson.loads(line)
        return found, repeated_in_line(line, found) if isinstance(found, dict) else []
    except (orjson.JSONDecodeError, RecursionError):
        return None, []


def _is_read(name: str, parameters: Collection[str]) -> bool:
    return folded(name) in _RESERVED or not parameters or name.lower() in parameters


def _tap_of(found: dict[str, Any], parameters: Collection[str]) -> tuple[str | None, Any, bool]:
    """The tap of an object, its time, and whether the object has a line of a log."""
    members = _members(found)
    at = next((members[name] for name in TIME_NAMES if _is_time(name, members.get(name))), None)
    urls = [text for name in URL_NAMES if isinstance(text := members.get(name), str) and text]
    query = next((members[name] for name in QUERY_NAMES if members.get(name)), "")
    query = query_of(query) or "" if isinstance(query, dict) else query if isinstance(query, str) else ""
    url = next((url for url in urls if "?" in url), urls[0] if urls else "")
    own = {
        name.lower() if name.lower() in STANDARD else name: text
        for name, text in found.items()
        if not parameters or name.lower() in parameters
    }
    is_path = len(own) > 1 and "?" not in url and members.keys().isdisjoint(LIST_NAMES)  # beside the parameters of the tap
    if query or (url and not is_path):
        return joined(target_of(url), query), at, False
    line = next((text for name in LINE_NAMES if isinstance(text := members.get(name), str)), None)
    if (tap := query_of(own)) is None and line is not None:
        wrapped = unwrapped(line, parameters)
        return wrapped.target, wrapped.at if wrapped.at is not None else at, True
    return tap, at, False


def _members(found: dict[str, Any]) -> dict[str, Any]:
    """The members of an object and of those inside it by their folded names; the outermost of equal names."""
    members: dict[str, Any] = {}
    level = [found]
    for _ in range(_DEPTH):
        inner = []
        for each in level:
            for name, value in each.items():
                known = folded(name)
                if known not in members or (isinstance(members[known], dict) and known not in QUERY_NAMES):
                    members[known] = value
                if isinstance(value, dict):
                    inner.append(value)
        level = inner
    return members


def _is_time(name: str, value: Any) -> bool:
    """Whether a member is the time of the tap: `at` whatever it contains, any other only with a time."""
    if value is None or value == "":
        return False
    return name == TIME or (isinstance(value, str | int | float) and is_time(str(value)))
