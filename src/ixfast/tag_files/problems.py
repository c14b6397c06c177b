"""Everything that can be wrong with a tag file, by code, with the message and the remedy that users read.

Codes are part of the API (`422 invalid_file` lists them) and never change; the texts may. docs/how-to/import-tags.md shows the
same table; a test keeps the two alike. No text quotes a cell, because any column of a malformed file may hold a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ixfast.domain.chip_uids import REVERSED
from ixfast.limits import (
    COUNTER_MAX,
    CUSTOMER_ID_CHARS_MAX,
    KEY_VERSIONS_MAX,
    META_KEYS_MAX,
    TAG_CODE_CHARS_MAX,
    TAG_FILE_BYTES_MAX,
)

PROBLEMS_MAX = 100  # After this many the rest of the file is not read.
NAME_CHARS_MAX = 255  # TAGNAME
SCAN_COUNT_MAX = (1 << 53) - 1  # SCAN_COUNT: the largest integer that every JSON decoder reads exactly.
LINE_BYTES_MAX = 256 * 1024  # Far above a tag with a response and fifty fields; detects a file without line feeds early.

PROBLEMS: Mapping[str, tuple[str, str]] = {
    # The file.
    "empty_file": ("The file is empty.", "Write a header line with the column names, then one line per tag."),
    "workbook": (
        "The file is a workbook of a spreadsheet program or a similar document, not text.",
        "Save the sheet as CSV UTF-8 in the spreadsheet program, and import that file.",
    ),
    "archive": (
        "The file is an archive, or compressed by something other than gzip.",
        "Unpack it and import the file inside; a single file may be compressed with gzip.",
    ),
    "encrypted_file": ("The file is encrypted.", "Decrypt it and import the result."),
    "binary_file": ("The file is not text.", "Export the list as CSV UTF-8 or JSON Lines, and import that file."),
    "form_data": (
        "The body is a form (multipart/form-data) that contains the file.",
        "Send the file itself as the body: with curl, use --data-binary @FILE instead of --form.",
    ),
    "markup": (
        "The file is HTML or XML.",
        "Export the list as CSV or JSON Lines; if you downloaded it, the page may be an error message.",
    ),
    "json_document": (
        "The file is a JSON array, or an object that is spread over several lines.",
        "Write one object per line, without brackets and commas around it: `jq -c '.[]'` converts an array, `jq -c .` an object.",
    ),
    "key_value_file": (
        "The file consists of names with their values, such as UID=….",
        "Write the names as a header line, and the values of each tag in one line below it.",
    ),
    "bad_encoding": ("The line is not valid UTF-8.", "Save the file as UTF-8 (in a spreadsheet: “CSV UTF-8”)."),
    "cut_utf16": ("The file ends in the middle of a character of UTF-16.", "It was cut off: copy or export it again."),
    "bad_gzip": ("The compressed file is damaged or truncated.", "Compress it again, or copy it again."),
    "bad_csv": (
        "A quotation mark is misplaced or never closed.",
        'Enclose the cell in double quotation marks ("…") and double each quotation mark inside it.',
    ),
    "bare_cr": (
        "A carriage return is in the middle of the line.",
        "End all lines in the same way, and enclose cells with line breaks in double quotation marks.",
    ),
    "bad_json": ("The line is not a JSON object.", 'Write one object per line, such as {"UID": "…", "KEY": "…"}.'),
    "line_too_long": (
        f"The line is longer than {LINE_BYTES_MAX} bytes.",
        "End each line with a line feed (LF or CRLF); for JSON, write one object per line.",
    ),
    "file_too_long": (f"The file contains more than {TAG_FILE_BYTES_MAX >> 30} GiB of text.", "Split it into several files."),
    # The header.
    "no_header": (
        "The file has no header line.",
        "Add a line with column names, such as XUID,UID,CUID,KEY, above the tags; lines that begin with # are comments.",
    ),
    "unknown_column": (
        "There is no column with this name.",
        "Correct the name, define it as an extended field of the folder, choose a preset, or ignore the column.",
    ),
    "duplicate_column": (
        "Two columns have the same meaning.",
        "Remove or ignore one of them, or choose the preset for the tool that wrote the file.",
    ),
    "keys_not_allowed": (
        "This credential does not permit importing keys.",
        "Use an API key with the scope keys. Ignore the column only if the tags have their keys already.",
    ),
    "no_identity_column": ("No column identifies the tags.", "Add a column XUID, UID or CUID."),
    # A line.
    "wrong_cell_count": (
        "The line has a different number of cells than the header.",
        "Keep the commas of blank cells, and quote cells that contain commas.",
    ),
    "not_text": ("The value is not a string.", "Write the value in quotation marks, or null to leave the tag's value unchanged."),
    "duplicate_member": ("The object has a duplicate member.", "Keep one of the two."),
    "no_identity": ("The line does not identify a tag.", "Give XUID, UID or CUID."),
    # A cell.
    "bad_text": ("The text contains a control character.", "Remove it; only RESPONSE may contain line breaks."),
    "bad_xuid": ("Invalid tag code.", f"Use 1 to {TAG_CODE_CHARS_MAX} letters and digits, or leave the cell blank."),
    "bad_hex": (
        "The value is not hexadecimal.",
        "Use 0-9 and A-F; if a spreadsheet turned the value into a number, format the column as text.",
    ),
    "uid_4_bytes": (
        "A 4-byte UID does not identify a single chip.",
        "Authentication chips have 7-byte UIDs; read the chip with a reader that shows all of them.",
    ),
    "uid_length": ("A UID must be 7 bytes.", "Write 14 hexadecimal digits, including leading zeros; colons are optional."),
    "key_length": ("A key must be 16 bytes.", "Write 32 hexadecimal digits, including leading zeros."),
    "zero_key": (
        "The key is all zeros, the factory default of every chip.",
        "Program a key of its own into the chip, or allow all-zero keys for a test.",
    ),
    "bad_check_value": ("A check value must be 3 bytes.", "Write 6 hexadecimal digits, or leave the cell blank."),
    "check_value_differs": (
        "The key does not match its check value.",
        "Compare the line with its source; one of the two is wrong.",
    ),
    "bad_cuid": (
        "Invalid CUID.",
        f"Use at most {CUSTOMER_ID_CHARS_MAX} printable characters, without leading or trailing spaces.",
    ),
    "bad_name": ("The name is too long.", f"Use at most {NAME_CHARS_MAX} characters."),
    "bad_status": ("Invalid status.", "Write active or inactive, or leave the cell blank."),
    "bad_assigned": (
        "The value is not yes, no or a date.",
        "Write yes, no, 2026-01-31 or 2026-01-31T09:30:00Z, or leave the cell blank.",
    ),
    "bad_counter": (
        "Invalid counter.",
        f"Use 0 to {COUNTER_MAX} without leading zeros; write a hexadecimal counter, as tap URLs have it, with 0x: 0x00001F.",
    ),
    "bad_scan_count": ("Invalid number of scans.", "Write a whole number, such as 1205, without leading zeros and separators."),
    "bad_response": ("The response text is too long or has too many subtags.", "Shorten it, or use fewer subtags."),
    "bad_field": ("The field's value is too long or has too many subtags.", "Shorten it, or use fewer subtags."),
    # The file against itself and against what is stored.
    "duplicate": ("The tag or its CUID already appears on an earlier line.", "Keep one of the lines."),
    "two_keys": (
        "The UID already appears on an earlier line with a different key.",
        "Find out which key the chip has and keep that line.",
    ),
    "two_uids": (
        "The tag code already appears on an earlier line with a different UID.",
        "Each chip needs a tag code of its own: correct XUID or UID, or leave XUID blank to have one generated.",
    ),
    "xuid_taken": ("This tag code is not available.", "Leave XUID blank to have one generated, or choose another."),
    "uid_taken": (
        "Another tag of the account has this UID.",
        "Correct XUID or UID, or leave XUID blank to change the tag that has the UID.",
    ),
    "uid_differs": (
        "The tag has a different UID.",
        "A tag keeps its chip: correct the line, or create a new tag for the new chip.",
    ),
    "cuid_taken": (
        "Another tag has this CUID, or had it before this file.",
        "Choose another CUID, or first change the other tag's CUID with a separate file.",
    ),
    "uid_reversed": REVERSED,
    "uid_not_nxp": (
        "The UID does not begin with 04, as those of all supported chips do.",
        "Read it from the chip again, or allow such UIDs (--allow-any-uid, allow_any_uid=true).",
    ),
    "key_used_before": (
        "The tag had this key before and has a newer one now.",
        "Program a new key: under the old one, taps that were already used would pass again.",
    ),
    "counter_ambiguous": (
        "Several keys of the tag are live, and the counter belongs to only one of them.",
        "Add the tag's current key to the line, or first retire the keys that are out of use.",
    ),
    "key_derived": (
        "The tag's group derives its keys.",
        "Import into a group with stored keys. Ignore the column only if its keys are the derived ones.",
    ),
    "key_versions_full": (f"The tag has already had {KEY_VERSIONS_MAX} keys.", "Create a new tag for the chip."),
    "meta_keys_full": (
        f"The account or batch would have more than {META_KEYS_MAX} meta keys.",
        "Give each tag its own meta key (--meta-keys tag); the URL of its taps must then name the tag.",
    ),
    "tag_meta_keys_full": (
        f"The tag has {META_KEYS_MAX} live meta keys already.",
        "Retire those that are replaced (--retire-old-keys).",
    ),
    "other_profile": (
        "The line is for another encoding profile than the group has.",
        "Import it into a group with this profile, or ignore the column.",
    ),
    "other_account": ("The line is for another account.", "Import it into that account, or ignore the column."),
    "other_folder": (
        "The tag belongs to another folder, which has its own extended fields.",
        "Import its fields into a group of that folder.",
    ),
}
"""Code: what is wrong, and how to fix it."""


class Problem(NamedTuple):
    """One mistake. `line` counts from 1 and is where the record begins.

    `column` is its name in the file, None for all of a line.
    """

    line: int
    column: str | None
    code: str
    message: str
    remedy: str

    def __str__(self) -> str:
        origin = f"line {self.line}" if self.column is None else f"line {self.line}, {self.column}"
        return f"{origin}: {self.code}: {self.message} {self.remedy}"


def problem(line: int, column: str | None, code: str, detail: str = "") -> Problem:
    """Build a problem from the table. `detail` is appended to the message and must not contain any part of a cell."""
    message, remedy = PROBLEMS[code]
    return Problem(line, column, code, f"{message} {detail}" if detail else message, remedy)


def counted(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' * (len(problems) != 1)}"


class Problems:
    """The problems found so far, in order, at most `bound` of them; once `full`, reading should stop."""

    def __init__(self, bound: int = PROBLEMS_MAX) -> None:
        self._bound = bound
        self.found: list[Problem] = []

    def add(self, line: int, column: str | None, code: str, detail: str = "") -> None:
        if not self.full:
            self.found.append(problem(line, column, code, detail))

    @property
    def full(self) -> bool:
        return len(self.found) >= self._bound

    def by_line(self) -> list[Problem]:
        """The problems in the order of their lines; those of one line in the order in which they were found."""
        return sorted(self.found, key=lambda each: each.line)

    def __len__(self) -> int:
        return len(self.found)
