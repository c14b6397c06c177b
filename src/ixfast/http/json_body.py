"""Decoding JSON bodies into the types of the API, with errors that name the member and never quote its value."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from ixfast.errors import InputError

_ENUM_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*", re.DOTALL)  # the value may be a token in the wrong member

T = TypeVar("T")


def decode_json(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    """`content` as a `kind`. Raises InputError `invalid_request`; its `field` is the path of a member of the wrong type."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        reason = _ENUM_VALUE.sub(r"\1", reason)
        raise InputError("invalid_request", f"The body does not match the schema: {reason}.", path.rstrip("`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("invalid_request", "The body is not valid JSON in UTF-8.") from None
