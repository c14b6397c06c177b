"""What an import has seen so far, in little memory: the exact set of tag ids, and an approximate set of names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeVar

_PAGE_BITS = 12  # 512 bytes a page
_NAME_BITS = 27

N = TypeVar("N", str, bytes)


class TagIds:
    """A set of tag ids with one bit per id: a million ids take 125 KB. Of runs without gaps only the ends are stored."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._runs: list[range] = []

    def add_new(self, tag_ids: Sequence[int]) -> None:
        """Add ids that were just drawn from the sequence, and so are above all ids drawn before."""
        if not tag_ids:
            return
        first, last = tag_ids[0], tag_ids[-1]
        if last - first + 1 != len(tag_ids):  # another session draws ids too
            for tag_id in tag_ids:
                self.add(tag_id)
        elif self._runs and self._runs[-1].stop == first:
            self._runs[-1] = range(self._runs[-1].start, last + 1)
        else:
            self._runs.append(range(first, last + 1))

    def add(self, tag_id: int) -> bool:
        """Add an id, and return whether it was missing."""
        if self._in_run(tag_id):
            return False
        page = self._pages.get(tag_id >> _PAGE_BITS)
        if page is None:
            page = self._pages[tag_id >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS - 3)
        index, bit = (tag_id & (1 << _PAGE_BITS) - 1) >> 3, 1 << (tag_id & 7)
        missing = not page[index] & bit
        page[index] |= bit
        return missing

    def _in_run(self, tag_id: int) -> bool:
        index = bisect_right(self._runs, tag_id, key=lambda run: run.start)
        return index > 0 and tag_id in self._runs[index - 1]

    def __contains__(self, tag_id: int) -> bool:
        if self._in_run(tag_id):
            return True
        page = self._pages.get(tag_id >> _PAGE_BITS)
        return page is not None and bool(page[(tag_id & (1 << _PAGE_BITS) - 1) >> 3] & 1 << (tag_id & 7))


class SeenNames:
    """An approximate set of names, with one bit per hash value, in 16 MB. Of two million names a few are reported as seen that
    were not; none that was is missed."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << _NAME_BITS - 3)

    def add_all(self, names: Iterable[N]) -> list[N]:
        """Add names, and return those that may have been seen before."""
        bits, found = self._bits, []
        for name in names:
            index = hash(name) & (1 << _NAME_BITS) - 1
            bit = 1 << (index & 7)
            if bits[index >> 3] & bit:
                found.append(name)
            else:
                bits[index >> 3] |= bit
        return found
