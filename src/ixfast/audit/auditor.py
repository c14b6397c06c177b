"""Runs an audit: takes chunks of lines, judges them in one or several processes, and yields the findings in order.

Memory: 26 bytes per line of input, 12 per tag in addition to the catalogue (50 while a file in order of time is checked for
replays), and a few chunks of half a megabyte in flight. With `in_order`, nothing is kept of a line once it has been reported.
Taps of tags that are not in order of time take up to 40 more bytes each while they are sorted.
"""

from __future__ import annotations

import gc
import multiprocessing
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ixfast.audit.findings import EMPTY, GENUINE, MALFORMED, NO_TAG, NO_TAP, Finding, TapFindings
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.audit.tap_format import TapFormat, detect_format
from ixfast.audit.tap_lines import read_rows
from ixfast.audit.tap_order import TapOrder
from ixfast.audit.tap_times import NOT_A_TIME, read_times
from ixfast.audit.url_layout import Taps, UrlLayout, batchable, learn
from ixfast.errors import IxfastError

LESSONS_MAX = 64
"""How many taps a process tries to learn a layout from. After that, taps of unknown layouts are judged one by one."""

_CHUNKS_AHEAD = 2  # Per process: one being judged and one queued, so that processes never idle and chunks never pile up.


class Auditor:
    """Judges chunks of one file. There is one per process, which remembers the layouts that it has learned."""

    def __init__(self, catalogue: TagCatalogue) -> None:
        self._catalogue = catalogue
        self._layouts: dict[int, list[UrlLayout]] = {}
        self._lessons = 0

    def judge_chunk(self, chunk: bytes, form: TapFormat, *, first: int = 0) -> TapFindings:
        """Judge the lines of a chunk from row `first` on; those above it, such as a header, contain no tap."""
        rows = read_rows(chunk, form)
        texts, problems = rows.texts, {row: problem for row, problem in rows.problems.items() if row >= first}
        findings = TapFindings(len(texts))
        seconds, invalid = read_times(rows.times[first:])
        for row in invalid:
            texts[first + row] = None
            problems.setdefault(first + row, f"{form.time}: {NOT_A_TIME}")
        findings.times[first:] = array("d", seconds)
        for row, problem in problems.items():
            findings.put(row, Finding(MALFORMED, problem=problem))
        for row in rows.skipped:
            if row >= first and row not in problems:
                findings.codes[row] = NO_TAP
        for length, taps in _by_length(texts, first).items():
            self._judge(length, taps, findings)
        if form.is_log:
            self._skip_other_requests(texts, findings)
        for row in findings.problems:
            text = texts[row]
            findings.unread += text is None or not self._catalogue.likeness.may_be_tap(text)
        return findings

    def _skip_other_requests(self, texts: list[str | None], findings: TapFindings) -> None:
        """Take the other requests of a log out of the findings."""
        likeness = self._catalogue.likeness
        for row, text in enumerate(texts):
            if (
                text is not None
                and findings.tags[row] == NO_TAG
                and findings.codes[row] != EMPTY
                and not likeness.may_be_tap_of_log(text)
            ):
                findings.codes[row] = NO_TAP
                findings.problems.pop(row, None)

    def _judge(self, length: int, taps: Taps, findings: TapFindings) -> None:
        """Judge taps of one length with the layouts of that length, and the others one by one until a layout is learned."""
        rest = taps
        for layout in self._layouts.get(length, ()):
            rest = self._judge_batch(layout, rest, findings)
        for count, (row, text) in enumerate(zip(rest.rows, rest.texts, strict=True), start=1):
            finding = judge(self._catalogue, text)
            findings.put(row, finding)
            if finding.code == GENUINE and self._lessons < LESSONS_MAX and self._learn(finding.tag, text):
                self._judge(length, rest.after(count), findings)
                return

    def _judge_batch(self, layout: UrlLayout, taps: Taps, findings: TapFindings) -> Taps:
        """Put the taps that the layout finds authentic into `findings`, and return the others."""
        fitting = layout.fitting(taps)
        if not fitting.rows:
            return taps
        for batch in layout.verify(self._catalogue, fitting):
            findings.put_authentic(*batch)
        return taps.at(findings.empty_among(taps.rows))

    def _learn(self, tag: int, text: str) -> bool:
        """Learn the layout of a genuine tap that no known layout covered. Returns whether one was learned that verifies it."""
        profile = self._catalogue.profile(tag)
        if profile is None or not self._catalogue.keys[tag] or not batchable(profile):
            return False
        self._lessons += 1
        layout = learn(profile, self._catalogue.profile_of[tag], text)
        if layout is None or not any(
            batch.valid == b"\1" and batch.tags[0] == tag for batch in layout.verify(self._catalogue, Taps([0], [text]))
        ):
            return False
        self._layouts.setdefault(len(text), []).append(layout)
        return True


