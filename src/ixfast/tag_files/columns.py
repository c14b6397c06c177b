"""Column names: which value a column of a file holds, by its name.

`ALIASES` lists the accepted names, `PRESETS` adds those of other programs' files, and a `Layout` adds the extended fields of the
folder that a file is imported into. Names match regardless of case, spaces, `_` and `-`. An unknown column is a problem unless
it is ignored explicitly, because a misspelt KEY must not import tags without keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from ixfast.rules.facts import field_key
from ixfast.rules.rule_error import nearest
from ixfast.tag_files import cells
from ixfast.tag_files.problems import Problems

IGNORED = "IGNORED"
_NOTHING: Mapping[str, Callable[[], Collection[str]]] = MappingProxyType({})
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
    "LAST_COUNTER": ("LAST_COUNTER",),
    "SCAN_COUNT": ("SCAN_COUNT",),
    IGNORED: ("KEY_VERSION", "META_KEY_CHECK_VALUE"),
}
"""The meaning of a column, and the names that it may have in a file."""

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
    "LAST_COUNTER": cells.counter,
    "SCAN_COUNT": cells.scan_count,
}
SLOTS = tuple(CONVERTERS)
NUMBER_SLOTS = frozenset((SLOTS.index("LAST_COUNTER"), SLOTS.index("SCAN_COUNT")))
_FIELD_SLOT = len(SLOTS)  # the value is not part of a row, or has another place in it
_CHECKED_SLOTS = {"PROFILE": len(SLOTS) + 1, "AID": len(SLOTS)}
_CHECKED = {"PROFILE": "other_profile", "AID": "other_account"}
_IDENTITIES = frozenset(("XUID", "UID", "CUID"))
_KEYS = frozenset(("KEY", "META_KEY"))
_NAME_LIKE = re.compile(r"[^\W\d_][\w .:#()-]{0,39}")
_VALUE_LIKE = re.compile(r"(?:[0-9A-Fa-f]{2}[ :-]?){4,}")
_VALUE_WITHIN = re.compile(r"(?:[0-9A-Fa-f]{2}[ .:_/-]?){6,}|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{12,}|\w{22,}")
_FOLDED_AWAY = str.maketrans("", "", " _-")


class Preset(NamedTuple):
    """Column names of one program's files with their meanings. They take precedence over `ALIASES`. A column that the program's
    files have and an import ignores is still an extended field if the folder defines one of its name."""

    description: str
    columns: Mapping[str, str]


PRESETS: Mapping[str, Preset] = {
    "ixkio": Preset(
        "ixkio's Associate Data upload",
        dict.fromkeys(("NFTCONTRACT", "NFTTOKEN", "NFTCHAIN", "NFTOWNER", "NFTMETA"), IGNORED),
    ),
    "sdm-keys": Preset(
        "key files with uid, picc_master_key, app_read_key and sdm_mac_key: keys 0, 1 and 3 of each chip",
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
        "key files with uid and k0 to k4, where k1 is the meta key and k2 the file key",
        {
            "EXTERNAL_ID": "XUID",
            "CARD_NAME": "TAGNAME",
            "K1": "META_KEY",
            "K2": "KEY",
            "COUNTER": "LAST_COUNTER",
            **dict.fromkeys(
                (
                    "K0", "K3", "K4", "PREV_K0", "PREV_K1", "PREV_K2", "ID", "WALLET", "ENABLE",
                    "TX_LIMIT", "DAILY_LIMIT", "OTP", "TIME", "PROTOCOL_NAME", "PROTOCOL_VERSION", "LNURLW_BASE",
                    "UID_PRIVACY", "ACTION", "VERSION",
                ),
                IGNORED,
            ),
        },
    ),
}  # fmt: skip


class Cell(NamedTuple):
    """One column: its position in a record, its name in the file, the slot of its value in a row, and its converter.

    An extended field has the slot `len(SLOTS)` and its name in `field`. Columns that are only checked have that or the next.
    """

    position: int
    name: str
    slot: int
    convert: Callable[[str], Any]
    field: str | None = None


class Layout:
    """The accepted column names of one file. `fields` are the extended fields of the folder, `ignored` names to skip.

    `accepted` return the texts that the columns PROFILE and AID may have, where they are not fields: those of the
    account's groups, and the account that the file is imported into.
    """

    def __init__(
        self,
        *,
        preset: str | None = None,
        ignored: Collection[str] = (),
        fields: Sequence[str] = (),
        accepted: Mapping[str, Callable[[], Collection[str]]] = _NOTHING,
        allow_keys: bool = True,
        allow_zero_keys: bool = False,
    ) -> None:
        """Raises KeyError for an unknown preset."""
        self._meanings = {_folded(alias): meaning for meaning, aliases in ALIASES.items() for alias in aliases}
        self._less_than_fields = {name: name for name in accepted}
        for name, meaning in PRESETS[preset].columns.items() if preset is not None else ():
            folded = _folded(name)
            meanings = self._less_than_fields if meaning == IGNORED and folded not in self._meanings else self._meanings
            meanings[folded] = meaning
        self._meanings |= {_folded(name): IGNORED for name in ignored}
        self._fields = {field_key(name): name for name in fields}
        self._forbidden = _KEYS if not allow_keys else frozenset()
        self._converters = dict(CONVERTERS)
        self._converters |= {name: partial(cells.one_of, texts, _CHECKED[name]) for name, texts in accepted.items()}
        if allow_zero_keys:
            self._converters |= {"KEY": cells.key_or_zeros, "META_KEY": cells.key_or_zeros}

    def cells(self, names: Sequence[str], line: int, problems: Problems, *, is_header: bool = True) -> tuple[Cell, ...]:
        """Resolve column names to cells; ignored columns have none. Names that cannot be resolved are added to `problems`.

        `names` are a CSV header, or with `is_header` false the member names of one JSON object, which may lack an identity.
        """
        if is_header and _is_data(names):
            problems.add(line, None, "no_header")
            return ()
        found: list[Cell] = []
        taken: dict[str, str] = {}
        for index, name in enumerate(names):
            meaning, field = self._meaning(name)
            if meaning == IGNORED or (is_header and not name.strip() and index == len(names) - 1):
                continue  # a header that ends with a comma, as spreadsheets often write it
            if meaning is None and field is None:
                problems.add(line, shown(name), "unknown_column", self._hint(name, index))
                continue
            if meaning in self._forbidden:
                problems.add(line, shown(name), "keys_not_allowed")
                continue
            target = meaning or f"{FIELD_PREFIX}{field}"
            if target in taken:
                problems.add(line, shown(name), "duplicate_column", f"{taken[target]} and {name.strip()} both mean {target}.")
                continue
            taken[target] = name.strip()
            if meaning is not None:
                slot = SLOTS.index(meaning) if meaning in CONVERTERS else _CHECKED_SLOTS[meaning]
                found.append(Cell(index, name.strip(), slot, self._converters[meaning]))
            else:
                found.append(Cell(index, name.strip(), _FIELD_SLOT, cells.field, field))
        if is_header and not _IDENTITIES & taken.keys() and not problems:
            problems.add(line, None, "no_identity_column")
        return tuple(found)

    def prepared(self, members: dict[str, Any]) -> dict[str, Any]:
        """The members of a JSON object as they are converted; a layout may accept numbers for values that are texts in CSV."""
        return members

    def _meaning(self, name: str) -> tuple[str | None, str | None]:
        """The meaning of a column and None, or None and its extended field; both are None for an unknown name."""
        bare = name.strip()
        if bare.lower().startswith(FIELD_PREFIX):
            return None, self._fields.get(field_key(bare[len(FIELD_PREFIX) :]))
        meaning, field = self._meanings.get(_folded(bare)), None
        if meaning is None:
            field = self._fields.get(field_key(bare))
        if meaning is None and field is None:
            meaning = self._less_than_fields.get(_folded(bare))
        return meaning, field

    def _hint(self, name: str, index: int) -> str:
        if not name.strip():
            return f"Name {index + 1} of the line is blank."
        if shown(name) is None:
            return f"It is name {index + 1} of the line, which is not shown because it may be a key."
        known = {alias.lower(): alias for aliases in ALIASES.values() for alias in aliases}
        known |= {field.lower(): field for field in self._fields.values()}
        meant = nearest(name.strip().replace(" ", "_"), known)
        return f"Did you mean {known[meant]}?" if meant is not None else ""


def is_built_in(name: str) -> bool:
    """Whether a column of this name is not taken as an extended field, so that one of this name needs the prefix `field.`."""
    built_in = {_folded(alias) for aliases in ALIASES.values() for alias in aliases}
    return _folded(name) in built_in or name.lower().startswith(FIELD_PREFIX)


def _folded(name: str) -> str:
    return name.strip().translate(_FOLDED_AWAY).upper()


def shown(name: str) -> str | None:
    """The name of a column if it may be quoted in a message, otherwise None.

    Anything that may contain a value is not quoted: in a file without a header, the first line holds a tag and its key.
    """
    bare = name.strip()
    is_value = _VALUE_LIKE.fullmatch(bare) is not None or _VALUE_WITHIN.search(bare) is not None
    return bare if not is_value and _NAME_LIKE.fullmatch(bare) else None


def _is_data(names: Sequence[str]) -> bool:
    return any(_VALUE_LIKE.fullmatch(name.strip()) for name in names)
