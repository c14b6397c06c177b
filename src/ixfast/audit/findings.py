"""The findings about many taps, in columns of 26 bytes per tap.

Columns rather than objects, because an audit covers tens of millions of taps and a plain object takes ten times as much memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from ixfast.chips import REASONS, UNDECIDED_REASONS
from ixfast.chips.tamper import PAIRS
from ixfast.domain.model import Tamper

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
"""Verdict and reason by code. `undecided` proves nothing against the tap: the operator has not supplied what is needed."""

GENUINE, REPLAYED, NOT_REPLAY_CHECKED, INCOMPLETE, UNKNOWN, MALFORMED, PLAIN = range(7)
EMPTY = 255
"""The code of a line that says nothing: the header of the file, a comment, or a blank line."""
NO_TAP = 254
"""The code of a line of a log that contains no tap, but perhaps another request. It is counted, but has no verdict."""

BY_REASON = {reason: code for code, (_, reason) in enumerate(OUTCOMES) if reason in REASONS}

NO_TAG = 0xFFFFFFFF

_CODE_OF_VALID = bytes((EMPTY, GENUINE)) + bytes(254)


class Finding(NamedTuple):
    """The finding about one line. `problem` describes what is wrong with a malformed line, or why another one may be refused,
    without quoting it."""

    code: int
    tag: int = NO_TAG
    position: int = 0
    tamper: int = 0
    problem: str | None = None


class TapFindings:
    """The findings about consecutive lines, one row each.

    `tags` are indexes in the catalogue, `positions` key version and counter as in `scan.position`, `times` Unix times in seconds,
    `codes` indexes in `OUTCOMES` or `EMPTY`, `tampers` are `tamper_code`s, and `problems` are by row. `unread` counts the
    malformed lines that contain nothing of a tap.
    """

    __slots__ = ("codes", "positions", "problems", "tags", "tampers", "times", "unread")

    def __init__(self, lines: int = 0) -> None:
        self.tags = array("I", [NO_TAG]) * lines
        self.positions = array("I", bytes(4 * lines))
        self.times = array("d", bytes(8 * lines))
        self.codes = bytearray([EMPTY]) * lines
        self.tampers = bytearray(lines)
        self.problems: dict[int, str] = {}
        self.unread = 0

    def __len__(self) -> int:
        return len(self.codes)

    def put(self, row: int, finding: Finding) -> None:
        self.codes[row], self.tags[row], self.positions[row] = finding.code, finding.tag, finding.position
        self.tampers[row] = finding.tamper
        if finding.problem is not None:
            self.problems[row] = finding.problem

    def put_authentic(self, rows: Sequence[int], tags: array[int], positions: array[int], valid: bytes, tampers: bytes) -> None:
        """Record as genuine the taps whose byte in `valid` is 1. The rows of the others, which are still empty, stay so."""
        if isinstance(rows, range) and rows.step == 1:
            all_rows = slice(rows.start, rows.stop)
            self.tags[all_rows], self.positions[all_rows] = tags, positions
            self.codes[all_rows], self.tampers[all_rows] = valid.translate(_CODE_OF_VALID), tampers
            for at in positions_of(0, valid):
                self.tags[rows[at]], self.positions[rows[at]], self.tampers[rows[at]] = NO_TAG, 0, 0
            return
        for row, tag, position, is_valid, tamper in zip(rows, tags, positions, valid, tampers, strict=True):
            if is_valid:
                self.put(row, Finding(GENUINE, tag, position, tamper))

    def empty_among(self, rows: Sequence[int]) -> list[int]:
        """The indexes, within `rows`, of the rows that are still empty."""
        if isinstance(rows, range) and rows.step == 1:
            return [*positions_of(EMPTY, self.codes[rows.start : rows.stop])]
        return [index for index, row in enumerate(rows) if self.codes[row] == EMPTY]

    def extend(self, more: TapFindings) -> None:
        """Append the findings about the lines that follow."""
        start = len(self)
        self.tags.extend(more.tags)
        self.positions.extend(more.positions)
        self.times.extend(more.times)
        self.codes += more.codes
        self.tampers += more.tampers
        self.unread += more.unread
        self.problems |= {start + row: problem for row, problem in more.problems.items()}


def positions_of(value: int, column: bytes | bytearray) -> Iterator[int]:
    """The indexes at which a byte occurs in a column; nearly free if it is rare."""
    at = column.find(value)
    while at >= 0:
        yield at
        at = column.find(value, at + 1)


def each(column: Any, indexes: Sequence[Any]) -> Sequence[Any]:
    """The items of a column at these indexes, or of a dict under these keys, in half the time of a comprehension."""
    return itemgetter(*indexes)(column) if len(indexes) > 1 else [column[index] for index in indexes]


def tamper_code(tamper: Tamper | None) -> int:
    """Stored and current state in one byte; 0 for an unknown or absent tamper state."""
    return 0 if tamper is None else TAMPER_CODES[tamper.stored + tamper.current]


TAMPER_CODES = {pair: code for code, pair in enumerate(PAIRS, start=1)}
"""Codes by the two characters that a tag mirrors."""


def tamper_text(code: int) -> str:
    """The two characters that `tamper_code` encoded; `code` is not 0."""
    return PAIRS[code - 1]
