"""The requests of callers and the answers they get, as the callers see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import fleet

ANSWERS = {
    "passed": "a pass",
    "repeat": "the same tap again, inside its window",
    "replayed": "refused: the counter was used",
    "forged": "refused: the code is wrong",
    "refused": "refused on /v1, which does not say why",
    "inactive": "a level is switched off",
    "unknown tag": "there is no such tag",
    "unauthorised": "the API key is not valid",
    "conflict": "the Idempotency-Key was used for another tap",
    "unavailable": "503; nothing was consumed",
    "outcome unknown": "503; it may have been consumed",
    "lost": "the connection broke before an answer came",
}
"""All answers, in the terms that `judge.py` uses."""


@dataclass(slots=True)
class Operation:
    """One request. Times are true times, read from the loop's clock; `scan_ids` are the ids that workers gave it."""

    number: int
    tag_id: int
    version: int
    counter: int
    worker: str
    key: str | None = None
    api_key_id: int | None = None
    peek: bool = False
    v2: bool = False
    started: float = 0.0
    ended: float = 0.0
    answer: str = ""
    answers: int = 0
    reason: str | None = None
    body: dict[str, Any] | None = None
    scan_ids: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """The tap's position in the ledger; -1 for a tag without authentication, whose scans are only counted."""
        return -1 if fleet.TAGS[self.tag_id] == fleet.PLAIN else fleet.position(self.version, self.counter)

    @property
    def answered(self) -> bool:
        """Whether the caller got an answer."""
        return self.answers > 0

    def __str__(self) -> str:
        way = ("v2" if self.v2 else "v1") + (f" key {self.key}" if self.key else "") + (" peek" if self.peek else "")
        tap = f"tag {self.tag_id} tap {self.version}/{self.counter}"
        said = f"{self.answer}{f' ({self.reason})' if self.reason else ''}"
        body = self.body or {}
        if "counter" in body:
            said += f" {body['counter']} after {body['previous_counter']}, scan {body['scan_count']}"
        return f"#{self.number} {tap} {way} to {self.worker}, {self.started:.3f} to {self.ended:.3f}: {said}"
