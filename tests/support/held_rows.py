"""Makes the ledger's statements wait, as long as a test likes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg


@asynccontextmanager
async def rows_held(dsn: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Lock the rows of all tags; yields a function that counts the ledger statements waiting for them."""
    holder, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'ixfast'"
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM tag_counter FOR UPDATE")
            yield lambda: watcher.fetchval(query)
    finally:
        await holder.close()
        await watcher.close()
