"""Locks of the whole database: one migration and one maintenance of partitions at a time.

A lock is polled, with a bound: a statement that waits for it would hold a snapshot, for which the detachment of a partition has
to wait. A process that waits longer than a moment reports who holds the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ixfast.errors import ConfigurationError

log = logging.getLogger("ixfast.migrate")

MIGRATION = 0x6978_6661_7374  # "ixfast"
PARTITIONS = 0x6978_6661_7375
WAIT_S = 60.0
"""The longest wait. A service manager that restarts a server waits again."""
_POLL_S = 0.05
_SILENT_S = 1.0

_HOLDER = """
SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS address, a.state,
       extract(epoch FROM now() - a.state_change)::int AS seconds
FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) + l.objid::bigint = $1
LIMIT 1
"""

Notice = Callable[[str], None]
"""Called with a line for a person who waits."""


class DatabaseLockedError(ConfigurationError):
    """Another process holds a lock for too long; the message names it."""


async def wait_for(lock: int, attempt: Callable[[], Awaitable[bool]], connection: Any, waiting: Notice = log.warning) -> None:
    """Call `attempt` until it has the lock. Raises DatabaseLockedError after `WAIT_S`.

    `connection` is used to find out who holds the lock.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    silent_until = began + _SILENT_S
    while not await attempt():
        now = loop.time()
        if now >= began + WAIT_S:
            raise DatabaseLockedError(
                f"{await _holder(connection, lock)} still holds the lock of the {_WORK[lock]} after {WAIT_S:.0f} s. Run the "
                "command again when it has finished."
            )
        if now >= silent_until:
            waiting(f"waiting up to {WAIT_S:.0f} s for the {_WORK[lock]} by {await _holder(connection, lock)}")
            silent_until = began + WAIT_S
        await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def held_by_transaction(connection: Any, lock: int, waiting: Notice = log.warning) -> AsyncIterator[None]:
    """A transaction that holds the lock until it ends, so that no pooled connection can keep it."""
    transaction = connection.transaction()

    async def attempt() -> bool:
        nonlocal transaction
        await transaction.start()
        if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", lock):
            return True
        await transaction.rollback()
        transaction = connection.transaction()
        return False

    await wait_for(lock, attempt, connection, waiting)
    try:
        yield
    except BaseException:
        if not connection.is_closed():
            await transaction.rollback()
        raise
    await transaction.commit()


@contextlib.asynccontextmanager
async def held_by_session(connection: Any, lock: int, waiting: Notice = log.warning) -> AsyncIterator[None]:
    """For statements that cannot run in a transaction."""

    async def attempt() -> bool:
        return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock))

    await wait_for(lock, attempt, connection, waiting)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", lock)


_WORK = {MIGRATION: "migration", PARTITIONS: "maintenance of partitions"}


async def _holder(connection: Any, lock: int) -> str:
    """The process that holds the lock, as far as this role may know."""
    row = await connection.fetchrow(_HOLDER, lock)
    if row is None:
        return "another process"
    details = []
    if row["state"] == "idle":
        details.append(
            f"idle for {row['seconds']} s: if it is a pooler's connection that kept the lock, end it with "
            f"SELECT pg_terminate_backend({row['pid']})"
        )
    return described(row, *details)


def described(row: Any, *details: str) -> str:
    """A session for a message: a row with columns of pg_stat_activity, as far as this role may see them, or None."""
    if row is None:
        return "another session"
    if row["pid"] == 0:
        return "a prepared transaction (see pg_prepared_xacts)"
    known = dict(row)
    shown = [f"role {known['usename']}" if known["usename"] else known.get("backend_type") or "of another role"]
    if known["application_name"]:
        shown.append(f'application "{known["application_name"]}"')
    if known["address"]:
        shown.append(f"from {known['address']}")
    if known.get("since"):
        idle = ", now idle" if str(known["state"]).startswith("idle") else ""
        shown.append(f"in a transaction since {known['since']} UTC{idle}")
    return f"PostgreSQL process {known['pid']} ({', '.join([*shown, *details])})"
