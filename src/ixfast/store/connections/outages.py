"""What is lost and comes back, such as a connection: its return is logged as clearly as its loss."""

from __future__ import annotations

import logging
from collections.abc import Callable


class Outage:
    """Logs the end of an outage, with its duration, once for each outage and at the level of its beginning.

    A log that is filtered by level therefore has both or neither. The beginning is logged by the caller, who knows the reason.
    """

    __slots__ = ("_began_at", "_level", "_log", "_message", "_now")

    def __init__(self, log: logging.Logger, message: str, now: Callable[[], float], level: int = logging.WARNING) -> None:
        """`message` says what is back; `now` is a clock in seconds."""
        self._log = log
        self._message = message
        self._now = now
        self._level = level
        self._began_at: float | None = None

    def begin(self) -> bool:
        """Note the beginning. False if the outage has begun already."""
        if self._began_at is not None:
            return False
        self._began_at = self._now()
        return True

    def end(self) -> None:
        """Log the end, if there was an outage."""
        if self._began_at is not None:
            self._log.log(self._level, "%s again after %.1f s", self._message, self._now() - self._began_at)
            self._began_at = None
