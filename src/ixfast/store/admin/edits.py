"""Acts of management on the catalogue. Each runs in the caller's transaction and notes what it changed (`changed`), which is
the transaction's last statement: its lock orders the commits.

`transaction` is where the management API's acts run: with bounds, and with the database's errors in words of ours.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg
import msgspec

from ixfast import limits
from ixfast.chips import compile_profile
from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError, UnavailableError
from ixfast.keys import KeyEncryptionKeys, KeySlot, check_value, wrap
from ixfast.keys.diversify import Derivation
from ixfast.store.admin.deleted_tags import begins_at
from ixfast.store.connections.session import pooled_connection
from ixfast.store.db_errors import DbErrorKind, db_error_kind, reason_of
from ixfast.store.queries import load

SCOPES = ("scan", "manage", "keys")
_TOKEN_PREFIX = "ixf_"  # noqa: S105 - lets secret scanners find a token that leaked
_ROWS_WORTH_ROOM = 200  # About two pages.
_TAG_COLUMNS = ("tag_id", "account_id", "group_id", "batch_id", "xuid", "cuid", "uid", "name")
_KEY_COLUMNS = ("tag_id", "slot", "version", "kek_id", "wrapped", "check_value")
_FIRST_VERSION = 1
_DEADLINE_S = 15.0  # One act, with waiting for a connection.
_STATEMENT_TIMEOUT_MS = 5000
_LOCK_TIMEOUT_MS = 2000
_TROUBLES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_UNIQUE = {
    "tag_xuid": ("xuid", "A tag with the same xuid exists already."),
    "tag_cuid": ("cuid", "A tag with the same cuid exists already."),
    "tag_uid": ("uid", "A tag with the same uid exists already."),
    "folder_account_id_name_key": ("name", "The account has a folder of this name already."),
    "tag_group_folder_id_name_key": ("name", "The folder has a group of this name already."),
    "batch_group_id_name_key": ("name", "The group has a batch of this name already."),
}
"""The field and the message of a violated unique constraint."""


class NewTag(NamedTuple):
    """A tag to be added. `uid` has 7 bytes, `file_key` 16; its key has version 1."""

    xuid: str
    uid: bytes | None
    file_key: bytes | None
    cuid: str | None = None
    name: str | None = None


class Caller(NamedTuple):
    """An API key that manages: whose it is and what it may."""

    api_key_id: int
    account_id: int
    aid: str
    scopes: frozenset[str]
    expires_at: float | None  # Unix time; whether that is over is for the one who asks to find out


async def caller_of(connection: Any, token_sha256: bytes) -> Caller | None:
    """The API key behind a token's hash, read from the database itself: a revoked one is none from that moment on."""
    row = await connection.fetchrow(load("management")["caller"], token_sha256)
    return (
        None
        if row is None
        else Caller(row["api_key_id"], row["account_id"], row["aid"], frozenset(row["scopes"]), row["expires_at"])
    )


@contextlib.asynccontextmanager
async def transaction(pool: Any, *, readonly: bool, statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS) -> AsyncIterator[Any]:
    """A connection inside a transaction that commits at the end of the block, unless it raises.

    Raises InputError for what a constraint refuses, UnavailableError for what the database cannot do now; its code is
    `outcome_unknown` if the commit was sent and its reply lost.
    """
    committing = False
    try:
        async with pooled_connection(pool, _DEADLINE_S) as connection:
            own = connection.transaction(readonly=readonly)
            await own.start()
            try:
                bounds = str(statement_timeout_ms), str(_LOCK_TIMEOUT_MS)
                await connection.execute(load("management")["bound_time"], *bounds)
                yield connection
            except Exception:
                if not connection.is_closed():
                    await own.rollback()
                raise
            committing = True
            await own.commit()
    except (InputError, UnavailableError):
        raise
    except asyncpg.UniqueViolationError as error:
        field, message = _UNIQUE.get(error.constraint_name or "", (None, "There is one already."))
        raise InputError("already_exists", message, field) from None
    except asyncpg.ForeignKeyViolationError:
        raise InputError("in_use", "Something hangs below it: delete or move that first.") from None
    except _TROUBLES as error:
        raise _unavailable(error, may_have_committed=committing and not readonly) from error


