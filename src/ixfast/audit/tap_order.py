"""Finds replays among authentic taps: the decision that a ledger makes as taps arrive, made here when all of them are known.

A tap is a replay if its position (key version and counter) is not above those of all earlier authentic taps of its tag. Taps
with equal times keep the order of their lines. Logs are nearly always in order, so taps are first processed as they are; only
the tags with a tap that is earlier than its predecessor are then sorted by time and processed again.
"""

from __future__ import annotations

from array import array

from ixfast.audit.findings import GENUINE, REPLAYED, TapFindings
from ixfast.errors import InputError

_OUT_OF_ORDER = float("inf")  # as the newest time of a tag, so that every further tap of it counts as earlier

_SLICE = 1 << 14


def _never_earlier(times: array[float]) -> bool:
    """Whether the times never decrease. Sorting a sorted list is faster than comparing pair by pair."""
    latest = float("-inf")
    for start in range(0, len(times), _SLICE):
        some = times[start : start + _SLICE].tolist()
        if some[0] < latest or some != sorted(some):
            return False
        latest = some[-1]
    return True


class TapOrder:
    """The highest position and the newest time of each of `tags` tags, 12 bytes per tag."""

    def __init__(self, tags: int) -> None:
        self._floors = array("I", bytes(4 * tags))
        self._newest = array("d", [float("-inf")]) * tags

    def settle(self, findings: TapFindings) -> None:
        """Mark the replays among all taps of a file. Takes about 40 bytes per tap of the tags that are out of order."""
        if _never_earlier(findings.times):
            self._settle_by_line(findings)
            return
        late = self._settle_in_order(findings)
        tags, codes, positions, floors = findings.tags, findings.codes, findings.positions, self._floors
        out_of_order = {tags[row] for row in late}
        rows = [row for row, code in enumerate(codes) if code in (GENUINE, REPLAYED) and tags[row] in out_of_order]
        rows.sort(key=findings.times.__getitem__)
        for tag in out_of_order:
            floors[tag] = 0
        for row in rows:
            tag, position = tags[row], positions[row]
            codes[row] = GENUINE if position > floors[tag] else REPLAYED
            floors[tag] = max(floors[tag], position)

    def settle_next(self, findings: TapFindings, first_line: int) -> None:
        """Mark the replays among the next taps of a file in which the taps of each tag are in order of time.

        `first_line` is the line number of the first row. Raises InputError with the number of a line whose time is before that
        of an earlier line of the same tag.
        """
        late = self._settle_in_order(findings)
        if late:
            line = first_line + late[0]
            raise InputError(
                "invalid_parameter",
                f"line {line} is earlier than a previous tap of the same tag; run the audit without --in-order.",
                "at",
            )

    def _settle_by_line(self, findings: TapFindings) -> None:
        """Mark replays in a file that is in order of time as a whole, without comparing times.

        Temporarily takes 40 bytes per tag: reading an item of an array creates an object each time, reading one of a list does
        not.
        """
        codes, floors = findings.codes, [0] * len(self._floors)
        for start in range(0, len(findings), _SLICE):
            own = slice(start, start + _SLICE)
            columns = zip(findings.tags[own].tolist(), findings.positions[own].tolist(), codes[own], strict=True)
            for row, (tag, position, code) in enumerate(columns, start):
                if code == GENUINE:
                    if position > floors[tag]:
                        floors[tag] = position
                    else:
                        codes[row] = REPLAYED

    def _settle_in_order(self, findings: TapFindings) -> list[int]:
        """Mark replays in the order of lines. Returns the rows that are earlier than their predecessor, at most one per tag."""
        codes, floors, newest = findings.codes, self._floors, self._newest
        late: list[int] = []
        columns = zip(findings.tags, findings.positions, findings.times, codes, strict=True)
        for row, (tag, position, at, code) in enumerate(columns):
            if code != GENUINE:
                continue
            if at < newest[tag]:
                if newest[tag] != _OUT_OF_ORDER:
                    late.append(row)
                    newest[tag] = _OUT_OF_ORDER
                continue
            newest[tag] = at
            if position > floors[tag]:
                floors[tag] = position
            else:
                codes[row] = REPLAYED
        return late
