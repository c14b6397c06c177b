"""Meters: what workers count, as plain integers in memory that all workers of a host share.

Incrementing a labelled counter object takes 1 us, a slot of a `memoryview` 44 ns. One scrape of any worker reads the regions of
all. Each worker writes to its own region only, so no lock is needed, and an aligned 8-byte slot cannot be read half-written.
A meter that is added here is exported by `http/metrics.py`, and must be documented in docs/reference/metrics.md.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

from ixfast.error_codes import COUNTED
from ixfast.verdict import Verdict

STATEMENT_BUCKETS_US = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 1000000)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


STAGES = ("parse", "lookup", "core", "wait", "statement", "rules", "reply", "write")
"""The stages of a traced scan, in order (`trace.py`)."""


class Meter(NamedTuple):
    name: str
    kind: str  # "counter" or "gauge"
    help: str
    labels: dict[str, str]


METERS: list[Meter] = []


def _meter(name: str, kind: str, text: str, **labels: str) -> int:
    METERS.append(Meter(name, kind, text, labels))
    return len(METERS) - 1


SCANS = {v: _meter("ixfast_scans_total", "counter", "Scans with a verdict, by verdict.", verdict=v) for v in Verdict}
SCAN_ERRORS = {
    code: _meter("ixfast_scan_errors_total", "counter", "Scans that ended without a verdict, by error code.", code=code)
    for code in COUNTED
}
HOT_REQUESTS = _meter("ixfast_hot_requests_total", "counter", "Requests that the front door served itself, on the fast path.")
HANDED_OVER = _meter("ixfast_handed_over_connections_total", "counter", "Connections handed over to aiohttp.")
CONNECTIONS = _meter("ixfast_connections", "gauge", "Open connections of the public listener.")
CONNECTIONS_REFUSED = _meter(
    "ixfast_connections_refused_total", "counter", "Connections closed at once because of max_connections."
)
CATALOGUE_MISSES = _meter("ixfast_catalogue_misses_total", "counter", "Scans whose tag or API key was not in the cache.")
CATALOGUE_QUERIES = _meter(
    "ixfast_catalogue_queries_total", "counter", "Look-up rounds; each resolves all misses that are waiting."
)
CATALOGUE_ABSENT = _meter(
    "ixfast_catalogue_absent_hits_total", "counter", "Scans of unknown tags that were answered from the cache."
)
CATALOGUE_TAGS = _meter("ixfast_catalogue_cached_tags", "gauge", "Tags in the cache.")
CATALOGUE_CHANGES = _meter("ixfast_catalogue_changes_total", "counter", "Management changes that were applied.")
KEY_UNWRAP_FAILURES = _meter(
    "ixfast_key_unwrap_failures_total", "counter", "Envelopes or key-encryption keys that could not be opened. Alert on any."
)
TAGS_ENROLLED = _meter("ixfast_tags_enrolled_total", "counter", "Tags created by their first genuine tap.")
LEDGER_BATCHES = _meter("ixfast_ledger_batches_total", "counter", "Ledger statements that completed.")
LEDGER_ROWS = _meter("ixfast_ledger_rows_total", "counter", "Scans in these statements.")
LEDGER_WAITING = _meter("ixfast_ledger_waiting", "gauge", "Scans that are waiting for a ledger statement.")
LEDGER_HELD = _meter("ixfast_ledger_held_total", "counter", "Batches blocked by a row lock of another transaction.")
LEDGER_LOST = _meter("ixfast_ledger_lost_replies_total", "counter", "Ledger statements whose reply was lost with the connection.")
LEDGER_FAILURES = _meter("ixfast_ledger_failures_total", "counter", "Ledger statements that the database rejected.")
LEDGER_STATE_READS = _meter("ixfast_ledger_state_reads_total", "counter", "Scans for which the durable state was read.")
LEDGER_BROKEN = _meter(
    "ixfast_ledger_broken_rows_total", "counter", "Counter rows that are missing or inconsistent. Alert on any."
)
CLOCK_STEPS = _meter(
    "ixfast_database_clock_steps_total", "counter", "Steps of the database's clock that were detected. Alert on any."
)
CLOCK_OFFSET_MS = _meter(
    "ixfast_database_clock_offset_ms", "gauge", "The database's clock minus this host's, in milliseconds. Alert beyond 1000."
)
HISTORY_CHANGES = _meter(
    "ixfast_database_history_changes_total", "counter", "Times that the database had another history than before. Alert on any."
)
REFUSALS_DROPPED = _meter(
    "ixfast_refusal_log_dropped_total", "counter", "Log rows of refused scans, and of visitors' countries, that were dropped."
)
READY = _meter("ixfast_worker_ready", "gauge", "1 while the worker is ready and not draining.")
HEARTBEAT = _meter("ixfast_worker_heartbeat_seconds", "gauge", "The host's monotonic clock at the worker's last heartbeat.")
_STATEMENT = "Duration of ledger statements in microseconds, cumulative buckets."
STATEMENT_US = [
    *(_meter("ixfast_ledger_statement_us_bucket", "counter", _STATEMENT, le=str(le)) for le in STATEMENT_BUCKETS_US),
    _meter("ixfast_ledger_statement_us_bucket", "counter", _STATEMENT, le="+Inf"),
]
STATEMENT_US_SUM = _meter("ixfast_ledger_statement_us_sum", "counter", _STATEMENT)
_BATCH = "Scans per ledger statement, cumulative buckets."
BATCH_ROWS = [
    *(_meter("ixfast_ledger_batch_rows_bucket", "counter", _BATCH, le=str(le)) for le in BATCH_BUCKETS),
    _meter("ixfast_ledger_batch_rows_bucket", "counter", _BATCH, le="+Inf"),
]
STAGE_NS = [
    _meter("ixfast_stage_ns_sum", "counter", "Nanoseconds that traced scans spent in a stage.", stage=stage) for stage in STAGES
]
STAGE_SCANS = [
    _meter("ixfast_stage_ns_count", "counter", "Traced scans that passed through a stage.", stage=stage) for stage in STAGES
]

REGION_BYTES = len(METERS) * 8


class Meters:
    """One worker's slots; `slots[SCANS[verdict]] += 1`."""

    def __init__(self, shared: mmap.mmap | None = None, worker: int = 0) -> None:
        self._memory = shared if shared is not None else mmap.mmap(-1, REGION_BYTES)
        self.all = memoryview(self._memory).cast("q")
        self.slots = self.all[worker * len(METERS) : (worker + 1) * len(METERS)]

    def reset(self) -> None:
        """Zero the gauges of a worker that has died; its successor continues its counters."""
        for index, meter in enumerate(METERS):
            if meter.kind == "gauge":
                self.slots[index] = 0

    def observe_statement(self, duration_us: int, rows: int) -> None:
        """Count one ledger statement of `rows` scans."""
        slots = self.slots
        slots[LEDGER_BATCHES] += 1
        slots[LEDGER_ROWS] += rows
        slots[STATEMENT_US_SUM] += duration_us
        slots[STATEMENT_US[-1]] += 1
        slots[BATCH_ROWS[-1]] += 1
        for slot, bound in zip(STATEMENT_US, STATEMENT_BUCKETS_US, strict=False):
            if duration_us <= bound:
                slots[slot] += 1
        for slot, bound in zip(BATCH_ROWS, BATCH_BUCKETS, strict=False):
            if rows <= bound:
                slots[slot] += 1
