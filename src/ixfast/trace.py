"""Tracing: the time of every Nth scan, stage by stage (setting `trace_every`).

A traced scan carries a `Trace`, and the code that ends a stage calls `ends`. All other scans carry None, and the check for None
is all that they pay. Sums and counts are meters, exported with all others.

    parse      from the bytes of a request to a scan
    lookup     the tag's record, from the cache or the database
    core       verification of the tap
    wait       until the previous batch is committed
    statement  until its own batch is committed
    rules      selection of the response text
    reply      the bytes of the response
    write      passing them to the transport
"""

from __future__ import annotations

from time import perf_counter_ns

from ixfast import meters

PARSE, LOOKUP, CORE, WAIT, STATEMENT, RULES, REPLY, WRITE = range(len(meters.STAGES))


class Trace:
    """The stopwatch of one scan, which starts when it is created. `slots` are the worker's meters."""

    __slots__ = ("_last_ns", "_slots")

    def __init__(self, slots: memoryview) -> None:
        self._slots = slots
        self._last_ns = perf_counter_ns()

    def ends(self, stage: int) -> None:
        """Record the time since the last stage, or since the start, for this stage, which has just ended."""
        now_ns = perf_counter_ns()
        self._slots[meters.STAGE_NS[stage]] += now_ns - self._last_ns
        self._slots[meters.STAGE_SCANS[stage]] += 1
        self._last_ns = now_ns
