"""The words of an audit: a JSON line for each tap, and a table for the end. Neither holds a URL, a MAC or a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import orjson

from ixfast.audit.judged import EMPTY, GENUINE, NO_TAG, OUTCOMES, Judged, tamper_text
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.scan import POSITION_COUNTER_MASK

_LINES_A_WRITE = 8192


def json_lines(judged: Judged, catalogue: TagCatalogue, first_line: int, *, refused_only: bool = False) -> Iterator[bytes]:
    """The report on each tap, some thousand lines at a time; `first_line` is the number of the first line of `judged`."""
    codes, problems = catalogue.codes, judged.problems
    beginnings = [_beginning(code) for code in range(len(OUTCOMES))]
    out: list[str] = []
    columns = zip(judged.codes, judged.tags, judged.positions, judged.tampers, strict=True)
    for line, (code, tag, position, tamper) in enumerate(columns, start=first_line):
        if code == EMPTY or (refused_only and OUTCOMES[code][0] == "genuine"):
            continue
        if code == GENUINE and not tamper:
            out.append(
                f'{{"line":{line},"verdict":"genuine","tag":"{codes[tag]}","counter":{position & POSITION_COUNTER_MASK}}}\n'
            )
        else:
            text = f'{{"line":{line},{beginnings[code]}'
            if tag != NO_TAG:
                text += f',"tag":"{codes[tag]}"'
            if position:
                text += f',"counter":{position & POSITION_COUNTER_MASK}'
            if tamper:
                text += f',"tamper":"{tamper_text(tamper)}"'
            problem = problems.get(line - first_line)
            if problem is not None:
                text += f',"problem":{orjson.dumps(problem).decode()}'
            out.append(text + "}\n")
        if len(out) >= _LINES_A_WRITE:
            yield "".join(out).encode()
            out.clear()
    if out:
        yield "".join(out).encode()


def _beginning(code: int) -> str:
    verdict, reason = OUTCOMES[code]
    return f'"verdict":"{verdict}"' + (f',"reason":"{reason}"' if reason is not None else "")


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
