"""What becomes of the lines of one block: new tags, changed tags and keys, or problems. Decides, and asks no database.

A line means the tag of its XUID, else that of its UID, else that of its CUID. What contradicts the stored tag is a problem of the
line. A line that contradicts an earlier line of the file only sets `repeats`: which lines those are is asked afterwards of
all lines together.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeySlot, unwrap, wrap
from ixfast.limits import KEY_VERSIONS_MAX
from ixfast.store.admin.deleted_tags import begins_at
from ixfast.store.imports.copy_rows import BOOL, BYTES, INT2, INT8, JSON, MOMENT, TEXT, copy_rows
from ixfast.store.imports.seen_tags import TagIds
from ixfast.tag_files import NOT_ASSIGNED, NOW, Problems
from ixfast.tag_files.rows import TagRow

FIRST_VERSION = 1
_SLOT = int(KeySlot.FILE)

Stored = Any
"""A row of `found` (store/sql/importing.sql)."""


class Meant:
    """Stored tags by what a line may call them."""

    def __init__(self, rows: Iterable[Stored], account_id: int) -> None:
        self.by_xuid: dict[str, Stored] = {}
        self.by_uid: dict[bytes, Stored] = {}
        self.by_cuid: dict[str, Stored] = {}
        for row in rows:
            self.by_xuid[row["xuid"]] = row
            if row["account_id"] == account_id:
                if row["uid"] is not None:
                    self.by_uid[row["uid"]] = row
                if row["cuid"] is not None:
                    self.by_cuid[row["cuid"]] = row

    def of(self, row: TagRow) -> Stored | None:
        found = self.by_xuid.get(row.xuid) if row.xuid is not None else None
        if found is None and row.xuid is None:
            found = self.by_uid.get(row.uid) if row.uid is not None else None
            if found is None and row.cuid is not None:
                found = self.by_cuid.get(row.cuid)
        return found


def names_of(rows: Sequence[TagRow]) -> tuple[list[str], list[bytes], list[str]]:
    """The XUIDs, UIDs and CUIDs of lines."""
    return (
        [row.xuid for row in rows if row.xuid is not None],
        [row.uid for row in rows if row.uid is not None],
        [row.cuid for row in rows if row.cuid is not None],
    )


Match = tuple[TagRow, Stored | None]
"""A line without contradictions, and the stored tag that it means; None if it is a new one."""


class KeyVersion(NamedTuple):
    """A stored version of a tag's key, still sealed."""

    version: int
    live: bool
    kek_id: str
    wrapped: bytes
    check_value: bytes


class Context(NamedTuple):
    """What all blocks of an import share."""

    account_id: int
    group_id: int
    batch_id: int | None
    folder_groups: Collection[int]
    deriving_groups: Collection[int]
    masters: Mapping[bytes, int] | None
    """Versions of the group's masters by identity, if it derives the keys of its tags."""
    keks: KeyEncryptionKeys
    now: dt.datetime


OWNERS = {"account_id": INT8, "group_id": INT8, "batch_id": INT8}
TAG_COLUMNS = {
    "tag_id": INT8, "xuid": TEXT, "cuid": TEXT, "uid": BYTES, "name": TEXT, "active": BOOL, "assigned_at": MOMENT,
    "rule_set": JSON, "fields": JSON,
}  # fmt: skip
KEY_COLUMNS = {"tag_id": INT8, "slot": INT2, "version": INT2, "kek_id": TEXT, "wrapped": BYTES, "check_value": BYTES}
CHANGE_TABLE = "import_change"
CHANGE_COLUMNS = {
    "tag_id": INT8, "uid": BYTES, "cuid": TEXT, "name": TEXT, "active": BOOL, "assigned_at": MOMENT, "unassigned": BOOL,
    "rule_set": JSON, "fields": JSON,
}  # fmt: skip
COPIED_COLUMNS = {"tag": (*OWNERS, *TAG_COLUMNS), "tag_key": tuple(KEY_COLUMNS), CHANGE_TABLE: tuple(CHANGE_COLUMNS)}


