"""What an audit found in all: how many taps have which verdict, and what of the file could not be used.

Contains no URL, no MAC and no key, and of the names of columns only those that may be shown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ixfast.audit.findings import MALFORMED, NO_TAP, OUTCOMES, UNKNOWN, TapFindings
from ixfast.audit.tap_format import TapFormat


class Summary:
    """The number of taps by the code of their finding in `taps`, and what the warnings are about."""

    def __init__(self) -> None:
        self.taps: Counter[int] = Counter()
        self.without_tap = 0
        """Lines of a log that contain another request."""
        self.first_problem: tuple[int, str] | None = None
        """Line number of the first malformed tap, and what is wrong with it."""
        self._hints: Counter[str] = Counter()
        """What else is odd about taps that could be read, with their number."""
        self._unread = 0
        self._has_times = False

    def add(self, findings: TapFindings, first_line: int) -> None:
        """Add the findings about consecutive lines; `first_line` is the number of the first."""
        codes = findings.codes
        self.taps += Counter({code: codes.count(code) for code in range(len(OUTCOMES)) if code in codes})
        self.without_tap += codes.count(NO_TAP)
        self._unread += findings.unread
        malformed = [row for row in findings.problems if codes[row] == MALFORMED]
        if self.first_problem is None and malformed:
            row = min(malformed)
            self.first_problem = first_line + row, findings.problems[row]
        if len(malformed) < len(findings.problems):
            self._hints.update(problem for row, problem in findings.problems.items() if codes[row] != MALFORMED)
        self._has_times = self._has_times or any(findings.times)

    @property
    def all_genuine(self) -> bool:
        return all(OUTCOMES[code][0] == "genuine" for code in self.taps)

    @property
    def has_taps(self) -> bool:
        """Whether any line could be read as a tap, whatever its verdict."""
        return self._unread < self.taps.total()

    def lines(self, seconds: float) -> list[str]:
        """A table of verdicts and reasons, with the rate in the last line."""
        total = self.taps.total()
        lines = [f"{'verdict':<11} {'reason':<19} {'taps':>12}  share"]
        for code, (verdict, reason) in enumerate(OUTCOMES):
            if self.taps[code]:
                share = f"{100 * self.taps[code] / total:6.2f} %"
                lines.append(f"{verdict:<11} {reason or '-':<19} {self.taps[code]:>12,} {share}")
        rate = f"{total / seconds:,.0f} a second" if seconds > 0 else "at once"
        lines.append(f"{'all':<11} {'':<19} {total:>12,}  in {seconds:.2f} s, {rate}")
        return lines

    def where(self) -> str:
        """The first line that could not be read, and why."""
        assert self.first_problem is not None
        line, problem = self.first_problem
        return f"line {line}: {problem}"

    def warnings(self, form: TapFormat | None) -> list[str]:
        """What the reader of the table should know about the file, one sentence each."""
        found = []
        if self.first_problem is not None:
            found.append(f"{counted(self.taps[MALFORMED])} could not be read; {self.where()}")
        found += [f"{counted(count)} with a tap that is not genuine: {hint}" for hint, count in self._hints.items()]
        if self.without_tap:
            found.append(f"the log has {counted(self.without_tap)} without a tap")
        if self.taps[UNKNOWN] and self.taps[UNKNOWN] == self.taps.total() - self.taps[MALFORMED]:
            found.append("no tap is of a known tag: do the keys belong to other tags?")
        if form is not None and self.has_taps and not self._has_times and (form.unread or form.kind == "log"):
            found.append(_without_times(form))
        return found

    def members(self, seconds: float, form: TapFormat | None) -> dict[str, Any]:
        """The summary as JSON."""
        found = [
            {"verdict": verdict, "reason": reason, "taps": self.taps[code]}
            for code, (verdict, reason) in enumerate(OUTCOMES)
            if self.taps[code]
        ]
        return {
            "taps": self.taps.total(),
            "lines_without_tap": self.without_tap,
            "seconds": round(seconds, 3),
            "counts": found,
            "warnings": self.warnings(form),
        }


def counted(count: int) -> str:
    return f"{count:,} line{'' if count == 1 else 's'}"


def _without_times(form: TapFormat) -> str:
    order = "no time of the taps was found, so they are taken in the order of their lines"
    if not form.unread:
        return order
    what = "columns" if form.kind == "csv" else "members"
    return f"{order} ({what} that are not read: {', '.join(form.unread)}); call the time `at`"