@contextlib.asynccontextmanager
async def long_work(pool: Any, *, readonly: bool) -> AsyncIterator[Any]:
    """A connection without a deadline, for files that are streamed; its transactions and bounds are the block's own.

    Raises UnavailableError as `transaction` does; for a lost connection it is `outcome_unknown` wherever it was lost.
    """
    with troubles(readonly=readonly):
        async with pooled_connection(pool, None) as connection:
            yield connection


@contextlib.contextmanager
def troubles(*, readonly: bool) -> Iterator[None]:
    """The database's errors as UnavailableError; a lost connection is `outcome_unknown` unless nothing is written."""
    try:
        yield
    except _TROUBLES as error:
        raise _unavailable(error, may_have_committed=not readonly) from error


def _unavailable(error: Exception, *, may_have_committed: bool) -> UnavailableError:
    lost = may_have_committed and db_error_kind(error) is DbErrorKind.LOST
    return UnavailableError("outcome_unknown" if lost else "unavailable", reason_of(error))


async def record(
    connection: Any,
    account_id: int,
    api_key_id: int | None,
    act: str,
    object_: str,
    object_id: object,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add an act to the audit log. `before` and `after` are the object as it is shown, which has no key and no token;
    `api_key_id` is None for a command on a host."""
    shown = (msgspec.json.encode(each).decode() if each is not None else None for each in (before, after))
    sql = load("management")["add_audit"]
    await connection.execute(sql, account_id, api_key_id, act, object_, str(object_id), *shown)


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
    await record(connection, account_id, None, "create", "account", aid, None, {"aid": aid, "name": name, "open": is_open})
    return account_id


async def account_id_of(connection: Any, aid: str) -> int:
    """The id behind an AID. Raises InputError if there is no such account."""
    account_id: int | None = await connection.fetchval(load("catalogue")["account_by_aid"], aid)
    if account_id is None:
        raise InputError("not_found", f"There is no account {aid}.", "aid")
    return account_id


async def create_folder(connection: Any, account_id: int, name: str) -> int:
    folder_id: int = await connection.fetchval(
        "INSERT INTO folder (account_id, name) VALUES ($1, $2) RETURNING folder_id", account_id, name
    )
    return folder_id


async def create_group(
    connection: Any,
    folder_id: int,
    name: str,
    profile: EncodingProfile | None,
    *,
    retry_window_s: int = 0,
    derivation: Derivation | None = None,
    enrols: bool = False,
) -> int:
    """A group; with a profile it authenticates, without one it is a standard group. With a derivation its tags store no keys:
    give it a master (`add_master`). Raises ProfileError."""
    if profile is not None:
        compile_profile(profile)
    group_id: int = await connection.fetchval(
        load("management")["add_group"],
        folder_id,
        name,
        "standard" if profile is None else "authentication",
        True,
        None if profile is None else msgspec.json.encode(profile).decode(),
        None,
        "{}",
        retry_window_s,
        None if derivation is None else msgspec.json.encode(derivation).decode(),
        enrols,
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

    Raises InputError if a tag code, or a CUID or UID of the account, exists already, and `key_retired` if such a tag was
    deleted after its key had been replaced. A tag that comes back with its key goes on from its last counter.
    """
    held = await connection.fetchrow(load("management")["hold_group"], group_id)
    if held is None or (batch_id is not None and await connection.fetchval(load("management")["hold_batch"], batch_id) is None):
        raise InputError("not_found", "The group or batch has just been deleted.", "group_id")
    masters = None
    if held["derives"]:
        masters = {row["identity"]: row["version"] for row in await connection.fetch(load("management")["group_keys"], group_id)}
    positions = await _known_positions(connection, account_id, tags, masters)
    if any(tag.file_key is not None for tag in tags):
        if held["derives"]:
            raise InputError("invalid_parameter", "The group derives the keys of its tags: they have none of their own.", "key")
        await announce_keys(connection, keks)
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
        field, message = _UNIQUE.get(error.constraint_name or "", _UNIQUE["tag_xuid"])
        raise InputError("already_exists", message, field) from None
    await connection.copy_records_to_table("tag_key", records=_key_rows(keks, account_id, rows), columns=_KEY_COLUMNS)
    await add_counters(connection, [(tag_id, positions.get(tag.xuid, 0)) for tag_id, tag in rows])
    return ids


async def _known_positions(
    connection: Any, account_id: int, tags: Sequence[NewTag], masters: Mapping[bytes, int] | None
) -> dict[str, int]:
    """Where the counters of tags begin that were there before, by tag code: an old tap must not pass again.

    `masters` are those of a group that derives keys, versions by check value: what was used under one of them, stays used.
    """
    uids = {tag.uid: tag for tag in tags if tag.uid is not None}
    codes = {tag.xuid: tag for tag in tags}
    found: dict[str, int] = {}
    for row in await connection.fetch(load("management")["deleted_before"], account_id, list(uids), list(codes)):
        for tag in filter(None, (uids.get(row["uid"]), codes.get(row["xuid"]))):
            keys = {check_value(tag.file_key): _FIRST_VERSION} if tag.file_key is not None else masters or {}
            begin = begins_at(row, keys, derives=masters is not None)
            if begin is None:
                raise InputError("key_retired", f"Tag {tag.xuid} was deleted after this key of it had been replaced.", "file_key")
            found[tag.xuid] = max(found.get(tag.xuid, 0), begin)
    return found


async def add_counters(connection: Any, rows: Sequence[tuple[int, int]]) -> None:
    """Add counter rows, in pages with room for their updates; a few rows find that room elsewhere.

    The lock of ALTER TABLE lets scans pass and lasts until the commit, so this comes last.
    """
    many = len(rows) >= _ROWS_WORTH_ROOM
    if many:
        await connection.execute("ALTER TABLE tag_counter SET (fillfactor = 70)")
    await connection.copy_records_to_table("tag_counter", records=rows, columns=("tag_id", "last_position"))
    if many:
        await connection.execute("ALTER TABLE tag_counter RESET (fillfactor)")


def _key_rows(
    keks: KeyEncryptionKeys, account_id: int, rows: Iterable[tuple[int, NewTag]]
) -> Iterable[tuple[int, int, int, str, bytes, bytes]]:
    kek, slot, version = keks.current, int(KeySlot.FILE), _FIRST_VERSION
    for tag_id, tag in rows:
        if tag.file_key is not None:
            wrapped = wrap(kek, tag.file_key, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
            yield tag_id, slot, version, kek.id, wrapped, check_value(tag.file_key)


async def add_tag_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, tag_id: int, value: bytes) -> int:
    """Add a live file key of 16 bytes as the tag's next version, and return that. Its counter begins anew: positions of a
    newer version lie above all of the older ones, which stay live until they are retired.

    Raises InputError if the tag had this very key before, or has had as many as it can.
    """
    sql, slot = load("management"), KeySlot.FILE
    await announce_keys(connection, keks)
    await connection.fetchval(sql["hold_tag"], tag_id)
    known = await connection.fetch(sql["tag_keys"], tag_id, slot)
    version = _next_version(known, value)
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=tag_id, slot=slot, version=version)
    await connection.execute(sql["add_tag_key"], tag_id, slot, version, keks.current.id, wrapped, check_value(value))
    return version


