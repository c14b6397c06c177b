"""A periodic timer with a finer resolution than the event loop's own timers, which count whole milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC have the same values


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class PeriodicTimer:
    """Calls `tick` every `period_us` microseconds, from timerfd_create(2), until `close`; missed ticks are merged into one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: Callable[[], None], period_us: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._loop = loop
        self._tick = tick
        self._descriptor = libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        period = _Timespec(period_us // 1_000_000, period_us % 1_000_000 * 1000)
        if self._descriptor < 0 or libc.timerfd_settime(self._descriptor, 0, ctypes.byref(_Itimerspec(period, period)), None):
            raise OSError(ctypes.get_errno(), "cannot create a timerfd")
        loop.add_reader(self._descriptor, self._ready)

    def _ready(self) -> None:
        os.read(self._descriptor, 8)
        self._tick()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