class Plan:
    """Rows to be written for one block, with values in the order of the columns above."""

    def __init__(self, kek: KeyEncryptionKey) -> None:
        self.kek = kek
        self.tags: list[tuple[Any, ...]] = []
        self.keys: list[tuple[int, int, int, str, bytes, bytes]] = []
        self.positions: dict[int, int] = {}
        """Where the counters of new tags begin that were there before, by id."""
        self.changes: list[tuple[Any, ...]] = []
        self.lines: list[tuple[int, str, str, str | None, str | None, str | None, str, str | None]] = []
        """Number, the column that names the tag, what names the tag afterwards (UID in upper-case digits), check value of the
        key in digits, what becomes of it and the columns that change."""
        self.staged_lines = b""
        """`lines` as they are kept until the end."""
        self.copies: dict[str, bytes] = {}
        """What COPY takes into `COPIED_COLUMNS`, by table, where there are rows."""
        self.touched: dict[int, str] = {}
        """Tag codes of changed tags by id."""
        self.rekeyed: list[int] = []


class Matcher:
    """Finds the tags that lines mean. It remembers what earlier blocks meant."""

    def __init__(self, account_id: int, folder_groups: Collection[int], problems: Problems) -> None:
        self._account_id = account_id
        self._folder_groups = folder_groups
        self._problems = problems
        self._seen = TagIds()
        self._freed: set[str] = set()
        self._before: tuple[set[Any], ...] = (set(), set(), set())  # names of the block before, which is not stored yet
        self.repeats = False

    def saw(self, tag_ids: Sequence[int]) -> None:
        """Tags that this import adds."""
        self._seen.add_drawn(tag_ids)

    def match(self, rows: Sequence[TagRow], meant: Meant) -> list[Match]:
        """Lines that can be staged; the others are told. `meant` may lack what the block before has, but nothing older."""
        self._compare_names(rows)
        if not meant.by_xuid and not self._freed:
            return [(row, None) for row in rows]
        found: list[Match] = []
        for row in rows:
            stored = meant.of(row)
            code = self._contradiction(row, stored, meant)
            if code is not None:
                self._problems.add(row.line, *code)
                continue
            if stored is not None:
                if not self._seen.add(stored["tag_id"]):
                    self.repeats = True
                if stored["cuid"] is not None and row.cuid not in (None, stored["cuid"]):
                    self._freed.add(stored["cuid"])
            found.append((row, stored))
        return found

    def _compare_names(self, rows: Sequence[TagRow]) -> None:
        """Whether a name stands twice in the block, or in the one before."""
        names: tuple[list[Any], ...] = names_of(rows)
        own = tuple(set(each) for each in names)
        for given, once, before in zip(names, own, self._before, strict=True):
            if len(once) < len(given) or not once.isdisjoint(before):
                self.repeats = True
        self._before = own

    def _contradiction(self, row: TagRow, stored: Stored | None, meant: Meant) -> tuple[str, str] | None:
        """Column and code of what is wrong, or None. Against another line of the file it is a repeat, told later."""
        if stored is not None and stored["account_id"] != self._account_id:
            return "XUID", "xuid_taken"
        if row.cuid is not None and row.cuid in self._freed:
            return "CUID", "cuid_taken"
        others = (
            ("UID", "uid_taken", meant.by_uid.get(row.uid) if row.uid is not None else None),
            ("CUID", "cuid_taken", meant.by_cuid.get(row.cuid) if row.cuid is not None else None),
        )
        for column, code, other in others:
            if other is not None and (stored is None or other["tag_id"] != stored["tag_id"]):
                if other["tag_id"] not in self._seen:
                    return column, code
                self.repeats = True
        if stored is None:
            return None
        if row.uid is not None and stored["uid"] is not None and row.uid != stored["uid"]:
            if stored["tag_id"] not in self._seen:
                return "UID", "uid_differs"
            self.repeats = True
        if row.fields and stored["group_id"] not in self._folder_groups:
            return next(iter(row.fields)), "other_folder"
        return None


