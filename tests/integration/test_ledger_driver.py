"""The benchmark of the ledger's statement lasts as long as it was asked to, however fast the database is."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from support.ledger_kit import open_truth

from ixfast.store.connections.session import LedgerSession

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.ledger import driver


async def test_batches_are_driven_again_when_all_have_been_used(database: str) -> None:
    async with open_truth(database, 50) as truth:
        session = await LedgerSession.open(database)
        try:
            batches = driver.draw_batches(list(range(1, 51)), rows=10, count=1, seed="1")
            statements, advanced = await driver.drive(session, batches, 0, time.monotonic() + 1.0)
        finally:
            session.terminate()
        assert statements > len(batches)
        assert advanced == statements * 10 == len(await truth.log())
