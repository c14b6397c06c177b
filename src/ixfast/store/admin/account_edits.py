"""Edits of accounts and their API keys. Each runs in the caller's transaction; see `transactions`."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import InputError
from ixfast.store.admin.transactions import record
from ixfast.store.queries import load

SCOPES = ("scan", "read", "manage", "keys")
_TOKEN_PREFIX = "ixf_"  # noqa: S105 - lets secret scanners recognise a leaked token
_TOKEN_BYTES = 24


class Caller(NamedTuple):
    """An API key that calls the management API, with its account and scopes."""

    api_key_id: int
    account_id: int
    aid: str
    scopes: frozenset[str]
    expires_at: float | None  # Unix time; the user of this record decides whether that has passed


async def caller_of(connection: Any, token_sha256: bytes) -> Caller | None:
    """The API key with this SHA-256 (32 bytes) of its token, or None. Read from the database, so revocation is immediate."""
    row = await connection.fetchrow(load("management")["caller"], token_sha256)
    if row is None:
        return None
    return Caller(row["api_key_id"], row["account_id"], row["aid"], frozenset(row["scopes"]), row["expires_at"])


async def create_account(connection: Any, aid: str, *, name: str = "", is_open: bool = False) -> int:
    """Create an account and return its id. Raises InputError if the AID is taken or malformed."""
    try:
        async with connection.transaction():
            account_id: int = await connection.fetchval(
                "INSERT INTO account (aid, name, open) VALUES ($1, $2, $3) RETURNING account_id", aid, name, is_open
            )
    except asyncpg.UniqueViolationError:
        raise InputError("already_exists", f"The account {aid} already exists.", "aid") from None
    except asyncpg.CheckViolationError:
        raise InputError("invalid_parameter", "An account id must be 1 to 64 letters, digits, - and _.", "aid") from None
    await record(connection, account_id, None, "create", "account", aid, None, {"aid": aid, "name": name, "open": is_open})
    return account_id


async def account_id_of(connection: Any, aid: str) -> int:
    """The id of the account with this AID. Raises InputError if there is none."""
    account_id: int | None = await connection.fetchval(load("catalogue")["account_by_aid"], aid)
    if account_id is None:
        raise InputError("not_found", f"There is no account {aid}.", "aid")
    return account_id


async def create_api_key(
    connection: Any,
    account_id: int,
    scopes: Sequence[str],
    *,
    label: str = "",
    expires_at: dt.datetime | None = None,
    by: int | None = None,
) -> str:
    """Create an API key and return its token, of which only the hash is stored. Raises InputError for an unknown scope.

    `by` is the API key of the caller, None for a command on a host.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise InputError("invalid_parameter", f"`scopes` must be one or more of {', '.join(SCOPES)}.", "scopes")
    token = _TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
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
