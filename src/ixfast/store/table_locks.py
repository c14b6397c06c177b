"""Waits of schema changes for the locks of tables, which other sessions hold until their transactions end: a dump, a report, a
session that somebody left open.

A statement that waits for a table holds up every scan that needs the table after it. Therefore it waits only briefly, and what it
belongs to is repeated, after a pause in which scans go on. What is repeated must be one transaction, or continue where it was
interrupted. The wait is bounded, and a message names the session that has the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from ixfast import limits
from ixfast.errors import ConfigurationError
from ixfast.store.advisory_locks import Notice, described
from ixfast.store.connections import hosts

log = logging.getLogger("ixfast.migrate")

T = TypeVar("T")

WAIT_S = 60.0
"""The longest wait. A service manager that restarts a server waits again."""
# Longer than `deadlock_timeout`, 1 s by default, after which an autovacuum gives way.
ATTEMPT_MS = 1500
_PAUSE_S = 1.0
_LOOK_AFTER_S = 0.2
_BEGIN = "SELECT pg_backend_pid() FROM set_config('lock_timeout', $1, false)"
_BLOCKING = """
SELECT b.pid, a.usename, a.application_name, host(a.client_addr) AS address, a.state, a.backend_type,
       to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since, w.relation::regclass::text AS table
FROM pg_locks AS w
CROSS JOIN unnest(pg_blocking_pids($1)) AS b (pid)
LEFT JOIN pg_stat_activity AS a ON a.pid = b.pid
WHERE w.pid = $1 AND NOT w.granted
ORDER BY a.xact_start NULLS LAST
LIMIT 1
"""


class TableLockedError(ConfigurationError):
    """Another session holds the lock of a table for too long; the message names it."""


class TableLocks:
    """Repeats schema changes on one connection until they get their locks, for at most `WAIT_S` altogether."""

    def __init__(self, dsn: str, connection: Any, waiting: Notice = log.warning) -> None:
        """`waiting` is called with a line that says for whom this waits."""
        self._dsn = dsn
        self._connection = connection
        self._waiting = waiting
        self._ends: float | None = None  # set by the first wait
        self._blocking: Any = None  # a row of `_BLOCKING`

    async def patiently(self, change: Callable[[], Awaitable[T]], work: str, *, whole: bool = True) -> T:
        """The result of `change`, which is called again after each LockNotAvailableError.

        For messages, `work` is what it does, and `whole` whether an attempt is one transaction. Raises TableLockedError if the
        time is up.
        """
        # Not the process that the driver knows: a pooler invents one.
        pid = await self._connection.fetchval(_BEGIN, str(ATTEMPT_MS))
        try:
            while True:
                watch = asyncio.create_task(self._watch(pid))
                try:
                    return await change()
                except asyncpg.LockNotAvailableError:
                    self._blocking = (watch.result() if watch.done() else None) or self._blocking
                    await self._wait(work, whole=whole)
                finally:
                    await _cancelled(watch)
        finally:
            if not self._connection.is_closed():
                await self._connection.execute("RESET lock_timeout")

    async def _wait(self, work: str, *, whole: bool) -> None:
        """Pause before the next attempt. Raises TableLockedError if there is none."""
        now = asyncio.get_running_loop().time()
        row = self._blocking
        table = f"table {row['table']}" if row is not None and row["table"] else "database"
        holder = f"{described(row)} has locked the {table}"
        if self._ends is None:
            self._ends = now + WAIT_S
            self._waiting(f"waiting up to {WAIT_S:.0f} s for {work}: {holder}")
        elif now >= self._ends:
            kept = ", and nothing of it was kept" if whole else ""
            end = f", or end it with SELECT pg_terminate_backend({row['pid']})" if row is not None and row["pid"] else ""
            raise TableLockedError(
                f"{work[:1].upper()}{work[1:]} was given up after {WAIT_S:.0f} s{kept}: {holder}. Run the command again when "
                f"that session has finished{end}."
            )
        await asyncio.sleep(_PAUSE_S)

    async def _watch(self, pid: int) -> Any:
        """The session for which the process `pid` waits, once it waits; None if that cannot be found out."""
        await asyncio.sleep(_LOOK_AFTER_S)
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            watcher = await hosts.connect(self._dsn, limits.CONNECT_TIMEOUT_MS / 1000, application_name="ixfast-command")
            try:
                while True:
                    found = await watcher.fetchrow(_BLOCKING, pid)
                    if found is not None:
                        return found
                    await asyncio.sleep(_LOOK_AFTER_S)
            finally:
                watcher.terminate()
        return None


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
