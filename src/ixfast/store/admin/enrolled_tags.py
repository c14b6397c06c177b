"""Tags made by their first genuine taps: rows of `tag` and `tag_counter`, once for each chip whoever asks how often.

What waits in one moment is made in one transaction, like the ledger's batches. The unique index on account and UID decides
between workers; who comes second finds the tag there. A tag that was deleted is not made again: its old taps would pass again,
and who deleted it did so with intent. Nobody needs to be told of a made tag: who takes it for absent comes here, and finds it.
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

_CODE_CHARS = 16  # Nobody looks over codes that are made by themselves, so they are made for fleets of any size.


class TagRegister:
    """Makes tags, a batch at a time. `enrol` may be called for one tag by many scans at once."""

    def __init__(self, pool: Any, gauges: meters.Meters, *, deadline_s: float) -> None:
        self._pool = pool
        self._meters = gauges
        self._deadline_s = deadline_s
        self._sql = load("enrolment")
        self._waiting: dict[tuple[int, bytes], tuple[int, asyncio.Future[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    async def enrol(self, account_id: int, group_id: int, uid: bytes) -> None:
        """Make the tag of this UID (7 bytes) in this group, unless there is one, or was. Raises UnavailableError."""
        waiting = self._waiting.get((account_id, uid))
        if waiting is None:
            waiting = group_id, self._loop.create_future()
            self._waiting[account_id, uid] = waiting
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._make_waiting())
        await asyncio.shield(waiting[1])

    async def _make_waiting(self) -> None:
        while self._waiting:
            wanted = dict(list(self._waiting.items())[: limits.ENROLMENT_BATCH_MAX])
            for place in wanted:
                del self._waiting[place]
            rows = [(account_id, group_id, uid) for (account_id, uid), (group_id, _) in wanted.items()]
            problem = None
            try:
                async with pooled_connection(self._pool, self._deadline_s) as connection:
                    self._meters.slots[meters.TAGS_ENROLLED] += await self._make(connection, rows)
            except Exception as error:  # of every kind: what is not made now is made by the next try
                reason = reason_of(error)
                log.warning("%d tags not enrolled: %s", len(rows), reason)
                problem = UnavailableError("unavailable", reason)
            for _, future in wanted.values():
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(problem)
                    future.exception()  # noted: whoever waited may be gone

    async def _make(self, connection: Any, rows: list[tuple[int, int, bytes]]) -> int:
        """One transaction; returns how many were made."""
        accounts, groups, uids = map(list, zip(*rows, strict=True))
        codes = draw_codes(len(rows), _CODE_CHARS)
        async with connection.transaction():
            made = [row["tag_id"] for row in await connection.fetch(self._sql["enrol"], accounts, groups, uids, codes)]
            if not made:
                return 0
            # A deletion that the insert had to wait for is visible to a further statement only.
            await connection.execute(self._sql["withdraw_deleted"], made)
            return len(await connection.fetch(self._sql["complete"], made))
