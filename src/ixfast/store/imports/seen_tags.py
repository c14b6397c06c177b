"""What an import has met so far, in little memory: tag ids exactly, names of tags nearly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeVar

_PAGE_BITS = 12  # 512 bytes a page
_NAME_BITS = 27

N = TypeVar("N", str, bytes)


class TagIds:
    """A set of tag ids in a bit each: a million ids take 125 KB; of ids without gaps only the ends are kept."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._runs: list[range] = []

    def add_drawn(self, tag_ids: Sequence[int]) -> None:
        """Put in ids that were drawn from the sequence just now: they lie above all that were drawn before."""
        if not tag_ids:
            return
        first, last = tag_ids[0], tag_ids[-1]
        if last - first + 1 != len(tag_ids):  # somebody else draws, too
            for tag_id in tag_ids:
                self.add(tag_id)
        elif self._runs and self._runs[-1].stop == first:
            self._runs[-1] = range(self._runs[-1].start, last + 1)
        else:
            self._runs.append(range(first, last + 1))

    def add(self, tag_id: int) -> bool:
        """Put an id in; tell whether it was not there."""
        if self._drawn(tag_id):
            return False
        page = self._pages.get(tag_id >> _PAGE_BITS)
        if page is None:
            page = self._pages[tag_id >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS - 3)
        place, bit = (tag_id & (1 << _PAGE_BITS) - 1) >> 3, 1 << (tag_id & 7)
        fresh = not page[place] & bit
        page[place] |= bit
        return fresh

    def _drawn(self, tag_id: int) -> bool:
        place = bisect_right(self._runs, tag_id, key=lambda run: run.start)
        return place > 0 and tag_id in self._runs[place - 1]

    def __contains__(self, tag_id: int) -> bool:
        if self._drawn(tag_id):
            return True
        page = self._pages.get(tag_id >> _PAGE_BITS)
        return page is not None and bool(page[(tag_id & (1 << _PAGE_BITS) - 1) >> 3] & 1 << (tag_id & 7))


class Names:
    """Names that were there before, by a bit of their hash: of two million some are taken for known that are not, none is
    forgotten. 16 MB."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << _NAME_BITS - 3)

    def known(self, names: Iterable[N]) -> list[N]:
        """Those that may have been there before; from now on all of them have."""
        bits, found = self._bits, []
        for name in names:
            place = hash(name) & (1 << _NAME_BITS) - 1
            bit = 1 << (place & 7)
            if bits[place >> 3] & bit:
                found.append(name)
            else:
                bits[place >> 3] |= bit
        return found
