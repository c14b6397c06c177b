"""Re-added tags: where their counters continue, so that no tap from before the deletion passes again.

A deleted tag may come back in several steps: its name, its UID, its key, a group that derives keys. At each of them it is
determined which of its old taps could pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixfast import limits
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, position
from ixfast.errors import InputError
from ixfast.keys import KeySlot
from ixfast.store.queries import load


def begins_at(deleted: Any, keys: Mapping[bytes, int], *, derives: bool) -> int | None:
    """The position at which a tag that was deleted before must continue; 0 if it returns with none of its old keys.

    None if it returns with a key that had been replaced by a newer one, because its used taps can no longer be determined.

    `deleted` is a row of `deleted_tag`. `keys` maps check values to versions: the current keys of the tag, or with `derives`
    the masters of its group. Counters used under a master stay used. A counter without a key, which an import stored, stays
    that of the first key.
    """
    last = deleted["last_position"]
    used_last, counter = last >> POSITION_COUNTER_BITS, last & POSITION_COUNTER_MASK
    begin = 0 if used_last in deleted["key_versions"] else last
    for value, version in zip(deleted["check_values"], deleted["key_versions"], strict=True):
        successor = keys.get(value)
        if successor is None or version > used_last:
            continue
        if version < used_last and not derives:
            return None
        begin = max(begin, position(successor, counter if version == used_last else limits.COUNTER_MAX))
    return begin


def key_retired(deleted: Any, uid: bytes | None, field: str) -> InputError:
    """The error if a tag with this UID would get a key that `deleted` had replaced."""
    name = "UID" if uid is not None and deleted["uid"] == uid else "xuid"
    message = f"A tag with this {name} was deleted after this key had been replaced; use the last key that it had."
    return InputError("key_retired", message, field)


async def masters_of(connection: Any, group_id: int) -> dict[bytes, int]:
    """Versions of the masters of a group by identity."""
    return {row["identity"]: row["version"] for row in await connection.fetch(load("management")["group_keys"], group_id)}


async def continue_counter(
    connection: Any,
    account_id: int,
    tag_id: int,
    field: str | None,
    *,
    added: Mapping[bytes, int] | None = None,
    moved: bool = False,
) -> None:
    """Raise the counter of a tag above what a deleted tag with its UID or code had used. The tag is locked, and already has the
    key, the UID or the group that made this necessary.

    `added` is its new key, by check value with the version; by default all keys under which its taps may pass now. With `moved`,
    counters used under the masters of other groups stay used as well. Raises InputError with `key_retired` about `field` if
    a key had been replaced before the deletion; without a field, all counters under it count as used instead.
    """
    sql = load("management")
    tag = await connection.fetchrow(sql["returned_tag"], tag_id, KeySlot.FILE)
    if tag is None:
        return
    uids = [tag["uid"]] if tag["uid"] is not None else []
    deleted = [*await connection.fetch(sql["deleted_before"], account_id, uids, [tag["xuid"]])]
    if moved and tag["derives"] and tag["last_position"]:
        deleted.append(await connection.fetchrow(sql["masters_elsewhere"], account_id, tag["group_id"], tag["last_position"]))
    if not deleted:
        return
    keys = added
    if keys is None and tag["derives"]:
        keys = await masters_of(connection, tag["group_id"])
    elif keys is None:
        rows = await connection.fetch(sql["tag_keys"], tag_id, KeySlot.FILE)
        keys = {row["check_value"]: row["version"] for row in rows if row["live"]}
    begin = tag["last_position"]
    for row in deleted:
        first = begins_at(row, keys, derives=tag["derives"] or field is None)
        if first is None:
            assert field is not None
            raise key_retired(row, tag["uid"], field)
        begin = max(begin, first)
    if begin > tag["last_position"]:
        await _raise(connection, {tag_id: begin})


async def continue_counters_of_group(connection: Any, account_id: int, group_id: int) -> None:
    """Raise the counters of a group's tags like `continue_counter`, after the group got a master or began to derive keys. The
    caller has locked the group."""
    masters = await masters_of(connection, group_id)
    begins: dict[int, int] = {}
    sql = load("management")["returned_tags"]
    for row in await connection.fetch(sql, account_id, group_id, list(masters), KeySlot.FILE):
        begin = begins_at(row, masters, derives=True)
        if begin:
            begins[row["tag_id"]] = max(begin, begins.get(row["tag_id"], 0))
    if begins:
        await _raise(connection, begins)


async def _raise(connection: Any, begins: Mapping[int, int]) -> None:
    sql, ids = load("importing"), sorted(begins)
    await connection.fetchval(sql["lock_counters"], ids)
    await connection.execute(sql["raise_counters"], ids, [begins[tag_id] for tag_id in ids], [0] * len(ids))