async def add_next_meta_key(connection: Any, keks: KeyEncryptionKeys, account_id: int, value: bytes) -> int:
    """Add a live meta key of 16 bytes as the account's next version, and return that. Raises InputError as `add_tag_key`."""
    await announce_keys(connection, keks)
    await connection.fetchval(load("management")["hold_account"], account_id)
    known = await connection.fetch(load("management")["meta_keys"], account_id)
    version = _next_version(known, value)
    await add_meta_key(connection, keks, account_id, version, value)
    await check_meta_keys(connection, account_id)
    return version


async def add_master(connection: Any, keks: KeyEncryptionKeys, account_id: int, group_id: int, value: bytes) -> int:
    """Add a live master of 16 bytes as the next version of a group that derives keys, and return that. What is derived from it
    has its version, so counters begin anew as with a tag's next key. Raises InputError as `add_tag_key`."""
    sql, slot = load("management"), KeySlot.MASTER
    await announce_keys(connection, keks)
    await connection.fetchval(sql["hold_account"], account_id)
    known = await connection.fetch(sql["group_keys"], group_id)
    if sum(row["live"] for row in known) >= limits.GROUP_MASTERS_MAX:
        raise InputError("limit_reached", f"A group has at most {limits.GROUP_MASTERS_MAX} live masters: retire one.", "key")
    derivation = await connection.fetchval(sql["derivation"], group_id)
    same = {row["check_value"] for row in known if row["derivation"] == derivation}
    version = _next_version(known, value, same)
    wrapped = wrap(keks.current, value, account_id=account_id, tag_id=group_id, slot=slot, version=version)
    await connection.execute(sql["add_group_key"], group_id, version, keks.current.id, wrapped, check_value(value))
    await check_meta_keys(connection, account_id)
    return version


