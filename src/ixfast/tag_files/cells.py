"""Converters from the text of one cell to its value; each raises `CellError` for text that it cannot convert.

Converters never get blank text: a blank cell leaves the tag's value unchanged, and `rows.read_row` skips it. Customer ids, names,
response texts and fields are stored exactly as written; all other values ignore surrounding spaces.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection

from ixfast.domain import references
from ixfast.errors import InputError
from ixfast.limits import COUNTER_MAX, CUSTOMER_ID_CHARS_MAX, UID_BYTES
from ixfast.responses.response_text import compile_response
from ixfast.tag_files.problems import NAME_CHARS_MAX, SCAN_COUNT_MAX

KEY_BYTES = 16
CHECK_VALUE_BYTES = 3
NOT_ASSIGNED = "no"
NOW = "now"
Assigned = dt.datetime | str

_ZERO_KEY = bytes(KEY_BYTES)

_SEPARATORS = str.maketrans("", "", ": -.")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_HEX_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,6}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_YES = frozenset(("yes", "y", "true", "1"))
_NO = frozenset(("no", "n", "false", "0"))


class CellError(Exception):
    """Text that cannot be converted; `code` is a key of `problems.PROBLEMS`. Carries nothing of the text itself."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def xuid(text: str) -> str:
    """A tag code: 1 to `TAG_CODE_CHARS_MAX` ASCII letters and digits."""
    text = text.strip()
    if references.CODE.fullmatch(text) is None:
        raise CellError("bad_xuid")
    return text


def uid(text: str) -> bytes:
    """A chip's UID, 7 bytes, from 14 hex digits with optional separators (`:`, space, `-`, `.`) and `0x` prefix."""
    value = _hex(text, UID_BYTES)
    if len(value) != UID_BYTES:
        raise CellError("uid_4_bytes" if len(value) == 4 else "uid_length")
    return value


def key(text: str) -> bytes:
    """An AES-128 key, 16 bytes, which must not be all zeros; written like a UID."""
    value = key_or_zeros(text)
    if value == _ZERO_KEY:
        raise CellError("zero_key")
    return value


def key_or_zeros(text: str) -> bytes:
    """An AES-128 key, 16 bytes, which may be all zeros."""
    value = _hex(text, KEY_BYTES)
    if len(value) != KEY_BYTES:
        raise CellError("key_length")
    return value


def check_value(text: str) -> bytes:
    """A key's check value, 3 bytes."""
    value = _hex(text, CHECK_VALUE_BYTES)
    if len(value) != CHECK_VALUE_BYTES:
        raise CellError("bad_check_value")
    return value


def cuid(text: str) -> str:
    """A customer id, verbatim: at most `CUSTOMER_ID_CHARS_MAX` characters, without control characters or surrounding spaces."""
    if len(text) > CUSTOMER_ID_CHARS_MAX or _CONTROL.search(text) is not None or text != text.strip():
        raise CellError("bad_cuid")
    return text


def name(text: str) -> str:
    """A tag's name: at most `NAME_CHARS_MAX` characters, without control characters."""
    if len(text) > NAME_CHARS_MAX:
        raise CellError("bad_name")
    if _CONTROL.search(text) is not None:
        raise CellError("bad_text")
    return text


def response(text: str) -> str:
    """A tag's response text; it may contain subtags and line breaks, but no NUL, which PostgreSQL cannot store."""
    if "\0" in text:
        raise CellError("bad_text")
    try:
        compile_response(text)
    except InputError:
        raise CellError("bad_response") from None
    return text


def field(text: str) -> str:
    """The value of an extended field; it may contain subtags, but no control characters."""
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
    """`NOW`, `NOT_ASSIGNED`, or an aware UTC time; a date or time without an offset is taken as UTC."""
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


def counter(text: str) -> int:
    """A chip's counter, 0 to `COUNTER_MAX`: decimal, or hexadecimal after `0x`.

    Other leading zeros are refused. Tap URLs print counters in hexadecimal with six digits, so `000010` would be ambiguous.
    """
    digits = text.strip()
    if _HEX_NUMBER.fullmatch(digits) is not None:
        return int(digits, 16)
    if _NUMBER.fullmatch(digits) is None or int(digits) > COUNTER_MAX:
        raise CellError("bad_counter")
    return int(digits)


def scan_count(text: str) -> int:
    """A number of scans, decimal, 0 to `SCAN_COUNT_MAX`."""
    digits = text.strip()
    if _NUMBER.fullmatch(digits) is None or int(digits) > SCAN_COUNT_MAX:
        raise CellError("bad_scan_count")
    return int(digits)


def one_of(accepted: Callable[[], Collection[str]], code: str, text: str) -> str:
    """Strip and check a text that says what the line is for; `code` is that of the problem if it is for something else."""
    text = text.strip()
    if text not in accepted():
        raise CellError(code)
    return text


def _hex(text: str, length: int) -> bytes:
    """Decode hex digits; b"" for an odd number of them. `length` is the usual result length, for which there is a fast path."""
    if len(text) == 2 * length:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) == length:  # shorter if the text had spaces, which `fromhex` skips
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
