"""A linearizability checker for histories of scans, exact for each tag.

A correct ledger behaves like one register per tag. A pass takes effect at one moment between its start and its end, and its
position is above those of all earlier passes. A refusal needs a proof: a pass at or above its position that took effect before
the refusal ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Operation:
    """A scan as its client observed it, with times from one clock. An `unknown` one may have taken effect then or later."""

    tag_id: int
    position: int
    started: float
    ended: float
    answer: Literal["passed", "refused", "unknown"]


def violations(history: Iterable[Operation], final: Mapping[int, int], logged: Iterable[tuple[int, int]]) -> list[str]:
    """Descriptions of all violations; empty for a correct history.

    `final` maps tag ids to durable positions; `logged` holds the passes (tag id, position) of the scan log.
    """
    by_tag: defaultdict[int, list[Operation]] = defaultdict(list)
    for operation in history:
        by_tag[operation.tag_id].append(operation)
    rows = Counter(logged)
    found = [f"tag {tag_id}: position {position} is logged {n} times" for (tag_id, position), n in rows.items() if n > 1]
    for tag_id, operations in by_tag.items():
        durable = {position for row_tag, position in rows if row_tag == tag_id}
        found += [f"tag {tag_id}: {text}" for text in _of_tag(operations, durable, final.get(tag_id, 0))]
    return found


def _of_tag(operations: list[Operation], durable: set[int], final: int) -> Iterable[str]:
    passed = [o for o in operations if o.answer == "passed"]
    # The client got no response, but the log shows that it took effect.
    silent = [o for o in operations if o.answer == "unknown" and o.position in durable]
    effects = [*passed, *silent]
    for position, n in Counter(o.position for o in passed).items():
        if n > 1:
            yield f"position {position} passed {n} times"
    highest = 0
    by_end = sorted(passed, key=lambda o: o.ended)
    ended = 0
    for later in sorted(effects, key=lambda o: o.started):
        while ended < len(by_end) and by_end[ended].ended < later.started:
            highest = max(highest, by_end[ended].position)
            ended += 1
        if later.answer == "passed" and later.position <= highest:
            yield f"position {later.position} passed after {highest} had passed"
    for refused in operations:
        if refused.answer == "refused" and not any(
            proof.position >= refused.position and proof.started <= refused.ended for proof in effects
        ):
            yield f"position {refused.position} was refused without a proof"
    reported = {o.position for o in passed}
    if missing := reported - durable:
        yield f"positions {sorted(missing)} passed without a log row"
    if extra := durable - {o.position for o in effects}:
        yield f"positions {sorted(extra)} are logged, but nobody passed"
    if final != max(durable | reported, default=0):
        yield f"the durable position is {final}, the highest that passed {max(durable | reported, default=0)}"
