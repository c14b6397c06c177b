"""What the stages of a scan take: of every so-many-th scan, measured where it happens.

A traced scan carries a `Trace`; at the end of each stage the step that ends it says so. Other scans carry None, and asking
for it is all that they pay. Sums and counts stand in the shared meters and go out with all others.

    parse      bytes of a request to a scan
    lookup     its tag's record, from the cache or from the database
    core       whether it is authentic
    wait       until the batch before it is committed
    statement  until its own batch is
    rules      which of the owner's answers
    reply      the answer's bytes
    write      handing them to the transport
"""

from __future__ import annotations

from time import perf_counter_ns

from ixfast import meters

PARSE, LOOKUP, CORE, WAIT, STATEMENT, RULES, REPLY, WRITE = range(len(meters.STAGES))


class Trace:
    """The time of one scan, from its making on. `slots` are the worker's meters."""

    __slots__ = ("_last_ns", "_slots")

    def __init__(self, slots: memoryview) -> None:
        self._slots = slots
        self._last_ns = perf_counter_ns()

    def ends(self, stage: int) -> None:
        """The scan has just left this stage; what went before belongs to it."""
        now_ns = perf_counter_ns()
        self._slots[meters.STAGE_NS[stage]] += now_ns - self._last_ns
        self._slots[meters.STAGE_SCANS[stage]] += 1
        self._last_ns = now_ns
