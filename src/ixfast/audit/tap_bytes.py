"""Reads a tap file as chunks of whole lines in UTF-8, however it is compressed and encoded.

The content decides, not the name of the file: gzip, UTF-16 (which spreadsheets and PowerShell write), lines that end with CR
alone, and JSON objects in an array or over several lines, which become lines. Nothing is known here about what a line contains.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import msgspec

from ixfast.errors import InputError

CHUNK_BYTES = 1 << 19
"""The size of a chunk: a few thousand lines, enough for batches to pay off."""

LINE_BYTES_MAX = 1 << 20
"""A longer line means that the file is not a tap file."""

JSON_BYTES_MAX = 1 << 28
"""JSON that is not in lines is held as a whole; some two million taps."""

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_HEAD_BYTES = 64

_SEVERAL_LINES = re.compile(rb"\{[^\n]*(?<!\})[ \t\r]*\n(?!\s*\{)\s*\S")  # of one object, and not a line that is cut
_BLANK = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")  # a string of JSON contains no line break, so they only lay it out
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def read_chunks(source: BinaryIO, file: str) -> Iterator[bytes]:
    """Yield chunks of whole lines. Raises InputError, with the name of the `file`, for content that has no lines."""
    try:
        stream = source if isinstance(source, io.BufferedReader) else io.BufferedReader(source, CHUNK_BYTES)  # type: ignore[type-var]
        unpacked = gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == _GZIP else stream
        yield from chunks(unpacked, file)  # type: ignore[arg-type]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError("invalid_parameter", f"{file} is damaged: gzip cannot decompress all of it.", "file") from None


def chunks(source: BinaryIO, file: str = "The file") -> Iterator[bytes]:
    """Yield chunks of whole lines, a few thousand each, from content that is not compressed."""
    blocks = iter(lambda: source.read(CHUNK_BYTES), b"")
    first = next(blocks, b"")
    if first.startswith(_ZIP):
        raise InputError(
            "invalid_parameter", f"{file} is a workbook (.xlsx) or an archive: save the sheet as CSV, or unpack it.", "file"
        )
    blocks = chain([first], blocks) if first else blocks
    encoding = _utf_16(first[:_HEAD_BYTES])
    if encoding is not None:
        blocks = _recoded(blocks, encoding)
        first = next(blocks, b"")
        blocks = chain([first], blocks)
    if first.startswith(codecs.BOM_UTF8):
        first = first.removeprefix(codecs.BOM_UTF8)
        next(blocks)
        blocks = chain([first], blocks)
    if b"\r" in first and b"\n" not in first:
        blocks = (block.replace(b"\r", b"\n") for block in blocks)
    head = first.lstrip()
    if head.startswith(b"[") and head[1:].lstrip().startswith((b"{", b"]")):
        blocks = _items(blocks, file)
    elif _SEVERAL_LINES.match(head):
        blocks = _documents(blocks, file)
    return _whole_lines(blocks, file)


def _whole_lines(blocks: Iterable[bytes], file: str) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        whole, newline, rest_of_block = block.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = rest_of_block
        else:
            rest += rest_of_block
        if len(rest) > LINE_BYTES_MAX:
            raise InputError(
                "invalid_parameter", f"{file} has a line longer than {LINE_BYTES_MAX} bytes; is it a tap file?", "file"
            )
    if rest:
        yield rest


def _utf_16(head: bytes) -> str | None:
    """The UTF-16 encoding in which a text begins, which may lack its byte order mark; None for any other."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    odd, even = head[1::2], head[0 : len(head) - 1 : 2]
    for encoding, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high and not any(high) and all(low):
            return encoding
    return None


def _recoded(blocks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for block in blocks:
        if text := decoder.decode(block):
            yield text.encode(errors="replace")
    if text := decoder.decode(b"", final=True):
        yield text.encode(errors="replace")


def _items(blocks: Iterable[bytes], file: str) -> Iterator[bytes]:
    """The items of a JSON array, one line each."""
    try:
        items = _ARRAY.decode(_whole(blocks, file))
    except msgspec.DecodeError:
        raise InputError("invalid_parameter", f"{file} begins as a JSON array but is not valid JSON.", "file") from None
    for item in items:
        yield bytes(item).translate(_ONE_LINE) + b"\n"


def _documents(blocks: Iterable[bytes], file: str) -> Iterator[bytes]:
    """JSON objects that take several lines each, one line each; of an object around a list of objects, the items of the list."""
    text = _whole(blocks, file).decode(errors="replace")
    at = _BLANK.match(text).end()  # type: ignore[union-attr]
    while at < len(text):
        try:
            found, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            line = text.count("\n", 0, at) + 1
            problem = f"{file} has an object that is not valid JSON; it begins in line {line}."
            raise InputError("invalid_parameter", problem, "file") from None
        document = text[at:end].encode(errors="replace")
        members = found.items() if isinstance(found, dict) else ()
        lists = [name for name, value in members if value and isinstance(value, list) and isinstance(value[0], dict)]
        if len(lists) == 1:
            yield from _items([bytes(msgspec.json.decode(document, type=dict[str, msgspec.Raw])[lists[0]])], file)
        else:
            yield document.translate(_ONE_LINE) + b"\n"
        at = _BLANK.match(text, end).end()  # type: ignore[union-attr]


def _whole(blocks: Iterable[bytes], file: str) -> bytes:
    whole = bytearray()
    for block in blocks:
        whole += block
        if len(whole) > JSON_BYTES_MAX:
            text = f"{file} is one piece of JSON longer than {JSON_BYTES_MAX} bytes: write one object per line."
            raise InputError("invalid_parameter", text, "file")
    return bytes(whole)
