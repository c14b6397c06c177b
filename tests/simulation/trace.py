"""What happened in a run, in order, to be read by a person and compared by a test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any


class Trace:
    """Notes with their time. They are turned into text only if somebody reads them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.notes: list[tuple[float, str, tuple[Any, ...]]] = []

    def note(self, who: str, *what: Any) -> None:
        self.notes.append((self._now(), who, what))

    def lines(self) -> list[str]:
        return [f"{at:9.4f}  {who:12}  {'  '.join(map(str, what))}" for at, who, what in self.notes]

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()
