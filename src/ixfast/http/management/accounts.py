"""Accounts and their API keys.

An API key reads and changes its own account only. It cannot grant a scope that it does not have, except `scan` and `read`, since
`manage` permits more. A token is part of one response, that of its creation, and is stored as a hash.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, no_content, not_found, object_response, unauthorised
from ixfast.http.management.schemas import (
    Account,
    AccountPatch,
    ApiKey,
    ApiKeyDraft,
    ApiKeyPatch,
    NewApiKey,
    Rotation,
    set_members,
)
from ixfast.store.admin import edits

_GRANTED_BY_ALL = frozenset(("scan", "read"))
LIVE_API_KEYS_MAX = 1000  # Per account; a company has a few dozen.


def _account(row: Any) -> Account:
    return Account(row["aid"], row["name"], row["open"], row["active"], row["cors"], row["created_at"])


async def _own_account(call: Call, *, lock: bool = False) -> Account:
    statement = call.sql["account"].rstrip(";") + (" FOR NO KEY UPDATE" if lock else "")
    return _account(await call.connection.fetchrow(statement, call.account_id))


async def list_accounts(call: Call) -> web.Response:
    return call.slice([await _own_account(call)])


def _check_own(call: Call) -> None:
    if call.request.match_info["aid"] != call.caller.aid:
        raise not_found("account")


async def read_account(call: Call) -> web.Response:
    _check_own(call)
    return object_response(await _own_account(call))


async def patch_account(call: Call) -> web.Response:
    patch = call.body(AccountPatch)
    _check_own(call)
    before = await _own_account(call, lock=True)
    call.match(before)
    after = msgspec.structs.replace(before, **set_members(patch))
    if after != before:
        statement = call.sql["update_account"]
        await call.connection.execute(statement, call.account_id, after.name, after.open, after.active, after.cors)
        await call.note("update", "account", after.aid, before, after, ("account", call.account_id, None))
    return object_response(after)


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        row["api_key_id"],
        row["label"],
        row["scopes"],
        row["revoked_at"] is None and (row["expires_at"] is None or row["expires_at"] > dt.datetime.now(dt.UTC)),
        row["expires_at"],
        row["revoked_at"],
        row["created_at"],
    )


async def list_api_keys(call: Call) -> web.Response:
    return await call.paged("api_keys", _api_key, "api_key_id")


async def read_api_key(call: Call) -> web.Response:
    return object_response(_api_key(await call.row("API key", "api_key", call.id("API key"))))


async def create_api_key(call: Call) -> web.Response:
    draft = call.body(ApiKeyDraft)
    return await _create(call, draft.scopes, draft.label, validation.future(draft.expires_at, "expires_at"))


async def _create(call: Call, scopes: list[Any], label: str, expires_at: dt.datetime | None) -> web.Response:
    _check_scopes(call, scopes)
    await call.connection.fetchval(call.sql["lock_account"], call.account_id)
    if await call.connection.fetchval(call.sql["live_api_keys"], call.account_id) >= LIVE_API_KEYS_MAX:
        raise InputError("limit_reached", f"An account can have at most {LIVE_API_KEYS_MAX} live API keys; revoke some first.")
    by = call.caller.api_key_id
    token = await edits.create_api_key(call.connection, call.account_id, scopes, label=label, expires_at=expires_at, by=by)
    digest = hashlib.sha256(token.encode()).digest()
    made = (await edits.caller_of(call.connection, digest) or call.caller).api_key_id
    await edits.changed(call.connection, ("api_key", made, None))
    key = _api_key(await call.row("API key", "api_key", made))
    content = NewApiKey(**{name: getattr(key, name) for name in key.__struct_fields__}, token=token)
    return json_response(content, 201, location=f"/v2/api-keys/{made}")


def _check_scopes(call: Call, scopes: list[Any]) -> None:
    missing = set(scopes) - call.caller.scopes - _GRANTED_BY_ALL
    if missing:
        raise unauthorised(sorted(missing))


async def _locked(call: Call) -> tuple[int, ApiKey]:
    api_key_id = call.id("API key")
    return api_key_id, _api_key(await call.row("API key", "api_key", api_key_id, lock="NO KEY UPDATE"))


async def patch_api_key(call: Call) -> web.Response:
    patch = call.body(ApiKeyPatch)
    if patch.expires_at is not UNSET:
        validation.future(patch.expires_at, "expires_at")
    api_key_id, before = await _locked(call)
    call.match(before)
    if patch.expires_at is not UNSET:
        _check_scopes(call, before.scopes)
    changes = set_members(patch)
    after = msgspec.structs.replace(before, **changes)
    if after != before:
        await call.connection.execute(call.sql["update_api_key"], api_key_id, after.label, after.expires_at)
        after = _api_key(await call.row("API key", "api_key", api_key_id))
        await call.note("update", "api_key", api_key_id, before, after, ("api_key", api_key_id, None))
    return object_response(after)


async def revoke_api_key(call: Call) -> web.Response:
    api_key_id, before = await _locked(call)
    call.match(before)
    if before.revoked_at is None:
        await call.connection.execute(call.sql["revoke_api_key"], api_key_id)
        after = _api_key(await call.row("API key", "api_key", api_key_id))
        await call.note("revoke", "api_key", api_key_id, before, after, ("api_key", api_key_id, None))
    return no_content()


async def rotate_api_key(call: Call) -> web.Response:
    rotation = call.body(Rotation) if call.content else Rotation()
    expires_at = validation.future(rotation.expires_at, "expires_at")
    api_key_id, before = await _locked(call)
    if not before.live:
        raise InputError("not_found", "The account has no such live API key.")
    response = await _create(call, list(before.scopes), before.label, expires_at)
    end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=rotation.overlap_s)
    if before.expires_at is None or before.expires_at > end:
        await call.connection.execute(call.sql["update_api_key"], api_key_id, before.label, end)
        after = _api_key(await call.row("API key", "api_key", api_key_id))
        await call.note("rotate", "api_key", api_key_id, before, after, ("api_key", api_key_id, None))
    return response
