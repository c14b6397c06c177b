"""What was found about many taps, in columns: 26 bytes a tap.

Columns rather than objects, because an audit has tens of millions of taps and a plain object takes ten times as much.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from ixfast.chips import REASONS, UNDECIDED_REASONS
from ixfast.model import Tamper

OUTCOMES: tuple[tuple[str, str | None], ...] = (
    ("genuine", None),
    ("replayed", "counter_used"),
    ("genuine", "not_replay_checked"),
    ("incomplete", "missing_parameter"),
    ("unknown", "no_such_tag"),
    ("malformed", "malformed_line"),
    ("plain", None),
    *(("undecided" if reason in UNDECIDED_REASONS else "forged", reason) for reason in REASONS),
)
"""Verdict and reason by code. `undecided`: what is lacking is the operator's to supply, and proves nothing against the tap."""

GENUINE, REPLAYED, NOT_REPLAY_CHECKED, INCOMPLETE, UNKNOWN, MALFORMED, PLAIN = range(7)
EMPTY = 255
"""The code of a line that holds no tap: the header of the file, or nothing at all."""

BY_REASON = {reason: code for code, (_, reason) in enumerate(OUTCOMES) if reason in REASONS}

NO_TAG = 0xFFFFFFFF
_STATES = "COI"


class Line(NamedTuple):
    """What one line is found to be; `problem` says what is wrong with a malformed one and never quotes it."""

    code: int
    tag: int = NO_TAG
    position: int = 0
    tamper: int = 0
    problem: str | None = None


class Judged:
    """Consecutive lines. `tags` are places in the catalogue, `positions` key version and counter as in `scan.position`,
    `times` seconds, `codes` places in `OUTCOMES` or `EMPTY`, `tampers` as `tamper_code` makes them; `problems` by line.
    """

    __slots__ = ("codes", "positions", "problems", "tags", "tampers", "times")

    def __init__(self, lines: int = 0) -> None:
        self.tags = array("I", [NO_TAG]) * lines
        self.positions = array("I", bytes(4 * lines))
        self.times = array("d", bytes(8 * lines))
        self.codes = bytearray([EMPTY]) * lines
        self.tampers = bytearray(lines)
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.codes)

    def put(self, place: int, line: Line) -> None:
        self.codes[place], self.tags[place], self.positions[place] = line.code, line.tag, line.position
        self.tampers[place] = line.tamper
        if line.problem is not None:
            self.problems[place] = line.problem

    def extend(self, more: Judged) -> None:
        """Append the lines that follow."""
        start = len(self)
        self.tags.extend(more.tags)
        self.positions.extend(more.positions)
        self.times.extend(more.times)
        self.codes += more.codes
        self.tampers += more.tampers
        self.problems |= {start + place: problem for place, problem in more.problems.items()}


def tamper_code(tamper: Tamper | None) -> int:
    """Stored and current state in a byte; 0 for none."""
    return 0 if tamper is None else 1 + 3 * _STATES.index(tamper.stored) + _STATES.index(tamper.current)


def tamper_text(code: int) -> str:
    """The two characters behind a `tamper_code` that is not 0."""
    return _STATES[(code - 1) // 3] + _STATES[(code - 1) % 3]
