"""Recognises what a file is: encodings that are read, and kinds of files that are not tables, from their first bytes or line.

The codes returned are keys of `problems.PROBLEMS`.
"""

from __future__ import annotations

import re

import orjson

HEAD_BYTES = 4096
"""What the functions over bytes look at: the beginning of a file, or all of a shorter one."""

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UTF32_BOMS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_ZIP = b"PK\x03\x04"
_OFFICE_NAMES = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"mimetype", b"META-INF/", b"Index/")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # workbooks before .xlsx
_ARCHIVES = (_ZIP, b"PK\x05\x06", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x1f\x9d")
_TAR_MARK, _TAR_MARK_AT = b"ustar", 257
_ENCRYPTED = (b"-----BEGIN PGP MESSAGE", b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED")
_FORM_PART = re.compile(rb"^content-disposition: *form-data", re.IGNORECASE | re.MULTILINE)
_LINE_END = re.compile(rb"\r\n?|\n")
_HEADER_CELL = re.compile(r"#\s*[,;\t|]")
_SEPARATOR = re.compile(r"[,;\t|&]")
_SECTION = re.compile(r"\[{1,2}[A-Za-z][\w .:-]*\]{1,2}|---|%YAML.*")  # of INI and TOML files; the beginning of a YAML file
_ASSIGNMENT = re.compile(r"\s*(?:- +)?\"?[A-Za-z][\w .-]{1,39}\"?\s*(?:=|(?<=\w\w\w|\w\w\"):(?!//))\s*\S.*")


def refusal_of_bytes(head: bytes) -> str | None:
    """The code of the problem if a file with these first bytes is not text, or text that cannot be read."""
    if head.startswith(_UTF32_BOMS):
        return "bad_encoding"
    if head.startswith(_OLE) or (head.startswith(_ZIP) and head[30:].startswith(_OFFICE_NAMES)):
        return "workbook"
    if head.startswith(_ARCHIVES) or head[_TAR_MARK_AT:].startswith(_TAR_MARK):
        return "archive"
    if head.startswith(_ENCRYPTED):
        return "encrypted_file"
    if head.startswith(b"--") and _FORM_PART.search(head) is not None:
        return "form_data"
    if head.startswith(b"%PDF-") or (b"\0" in head and utf16_encoding(head) is None):
        return "binary_file"
    return None


def utf16_encoding(head: bytes) -> str | None:
    """The codec of UTF-16, with or without a byte order mark; None for any other text. Without the mark it is recognised by the
    zeros in its first two characters, which are ASCII in every table of tags."""
    marked = _UTF16_BOMS.get(head[:2])
    if marked is not None or len(head) < 4:
        return marked
    if head[0] and not head[1] and head[2] and not head[3]:
        return "utf-16-le"
    if not head[0] and head[1] and not head[2] and head[3]:
        return "utf-16-be"
    return None


def without_bom(head: bytes) -> bytes:
    return head[2:] if head[:2] in _UTF16_BOMS else head.removeprefix(_UTF8_BOM)


def ends_lines_with_cr(text: bytes) -> bool:
    """Whether lines end with a carriage return only; `text` begins with the first line."""
    first = _LINE_END.search(text)
    return first is not None and first[0] == b"\r" and first.end() < len(text)


def is_comment(line: str) -> bool:
    """Whether a line above the header is a comment. `#` alone in a cell is the name of a column."""
    return line.lstrip().startswith("#") and _HEADER_CELL.match(line.lstrip()) is None


def refusal_of_line(line: str) -> str | None:
    """The code of the problem if a file with this first line is text, but neither CSV nor JSON Lines."""
    text = line.strip()
    if text.startswith("<"):
        return "markup"
    if _SECTION.fullmatch(text) is not None:
        return "key_value_file"
    if text.startswith("["):
        return "json_document" if text[1:].lstrip()[:1] in ("", "{", "[", '"') else None
    if text.startswith("{"):
        return "json_document" if text[-1] in "{[,:" and not _is_json(text) else None
    cells = [cell for cell in _SEPARATOR.split(text) if cell.strip()]
    return "key_value_file" if cells and all(map(_ASSIGNMENT.fullmatch, cells)) else None


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):
        return False
    return True
