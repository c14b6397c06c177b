"""What a worker's process uses, for the `process_…` metrics that Prometheus' own libraries have for every process.

Each worker reads its own part of /proc: that of a process without core dumps is closed to all others, even of the same user.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from ixfast import meters

READ_EVERY_S = 5.0
"""A kernel before Linux 6.2 lists all open files to count them, which takes milliseconds with thousands of connections."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FDS = Path("/proc/self/fd")


class ProcessMeters:
    """Reads at most every `READ_EVERY_S` seconds. Where there is no /proc, the meters stay 0."""

    def __init__(self, slots: memoryview) -> None:
        self._slots = slots
        self._read_at = -READ_EVERY_S
        slots[meters.PROCESS_START_MS] = _started_ms()
        slots[meters.PROCESS_MAX_FDS] = max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def update(self, now: float) -> None:
        """`now` is a monotonic clock in seconds."""
        if now - self._read_at < READ_EVERY_S:
            return
        self._read_at = now
        slots = self._slots
        slots[meters.PROCESS_CPU_MS] = time.process_time_ns() // 1_000_000
        try:
            virtual, resident = (int(pages) * _PAGE_BYTES for pages in Path("/proc/self/statm").read_bytes().split()[:2])
            slots[meters.PROCESS_VIRTUAL], slots[meters.PROCESS_RESIDENT] = virtual, resident
            slots[meters.PROCESS_OPEN_FDS] = _FDS.stat().st_size or len([*_FDS.iterdir()])
        except OSError:
            pass  # out of descriptors, for example: the previous readings stay


def _started_ms() -> int:
    """The Unix time at which this process started. Workers are made anew, not forked, so that is about now."""
    return time.time_ns() // 1_000_000 - time.process_time_ns() // 1_000_000
