"""Decoding JSON bodies into the types of the API, with errors that name the member and never quote what was sent.

Neither values nor unknown names are quoted: either may be a token or a key in the wrong place. What may be sent instead comes
from the type: the values of an enumeration, and the members of an object with the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from ixfast.errors import InputError
from ixfast.http.unknown_names import suggestion

_PLACE = re.compile(r"^(.*?)(?: - at `\$\.?([^`]*)`)?$", re.DOTALL)
_UNKNOWN_MEMBER = re.compile(r"^Object contains unknown field `(.*?)`(?: - at `\$\.?([^`]*)`)?$", re.DOTALL)
_INVALID_VALUE = re.compile(r"^Invalid (?:enum )?value\b", re.DOTALL)
_STEP = re.compile(r"([^.\[\]]+)|\[(?:\d+|\.\.\.)\]")

T = TypeVar("T")


def decode_json(content: bytes | msgspec.Raw, kind: type[T]) -> T:
    """`content` as a `kind`. Raises InputError `invalid_request`; its `field` is the path of a member of the wrong type."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        reason, place = explained(error, kind)
        raise InputError("invalid_request", f"The body does not match the schema: {reason}", place) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InputError("invalid_request", "The body is not valid JSON in UTF-8.") from None


def explained(error: msgspec.ValidationError, kind: Any) -> tuple[str, str | None]:
    """What a validation error of a `kind` says, as a sentence without what was sent, and the path of the member."""
    unknown = _UNKNOWN_MEMBER.match(str(error))
    if unknown is not None:
        name, path = unknown[1], unknown[2] or ""
        names = _member_names(kind, path)
        if not names:  # the unknown name itself looked like a path
            names, path = _member_names(kind, ""), ""
        known = f" Its members are {', '.join(names)}." if names else ""
        return f"Object contains an unknown member.{suggestion(name, names)}{known}", path or None
    found = _PLACE.match(str(error))
    assert found is not None
    reason, path = found[1], found[2] or ""
    if _INVALID_VALUE.match(reason):
        values = dict.fromkeys(value for each in _types_at(kind, path) for value in _values(each))
        reason = f"Invalid value; it must be one of {', '.join(values)}" if values else "Invalid value"
    return f"{reason}.", path or None


def _member_names(kind: Any, path: str) -> list[str]:
    return list(dict.fromkeys(name for each in _types_at(kind, path) for name in _members(each)))


def _types_at(kind: Any, path: str) -> Iterator[Any]:
    """The types that a value at this path of a `kind` may have."""
    types = list(_plain(inspect.type_info(kind)))
    for step in _STEP.finditer(path):
        types = [inner for each in types for inner in _inside(each, step[1])]
    yield from types


def _inside(kind: Any, name: str | None) -> Iterator[Any]:
    """The types of a member of this name, or of an element if there is no name."""
    if isinstance(kind, inspect.StructType) and name is not None:
        if name == kind.tag_field:
            yield inspect.LiteralType((str(kind.tag),))
        for field in kind.fields:
            if field.encode_name == name:
                yield from _plain(field.type)
    elif isinstance(kind, inspect.DictType) and name is None:
        yield from _plain(kind.value_type)
    elif isinstance(kind, inspect.CollectionType) and name is None:
        yield from _plain(kind.item_type)


def _plain(kind: Any) -> Iterator[Any]:
    """The type itself, or each type of a union."""
    if isinstance(kind, inspect.Metadata):
        yield from _plain(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _plain(each)
    else:
        yield kind


def _members(kind: Any) -> Iterator[str]:
    if isinstance(kind, inspect.StructType):
        if kind.tag_field is not None:
            yield kind.tag_field
        yield from (field.encode_name for field in kind.fields)


def _values(kind: Any) -> Iterator[str]:
    if isinstance(kind, inspect.LiteralType):
        yield from map(str, kind.values)
    elif isinstance(kind, inspect.EnumType):
        yield from (str(each.value) for each in kind.cls)
