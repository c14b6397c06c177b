"""How a scan is decided by the durable state of its tag.

`decide` is a pure function of what was submitted and what was read. The state reader of the SQL ledger and the ledger in memory
both use it, so they cannot disagree. It reads nothing, changes nothing and has no clock: it compares the age that it is given
with the retry window. Whether that age can be trusted, and whether what was read is durable yet, is up to the caller.

Evidence counts in this order:

1. First answers under the scan's Idempotency-Key. A key belongs to one tap: for another one it is a conflict.
2. A row of the scan log for this very scan, as a pass.
3. The tag's counter row.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ixfast.domain.scan import COUNTED_ONLY, Outcome, Scan


class Submission(NamedTuple):
    """What the ledger is asked to accept, or, with `peek`, only asked about.

    `position` is -1 (`COUNTED_ONLY`) for a scan without a counter; `retry_window_ms` is that of the tag's group, 0 for none.
    """

    tag_id: int
    position: int
    scan_id: int
    retry_window_ms: int = 0
    peek: bool = False


class CounterState(NamedTuple):
    """A tag's counter row, as it was read.

    `last_position` and `previous_position` are 0 if nothing was accepted yet. `age_ms` is the database clock's now minus the last
    acceptance; negative if the clock was stepped back. `doubtful` means that it may be too small for that reason.
    """

    tag_id: int
    last_position: int
    previous_position: int
    last_scan_id: int
    scan_count: int
    age_ms: int
    doubtful: bool


class KeyedScan(NamedTuple):
    """The first answer under an Idempotency-Key; `at` is the database clock's Unix time in seconds."""

    scan_id: int
    tag_id: int
    position: int
    previous_position: int
    scan_count: int
    at: float


class Binding(NamedTuple):
    """The tap that an Idempotency-Key is bound to. `position` is -1 if the tap proves none; `fingerprint` is that of the tap as
    it was sent, 0 if it is not known."""

    scan_id: int
    tag_id: int
    position: int
    fingerprint: int

    def holds(self, other: Binding) -> bool:
        """Whether the other one is the same tap: sent in the same words, or proven to be the same read of the same tag."""
        if self.tag_id != other.tag_id:
            return False
        if self.position != COUNTED_ONLY or not (self.fingerprint and other.fingerprint):
            same_read = self.position == other.position
        else:
            same_read = False
        return same_read or (self.fingerprint != 0 and self.fingerprint == other.fingerprint)


def binding_of(scan: Scan) -> Binding:
    """What the scan's Idempotency-Key is bound to if nothing else was sent under it before."""
    assert scan.extras is not None
    return Binding(scan.scan_id, scan.tag_id, scan.position, scan.extras.fingerprint)


class Finding(enum.Enum):
    """What the durable state shows about a submission."""

    ACCEPTED = "accepted"  # this very scan was accepted before; its reply was lost, or its key is used once more
    WOULD_ADVANCE = "would_advance"  # a peek at a tap that is newer than everything accepted
    REPEATED = "repeated"  # the newest accepted tap once more, inside the retry window by its age
    EXPIRED = "expired"  # the newest accepted tap once more, outside the retry window by its age
    REPLAYED = "replayed"  # older than the newest accepted tap
    KEY_CONFLICT = "key_conflict"  # the Idempotency-Key was used for another tap
    MISSING = "missing"  # the tag has no counter row
    CONTRADICTED = "contradicted"  # newer than everything accepted, yet it was not accepted


OUTCOMES: Mapping[Finding, Outcome] = MappingProxyType(
    {
        Finding.ACCEPTED: Outcome.ADVANCED,
        Finding.WOULD_ADVANCE: Outcome.ADVANCED,
        Finding.REPEATED: Outcome.REPEATED,
        Finding.EXPIRED: Outcome.REPLAYED,
        Finding.REPLAYED: Outcome.REPLAYED,
    }
)
"""The outcome of each finding that has one."""

ERRORS: Mapping[Finding, tuple[str, str | None]] = MappingProxyType(
    {
        Finding.KEY_CONFLICT: ("idempotency_conflict", None),
        Finding.MISSING: ("unavailable", "counter_missing"),
        Finding.CONTRADICTED: ("unavailable", "counter_contradicts"),
    }
)
"""The error code and reason of each of the others."""


class Decision(NamedTuple):
    """`previous_position` (0: none, or not known) and `scan_count` are what the answer shows; `first_at` is the Unix time in
    seconds at which the scan was first answered, None if this is its first answer."""

    finding: Finding
    previous_position: int = 0
    scan_count: int = 0
    first_at: float | None = None


def submission_of(scan: Scan) -> Submission:
    """What the ledger is asked by a scan that has its record."""
    assert scan.record is not None
    peek = scan.extras is not None and scan.extras.peek
    return Submission(scan.tag_id, scan.position, scan.scan_id, scan.record.group.retry_window_ms, peek)


def decide(
    submission: Submission,
    state: CounterState | None,
    first_answers: Sequence[KeyedScan] = (),
    *,
    logged: bool = False,
) -> Decision:
    """Decide a submission that did not advance its tag's counter, or a peek.

    `state` is the tag's counter row, None if it has none; `first_answers` are those under the scan's Idempotency-Key; `logged`
    means that the scan log has this scan as a pass.
    """
    if first_answers:
        return _decide_by_key(submission, first_answers)
    if state is None:
        return Decision(Finding.MISSING)
    if logged:
        return Decision(Finding.ACCEPTED, 0, state.scan_count)  # what it was counted as was overwritten by later scans
    position, last = submission.position, state.last_position
    previous = state.previous_position if position == last else last
    if state.last_scan_id == submission.scan_id and position in (last, COUNTED_ONLY):
        finding = Finding.ACCEPTED
    elif submission.peek and not 0 <= position <= last:
        return Decision(Finding.WOULD_ADVANCE, last, state.scan_count + 1)
    elif position == last:
        # A window of 0 contains no age, and no window contains a negative one.
        finding = Finding.REPEATED if 0 <= state.age_ms < submission.retry_window_ms else Finding.EXPIRED
    elif 0 <= position < last:
        finding = Finding.REPLAYED
    else:
        finding = Finding.CONTRADICTED
    return Decision(finding, previous, state.scan_count)


def _decide_by_key(submission: Submission, first_answers: Sequence[KeyedScan]) -> Decision:
    for first in first_answers:
        if (first.tag_id, first.position) == (submission.tag_id, submission.position):
            return Decision(Finding.ACCEPTED, first.previous_position, first.scan_count, first.at)
    return Decision(Finding.KEY_CONFLICT)
