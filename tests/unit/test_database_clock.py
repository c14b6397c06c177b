"""What a worker concludes from readings of the database's clock."""

from __future__ import annotations

import logging

import pytest

from ixfast import meters
from ixfast.meters import Meters
from ixfast.store.connections.database_clock import DatabaseClock

EPOCH = 1_800_000_000.0
WINDOW_S = 60.0


class Clocks:
    """A monotonic clock, and a host's and a database's clock that are stepped."""

    def __init__(self) -> None:
        self.moment = 100.0
        self.host_ahead = self.database_ahead = EPOCH
        self.meters = Meters()
        self.watched = DatabaseClock(self.meters, moment=lambda: self.moment, host_clock=lambda: self.moment + self.host_ahead)
        self.read()

    def read(self, *, delay_s: float = 0.001) -> None:
        """Take a reading, made at some moment of `delay_s`."""
        asked_at = self.moment
        self.moment += delay_s
        self.watched.note(asked_at, self.moment, asked_at + delay_s / 2 + self.database_ahead)

    def go_on(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.moment += 1
            self.read()

    @property
    def steps(self) -> int:
        return int(self.meters.slots[meters.CLOCK_STEPS])

    def is_past(self, date: float) -> bool | None:
        return self.watched.is_past(date)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


# Steps.


@pytest.mark.parametrize("step_s", [-86_400, -3600, -20, -1, 1, 20, 3600, 86_400])
def test_a_step_is_counted_and_logged_once(clocks: Clocks, step_s: float, caplog: pytest.LogCaptureFixture) -> None:
    clocks.go_on(5)
    clocks.database_ahead += step_s
    with caplog.at_level(logging.ERROR, "ixfast.clock"):
        clocks.go_on(5)
    assert clocks.steps == 1
    assert [record.getMessage() for record in caplog.records] == [f"the database's clock was stepped by {step_s:+.1f} s"]
    assert abs(clocks.meters.slots[meters.CLOCK_OFFSET_MS] - step_s * 1000) < 10


def test_delays_and_slewing_are_no_steps(clocks: Clocks) -> None:
    for _ in range(200):
        clocks.moment += 1
        clocks.database_ahead += 0.1  # far more than any clock is slewed by
        clocks.read()
    assert clocks.steps == 0
    for delay_s in (0.5, 3.0, 20.0, 0.001, 0.001):
        clocks.moment += 1
        clocks.read(delay_s=delay_s)
    assert clocks.steps == 0


def test_a_step_behind_a_long_delay_is_seen_by_the_next_quick_reading(clocks: Clocks) -> None:
    clocks.database_ahead += 5
    clocks.read(delay_s=20.0)
    assert clocks.steps == 0
    clocks.go_on(1)
    assert clocks.steps == 1


def test_only_so_many_steps_are_remembered(clocks: Clocks) -> None:
    for _ in range(1000):
        clocks.database_ahead += 10
        clocks.go_on(1)
    assert clocks.steps == 1000
    assert len(clocks.watched._eras) < 100


# What the clock showed.


def shown(clocks: Clocks, earliest: float, latest: float, moment: float) -> bool:
    return any(low <= moment <= high for low, high in clocks.watched.spans(earliest, latest))


@pytest.mark.parametrize("step_s", [-3600, -20, 20, 3600])
def test_a_moment_is_looked_for_where_the_clock_stood_then(clocks: Clocks, step_s: float) -> None:
    clocks.go_on(10)
    before = clocks.moment, clocks.moment + clocks.database_ahead
    clocks.moment += 1
    clocks.database_ahead += step_s
    after = clocks.moment, clocks.moment + clocks.database_ahead
    clocks.go_on(10)
    spans = clocks.watched.spans(before[0], after[0])
    assert shown(clocks, before[0], after[0], before[1])
    assert shown(clocks, before[0], after[0], after[1])
    assert sum(high - low for low, high in spans) < 20, "not an hour of the log"
    # Once the step is long over only the clock of then or of now comes into question.
    clocks.go_on(5)
    assert not shown(clocks, clocks.moment - 1, clocks.moment, before[1])
    assert shown(clocks, clocks.moment - 1, clocks.moment, clocks.moment + clocks.database_ahead)


def test_a_scan_from_before_the_first_reading_is_looked_for_by_the_first(clocks: Clocks) -> None:
    assert shown(clocks, clocks.moment - 1, clocks.moment, clocks.moment - 0.5 + clocks.database_ahead)


def test_of_a_clock_that_was_never_read_nothing_is_known() -> None:
    clock = DatabaseClock(Meters())
    assert clock.spans(0, 10) == []
    assert clock.may_be_younger(70, WINDOW_S, 10) is clock.may_be_older(50, WINDOW_S, 10) is False


# Ages.


def test_ages_are_believed_while_the_clock_runs_evenly(clocks: Clocks) -> None:
    clocks.go_on(10)
    for age_s in (-5.0, 0.0, 30.0, 59.9, 60.0, 3600.0):
        assert not clocks.watched.may_be_younger(age_s, WINDOW_S, clocks.moment)
        assert not clocks.watched.may_be_older(age_s, WINDOW_S, clocks.moment)


@pytest.mark.parametrize(
    ("step_s", "age_s", "younger", "older"),
    [
        (3600, 3630, True, False),  # 30 s in truth
        (3600, 3599, True, False),  # just accepted, and the reading was a little late
        (3600, 3661, False, False),
        (3600, 100, False, False),  # accepted after the step
        (30, 70, True, False),
        (-20, 45, False, True),  # 65 s in truth
        (-20, 39, False, False),  # 59 s in truth
        (-86_400, 1, False, True),
        (-1, 59.5, False, True),
    ],
)
def test_an_age_that_a_step_makes_doubtful(clocks: Clocks, step_s: float, age_s: float, younger: bool, older: bool) -> None:
    clocks.go_on(2)
    clocks.database_ahead += step_s
    clocks.go_on(2)
    assert clocks.watched.may_be_younger(age_s, WINDOW_S, clocks.moment) is younger
    assert clocks.watched.may_be_older(age_s, WINDOW_S, clocks.moment) is older


def test_doubt_ends_when_the_window_is_over(clocks: Clocks) -> None:
    clocks.go_on(2)
    clocks.database_ahead += 3600
    clocks.go_on(50)
    assert clocks.watched.may_be_younger(3630, WINDOW_S, clocks.moment)
    clocks.go_on(20)
    assert not clocks.watched.may_be_younger(3630, WINDOW_S, clocks.moment)


# Dates.


def test_a_date_is_past_or_not_where_the_clocks_agree(clocks: Clocks) -> None:
    now = clocks.moment + EPOCH
    assert clocks.is_past(now - 1) is True
    assert clocks.is_past(now + 1) is False
    clocks.go_on(100)
    assert clocks.is_past(now + 50) is True


@pytest.mark.parametrize("stepped", ["host_ahead", "database_ahead"])
@pytest.mark.parametrize("step_s", [-86_400, -3600, 3600, 86_400])
def test_nobody_can_tell_what_two_clocks_disagree_about(clocks: Clocks, stepped: str, step_s: float) -> None:
    clocks.go_on(2)
    setattr(clocks, stepped, EPOCH + step_s)
    clocks.go_on(2)
    between = clocks.moment + EPOCH + step_s / 2
    assert clocks.is_past(between) is None
    assert clocks.is_past(clocks.moment + EPOCH - 100_000) is True
    assert clocks.is_past(clocks.moment + EPOCH + 100_000) is False


@pytest.mark.parametrize("step_s", [-86_400, 86_400])
def test_both_clocks_stepped_at_once_are_not_believed_either(clocks: Clocks, step_s: float) -> None:
    """What one machine does to both is betrayed by the monotonic clock."""
    clocks.go_on(2)
    clocks.host_ahead = clocks.database_ahead = EPOCH + step_s
    clocks.go_on(2)
    assert clocks.is_past(clocks.moment + EPOCH + step_s / 2) is None


def test_without_a_reading_the_host_decides() -> None:
    clock = DatabaseClock(Meters(), host_clock=lambda: EPOCH)
    assert (clock.is_past(EPOCH - 1), clock.is_past(EPOCH + 1)) == (True, False)
