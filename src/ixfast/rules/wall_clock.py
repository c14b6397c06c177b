"""Local time for rules: the current time, and its conversion to a time zone.

Tests and dry runs set the time by replacing `source`. A zone caches its last conversion, because a busy worker converts the same
second many times and a conversion takes a microsecond.
"""

from __future__ import annotations

import functools
import time
import zoneinfo
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

source: Callable[[], float] = time.time
"""Unix time in seconds."""


class Local(NamedTuple):
    """A moment in local time. Never false, so that compiled rules can write `local or (local := …)`."""

    second: int  # of the day, 0 to 86,399
    day: int  # proleptic Gregorian ordinal: 1 January of year 1 is 1
    weekday: int  # 0: Monday


class Zone:
    """An IANA time zone."""

    __slots__ = ("_last", "_last_second", "info", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.info = zoneinfo.ZoneInfo(name)
        self._last_second = -1
        self._last = Local(0, 1, 0)

    def at(self, now: float) -> Local:
        """The local time of this zone at Unix time `now` in seconds."""
        second = int(now)
        if second != self._last_second:
            moment = datetime.fromtimestamp(second, self.info)
            self._last = Local((moment.hour * 60 + moment.minute) * 60 + moment.second, moment.toordinal(), moment.weekday())
            self._last_second = second
        return self._last


def now() -> float:
    """Unix time in seconds, from `source`."""
    return source()


def local(zone: Zone, moment: float) -> Local:
    """`zone.at` as a plain function, for compiled rules."""
    return zone.at(moment)


@functools.cache
def find_zone(name: str) -> Zone:
    """The zone with this IANA name; raises ValueError if there is none. There are fewer than 600, so the cache is bounded."""
    if name not in zone_names():
        raise ValueError("no such time zone")
    return Zone(name)


@functools.cache
def zone_names() -> frozenset[str]:
    """All IANA names that this host has data for."""
    return frozenset(zoneinfo.available_timezones())
