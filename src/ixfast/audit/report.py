"""The words of an audit: a JSON line for each tap, and a table for the end. Neither holds a URL, a MAC or a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import orjson

from ixfast.audit.judged import EMPTY, GENUINE, NO_TAG, OUTCOMES, REPLAYED, Judged, tamper_text
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.scan import POSITION_COUNTER_MASK

_LINES_A_WRITE = 8192


def json_lines(judged: Judged, catalogue: TagCatalogue, first_line: int, *, refused_only: bool = False) -> Iterator[bytes]:
    """The report on each tap, some thousand lines at a time; `first_line` is the number of the first line of `judged`."""
    codes, mask = catalogue.codes, POSITION_COUNTER_MASK
    refused_from = REPLAYED if refused_only else GENUINE

    def other(place: int, code: int) -> str:
        if code == EMPTY or (refused_only and OUTCOMES[code][0] == "genuine"):
            return ""
        return _other_line(judged, catalogue, place, f'{{"line":{first_line + place},{_BEGINNINGS[code]}')

    for start in range(0, len(judged), _LINES_A_WRITE):
        end = start + _LINES_A_WRITE
        columns = zip(
            range(start, end),
            judged.codes[start:end],
            judged.tags[start:end],
            judged.positions[start:end],
            judged.tampers[start:end],
            strict=False,
        )
        yield "".join(
            [
                f'{{"line":{first_line + place},{_BEGINNINGS[code]},"tag":"{codes[tag]}","counter":{position & mask}}}\n'
                if refused_from <= code <= REPLAYED and not tamper
                else other(place, code)
                for place, code, tag, position, tamper in columns
            ]
        ).encode()


def _other_line(judged: Judged, catalogue: TagCatalogue, place: int, text: str) -> str:
    """A line that has not exactly a tag and a counter."""
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


def count(judged: Judged) -> Counter[int]:
    """Taps by their code."""
    counts = Counter(judged.codes)
    del counts[EMPTY]
    return counts


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
