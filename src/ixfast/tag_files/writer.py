"""Writes tags as CSV or JSON Lines that an import reads back without changing anything. Never contains keys.

CSV files are opened with spreadsheets, so their cells are protected against formula injection (`formulas.py`). JSON Lines have
every value unchanged.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence

import orjson

from ixfast.tag_files.columns import FIELD_PREFIX, is_built_in
from ixfast.tag_files.formulas import neutralised

FORMATS = ("csv", "jsonl")
_COLUMNS = (
    "XUID", "UID", "CUID", "TAGNAME", "RESPONSE", "STATUS", "ASSIGNED", "KEY_VERSION", "KEY_CHECK_VALUE", "LAST_COUNTER",
    "SCAN_COUNT",
)  # fmt: skip


class TagWriter:
    """Encodes the lines of one file. `fields` are the extended fields that become columns."""

    def __init__(self, format_: str, fields: Sequence[str], *, meta_keys: bool = False) -> None:
        """With `meta_keys` the file has check values of the tags' own meta keys. Raises ValueError for a format that is not in
        FORMATS."""
        if format_ not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}")
        self._as_csv = format_ == "csv"
        self._fields = tuple(fields)
        self._meta_keys = meta_keys
        columns = (*_COLUMNS, "META_KEY_CHECK_VALUE") if meta_keys else _COLUMNS
        self._names = (*columns, *(FIELD_PREFIX + name if is_built_in(name) else name for name in fields))
        self._buffer = io.StringIO(newline="")
        self._csv = csv.writer(self._buffer, lineterminator="\r\n")

    def header(self) -> bytes:
        """The header line of CSV; b"" for JSON Lines."""
        return self._csv_lines([self._names]) if self._as_csv else b""

    def lines(self, rows: Sequence[Sequence[str | None]]) -> bytes:
        """Encode rows, each as `values_of` returns it. JSON Lines omit blank values."""
        if self._as_csv:
            return self._csv_lines(rows)
        return b"".join(
            orjson.dumps({name: value for name, value in zip(self._names, row, strict=True) if value}) + b"\n" for row in rows
        )

    def values_of(
        self,
        *,
        xuid: str,
        uid: bytes | None,
        cuid: str | None,
        name: str | None,
        response: str | None,
        active: bool,
        assigned_at: dt.datetime | None,
        key_version: int | None,
        key_check_value: bytes | None,
        last_counter: int | None,
        scan_count: int | None,
        meta_key_check_value: bytes | None = None,
        fields: Mapping[str, str],
    ) -> list[str | None]:
        """The cells of one tag in the order of the columns."""
        return [
            xuid,
            uid.hex().upper() if uid is not None else None,
            cuid,
            name,
            response,
            "active" if active else "inactive",
            assigned_at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z") if assigned_at is not None else "no",
            str(key_version) if key_version is not None else None,
            key_check_value.hex().upper() if key_check_value is not None else None,
            str(last_counter) if last_counter is not None else None,
            str(scan_count) if scan_count is not None else None,
            *([meta_key_check_value.hex().upper() if meta_key_check_value is not None else None] if self._meta_keys else ()),
            *(fields.get(field) for field in self._fields),
        ]

    def _csv_lines(self, rows: Sequence[Sequence[str | None]]) -> bytes:
        self._csv.writerows([neutralised(value) if value else "" for value in row] for row in rows)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode()
