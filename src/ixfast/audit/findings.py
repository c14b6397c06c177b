"""What was found about many taps, in columns: 26 bytes a tap.

Columns rather than objects, because an audit has tens of millions of taps and a plain object takes ten times as much.
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
"""Verdict and reason by code. `undecided`: what is lacking is the operator's to supply, and proves nothing against the tap."""

GENUINE, REPLAYED, NOT_REPLAY_CHECKED, INCOMPLETE, UNKNOWN, MALFORMED, PLAIN = range(7)
EMPTY = 255
"""The code of a line that holds no tap: the header of the file, or nothing at all."""

BY_REASON = {reason: code for code, (_, reason) in enumerate(OUTCOMES) if reason in REASONS}

NO_TAG = 0xFFFFFFFF

_CODES_OF_HOLDS = bytes((EMPTY, GENUINE)) + bytes(254)


class Finding(NamedTuple):
    """What one line is found to be; `problem` says what is wrong with a malformed one and never quotes it."""

    code: int
    tag: int = NO_TAG
    position: int = 0
    tamper: int = 0
    problem: str | None = None


class TapFindings:
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

    def put(self, place: int, line: Finding) -> None:
        self.codes[place], self.tags[place], self.positions[place] = line.code, line.tag, line.position
        self.tampers[place] = line.tamper
        if line.problem is not None:
            self.problems[place] = line.problem

    def put_authentic(self, places: Sequence[int], tags: array[int], positions: array[int], holds: bytes, tampers: bytes) -> None:
        """Put those of these taps whose byte in `holds` is 1; what is there of the others, which is nothing yet, stays."""
        if isinstance(places, range) and places.step == 1:
            all_of_them = slice(places.start, places.stop)
            self.tags[all_of_them], self.positions[all_of_them] = tags, positions
            self.codes[all_of_them], self.tampers[all_of_them] = holds.translate(_CODES_OF_HOLDS), tampers
            for at in positions_of(0, holds):
                self.tags[places[at]], self.positions[places[at]], self.tampers[places[at]] = NO_TAG, 0, 0
            return
        for place, tag, position, held, tamper in zip(places, tags, positions, holds, tampers, strict=True):
            if held:
                self.put(place, Finding(GENUINE, tag, position, tamper))

    def empty_among(self, places: Sequence[int]) -> list[int]:
        """The numbers of those of the places that hold nothing yet."""
        if isinstance(places, range) and places.step == 1:
            return [*positions_of(EMPTY, self.codes[places.start : places.stop])]
        return [number for number, place in enumerate(places) if self.codes[place] == EMPTY]

    def extend(self, more: TapFindings) -> None:
        """Append the lines that follow."""
        start = len(self)
        self.tags.extend(more.tags)
        self.positions.extend(more.positions)
        self.times.extend(more.times)
        self.codes += more.codes
        self.tampers += more.tampers
        self.problems |= {start + place: problem for place, problem in more.problems.items()}


def positions_of(value: int, column: bytes | bytearray) -> Iterator[int]:
    """Where a byte stands in a column; costs next to nothing where it is rare."""
    at = column.find(value)
    while at >= 0:
        yield at
        at = column.find(value, at + 1)


def each(column: Any, places: Sequence[Any]) -> Sequence[Any]:
    """What stands in a column at these places, or in a dict under these names; half the time of a comprehension."""
    return itemgetter(*places)(column) if len(places) > 1 else [column[place] for place in places]


def tamper_code(tamper: Tamper | None) -> int:
    """Stored and current state in one byte; 0 for an unknown or absent tamper state."""
    return 0 if tamper is None else TAMPER_CODES[tamper.stored + tamper.current]


TAMPER_CODES = {pair: code for code, pair in enumerate(PAIRS, start=1)}
"""Codes by the two characters that a tag mirrors."""


def tamper_text(code: int) -> str:
    """The two characters that `tamper_code` encoded; `code` is not 0."""
    return PAIRS[code - 1]
