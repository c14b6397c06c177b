"""Plans the import of one block of lines: new tags, changed tags, keys, or problems. Uses no database.

Which stored tag a line refers to was decided before (`line_matcher`).
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from ixfast.domain.chip_uids import uid_problem
from ixfast.domain.scan import position
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeySlot, unwrap, wrap_all
from ixfast.limits import KEY_VERSIONS_MAX, META_KEYS_MAX
from ixfast.store.admin.deleted_tags import begins_at
from ixfast.store.imports.copy_rows import BOOL, BYTES, INT2, INT8, JSON, MOMENT, TEXT, copy_rows
from ixfast.tag_files import NOT_ASSIGNED, NOW, Problems
from ixfast.tag_files.rows import TagRow, check_value

FIRST_VERSION = 1
_SLOT, _META_SLOT = int(KeySlot.FILE), int(KeySlot.META)

Stored = Any
"""A row of `find_tags` (store/sql/importing.sql)."""


class StoredTags:
    """The stored tags that the lines of a block may refer to, by tag code, UID and CUID."""

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

    def find(self, row: TagRow) -> Stored | None:
        """The stored tag that a line refers to, None for a new tag."""
        found = self.by_xuid.get(row.xuid) if row.xuid is not None else None
        if found is None and row.xuid is None:
            found = self.by_uid.get(row.uid) if row.uid is not None else None
            if found is None and row.cuid is not None:
                found = self.by_cuid.get(row.cuid)
        return found


def names_of(rows: Sequence[TagRow]) -> tuple[list[str], list[bytes], list[str]]:
    """The XUIDs, UIDs and CUIDs in lines."""
    return (
        [row.xuid for row in rows if row.xuid is not None],
        [row.uid for row in rows if row.uid is not None],
        [row.cuid for row in rows if row.cuid is not None],
    )


Match = tuple[TagRow, Stored | None]
"""A line without contradictions, and the stored tag that it refers to; None for a new tag."""


class KeyVersion(NamedTuple):
    """A stored version of a tag's key, in its envelope."""

    version: int
    live: bool
    kek_id: str
    wrapped: bytes
    check_value: bytes


class StoredKeys(NamedTuple):
    """The stored versions of the file keys of tags and of their own meta keys, by tag id, newest first."""

    file: Mapping[int, Sequence[KeyVersion]]
    meta: Mapping[int, Sequence[KeyVersion]]


class Context(NamedTuple):
    """What the blocks of an import have in common."""

    account_id: int
    group_id: int
    batch_id: int | None
    batch_is_named: bool
    """Whether the taps of the group name their batch."""
    folder_groups: Collection[int]
    live_masters: Mapping[int, Sequence[int]]
    """Versions of the live masters of the account's groups that derive keys, by group."""
    masters: Mapping[int, Mapping[bytes, int]]
    """Versions of the masters by identity, for each of the account's groups that derives keys."""
    profile_names: Mapping[int, Collection[str]]
    """How a file may name the profile of each of the account's groups."""
    allow_any_uid: bool
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
    """The rows to write for one block, with values in the order of the columns above."""

    def __init__(self, kek: KeyEncryptionKey) -> None:
        self.kek = kek
        self.tags: list[tuple[Any, ...]] = []
        self.keys: list[tuple[int, int, int, str, bytes, bytes]] = []
        self.unsealed: list[tuple[int, int, bytes]] = []
        """Tag id, version and file key (16 bytes) of each of `keys`, until they are sealed."""
        self.check_values: list[bytes] = []  # of `keys`
        self.counters: list[tuple[int, int, int]] = []
        """Tag id, position and scan count of each of `tags`."""
        self.raised: list[tuple[int, int, int]] = []
        """Tag id, position and scan count of each stored tag whose counter must be at least that."""
        self.changes: list[tuple[Any, ...]] = []
        self.lines: list[tuple[int, str, str, str | None, str | None, str | None, str, str | None]] = []
        """Line number; the column that identifies the tag; XUID, UID (upper-case hex) and CUID after the import; check value of
        the key (upper-case hex); outcome; changed columns."""
        self.staged_lines = b""
        """`lines` as JSON, as staged in the database."""
        self.copies: dict[str, bytes] = {}
        """The data of COPY for `COPIED_COLUMNS`, by table; only tables with rows."""
        self.touched: dict[int, str] = {}  # tag codes of changed tags by tag id
        self.rekeyed: list[int] = []  # ids of stored tags that get another key
        self.meta_keys: list[tuple[int, int, bytes]] = []
        """Tag id, version and key (16 bytes) of each line with a meta key that its tag does not have yet, without its owner."""
        self.meta_rekeyed: list[int] = []  # ids of the stored tags among them
        self.elsewhere = 0
        """How many of the stored tags are in another group, or another batch, than the one that the import names."""

    @property
    def locked(self) -> list[int]:
        """Ids of stored tags that must not be deleted or get other keys meanwhile."""
        return [*self.rekeyed, *self.meta_rekeyed, *(tag_id for tag_id, _, _ in self.raised)]