def plan(
    context: Context,
    matches: Sequence[Match],
    keys: Mapping[int, Sequence[KeyVersion]],
    deleted: Mapping[str | bytes, Sequence[Any]],
    fresh: tuple[Iterable[int], Iterable[str]],
    problems: Problems,
) -> Plan:
    """Rows for matched lines. `keys` are stored versions, newest first; `deleted` stands by tag code and UID; `fresh` are ids
    and codes for new tags."""
    made = Plan(context.keks.current)
    fresh_ids, fresh_codes = iter(fresh[0]), iter(fresh[1])
    for row, stored in matches:
        if stored is None:
            tag_id = next(fresh_ids)
            if row.key is not None and context.masters is not None:
                problems.add(row.line, "KEY", "key_derived")
                continue
            if deleted and not _goes_on(context, made, row, tag_id, deleted, problems):
                continue
            _add(context, made, row, tag_id, row.xuid if row.xuid is not None else next(fresh_codes))
        else:
            _change(context, made, row, stored, keys.get(stored["tag_id"], ()), problems)
    made.staged_lines = orjson.dumps(made.lines)
    owners = tuple(zip(OWNERS.values(), (context.account_id, context.group_id, context.batch_id), strict=True))
    for table, same, columns, rows in (
        ("tag", owners, TAG_COLUMNS, made.tags),
        ("tag_key", (), KEY_COLUMNS, made.keys),
        (CHANGE_TABLE, (), CHANGE_COLUMNS, made.changes),
    ):
        if rows:
            made.copies[table] = copy_rows(same, tuple(columns.values()), rows)
    return made


def _goes_on(
    context: Context, made: Plan, row: TagRow, tag_id: int, deleted: Mapping[str | bytes, Sequence[Any]], problems: Problems
) -> bool:
    """Let a tag that was deleted go on from its last counter, if it comes back with its last key; with one before that it
    cannot, and False is returned."""
    keys = {row.check_value: FIRST_VERSION} if row.check_value is not None else context.masters or {}
    for name in (row.xuid, row.uid):
        for each in deleted.get(name, ()) if name is not None else ():
            begin = begins_at(each, keys, derives=context.masters is not None)
            if begin is None:
                problems.add(row.line, "KEY", "key_used_before")
                return False
            made.positions[tag_id] = max(begin, made.positions.get(tag_id, 0))
    return True


def _add(context: Context, made: Plan, row: TagRow, tag_id: int, xuid: str) -> None:
    assigned = row.assigned
    at = context.now if assigned == NOW else None if assigned == NOT_ASSIGNED else assigned
    rule_set = None if row.response is None else own_rule_set(row.response)
    fields = orjson.dumps(row.fields).decode() if row.fields else None
    made.tags.append((tag_id, xuid, row.cuid, row.uid, row.name, row.active is not False, at, rule_set, fields))
    if row.key is not None:
        _add_key(context, made, row, tag_id, FIRST_VERSION)
    made.lines.append((row.line, _named_by(row, None), xuid, _digits(row.uid), row.cuid, _digits(row.check_value), "added", None))


def _digits(value: bytes | None) -> str | None:
    return value.hex().upper() if value is not None else None


def _named_by(row: TagRow, stored: Stored | None) -> str:
    """The column by which a line means its tag."""
    if row.xuid is not None:
        return "XUID"
    return "UID" if row.uid is not None and (stored is None or row.uid == stored["uid"]) else "CUID"


def _add_key(context: Context, made: Plan, row: TagRow, tag_id: int, version: int) -> None:
    assert row.key is not None and row.check_value is not None
    wrapped = wrap(made.kek, row.key, account_id=context.account_id, tag_id=tag_id, slot=_SLOT, version=version)
    made.keys.append((tag_id, _SLOT, version, made.kek.id, wrapped, row.check_value))


