"""A server with a race: its ledger reads a tag's counter, compares it, and then writes. The control of test_same_tap.py.

The command line is that of `ixfast`, as in `python racing_server.py serve …`; its workers are started from this file, too.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from ixfast import cli
from ixfast.process import supervisor, worker
from ixfast.store.connections.session import LedgerSession

_RACE_S = 0.05  # Between reading and writing, so that two workers are certain to overlap.


async def advance(session: LedgerSession, tag_ids: Sequence[int], positions: Sequence[int], scan_ids: Sequence[int]) -> Any:
    connection = session.connection
    rows = await connection.fetch("SELECT * FROM tag_counter WHERE tag_id = ANY ($1::bigint[])", tag_ids)
    before = {row["tag_id"]: row for row in rows}
    await asyncio.sleep(_RACE_S)
    advanced = []
    for tag_id, position, scan_id in zip(tag_ids, positions, scan_ids, strict=True):
        row = before[tag_id]
        if row["last_position"] < position:
            await connection.execute(
                "UPDATE tag_counter SET last_position = greatest(last_position, $2), previous_position = last_position, "
                "last_scan_id = $3, scan_count = scan_count + 1, last_at = now() WHERE tag_id = $1",
                *(tag_id, position, scan_id),
            )
            await connection.execute("INSERT INTO scan_log VALUES (now(), $3, $1, $2, 'g')", tag_id, position, scan_id)
            advanced.append((tag_id, row["last_position"], row["scan_count"] + 1))
    return advanced


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        LedgerSession.advance = advance
        worker.main()
