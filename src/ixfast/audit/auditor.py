"""An audit from one end to the other: chunks of lines in, judged columns out, over one process or several.

Memory: 26 bytes for each line of input, 12 for each tag beside the catalogue (50 while the taps of a file in order of time are
settled), and a few chunks of half a megabyte under way; with `in_order` nothing is kept of a line once it has been reported.
Taps of tags that are not in order of time cost up to 40 bytes more each while they are sorted.
"""

from __future__ import annotations

import gc
import multiprocessing
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ixfast.audit.findings import GENUINE, MALFORMED, Finding, TapFindings
from ixfast.audit.judge import judge
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.audit.tap_lines import TapFormat, detect_format, read_rows
from ixfast.audit.tap_order import TapOrder
from ixfast.audit.tap_times import read_times
from ixfast.audit.url_layout import Taps, UrlLayout, batchable, learn
from ixfast.errors import IxfastError

LESSONS_MAX = 64
"""Taps that one process tries to learn a layout from; taps of further layouts are judged one by one."""

_CHUNKS_AHEAD = 2  # For each process: one at work, one waiting, so that none idles and none piles up.


class Auditor:
    """Judges chunks of one file. One a process; it remembers the layouts that it has seen."""

    def __init__(self, catalogue: TagCatalogue) -> None:
        self._catalogue = catalogue
        self._layouts: dict[int, list[UrlLayout]] = {}
        self._lessons = 0

    def judge_chunk(self, chunk: bytes, form: TapFormat, *, header: bool) -> TapFindings:
        """All lines of a chunk; with `header` the first one is none of taps."""
        rows = read_rows(chunk, form)
        texts, problems = rows.texts, rows.problems
        judged = TapFindings(len(texts))
        first = 1 if header else 0
        if header:
            problems.pop(0, None)
        seconds, wrong = read_times(rows.times[first:])
        for place in wrong:
            texts[first + place] = None
            problems.setdefault(first + place, "at: neither ISO 8601 nor a Unix time")
        judged.times[first:] = array("d", seconds)
        for place, problem in problems.items():
            judged.put(place, Finding(MALFORMED, problem=problem))
        for length, taps in _by_length(texts, first).items():
            self._judge(length, taps, judged)
        return judged

    def _judge(self, length: int, taps: Taps, judged: TapFindings) -> None:
        """Taps of one length: by the layouts of that length, and the rest one by one until one of them teaches another."""
        rest = taps
        for layout in self._layouts.get(length, ()):
            rest = self._judge_batch(layout, rest, judged)
        for count, (place, text) in enumerate(zip(rest.places, rest.texts, strict=True), start=1):
            line = judge(self._catalogue, text)
            judged.put(place, line)
            if line.code == GENUINE and self._lessons < LESSONS_MAX and self._learn(line.tag, text):
                self._judge(length, rest.after(count), judged)
                return

    def _judge_batch(self, layout: UrlLayout, taps: Taps, judged: TapFindings) -> Taps:
        """Judge what the layout can; what is left over."""
        fitting = layout.fitting(taps)
        if not fitting.places:
            return taps
        for found in layout.verify(self._catalogue, fitting):
            judged.put_authentic(*found)
        return taps.at(judged.empty_among(taps.places))

    def _learn(self, tag: int, text: str) -> bool:
        """Learn the layout of a genuine tap that no known layout judged, if it has one that would have judged it."""
        profile = self._catalogue.profile(tag)
        if profile is None or not self._catalogue.keys[tag] or not batchable(profile):
            return False
        self._lessons += 1
        layout = learn(profile, self._catalogue.profile_of[tag], text)
        if layout is None or not any(
            found.holds == b"\1" and found.tags[0] == tag for found in layout.verify(self._catalogue, Taps([0], [text]))
        ):
            return False
        self._layouts.setdefault(len(text), []).append(layout)
        return True


def _by_length(texts: list[str | None], first: int) -> dict[int, Taps]:
    """The taps of a chunk from the `first` on, by the length of their texts, which is nearly always one."""
    own = texts[first:]
    whole = [text for text in own if text is not None]
    lengths = {*map(len, whole)}
    if len(lengths) == 1 and len(whole) == len(own):
        return {lengths.pop(): Taps(range(first, len(texts)), whole)}
    places: dict[int, list[int]] = {length: [] for length in lengths}
    for place, text in enumerate(own, start=first):
        if text is not None:
            places[len(text)].append(place)
    return {length: Taps(own, [texts[place] or "" for place in own]) for length, own in places.items()}


class Audit:
    """One audit. `judged` yields the columns of consecutive lines, whole and settled; `lines` counts those read so far."""

    def __init__(self, catalogue: TagCatalogue, *, jobs: int = 1, in_order: bool = False) -> None:
        self.catalogue = catalogue
        self._jobs = jobs
        self._in_order = in_order

    def judged(self, chunks: Iterable[bytes]) -> Iterator[TapFindings]:
        """Judge all lines; one piece at the end, or with `in_order` a piece as soon as it is judged.

        InputError for a file that is none of taps, and with `in_order` for a tap that is earlier than one before it.
        """
        gc.freeze()  # millions of keys and texts that refer to nothing, and that the collector would look through again and again
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
        form = detect_format(first.partition(b"\n")[0])
        header = form.header
        if self._jobs == 1:
            auditor = Auditor(self.catalogue)
            yield auditor.judge_chunk(first, form, header=header)
            for chunk in source:
                yield auditor.judge_chunk(chunk, form, header=False)
            return
        # Forked, so that keys need not be sent: a process has what its parent had.
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_begin, initargs=(self.catalogue, form)) as pool:
            yield from _in_turn(pool.submit, first, header, source, _CHUNKS_AHEAD * self._jobs)


def _in_turn(
    submit: Callable[..., Future[TapFindings]], first: bytes, header: bool, source: Iterator[bytes], ahead: int
) -> Iterator[TapFindings]:
    """The pieces in the order of their chunks, with at most `ahead` chunks under way."""
    waiting = deque([submit(_judge_chunk, first, header)])
    try:
        for chunk in source:
            waiting.append(submit(_judge_chunk, chunk, False))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise IxfastError("A process of the audit was ended from outside; is there enough memory? Try fewer --jobs.") from None


_auditor: tuple[Auditor, TapFormat] | None = None


def _begin(catalogue: TagCatalogue, form: TapFormat) -> None:
    global _auditor  # what a process of the pool works with
    _auditor = Auditor(catalogue), form


def _judge_chunk(chunk: bytes, header: bool) -> TapFindings:
    assert _auditor is not None
    auditor, form = _auditor
    return auditor.judge_chunk(chunk, form, header=header)