def _by_length(texts: list[str | None], first: int) -> dict[int, Taps]:
    """The taps of a chunk from row `first` on, grouped by the length of their texts. There is nearly always just one length."""
    taps = texts[first:]
    present = [text for text in taps if text is not None]
    lengths = {*map(len, present)}
    if len(lengths) == 1 and len(present) == len(taps):
        return {lengths.pop(): Taps(range(first, len(texts)), present)}
    rows_by_length: dict[int, list[int]] = {length: [] for length in lengths}
    for row, text in enumerate(taps, start=first):
        if text is not None:
            rows_by_length[len(text)].append(row)
    return {length: Taps(rows, [texts[row] or "" for row in rows]) for length, rows in rows_by_length.items()}


class Audit:
    """One audit of a catalogue's tags, with `jobs` processes."""

    def __init__(self, catalogue: TagCatalogue, *, jobs: int = 1, in_order: bool = False) -> None:
        self.catalogue = catalogue
        self._jobs = jobs
        self._in_order = in_order
        self.format: TapFormat | None = None
        """The format of the file, once its first lines have been read."""

    def judged(self, chunks: Iterable[bytes]) -> Iterator[TapFindings]:
        """Judge all lines. Yields the findings of consecutive lines: all at the end, or with `in_order` chunk by chunk.

        Raises InputError if the file does not contain taps, and with `in_order` for a tap earlier than one before it.
        """
        gc.freeze()  # the collector would scan millions of keys and texts, which refer to nothing, again and again
        order = TapOrder(len(self.catalogue))
        pieces = self._pieces(chunks)
        if self._in_order:
            first_line = 1
            for piece in pieces:
                order.settle_next(piece, first_line)
                first_line += len(piece)
                yield piece
            return
        whole = TapFindings()
        for piece in pieces:
            whole.extend(piece)
        order.settle(whole)
        yield whole

    def _pieces(self, chunks: Iterable[bytes]) -> Iterator[TapFindings]:
        source = iter(chunks)
        first = next(source, b"")
        if not first:
            return
        self.format = form = detect_format(first, self.catalogue.likeness.parameters, self.catalogue.likeness.has_form)
        if self._jobs == 1:
            auditor = Auditor(self.catalogue)
            yield auditor.judge_chunk(first, form, first=form.before)
            for chunk in source:
                yield auditor.judge_chunk(chunk, form)
            return
        # Forked, so that processes inherit the keys instead of receiving them.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_begin, initargs=(self.catalogue, form)) as pool:
            yield from _in_turn(pool.submit, first, form.before, source, _CHUNKS_AHEAD * self._jobs)


def _in_turn(
    submit: Callable[..., Future[TapFindings]], first: bytes, before: int, source: Iterator[bytes], ahead: int
) -> Iterator[TapFindings]:
    """The findings in the order of their chunks, with at most `ahead` chunks in flight."""
    waiting = deque([submit(_judge_chunk, first, before)])
    try:
        for chunk in source:
            waiting.append(submit(_judge_chunk, chunk, 0))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise IxfastError("A worker process was killed, possibly because memory ran out; lower --jobs.") from None


_auditor: tuple[Auditor, TapFormat] | None = None


def _begin(catalogue: TagCatalogue, form: TapFormat) -> None:
    global _auditor  # the state of a process of the pool
    _auditor = Auditor(catalogue), form


def _judge_chunk(chunk: bytes, first: int) -> TapFindings:
    assert _auditor is not None
    auditor, form = _auditor
    return auditor.judge_chunk(chunk, form, first=first)
