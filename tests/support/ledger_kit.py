"""A ledger on a test's database, with scans whose outcomes can be awaited."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from ixfast.chips import compile_profile, preset
from ixfast.domain.model import Verdict
from ixfast.domain.records import ApiKey, TagRecord
from ixfast.domain.scan import COUNTED_ONLY, KEYED_FROM, Extras, Outcome, Scan
from ixfast.meters import Meters
from ixfast.store.connections import session
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase
from ixfast.testing.memory import MemoryCatalogue

_profile = compile_profile(preset("ixkio-plain"))
ACCOUNT = 9
"""The account of the API key with which unknown tags are scanned."""

_scan_ids = itertools.count(0x1CA0_0000_0000_0001)


def tag_record(tag_id: int, *, retry_window_s: int = 0) -> TagRecord:
    catalogue = MemoryCatalogue()
    group = catalogue.add_group("acme", _profile, retry_window_s=retry_window_s)
    record = catalogue.add_tag(group, f"tag{tag_id}")
    record.tag_id = tag_id
    return record


def word(scan: Scan) -> str:
    """The outcome in one word: `advanced`, `replayed`, `repeated`, or the error with its reason."""
    return f"{scan.error}:{scan.error_detail}" if scan.error is not None else scan.outcome.name.lower()


def refused_scan(
    record: TagRecord | None, position: int, verdict: Verdict, *, key: int | None = None, fingerprint: int = 0
) -> Scan:
    """A scan that the engine has refused, with an Idempotency-Key if `key` is a number. Without a record, the tag is unknown."""
    api_key = ApiKey(1, ACCOUNT, "shop", frozenset(("scan",)), "", None) if record is None else None
    extras = Extras(idempotent=True, fingerprint=fingerprint | KEYED_FROM) if key is not None else None
    scan_id = KEYED_FROM | key if key is not None else next(_scan_ids)
    scan = Scan(lambda _scan: None, b"", -1, None, api_key, scan_id, 0.0, extras)
    scan.record, scan.position, scan.verdict = record, position, verdict
    scan.tag_id = record.tag_id if record is not None else 0
    return scan


class LedgerKit:
    """Submits scans and collects their outcomes; each scan must be settled exactly once."""

    def __init__(self, *, retry_window_s: int = 0) -> None:
        self.ledger: Any = None
        self.pool: Any = None
        self.meters = Meters()
        self.retry_window_s = retry_window_s
        self._records: dict[int, TagRecord] = {}
        self._answers: dict[int, asyncio.Future[Scan]] = {}

    def settled(self, scan: Scan) -> None:
        """Called by the ledger when a scan is settled; a second call for the same scan raises KeyError."""
        self._answers.pop(id(scan)).set_result(scan)

    def record(self, tag_id: int) -> TagRecord:
        return self._records.setdefault(tag_id, tag_record(tag_id, retry_window_s=self.retry_window_s))

    def submit(
        self,
        tag_id: int,
        position: int = COUNTED_ONLY,
        scan_id: int | None = None,
        *,
        verdict: Verdict | None = None,
        **extras: Any,
    ) -> asyncio.Future[Scan]:
        """Submit a scan as the engine does. One that comes with a verdict is refused already, and must have a key."""
        loop = asyncio.get_running_loop()
        options = Extras(**extras) if extras else None
        scan_id = scan_id or next(_scan_ids)
        if options is not None and options.idempotent:
            scan_id |= KEYED_FROM
        scan = Scan(lambda _scan: None, b"", -1, None, None, scan_id, loop.time(), options)
        scan.record, scan.tag_id, scan.position, scan.verdict = self.record(tag_id), tag_id, position, verdict
        answer: asyncio.Future[Scan] = loop.create_future()
        self._answers[id(scan)] = answer
        if options is not None and options.idempotent:
            self.ledger.bind(scan)
        else:
            (self.ledger.read_state if options is not None and options.peek else self.ledger.submit)(scan)
        return answer

    async def word(self, tag_id: int, position: int = COUNTED_ONLY, scan_id: int | None = None, **extras: Any) -> str:
        return word(await self.submit(tag_id, position, scan_id, **extras))

    def refuse(
        self, tag_id: int | None, position: int, verdict: Verdict = Verdict.FORGED, *, country: str | None = None, **under: Any
    ) -> None:
        """Log a refusal and the country of its visitor, like the engine; see `refused_scan`."""
        scan = refused_scan(self.record(tag_id) if tag_id is not None else None, position, verdict, **under)
        self.ledger.log_refusal(scan)
        if country is not None:
            self.ledger.log_country(scan, country)


@contextlib.asynccontextmanager
async def open_ledger(
    dsn: str,
    *,
    pool_dsn: str | None = None,
    kind: Any = Ledger,
    database_kind: Any = PostgresLedgerDatabase,
    retry_window_s: int = 0,
    **options: Any,
) -> AsyncIterator[LedgerKit]:
    """A started ledger. With `pool_dsn` its reads bypass the proxy through which it commits."""
    kit = LedgerKit(retry_window_s=retry_window_s)
    kit.pool = await session.make_pool(pool_dsn or dsn, 4)
    kit.ledger = kind(database_kind(dsn, kit.pool), kit.settled, kit.meters, **{"groups": 1} | options)
    kit.ledger.start()
    try:
        yield kit
    finally:
        await kit.ledger.stop()
        kit.pool.terminate()
    assert not kit._answers, "a scan was never answered"


class Truth:
    """Reads the durable state over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute

    async def add_counters(self, count: int) -> None:
        await self.connection.execute("INSERT INTO tag_counter (tag_id) SELECT generate_series(1, $1::int)", count)

    async def counter(self, tag_id: int) -> tuple[int, int, int]:
        """Last position, previous position, scan count."""
        columns = "last_position, previous_position, scan_count"
        return tuple(await self.connection.fetchrow(f"SELECT {columns} FROM tag_counter WHERE tag_id = $1", tag_id))

    async def log(self, verdicts: str = "gp") -> list[tuple[int, int | None]]:
        """Tag ids and positions of the logged scans with these verdicts."""
        rows = await self.connection.fetch(
            "SELECT tag_id, position FROM scan_log WHERE strpos($1, verdict::text) > 0 ORDER BY tag_id, position", verdicts
        )
        return [tuple(row) for row in rows]


@contextlib.asynccontextmanager
async def open_truth(dsn: str, counters: int = 0) -> AsyncIterator[Truth]:
    connection = await asyncpg.connect(dsn)
    try:
        truth = Truth(connection)
        await truth.add_counters(counters)
        yield truth
    finally:
        await connection.close()


ADVANCED, REPLAYED, REPEATED, REFUSED = (
    outcome.name.lower() for outcome in (Outcome.ADVANCED, Outcome.REPLAYED, Outcome.REPEATED, Outcome.REFUSED)
)
