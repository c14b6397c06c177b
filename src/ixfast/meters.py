"""Meters: what workers count, as plain integers in memory that all workers of a host share.

Incrementing a labelled counter object takes 1 us, a slot of a `memoryview` 44 ns. One scrape of any worker reads the regions of
all. Each worker writes to its own region only, so no lock is needed, and an aligned 8-byte slot cannot be read half-written.
Slots hold whole numbers of a small unit, such as microseconds; `http/metrics.py` exports them in seconds. A meter that is added
here is exported there, and must be documented in docs/reference/metrics.md.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from itertools import product
from typing import Literal, NamedTuple

from ixfast.error_codes import COUNTED
from ixfast.verdict import Verdict

STATEMENT_BUCKETS_US = (250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000, 1000000)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
DURATION_FIRST_US = 250
"""The upper bound of the first bucket of scan durations. Each further bound is twice the one before it."""
DURATION_BUCKETS = 14  # the last one up to 2.048 s, above the default deadline, and one more for what is above
DURATION_SLOTS = DURATION_BUCKETS + 2  # the buckets, what is above them, and the sum

ROUTES = ("/v1/t", "/v2/scans", "/v2/scans/batch")
"""The routes of scans; `Scan.route` is an index."""
NO_VERDICT = "none"
"""The verdict, in the histogram of durations, of scans that ended in an error."""

STAGES = ("parse", "lookup", "core", "wait", "statement", "rules", "reply", "write")
"""The stages of a traced scan, in order (`trace.py`)."""

Kind = Literal["counter", "gauge", "histogram", "summary"]


class Meter(NamedTuple):
    """A slot. Several slots make up a histogram or a summary.

    `part` is the upper bound of a bucket as `le` has it, `sum` or `count`. A bucket counts what is above the one before it, up to
    its own bound, so that one observation increments one bucket. `per_unit` of a slot's unit are one of the exported unit.
    """

    name: str
    kind: Kind
    help: str
    labels: dict[str, str]
    part: str = ""
    per_unit: int = 1


METERS: list[Meter] = []


def _meter(name: str, kind: Kind, text: str, part: str = "", per_unit: int = 1, **labels: str) -> int:
    METERS.append(Meter(name, kind, text, labels, part, per_unit))
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
    "ixfast_database_clock_offset_seconds",
    "gauge",
    "The database's clock minus this host's. Alert beyond one second.",
    per_unit=1000,
)
HISTORY_CHANGES = _meter(
    "ixfast_database_history_changes_total", "counter", "Times that the database had another history than before. Alert on any."
)
REFUSALS_DROPPED = _meter(
    "ixfast_refusal_log_dropped_total", "counter", "Log rows of refused scans, and of visitors' countries, that were dropped."
)
READY = _meter("ixfast_worker_ready", "gauge", "1 while the worker is ready and not draining.")
HEARTBEAT = _meter("ixfast_worker_heartbeat_seconds", "gauge", "The host's monotonic clock at the worker's last heartbeat.")
_STATEMENT = "Duration of ledger statements."
STATEMENT_US = [
    _meter("ixfast_ledger_statement_seconds", "histogram", _STATEMENT, part)
    for part in (*(str(bound / 1e6) for bound in STATEMENT_BUCKETS_US), "+Inf")
]
STATEMENT_US_SUM = _meter("ixfast_ledger_statement_seconds", "histogram", _STATEMENT, "sum", 1_000_000)
_BATCH = "Scans per ledger statement."
BATCH_ROWS = [
    _meter("ixfast_ledger_batch_rows", "histogram", _BATCH, part)
    for part in (*(str(float(bound)) for bound in BATCH_BUCKETS), "+Inf")
]
BATCH_ROWS_SUM = _meter("ixfast_ledger_batch_rows", "histogram", _BATCH, "sum")
_STAGE = "Time that traced scans spent in a stage."
STAGE_NS = [_meter("ixfast_stage_seconds", "summary", _STAGE, "sum", 1_000_000_000, stage=stage) for stage in STAGES]
STAGE_SCANS = [_meter("ixfast_stage_seconds", "summary", _STAGE, "count", stage=stage) for stage in STAGES]
_DURATION = "Time from a scan's request to its verdict or error."
_DURATION_PARTS = (
    *(str(DURATION_FIRST_US * 2**number / 1e6) for number in range(DURATION_BUCKETS)),
    "+Inf",
    "sum",
)
DURATIONS = len(METERS)
"""The first slot of the histograms of durations: `DURATION_SLOTS` for each verdict and one more for none, for each route."""
for _route, _verdict, _part in product(ROUTES, (*Verdict, NO_VERDICT), _DURATION_PARTS):
    _unit = 1_000_000 if _part == "sum" else 1
    _meter("ixfast_scan_duration_seconds", "histogram", _DURATION, _part, _unit, route=_route, verdict=_verdict)
PROCESS_CPU_MS = _meter("process_cpu_seconds_total", "counter", "CPU time in user and kernel mode.", per_unit=1000)
PROCESS_START_MS = _meter("process_start_time_seconds", "gauge", "Unix time at which the process started.", per_unit=1000)
PROCESS_RESIDENT = _meter("process_resident_memory_bytes", "gauge", "Resident memory.")
PROCESS_VIRTUAL = _meter("process_virtual_memory_bytes", "gauge", "Virtual memory.")
PROCESS_OPEN_FDS = _meter("process_open_fds", "gauge", "Open file descriptors.")
PROCESS_MAX_FDS = _meter("process_max_fds", "gauge", "Limit on open file descriptors.")

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
        slots[STATEMENT_US[bisect_left(STATEMENT_BUCKETS_US, duration_us)]] += 1
        slots[BATCH_ROWS_SUM] += rows
        slots[BATCH_ROWS[bisect_left(BATCH_BUCKETS, rows)]] += 1
