"""Turns the bytes of a file into UTF-8 whose lines end with line feeds, or finds that the file is not text.

Invariants:
1. What is returned in total does not depend on how the file is cut into pieces.
2. Text that is not valid stays invalid: a half character of UTF-16 becomes bytes that are not UTF-8, so that the reader reports
   its line.
3. Only `HEAD_BYTES`, and later at most one character, are held back.
"""

from __future__ import annotations

import codecs

from ixfast.tag_files.recognition import HEAD_BYTES, ends_lines_with_cr, refusal_of_bytes, utf16_encoding, without_bom

_NEVER_UTF8 = b"\xff"
_FIRST_BYTES = HEAD_BYTES - 4  # the same, whether a byte order mark was removed or not


class TextDecoder:
    """Call `feed` for each piece, then `finish`. They return nothing more once `refusal`, the code of a problem, is set."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.is_cut = False
        """Whether the file, once finished, ends in the middle of a character of UTF-16."""
        self._head = b""
        self._started = False
        self._utf16: codecs.IncrementalDecoder | None = None
        self._cr_ends_lines = False
        self._held_cr = False

    def feed(self, piece: bytes) -> bytes:
        if self._started:
            return self._text(piece, last=False)
        self._head += piece
        return self._start(last=False) if len(self._head) >= HEAD_BYTES else b""

    def finish(self) -> bytes:
        return self._text(b"", last=True) if self._started else self._start(last=True)

    def _start(self, *, last: bool) -> bytes:
        head, self._head, self._started = self._head, b"", True
        self.refusal = refusal_of_bytes(head[:HEAD_BYTES])
        encoding = utf16_encoding(head)
        if encoding is not None:
            self._utf16 = codecs.getincrementaldecoder(encoding)("surrogatepass")
        body = without_bom(head)
        first = self._utf8(body[:_FIRST_BYTES], last=False)
        self._cr_ends_lines = ends_lines_with_cr(first)
        return self._lines(first, last=False) + self._text(body[_FIRST_BYTES:], last=last)

    def _text(self, piece: bytes, *, last: bool) -> bytes:
        return self._lines(self._utf8(piece, last=last), last=last) if self.refusal is None else b""

    def _utf8(self, piece: bytes, *, last: bool) -> bytes:
        if self._utf16 is None:
            return piece
        text = self._utf16.decode(piece).encode(errors="surrogatepass")
        self.is_cut = last and self._utf16.getstate()[0] != b""
        return text + _NEVER_UTF8 if self.is_cut else text

    def _lines(self, text: bytes, *, last: bool) -> bytes:
        """The text with line feeds. A carriage return at its end is held back, because a line feed may follow."""
        if self.refusal is not None or not self._cr_ends_lines:
            return text if self.refusal is None else b""
        if self._held_cr:
            text = b"\r" + text
        self._held_cr = text.endswith(b"\r") and not last
        if self._held_cr:
            text = text[:-1]
        return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
