"""The log of refusals: rows of the scan log for scans that consumed nothing, and the countries of visitors.

Passes are logged by the ledger's statement, in the commit that raises the counter. Refusals are logged here, on a best-effort
basis, and so are the countries of visitors if the tag's group asks for it. Rows are collected and written by one statement at a
time, and nothing ever waits for it. When the database is slow, rows are written less often and in larger groups; beyond a bound
they are dropped and counted (`ixfast_refusal_log_dropped_total`).

A refusal under an Idempotency-Key is logged once, with the country of its visitor, however often its tap is sent again: the
statement that logs it sets a mark in `keyed_tap`, and logs nothing if the mark is there. So it does not matter which worker of
which host gets the tap again, or whether one was restarted in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from ixfast import limits, meters
from ixfast.domain.model import Verdict
from ixfast.domain.scan import KEYED_FROM, Scan
from ixfast.store.db_errors import db_error_kind
from ixfast.store.ledger.ledger_database import UNKNOWN_TAG, KeyedRefusal, LedgerDatabase, Refusal, VisitorCountry
from ixfast.store.verdict_letters import LETTERS, PASS_LETTERS

log = logging.getLogger("ixfast.ledger")

_INTERVAL_S = 0.25
_PAUSES = 9  # The pause after a write is this many times as long as the write: scans that may pass take precedence.
_WRITE_TIMEOUT_S = 10.0  # Nothing waits for the write, and giving up costs the database more than finishing.
_LETTERS = {verdict: letter for verdict, letter in LETTERS.items() if letter not in PASS_LETTERS}
_UNKNOWN = LETTERS[Verdict.UNKNOWN]


class RefusalLog:
    """Collects refusals and writes them in the background."""

    def __init__(self, database: LedgerDatabase, gauges: meters.Meters) -> None:
        self._database = database
        self._slots = gauges.slots
        self._loop = asyncio.get_running_loop()
        self._rows: list[Refusal] = []
        self._keyed: dict[int, KeyedRefusal] = {}  # those under an Idempotency-Key, by their marks
        self._unknown = 0  # how many of both are of unknown tags
        self._countries: list[VisitorCountry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._write_s = 0.0  # duration of the last write

    def add(self, scan: Scan) -> None:
        """Queue a row for a decided scan that consumed nothing. Passes are ignored, and so are scans without a tag unless the
        account of their caller is known."""
        letter = _LETTERS.get(scan.verdict) if scan.verdict is not None else None
        if letter is None:
            return
        record, api_key = scan.record, scan.api_key
        if record is None and (letter != _UNKNOWN or api_key is None):
            return
        extras = scan.extras
        mark = None
        if extras is not None and extras.idempotent:
            mark = _mark(scan)
            if mark in self._keyed:
                return
        most = self._rows_max()
        if len(self._rows) + len(self._keyed) >= most:
            self._drop()
            return
        tag_id, account_id = UNKNOWN_TAG, None
        if record is not None:
            tag_id = record.tag_id
        elif self._unknown >= min(limits.UNKNOWN_ROWS_MAX, most // 4):
            self._drop()
            return
        else:
            assert api_key is not None
            self._unknown += 1
            account_id = api_key.account_id
        row = (scan.scan_id, tag_id, scan.position, letter, scan.reason or scan.error, account_id)
        if extras is None or mark is None:
            self._rows.append(row)
        else:
            self._keyed[mark] = KeyedRefusal(*row, mark, extras.fingerprint)
        self._write_soon()

    def add_country(self, scan: Scan, country: str) -> None:
        """Queue a row with the country of a decided scan's visitor, two letters. That of a refusal under an Idempotency-Key is
        added to the row of the refusal, which `add` has queued."""
        record, verdict, extras = scan.record, scan.verdict, scan.extras
        if record is None or verdict is None:
            return
        if extras is not None and extras.idempotent and verdict in _LETTERS:
            refusal = self._keyed.get(_mark(scan))
            if refusal is None:
                self._drop()
            elif refusal.country is None:
                self._keyed[refusal.mark] = refusal._replace(country=country)
            return
        if len(self._countries) >= self._rows_max():
            self._drop()
            return
        self._countries.append((record.tag_id, LETTERS[verdict], country))
        self._write_soon()

    def _rows_max(self) -> int:
        return limits.REFUSAL_ROWS_SLOW_MAX if self._write_s > limits.REFUSAL_SLOW_S else limits.REFUSAL_QUEUE_ROWS_MAX

    def _drop(self) -> None:
        self._slots[meters.REFUSALS_DROPPED] += 1

    async def stop(self) -> None:
        """Write what is queued, unless a write is already under way; that one is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            await self._write()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def _write_soon(self) -> None:
        if self._timer is None and self._writer is None:
            self._schedule()

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(max(_INTERVAL_S, self._write_s * _PAUSES), self._start)

    def _start(self) -> None:
        self._timer = None
        self._writer = self._loop.create_task(self._run())

    async def _run(self) -> None:
        began = self._loop.time()
        try:
            await self._write()
        finally:
            self._writer = None
            self._write_s = self._loop.time() - began
        if self._rows or self._keyed or self._countries:
            self._schedule()

    async def _write(self) -> None:
        rows, self._rows, self._unknown = self._rows, [], 0
        keyed, self._keyed = list(self._keyed.values()), {}
        countries, self._countries = self._countries, []
        if rows:
            await self._counted(self._database.log_refusals(rows, _WRITE_TIMEOUT_S), len(rows), "refused scans")
        if keyed:
            written = self._database.log_keyed_refusals(keyed, _WRITE_TIMEOUT_S)
            count = len(keyed) + sum(refusal.country is not None for refusal in keyed)
            await self._counted(written, count, "refused scans with an Idempotency-Key and countries of their visitors")
        if countries:
            written = self._database.log_countries(countries, _WRITE_TIMEOUT_S)
            await self._counted(written, len(countries), "countries of visitors")

    async def _counted(self, write: Awaitable[None], rows: int, what: str) -> None:
        try:
            await write
        except Exception as error:  # best effort: count the rows and go on
            self._slots[meters.REFUSALS_DROPPED] += rows
            log.warning("could not log %d %s: %s", rows, what, db_error_kind(error).value)


def _mark(scan: Scan) -> int:
    """What a refusal under an Idempotency-Key has in common with those of the same tap under the same key.

    A tap of a tag is bound to its key, so the scan id is enough. A tap of an unknown tag is not, and others may come with the
    same key: its mark is made of key and tap. It is below KEYED_FROM, so that it is never the scan id of a key.
    """
    if scan.record is not None:
        return scan.scan_id
    assert scan.extras is not None
    return (scan.scan_id ^ scan.extras.fingerprint) % KEYED_FROM
