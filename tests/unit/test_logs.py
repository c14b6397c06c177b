"""Repeated warnings and errors: the first at once, the others as a count, in both formats and in bounded memory."""

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ixfast.http import request_ids
from ixfast.process import logs
from ixfast.process.logs import KINDS_MAX, REPEAT_S, CountingHandler


class Log:
    """A logger of its own with a clock that stands still."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 1000.0
        self.handler = CountingHandler(self.stream, lambda: self.now)
        self.handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.logger = logging.Logger("test")
        self.logger.addHandler(self.handler)

    def lines(self) -> list[str]:
        """What was written since the last call."""
        said = self.stream.getvalue().splitlines()
        self.stream.seek(0)
        self.stream.truncate()
        return said


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.handler.close()


def test_the_first_message_is_written_at_once_and_the_others_as_a_count(log: Log) -> None:
    for number in range(32_725):
        log.logger.warning("cannot look up %d references: %s", number, "database_unreachable")
    assert log.lines() == ["WARNING test: cannot look up 0 references: database_unreachable"]
    log.now += REPEAT_S
    log.handler.write_repeats()
    assert log.lines() == ["WARNING test: cannot look up 32724 references: database_unreachable (repeated 32,724 times in 10 s)"]


def test_a_count_is_not_written_before_its_time(log: Log) -> None:
    for _ in range(3):
        log.logger.error("a")
    log.lines()
    log.now += REPEAT_S - 0.1
    log.handler.write_repeats()
    assert log.lines() == []


def test_another_message_writes_a_count_that_is_due(log: Log) -> None:
    for _ in range(2):
        log.logger.error("a")
    log.now += REPEAT_S
    log.logger.error("b")
    assert log.lines() == ["ERROR test: a", "ERROR test: a (repeated once in 10 s)", "ERROR test: b"]


def test_what_goes_on_is_a_line_an_interval(log: Log) -> None:
    for _ in range(600):
        log.logger.error("a")
        log.now += 0.1
        log.handler.write_repeats()
    written = log.lines()
    assert 6 <= len(written) <= 7
    counts = [int(line.partition("repeated ")[2].split(" ")[0]) for line in written[1:]]
    log.handler.close()
    rest = [int(line.partition("repeated ")[2].split(" ")[0]) for line in log.lines()]
    assert 1 + sum(counts) + sum(rest) == 600


def test_what_is_over_is_written_at_once_when_it_begins_again(log: Log) -> None:
    log.logger.error("a")
    log.now += REPEAT_S
    log.logger.error("a")
    assert log.lines() == ["ERROR test: a"] * 2


@pytest.mark.parametrize("message", ["%d", "x %s", "%"])
def test_a_message_with_percent_signs_is_counted_as_it_is(log: Log, message: str) -> None:
    for _ in range(2):
        log.logger.error(message)
    log.now += REPEAT_S
    log.handler.write_repeats()
    assert log.lines() == [f"ERROR test: {message}", f"ERROR test: {message} (repeated once in 10 s)"]


def test_kinds_differ_by_logger_level_message_and_subject(log: Log) -> None:
    other = logging.Logger("other")
    other.addHandler(log.handler)
    log.logger.error("a")
    log.logger.warning("a")
    log.logger.error("b")
    other.error("a")
    log.logger.error("a", extra={"about": 1})
    log.logger.error("a", extra={"about": 2})
    assert len(log.lines()) == 6


def test_what_is_no_warning_is_always_written(log: Log) -> None:
    for _ in range(5):
        log.logger.info("reloading")
    assert log.lines() == ["INFO test: reloading"] * 5


def break_(log: Log, error: Exception) -> None:
    try:
        raise error
    except Exception:
        log.logger.exception("a request broke")


def test_a_traceback_is_written_once_for_each_place(log: Log) -> None:
    for _ in range(100):
        break_(log, ValueError("secret"))
    for _ in range(50):
        break_(log, KeyError("b"))
    text = "\n".join(log.lines())
    assert (text.count("Traceback"), text.count("ValueError: secret"), text.count("KeyError: 'b'")) == (2, 1, 1)
    log.handler.close()
    assert log.lines() == [
        "ERROR test: a request broke (repeated 99 times in 0 s)",
        "ERROR test: a request broke (repeated 49 times in 0 s)",
    ]


def test_counts_are_written_when_the_process_ends(log: Log) -> None:
    for _ in range(3):
        log.logger.error("a")
    log.now += 2
    log.handler.close()
    log.handler.close()
    assert log.lines() == ["ERROR test: a", "ERROR test: a (repeated 2 times in 2 s)"]


def test_messages_without_end_take_bounded_memory_and_lose_no_count(log: Log) -> None:
    for number in range(5 * KINDS_MAX):
        log.logger.error(f"kind {number}")
        log.logger.error(f"kind {number}")
    assert len(log.handler._kinds) == KINDS_MAX
    log.handler.close()
    assert len(log.lines()) == 2 * 5 * KINDS_MAX


def test_a_long_message_with_a_tail_of_its_own_is_one_kind(log: Log) -> None:
    for number in range(50):
        log.logger.error("Task exception was never retrieved\nfuture: <Task %r at 0x%x>" % ("a", number))  # noqa: UP031
    assert len([line for line in log.lines() if line.startswith("ERROR")]) == 1


def test_arguments_that_do_not_fit_are_no_fault_of_the_log(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        log.logger.error("%d", "word")
    log.logger.error("b")
    assert log.lines() == ["ERROR test: b"]
    assert "--- Logging error ---" in capsys.readouterr().err


def test_json_lines_have_the_count_as_a_number(log: Log) -> None:
    log.handler.setFormatter(logs._JsonLines("worker 1"))
    for _ in range(3):
        break_(log, ValueError())
    log.now += REPEAT_S
    log.handler.write_repeats()
    first, repeated = map(json.loads, log.lines())
    assert "ValueError" in first["exception"]
    assert "repeated" not in first
    assert repeated["message"] == "a request broke (repeated 2 times in 10 s)"
    assert (repeated["repeated"], repeated["process"], repeated["level"]) == (2, "worker 1", "error")
    assert "exception" not in repeated


def json_line(log: Log, message: str, **extra: object) -> dict[str, Any]:
    log.handler.setFormatter(logs._JsonLines("worker 1"))
    log.logger.info(message, extra=extra)
    (line,) = map(json.loads, log.lines())
    return dict(line)


def test_json_lines_have_milliseconds_and_an_offset(log: Log) -> None:
    moment = datetime.fromisoformat(json_line(log, "a")["time"])
    assert moment.tzinfo is not None and abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", json_line(log, "a")["time"])


@pytest.mark.parametrize("text", ["\ud800 from a path", 'quotes " and \n lines', "\x1b[2J", "Größe \u2028"])
def test_any_text_is_one_json_line(log: Log, text: str) -> None:
    log.handler.setFormatter(logs._JsonLines("worker 1"))
    log.logger.info("%s", text)
    written = log.stream.getvalue()
    assert written.count("\n") == 1 and json.loads(written)["message"] == text


class Request(dict[Any, str]):
    def __init__(self, **headers: str) -> None:
        super().__init__()
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


@pytest.mark.parametrize("sent", ["order-77", "", "x" * 65, "\x07", "é"])
def test_lines_of_a_request_have_its_id(log: Log, sent: str) -> None:
    """The caller's id if it is usable, else one that the response has, too."""
    request = Request(**({"X_Request_Id": sent} if sent else {}))
    with request_ids.handling(request):
        line = json_line(log, "a")
    assert line["request_id"] == request_ids.request_id(request)
    assert (line["request_id"] == sent) == (sent == "order-77")
    assert "request_id" not in json_line(log, "outside")


def test_text_lines_have_the_ids_at_their_end(log: Log) -> None:
    log.handler.setFormatter(logs._TextLines("worker 1"))
    with request_ids.handling(Request(X_Request_Id="order-77")):
        log.logger.error("broken", extra={"scan_id": "00ff"})
    log.logger.error("outside")
    assert [line.partition("test: ")[2] for line in log.lines()] == ["broken [scan_id 00ff] [request_id order-77]", "outside"]


def test_a_count_has_the_id_of_no_request(log: Log) -> None:
    log.handler.setFormatter(logs._JsonLines("worker 1"))
    with request_ids.handling(Request(X_Request_Id="order-77")):
        log.logger.error("a")
        log.logger.error("a")
        log.now += REPEAT_S
        log.handler.write_repeats()
    first, repeated = map(json.loads, log.lines())
    assert first["request_id"] == "order-77" and "request_id" not in repeated
