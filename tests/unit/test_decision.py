"""Deciding a scan by the durable state: every case by name, every small state by its safety properties, and long histories."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.ledger_kit import tag_record

from ixfast.domain.decision import (
    ERRORS,
    OUTCOMES,
    Binding,
    CounterState,
    Decision,
    Finding,
    KeyedScan,
    Submission,
    decide,
    submission_of,
)
from ixfast.domain.scan import COUNTED_ONLY, KEYED_FROM, Extras, Outcome, Scan

WINDOW_MS = 60_000
OWN, OTHER = 100, 200  # scan ids
KEY = KEYED_FROM | 77


def state(last: int = 9, previous: int = 7, scan_id: int = OTHER, *, count: int = 4, age_ms: int = 1000) -> CounterState:
    return CounterState(1, last, previous, scan_id, count, age_ms, doubtful=False)


def submission(position: int, scan_id: int = OWN, *, window_ms: int = 0, peek: bool = False, tag_id: int = 1) -> Submission:
    return Submission(tag_id, position, scan_id, window_ms, peek)


SAID, OTHERWISE, UNKNOWN = 11, 12, 0  # fingerprints


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ((1, 5, SAID), (1, 5, SAID), True),
        ((1, 5, SAID), (1, 5, OTHERWISE), True),  # the same read in other words
        ((1, 5, SAID), (1, 6, OTHERWISE), False),
        ((1, 5, SAID), (2, 5, OTHERWISE), False),
        ((1, -1, SAID), (1, -1, SAID), True),
        ((1, -1, SAID), (1, -1, OTHERWISE), False),  # two forgeries, or two scans that are only counted
        ((1, -1, SAID), (1, 5, SAID), True),  # refused at first, and then in order
        ((1, 5, SAID), (1, -1, SAID), True),  # and the other way round
        ((1, -1, SAID), (1, 5, OTHERWISE), False),
        ((1, 5, UNKNOWN), (1, 5, SAID), True),  # bound by an earlier release
        ((1, 5, UNKNOWN), (1, 6, SAID), False),
        ((1, -1, UNKNOWN), (1, -1, SAID), True),
        ((1, -1, UNKNOWN), (1, 5, UNKNOWN), False),
        ((1, 5, UNKNOWN), (1, -1, UNKNOWN), False),
    ],
)
def test_which_taps_are_the_same_under_a_key(first: tuple[int, ...], second: tuple[int, ...], same: bool) -> None:
    assert Binding(KEY, *first).holds(Binding(KEY, *second)) is same
    assert Binding(KEY, *second).holds(Binding(KEY, *first)) is same


FIRST = KeyedScan(KEY, 1, 5, 3, 2, 1_800_000_000.5)


@pytest.mark.parametrize(
    ("asked", "read", "expected"),
    [
        # Not the newest tap.
        (submission(5), state(), Decision(Finding.REPLAYED, 9, 4)),
        (submission(0), state(), Decision(Finding.REPLAYED, 9, 4)),
        (submission(7), state(), Decision(Finding.REPLAYED, 9, 4)),  # the one before the newest
        (submission(5, window_ms=WINDOW_MS), state(), Decision(Finding.REPLAYED, 9, 4)),
        (submission(5, peek=True), state(), Decision(Finding.REPLAYED, 9, 4)),
        (submission(5), state(scan_id=OWN), Decision(Finding.REPLAYED, 9, 4)),  # its id alone proves nothing
        # This very scan.
        (submission(9), state(scan_id=OWN), Decision(Finding.ACCEPTED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS), state(scan_id=OWN), Decision(Finding.ACCEPTED, 7, 4)),
        (submission(9), state(scan_id=OWN, age_ms=-5), Decision(Finding.ACCEPTED, 7, 4)),
        (submission(COUNTED_ONLY), state(scan_id=OWN), Decision(Finding.ACCEPTED, 9, 4)),
        # The newest tap once more.
        (submission(9), state(), Decision(Finding.EXPIRED, 7, 4)),
        (submission(9), state(age_ms=0), Decision(Finding.EXPIRED, 7, 4)),
        (submission(9), state(age_ms=-1), Decision(Finding.EXPIRED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS), state(age_ms=-1), Decision(Finding.EXPIRED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS), state(age_ms=0), Decision(Finding.REPEATED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS), state(age_ms=WINDOW_MS - 1), Decision(Finding.REPEATED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS), state(age_ms=WINDOW_MS), Decision(Finding.EXPIRED, 7, 4)),
        (submission(9, window_ms=WINDOW_MS, peek=True), state(), Decision(Finding.REPEATED, 7, 4)),
        (submission(9, peek=True), state(), Decision(Finding.EXPIRED, 7, 4)),
        # Peeking at a newer tap.
        (submission(10, peek=True), state(), Decision(Finding.WOULD_ADVANCE, 9, 5)),
        (submission(COUNTED_ONLY, peek=True), state(), Decision(Finding.WOULD_ADVANCE, 9, 5)),
        (submission(1, peek=True), state(0, 0, 0, count=0), Decision(Finding.WOULD_ADVANCE, 0, 1)),
        # Impossible state.
        (submission(10), state(), Decision(Finding.CONTRADICTED, 9, 4)),
        (submission(10), state(scan_id=OWN), Decision(Finding.CONTRADICTED, 9, 4)),
        (submission(COUNTED_ONLY), state(), Decision(Finding.CONTRADICTED, 9, 4)),
        (submission(5), None, Decision(Finding.MISSING)),
        (submission(5, peek=True), None, Decision(Finding.MISSING)),
    ],
)
def test_a_counter_row_decides(asked: Submission, read: CounterState | None, expected: Decision) -> None:
    assert decide(asked, read) == expected


@pytest.mark.parametrize("position", [5, 9, 10, COUNTED_ONLY])
def test_a_row_of_the_log_proves_a_scan_that_others_have_overtaken(position: int) -> None:
    """How it was counted is no longer known: it gets no previous position, and the tag's current count."""
    assert decide(submission(position), state(), logged=True) == Decision(Finding.ACCEPTED, 0, 4)
    assert decide(submission(position), None, logged=True) == Decision(Finding.MISSING)


