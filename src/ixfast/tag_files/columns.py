"""The names of columns: one table of aliases, presets for files that other programs write, and extended fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ixfast.rules.facts import field_key
from ixfast.rules.rule_error import nearest
from ixfast.tag_files import cells
from ixfast.tag_files.problems import Problems

IGNORED = "IGNORED"
FIELD_PREFIX = "field."

ALIASES: Mapping[str, tuple[str, ...]] = {
    "XUID": ("XUID", "TAG_CODE", "CODE"),
    "UID": ("UID", "CHIP_UID", "TAG_UID"),
    "CUID": ("CUID", "CUSTOMER_ID"),
    "TAGNAME": ("TAGNAME", "NAME"),
    "RESPONSE": ("RESPONSE", "DEFAULT_RESPONSE"),
    "STATUS": ("STATUS",),
    "ASSIGNED": ("ASSIGNED",),
    "KEY": ("KEY", "FILE_KEY", "SDM_FILE_READ_KEY", "SDM_MAC_KEY", "APP_READ_KEY"),
    "META_KEY": ("META_KEY", "SDM_META_READ_KEY", "PICC_MASTER_KEY"),
    "KEY_CHECK_VALUE": ("KEY_CHECK_VALUE", "KCV"),
    IGNORED: ("KEY_VERSION",),
}
"""What a column means: the names it may have, in any case of letters, with or without spaces, `_` and `-`."""

CONVERTERS: Mapping[str, Callable[[str], Any]] = {
    "XUID": cells.xuid,
    "UID": cells.uid,
    "CUID": cells.cuid,
    "TAGNAME": cells.name,
    "RESPONSE": cells.response,
    "STATUS": cells.status,
    "ASSIGNED": cells.assigned,
    "KEY": cells.key,
    "META_KEY": cells.key,
    "KEY_CHECK_VALUE": cells.check_value,
}
SLOTS = tuple(CONVERTERS)
_FIELD_SLOT = len(SLOTS)
_IDENTITIES = frozenset(("XUID", "UID", "CUID"))
_KEYS = frozenset(("KEY", "META_KEY"))
_LIKE_A_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 _.-]{0,39}")
_LIKE_A_VALUE = re.compile(r"(?:[0-9A-Fa-f]{2}[ :-]?){4,}")
_FOLDED_AWAY = str.maketrans("", "", " _-")


class Preset(NamedTuple):
    """Names as one program writes them: what they mean; other names are looked up in the table of aliases."""

    description: str
    columns: Mapping[str, str]


PRESETS: Mapping[str, Preset] = {
    "ixkio": Preset(
        "ixkio's Associate Data upload",
        dict.fromkeys(("NFTCONTRACT", "NFTTOKEN", "NFTCHAIN", "NFTOWNER", "NFTMETA"), IGNORED),
    ),
    "sdm-keys": Preset(
        "key files with uid, picc_master_key, app_read_key and sdm_mac_key, the keys 0, 1 and 3 of each chip",
        {
            "SDM_MAC_KEY": "KEY",
            **dict.fromkeys(
                (
                    "PICC_MASTER_KEY", "APP_READ_KEY", "STATUS", "PROVISIONED_DATE", "LAST_USED_DATE", "NOTES", "OUTCOME",
                    "COIN_NAME",
                ),
                IGNORED,
            ),
        },
    ),
    "bolt-card": Preset(
        "key files with uid and k0 to k4, where k1 opens the mirror and k2 signs",
        {"K1": "META_KEY", "K2": "KEY", **dict.fromkeys(("K0", "K3", "K4"), IGNORED)},
    ),
}  # fmt: skip


class Cell(NamedTuple):
    """Where a column stands in a line, where its value goes, and how it is read. A field's slot is past the last."""

    place: int
    name: str
    slot: int
    convert: Callable[[str], Any]
    field: str | None = None


