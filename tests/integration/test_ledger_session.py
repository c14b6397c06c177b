"""A committer's own connection while it is idle: it holds no lock and no snapshot."""

from __future__ import annotations

import asyncpg
from support import eventually
from support.ledger_kit import open_ledger

from ixfast.store.connections.session import LedgerSession

STATE = "SELECT state, backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $1"
LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'relation'"


async def test_a_session_that_nobody_has_used_yet_holds_nothing(database: str) -> None:
    watching = await asyncpg.connect(database)
    ledger = await LedgerSession.open(database)
    try:
        pid = ledger.connection.get_server_pid()
        assert tuple(await watching.fetchrow(STATE, pid)) == ("idle", True)
        assert await watching.fetchval(LOCKS, pid) == 0
    finally:
        ledger.terminate()
        await watching.close()


async def test_tables_can_be_altered_while_a_ledger_waits_for_its_first_scan(database: str) -> None:
    watching = await asyncpg.connect(database)
    try:
        async with open_ledger(database, groups=2) as kit:
            await eventually(lambda: kit.ledger.connected)
            await watching.execute("SET lock_timeout = '1s'")
            await watching.execute("ALTER TABLE tag_counter SET (fillfactor = 70)")
            async with watching.transaction():
                await watching.execute("LOCK TABLE scan_log, keyed_scan, tag_counter IN ACCESS EXCLUSIVE MODE")
    finally:
        await watching.close()
