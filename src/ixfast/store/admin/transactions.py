"""Transactions of the management API and the command line, with database errors translated and changes announced.

Edits run in the caller's transaction. `changed` must be its last statement: the row lock that it takes orders the commits, so
that generations become visible in order.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import asyncpg
import msgspec

from ixfast.errors import InputError, UnavailableError
from ixfast.store.connections.lost import unless_lost
from ixfast.store.connections.session import pooled_connection
from ixfast.store.db_errors import DbErrorKind, db_error_kind, reason_of
from ixfast.store.queries import load

_DEADLINE_S = 15.0  # One edit, including the wait for a connection.
_STATEMENT_TIMEOUT_MS = 5000
_LOCK_TIMEOUT_MS = 2000
_DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
_UNIQUE_CONSTRAINTS = {
    "tag_xuid": ("xuid", "A tag with this xuid already exists."),
    "tag_cuid": ("cuid", "A tag with this cuid already exists."),
    "tag_uid": ("uid", "A tag with this uid already exists."),
    "folder_account_id_name_key": ("name", "The account already has a folder with this name."),
    "tag_group_folder_id_name_key": ("name", "The folder already has a group with this name."),
    "batch_group_id_name_key": ("name", "The group already has a batch with this name."),
}
"""The field and the message for each unique constraint."""


def already_exists(error: asyncpg.UniqueViolationError) -> InputError:
    """The error for a violated unique constraint, with the field that it is about."""
    field, message = _UNIQUE_CONSTRAINTS.get(error.constraint_name or "", (None, "The object already exists."))
    return InputError("already_exists", message, field)


@contextlib.asynccontextmanager
async def transaction(pool: Any, *, readonly: bool, statement_timeout_ms: int = _STATEMENT_TIMEOUT_MS) -> AsyncIterator[Any]:
    """A pooled connection in a transaction that commits at the end of the block, and rolls back if the block raises.

    Raises InputError for a violated constraint and UnavailableError for what the database cannot do now. The latter has the code
    `outcome_unknown` if the connection was lost after COMMIT was sent.
    """
    committing = False
    try:
        async with pooled_connection(pool, _DEADLINE_S) as connection:
            own = connection.transaction(readonly=readonly)
            await own.start()
            try:
                timeouts = str(statement_timeout_ms), str(_LOCK_TIMEOUT_MS)
                await connection.execute(load("management")["set_timeouts"], *timeouts)
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
        raise already_exists(error) from None
    except asyncpg.ForeignKeyViolationError:
        raise InputError("in_use", "The object still contains others; delete or move them first.") from None
    except _DATABASE_ERRORS as error:
        raise _unavailable(error, may_have_committed=committing and not readonly) from error


@contextlib.asynccontextmanager
async def unbounded_connection(pool: Any, *, readonly: bool) -> AsyncIterator[Any]:
    """A pooled connection without a deadline, for streaming files. The block runs its own transactions and sets its timeouts.

    Raises UnavailableError as `database_errors` does.
    """
    with database_errors(readonly=readonly):
        async with pooled_connection(pool, None) as connection:
            yield connection


@contextlib.contextmanager
def database_errors(*, readonly: bool) -> Iterator[None]:
    """Raise the database errors of the block as UnavailableError. A lost connection has the code `outcome_unknown` unless the
    block only reads."""
    try:
        yield
    except _DATABASE_ERRORS as error:
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
    """Add an entry to the audit log. `before` and `after` are the object as the API shows it, without keys and tokens.
    `api_key_id` is None for a command on a host."""
    states = (msgspec.json.encode(each).decode() if each is not None else None for each in (before, after))
    sql = load("management")["add_audit"]
    await connection.execute(sql, account_id, api_key_id, act, object_, str(object_id), *states)


async def changed(connection: Any, *changes: tuple[str, int | None, str | None]) -> int:
    """Record changes (kind, id, tag code) under the next generation and return it. The commit notifies the workers."""
    sql = load("catalogue")
    generation: int = await connection.fetchval(sql["raise_generation"])
    rows = [(generation, *change) for change in changes]
    await unless_lost(connection, lambda: connection.executemany(sql["note_change"], rows))
    await connection.execute(sql["notify_change"], str(generation))
    return generation