class Layout:
    """What the columns of one file may be called. Extended fields are those of a folder."""

    def __init__(
        self,
        *,
        preset: str | None = None,
        ignored: Collection[str] = (),
        fields: Sequence[str] = (),
        allow_keys: bool = True,
        allow_zero_keys: bool = False,
    ) -> None:
        """`KeyError` for an unknown preset."""
        self._meanings = {_folded(alias): meaning for meaning, aliases in ALIASES.items() for alias in aliases}
        if preset is not None:
            self._meanings |= {_folded(name): meaning for name, meaning in PRESETS[preset].columns.items()}
        self._meanings |= {_folded(name): IGNORED for name in ignored}
        self._fields = {field_key(name): name for name in fields}
        self._forbidden = _KEYS if not allow_keys else frozenset()
        self._converters = dict(CONVERTERS)
        if allow_zero_keys:
            self._converters |= {"KEY": cells.key_or_zeros, "META_KEY": cells.key_or_zeros}

    def cells(self, names: Sequence[str], line: int, problems: Problems, *, is_header: bool = True) -> tuple[Cell, ...]:
        """The cells that the named columns are read into; what is wrong with them is added to `problems`."""
        if is_header and _is_data(names):
            problems.add(line, None, "no_header")
            return ()
        found: list[Cell] = []
        taken: dict[str, str] = {}
        for index, name in enumerate(names):
            meaning, field = self._meaning(name)
            if meaning == IGNORED or (is_header and not name.strip() and index == len(names) - 1):
                continue  # spreadsheets like to end a line with a comma
            if meaning is None and field is None:
                problems.add(line, shown(name), "unknown_column", self._hint(name))
                continue
            if meaning in self._forbidden:
                problems.add(line, shown(name), "keys_not_allowed")
                continue
            target = meaning or f"{FIELD_PREFIX}{field}"
            if target in taken:
                problems.add(line, shown(name), "duplicate_column", f"{taken[target]} and {name.strip()} are both {target}.")
                continue
            taken[target] = name.strip()
            if meaning is not None:
                found.append(Cell(index, name.strip(), SLOTS.index(meaning), self._converters[meaning]))
            else:
                found.append(Cell(index, name.strip(), _FIELD_SLOT, cells.field, field))
        if is_header and not _IDENTITIES & taken.keys() and not problems:
            problems.add(line, None, "no_identity_column")
        return tuple(found)

    def _meaning(self, name: str) -> tuple[str | None, str | None]:
        """What a column means, or the extended field that it is."""
        bare = name.strip()
        if bare.lower().startswith(FIELD_PREFIX):
            return None, self._fields.get(field_key(bare[len(FIELD_PREFIX) :]))
        meaning = self._meanings.get(_folded(bare))
        return (meaning, None) if meaning is not None else (None, self._fields.get(field_key(bare)))

    def _hint(self, name: str) -> str:
        if shown(name) is None:
            return ""
        known = {alias.lower(): alias for aliases in ALIASES.values() for alias in aliases}
        known |= {field.lower(): field for field in self._fields.values()}
        meant = nearest(name.strip().replace(" ", "_"), known)
        return f"Did you mean {known[meant]}?" if meant is not None else ""


def is_built_in(name: str) -> bool:
    """Whether a column of this name would not be taken for an extended field."""
    built_in = {_folded(alias) for aliases in ALIASES.values() for alias in aliases}
    return _folded(name) in built_in or name.lower().startswith(FIELD_PREFIX)


def _folded(name: str) -> str:
    return name.strip().translate(_FOLDED_AWAY).upper()


def shown(name: str) -> str | None:
    """A column's name for a message, unless it may be a value: a file without names begins with a tag and its key."""
    bare = name.strip()
    return bare if _LIKE_A_NAME.fullmatch(bare) and not _LIKE_A_VALUE.fullmatch(bare) else None


def _is_data(names: Sequence[str]) -> bool:
    return any(_LIKE_A_VALUE.fullmatch(name.strip()) for name in names)
