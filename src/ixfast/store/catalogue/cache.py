"""A bounded cache that forgets what has not been used for a while.

Two dictionaries: entries are put into the young one; when that is full it becomes the old one, and what the old one still
holds is forgotten unless it was asked for meanwhile. A hit costs one look-up, there is no list to maintain, and what is
forgotten goes a few entries at a time, because freeing 250,000 records at once stops the loop for 50 ms.
"""

from __future__ import annotations

from typing import Any

_FORGET_PER_PUT = 3


class TwoGenerations:
    """At most about `entries_max` live values by `bytes` key. None is not a value."""

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
        """The value without taking this for a use."""
        return self._young.get(key) or self._old.get(key)

    def keys(self) -> list[bytes]:
        """All keys now; a management act, which may take its time."""
        return [*self._young, *self._old]

    def put(self, key: bytes, value: Any) -> None:
        if key in self._young:
            self._young[key] = value
            return
        self._old.pop(key, None)  # a key stands in one generation, or an old value would outlive the removal of its successor
        if len(self._young) >= self._half:
            self._dying, self._old, self._young = self._old, self._young, {}
        dying = self._dying
        for _ in range(_FORGET_PER_PUT):  # three a put: the dying are gone before the next generation dies
            if not dying:
                break
            dying.popitem()
        self._young[key] = value

    def pop(self, key: bytes) -> Any:
        value = self._young.pop(key, None)
        return value if value is not None else self._old.pop(key, None)

    def clear(self) -> None:
        """Forget everything; a management act, which may take its time."""
        self._dying, self._young, self._old = {}, {}, {}
