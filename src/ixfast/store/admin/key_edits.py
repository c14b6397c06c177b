"""Edits that add file keys, meta keys and masters. Each runs in the caller's transaction; see `transactions`.

Keys are 16 bytes, and stored only as envelopes sealed under the current key-encryption key. Versions are numbered upwards and
never reused, because the version is part of the counter position that the ledger compares.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ixfast import limits
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys, KeySlot, check_value, wrap
from ixfast.store.admin.deleted_tags import continue_counter, continue_counters_of_group
from ixfast.store.key_holders import check_sealing
from ixfast.store.queries import load

FIRST_VERSION = 1


async def add_meta_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, version: int, value: bytes) -> None:
    """Add a live meta key of 16 bytes. Scans with an encrypted mirror try all live ones, the newest first."""
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=0, slot=KeySlot.META, version=version)
    await connection.execute(
        "INSERT INTO meta_key (account_id, version, kek_id, wrapped, check_value) VALUES ($1, $2, $3, $4, $5)",
        account_id,
        version,
        keks.current.id,
        wrapped,
        check_value(value),
    )


async def store_batch_key(
    connection: Any, keks: KeyEncryptionKeys, account_id: int, batch_id: int, version: int, value: bytes
) -> None:
    """Add a live meta key of 16 bytes to a batch. It is tried on taps that name the batch, and on those of its tags."""
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=batch_id, slot=KeySlot.BATCH, version=version)
    await connection.execute(load("management")["add_batch_key"], batch_id, version, keks.current.id, wrapped, check_value(value))


async def add_batch_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, batch_id: int, value: bytes) -> int:
    """Add a live meta key of 16 bytes as the next version of the batch, whose row is locked, and return the version. Raises
    InputError if the batch has this key, or has the maximum number of them."""
    await announce_keys(connection, keks)
    version = _next_meta_version(await connection.fetch(load("management")["batch_keys"], batch_id), value)
    await store_batch_key(connection, keks, account_id, batch_id, version, value)
    return version


async def add_tag_meta_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, tag_id: int, value: bytes) -> int:
    """Add a live meta key of 16 bytes as the next version of the tag's own, and return the version. It is tried on taps that name
    the tag. Raises InputError like `add_batch_key`."""
    sql, slot = load("management"), KeySlot.META
    await announce_keys(connection, keks)
    await connection.fetchval(sql["lock_tag"], tag_id)
    version = _next_meta_version(await connection.fetch(sql["tag_keys"], tag_id, slot), value)
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
    await connection.execute(sql["add_tag_key"], tag_id, slot, version, keks.current.id, wrapped, check_value(value))
    return version


async def add_tag_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, tag_id: int, value: bytes) -> int:
    """Add a live file key of 16 bytes as the next version of the tag, and return the version.

    The tag's counter starts again from 0, because positions of a newer version are above all positions of older ones. Older
    versions stay live until they are retired.

    Raises InputError if the tag had this key before, also under an earlier registration that was deleted, or has the maximum
    number of versions.
    """
    sql, slot = load("management"), KeySlot.FILE
    await announce_keys(connection, keks)
    await connection.fetchval(sql["lock_tag"], tag_id)
    known = await connection.fetch(sql["tag_keys"], tag_id, slot)
    version = _next_version(known, value)
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
    await connection.execute(sql["add_tag_key"], tag_id, slot, version, keks.current.id, wrapped, check_value(value))
    await continue_counter(connection, account_id, tag_id, "key", added={check_value(value): version})
    return version


async def add_next_meta_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, value: bytes) -> int:
    """Add a live meta key of 16 bytes as the next version of the account, and return the version. Raises InputError like
    `add_tag_key`."""
    await announce_keys(connection, keks)
    await connection.fetchval(load("management")["lock_account"], account_id)
    known = await connection.fetch(load("management")["meta_keys"], account_id)
    version = _next_version(known, value)
    await add_meta_key(connection, keks, account_id, version, value)
    await check_meta_keys(connection, account_id)
    return version


async def add_master(connection: Any, keks: KeyEncryptionKeys, account_id: int, group_id: int, value: bytes) -> int:
    """Add a live master of 16 bytes as the next version of a group that derives keys, and return the version.

    Derived keys have the version of their master, so counters start again as with the next key of a tag. Raises InputError
    like `add_tag_key`.
    """
    sql, slot = load("management"), KeySlot.MASTER
    await announce_keys(connection, keks)
    await connection.fetchval(sql["lock_masters"], group_id)
    await connection.fetchval(sql["lock_account"], account_id)
    known = await connection.fetch(sql["group_keys"], group_id)
    if sum(row["live"] for row in known) >= limits.GROUP_MASTERS_MAX:
        raise InputError(
            "limit_reached", f"A group can have at most {limits.GROUP_MASTERS_MAX} live master keys; retire one first.", "key"
        )
    derivation = await connection.fetchval(sql["derivation"], group_id)
    same = {row["check_value"] for row in known if row["derivation"] == derivation}
    version = _next_version(known, value, same)
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=group_id, slot=slot, version=version)
    await connection.execute(sql["add_group_key"], group_id, version, keks.current.id, wrapped, check_value(value))
    await continue_counters_of_group(connection, account_id, group_id)
    await check_meta_keys(connection, account_id)
    return version


async def check_meta_keys(connection: Any, account_id: int) -> None:
    """Raise InputError if the account has more live meta keys, stored and derived, than a scan may try. The caller has locked the
    account."""
    if await connection.fetchval(load("management")["meta_keys_in_use"], account_id) > limits.META_KEYS_MAX:
        raise InputError(
            "limit_reached",
            f"An account can have at most {limits.META_KEYS_MAX} live meta keys, including derived ones; retire one first.",
            "key",
        )


async def announce_keys(connection: Any, keks: KeyEncryptionKeys) -> None:
    """Prepare the transaction for sealing keys; call this before sealing.

    From here until the commit no key-encryption key can be removed from the key file (`rotation.while_unused`), and the file is
    read again, so that a key which was removed before is not used any more. Raises SealingRefusedError if a running server could
    not open what is sealed.
    """
    await connection.execute(load("management")["announce_keys"])
    await keks.look_for(("",))
    await check_sealing(connection, keks)


def _next_meta_version(known: Sequence[Any], value: bytes) -> int:
    """The version of a further meta key of a tag or a batch. Meta keys authenticate nothing, so a retired one may return."""
    live = [row["check_value"] for row in known if row["live"]]
    if check_value(value) in live:
        raise InputError("already_exists", "This meta key is one of the live versions already.", "key")
    if len(live) >= limits.META_KEYS_MAX:
        raise InputError("limit_reached", f"At most {limits.META_KEYS_MAX} meta keys can be live; retire one first.", "key")
    return _next_version(known, value, ())


def _next_version(known: Sequence[Any], value: bytes, same: Collection[bytes] | None = None) -> int:
    """The version after all known ones. Raises InputError if the key's check value is in `same`, by default the check values of
    all known versions."""
    version: int = max((row["version"] for row in known), default=FIRST_VERSION - 1) + 1
    if version > limits.KEY_VERSIONS_MAX:
        raise InputError("limit_reached", f"The key has already had {limits.KEY_VERSIONS_MAX} versions, the maximum.", "key")
    if check_value(value) in (same if same is not None else {row["check_value"] for row in known}):
        raise InputError(
            "already_exists", "This key is or was one of the versions, so that old taps would pass again; use a new key.", "key"
        )
    return version
