"""What a committer learns of its database."""

import asyncio
from typing import Any

from ledger_kit import tag_record

from ixfast import limits, meters
from ixfast.scan import Scan
from ixfast.store.committer import Committer

SCANS = limits.LEDGER_RATE_ROWS_MIN


class Quick:
    """A session whose database answers before the loop's clock moves on."""

    closed = False

    async def advance(self, tag_ids: list[int], *_: Any) -> list[tuple[int, int, int]]:
        return [(tag_id, 0, 1) for tag_id in tag_ids]

    def terminate(self) -> None:
        self.closed = True


class Passed:
    """Counts the scans that passed; nothing else is to happen."""

    def __init__(self) -> None:
        self.scans: list[Scan] = []
        self.all = asyncio.get_running_loop().create_future()

    def known_replay(self, scan: Scan) -> bool:
        return False

    def passed(self, scan: Scan) -> None:
        self.scans.append(scan)
        if len(self.scans) == SCANS:
            self.all.set_result(None)

    def failed(self, scan: Scan, code: str, reason: str) -> None:
        if not self.all.done():
            self.all.set_exception(AssertionError(f"{code} {reason}"))


async def test_a_statement_that_takes_no_time_passes_all_its_scans() -> None:
    """64 scans committed within a millisecond of the loop's clock were answered `outcome_unknown`: the rate was divided by 0."""
    loop = asyncio.get_running_loop()
    resolver: Any = Passed()

    async def open_session() -> Any:
        return Quick()

    committer = Committer(open_session, resolver, meters.Meters(), batch_max=1000, queue_max=1000, deadline_s=5.0, wait_max_s=0.1)
    committer.start()
    for tag_id in range(1, SCANS + 1):
        scan = Scan(lambda _: None, b"x", -1, None, None, tag_id, loop.time())
        scan.record = tag_record(tag_id)
        scan.tag_id, scan.position = tag_id, 1
        committer.submit(scan)
    await asyncio.wait_for(resolver.all, 5)
    await committer.stop()
    assert [scan.tag_id for scan in resolver.scans] == list(range(1, SCANS + 1))