def plan(
    context: Context,
    matches: Sequence[Match],
    stored_keys: StoredKeys,
    counters: Mapping[int, tuple[int, int]],
    deleted: Mapping[str | bytes, Sequence[Any]],
    fresh: tuple[Iterable[int], Iterable[str]],
    problems: Problems,
) -> Plan:
    """The rows to write for matched lines. `counters` are the stored positions and scan counts by tag id; `deleted` are rows of
    `deleted_tag` by tag code and UID; `fresh` are ids and codes for new tags."""
    result = Plan(context.keks.current)
    fresh_ids, fresh_codes = iter(fresh[0]), iter(fresh[1])
    for row, stored in matches:
        group_id = context.group_id if stored is None else stored["group_id"]
        if row.profile is not None and row.profile not in context.profile_names[group_id]:
            problems.add(row.line, "PROFILE", "other_profile")
            continue
        if stored is None:
            tag_id = next(fresh_ids)
            if row.key is not None and context.group_id in context.masters:
                problems.add(row.line, "KEY", "key_derived")
                continue
            if row.uid is not None and (code := _uid_problem(context, row.uid)) is not None:
                problems.add(row.line, "UID", code)
                continue
            begin = _first_position(context, row, deleted, problems) if deleted or row.last_counter is not None else 0
            if begin is None:
                continue
            _add(context, result, row, tag_id, row.xuid if row.xuid is not None else next(fresh_codes))
            result.counters.append((tag_id, begin, row.scan_count or 0))
        else:
            own = (stored_keys.file.get(stored["tag_id"], ()), stored_keys.meta.get(stored["tag_id"], ()))
            before = counters.get(stored["tag_id"], (0, 0))
            _change(context, result, row, stored, own, before, deleted, problems)
            result.elsewhere += group_id != context.group_id or context.batch_id not in (None, stored["batch_id"])
    _seal(context, result)
    result.staged_lines = orjson.dumps(result.lines)
    owners = tuple(zip(OWNERS.values(), (context.account_id, context.group_id, context.batch_id), strict=True))
    for table, same, columns, rows in (
        ("tag", owners, TAG_COLUMNS, result.tags),
        ("tag_key", (), KEY_COLUMNS, result.keys),
        (CHANGE_TABLE, (), CHANGE_COLUMNS, result.changes),
    ):
        if rows:
            result.copies[table] = copy_rows(same, tuple(columns.values()), rows)
    return result


def _first_position(
    context: Context, row: TagRow, deleted: Mapping[str | bytes, Sequence[Any]], problems: Problems
) -> int | None:
    """The position of a new tag: that of its last counter, or if it was deleted before, the one it had if that is higher. None,
    with a problem, if it returns with a key that had been replaced, or if the key of its counter is unknown."""
    highest = 0
    if row.last_counter is not None:
        version = _version_of_counter(context, context.group_id, ())
        if version is None:
            problems.add(row.line, "LAST_COUNTER", "counter_ambiguous")
            return None
        highest = position(version, row.last_counter)
    masters = context.masters.get(context.group_id)
    keys = {row.check_value: FIRST_VERSION} if row.check_value is not None else masters or {}
    begin = _position_before_deletion((row.xuid, row.uid), deleted, keys, derives=masters is not None)
    if begin is None:
        problems.add(row.line, "KEY", "key_used_before")
        return None
    return max(highest, begin)


def _position_before_deletion(
    names: Iterable[str | bytes | None], deleted: Mapping[str | bytes, Sequence[Any]], keys: Mapping[bytes, int], *, derives: bool
) -> int | None:
    """The position at which a tag with these names and keys continues if it was deleted before, else 0. None if it returns with a
    key that had been replaced."""
    highest = 0
    for name in names:
        for each in deleted.get(name, ()) if name is not None else ():
            begin = begins_at(each, keys, derives=derives)
            if begin is None:
                return None
            highest = max(highest, begin)
    return highest


