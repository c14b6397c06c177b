"""The verdicts of an audit, a JSON line for each tap. They contain no URL, no MAC and no key."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

import orjson

from ixfast.audit.findings import EMPTY, GENUINE, NO_TAG, NO_TAP, OUTCOMES, REPLAYED, TapFindings, each, positions_of, tamper_text
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.domain.scan import POSITION_COUNTER_MASK

_LINES_A_WRITE = 8192
_PIECES = 7
_NO_PIECES = ("",) * (_PIECES - 1)
_UNCOMMON = bytes(code not in (GENUINE, REPLAYED) for code in range(256))
_VERSION_BYTE = 3 if sys.byteorder == "little" else 0  # of a position, whose other three are the counter
_EMPTY = frozenset((EMPTY, NO_TAP))
_GENUINE_OR_EMPTY = frozenset((*_EMPTY, *(code for code, (verdict, _) in enumerate(OUTCOMES) if verdict == "genuine")))


def json_lines(findings: TapFindings, catalogue: TagCatalogue, first_line: int, *, refused_only: bool = False) -> Iterator[bytes]:
    """The report lines of all taps, a few thousand at a time. `first_line` is the line number of the first row of `findings`."""
    skipped = _GENUINE_OR_EMPTY if refused_only else _EMPTY
    for start in range(0, len(findings), _LINES_A_WRITE):
        rows = range(start, min(start + _LINES_A_WRITE, len(findings)))
        codes = findings.codes[start : rows.stop]
        uncommon = codes.translate(_UNCOMMON)
        if any(findings.tampers[start : rows.stop]) or refused_only:
            uncommon = bytearray(b"\1") * len(codes)
        pieces = [] if all(uncommon) else _common_lines(findings, catalogue, first_line, rows)
        for at in positions_of(1, uncommon):
            row = start + at
            text = "" if codes[at] in skipped else _line(findings, catalogue, row, first_line + row)
            pieces[_PIECES * at : _PIECES * (at + 1)] = (text, *_NO_PIECES)
        yield "".join(pieces).encode()


def _common_lines(findings: TapFindings, catalogue: TagCatalogue, first_line: int, rows: range) -> list[str]:
    """The pieces of lines with a verdict, a tag and a counter, `_PIECES` per line; pieces of other lines are placeholders.

    Interleaving columns of pieces and joining them once takes half the time of formatting each line.
    """
    own = slice(rows.start, rows.stop)
    codes, tags, count = findings.codes[own], findings.tags[own].tolist(), len(rows)
    for at in positions_of(1, codes.translate(_UNCOMMON)):
        codes[at], tags[at] = GENUINE, 0
    positions = bytearray(findings.positions[own].tobytes())
    positions[_VERSION_BYTE::4] = bytes(count)
    pieces = [""] * (_PIECES * count)
    pieces[0::_PIECES] = ['{"line":'] * count
    pieces[1::_PIECES] = _decimals([*range(first_line + rows.start, first_line + rows.stop)])
    pieces[2::_PIECES] = each(_UP_TO_TAG, codes)
    pieces[3::_PIECES] = each(catalogue.codes, tags)
    pieces[4::_PIECES] = ['","counter":'] * count
    pieces[5::_PIECES] = _decimals(array("I", bytes(positions)).tolist())
    pieces[6::_PIECES] = ["}\n"] * count
    return pieces


def _decimals(numbers: list[int]) -> list[str]:
    """Convert many integers to decimal text, in half the time of calling `str` for each."""
    return orjson.dumps(numbers)[1:-1].decode().split(",")


def _line(findings: TapFindings, catalogue: TagCatalogue, row: int, number: int) -> str:
    """The report line of any tap."""
    text = f'{{"line":{number},{_BEGINNINGS[findings.codes[row]]}'
    tag, position, tamper = findings.tags[row], findings.positions[row], findings.tampers[row]
    if tag != NO_TAG:
        text += f',"tag":"{catalogue.codes[tag]}"'
    if position:
        text += f',"counter":{position & POSITION_COUNTER_MASK}'
    if tamper:
        text += f',"tamper":"{tamper_text(tamper)}"'
    problem = findings.problems.get(row)
    if problem is not None:
        text += f',"problem":{orjson.dumps(problem).decode()}'
    return text + "}\n"


def _beginning(code: int) -> str:
    verdict, reason = OUTCOMES[code]
    return f'"verdict":"{verdict}"' + (f',"reason":"{reason}"' if reason is not None else "")


_BEGINNINGS = tuple(map(_beginning, range(len(OUTCOMES))))
_UP_TO_TAG = tuple(f',{beginning},"tag":"' for beginning in _BEGINNINGS)