async def check_meta_keys(connection: Any, account_id: int) -> None:
    """All that may open an encrypted mirror of an account, stored or derived, is tried for each; raises InputError if that is
    more than may be. The account is held."""
    if await connection.fetchval(load("management")["meta_keys_in_use"], account_id) > limits.META_KEYS_MAX:
        most = limits.META_KEYS_MAX
        raise InputError(
            "limit_reached", f"An account has at most {most} live meta keys, derived ones included: retire one.", "key"
        )


async def announce_keys(connection: Any, keks: KeyEncryptionKeys) -> None:
    """Before anything is sealed: from here on no key-encryption key can be taken out of the file (`rotation.while_unused`), and
    one that was taken out before is not used any more, because the file is looked at once again."""
    await connection.execute(load("management")["announce_keys"])
    await keks.look_for(("",))


def _next_version(known: Sequence[Any], value: bytes, same: Collection[bytes] | None = None) -> int:
    """The version after all known ones. `same` are the check values of keys that this one must not be: all known by default."""
    version: int = max((row["version"] for row in known), default=_FIRST_VERSION - 1) + 1
    if version > limits.KEY_VERSIONS_MAX:
        raise InputError("limit_reached", f"There were {limits.KEY_VERSIONS_MAX} versions of the key already.", "key")
    if check_value(value) in (same if same is not None else {row["check_value"] for row in known}):
        raise InputError("already_exists", "This key is, or was, one of its versions: old taps would pass again.", "key")
    return version


async def create_api_key(
    connection: Any,
    account_id: int,
    scopes: Sequence[str],
    *,
    label: str = "",
    expires_at: dt.datetime | None = None,
    by: int | None = None,
) -> str:
    """Make an API key and return its token, which is stored nowhere. Raises InputError for an unknown scope.

    `by` is the API key of who asked for it, None for a command on a host.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InputError("invalid_parameter", f"Scopes are {', '.join(SCOPES)}; one at least.", "scopes")
    token = _TOKEN_PREFIX + secrets.token_urlsafe(24)
    api_key_id = await connection.fetchval(
        "INSERT INTO api_key (account_id, token_sha256, label, scopes, expires_at) VALUES ($1, $2, $3, $4, $5) "
        "RETURNING api_key_id",
        account_id,
        sha256(token.encode()).digest(),
        label,
        sorted(set(scopes)),
        expires_at,
    )
    after = {"id": api_key_id, "label": label, "scopes": sorted(set(scopes)), "expires_at": expires_at}
    await record(connection, account_id, by, "create", "api_key", api_key_id, None, after)
    return token
