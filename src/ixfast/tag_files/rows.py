"""One line: its cells to a `TagRow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ixfast import cmac
from ixfast.tag_files.cells import CHECK_VALUE_BYTES, NOT_ASSIGNED, NOW, Assigned, CellError
from ixfast.tag_files.columns import SLOTS, Cell
from ixfast.tag_files.problems import Problems

__all__ = ["NOT_ASSIGNED", "NOW", "NO_CHANGE", "TagRow", "check_value", "read_row"]

NO_CHANGE: Mapping[str, str] = {}
_ZERO_BLOCK = bytes(16)


class TagRow:
    """A tag as one line has it; None means «leave as it is». Keys have 16 bytes and are in no `repr`."""

    __slots__ = (
        "active",
        "assigned",
        "check_value",
        "cuid",
        "fields",
        "key",
        "line",
        "meta_key",
        "name",
        "response",
        "uid",
        "xuid",
    )

    def __init__(
        self,
        line: int,
        xuid: str | None,
        uid: bytes | None,
        cuid: str | None,
        name: str | None,
        response: str | None,
        active: bool | None,
        assigned: Assigned | None,
        key: bytes | None,
        meta_key: bytes | None,
        check_value: bytes | None,
        fields: Mapping[str, str],
    ) -> None:
        self.line = line
        self.xuid = xuid
        self.uid = uid
        self.cuid = cuid
        self.name = name
        self.response = response
        self.active = active
        self.assigned = assigned
        self.key = key
        self.meta_key = meta_key
        self.check_value = check_value  # of `key`, where there is one
        self.fields = fields

    def __repr__(self) -> str:
        return f"TagRow(line={self.line}, xuid={self.xuid!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("A line with a key is not to be pickled: it would leave the process.")


def check_value(key16: bytes) -> bytes:
    """What `keys.check_value` says of a key, by the native core: 0.4 us instead of 4.6."""
    return bytes(cmac.aes_cmac(key16, _ZERO_BLOCK)[:CHECK_VALUE_BYTES])


def read_row(line: int, texts: Sequence[str], cells: Sequence[Cell], problems: Problems) -> TagRow | None:
    """The row of a line; None for a blank line, and for one with problems, which are added."""
    values: list[Any] = [None] * len(SLOTS)
    fields: dict[str, str] | None = None
    blank = good = True
    for place, name, slot, convert, field in cells:
        text = texts[place]
        if not text or text.isspace():
            continue
        blank = False
        try:
            value = convert(text)
        except CellError as error:
            problems.add(line, name, error.code)
            good = False
            continue
        if field is None:
            values[slot] = value
        else:
            fields = {**(fields or {}), field: value}
    if blank or not good:
        return None
    xuid, uid, cuid, tag_name, response, active, assigned, key, meta_key, check = values
    if xuid is None and uid is None and cuid is None:
        problems.add(line, None, "no_identity")
        return None
    if key is not None:
        stated, check = check, check_value(key)
        if stated is not None and stated != check:
            problems.add(line, "KEY_CHECK_VALUE", "check_value_differs")
            return None
    else:
        check = None
    return TagRow(line, xuid, uid, cuid, tag_name, response, active, assigned, key, meta_key, check, fields or NO_CHANGE)