def test_a_first_answer_is_given_again_for_its_own_tap_alone() -> None:
    again = Decision(Finding.ACCEPTED, 3, 2, 1_800_000_000.5)
    for read in (state(), state(5), state(age_ms=-1), None):
        assert decide(submission(5, KEY), read, (FIRST,)) == again
        assert decide(submission(5, KEY, peek=True), read, (FIRST,), logged=True) == again
        for other in (submission(9, KEY), submission(4, KEY), submission(COUNTED_ONLY, KEY), submission(5, KEY, tag_id=2)):
            assert decide(other, read, (FIRST,)) == Decision(Finding.KEY_CONFLICT)
    others = FIRST._replace(tag_id=2), FIRST._replace(position=6)
    assert decide(submission(5, KEY), state(), (*others, FIRST)) == again
    assert decide(submission(5, KEY), state(), others) == Decision(Finding.KEY_CONFLICT)


def test_every_finding_has_either_an_outcome_or_an_error() -> None:
    assert set(OUTCOMES) | set(ERRORS) == set(Finding)
    assert not set(OUTCOMES) & set(ERRORS)
    passing = {finding for finding, outcome in OUTCOMES.items() if outcome is Outcome.ADVANCED}
    assert passing == {Finding.ACCEPTED, Finding.WOULD_ADVANCE}


def test_a_scan_is_submitted_as_it_is() -> None:
    scan = Scan(lambda _: None, b"", -1, None, None, OWN, 0.0)
    scan.record, scan.tag_id, scan.position = tag_record(3, retry_window_s=60), 3, 12
    assert submission_of(scan) == Submission(3, 12, OWN, WINDOW_MS, peek=False)
    scan.extras = Extras(peek=True)
    assert submission_of(scan) == Submission(3, 12, OWN, WINDOW_MS, peek=True)
    scan.extras = Extras()
    assert submission_of(scan).peek is False


# Every small state.

SMALL = tuple(range(4))
AGES = (-60_001, -1, 0, 1, 59_999, 60_000, 60_001)


def small_cases() -> Iterator[tuple[Submission, CounterState]]:
    for position, last, previous in product((COUNTED_ONLY, *SMALL), SMALL, SMALL):
        if previous <= last:
            for last_id, window_ms, peek, age_ms in product((OWN, OTHER), (0, WINDOW_MS), (False, True), AGES):
                yield (
                    Submission(1, position, OWN, window_ms, peek),
                    CounterState(1, last, previous, last_id, last + 1, age_ms, doubtful=False),
                )


