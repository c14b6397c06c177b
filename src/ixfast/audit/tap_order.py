"""Which of a tag's authentic taps came first: what a ledger decides as taps come, decided when all of them are known.

A tap is replayed if its position is not above that of every authentic tap of its tag before it in time. Taps of equal time
keep the order of their lines. Logs are nearly always in order, so the taps are gone through once as they stand; only the
tags of which one tap is earlier than the tap before are sorted by time afterwards.
"""

from __future__ import annotations

from array import array

from ixfast.audit.findings import GENUINE, REPLAYED, TapFindings
from ixfast.errors import InputError

_LATE = float("inf")  # the newest time of a tag that is out of order: each further tap of it is earlier

_SLICE = 1 << 14


def _never_earlier(times: array[float]) -> bool:
    """Whether no time is before the one before it. Sorting what is sorted costs less than comparing pair by pair."""
    latest = float("-inf")
    for start in range(0, len(times), _SLICE):
        some = times[start : start + _SLICE].tolist()
        if some[0] < latest or some != sorted(some):
            return False
        latest = some[-1]
    return True


class TapOrder:
    """Positions and times of the newest taps of `tags` tags, 12 bytes each."""

    def __init__(self, tags: int) -> None:
        self._floors = array("I", bytes(4 * tags))
        self._newest = array("d", [float("-inf")]) * tags

    def settle(self, judged: TapFindings) -> None:
        """Tell replays among all taps of a file. Takes some 40 bytes for each tap of the tags that are out of order."""
        if _never_earlier(judged.times):
            self._settle_by_line(judged)
            return
        late = self._settle_in_order(judged)
        tags, codes, positions, floors = judged.tags, judged.codes, judged.positions, self._floors
        out_of_order = {tags[place] for place in late}
        places = [place for place, code in enumerate(codes) if code in (GENUINE, REPLAYED) and tags[place] in out_of_order]
        places.sort(key=judged.times.__getitem__)
        for tag in out_of_order:
            floors[tag] = 0
        for place in places:
            tag, position = tags[place], positions[place]
            codes[place] = GENUINE if position > floors[tag] else REPLAYED
            floors[tag] = max(floors[tag], position)

    def settle_next(self, judged: TapFindings, first_line: int) -> None:
        """Tell replays among the next taps of a file whose tags are each in order of time.

        InputError with the number of a line that is earlier than one of the same tag before it; `first_line` is the number
        of the first line of `judged`.
        """
        late = self._settle_in_order(judged)
        if late:
            line = first_line + late[0]
            raise InputError("invalid_parameter", f"line {line} is earlier than one before it; audit without --in-order.", "at")

    def _settle_by_line(self, judged: TapFindings) -> None:
        """The taps of all tags together are in order of time: no tag's own times need to be looked at.

        Takes 40 bytes a tag for the while: an element of an array is made anew whenever it is looked at, that of a list is not.
        """
        codes, floors = judged.codes, [0] * len(self._floors)
        for start in range(0, len(judged), _SLICE):
            own = slice(start, start + _SLICE)
            columns = zip(judged.tags[own].tolist(), judged.positions[own].tolist(), codes[own], strict=True)
            for place, (tag, position, code) in enumerate(columns, start):
                if code == GENUINE:
                    if position > floors[tag]:
                        floors[tag] = position
                    else:
                        codes[place] = REPLAYED

    def _settle_in_order(self, judged: TapFindings) -> list[int]:
        """Go through the taps as they stand; the places of those that are earlier than the one before, at most one a tag."""
        codes, floors, newest = judged.codes, self._floors, self._newest
        late: list[int] = []
        columns = zip(judged.tags, judged.positions, judged.times, codes, strict=True)
        for place, (tag, position, at, code) in enumerate(columns):
            if code != GENUINE:
                continue
            if at < newest[tag]:
                if newest[tag] != _LATE:
                    late.append(place)
                    newest[tag] = _LATE
                continue
            newest[tag] = at
            if position > floors[tag]:
                floors[tag] = position
            else:
                codes[place] = REPLAYED
        return late
