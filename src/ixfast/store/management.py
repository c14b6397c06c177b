"""Acts of management on the catalogue. Each runs in the caller's transaction and notes what it changed (`changed`), which is
the transaction's last statement: its lock orders the commits.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg
import msgspec

from ixfast.chips import compile_profile
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys, KeySlot, check_value, wrap
from ixfast.model import EncodingProfile
from ixfast.store.queries import load

SCOPES = ("scan", "manage", "keys")
_TOKEN_PREFIX = "ixf_"  # noqa: S105 - lets secret scanners find a token that leaked
_ROWS_WORTH_ROOM = 200  # About two pages.
_TAG_COLUMNS = ("tag_id", "account_id", "group_id", "batch_id", "xuid", "cuid", "uid", "name")
_KEY_COLUMNS = ("tag_id", "slot", "version", "kek_id", "wrapped", "check_value")


class NewTag(NamedTuple):
    """A tag to be added. `uid` has 7 bytes, `file_key` 16; its key has version 1."""

    xuid: str
    uid: bytes | None
    file_key: bytes | None
    cuid: str | None = None
    name: str | None = None


async def changed(connection: Any, *changes: tuple[str, int | None, str | None]) -> int:
    """Note changes (kind, id, tag code) under the next generation and wake the workers when the transaction commits."""
    sql = load("catalogue")
    generation: int = await connection.fetchval(sql["raise_generation"])
    await connection.executemany(sql["note_change"], [(generation, *change) for change in changes])
    await connection.execute(sql["notify_change"], str(generation))
    return generation


async def create_account(connection: Any, aid: str, *, name: str = "", is_open: bool = False) -> int:
    try:
        async with connection.transaction():
            account_id: int = await connection.fetchval(
                "INSERT INTO account (aid, name, open) VALUES ($1, $2, $3) RETURNING account_id", aid, name, is_open
            )
    except asyncpg.UniqueViolationError:
        raise InputError("already_exists", f"There is an account {aid} already.", "aid") from None
    except asyncpg.CheckViolationError:
        raise InputError("invalid_parameter", "An account id has 1 to 64 letters, digits, - or _.", "aid") from None
    return account_id


async def account_id_of(connection: Any, aid: str) -> int:
    """The id behind an AID. Raises InputError if there is no such account."""
    account_id: int | None = await connection.fetchval(load("catalogue")["account_id_by_aid"], aid)
    if account_id is None:
        raise InputError("not_found", f"There is no account {aid}.", "aid")
    return account_id


async def create_folder(connection: Any, account_id: int, name: str) -> int:
    folder_id: int = await connection.fetchval(
        "INSERT INTO folder (account_id, name) VALUES ($1, $2) RETURNING folder_id", account_id, name
    )
    return folder_id


async def create_group(
    connection: Any, folder_id: int, name: str, profile: EncodingProfile | None, *, retry_window_s: int = 0
) -> int:
    """A group; with a profile it authenticates, without one it is a standard group. Raises ProfileError."""
    if profile is not None:
        compile_profile(profile)
    group_id: int = await connection.fetchval(
        "INSERT INTO tag_group (folder_id, name, kind, profile, retry_window_s) VALUES ($1, $2, $3, $4, $5) RETURNING group_id",
        folder_id,
        name,
        "standard" if profile is None else "authentication",
        None if profile is None else msgspec.json.encode(profile).decode(),
        retry_window_s,
    )
    return group_id


async def create_batch(connection: Any, group_id: int, name: str) -> int:
    batch_id: int = await connection.fetchval(
        "INSERT INTO batch (group_id, name) VALUES ($1, $2) RETURNING batch_id", group_id, name
    )
    return batch_id


async def add_meta_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, version: int, value: bytes) -> None:
    """Add a live meta key of 16 bytes; scans of encrypted mirrors try all live ones, the newest first."""
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=0, slot=KeySlot.META, version=version)
    await connection.execute(
        "INSERT INTO meta_key (account_id, version, kek_id, wrapped, check_value) VALUES ($1, $2, $3, $4, $5)",
        account_id,
        version,
        keks.current.id,
        wrapped,
        check_value(value),
    )


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

    Raises InputError if a tag code, or a CUID or UID of the account, exists already.
    """
    ids = [
        row["id"]
        for row in await connection.fetch(
            "SELECT nextval(pg_get_serial_sequence('tag', 'tag_id')) AS id FROM generate_series(1, $1)", len(tags)
        )
    ]
    rows = list(zip(ids, tags, strict=True))
    try:
        await connection.copy_records_to_table(
            "tag",
            records=((i, account_id, group_id, batch_id, t.xuid, t.cuid, t.uid, t.name) for i, t in rows),
            columns=_TAG_COLUMNS,
        )
    except asyncpg.UniqueViolationError as error:
        field = {"tag_xuid": "xuid", "tag_cuid": "cuid", "tag_uid": "uid"}.get(error.constraint_name or "", "xuid")
        raise InputError("already_exists", f"A tag with the same {field} exists already.", field) from None
    await connection.copy_records_to_table("tag_key", records=_key_rows(keks, account_id, rows), columns=_KEY_COLUMNS)
    await _add_counters(connection, ids)
    return ids


async def _add_counters(connection: Any, ids: Sequence[int]) -> None:
    """Add counter rows, in pages with room for their updates; a few rows find that room elsewhere.

    The lock of ALTER TABLE lets scans pass and lasts until the commit, so this comes last.
    """
    many = len(ids) >= _ROWS_WORTH_ROOM
    if many:
        await connection.execute("ALTER TABLE tag_counter SET (fillfactor = 70)")
    await connection.copy_records_to_table("tag_counter", records=((i,) for i in ids), columns=("tag_id",))
    if many:
        await connection.execute("ALTER TABLE tag_counter RESET (fillfactor)")


def _key_rows(
    keks: KeyEncryptionKeys, account_id: int, rows: Iterable[tuple[int, NewTag]]
) -> Iterable[tuple[int, int, int, str, bytes, bytes]]:
    kek, slot, version = keks.current, int(KeySlot.FILE), 1
    for tag_id, tag in rows:
        if tag.file_key is not None:
            wrapped = wrap(kek, tag.file_key, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
            yield tag_id, slot, version, kek.id, wrapped, check_value(tag.file_key)


async def create_api_key(
    connection: Any, account_id: int, scopes: Sequence[str], *, label: str = "", expires_at: dt.datetime | None = None
) -> str:
    """Make an API key and return its token, which is stored nowhere. Raises InputError for an unknown scope."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InputError("invalid_parameter", f"Scopes are {', '.join(SCOPES)}; one at least.", "scopes")
    token = _TOKEN_PREFIX + secrets.token_urlsafe(24)
    await connection.execute(
        "INSERT INTO api_key (account_id, token_sha256, label, scopes, expires_at) VALUES ($1, $2, $3, $4, $5)",
        account_id,
        sha256(token.encode()).digest(),
        label,
        sorted(set(scopes)),
        expires_at,
    )
    return token
