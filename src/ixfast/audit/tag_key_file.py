"""Reads the key file of an audit: CSV with a header or JSON Lines, with one file key of one tag per line.

    xuid,uid,file_key,meta_key,profile
    q8w3sbcz,04A1B2C3D4E5F6,<32 hex digits>,<32 hex digits>,encrypted

Required are `file_key`, and `xuid` or `uid`. A meta key belongs to the whole account: it is tried on the mirrors of all tags,
whichever line has it. A tag with several live keys has one line for each, distinguished by `version` (1 if absent).

Messages name line and column, but never quote the value, which may be most of a key.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile, compile_profile
from ixfast.domain import references
from ixfast.domain.model import EncodingProfile, Key
from ixfast.errors import InputError, ProfileError
from ixfast.json_members import repeated_in_line
from ixfast.limits import CUSTOMER_ID_CHARS_MAX, KEY_VERSIONS_MAX, UID_BYTES

KEY_COLUMNS = ("xuid", "uid", "file_key", "meta_key", "profile", "version", "cuid", "aid")
_KEY_BYTES = 16
_NO_CHECK_VALUE = bytes(3)  # An audit never shows check values.


def read_keys(
    lines: Iterable[str],
    profile_of: Callable[[str], EncodingProfile],
    *,
    default_profile: str | None = None,
    catalogue: TagCatalogue | None = None,
) -> TagCatalogue:
    """Read a key file into a catalogue. `profile_of` finds a profile by its notation.

    `default_profile` applies to lines that name none. Raises InputError with the line, the column and what is wrong.
    """
    reader = _Reader(catalogue or TagCatalogue(), profile_of, default_profile)
    try:
        for row in reader.rows(lines):
            reader.take(row)
    except (InputError, ProfileError) as error:
        field = getattr(error, "field", None)
        where = f"key file, line {reader.number}" + (f", {field}" if field else "")
        raise InputError("invalid_parameter", f"{where}: {error}", field) from None
    if not len(reader.catalogue):
        raise InputError("invalid_parameter", "The key file contains no keys.", "keys")
    return reader.catalogue


def _header(line: str) -> list[str]:
    names = [name.strip().lower() for name in next(csv.reader([line.strip().removeprefix("\ufeff")]))]
    if "file_key" not in names or not {"xuid", "uid"} & set(names) or len(set(names)) < len(names):
        known = ", ".join(KEY_COLUMNS)
        raise InputError(
            "invalid_parameter",
            f"the first line must name the columns: file_key, and xuid or uid; others allowed are among {known}.",
        )
    return names


def _object(line: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(line)
        repeated = repeated_in_line(line, found) if isinstance(found, dict) else []
    except (orjson.JSONDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("invalid_parameter", "The line is not a JSON object.")
    if repeated:  # quoted only if it is a known column: in a malformed file it may be a key
        named = next((name for name in repeated if name in KEY_COLUMNS), "a member")
        raise InputError("invalid_parameter", "appears twice in the line.", named)
    return found


class _Reader:
    def __init__(
        self, catalogue: TagCatalogue, profile_of: Callable[[str], EncodingProfile], default_profile: str | None
    ) -> None:
        self.catalogue = catalogue
        self._profile_of = profile_of
        self._default = default_profile
        self._compiled: dict[str, CompiledProfile] = {}
        self.number = 1  # of the current line

    def rows(self, lines: Iterable[str]) -> Iterator[Mapping[str, Any]]:
        names: list[str] | None = None
        objects = False
        for self.number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if objects or (names is None and line.lstrip().startswith("{")):
                objects = True
                yield _object(line)
            elif names is None:
                names = _header(line)
            else:
                row = next(csv.reader([line.rstrip("\r\n")]))
                if len(row) != len(names):
                    raise InputError("invalid_parameter", f"has {len(row)} fields, the header has {len(names)}.")
                yield dict(zip(names, map(str.strip, row), strict=True))

    def take(self, row: Mapping[str, Any]) -> None:
        catalogue = self.catalogue
        uid = _hex(row, "uid", UID_BYTES)
        # A tag without a code is reported by its UID.
        code = _text(row, "xuid") or uid.hex().upper()
        if not references.CODE.fullmatch(code):
            raise InputError("invalid_parameter", "must consist of letters and digits, or be left out if there is a UID.", "xuid")
        value = _hex(row, "file_key", _KEY_BYTES)
        if not value:
            raise InputError("invalid_parameter", f"must be {2 * _KEY_BYTES} hex digits.", "file_key")
        key = Key(_version(row), value, _NO_CHECK_VALUE)
        profile = self._profile(_text(row, "profile") or self._default)
        meta_key = _hex(row, "meta_key", _KEY_BYTES)
        if meta_key:
            catalogue.add_meta_keys([Key(len(catalogue.meta_keys) + 1, meta_key, _NO_CHECK_VALUE)])
        tag = catalogue.by_code.get(code)
        if tag is None:
            cuid = _text(row, "cuid")
            if len(cuid) > CUSTOMER_ID_CHARS_MAX:
                raise InputError("invalid_parameter", f"must be at most {CUSTOMER_ID_CHARS_MAX} characters.", "cuid")
            catalogue.add(code, profile, uid=uid, keys=(key,), cuid=cuid, aid=_text(row, "aid"))
        elif catalogue.uids[tag] != uid or catalogue.profile(tag) is not profile:
            raise InputError("invalid_parameter", "an earlier line has a different UID or profile for this tag.", "xuid")
        else:
            catalogue.add_key(tag, key)

    def _profile(self, notation: str | None) -> CompiledProfile:
        if notation is None:
            raise InputError("invalid_parameter", "is missing; name a profile here or with --profile.", "profile")
        compiled = self._compiled.get(notation)
        if compiled is None:
            compiled = self._compiled[notation] = compile_profile(self._profile_of(notation))
        return compiled


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError("invalid_parameter", "must be a string.", name)
    return value


def _hex(row: Mapping[str, Any], name: str, length: int) -> bytes:
    """The bytes of a column; b"" if it is blank or absent."""
    text = _text(row, name)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(text) != 2 * len(value) or len(value) not in (0, length):
        raise InputError("invalid_parameter", f"must be {2 * length} hex digits.", name)
    return value


def _version(row: Mapping[str, Any]) -> int:
    text = row.get("version")
    if text is None or text == "":
        return 1
    try:
        version = int(text)
    except (TypeError, ValueError):
        version = 0
    if not 0 < version <= KEY_VERSIONS_MAX:
        raise InputError("invalid_parameter", f"must be between 1 and {KEY_VERSIONS_MAX}.", "version")
    return version