def _returns_at(
    context: Context, row: TagRow, stored: Stored, keys: Sequence[KeyVersion], version: int | None,
    deleted: Mapping[str | bytes, Sequence[Any]],
) -> int | None:  # fmt: skip
    """Like `_position_before_deletion`, for a stored tag that gets a key with this version, or its UID, or both. What was used
    under its other keys matters only with the UID."""
    own = {each.check_value: each.version for each in keys if each.live}
    derives = not own and version is None and stored["group_id"] in context.masters
    verifying = dict(context.masters[stored["group_id"]]) if derives else own if stored["uid"] is None else {}
    if version is not None and row.check_value is not None:
        verifying[row.check_value] = version
    return _position_before_deletion((stored["xuid"], stored["uid"] or row.uid), deleted, verifying, derives=derives)


def _version_of_counter(context: Context, group_id: int, versions: Sequence[KeyVersion]) -> int | None:
    """The key version that a last counter belongs to, or None if several versions are live. `versions` are those of the tag."""
    masters = context.live_masters.get(group_id)
    live = masters if masters is not None else [each.version for each in versions if each.live]
    if len(live) > 1:
        return None
    return live[0] if live else FIRST_VERSION


def _add(context: Context, result: Plan, row: TagRow, tag_id: int, xuid: str) -> None:
    assigned = row.assigned
    at = context.now if assigned == NOW else None if assigned == NOT_ASSIGNED else assigned
    rule_set = None if row.response is None else own_rule_set(row.response)
    fields = orjson.dumps(row.fields).decode() if row.fields else None
    result.tags.append((tag_id, xuid, row.cuid, row.uid, row.name, row.active is not False, at, rule_set, fields))
    if row.key is not None:
        _add_key(result, row, tag_id, FIRST_VERSION)
    if row.meta_key is not None:
        result.meta_keys.append((tag_id, FIRST_VERSION, row.meta_key))
    result.lines.append(
        (row.line, _naming_column(row, None), xuid, _digits(row.uid), row.cuid, _digits(row.check_value), "added", None)
    )


def _uid_problem(context: Context, uid: bytes) -> str | None:
    """The code of the problem if a tag must not get this UID (7 bytes), which it would keep forever."""
    return None if context.allow_any_uid else uid_problem(uid)


def _digits(value: bytes | None) -> str | None:
    return value.hex().upper() if value is not None else None


def _naming_column(row: TagRow, stored: Stored | None) -> str:
    """The column that identifies the tag of a line."""
    if row.xuid is not None:
        return "XUID"
    return "UID" if row.uid is not None and (stored is None or row.uid == stored["uid"]) else "CUID"


def _add_key(result: Plan, row: TagRow, tag_id: int, version: int) -> None:
    assert row.key is not None and row.check_value is not None
    result.unsealed.append((tag_id, version, row.key))
    result.check_values.append(row.check_value)


def _seal(context: Context, result: Plan) -> None:
    sealed = wrap_all(result.kek, result.unsealed, account_id=context.account_id, slot=_SLOT)
    own, kek_id = zip(result.unsealed, sealed, result.check_values, strict=True), result.kek.id
    result.keys = [(tag_id, _SLOT, version, kek_id, envelope, check) for (tag_id, version, _), envelope, check in own]
    result.unsealed = []


def _change(
    context: Context, result: Plan, row: TagRow, stored: Stored,
    keys: tuple[Sequence[KeyVersion], Sequence[KeyVersion]], before: tuple[int, int],
    deleted: Mapping[str | bytes, Sequence[Any]], problems: Problems,
) -> None:  # fmt: skip
    """Plan the change of a stored tag. `keys` are the versions of its file key and of its own meta key, `before` its counter."""
    tag_id = stored["tag_id"]
    version = meta_version = None
    if row.key is not None:
        version, code = _next_version(context, row, tag_id, keys[0])
        if version is not None and stored["group_id"] in context.live_masters:
            code = "key_derived"
        if code is not None:
            problems.add(row.line, "KEY", code)
            return
    raised = _raised(context, row, stored, keys[0], version, before)
    if raised is None:
        problems.add(row.line, "LAST_COUNTER", "counter_ambiguous")
        return
    if row.meta_key is not None:
        meta_version, code = _next_meta_version(context, row, tag_id, keys[1])
        if code is not None:
            problems.add(row.line, "META_KEY", code)
            return
    uid = row.uid if stored["uid"] is None else None
    if uid is not None and (code := _uid_problem(context, uid)) is not None:
        problems.add(row.line, "UID", code)
        return
    if deleted and (version is not None or uid is not None):
        begin = _returns_at(context, row, stored, keys[0], version, deleted)
        if begin is None:
            problems.add(row.line, "KEY" if version is not None else "UID", "key_used_before")
            return
        raised = max(raised[0], begin), raised[1]
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
    counted = [name for name, old, new in zip(("last_counter", "scan_count"), before, raised, strict=True) if new > old]
    if changed:
        dumped = orjson.dumps(fields).decode() if fields else None
        result.changes.append((tag_id, uid, cuid, name, active, assigned_at, unassigned, rule_set, dumped))
    if version is not None:
        _add_key(result, row, tag_id, version)
        result.rekeyed.append(tag_id)
        changed.append("key")
    if counted:
        result.raised.append((tag_id, *raised))
        changed += counted
    if meta_version is not None:
        assert row.meta_key is not None
        result.meta_keys.append((tag_id, meta_version, row.meta_key))
        result.meta_rekeyed.append(tag_id)
        changed.append("meta_key")
    if changed:
        result.touched[tag_id] = stored["xuid"]
    outcome, columns = ("changed", " ".join(changed)) if changed else ("unchanged", None)
    new_uid, new_cuid = _digits(row.uid or stored["uid"]), row.cuid or stored["cuid"]
    check_value = _digits(row.check_value)
    result.lines.append((row.line, _naming_column(row, stored), stored["xuid"], new_uid, new_cuid, check_value, outcome, columns))


