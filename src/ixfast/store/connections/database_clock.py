"""Tracks the database's clock against the worker's monotonic clock, and detects when it is stepped.

No decision about a tap may depend on a clock that can be set. The time at which a scan was accepted comes from the database's
clock, so this module compares each reading with the previous one and the monotonic time in between. A difference that the
delay of the query does not explain is a step: it is counted, logged and remembered, and questions whose answer depends on it
are left undecided.

Times are in seconds: `moment` is the event loop's time (monotonic), `clock` the database's (Unix time).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from ixfast import meters

log = logging.getLogger("ixfast.clock")

STEP_S = 0.5
"""Smaller steps cannot be distinguished from delays and slewing."""
_ERAS_MAX = 16
_MARGIN_S = 2.0  # Covers the error of a reading and the duration of a statement.


class Era:
    """A period in which the database's clock ran steadily, `offset` seconds ahead of the worker's monotonic clock.

    It began between `since`, the last reading of the previous era, and `seen`, its own first reading.
    """

    __slots__ = ("offset", "seen", "since", "until")

    def __init__(self, since: float, seen: float, offset: float) -> None:
        self.since = since
        self.seen = seen
        self.until = seen  # the last reading
        self.offset = offset


class DatabaseClock:
    """Readings of one database's clock. The newest era continues until a reading contradicts it."""

    def __init__(
        self,
        gauges: meters.Meters,
        *,
        moment: Callable[[], float] = time.monotonic,
        host_clock: Callable[[], float] = time.time,
    ) -> None:
        self._slots = gauges.slots
        self._moment = moment
        self._host_clock = host_clock
        self._eras: deque[Era] = deque(maxlen=_ERAS_MAX)
        self._host_offset: float | None = None  # host clock minus monotonic clock, at the first reading

    def note(self, asked_at: float, answered_at: float, clock: float) -> None:
        """Add a reading `clock` that was taken between two moments."""
        low, high = clock - answered_at, clock - asked_at
        if self._host_offset is None:
            self._host_offset = self._host_clock() - answered_at
        self._slots[meters.CLOCK_OFFSET_MS] = int((clock - self._host_clock()) * 1000)
        if not self._eras:
            self._eras.append(Era(asked_at, answered_at, low))
            return
        era = self._eras[-1]
        if low - STEP_S <= era.offset <= high + STEP_S:
            era.until = answered_at
            era.offset = min(max(era.offset, low), high)  # follows slow drift
            return
        step = low - era.offset
        self._slots[meters.CLOCK_STEPS] += 1
        log.error("the database's clock was stepped by %+.1f s", step, extra={"about": f"{step:+.0f}"})
        self._eras.append(Era(era.until, answered_at, low))

    def spans(self, earliest: float, latest: float) -> list[tuple[float, float]]:
        """What the database's clock may have shown between two moments, as one (begin, end) for each era they touch.

        Empty if unknown.
        """
        found = []
        for index, era in enumerate(self._eras):
            following = self._eras[index + 1].seen if index + 1 < len(self._eras) else latest
            since = era.since if index else earliest  # before the first reading, assume the first era
            if since <= latest + _MARGIN_S and following >= earliest - _MARGIN_S:
                found.append((max(since, earliest) + era.offset - _MARGIN_S, min(following, latest) + era.offset + _MARGIN_S))
        return found

    def may_be_younger(self, age_s: float, limit_s: float, moment: float) -> bool:
        """Whether something that appears at least `limit_s` old may be younger, because the clock was stepped forward since."""
        ahead = sum(max(0.0, step) for step in self._steps(limit_s, moment))
        return ahead > 0 and -_MARGIN_S <= age_s - ahead < limit_s

    def may_be_older(self, age_s: float, limit_s: float, moment: float) -> bool:
        """Whether something that appears less than `limit_s` old may be older, because the clock was stepped back since."""
        back = sum(max(0.0, -step) for step in self._steps(limit_s, moment))
        return back > 0 and age_s + back >= limit_s

    def _steps(self, limit_s: float, moment: float) -> list[float]:
        """The steps that happened during the last `limit_s` seconds, as far as known."""
        return [
            later.offset - earlier.offset for earlier, later in pairwise(self._eras) if moment - later.seen <= limit_s + _MARGIN_S
        ]

    def is_past(self, date: float) -> bool | None:
        """Whether a date (Unix time) has passed; None if plausible clocks disagree about it."""
        shown = self._plausible_clocks()
        if date <= min(shown):
            return True
        return False if date > max(shown) else None

    def agree(self, within_s: float) -> bool:
        """Whether all plausible clocks agree to within `within_s` seconds."""
        shown = self._plausible_clocks()
        return max(shown) - min(shown) <= within_s

    def _plausible_clocks(self) -> list[float]:
        """The time by each clock that may be right: the host's and the database's, each as set now and as set when this worker
        started."""
        shown = [self._host_clock()]
        if self._host_offset is not None:
            now = self._moment()
            shown += [now + self._host_offset, now + self._eras[0].offset, now + self._eras[-1].offset]
        return shown
