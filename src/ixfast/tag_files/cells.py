"""One cell: its text to a value, or a `CellError`. Texts here are never blank; a blank cell is not converted.

What names a tag or is a key is read without the spaces around it; names, responses and fields are taken as they are.
"""

from __future__ import annotations

import datetime as dt
import re

from ixfast.errors import InputError
from ixfast.limits import CUSTOMER_ID_CHARS_MAX, TAG_CODE_CHARS_MAX, UID_BYTES
from ixfast.responses.response_text import compile_response
from ixfast.tag_files.problems import NAME_CHARS_MAX

KEY_BYTES = 16
CHECK_VALUE_BYTES = 3
NOT_ASSIGNED = "no"
NOW = "now"
Assigned = dt.datetime | str

_ZERO_KEY = bytes(KEY_BYTES)
_XUID = re.compile(rf"[A-Za-z0-9]{{1,{TAG_CODE_CHARS_MAX}}}")
_SEPARATORS = str.maketrans("", "", ": -.")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_YES = frozenset(("yes", "y", "true", "1"))
_NO = frozenset(("no", "n", "false", "0"))


class CellError(Exception):
    """A cell cannot be read; `code` is one of `problems.PROBLEMS`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def xuid(text: str) -> str:
    text = text.strip()
    if _XUID.fullmatch(text) is None or not text.isascii():
        raise CellError("bad_xuid")
    return text


def uid(text: str) -> bytes:
    """A chip's UID: 7 bytes."""
    value = _hex(text, UID_BYTES)
    if len(value) != UID_BYTES:
        raise CellError("uid_4_bytes" if len(value) == 4 else "uid_length")
    return value


def key(text: str) -> bytes:
    """An AES-128 key: 16 bytes, not all zero."""
    value = key_or_zeros(text)
    if value == _ZERO_KEY:
        raise CellError("zero_key")
    return value


def key_or_zeros(text: str) -> bytes:
    value = _hex(text, KEY_BYTES)
    if len(value) != KEY_BYTES:
        raise CellError("key_length")
    return value


def check_value(text: str) -> bytes:
    value = _hex(text, CHECK_VALUE_BYTES)
    if len(value) != CHECK_VALUE_BYTES:
        raise CellError("bad_check_value")
    return value


def cuid(text: str) -> str:
    if len(text) > CUSTOMER_ID_CHARS_MAX or _CONTROL.search(text) is not None or text != text.strip():
        raise CellError("bad_cuid")
    return text


def name(text: str) -> str:
    if len(text) > NAME_CHARS_MAX:
        raise CellError("bad_name")
    if _CONTROL.search(text) is not None:
        raise CellError("bad_text")
    return text


def response(text: str) -> str:
    """The text that the tag answers, with subtags; it may have lines."""
    if "\0" in text:
        raise CellError("bad_text")
    try:
        compile_response(text)
    except InputError:
        raise CellError("bad_response") from None
    return text


def field(text: str) -> str:
    if _CONTROL.search(text) is not None:
        raise CellError("bad_text")
    try:
        compile_response(text, inner=True)
    except InputError:
        raise CellError("bad_field") from None
    return text


def status(text: str) -> bool:
    """Whether the tag is active."""
    word = text.strip().lower()
    if word not in ("active", "inactive"):
        raise CellError("bad_status")
    return word == "active"


def assigned(text: str) -> Assigned:
    """NOW, NOT_ASSIGNED, or a moment; without a zone it is UTC's."""
    word = text.strip().lower()
    if word in _YES:
        return NOW
    if word in _NO:
        return NOT_ASSIGNED
    try:
        moment = dt.datetime.fromisoformat(word.upper())
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise CellError("bad_assigned") from None


def _hex(text: str, length: int) -> bytes:
    """The bytes of hexadecimal digits, hopefully `length` of them; none at all for an odd number of digits."""
    if len(text) == 2 * length:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) == length:  # fewer where spaces were passed over
            return value
    digits = text.strip().translate(_SEPARATORS)
    if digits[:2] in ("0x", "0X"):
        digits = digits[2:]
    if not digits.isalnum():
        raise CellError("bad_hex")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        even = digits if len(digits) % 2 == 0 else "0" + digits
        try:
            bytes.fromhex(even)
        except ValueError:
            raise CellError("bad_hex") from None
        return b""