def _raised(
    context: Context, row: TagRow, stored: Stored, versions: Sequence[KeyVersion], key_version: int | None,
    before: tuple[int, int],
) -> tuple[int, int] | None:  # fmt: skip
    """The position and scan count that a stored tag must have at least, or None if the key of its counter is unknown.
    `key_version` is the version that the line adds, and `before` is what is stored."""
    last_position, scan_count = before
    if row.last_counter is not None:
        version = key_version
        if version is None and row.key is not None:
            version = versions[0].version  # the line repeats the newest key
        if version is None:
            version = _version_of_counter(context, stored["group_id"], versions)
        if version is None:
            return None
        last_position = max(last_position, position(version, row.last_counter))
    return last_position, max(scan_count, row.scan_count or 0)


def _next_version(context: Context, row: TagRow, tag_id: int, versions: Sequence[KeyVersion]) -> tuple[int | None, str | None]:
    """The version of the line's key, None if the tag has that key already; and the code of a problem, or None."""
    assert row.key is not None
    for index, each in enumerate(versions):
        if each.check_value == row.check_value and _is_key(context, each, tag_id, _SLOT, row.key):
            return (None, None) if index == 0 and each.live else (None, "key_used_before")
    return _version_after(versions)


def _next_meta_version(
    context: Context, row: TagRow, tag_id: int, versions: Sequence[KeyVersion]
) -> tuple[int | None, str | None]:
    """Like `_next_version`, for the tag's own meta key. It authenticates nothing, so a retired one may return."""
    assert row.meta_key is not None
    live, wanted = [each for each in versions if each.live], check_value(row.meta_key)
    if any(each.check_value == wanted and _is_key(context, each, tag_id, _META_SLOT, row.meta_key) for each in live):
        return None, None
    return _version_after(versions) if len(live) < META_KEYS_MAX else (None, "tag_meta_keys_full")


def _is_key(context: Context, stored: KeyVersion, tag_id: int, slot: int, key16: bytes) -> bool:
    kek = context.keks.by_id(stored.kek_id)
    value = unwrap(kek, stored.wrapped, account_id=context.account_id, tag_id=tag_id, slot=slot, version=stored.version)
    return hmac.compare_digest(value, key16)


def _version_after(versions: Sequence[KeyVersion]) -> tuple[int | None, str | None]:
    version = versions[0].version + 1 if versions else FIRST_VERSION
    return (version, None) if version <= KEY_VERSIONS_MAX else (None, "key_versions_full")


def _assigned(context: Context, row: TagRow, stored: Stored) -> tuple[dt.datetime | None, bool]:
    """The time to store, or None, and whether to remove the stored one."""
    if row.assigned is None:
        return None, False
    if row.assigned == NOT_ASSIGNED:
        return None, stored["assigned_at"] is not None
    if row.assigned == NOW:
        return (context.now if stored["assigned_at"] is None else None), False
    assert isinstance(row.assigned, dt.datetime)
    return (row.assigned if row.assigned != stored["assigned_at"] else None), False


def own_rule_set(response: str) -> str:
    """A rule set, as JSON, that always gives this response text."""
    return orjson.dumps({"groups": [], "default": response}).decode()


def response_of(rule_set: str | None) -> str | None:
    """The response text of a rule set without groups; None for any other."""
    document = orjson.loads(rule_set) if rule_set is not None else None
    return document["default"] if document is not None and not document["groups"] else None
