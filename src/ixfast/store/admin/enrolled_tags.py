"""Enrolment: creates the rows of `tag` and `tag_counter` for a chip at its first genuine tap, exactly once per chip.

Concurrent enrolments of a worker are batched into one transaction, like the ledger's batches. Between workers the unique index
on account and UID decides; the second one finds the existing tag. A deleted tag is not enrolled again, because its old taps would
pass again and its deletion was intended. Other workers need no notification: one that believes the tag to be absent enrols it,
and finds it here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ixfast import limits, meters
from ixfast.errors import UnavailableError
from ixfast.store.connections.session import pooled_connection
from ixfast.store.db_errors import reason_of
from ixfast.store.queries import load
from ixfast.store.random_codes import draw_codes

log = logging.getLogger("ixfast.enrolment")

_CODE_CHARS = 16  # Long enough for fleets of any size, since no one reviews these codes.


class TagRegister:
    """Creates tags in batches. Several scans may enrol the same tag concurrently."""

    def __init__(self, pool: Any, gauges: meters.Meters, *, deadline_s: float) -> None:
        self._pool = pool
        self._meters = gauges
        self._deadline_s = deadline_s
        self._sql = load("enrolment")
        self._waiting: dict[tuple[int, bytes], tuple[int, asyncio.Future[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    async def enrol(self, account_id: int, group_id: int, uid: bytes) -> None:
        """Create the tag with this UID (7 bytes) in this group, unless the account has or had one. Raises UnavailableError."""
        waiting = self._waiting.get((account_id, uid))
        if waiting is None:
            waiting = group_id, self._loop.create_future()
            self._waiting[account_id, uid] = waiting
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._create_waiting())
        await asyncio.shield(waiting[1])

    async def _create_waiting(self) -> None:
        while self._waiting:
            batch = dict(list(self._waiting.items())[: limits.ENROLMENT_BATCH_MAX])
            for key in batch:
                del self._waiting[key]
            rows = [(account_id, group_id, uid) for (account_id, uid), (group_id, _) in batch.items()]
            problem = None
            try:
                async with pooled_connection(self._pool, self._deadline_s) as connection:
                    self._meters.slots[meters.TAGS_ENROLLED] += await self._create(connection, rows)
            except Exception as error:  # of any type: the next tap tries again
                reason = reason_of(error)
                log.warning("could not enrol %d tags: %s", len(rows), reason)
                problem = UnavailableError("unavailable", reason)
            for _, future in batch.values():
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)
                    future.exception()  # mark as retrieved: all waiting scans may have been cancelled

    async def _create(self, connection: Any, rows: list[tuple[int, int, bytes]]) -> int:
        """Create the tags in one transaction and return how many were created."""
        accounts, groups, uids = map(list, zip(*rows, strict=True))
        codes = draw_codes(len(rows), _CODE_CHARS)
        async with connection.transaction():
            made = [row["tag_id"] for row in await connection.fetch(self._sql["enrol"], accounts, groups, uids, codes)]
            if not made:
                return 0
            # A deletion that the insert waited for is visible only to a later statement.
            await connection.execute(self._sql["withdraw_deleted"], made)
            return len(await connection.fetch(self._sql["complete"], made))
