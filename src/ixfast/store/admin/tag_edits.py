"""Adding tags with their keys and counters, in the caller's transaction; see `transactions`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys, KeySlot, check_value, wrap
from ixfast.store.admin.deleted_tags import begins_at, key_retired, masters_of
from ixfast.store.admin.key_edits import FIRST_VERSION, announce_keys
from ixfast.store.admin.transactions import already_exists
from ixfast.store.connections.lost import unless_lost
from ixfast.store.queries import load

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_FILLFACTOR_ROWS_MIN = 200  # About two pages.
_TAG_COLUMNS = ("tag_id", "account_id", "group_id", "batch_id", "xuid", "cuid", "uid", "name")
_KEY_COLUMNS = ("tag_id", "slot", "version", "kek_id", "wrapped", "check_value")


class NewTag(NamedTuple):
    """A tag to be added. `uid` has 7 bytes; `file_key` and the tag's own `meta_key` have 16 and become version 1."""

    xuid: str
    uid: bytes | None
    file_key: bytes | None
    cuid: str | None = None
    name: str | None = None
    meta_key: bytes | None = None


async def add_tags(
    connection: Any,
    keks: KeyEncryptionKeys,
    account_id: int,
    group_id: int,
    tags: Sequence[NewTag],
    *,
    batch_id: int | None = None,
) -> list[int]:
    """Add tags with their keys and counters, and return their ids in the same order.

    A tag that was deleted and is added with the same key continues at its last counter. Raises InputError if a tag code exists,
    if a CUID or UID exists in the account, and with `key_retired` if a deleted tag returns with a key that had been replaced.
    """
    group = await connection.fetchrow(load("management")["lock_group"], group_id)
    if group is None or (batch_id is not None and await connection.fetchval(load("management")["lock_batch"], batch_id) is None):
        raise InputError("not_found", "The group or batch has just been deleted.", "group_id")
    masters = await masters_of(connection, group_id) if group["derives"] else None
    positions = await _positions_before_deletion(connection, account_id, tags, masters)
    if group["derives"] and any(tag.file_key is not None for tag in tags):
        raise InputError("invalid_parameter", "The group derives the keys of its tags, so a tag cannot have its own.", "key")
    if any(tag.file_key is not None or tag.meta_key is not None for tag in tags):
        await announce_keys(connection, keks)
    ids = [
        row["id"]
        for row in await connection.fetch(
            "SELECT nextval(pg_get_serial_sequence('tag', 'tag_id')) AS id FROM generate_series(1, $1)", len(tags)
        )
    ]
    rows = list(zip(ids, tags, strict=True))
    try:
        records = ((i, account_id, group_id, batch_id, t.xuid, t.cuid, t.uid, t.name) for i, t in rows)
        await _copy(connection, "tag", records, _TAG_COLUMNS)
    except asyncpg.UniqueViolationError as error:
        raise already_exists(error) from None
    await _copy(connection, "tag_key", _key_rows(keks, account_id, rows), _KEY_COLUMNS)
    await add_counters(connection, [(tag_id, positions.get(tag.xuid, 0)) for tag_id, tag in rows])
    return ids


async def _positions_before_deletion(
    connection: Any, account_id: int, tags: Sequence[NewTag], masters: Mapping[bytes, int] | None
) -> dict[str, int]:
    """The positions at which tags that were deleted before must continue, by tag code: an old tap must not pass again.

    `masters` are the versions by identity of a group that derives keys, else None. What was used under a master stays used.
    """
    by_uid = {tag.uid: tag for tag in tags if tag.uid is not None}
    by_code = {tag.xuid: tag for tag in tags}
    found: dict[str, int] = {}
    for row in await connection.fetch(load("management")["deleted_before"], account_id, list(by_uid), list(by_code)):
        for tag in filter(None, (by_uid.get(row["uid"]), by_code.get(row["xuid"]))):
            keys = {check_value(tag.file_key): FIRST_VERSION} if tag.file_key is not None else masters or {}
            begin = begins_at(row, keys, derives=masters is not None)
            if begin is None:
                raise key_retired(row, tag.uid, "key")
            found[tag.xuid] = max(found.get(tag.xuid, 0), begin)
    return found


async def add_counters(
    connection: Any, rows: Sequence[tuple[int, ...]], columns: Sequence[str] = ("tag_id", "last_position")
) -> None:
    """Add counter rows with these columns. Many rows are written at fillfactor 70, which leaves space for their updates.

    The lock of `spread_new_counters` does not block scans but lasts until the commit, so call this last.
    """
    many = len(rows) >= _FILLFACTOR_ROWS_MIN
    if many:
        await connection.execute("SELECT spread_new_counters(true)")
    await _copy(connection, "tag_counter", rows, columns)
    if many:
        await connection.execute("SELECT spread_new_counters(false)")


async def _copy(connection: Any, table: str, records: Iterable[Any], columns: Sequence[str]) -> None:
    await unless_lost(connection, lambda: connection.copy_records_to_table(table, records=records, columns=columns))


def _key_rows(
    keks: KeyEncryptionKeys, account_id: int, rows: Iterable[tuple[int, NewTag]]
) -> Iterable[tuple[int, int, int, str, bytes, bytes]]:
    kek, version = keks.current, FIRST_VERSION
    for tag_id, tag in rows:
        for slot, key16 in ((int(KeySlot.FILE), tag.file_key), (int(KeySlot.META), tag.meta_key)):
            if key16 is not None:
                wrapped = wrap(kek, key16, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
                yield tag_id, slot, version, kek.id, wrapped, check_value(key16)
