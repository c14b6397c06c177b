"""Reads the request and the time from a line of a server's log, whatever else the line has.

The request is the text in quotation marks in the common and combined formats of Apache and nginx, in those of AWS load
balancers, S3, Traefik, HAProxy, Envoy and uvicorn; in other lines it is the first URL or path, preferably with a query. The time
is the first one outside of the request. Apache and nginx escape what could end the quotation: `\\x22`, `\\"`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

REQUEST = re.compile(r'"[A-Z]{3,10} ((?:[^\s"\\]|\\.)+)(?: [A-Z]+/[\d.]+)?"')
"""A quoted request line: `"GET /t?uid=... HTTP/1.1"`."""

_REQUEST_LINE = re.compile(r"[A-Z]{3,10} (\S+)(?: [A-Z]+/[\d.]+)?")
_TARGET = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://|(?<![\w/.])/)[^\s\"'<>\[\]|]+")
_TIME = re.compile(
    r"(\d{2}/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?:\.\d+)?(?: [+-]\d{4})?)"
    r"|(\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?UTC| ?[+-]\d\d:?\d\d)?)"
)


_ESCAPED = re.compile(r"(?:\\x[0-9A-Fa-f]{2})+|\\[\"\\]")


class LogLine(NamedTuple):
    """The URL or path that was requested and the time as it is written; None for what the line lacks."""

    target: str | None
    at: Any


def read_log_line(line: str) -> LogLine:
    found = REQUEST.search(line)
    if found is not None:
        target, rest = found[1], line[: found.start()] + line[found.end() :]
    else:
        targets = _TARGET.findall(line)
        target = next((each for each in targets if "?" in each), targets[0] if targets else None)
        rest = line.replace(target, "", 1) if target is not None else line
    at = _TIME.search(rest)
    return LogLine(unescaped(target) if target is not None else None, at[0] if at is not None else None)


def target_of(text: str) -> str:
    """The target of a request line; any other text as it is."""
    found = _REQUEST_LINE.fullmatch(text)
    return unescaped(found[1] if found is not None else text)


def unescaped(text: str) -> str:
    """A text without the escapes that servers write into their logs."""
    return _ESCAPED.sub(lambda found: characters(found[0]), text) if "\\" in text else text


def characters(escapes: str) -> str:
    """What escapes of a log stand for; bytes that are not UTF-8 remain escaped, as in a URL."""
    if not escapes.startswith("\\x"):
        return escapes[1]
    content = bytes.fromhex(escapes.replace("\\x", ""))
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and text else "".join(f"%{byte:02X}" for byte in content)
