"""Reads a tag file piece by piece: decompresses it, decodes it, splits it into lines and parses CSV or JSON Lines.

The format follows from the content: gzip from the first bytes, JSON Lines from a first line that begins with `{`, and CSV
otherwise, with the separator that is most frequent in the header. Lines above that begin with `#` are skipped. `Content-Type`
and file names are not consulted. Other kinds of files are refused as what they are (`recognition.py`).

Invariants:
1. Rows and problems do not depend on how the file is cut into pieces. The one exception is damaged gzip, where decompression
   loses what precedes the damage in the same piece.
2. Memory is bounded: at most one piece, one block (`BLOCK_BYTES`) and one line or one unfinished CSV record are held.
3. Line numbers are those of a text editor, starting at 1. A record that spans several lines has the number of its first.
"""

from __future__ import annotations

import csv
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import orjson

from ixfast.json_members import repeated_in_line
from ixfast.limits import TAG_FILE_BYTES_MAX
from ixfast.tag_files.columns import NUMBER_SLOTS, Cell, Layout, shown
from ixfast.tag_files.formulas import original
from ixfast.tag_files.problems import LINE_BYTES_MAX, Problems
from ixfast.tag_files.recognition import is_comment, refusal_of_line
from ixfast.tag_files.rows import TagRow, read_row
from ixfast.tag_files.text_decoder import TextDecoder

BLOCK_BYTES = 256 * 1024  # Parsed at a time, after decompression: about 4,000 tags, 30 ms. At most LINE_BYTES_MAX.
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31  # zlib's window bits for "gzip only, 32 KiB window"
_SEPARATORS = ",;\t|"
_UNCLOSED_QUOTE = "unexpected end of data"  # the csv module's message when its input ends inside a quoted cell
_BARE_CR = "new-line character seen"  # the beginning of its message for a carriage return within a line


def read_tags(pieces: Iterable[bytes], layout: Layout, problems: Problems) -> Iterator[TagRow]:
    """Yield the valid rows of a file that arrives in `pieces` of any size, and add its mistakes to `problems`.

    Reading stops when `problems` is full. A file with problems may have valid rows, too.
    """
    file = TagFile(layout, problems)
    for piece in pieces:
        for rows in file.feed(piece):
            yield from rows
        if file.done:
            break
    for rows in file.finish():
        yield from rows


