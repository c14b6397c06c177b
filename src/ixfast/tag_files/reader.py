"""A tag file in pieces: decompressed, cut into lines, decoded and read as CSV or JSON lines.

What the file is follows from its first bytes and its first line. At most a piece, a block and one line are held. The numbers of
lines are those of an editor; a record of several lines is named by its first.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence

import orjson

from ixfast.json_members import repeated_in_line
from ixfast.limits import TAG_FILE_BYTES_MAX
from ixfast.tag_files.columns import Cell, Layout, shown
from ixfast.tag_files.formulas import original
from ixfast.tag_files.problems import LINE_BYTES_MAX, Problems
from ixfast.tag_files.rows import TagRow, read_row

BLOCK_BYTES = 256 * 1024  # Read at a time after decompression: some 4,000 tags, 30 ms.
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31  # zlib: the format of gzip alone
_UTF8_BOM = b"\xef\xbb\xbf"
_SEPARATORS = ",;\t"
_CUT_SHORT = "unexpected end of data"  # the csv module's word for a quoted cell that goes on


class TagFile:
    """Feed it, then finish it. Problems are added to `problems`; when `done` is true nothing more is read."""

    def __init__(self, layout: Layout, problems: Problems) -> None:
        self.problems = problems
        self._layout = layout
        self._first = b""  # until there are enough bytes to see whether it is compressed
        self._inflate: _Inflate | None = None
        self._begun = False
        self._rest = b""
        self._line = 0  # lines handed on
        self._length = 0
        self._records: _CsvRecords | _JsonRecords | None = None
        self._broken = False

    @property
    def done(self) -> bool:
        return self._broken or self.problems.full

    def feed(self, piece: bytes) -> Iterator[list[TagRow]]:
        """Rows of this piece and of what was left of those before, in blocks."""
        if not self._begun:
            self._first += piece
            if len(self._first) < len(_UTF8_BOM):
                return
            piece = self._begin()
        yield from self._feed(piece)

    def finish(self) -> Iterator[list[TagRow]]:
        """The rest of the rows."""
        if not self._begun:
            yield from self._feed(self._begin())
        if self.done:
            return
        if self._inflate is not None and not self._inflate.complete:
            self._break(self._line + 1, "bad_gzip")
            return
        rest, self._rest = self._rest, b""
        yield self._block(rest, last=True)
        if self._records is None and not self.problems:
            self.problems.add(1, None, "empty_file")

    def _begin(self) -> bytes:
        self._begun = True
        piece, self._first = self._first, b""
        if piece.startswith(_GZIP_MAGIC):
            self._inflate = _Inflate()
        return piece

    def _feed(self, piece: bytes) -> Iterator[list[TagRow]]:
        try:
            for block in self._inflate.blocks(piece) if self._inflate is not None else _cut(piece):
                if self.done:
                    return
                self._length += len(block)
                if self._length > TAG_FILE_BYTES_MAX:
                    self._break(self._line + 1, "file_too_long")
                    return
                whole, newline, rest = (self._rest + block).rpartition(b"\n")
                self._rest = rest
                if newline:
                    yield self._block(whole + newline, last=False)
                if len(rest) > LINE_BYTES_MAX:
                    self._break(self._line + 1, "line_too_long")
        except zlib.error:
            self._break(self._line + 1, "bad_gzip")

    def _break(self, line: int, code: str) -> None:
        self._broken = True
        self.problems.add(line, None, code)

    def _block(self, encoded: bytes, *, last: bool) -> list[TagRow]:
        """Rows of whole lines."""
        if self._line == 0:
            encoded = encoded.removeprefix(_UTF8_BOM)
        lines = self._decode(encoded).split("\n")
        lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        before, self._line = self._line, self._line + len(lines)
        if self._records is None:
            self._records = self._recognised(lines, before)
        if self._records is None:
            return []
        rows = list(self._records.rows(lines, last=last))
        self._broken = self._broken or self._records.broken
        return rows

    def _decode(self, encoded: bytes) -> str:
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            for number, line in enumerate(encoded.split(b"\n"), self._line + 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    self.problems.add(number, None, "bad_encoding")
            return encoded.decode(errors="replace")  # nothing of it will be stored; its other mistakes are told, too

    def _recognised(self, lines: list[str], before: int) -> _CsvRecords | _JsonRecords | None:
        """What the first line that is not blank begins; lines up to there are removed."""
        while lines and not lines[0].strip():
            del lines[0]
            before += 1
        if not lines:
            return None
        if lines[0].lstrip().startswith("{"):
            return _JsonRecords(self._layout, self.problems, before)
        first = lines[0].strip().lower()
        if first.startswith("sep=") and len(first) <= len("sep=;"):  # a spreadsheet's own line
            separator = lines[0].rstrip("\r\n")[-1]
            del lines[0]
            return _CsvRecords(self._layout, self.problems, before + 1, separator if separator in _SEPARATORS else ",")
        return _CsvRecords(self._layout, self.problems, before, max(_SEPARATORS, key=lines[0].count))


class _CsvRecords:
    """Records of CSV, RFC 4180 with other separators. `broken` says that what follows cannot be understood."""

    def __init__(self, layout: Layout, problems: Problems, before: int, separator: str) -> None:
        self._layout = layout
        self._problems = problems
        self._source = _Lines(before)
        self._reader = csv.reader(self._source, delimiter=separator, strict=True)
        self._cells: Sequence[Cell] | None = None
        self._cell_count = 0
        self.broken = False

    def rows(self, lines: list[str], *, last: bool) -> Iterator[TagRow]:
        source, problems = self._source, self._problems
        source.add(lines)
        while source.place < len(source.lines) and not (self.broken or problems.full):
            start, line = source.place, source.line
            try:
                texts = [original(text) if "'" in text else text for text in next(self._reader)]
            except csv.Error as error:
                if str(error) == _CUT_SHORT and not last:
                    source.place = start  # a cell of several lines, of which more will come
                    return
                problems.add(line, None, "bad_csv")
                self.broken = source.place == len(source.lines)
                continue
            if self._cells is not None and len(texts) == self._cell_count:
                row = read_row(line, texts, self._cells, problems)
                if row is not None:
                    yield row
            elif any(text.strip() for text in texts):
                self._unusual(line, texts)

    def _unusual(self, line: int, texts: list[str]) -> None:
        """The names of the columns, or a line that has not as many cells."""
        if self._cells is not None:
            self._problems.add(line, None, "wrong_cell_count", f"{len(texts)} instead of {self._cell_count}.")
            return
        before = len(self._problems)
        self._cells, self._cell_count = self._layout.cells(texts, line, self._problems), len(texts)
        self.broken = len(self._problems) > before  # every line would repeat the mistake


class _Lines:
    """What the csv module reads from; `place` can be put back."""

    def __init__(self, before: int) -> None:
        self.lines: list[str] = []
        self.place = 0
        self._before = before

    @property
    def line(self) -> int:
        """The number of the line that comes next."""
        return self._before + self.place + 1

    def add(self, lines: list[str]) -> None:
        self._before += self.place
        self.lines = self.lines[self.place :] + lines
        self.place = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self.place == len(self.lines):
            raise StopIteration
        self.place += 1
        return self.lines[self.place - 1]


class _JsonRecords:
    """One object a line. Members are columns; each combination of names is looked up once."""

    _LAYOUTS_MAX = 1000

    def __init__(self, layout: Layout, problems: Problems, before: int) -> None:
        self._layout = layout
        self._problems = problems
        self._line = before
        self._layouts: dict[tuple[str, ...], Sequence[Cell]] = {}
        self.broken = False

    def rows(self, lines: list[str], *, last: bool) -> Iterator[TagRow]:
        for line in lines:
            self._line += 1
            if self._problems.full:
                return
            if not line.strip():
                continue
            try:
                members = orjson.loads(line)
                repeated = repeated_in_line(line, members) if isinstance(members, dict) else []
            except (orjson.JSONDecodeError, RecursionError):
                members = None
            if not isinstance(members, dict):
                self._problems.add(self._line, None, "bad_json")
                continue
            if repeated:
                self._problems.add(self._line, shown(repeated[0]), "duplicate_member")
                continue
            row = self._row(members)
            if row is not None:
                yield row

    def _row(self, members: dict[str, object]) -> TagRow | None:
        names = tuple(members)
        cells = self._layouts.get(names)
        if cells is None:
            cells = self._layout.cells(names, self._line, self._problems, is_header=False)
            if len(self._layouts) < self._LAYOUTS_MAX:
                self._layouts[names] = cells
        texts = [_TEXTS.get(value) if value is None or isinstance(value, bool) else value for value in members.values()]
        for cell in cells:
            if not isinstance(texts[cell.place], str):
                self._problems.add(self._line, cell.name, "not_text")
                return None
        return read_row(self._line, texts, cells, self._problems)  # type: ignore[arg-type]


_TEXTS = {None: "", True: "yes", False: "no"}


class _Inflate:
    """gzip, of several members too, a block at a time: a small file may be a huge one."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_BITS)
        self._fresh = True

    @property
    def complete(self) -> bool:
        return self._member.eof or self._fresh

    def blocks(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._member.eof:
                self._member, self._fresh = zlib.decompressobj(_GZIP_BITS), True
                piece = piece.lstrip(b"\0")  # padding, as tapes have it
                if not piece:
                    return
            self._fresh = False
            yield self._member.decompress(piece, BLOCK_BYTES)
            piece = self._member.unconsumed_tail or self._member.unused_data


def _cut(piece: bytes) -> Iterator[bytes]:
    for start in range(0, len(piece), BLOCK_BYTES):
        yield piece[start : start + BLOCK_BYTES]
