"""The rows of the simulated database, and its write-ahead log.

A commit is a record of the log: whole rows by table and key, so replaying a prefix of the log yields the state at that moment.
What a commit did for taps, and what became of it, is recorded separately (`Effect`), only for the judge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

KEYED_FROM = 1 << 62
"""Scan ids from here on belong to scans with an Idempotency-Key."""

NEVER = float("inf")


class Counter(NamedTuple):
    """A row of `tag_counter`; `last_at` is by the database's clock."""

    last_position: int = 0
    previous_position: int = 0
    last_scan_id: int = 0
    scan_count: int = 0
    last_at: float = 0.0


class LogRow(NamedTuple):
    at: float
    scan_id: int
    tag_id: int
    position: int
    verdict: str


class KeyedRow(NamedTuple):
    at: float
    scan_id: int
    tag_id: int
    position: int
    previous_position: int
    scan_count: int


class BoundRow(NamedTuple):
    """A row of `keyed_tap`."""

    scan_id: int
    tag_id: int
    position: int
    fingerprint: int
    refused: bool = False


class ChangeRow(NamedTuple):
    generation: int
    identity: str
    kind: str
    id: int | None
    xuid: str | None


class ClockState(NamedTuple):
    """The row of `database_state`."""

    clock_high: float = -NEVER
    doubtful_until: float = -NEVER


class Effect:
    """A pass as it was committed. Times are true times: `at` when its commit entered the log, `seen_at` when it became visible to
    others, `lost_at` when it was lost."""

    __slots__ = (
        "at", "lost_at", "lost_by", "position", "previous_position", "scan_count", "scan_id", "seen_at", "tag_id",
    )  # fmt: skip

    def __init__(self, tag_id: int, scan_id: int, position: int, previous_position: int, scan_count: int, at: float) -> None:
        self.tag_id = tag_id
        self.scan_id = scan_id
        self.position = position
        self.previous_position = previous_position
        self.scan_count = scan_count
        self.at = at
        self.seen_at = NEVER
        self.lost_at = NEVER
        self.lost_by = ""

    def __repr__(self) -> str:
        lost = f", lost at {self.lost_at:.3f} by {self.lost_by}" if self.lost_by else ""
        return f"tag {self.tag_id} position {self.position} scan {self.scan_id:x} at {self.at:.3f}{lost}"


class Record(NamedTuple):
    """A commit: rows as (table, key, row), and the passes among them."""

    rows: tuple[tuple[str, Any, Any], ...]
    effects: tuple[Effect, ...]


class State:
    """Tables by name, rows by key."""

    def __init__(self, tables: dict[str, dict[Any, Any]]) -> None:
        self.tables = tables
        self.counters: dict[int, Counter] = tables["counter"]
        self.log: dict[int, LogRow] = tables["log"]
        self.keyed: dict[tuple[int, int], KeyedRow] = tables["keyed"]
        self.bound: dict[int, BoundRow] = tables["bound"]
        self.changes: dict[int, ChangeRow] = tables["change"]

    @classmethod
    def empty(cls) -> State:
        names = ("counter", "log", "keyed", "bound", "change", "account", "group", "batch", "tag", "tag_key", "api_key", "one")
        return cls({name: {} for name in names})

    def copy(self) -> State:
        return State({name: dict(rows) for name, rows in self.tables.items()})

    def apply(self, record: Record) -> None:
        for table, key, row in record.rows:
            self.tables[table][key] = row

    @property
    def generation(self) -> int:
        return int(self.tables["one"].get("generation", 0))

    @property
    def clock(self) -> ClockState:
        found: ClockState = self.tables["one"].get("clock", ClockState())
        return found