class TagFile:
    """Parses one file: call `feed` for each piece, then `finish`, and consume the iterators that they return.

    Problems are added to `problems`. Once `done` is true the rest of the file is ignored and need not be fed.
    """

    def __init__(self, layout: Layout, problems: Problems) -> None:
        self.problems = problems
        self._layout = layout
        self._first_bytes = b""  # until there are enough of them to recognise gzip
        self._started = False
        self._inflate: _Inflate | None = None
        self._decoder = TextDecoder()
        self._partial_line = b""
        self._lines_read = 0
        self._bytes_read = 0
        self._undecodable = _UndecodableLines(problems)
        self._records: _CsvRecords | _JsonRecords | None = None
        self._aborted = False

    @property
    def done(self) -> bool:
        return self._aborted or self.problems.full

    def feed(self, piece: bytes) -> Iterator[list[TagRow]]:
        """Yield the rows that this piece completes, in blocks."""
        if not self._started:
            self._first_bytes += piece
            if len(self._first_bytes) < len(_GZIP_MAGIC):
                return
            piece = self._start()
        yield from self._read(piece)

    def finish(self) -> Iterator[list[TagRow]]:
        """Yield the remaining rows, and report what is wrong with the end of the file."""
        if not self._started:
            yield from self._read(self._start())
        if not self.done:
            yield from self._read_text(self._decoder.finish())
        if self.done:
            return
        if self._inflate is not None and not self._inflate.complete:
            self._abort("bad_gzip")
            return
        self._undecodable.last_is_cut = self._decoder.is_cut
        last_line, self._partial_line = self._partial_line, b""
        yield self._block(last_line, last=True)
        if not self._aborted:
            self._undecodable.report_up_to(self._lines_read)
        if self._records is None and not self.problems:
            self.problems.add(1, None, "empty_file")

    def _start(self) -> bytes:
        self._started = True
        piece, self._first_bytes = self._first_bytes, b""
        if piece.startswith(_GZIP_MAGIC):
            self._inflate = _Inflate()
        return piece

    def _read(self, piece: bytes) -> Iterator[list[TagRow]]:
        try:
            for block in self._inflate.blocks(piece) if self._inflate is not None else _split(piece):
                if self.done:
                    return
                yield from self._read_text(self._decoder.feed(block))
        except zlib.error:
            if not self.done:
                self._abort("bad_gzip")

    def _read_text(self, text: bytes) -> Iterator[list[TagRow]]:
        if self._decoder.refusal is not None:
            self._abort(self._decoder.refusal)
            return
        for block in _split(text):
            if self.done:
                return
            yield from self._read_block(block)

    def _read_block(self, block: bytes) -> Iterator[list[TagRow]]:
        excess = self._bytes_read + len(block) - TAG_FILE_BYTES_MAX
        if excess > 0:
            block = block[:-excess]
        self._bytes_read += len(block)
        # Only the line that the previous block left unfinished can be too long: a block is no longer than a line may be.
        first_end = block.find(b"\n")
        if len(self._partial_line) + (first_end if first_end >= 0 else len(block)) > LINE_BYTES_MAX:
            is_array = self._records is None and (self._partial_line or block).lstrip().startswith(b"[")
            self._abort("json_document" if is_array else "line_too_long")
            return
        lines, newline, self._partial_line = (self._partial_line + block).rpartition(b"\n")
        if newline:
            yield self._block(lines + newline, last=False)
        if excess > 0 and not self.done:
            self._abort("file_too_long")

    def _abort(self, code: str) -> None:
        """Report a problem with the line that is being read, after which nothing more can be read."""
        self._aborted = True
        self.problems.add(self._lines_read + 1, None, code)

    def _block(self, encoded: bytes, *, last: bool) -> list[TagRow]:
        """Parse whole lines; only the last line of the file may lack its line feed."""
        lines = self._decode(encoded).split("\n")
        lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        before, self._lines_read = self._lines_read, self._lines_read + len(lines)
        if self._records is None:
            self._records = self._detect_format(lines, before)
        if self._records is None:
            return []
        rows = list(self._records.rows(lines, last=last))
        self._aborted = self._aborted or self._records.aborted
        return rows

    def _decode(self, encoded: bytes) -> str:
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            for number, line in enumerate(encoded.split(b"\n"), self._lines_read + 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    self._undecodable.numbers.append(number)
            return encoded.decode(errors="replace")  # never stored; parsed only to report the other problems as well

    def _detect_format(self, lines: list[str], before: int) -> _CsvRecords | _JsonRecords | None:
        """Choose the parser by the first line that is neither blank nor a comment; drop the lines above it from `lines`."""
        while lines and (not lines[0].strip() or is_comment(lines[0])):
            del lines[0]
            before += 1
        if not lines:
            return None
        refusal = refusal_of_line(lines[0])
        if refusal is not None:
            self._aborted = True
            self.problems.add(before + 1, None, refusal)
            return None
        if lines[0].lstrip().startswith("{"):
            return _JsonRecords(self._layout, self.problems, self._undecodable, before)
        first = lines[0].strip().lower()
        separator = max(_SEPARATORS, key=lines[0].count)
        if first.startswith("sep=") and len(first) <= len("sep=;"):  # Excel's directive, not a record
            separator = lines[0].rstrip("\r\n")[-1]
            separator = separator if separator in _SEPARATORS else ","
            del lines[0]
            before += 1
        return _CsvRecords(self._layout, self.problems, self._undecodable, before, separator)


class _UndecodableLines:
    """Numbers of lines that are not UTF-8, kept until the parser has passed them.

    Reported by the parser rather than when a block is decoded, so that a file that is given up early has the same problems, in
    the same order, whatever the size of its blocks.
    """

    def __init__(self, problems: Problems) -> None:
        self.numbers: deque[int] = deque()
        self.last_is_cut = False  # the last of them is the end of a file of UTF-16 that was cut
        self._problems = problems

    def report_up_to(self, line: int) -> None:
        while self.numbers and self.numbers[0] <= line:
            number = self.numbers.popleft()
            is_cut = self.last_is_cut and not self.numbers
            self._problems.add(number, None, "cut_utf16" if is_cut else "bad_encoding")


class _CsvRecords:
    """Parses CSV as in RFC 4180, with other separators too. `aborted` is set when the rest of the file makes no sense."""

    def __init__(self, layout: Layout, problems: Problems, undecodable: _UndecodableLines, before: int, separator: str) -> None:
        self._layout = layout
        self._problems = problems
        self._undecodable = undecodable
        self._source = _LineSource(before)
        self._reader = csv.reader(self._source, delimiter=separator, strict=True)
        self._cells: Sequence[Cell] | None = None
        self._cell_count = 0
        self.aborted = False

    def rows(self, lines: list[str], *, last: bool) -> Iterator[TagRow]:
        source, problems, undecodable = self._source, self._problems, self._undecodable
        source.add(lines)
        while source.position < len(source.lines) and not (self.aborted or problems.full):
            start, line = source.position, source.next_line
            malformed: str | None = None
            try:
                texts = [original(text) if "'" in text else text for text in next(self._reader)]
            except csv.Error as error:
                if str(error) == _UNCLOSED_QUOTE and not last:
                    source.position = start  # the record continues in the next block: parse it again from its start
                    return
                malformed = "bare_cr" if str(error).startswith(_BARE_CR) else "bad_csv"
            if undecodable.numbers:
                undecodable.report_up_to(source.next_line - 1)
            if malformed is not None:
                problems.add(line, None, malformed)
            elif self._cells is not None and len(texts) == self._cell_count:
                row = read_row(line, texts, self._cells, problems)
                if row is not None:
                    yield row
            elif any(text.strip() for text in texts):
                self._header_or_mismatch(line, texts)

    def _header_or_mismatch(self, line: int, texts: list[str]) -> None:
        """Take the first record as the header; report any later record whose cell count differs from the header's."""
        if self._cells is not None:
            self._problems.add(line, None, "wrong_cell_count", f"It has {len(texts)} instead of {self._cell_count}.")
            return
        before = len(self._problems)
        self._cells, self._cell_count = self._layout.cells(texts, line, self._problems), len(texts)
        self.aborted = len(self._problems) > before  # otherwise every line would repeat the problem


class _LineSource:
    """The lines that the csv module reads from. Assigning to `position` rewinds it."""

    def __init__(self, before: int) -> None:
        self.lines: list[str] = []
        self.position = 0
        self._before = before

    @property
    def next_line(self) -> int:
        """The number of the next line in the file, from 1."""
        return self._before + self.position + 1

    def add(self, lines: list[str]) -> None:
        self._before += self.position
        self.lines = self.lines[self.position :] + lines
        self.position = 0

    def __iter__(self) -> _LineSource:
        return self

    def __next__(self) -> str:
        if self.position == len(self.lines):
            raise StopIteration
        self.position += 1
        return self.lines[self.position - 1]


class _JsonRecords:
    """Parses JSON Lines: one object per line, its members taken as columns. Each combination of names is resolved once."""

    _LAYOUTS_MAX = 1000

    def __init__(self, layout: Layout, problems: Problems, undecodable: _UndecodableLines, before: int) -> None:
        self._layout = layout
        self._problems = problems
        self._undecodable = undecodable
        self._line = before
        self._cells_by_names: dict[tuple[str, ...], Sequence[Cell]] = {}
        self.aborted = False

    def rows(self, lines: list[str], *, last: bool) -> Iterator[TagRow]:
        for line in lines:
            self._line += 1
            if self._problems.full:
                return
            if self._undecodable.numbers:
                self._undecodable.report_up_to(self._line)
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
            row = self._row(self._layout.prepared(members))
            if row is not None:
                yield row

    def _row(self, members: dict[str, object]) -> TagRow | None:
        names = tuple(members)
        cells = self._cells_by_names.get(names)
        if cells is None:
            cells = self._layout.cells(names, self._line, self._problems, is_header=False)
            if len(self._cells_by_names) < self._LAYOUTS_MAX:
                self._cells_by_names[names] = cells
        texts = [_TEXTS.get(value) if value is None or isinstance(value, bool) else value for value in members.values()]
        for cell in cells:
            value = texts[cell.position]
            if isinstance(value, int) and cell.slot in NUMBER_SLOTS:
                texts[cell.position] = str(value)
            elif not isinstance(value, str):
                self._problems.add(self._line, cell.name, "not_text")
                return None
        return read_row(self._line, texts, cells, self._problems)  # type: ignore[arg-type]


_TEXTS = {None: "", True: "yes", False: "no"}


class _Inflate:
    """Decompresses gzip, including concatenated members, in blocks of bounded size: a small file may expand to a huge one."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._at_start = True

    @property
    def complete(self) -> bool:
        """Whether the input so far ends at the end of a member."""
        return self._member.eof or self._at_start

    def blocks(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._member.eof:
                self._member, self._at_start = zlib.decompressobj(_GZIP_WBITS), True
                piece = piece.lstrip(b"\0")  # zero padding after a member, as tape archives have it
                if not piece:
                    return
            self._at_start = False
            yield self._member.decompress(piece, BLOCK_BYTES)
            piece = self._member.unconsumed_tail or self._member.unused_data


def _split(piece: bytes) -> Iterator[bytes]:
    for start in range(0, len(piece), BLOCK_BYTES):
        yield piece[start : start + BLOCK_BYTES]
