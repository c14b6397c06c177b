"""Checks of how a request is framed, before it is routed: the length, coding and encoding of its body, and its `Expect`.

Both listeners check every request that reaches aiohttp, before `100 Continue` is sent and before any of the body is read, so
that a client whose body would be refused need not send it. No error quotes the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping

from aiohttp import ClientError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from ixfast import limits
from ixfast.errors import InputError

BODY_BYTES_MAX: web.AppKey[Mapping[str, int]] = web.AppKey("body_bytes_max", dict)
"""Limits of an application by path. Paths that are not listed have `limits.REQUEST_BODY_BYTES_MAX`."""

_BROKEN_BODY = (ClientError, HttpProcessingError, OSError, web.RequestPayloadError)
_LENGTH_DIGITS_MAX = 19  # The digits of 2^63 - 1, beyond which parsers disagree.
_LENGTH_MAX = (1 << 63) - 1
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']*)""", re.IGNORECASE)
_UTF8 = frozenset(("utf-8", "utf8", "us-ascii", "ascii"))
_FORM = "application/x-www-form-urlencoded"


def check(request: web.BaseRequest, body_bytes_max: int) -> None:
    """Raise InputError for a request that no route can read. `body_bytes_max` is the limit of its path."""
    headers = request.headers
    if "Content-Length" in headers:
        _check_length(headers["Content-Length"], body_bytes_max)
    if any(value.lower() != "chunked" for value in headers.getall("Transfer-Encoding", ())):
        raise InputError("invalid_request", "The only supported transfer coding is chunked.", "Transfer-Encoding")
    if request.body_exists:
        _check_encoding(request)
    expected = headers.getall("Expect", ()) if request.version == HttpVersion11 else ()
    if any(value.lower() not in ("", "100-continue") for value in expected):
        raise InputError("expectation_failed", "The only supported expectation is 100-continue.", "Expect")


def _check_length(value: str, most: int) -> None:
    digits = value.lstrip("0")
    if not (value.isascii() and value.isdigit() and len(digits) <= _LENGTH_DIGITS_MAX and int(digits or "0") <= _LENGTH_MAX):
        raise InputError("invalid_request", "Content-Length must be a decimal number below 2^63.", "Content-Length")
    if int(digits or "0") > most:
        raise InputError("too_large", f"The body is larger than {most} bytes.")


def _check_encoding(request: web.BaseRequest) -> None:
    codings = ",".join(request.headers.getall("Content-Encoding", ())).split(",")
    if any(coding.strip(" \t").lower() not in ("", "identity") for coding in codings):
        raise InputError("unsupported_encoding", "Send the body without a Content-Encoding.", "Content-Encoding")
    content_type = request.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip(" \t").lower() == _FORM:
        return  # ASCII in any charset; its percent-escapes are decoded as UTF-8
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1].lower() not in _UTF8:
        raise InputError("unsupported_encoding", "Send the body in UTF-8.", "Content-Type")


@contextlib.contextmanager
def reading(request: web.Request, message: str = "The body ended early.") -> Iterator[None]:
    """Wrap code that reads the body: InputError with `message` if the sender disconnects or the framing is wrong."""
    try:
        yield
    except _BROKEN_BODY:
        raise InputError("invalid_request", message) from None
    except RuntimeError:  # aiohttp raises it if the connection was closed before reading began
        if request.transport is not None:
            raise
        raise InputError("invalid_request", message) from None


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises InputError if it takes too long or ends early, HTTPRequestEntityTooLarge if it is too large."""
    try:
        async with asyncio.timeout(limits.REQUEST_BODY_S):
            with reading(request):
                return await request.read()
    except TimeoutError:
        raise InputError("invalid_request", f"The body did not arrive within {limits.REQUEST_BODY_S:g} s.") from None
