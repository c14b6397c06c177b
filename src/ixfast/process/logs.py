"""Logging to standard error, as text or JSON lines, with milliseconds and the id of the request that a line is about.

No message of ixfast contains a key, a tag code or a token.

A warning or error that repeats is written once and then counted; otherwise an unreachable database would fill the disk with
copies of one message. The periodic task of each process calls `write_repeats`, so that counts are written even when nothing
else is logged.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from ixfast.http import request_ids

if TYPE_CHECKING:
    from types import TracebackType

    from ixfast.config.settings import Settings

log = logging.getLogger("ixfast")

REPEAT_S = 10.0  # How long messages of one kind are counted before the count is written.
KINDS_MAX = 256  # Kinds counted at the same time, at about 1 KB each.
_TEMPLATE_CHARS_MAX = 200


_IDS = ("request_id", "scan_id")


class _JsonLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _ids(record)
        repeated = getattr(record, "repeated", None)
        if repeated is not None:
            line["repeated"] = repeated
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


class _TextLines(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - overrides a method of `logging`
        return super().formatMessage(record) + "".join(f" [{name} {text}]" for name, text in _ids(record).items())


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """The ids of the request and the scan that a record is about, as far as it is about one."""
    if hasattr(record, "repeated"):
        return {}
    ids = {name: text for name in _IDS if (text := getattr(record, name, None)) is not None}
    if "request_id" not in ids and (current := request_ids.current()) is not None:
        ids["request_id"] = current
    return ids


class _Repeats:
    """The messages of one kind since the last line written for it."""

    __slots__ = ("count", "last", "level", "name", "since")

    def __init__(self, record: logging.LogRecord, since: float) -> None:
        self.name = record.name
        self.level = record.levelno
        self.since = since
        self.count = 0
        self.last = ""  # only the message: a record would keep its arguments and traceback alive


class CountingHandler(logging.StreamHandler[TextIO]):
    """Writes the first warning or error of a kind at once, and later ones as a count every `REPEAT_S` seconds.

    A kind is the logger, the level and the message template. For exceptions it also includes the type and the line that raised
    it, and with `extra={"about": …}` that value. The line with the count shows the arguments of the last message.
    Messages below the level of a warning are always written.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._kinds: dict[tuple[object, ...], _Repeats] = {}  # in the order of `since`

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
        except Exception:  # arguments that do not match the template: `logging` reports it and continues
            self.handleError(record)

    def write_repeats(self) -> None:
        """Write the counts that are due."""
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
        """Write due counts. Kinds without a repeat since their last line are forgotten."""
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
    # Libraries often log messages that are already formatted, with the addresses of objects after the first line.
    template = str(record.msg).partition("\n")[0][:_TEMPLATE_CHARS_MAX]
    error, raised_at = None, None
    if record.exc_info and record.exc_info[0] is not None:
        error, _, traceback = record.exc_info
        while traceback is not None:
            raised_at = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
            traceback = traceback.tb_next
    return record.name, record.levelno, template, getattr(record, "about", None), error, raised_at


def configure(settings: Settings, process: str) -> None:
    """Set up the root logger, and log what Python would print. `process` is the name of this process in every line."""
    start(process, settings.log_format, settings.log_level)


def start(process: str, log_format: str, level: str = "info") -> None:
    """`configure` before the settings are known."""
    handler = CountingHandler(sys.stderr)
    handler.setFormatter(_JsonLines(process) if log_format == "json" else _TextLines(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_exception
    threading.excepthook = lambda hook: _log_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)
    sys.unraisablehook = lambda hook: _log_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)


def are_json() -> bool:
    """Whether the lines of the log are JSON, so that nothing else may be written among them."""
    return any(isinstance(handler.formatter, _JsonLines) for handler in logging.getLogger().handlers)


def _log_exception(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Log an exception that nothing caught."""
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("unhandled exception", exc_info=(kind, error or kind(), traceback))


def write_repeats() -> None:
    """Write the counts of repeated messages that are due. Call this periodically."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, CountingHandler):
            handler.write_repeats()
