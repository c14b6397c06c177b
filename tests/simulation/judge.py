"""Checks every answer of a run: what callers received, against what the database did and when.

The simulation knows when each pass was committed and when a failover lost it, so the rules need no search: a pass is a commit of
its own between request and answer; a refusal needs a commit that was in force; and nothing may rest on state that has been gone
for longer than `FORGOTTEN_S`. Every rule is a function that yields a description of each violation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from . import fleet
from .operations import Operation
from .tables import KEYED_FROM, NEVER, Effect

if TYPE_CHECKING:
    from .run import Run

FORGOTTEN_S = 10.05
"""`changes.STALE_AFTER_S` plus a margin: after this, no answer may rest on state, a history or a setting that is gone."""
ANSWERED_S = 3.2
"""A scan's deadline of 1.5 s, the same again for the preceding API key look-up on `/v2`, and a margin for sweeps and for the
network in both directions."""
CLOCK_SLACK_S = 2.5
"""How far a stepped clock may extend a retry window unnoticed: up to 0.5 s counts as drift, and the clock's highest reading is
recorded at most every 0.9 s, by a poll that runs every second."""
_DECIDED = ("passed", "repeat", "replayed", "forged", "refused", "inactive", "unknown tag", "conflict")


class History:
    """The contents of catalogue rows over time, and what was committed for each tag."""

    def __init__(self, run: Run) -> None:
        self.seen = run.cluster.seen
        self.by_tag: defaultdict[int, list[Effect]] = defaultdict(list)
        self.by_scan: defaultdict[int, list[Effect]] = defaultdict(list)
        for effect in run.cluster.effects:
            self.by_tag[effect.tag_id].append(effect)
            self.by_scan[effect.scan_id].append(effect)

    def during(self, table: str, key: Any, start: float, end: float) -> Iterator[dict[str, Any]]:
        """Every content that a row had at any moment from `start` to `end`."""
        known = self.seen[table, key]
        first = max(0, bisect_right(known, start, key=lambda entry: entry[0]) - 1)
        for since, row in known[first:]:
            if since > end:
                return
            yield row

    def switches(self, tag_id: int) -> list[tuple[str, Any, str]]:
        """The switches that must all be on for a tag to pass: table, key, member."""
        found = [("tag", tag_id, "active"), ("group", fleet.TAGS[tag_id], "group_active")]
        return [*found, ("batch", fleet.BATCH, "active")] if tag_id in fleet.BATCHED else found

    def was_off(self, tag_id: int, start: float, end: float) -> bool:
        """Was any of its switches off the whole time?"""
        return any(
            not any(row[member] for row in self.during(table, key, start, end)) for table, key, member in self.switches(tag_id)
        )

    def was_on(self, tag_id: int, start: float, end: float) -> bool:
        """Were all of its switches on the whole time?"""
        return all(row[member] for table, key, member in self.switches(tag_id) for row in self.during(table, key, start, end))


def judge(run: Run) -> list[str]:
    """The violations of a run; empty if there are none."""
    history = History(run)
    found = [f"a bug: {text}" for text in run.broken]
    found += _commits_in_order(history)
    found += _conflicting_passes(history)
    for operation in run.callers.operations:
        found += [f"{text}: {operation}" for text in _of_operation(operation, history, run)]
    return found


def _of_operation(operation: Operation, history: History, run: Run) -> Iterable[str]:
    yield from _answered_once(operation, run)
    if not operation.answered or operation.answer == "lost":
        return
    yield from _of_catalogue(operation, history)
    if operation.peek:
        return
    answer = operation.answer
    if answer == "passed":
        yield from _of_pass(operation, history, run)
    elif answer == "repeat":
        yield from _of_repeat(operation, history, run)
    elif answer == "replayed":
        yield from _of_refusal(operation, history)
    elif answer == "refused":
        if not _may_be_forged(operation, history):
            yield from _of_refusal(operation, history)
    elif answer == "conflict":
        yield from _of_conflict(operation, run.callers.operations)
    elif answer == "unavailable" and operation.key is None and operation.scan_ids and _own(operation, history):
        # Without an id it was not a scan yet, and the commit may belong to another request.
        yield "answered that nothing was consumed, but the tap was"


def _own(operation: Operation, history: History) -> list[Effect]:
    """The commits of this scan. Under a key there may be several, after a failover that lost the first."""
    found = [effect for scan_id in operation.scan_ids for effect in history.by_scan.get(scan_id, ())]
    if not operation.scan_ids:  # a slow worker accepted it after others, and its id was never recorded
        found = list(history.by_tag.get(operation.tag_id, ()))
    return [e for e in found if (e.tag_id, e.position) == (operation.tag_id, operation.position)]


def _commits_in_order(history: History) -> Iterable[str]:
    """Each commit is above all commits of its tag that are in force."""
    for tag_id, effects in history.by_tag.items():
        highest: list[Effect] = []
        for effect in effects:
            highest = [known for known in highest if known.lost_at > effect.at]
            if effect.position < 0:
                continue
            above = next((known for known in highest if known.position >= effect.position), None)
            if above is not None:
                yield f"tag {tag_id}: {effect} was committed although {above} was in force"
            highest.append(effect)


def _answered_once(operation: Operation, run: Run) -> Iterable[str]:
    if operation.answers > 1:
        yield f"answered {operation.answers} times"
    if operation.answered and operation.ended - operation.started <= ANSWERED_S:
        return
    if not run.disturbed(operation.worker, operation.started - 0.5, operation.ended):
        yield "not answered in time"


def _of_catalogue(operation: Operation, history: History) -> Iterable[str]:
    """Switches, keys and API keys over time: a state that ended long ago must not decide anything."""
    start, end, answer = operation.started - FORGOTTEN_S, operation.ended, operation.answer
    if answer == "unknown tag":
        yield "a tag that exists was not found"
    if answer in ("passed", "repeat") and history.was_off(operation.tag_id, start, end):
        yield "passed although it was switched off"
    if answer == "inactive" and history.was_on(operation.tag_id, start, end):
        yield "inactive although it was switched on"
    if operation.position >= 0:
        live = [row["live"] for row in history.during("tag_key", (operation.tag_id, operation.version), start, end)]
        if answer in ("passed", "repeat", "replayed") and not any(live):
            yield "accepted as authentic under a key that is no longer valid"
        if answer == "forged" and all(live):
            yield "a correct code was called forged"
    if operation.api_key_id is not None:
        revoked = [row["revoked"] for row in history.during("api_key", operation.api_key_id, start, end)]
        if answer in _DECIDED and all(revoked):
            yield "decided for an API key that is revoked"
        if answer == "unauthorised" and not any(revoked):
            yield "a valid API key was refused"


def _may_be_forged(operation: Operation, history: History) -> bool:
    start = operation.started - FORGOTTEN_S
    return not all(
        row["live"] for row in history.during("tag_key", (operation.tag_id, operation.version), start, operation.ended)
    )


def _of_pass(operation: Operation, history: History, run: Run) -> Iterable[str]:
    """A pass is a commit of this scan between request and answer or, under a key, one that was in force when it was repeated."""
    start = operation.started if operation.key is None else -NEVER
    own = [e for e in _own(operation, history) if start <= e.at <= operation.ended and e.lost_at > operation.started]
    if not operation.v2 and not _of_repeat(operation, history, run):
        return  # /v1 gives the same answer to a repeat
    if not own:
        yield "passed without a commit"
        return
    if run.cluster.unsafe_all_through(operation.started - FORGOTTEN_S, operation.ended) and operation.started <= own[-1].at:
        yield "passed although the database did not keep what it acknowledged"
    # A scan that was sent again also has a commit that was never acknowledged.
    if all(e.lost_by not in ("", "asynchronous failover") and not run.cluster.unsafe_during(e.at, operation.ended) for e in own):
        yield f"an acknowledged pass was lost by a {own[-1].lost_by}"
    if operation.key is not None:
        yield from _of_first_answer(operation, own)


def _of_first_answer(operation: Operation, own: list[Effect]) -> Iterable[str]:
    """A keyed answer reports what was committed, no matter how often or how late it is requested."""
    body = operation.body or {}
    if not any(_matches(body, effect) for effect in own):
        yield f"not the first answer, which was {own[-1].scan_count} after {own[-1].previous_position & 0xFFFFFF}"


def _matches(body: dict[str, Any], effect: Effect) -> bool:
    if effect.position < 0:
        return bool(body.get("scan_count") == effect.scan_count)
    same_key = effect.previous_position and effect.previous_position >> 24 == effect.position >> 24
    previous = effect.previous_position & 0xFFFFFF if same_key else None
    return (body.get("counter"), body.get("previous_counter"), body.get("scan_count")) == (
        effect.position & 0xFFFFFF,
        previous,
        effect.scan_count,
    )


def _of_repeat(operation: Operation, history: History, run: Run) -> list[str]:
    """A repeat refers to the newest commit and is within the window. Groups without a window have no repeats."""
    if fleet.TAGS[operation.tag_id] != fleet.RETRYING:
        return ["repeated without a retry window"]
    standing = [e for e in history.by_tag[operation.tag_id] if e.at <= operation.ended and e.lost_at > operation.started]
    same = [e for e in standing if e.position == operation.position]
    if not same:
        return ["repeated a tap that was not accepted"]
    slack_s = CLOCK_SLACK_S if run.clock_stepped else 0.05
    if operation.started - same[-1].at > fleet.RETRY_WINDOW_S + slack_s:
        return [f"repeated {operation.started - same[-1].at:.1f} s after it was accepted"]
    if any(e.position > operation.position and e.seen_at < operation.started and e.lost_at > operation.ended for e in standing):
        return ["repeated although a newer tap was accepted"]
    return []


def _of_refusal(operation: Operation, history: History) -> Iterable[str]:
    """A refusal needs another commit at or above the tap's position that was in force recently enough."""
    own = [e for e in _own(operation, history) if e.at <= operation.ended and e.lost_at > operation.ended]
    if own:
        yield f"refused, although this very scan was committed: {own[-1]}"
    elif not any(
        e.position >= operation.position and e.at <= operation.ended and e.lost_at > operation.started - FORGOTTEN_S
        for e in history.by_tag[operation.tag_id]
    ):
        yield "refused without a proof"


def _of_conflict(operation: Operation, operations: list[Operation]) -> Iterable[str]:
    """Another tap was sent under the key, whatever became of it."""
    if operation.key is None:
        yield "a conflict without a key"
    elif not any(
        other.key == operation.key
        and (other.tag_id, other.position) != (operation.tag_id, operation.position)
        and other.started <= operation.ended
        for other in operations
    ):
        yield "a conflict without another tap under the key"


def _conflicting_passes(history: History) -> Iterable[str]:
    """A key passes only one tap, even if two are sent at once; but a failover may lose both the first pass and its key."""
    for scan_id, effects in history.by_scan.items():
        if scan_id < KEYED_FROM:
            continue
        for earlier, later in pairwise(sorted(effects, key=attrgetter("at"))):
            if (earlier.tag_id, earlier.position) != (later.tag_id, later.position) and earlier.lost_at > later.at:
                yield f"a key passed {later} as well as {earlier}"
