"""Limits processes to a share of one core, by a quota of the cpu controller (cgroups(7)).

It uses version 1 of the controller, where its hierarchy is mounted and writable, which requires root.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import descendants

CONTROLLER = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000
_QUOTA_US_MIN = 1000  # The kernel's minimum.
_EMPTY_S = 5.0


class QuotaError(RuntimeError):
    """The cpu controller cannot impose the quota."""


def why_not(controller: Path = CONTROLLER) -> str | None:
    """Why processes cannot be limited here, or None if they can."""
    if not (controller / "cpu.cfs_quota_us").exists():
        return f"no cpu controller of cgroup version 1 at {controller}"
    if not os.access(controller, os.W_OK):
        return f"{controller} is not writable; run as root"
    return None


class Quota:
    """A group with `share` of one core; `impose` and `lift` switch the limit. As a context manager it removes the group at the
    end.
    """

    def __init__(self, name: str, share: float) -> None:
        self._group = CONTROLLER / f"ixfast-bench-{os.getpid()}-{name}"
        self._quota_us = int(share * _PERIOD_US)
        if self._quota_us < _QUOTA_US_MIN:
            raise QuotaError(f"{share:g} of a core is below the minimum, {_QUOTA_US_MIN / _PERIOD_US:g}")

    def __enter__(self) -> Quota:
        self._group.mkdir()
        self._write("cpu.cfs_period_us", _PERIOD_US)
        return self

    def __exit__(self, *exception: object) -> None:
        self.lift()
        until = time.monotonic() + _EMPTY_S
        while True:
            for pid in (self._group / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (CONTROLLER / "cgroup.procs").write_text(pid)
            try:
                self._group.rmdir()
            except OSError:  # a process was started meanwhile
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def take(self, pids: Sequence[int]) -> None:
        """Move processes and all their descendants into the group; processes that they start later join it too."""
        for pid in (*pids, *descendants(pids)):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                (self._group / "cgroup.procs").write_text(str(pid))

    def impose(self) -> None:
        self._write("cpu.cfs_quota_us", self._quota_us)

    def lift(self) -> None:
        self._write("cpu.cfs_quota_us", -1)

    def _write(self, name: str, value: int) -> None:
        (self._group / name).write_text(str(value))

    @contextlib.contextmanager
    def imposed(self) -> Iterator[None]:
        self.impose()
        try:
            yield
        finally:
            self.lift()
