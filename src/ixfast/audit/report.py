"""The words of an audit: a JSON line for each tap, and a table for the end. Neither holds a URL, a MAC or a key."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterator

import orjson

from ixfast.audit.findings import EMPTY, GENUINE, NO_TAG, OUTCOMES, REPLAYED, TapFindings, each, positions_of, tamper_text
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.domain.scan import POSITION_COUNTER_MASK

_LINES_A_WRITE = 8192
_PIECES = 7
_NO_PIECES = ("",) * (_PIECES - 1)
_UNUSUAL = bytes(code not in (GENUINE, REPLAYED) for code in range(256))
_VERSION_BYTE = 3 if sys.byteorder == "little" else 0  # of a position, whose other three are the counter
_EMPTY = frozenset((EMPTY,))
_GENUINE_OR_EMPTY = frozenset((EMPTY, *(code for code, (verdict, _) in enumerate(OUTCOMES) if verdict == "genuine")))


def json_lines(judged: TapFindings, catalogue: TagCatalogue, first_line: int, *, refused_only: bool = False) -> Iterator[bytes]:
    """The report on each tap, some thousand lines at a time; `first_line` is the number of the first line of `judged`."""
    skipped = _GENUINE_OR_EMPTY if refused_only else _EMPTY
    for start in range(0, len(judged), _LINES_A_WRITE):
        places = range(start, min(start + _LINES_A_WRITE, len(judged)))
        codes = judged.codes[start : places.stop]
        unusual = codes.translate(_UNUSUAL)
        if any(judged.tampers[start : places.stop]) or refused_only:
            unusual = bytearray(b"\1") * len(codes)
        pieces = [] if all(unusual) else _usual_lines(judged, catalogue, first_line, places)
        for at in positions_of(1, unusual):
            place = start + at
            text = "" if codes[at] in skipped else _line(judged, catalogue, place, first_line + place)
            pieces[_PIECES * at : _PIECES * (at + 1)] = (text, *_NO_PIECES)
        yield "".join(pieces).encode()


def _usual_lines(judged: TapFindings, catalogue: TagCatalogue, first_line: int, places: range) -> list[str]:
    """The pieces of lines with a verdict, a tag and a counter, `_PIECES` a line; those of other lines are there for nothing.

    Columns of pieces put side by side and joined once take half the time of one formatted text a line.
    """
    own = slice(places.start, places.stop)
    codes, tags, count = judged.codes[own], judged.tags[own].tolist(), len(places)
    for at in positions_of(1, codes.translate(_UNUSUAL)):
        codes[at], tags[at] = GENUINE, 0
    positions = bytearray(judged.positions[own].tobytes())
    positions[_VERSION_BYTE::4] = bytes(count)
    pieces = [""] * (_PIECES * count)
    pieces[0::_PIECES] = ['{"line":'] * count
    pieces[1::_PIECES] = _decimals([*range(first_line + places.start, first_line + places.stop)])
    pieces[2::_PIECES] = each(_TO_THE_TAG, codes)
    pieces[3::_PIECES] = each(catalogue.codes, tags)
    pieces[4::_PIECES] = ['","counter":'] * count
    pieces[5::_PIECES] = _decimals(array("I", bytes(positions)).tolist())
    pieces[6::_PIECES] = ["}\n"] * count
    return pieces


def _decimals(numbers: list[int]) -> list[str]:
    """Many integers as texts, in half the time of `str` for each."""
    return orjson.dumps(numbers)[1:-1].decode().split(",")


def _line(judged: TapFindings, catalogue: TagCatalogue, place: int, number: int) -> str:
    """The line of any tap."""
    text = f'{{"line":{number},{_BEGINNINGS[judged.codes[place]]}'
    tag, position, tamper = judged.tags[place], judged.positions[place], judged.tampers[place]
    if tag != NO_TAG:
        text += f',"tag":"{catalogue.codes[tag]}"'
    if position:
        text += f',"counter":{position & POSITION_COUNTER_MASK}'
    if tamper:
        text += f',"tamper":"{tamper_text(tamper)}"'
    problem = judged.problems.get(place)
    if problem is not None:
        text += f',"problem":{orjson.dumps(problem).decode()}'
    return text + "}\n"


def _beginning(code: int) -> str:
    verdict, reason = OUTCOMES[code]
    return f'"verdict":"{verdict}"' + (f',"reason":"{reason}"' if reason is not None else "")


_BEGINNINGS = tuple(map(_beginning, range(len(OUTCOMES))))
_TO_THE_TAG = tuple(f',{beginning},"tag":"' for beginning in _BEGINNINGS)


def count(judged: TapFindings) -> Counter[int]:
    """Taps by their code."""
    return Counter({code: judged.codes.count(code) for code in range(len(OUTCOMES)) if code in judged.codes})


def summary_lines(counts: Counter[int], seconds: float) -> list[str]:
    """A table of verdicts and reasons, the rate in the last line."""
    total = counts.total()
    lines = [f"{'verdict':<11} {'reason':<19} {'taps':>12}  share"]
    for code, (verdict, reason) in enumerate(OUTCOMES):
        if counts[code]:
            share = f"{100 * counts[code] / total:6.2f} %"
            lines.append(f"{verdict:<11} {reason or '-':<19} {counts[code]:>12,} {share}")
    rate = f"{total / seconds:,.0f} a second" if seconds > 0 else "at once"
    lines.append(f"{'all':<11} {'':<19} {total:>12,}  in {seconds:.2f} s, {rate}")
    return lines


def all_genuine(counts: Counter[int]) -> bool:
    return all(OUTCOMES[code][0] == "genuine" for code in counts if counts[code])
