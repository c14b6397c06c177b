"""A bounded cache that drops what has not been used for a while.

It has two dictionaries. New entries go into the young one; when that is full, it becomes the old one, and the entries of the
previous old one that were not used meanwhile are dropped. A hit costs one look-up, and there is no list to maintain. Dropped
entries are freed a few at a time, because freeing 250,000 records at once blocks the loop for 50 ms.
"""

from __future__ import annotations

from typing import Any

_FREED_PER_PUT = 3  # Enough to free one generation before the next one is dropped.


class TwoGenerations:
    """Up to about `entries_max` values by `bytes` key. A value cannot be None."""

    __slots__ = ("_dying", "_half", "_old", "_young")

    def __init__(self, entries_max: int) -> None:
        self._half = max(1, entries_max // 2)
        self._young: dict[bytes, Any] = {}
        self._old: dict[bytes, Any] = {}
        self._dying: dict[bytes, Any] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: bytes) -> Any:
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def peek(self, key: bytes) -> Any:
        """The value, without counting this as a use."""
        return self._young.get(key) or self._old.get(key)

    def keys(self) -> list[bytes]:
        """A list of all keys. Not for the hot path."""
        return [*self._young, *self._old]

    def put(self, key: bytes, value: Any) -> None:
        if key in self._young:
            self._young[key] = value
            return
        self._old.pop(key, None)  # a key is in one generation only, or an old value would outlive the removal of its successor
        if len(self._young) >= self._half:
            self._dying, self._old, self._young = self._old, self._young, {}
        dying = self._dying
        for _ in range(_FREED_PER_PUT):
            if not dying:
                break
            dying.popitem()
        self._young[key] = value

    def pop(self, key: bytes) -> Any:
        value = self._young.pop(key, None)
        return value if value is not None else self._old.pop(key, None)

    def clear(self) -> None:
        """Drop everything at once. Not for the hot path."""
        self._dying, self._young, self._old = {}, {}, {}