def _change(
    context: Context, made: Plan, row: TagRow, stored: Stored, versions: Sequence[KeyVersion], problems: Problems
) -> None:
    tag_id = stored["tag_id"]
    version = None
    if row.key is not None:
        version, code = _next_version(context, row, tag_id, versions)
        if version is not None and stored["group_id"] in context.deriving_groups:
            code = "key_derived"
        if code is not None:
            problems.add(row.line, "KEY", code)
            return
    uid = row.uid if stored["uid"] is None else None
    cuid = row.cuid if row.cuid != stored["cuid"] else None
    name = row.name if row.name != stored["name"] else None
    active = row.active if row.active != stored["active"] else None
    assigned_at, unassigned = _assigned(context, row, stored)
    rule_set = None
    if row.response is not None and row.response != response_of(stored["rule_set"]):
        rule_set = own_rule_set(row.response)
    own_fields = orjson.loads(stored["fields"]) if stored["fields"] is not None else {}
    fields = {name: value for name, value in row.fields.items() if own_fields.get(name) != value}
    values = {
        "uid": uid, "cuid": cuid, "name": name, "status": active, "assigned": assigned_at or unassigned or None,
        "response": rule_set, **{f"field.{name}": value for name, value in fields.items()},
    }  # fmt: skip
    changed = [name for name, value in values.items() if value is not None]
    if changed:
        dumped = orjson.dumps(fields).decode() if fields else None
        made.changes.append((tag_id, uid, cuid, name, active, assigned_at, unassigned, rule_set, dumped))
    if version is not None:
        _add_key(context, made, row, tag_id, version)
        made.rekeyed.append(tag_id)
        changed.append("key")
    if changed:
        made.touched[tag_id] = stored["xuid"]
    outcome, told = ("changed", " ".join(changed)) if changed else ("unchanged", None)
    uid_then, cuid_then = _digits(stored["uid"] or row.uid), row.cuid or stored["cuid"]
    check_value = _digits(row.check_value)
    made.lines.append((row.line, _named_by(row, stored), stored["xuid"], uid_then, cuid_then, check_value, outcome, told))


def _next_version(context: Context, row: TagRow, tag_id: int, versions: Sequence[KeyVersion]) -> tuple[int | None, str | None]:
    """The version that the line's key becomes, None if the tag has that key; or the code of what is wrong with it."""
    assert row.key is not None
    for place, each in enumerate(versions):
        if each.check_value != row.check_value:
            continue
        kek = context.keks.by_id(each.kek_id)
        value = unwrap(kek, each.wrapped, account_id=context.account_id, tag_id=tag_id, slot=_SLOT, version=each.version)
        if hmac.compare_digest(value, row.key):
            return (None, None) if place == 0 and each.live else (None, "key_used_before")
    version = versions[0].version + 1 if versions else FIRST_VERSION
    return (version, None) if version <= KEY_VERSIONS_MAX else (None, "key_versions_full")


def _assigned(context: Context, row: TagRow, stored: Stored) -> tuple[dt.datetime | None, bool]:
    """The moment to be stored, or None, and whether the stored one is to be removed."""
    if row.assigned is None:
        return None, False
    if row.assigned == NOT_ASSIGNED:
        return None, stored["assigned_at"] is not None
    if row.assigned == NOW:
        return (context.now if stored["assigned_at"] is None else None), False
    assert isinstance(row.assigned, dt.datetime)
    return (row.assigned if row.assigned != stored["assigned_at"] else None), False


def own_rule_set(response: str) -> str:
    """A rule set that always answers the same."""
    return orjson.dumps({"groups": [], "default": response}).decode()


def response_of(rule_set: str | None) -> str | None:
    """What a rule set without groups answers; None for another one."""
    document = orjson.loads(rule_set) if rule_set is not None else None
    return document["default"] if document is not None and not document["groups"] else None