def test_no_small_state_breaks_a_promise() -> None:
    seen = set()
    for asked, read in small_cases():
        decision = decide(asked, read)
        finding, is_new = decision.finding, not 0 <= asked.position <= read.last_position
        seen.add(finding)
        case = asked, read, decision
        assert decide(asked, read) == decision, case
        # Nothing passes without a trace of this very scan, except when peeking, which consumes nothing.
        if OUTCOMES.get(finding) is Outcome.ADVANCED:
            own = read.last_scan_id == asked.scan_id and asked.position in (read.last_position, COUNTED_ONLY)
            assert own or (asked.peek and is_new), case
        # Nothing is refused unless the durable counter has reached or passed its position.
        if OUTCOMES.get(finding) in (Outcome.REPLAYED, Outcome.REPEATED):
            assert 0 <= asked.position <= read.last_position, case
        if finding is Finding.REPEATED:
            assert asked.position == read.last_position and 0 <= read.age_ms < asked.retry_window_ms, case
        if finding is Finding.EXPIRED:
            assert asked.position == read.last_position and not 0 <= read.age_ms < asked.retry_window_ms, case
        if finding is Finding.CONTRADICTED:
            assert is_new and not asked.peek, case
        # The response shows the position before this tap, and the number of scans counted up to it.
        shown = read.previous_position if asked.position == read.last_position else read.last_position
        assert decision.previous_position == shown, case
        assert decision.scan_count == read.scan_count + (finding is Finding.WOULD_ADVANCE), case
        assert decision.first_at is None, case
    assert seen == set(Finding) - {Finding.KEY_CONFLICT, Finding.MISSING}


# Histories: all accepted scans are recorded, whereas the state keeps only the last of them.


class Accepted(NamedTuple):
    scan_id: int
    position: int
    previous: int
    count: int
    at_ms: int


class History:
    """A tag's counter row, raised as the ledger's statement does, with a log of all accepted scans."""

    def __init__(self) -> None:
        self.row = CounterState(1, 0, 0, 0, 0, 1 << 62, doubtful=False)
        self.accepted: list[Accepted] = []
        self.first: dict[int, KeyedScan] = {}

    def advance(self, scan_id: int, position: int, now_ms: int) -> bool:
        row = self.row
        is_new = row.last_position < position or (position < 0 and row.last_scan_id != scan_id)
        if not is_new or scan_id in self.first:
            return False
        self.row = CounterState(1, max(row.last_position, position), row.last_position, scan_id, row.scan_count + 1, 0, False)
        self.accepted.append(Accepted(scan_id, position, row.last_position, row.scan_count + 1, now_ms))
        if scan_id >= KEYED_FROM:
            self.first[scan_id] = KeyedScan(scan_id, 1, position, row.last_position, row.scan_count + 1, float(now_ms))
        return True

    def state(self, now_ms: int) -> CounterState:
        return self.row._replace(age_ms=now_ms - self.accepted[-1].at_ms) if self.accepted else self.row


positions = st.just(COUNTED_ONLY) | st.integers(1, 6)  # every tag starts at 0, which is never accepted
taps = st.tuples(
    st.integers(1, 6) | st.integers(KEYED_FROM, KEYED_FROM + 3),  # scan id; a repeated one is a statement that was sent again
    positions,  # position, if the scan has a key: another caller may use the same key for another tap
    st.integers(0, 40_000),  # milliseconds since the scan before
    st.booleans(),
    st.sampled_from((0, WINDOW_MS)),
)


@given(st.lists(positions, min_size=7, max_size=7), st.lists(taps, max_size=30))
def test_a_decision_agrees_with_the_history_behind_the_state(
    positions_by_id: list[int], scans: list[tuple[int, int, int, bool, int]]
) -> None:
    history = History()
    now_ms = 0
    for scan_id, position, pause_ms, peek, window_ms in scans:
        now_ms += pause_ms
        position = position if scan_id >= KEYED_FROM else positions_by_id[scan_id]
        if not peek and history.advance(scan_id, position, now_ms):
            continue
        first = history.first.get(scan_id)
        asked = Submission(1, position, scan_id, window_ms, peek)
        decision = decide(asked, history.state(now_ms), () if first is None else (first,))
        own = [each for each in history.accepted if (each.scan_id, each.position) == (scan_id, position)]
        newest_at = max((each.at_ms for each in history.accepted), default=None)
        match decision.finding:
            case Finding.ACCEPTED:
                assert own
                if first is not None:
                    assert (decision.previous_position, decision.scan_count) == (own[0].previous, own[0].count)
                    assert decision.first_at == own[0].at_ms
            case Finding.KEY_CONFLICT:
                assert first is not None and not own
            case Finding.WOULD_ADVANCE:
                assert peek and all(position < 0 or each.position < position for each in history.accepted)
            case Finding.REPEATED:
                assert newest_at is not None and now_ms - newest_at < window_ms
                assert position == max(each.position for each in history.accepted)
            case Finding.EXPIRED | Finding.REPLAYED:
                assert any(each.position >= position for each in history.accepted)
            case finding:
                raise AssertionError(f"{finding}: a state that followed the rules contradicts nothing")
