"""What can be wrong with a tag file, and what mends it. The same table stands in docs/import.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ixfast.limits import CUSTOMER_ID_CHARS_MAX, KEY_VERSIONS_MAX, META_KEYS_MAX, TAG_CODE_CHARS_MAX, TAG_FILE_BYTES_MAX

PROBLEMS_MAX = 100  # Mistakes collected before the rest of a file is left unread.
NAME_CHARS_MAX = 255  # TAGNAME
LINE_BYTES_MAX = 256 * 1024  # Far above a tag with a response and fifty fields; a file without line ends is told early.

PROBLEMS: Mapping[str, tuple[str, str]] = {
    # The file.
    "empty_file": ("There is nothing in the file.", "Write a line with the names of the columns, then one line a tag."),
    "bad_encoding": ("This is not UTF-8.", "Save the file as UTF-8; in a spreadsheet, as «CSV UTF-8»."),
    "bad_gzip": ("The compressed file is damaged or cut short.", "Compress or copy it again."),
    "bad_csv": (
        "A quotation mark is in the wrong place or never closed.",
        'Put the cell in "…" and double each quotation mark in it.',
    ),
    "bad_json": ("This is not one JSON object.", 'Write one object a line, as {"UID": "…", "KEY": "…"}.'),
    "line_too_long": (f"A line has more than {LINE_BYTES_MAX} bytes.", "End each tag's line with a line feed (LF or CRLF)."),
    "file_too_long": (f"The file has more than {TAG_FILE_BYTES_MAX >> 30} GiB of text.", "Split it."),
    # The names of the columns.
    "no_header": ("The first line has no names of columns.", "Write a line such as XUID,UID,CUID,KEY above the tags."),
    "unknown_column": (
        "There is no such column.",
        "Correct the name, define it as an extended field of the folder, choose a preset, or have the column ignored.",
    ),
    "duplicate_column": (
        "Another column means the same.",
        "Remove one of the two, have one ignored, or choose the preset of the tool that wrote the file.",
    ),
    "keys_not_allowed": (
        "Who imports here may not write keys.",
        "Use an API key with the scope keys, or have the column ignored.",
    ),
    "no_identity_column": ("There is no column that names a tag.", "Add XUID, UID or CUID."),
    # A line.
    "wrong_cell_count": (
        "The line has not as many cells as there are names.",
        "Keep the commas of blank cells; quote cells with commas.",
    ),
    "not_text": ("The value is not a text.", "Write the value in quotation marks, or null to leave it as it is."),
    "duplicate_member": ("The object has a member twice.", "Keep one of the two."),
    "no_identity": ("The line names no tag.", "Give XUID, UID or CUID."),
    # A cell.
    "bad_text": ("The text has a control character.", "Remove it; a line break belongs into RESPONSE alone."),
    "bad_xuid": ("This is no tag code.", f"Use 1 to {TAG_CODE_CHARS_MAX} letters and digits, or leave it blank."),
    "bad_hex": ("This is not hexadecimal.", "Use 0-9 and A-F; if a spreadsheet made a number of it, format the column as text."),
    "uid_4_bytes": (
        "A UID of 4 bytes does not name one chip.",
        "Authentication chips have 7 bytes; read it with a reader that shows all of them.",
    ),
    "uid_length": ("A UID has 7 bytes.", "Write 14 hexadecimal digits, with or without colons; leading zeros count."),
    "key_length": ("A key has 16 bytes.", "Write 32 hexadecimal digits; leading zeros count."),
    "zero_key": (
        "The key is all zeros, as on every chip from the factory.",
        "Program a key of its own, or allow all-zero keys for a test.",
    ),
    "bad_check_value": ("A check value has 3 bytes.", "Write 6 hexadecimal digits, or leave it blank."),
    "check_value_differs": (
        "The key is another one than its check value says.",
        "Compare the line with its source; one of the two is wrong.",
    ),
    "bad_cuid": ("This is no CUID.", f"Use at most {CUSTOMER_ID_CHARS_MAX} printable characters, with no space at the ends."),
    "bad_name": ("The name is too long.", f"Use at most {NAME_CHARS_MAX} characters."),
    "bad_status": ("This is no status.", "Write active or inactive, or leave it blank."),
    "bad_assigned": (
        "This is neither yes, no nor a date.",
        "Write yes, no, 2026-01-31 or 2026-01-31T09:30:00Z, or leave it blank.",
    ),
    "bad_response": ("This cannot be a response.", "Shorten it, or use fewer subtags."),
    "bad_field": ("This cannot be the value of a field.", "Shorten it, or use fewer subtags."),
    # The file against itself and against what is stored.
    "duplicate": ("The tag, or its CUID, stands in an earlier line.", "Keep one of the lines."),
    "two_keys": ("The UID stands in an earlier line with another key.", "Find out which key the chip has and keep that line."),
    "xuid_taken": ("This tag code cannot be used.", "Leave XUID blank to have one made, or choose another."),
    "uid_taken": (
        "The UID is that of another tag of the account.",
        "Correct XUID or UID, or leave XUID blank to change the tag that has the UID.",
    ),
    "uid_differs": ("The tag has another UID.", "A tag keeps its chip: correct the line, or make a new tag for the new chip."),
    "cuid_taken": (
        "The CUID is, or was until this file, that of another tag.",
        "Choose another, or give the other tag a new one in a file of its own.",
    ),
    "key_used_before": (
        "The tag had this key before and has a newer one.",
        "Program a new key: under the old one, taps that were used would pass again.",
    ),
    "key_derived": (
        "The tag's group derives the keys of its tags.",
        "Have the column ignored, or import into a group that derives none.",
    ),
    "key_versions_full": (f"The tag has had {KEY_VERSIONS_MAX} keys.", "Make a new tag for the chip."),
    "meta_keys_full": (
        f"The account would have more than {META_KEYS_MAX} meta keys.",
        "META_KEY is one key for many tags; if each tag has its own here, it is another key: have the column ignored.",
    ),
    "other_folder": (
        "The tag belongs to another folder, which has fields of its own.",
        "Import its fields into a group of that folder.",
    ),
}
"""Code: what is wrong, and what mends it."""


class Problem(NamedTuple):
    """A mistake in a tag file. `line` counts from 1; it is that in which a tag begins. `column` is as named in the file."""

    line: int
    column: str | None
    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.column is None else f"line {self.line}, {self.column}"
        return f"{place}: {self.code}: {self.message} {self.remedy}"


def problem(line: int, column: str | None, code: str, detail: str = "") -> Problem:
    """A problem in the words of the table; `detail` follows what is wrong and has nothing of a cell."""
    message, remedy = PROBLEMS[code]
    return Problem(line, column, code, f"{message} {detail}" if detail else message, remedy)


def counted(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


class Problems:
    """Those that were found, in the order of finding, up to a bound. `full` says to look no further."""

    def __init__(self, bound: int = PROBLEMS_MAX) -> None:
        self._bound = bound
        self.found: list[Problem] = []

    def add(self, line: int, column: str | None, code: str, detail: str = "") -> None:
        if not self.full:
            self.found.append(problem(line, column, code, detail))

    @property
    def full(self) -> bool:
        return len(self.found) >= self._bound

    def __len__(self) -> int:
        return len(self.found)
