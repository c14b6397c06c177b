"""Wall-clock time for rules: one source of now, and what it is in a time zone.

`source` may be replaced, so that tests and dry runs set the time. A zone remembers its last second: a busy worker asks many
times in one, and a conversion costs a microsecond.
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
    """A moment as a wall shows it. Never false, so that `local or …` means `not yet asked`."""

    second: int  # of the day, 0 to 86,399
    day: int  # ordinal, 1 January of the year 1 being 1
    weekday: int  # 0 is Monday


class Zone:
    """An IANA time zone."""

    __slots__ = ("_last", "_last_second", "info", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.info = zoneinfo.ZoneInfo(name)
        self._last_second = -1
        self._last = Local(0, 1, 0)

    def at(self, now: float) -> Local:
        """What the walls of this zone show at Unix time `now`."""
        second = int(now)
        if second != self._last_second:
            there = datetime.fromtimestamp(second, self.info)
            self._last = Local((there.hour * 60 + there.minute) * 60 + there.second, there.toordinal(), there.weekday())
            self._last_second = second
        return self._last


def now() -> float:
    """Unix time in seconds, from `source`."""
    return source()


def local(zone: Zone, moment: float) -> Local:
    """`zone.at` as a plain function, which is what compiled rules call."""
    return zone.at(moment)


@functools.cache
def find_zone(name: str) -> Zone:
    """A zone by its IANA name; ValueError if there is none. There are under 600, so that the cache has an end."""
    if name not in zone_names():
        raise ValueError("no such time zone")
    return Zone(name)


@functools.cache
def zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
