"""Logging to standard error, as text or as JSON lines. No message of ours contains a key, a code or a token.

A warning or error that repeats is written once and then counted: a database that is gone would otherwise fill the disk with
one sentence. What ticks in a process calls `write_repeats`, so that the count is written even if nothing else is logged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import orjson

if TYPE_CHECKING:
    from ixfast.config.settings import Settings

REPEAT_S = 10.0  # How long messages of one kind are counted before the count is written.
KINDS_MAX = 256  # Kinds that are counted at a time, at about 1 KB each.
_TEMPLATE_CHARS_MAX = 200


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        repeated = getattr(record, "repeated", None)
        if repeated is not None:
            line["repeated"] = repeated
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class _Repeats:
    """What came of one kind since its last line."""

    __slots__ = ("count", "last", "level", "name", "since")

    def __init__(self, record: logging.LogRecord, since: float) -> None:
        self.name = record.name
        self.level = record.levelno
        self.since = since
        self.count = 0
        self.last = ""  # the message alone: a record would keep alive what its arguments and its traceback hold


class CountingHandler(logging.StreamHandler[TextIO]):
    """Writes the first warning or error of its kind at once, and further ones as a count when `REPEAT_S` have passed.

    A kind is a logger, a level and a message before its arguments are filled in; for an exception also its type and the line
    that raised it, and with `extra={"about": …}` what that says. The count's line has the arguments of the last message.
    Messages below a warning are all written.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._kinds: dict[tuple[object, ...], _Repeats] = {}  # in the order of their beginnings

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            super().emit(record)
            return
        now, kind = self._clock(), _kind(record)
        self._write_due(now)
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= KINDS_MAX:
                self._write(self._kinds.pop(next(iter(self._kinds))), now)
            self._kinds[kind] = _Repeats(record, now)
            super().emit(record)
            return
        known.count += 1
        try:
            known.last = record.getMessage()
        except Exception:  # arguments that do not fit: `logging` reports that and goes on
            self.handleError(record)

    def write_repeats(self) -> None:
        """Write the counts whose time has come."""
        self.acquire()
        try:
            self._write_due(self._clock())
        finally:
            self.release()

    def close(self) -> None:
        """Write all counts. `logging` calls this when the process ends."""
        self.acquire()
        try:
            now = self._clock()
            while self._kinds:
                self._write(self._kinds.pop(next(iter(self._kinds))), now)
        finally:
            self.release()
        super().close()

    def _write_due(self, now: float) -> None:
        """A kind that came again goes on being counted; one that did not is forgotten."""
        while self._kinds:
            kind, repeats = next(iter(self._kinds.items()))
            if now - repeats.since < REPEAT_S:
                return
            del self._kinds[kind]
            if repeats.count:
                self._write(repeats, now)
                repeats.count, repeats.since = 0, now
                self._kinds[kind] = repeats

    def _write(self, repeats: _Repeats, now: float) -> None:
        if repeats.count:
            times = "once" if repeats.count == 1 else f"{repeats.count:,} times"
            message = f"{repeats.last} (repeated {times} in {now - repeats.since:.0f} s)"
            record = logging.LogRecord(repeats.name, repeats.level, "", 0, message, None, None)
            record.repeated = repeats.count
            super().emit(record)


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    # Messages of libraries come with their arguments filled in, often with addresses of objects in the lines after the first.
    template = str(record.msg).partition("\n")[0][:_TEMPLATE_CHARS_MAX]
    error, raised_at = None, None
    if record.exc_info and record.exc_info[0] is not None:
        error, _, traceback = record.exc_info
        while traceback is not None:
            raised_at = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
            traceback = traceback.tb_next
    return record.name, record.levelno, template, getattr(record, "about", None), error, raised_at


def configure(settings: Settings, process: str) -> None:
    """Set the root logger up for this process; `process` names it in every line."""
    handler = CountingHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonLines(process))
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def write_repeats() -> None:
    """Write the counts of repeated messages whose time has come; for whatever ticks in a process."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, CountingHandler):
            handler.write_repeats()
