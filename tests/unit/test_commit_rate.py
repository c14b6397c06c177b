"""The rate of a database, as a committer measures it: how many scans may wait for one that is quick, slow or held up."""

from __future__ import annotations

from typing import Any

from ixfast import limits
from ixfast.store.ledger.commit_rate import CommitRate


def rate(**options: Any) -> CommitRate:
    sizes = {"queue_max": 20_000, "deadline_s": 1.5, "wait_max_s": 0.1, **options}
    return CommitRate(**sizes)


def test_the_room_follows_a_database_that_became_slow_within_a_second() -> None:
    """5,000 scans waited for a database that commits 1,000 a second: with a decay of 5 % a statement it took ten seconds."""
    measured = rate()
    for _ in range(10):
        measured.note_statement(1000, 0.02)
    assert measured.capacity == 5000
    spent_s = 0.0
    while spent_s < 1.0:
        measured.note_statement(250, 0.25)
        spent_s += 0.25
    assert measured.capacity <= limits.LEDGER_CAPACITY_MIN
    measured.note_statement(256, 0.00512)  # it is quick again
    assert measured.capacity == 5000


def test_the_room_stays_when_one_statement_is_held_up() -> None:
    measured = rate()
    measured.note_statement(1000, 0.02)
    measured.note_statement(1000, 0.1)
    assert measured.capacity > 2000
    measured.note_statement(1000, 0.02)
    assert measured.capacity == 5000


def test_a_very_slow_database_has_room_for_what_it_answers_in_time() -> None:
    measured = rate()
    for _ in range(50):
        measured.note_statement(100, 1.0)  # 100 scans a second
    assert measured.capacity == limits.LEDGER_RATE_ROWS_MIN  # so that the next statement teaches, too
    for _ in range(50):
        measured.note_statement(100, 0.2)
    assert measured.capacity == int(1.5 * limits.LEDGER_CAPACITY_SHARE / 0.002)


def test_a_worker_that_is_late_itself_does_not_take_the_database_for_slow() -> None:
    measured = rate()
    measured.note_statement(1000, 0.02)
    for _ in range(20):
        measured.note_lag(0.3)  # so late was the worker with its timers
        measured.note_statement(200, 0.304)
    assert measured.capacity > 4900


def test_lag_is_subtracted_from_one_statement_only() -> None:
    measured = rate()
    measured.note_lag(0.2)
    measured.note_lag(0.1)
    measured.note_statement(10, 0.5)
    assert abs(measured.statement_s - 0.3) < 1e-9
    measured.note_statement(10, 0.5)
    assert measured.statement_s == 0.5


def test_a_small_statement_says_nothing_about_the_rate() -> None:
    measured = rate()
    measured.note_statement(limits.LEDGER_RATE_ROWS_MIN - 1, 5.0)
    assert measured.capacity == 20_000
    measured.note_statement(1000, 0.0)  # none was seen to pass
    assert measured.capacity == 20_000
