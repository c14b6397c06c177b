"""Tag files: every way to write one, every mistake with its line, column and remedy, and messages that never quote a cell."""

import base64
import bz2
import csv
import datetime as dt
import gzip
import io
import json
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ixfast.keys import check_value
from ixfast.limits import COUNTER_MAX
from ixfast.tag_files import PRESETS, PROBLEMS, Layout, Problem, Problems, TagFile, TagRow, TagWriter, read_tags, reader
from ixfast.tag_files.formulas import neutralised, original
from ixfast.tag_files.problems import LINE_BYTES_MAX
from ixfast.tag_files.rows import NOT_ASSIGNED, NOW
from ixfast.tag_files.text_decoder import TextDecoder

UID = bytes.fromhex("04AABBCC112233")
KEY = bytes.fromhex("00112233445566778899AABBCCDDEEFF")
FIELDS = ("Colour", "Product Name")
NAMES = ["Colour", "KEY", "=NOW()", "'@1"]
FORMULA_STARTS = "=+-@\uff1d\uff0b\uff0d\uff20"


def read(
    encoded: bytes, layout: Layout | None = None, piece: int = 1 << 20, bound: int = 100
) -> tuple[list[TagRow], list[Problem]]:
    problems = Problems(bound)
    pieces = (encoded[start : start + piece] for start in range(0, len(encoded), piece))
    return list(read_tags(pieces, layout or Layout(fields=FIELDS), problems)), problems.found


def good(encoded: bytes | str, layout: Layout | None = None) -> list[TagRow]:
    encoded = encoded.encode() if isinstance(encoded, str) else encoded
    rows, problems = read(encoded, layout)
    assert problems == []
    for piece in (1, 7):  # the same, however the file is split
        again, _ = read(encoded, layout, piece)
        assert [values(row) for row in again] == [values(row) for row in rows]
    return rows


def values(row: TagRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in sorted(TagRow.__slots__))


# How files are written.


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n \n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda b: gzip.compress(b[:20]) + gzip.compress(b[20:])])
def test_csv_of_every_kind(separator: str, end: str, before: str, pack: Callable[[bytes], bytes]) -> None:
    lines = [("cuid", "UID", "Response"), ("12345", "04AABBCC112233", f'"A {separator} ""B"""'), ("", "", ""), ("1", "", "")]
    text = before + "".join(separator.join(line) + end for line in lines)
    rows = good(pack(text.encode()))
    assert [(row.cuid, row.uid, row.response) for row in rows] == [("12345", UID, f'A {separator} "B"'), ("1", None, None)]
    first = 2 + before.count("\n")
    assert [row.line for row in rows] == [first, first + 2]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode("utf-16")),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace("\n", "\r").encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: ("# Tags\n#\n\n  # of the first batch\n" + text).encode(),
        lambda text: ("# Tags\n" + text).replace("\n", "\r").encode("utf-16-le"),
        lambda text: text.replace("\t", "|").encode(),
    ],
)
@pytest.mark.parametrize("count", [1, 1000], ids=["short", "long"])
def test_encodings_line_ends_and_comments(encode: Callable[[str], bytes], count: int) -> None:
    lines = [f"k{n}\tVase № {n} 🏺\n" for n in range(count)]
    encoded = encode("cuid\tname\n" + "".join(lines) + '"last"\t"two, cells"')
    rows = good(encoded) if count == 1 else read(encoded)[0]
    assert [(row.cuid, row.name) for row in rows[:-1]] == [(f"k{n}", f"Vase № {n} 🏺") for n in range(count)]
    assert rows[-1].line - rows[0].line == count


def test_json_lines_in_utf_16_with_comments_above() -> None:
    assert [row.cuid for row in good('# a\n{"CUID": "ä"}\n{"CUID": "b"}\n'.encode("utf-16"))] == ["ä", "b"]


@pytest.mark.parametrize("header", ["#,CUID", "# ;CUID", "[CUID],UID", "CUID,=UID", "Tag: code,CUID"])
def test_the_name_of_a_column_is_not_mistaken_for_something_else(header: str) -> None:
    _, problems = read(f"{header}\n1,2\n".encode())
    assert {each.code for each in problems} == {"unknown_column"}


def test_a_header_that_looks_like_a_comment_is_missed() -> None:
    _, problems = read(f"# UID,KEY\n04AABBCC112233,{KEY.hex()}\n".encode())
    assert [(each.line, each.code) for each in problems] == [(2, "no_header")]
    assert "lines that begin with # are comments" in problems[0].remedy


texts_of_files = st.text(st.sampled_from('CUID,1"\r\n\t{}[]#é🏺\u0d0a\x00'), max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    texts_of_files,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    st.integers(0, 2),
    st.sampled_from([0, 4085, 4090]),
    st.integers(1, 9),
)
def test_decoding_does_not_depend_on_the_pieces(text: str, encoding: str, cut: int, before: int, piece: int) -> None:
    encoded = ("#" * before + "CUID,UID" + text).encode(encoding)
    encoded = encoded[: len(encoded) - cut]
    whole, pieces = TextDecoder(), TextDecoder()
    parts = [encoded[: before + 8], *(encoded[at : at + piece] for at in range(before + 8, len(encoded), piece))]
    assert b"".join([*map(pieces.feed, parts), pieces.finish()]) == whole.feed(encoded) + whole.finish()
    assert pieces.refusal == whole.refusal


def test_the_last_line_needs_no_end_and_cells_may_have_lines() -> None:
    rows = good('XUID,RESPONSE\r\nab1,"first\r\nsecond"\r\nab2,"x"\r\nab3,y')
    assert [(row.line, row.xuid, row.response) for row in rows] == [
        (2, "ab1", "first\r\nsecond"),
        (4, "ab2", "x"),
        (5, "ab3", "y"),
    ]


def test_the_separator_line_of_spreadsheets() -> None:
    assert [(row.line, row.cuid) for row in good("sep=;\r\nUID;CUID\r\n;7,5\r\n")] == [(3, "7,5")]


def test_a_comma_at_the_end_of_each_line() -> None:
    assert [row.cuid for row in good("UID,CUID,\r\n,7,\r\n")] == ["7"]


def test_json_lines() -> None:
    lines: list[dict[str, object]] = [
        {"uid": "04:aa:bb:cc:11:22:33", "key": KEY.hex(), "assigned": True, "status": None},
        {"Product Name": "Vase", "XUID": "ab1", "ASSIGNED": False},
    ]
    rows = good("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [(row.uid, row.key, row.assigned) for row in rows] == [(UID, KEY, NOW), (None, None, NOT_ASSIGNED)]
    assert rows[1].fields == {"Product Name": "Vase"}


@pytest.mark.parametrize(
    "written",
    [
        "04AABBCC112233",
        "04aabbcc112233",
        "04:AA:BB:CC:11:22:33",
        " 04 aa bb cc 11 22 33 ",
        "04-AA-BB-CC-11-22-33",
        "0x04AABBCC112233",
    ],
)
def test_uids(written: str) -> None:
    assert good(f"UID\n{written}\n")[0].uid == UID


@pytest.mark.parametrize("name", ["KEY", "key", "sdm_mac_key", "app_read_key", "File Key", "SDM-File-Read-Key"])
def test_names_of_the_key(name: str) -> None:
    row = good(f"UID,{name}\n04AABBCC112233,{KEY.hex()}\n")[0]
    assert (row.key, row.check_value) == (KEY, check_value(KEY))


@pytest.mark.parametrize("name", ["META_KEY", "picc_master_key", "SDM Meta Read Key"])
def test_names_of_the_meta_key(name: str) -> None:
    assert good(f"UID,{name}\n04AABBCC112233,{KEY.hex(' ')}\n")[0].meta_key == KEY


def test_presets() -> None:
    layout = Layout(preset="sdm-keys")
    head = "uid,picc_master_key,app_read_key,sdm_mac_key,outcome,coin_name,provisioned_date,status,notes,last_used_date"
    line = f"04AABBCC112233,{'1' * 32},{'2' * 32},{KEY.hex()},heads,COIN,2026-01-27T10:00:00,provisioned,,"
    row = good(f"{head}\n{line}\n", layout)[0]
    assert (row.key, row.meta_key, row.active) == (KEY, None, None)
    row = good(f"UID,K0,K1,K2,K3,K4\n04AABBCC112233,x,{'11' * 16},{KEY.hex()},x,x\n", Layout(preset="bolt-card"))[0]
    assert (row.key, row.meta_key) == (KEY, b"\x11" * 16)
    row = good("XUID,UID,CUID,TAGNAME,RESPONSE,STATUS,ASSIGNED,NFTOWNER\nq8w3sbcz,,5,,Hi,active,,x\n", Layout(preset="ixkio"))[0]
    assert (row.xuid, row.cuid, row.response, row.active) == ("q8w3sbcz", "5", "Hi", True)
    assert set(PRESETS) == {"ixkio", "sdm-keys", "bolt-card"}


def test_files_of_bolt_card_programs() -> None:
    layout = Layout(preset="bolt-card", fields=["Action"])
    keys = {"k0": "11" * 16, "k1": "22" * 16, "k2": KEY.hex()}
    program = {
        "protocol_name": "create_bolt_card_response", "protocol_version": 2, "card_name": "till", **keys, "uid_privacy": "Y",
        "lnurlw_base": "lnurlw://pay.example/ln", "version": 1, "action": "program", "id": 7,
    }  # fmt: skip
    _, problems = read(json.dumps(program).encode(), layout)
    assert [(each.line, each.column, each.code) for each in problems] == [(1, None, "no_identity")]
    row = good(json.dumps({"UID": "04:AA:BB:CC:11:22:33", **program}) + "\n", layout)[0]
    assert (row.uid, row.key, row.meta_key, row.last_counter) == (UID, KEY, b"\x22" * 16, None)
    assert (row.name, row.fields) == ("till", {"Action": "program"})  # the folder has this field
    head = "id;wallet;card_name;uid;external_id;counter;tx_limit;daily_limit;enable;k0;k1;k2;prev_k0;prev_k1;prev_k2;otp;time"
    line = f"a;b;;04AABBCC112233;x;31;1;2;True;;{'22' * 16};{KEY.hex()};;;;c;2026-01-01"
    row = good(f"{head}\n{line}\n", layout)[0]
    assert (row.xuid, row.uid, row.cuid, row.last_counter, row.key, row.fields) == ("x", UID, None, 31, KEY, {})


def test_a_preset_ignores_only_names_that_it_knows() -> None:
    _, problems = read(b"uid,prev_k0,prev_k3,Action Card\n", Layout(preset="bolt-card"))
    assert [each.column for each in problems] == ["prev_k3", "Action Card"]


def test_a_profile_or_an_account_is_only_checked() -> None:
    accepted = {"PROFILE": lambda: ("encrypted", "mine"), "AID": lambda: ("acme",)}
    layout = Layout(accepted=accepted)
    assert [row.cuid for row in good("cuid,Profile,aid\n1,encrypted,acme\n2, mine ,\n3,,\n", layout)] == ["1", "2", "3"]
    _, problems = read(b"cuid,profile,aid\n1,plain,acme\n2,Encrypted,\n3,mine,Acme\n", layout)
    expected = [(2, "profile", "other_profile"), (3, "profile", "other_profile"), (4, "aid", "other_account")]
    assert [(each.line, each.column, each.code) for each in problems] == expected
    fields = Layout(accepted=accepted, fields=["Profile"])
    assert good("cuid,profile\n1,wide\n", fields)[0].fields == {"Profile": "wide"}
    assert [each.code for each in read(b"cuid,profile,aid\n", Layout())[1]] == ["unknown_column"] * 2


def test_ignored_columns_and_fields() -> None:
    row = good("cuid,Colour,field.product_name,Batch No\n1,red,Vase,9\n", Layout(fields=FIELDS, ignored=["batch no"]))[0]
    assert row.fields == {"Colour": "red", "Product Name": "Vase"}


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00+00:00"),
        ("2026-01-31 10:30:00.25+01:00", "2026-01-31T09:30:00.250000+00:00"),
    ],
)
def test_dates(written: str, moment: str) -> None:
    assigned = good(f"CUID,ASSIGNED\n1,{written}\n")[0].assigned
    assert not isinstance(assigned, str) and assigned is not None
    assert assigned.isoformat() == moment


@pytest.mark.parametrize(
    ("written", "last_counter"),
    [("0", 0), ("31", 31), (" 16777215 ", COUNTER_MAX), ("0x1f", 31), ("0X00001F", 31), ("0xFFFFFF", COUNTER_MAX)],
)
def test_counters(written: str, last_counter: int) -> None:
    assert good(f"CUID,Last Counter,scan_count\n1,{written},9007199254740991\n")[0].last_counter == last_counter
    row = good(f'{{"CUID": "1", "LAST_COUNTER": {last_counter}, "SCAN_COUNT": 9}}\n')[0]
    assert (row.last_counter, row.scan_count) == (last_counter, 9)


@pytest.mark.parametrize(
    "written", ["16777216", "00001F", "1F", "007", "-1", "+1", "1.0", "1e3", "0x1000000", "0x", "1_0", "\u0661"]
)
def test_what_is_not_clearly_a_counter_is_refused(written: str) -> None:
    _, problems = read(f"CUID,LAST_COUNTER\n1,{written}\n".encode())
    assert [each.code for each in problems] == ["bad_counter"]
    if written != "16777216":
        _, problems = read(f"CUID,SCAN_COUNT\n1,{written}\n".encode())
        assert [each.code for each in problems] == ["bad_scan_count"]


def test_numbers_in_json_are_only_taken_as_counters() -> None:
    for value, code in ((-1, "bad_counter"), (1.5, "not_text"), (True, "bad_counter"), (1 << 24, "bad_counter")):
        _, problems = read(json.dumps({"CUID": "1", "LAST_COUNTER": value}).encode())
        assert [each.code for each in problems] == [code]


def test_blank_means_leave() -> None:
    header = "XUID,UID,CUID,TAGNAME,RESPONSE,STATUS,ASSIGNED,KEY,META_KEY,KCV,LAST_COUNTER,SCAN_COUNT,Colour"
    row = good(f"{header}\nab1,, ,,,,,,\t,,,,\n")[0]
    names = set(TagRow.__slots__) - {"line", "xuid", "fields"}
    assert (row.xuid, {getattr(row, name) for name in names}, row.fields) == ("ab1", {None}, {})


# What is refused.

ZEROS = "0" * 32


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "UID\n")
    return buffer.getvalue()


def tarred(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


MISTAKES: Sequence[tuple[str, bytes | str, int, str | None]] = [
    ("empty_file", "\n\n", 1, None),
    ("bad_encoding", b"CUID\nab\xff\n", 2, None),
    ("bad_encoding", "CUID\n1\n".encode("utf-32"), 1, None),
    ("cut_utf16", "CUID\n1\nab".encode("utf-16")[:-1], 3, None),
    ("cut_utf16", "CUID\n1\n".encode("utf-16-be")[:-1], 2, None),
    ("cut_utf16", "CUID\n1\n2\U0001f600".encode("utf-16")[:-2], 3, None),
    ("cut_utf16", ("CUID\n" + "1\n" * 9000).encode("utf-16")[:-1], 9001, None),
    ("bad_encoding", b"C\0U\0I\0D\0\n\0\0\xd8\n\x001\0", 2, None),
    ("workbook", zipped("[Content_Types].xml", "xl/workbook.xml"), 1, None),
    ("workbook", zipped("docProps/app.xml"), 1, None),
    ("workbook", zipped("mimetype"), 1, None),
    ("workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), 1, None),
    ("archive", zipped("tags.csv"), 1, None),
    ("archive", zipped(), 1, None),
    ("archive", bz2.compress(b"CUID\n1\n"), 1, None),
    ("archive", lzma.compress(b"CUID\n1\n"), 1, None),
    ("archive", gzip.compress(tarred("tags.csv")), 1, None),
    ("encrypted_file", "-----BEGIN PGP MESSAGE-----\n\nhQEMA\n", 1, None),
    ("form_data", '--d74496d66958873e\r\nContent-Disposition: form-data; name="file"\r\n\r\nUID\r\n', 1, None),
    ("form_data", zipped("a").join([b"--x\r\ncontent-disposition: form-data\r\n\r\n", b"--x--"]), 1, None),
    ("binary_file", b"%PDF-1.7\n", 1, None),
    ("binary_file", b"CUID,UID\n\x7fELF\0\0\n", 1, None),
    ("markup", "\n<!DOCTYPE html>\n<html>\n", 2, None),
    ("markup", '<?xml version="1.0"?>\n', 1, None),
    ("json_document", '[{"CUID": "1"}, {"CUID": "2"}]\n', 1, None),
    ("json_document", '[\n  {"CUID": "1"},\n  {"CUID": "2"}\n]\n', 1, None),
    ("json_document", '{\n  "CUID": "1",\n  "UID": null\n}\n', 1, None),
    ("json_document", '{"CUID": "1",\n  "UID": null}\n', 1, None),
    ("json_document", '{"CUID": "1"},\n{"CUID": "2"}\n', 1, None),
    ("json_document", '[["CUID"], ["1"]]', 1, None),
    ("json_document", "[" + 30_000 * '{"CUID": "1"}, ' + "]", 1, None),
    ("key_value_file", f"uid=04AABBCC112233\nsdm_file_read_key={KEY.hex()}\n", 1, None),
    ("key_value_file", f"# tag 1\nUID: 04AABBCC112233\nKEY: {KEY.hex()}\n", 2, None),
    ("key_value_file", f"uid=04AABBCC112233,key={KEY.hex()}\n", 1, None),
    ("key_value_file", "[tag 1]\nuid = 04AABBCC112233\n", 1, None),
    ("key_value_file", "[[tag]]\nuid = 04AABBCC112233\n", 1, None),
    ("key_value_file", "---\n- uid: 04AABBCC112233\n", 1, None),
    ("key_value_file", '- "uid": 04AABBCC112233\n', 1, None),
    ("bare_cr", "CUID,UID\n1,\r2,\n", 2, None),
    ("bad_gzip", gzip.compress(b"CUID\n1\n", mtime=0)[:-6], 3, None),
    ("bad_gzip", b"\x1f\x8b\x08damaged", 1, None),
    ("bad_csv", 'CUID,UID\n1,"abc"d\n', 2, None),
    ("bad_csv", 'CUID,UID\n1,\n2,"left open\n3,\n', 3, None),
    ("bad_json", '{"CUID": "1"}\n{"CUID": "1"\n', 2, None),
    ("bad_json", '{"CUID": "1"}\n["1"]\n', 2, None),
    ("line_too_long", b"CUID\n1\n" + b"x" * (LINE_BYTES_MAX + 2), 3, None),
    ("no_header", f"04AABBCC112233,{KEY.hex()}\n", 1, None),
    ("unknown_column", "CUID,TAGNMAE\n1,a\n", 1, "TAGNMAE"),
    ("unknown_column", "CUID,field.Size\n1,a\n", 1, "field.Size"),
    ("duplicate_column", "UID,KEY,app_read_key\n", 1, "app_read_key"),
    ("no_identity_column", "TAGNAME\na\n", 1, None),
    ("wrong_cell_count", "CUID,UID\n1\n", 2, None),
    ("wrong_cell_count", "CUID,UID\n1,,\n", 2, None),
    ("not_text", '{"CUID": 12}\n', 1, "CUID"),
    ("duplicate_member", '{"CUID": "a"}\n{"CUID": "b", "CUID": "b"}\n', 2, "CUID"),
    ("no_identity", "CUID,TAGNAME\n,a\n", 2, None),
    ("bad_text", "CUID,TAGNAME\n1,a\tb\n", 2, "TAGNAME"),
    ("bad_text", '{"CUID": "1", "RESPONSE": "a\\u0000b"}\n', 1, "RESPONSE"),
    ("bad_text", '{"CUID": "1", "Colour": "a\\nb"}\n', 1, "Colour"),
    ("bad_xuid", "XUID\nab-1\n", 2, "XUID"),
    ("bad_xuid", f"XUID\n{'a' * 65}\n", 2, "XUID"),
    ("bad_hex", "UID\n04AABBCC1122GG\n", 2, "UID"),
    ("bad_hex", "UID\n4,23E+13\n".replace(",", "_"), 2, "UID"),
    ("bad_hex", f"UID,KEY\n04AABBCC112233,{'xy' * 16}\n", 2, "KEY"),
    ("uid_4_bytes", "UID\n04AABBCC\n", 2, "UID"),
    ("uid_length", "UID\n4AABBCC112233\n", 2, "UID"),
    ("uid_length", "UID\n04AABBCC112233445566\n", 2, "UID"),
    ("key_length", f"UID,KEY\n04AABBCC112233,{'1' * 31}\n", 2, "KEY"),
    ("key_length", f"UID,META_KEY\n04AABBCC112233,{'11' * 24}\n", 2, "META_KEY"),
    ("zero_key", f"UID,KEY\n04AABBCC112233,{ZEROS}\n", 2, "KEY"),
    ("zero_key", f"UID,META_KEY\n04AABBCC112233,{ZEROS}\n", 2, "META_KEY"),
    ("bad_check_value", f"UID,KEY,KCV\n04AABBCC112233,{KEY.hex()},12\n", 2, "KCV"),
    ("check_value_differs", f"UID,KEY,KCV\n04AABBCC112233,{KEY.hex()},123456\n", 2, "KEY_CHECK_VALUE"),
    ("bad_cuid", f"CUID\n{'a' * 129}\n", 2, "CUID"),
    ("bad_cuid", "CUID,UID\n a,\n", 2, "CUID"),
    ("bad_name", f"CUID,TAGNAME\n1,{'a' * 256}\n", 2, "TAGNAME"),
    ("bad_status", "CUID,STATUS\n1,on\n", 2, "STATUS"),
    ("bad_assigned", "CUID,ASSIGNED\n1,31.01.2026\n", 2, "ASSIGNED"),
    ("bad_counter", "CUID,LAST_COUNTER\n1,000010\n", 2, "LAST_COUNTER"),
    ("bad_scan_count", "CUID,SCAN_COUNT\n1,1 205\n", 2, "SCAN_COUNT"),
    ("bad_response", f"CUID,RESPONSE\n1,{'a' * 4097}\n", 2, "RESPONSE"),
    ("bad_field", f"CUID,Colour\n1,{'{uid}' * 65}\n", 2, "Colour"),
]  # fmt: skip
NOT_OF_THE_FILE_ALONE = {
    "duplicate", "two_keys", "xuid_taken", "uid_taken", "uid_differs", "cuid_taken", "key_used_before", "key_versions_full",
    "meta_keys_full", "tag_meta_keys_full", "other_folder", "keys_not_allowed", "file_too_long", "key_derived",
    "counter_ambiguous", "other_profile", "other_account", "two_uids", "uid_reversed", "uid_not_nxp",
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "content", "line", "column"),
    MISTAKES,
    ids=[f"{place} {mistake[0]}" for place, mistake in enumerate(MISTAKES)],  # archives contain the time
)
def test_mistakes(code: str, content: bytes | str, line: int, column: str | None) -> None:
    _, problems = read(content.encode() if isinstance(content, str) else content)
    first = problems[0]
    assert (first.code, first.line, first.column) == (code, line, column), problems
    assert first.message.startswith(PROBLEMS[code][0])
    assert first.remedy == PROBLEMS[code][1]
    assert str(first).startswith(f"line {line}")


def test_every_mistake_is_tried() -> None:
    assert {code for code, *_ in MISTAKES} | NOT_OF_THE_FILE_ALONE == set(PROBLEMS)


def test_zero_keys_if_allowed() -> None:
    row = good(f"UID,KEY\n04AABBCC112233,{ZEROS}\n", Layout(allow_zero_keys=True))[0]
    assert row.key == bytes(16)


def test_keys_of_who_may_not_write_them() -> None:
    _, problems = read(f"UID,KEY,META_KEY,KCV\n04AABBCC112233,{KEY.hex()},,\n".encode(), Layout(allow_keys=False))
    assert [(p.line, p.column, p.code) for p in problems] == [(1, "KEY", "keys_not_allowed"), (1, "META_KEY", "keys_not_allowed")]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_has_an_end(monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.setattr(reader, "TAG_FILE_BYTES_MAX", 1_000_000)
    content = b"UID,CUID\n04AABBCC112233,a\n" + b"\n" * 1_000_000
    rows, problems = read(gzip.compress(content) if compressed else content)
    assert [p.code for p in problems] == ["file_too_long"]
    assert len(rows) == 1


def test_all_mistakes_are_told_up_to_a_bound() -> None:
    text = "UID,KEY,STATUS\n" + "04AABBCC,12,on\n" * 50
    rows, problems = read(text.encode())
    assert [(p.line, p.column) for p in problems[:3]] == [(2, "UID"), (2, "KEY"), (2, "STATUS")]
    assert (len(problems), rows) == (100, [])
    assert len(read(text.encode(), bound=10)[1]) == 10


def test_a_suggestion() -> None:
    assert "Did you mean TAGNAME?" in read(b"CUID,TAGNMAE\n")[1][0].message
    assert "Did you mean Colour?" in read(b"CUID,colur\n")[1][0].message


CONTENTS = [text for _, text, _, _ in MISTAKES] + [
    f"{KEY.hex()}\n", f"CUID,{KEY.hex()}\n1,2\n", f"UID;{KEY.hex(':')}\n", f'{{"CUID": "1", "{KEY.hex()}": "2"}}\n',
    f'{{"{KEY.hex()}": ', f"UID\n{KEY.hex()}\n", f"CUID,STATUS,ASSIGNED,KEY\n1,{KEY.hex()},{KEY.hex()},{KEY.hex()}0\n",
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS, ids=map(str, range(len(CONTENTS))))
def test_no_message_has_a_cell(content: bytes | str) -> None:
    _, problems = read(content.encode() if isinstance(content, str) else content)
    shown = repr(problems).lower()
    for form in (KEY.hex(), KEY.hex(":"), KEY.hex()[:12], "04aabbcc", "left open", "4_23"):
        assert form not in shown


def test_a_row_does_not_show_its_key() -> None:
    row = good(f"UID,KEY\n04AABBCC112233,{KEY.hex()}\n")[0]
    assert KEY.hex() not in repr(row) and str(KEY) not in repr(row)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(row)


def test_a_bomb_is_inflated_in_blocks() -> None:
    encoded = gzip.compress(b"CUID\n" + b"\n" * 5_000_000)
    problems = Problems()
    file = TagFile(Layout(), problems)
    blocks = list(file.feed(encoded))
    assert len(blocks) > 15 and not any(blocks) and not problems.found


@pytest.mark.parametrize(
    ("line", "column"),
    [
        (f'{{"UID": "04AABBCC112233", "KEY": "{KEY.hex()}", "KEY": "{KEY.hex()}"}}', "KEY"),
        ('{"UID": "04AABBCC112233", "CUID": "a", "\\u0043UID": "b"}', "CUID"),
        ('{"CUID": null, "CUID": "a"}', "CUID"),
        ('{"CUID": "a", "TAGNAME": "\\"CUID\\"", "CUID": "a"}', "CUID"),
        ('{"CUID": "a", "Notes": {"by": [{"day": 1, "day": 2}]}}', "day"),
        (f'{{"CUID": "a", "{KEY.hex()}": 1, "{KEY.hex()}": 2}}', None),  # a key in the wrong column is not quoted
    ],
)
def test_an_object_with_a_member_twice_is_refused(line: str, column: str | None) -> None:
    encoded = f'{{"CUID": "first"}}\n\n{line}\n{{"CUID": "last"}}\n'.encode()
    rows, problems = read(encoded, Layout(ignored=["Notes", KEY.hex()]))
    assert [row.cuid for row in rows] == ["first", "last"]
    assert [(each.line, each.column, each.code) for each in problems] == [(3, column, "duplicate_member")]


def test_what_only_looks_like_a_member_twice_is_read() -> None:
    text = '"CUID": "a", "CUID": "b"'
    (row,) = good(json.dumps({"CUID": "a", "TAGNAME": text, "STATUS": None, "ASSIGNED": False}) + "\n")
    assert row.name == text


def test_a_line_that_is_nested_without_end_is_no_object() -> None:
    for depth in (500, 990, 1010, 100_000):
        _, problems = read(f'{{"CUID": "a", "Notes": {depth * "["}{depth * "]"}}}\n'.encode(), Layout(ignored=["Notes"]))
        assert {each.code for each in problems} <= {"bad_json"}


# Problems with and without a column in one line.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("UID,KEY,Größe,Farbe\n,,,\n", [("Größe", "unknown_column"), ("Farbe", "unknown_column")]),
        ("UID,Batch (nr.),Colour of box\n,,\n", [("Batch (nr.)", "unknown_column"), ("Colour of box", "unknown_column")]),
        ("UID,KEY,,Colors\n", [(None, "unknown_column"), ("Colors", "unknown_column")]),
        ("UID,1st,Second,3rd\n", [(None, "unknown_column"), ("Second", "unknown_column"), (None, "unknown_column")]),
        ('{"protocol_name": "x", "k0": "1", "": "2", "KCV": "A1B2C3"}\n', [
            ("protocol_name", "unknown_column"), ("k0", "unknown_column"), (None, "unknown_column"), (None, "no_identity"),
        ]),
    ],
)  # fmt: skip
def test_a_line_may_have_problems_with_and_without_a_column(content: str, expected: list[tuple[str | None, str]]) -> None:
    problems = Problems()
    list(read_tags([content.encode()], Layout(fields=FIELDS), problems))
    found = [(each.column, each.code) for each in problems.by_line()]
    assert found[: len(expected)] == expected
    assert {each.line for each in problems.found[: len(expected)]} == {1}


def test_an_undecodable_line_may_have_a_bad_cell() -> None:
    for line, column in ((b"caf\xe9,04AA,", "UID"), (b"\xff,04AABBCC112233," + ZEROS.encode(), "KEY")):
        problems = Problems()
        list(read_tags([b"CUID,UID,KEY\n", line + b"\n"], Layout(), problems))
        assert [(each.line, each.column) for each in problems.by_line()] == [(2, None), (2, column)]


def test_problems_are_in_the_order_of_their_lines() -> None:
    problems = Problems()
    for line, column in ((3, "UID"), (2, "b"), (2, None), (2, "a"), (1, None)):
        problems.add(line, column, "duplicate")
    assert [(each.line, each.column) for each in problems.by_line()] == [(1, None), (2, "b"), (2, None), (2, "a"), (3, "UID")]


def test_a_name_that_is_not_shown_is_counted() -> None:
    _, problems = read(f"UID,,{KEY.hex()[:7]}-x,Notes\n".encode())
    assert [(each.column, each.message.removeprefix(PROBLEMS["unknown_column"][0])) for each in problems] == [
        (None, " Name 2 of the line is blank."),
        (None, " It is name 3 of the line, which is not shown because it may be a key."),
        ("Notes", ""),
    ]


written_keys = st.binary(min_size=7, max_size=16).flatmap(
    lambda key: st.sampled_from(
        [form for separator in ("", " ", ":", "-", "_", ".") for form in (key.hex(separator or ":").replace(":", separator),)]
        + [key.hex(" ", 2), base64.b64encode(key * 3)[:22].decode(), base64.b32encode(key * 2)[:16].decode() + "7"]
    )
)


@settings(max_examples=300, deadline=None)
@given(written_keys, st.sampled_from(["", "k", "key ", "AES ", "(", "e_"]), st.sampled_from(["", " (hex)", "_", "h"]))
def test_no_name_of_a_column_shows_a_key(key: str, before: str, after: str) -> None:
    shown = reader.shown(before + key.upper() + after), reader.shown(before + key + after)
    assert shown == (None, None)


names = st.text(max_size=12) | st.sampled_from(["UID", "key", "Größe", "Colour", "field.", "field.x", "K1", "", " "])
cells_of_a_line = st.text(max_size=12) | st.sampled_from(["04AABBCC112233", ZEROS, KEY.hex(), "'", '"', "a\x00b", "\ud800"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(names, max_size=6),
    st.lists(st.lists(cells_of_a_line, max_size=6), max_size=5),
    st.binary(max_size=20),
    st.sampled_from(["csv", "json"]),
)
@example(names=["UID", "KEY", "", "Colour "], rows=[], after=b"", form="csv")
@example(names=["UID", ""], rows=[["04AA", ""]], after=b"\xff", form="json")
def test_any_names_and_cells_are_rows_or_problems(names: list[str], rows: list[list[str]], after: bytes, form: str) -> None:
    lines = [",".join(row) for row in [names, *rows]]
    if form == "json":
        lines = [json.dumps(dict(zip(names, row, strict=False))) for row in rows]
    encoded = "\n".join(lines).encode(errors="surrogatepass") + after
    for preset in (None, *PRESETS):
        problems = Problems()
        list(read_tags([encoded], Layout(fields=FIELDS, preset=preset), problems))
        in_order = problems.by_line()
        assert [each.line for each in in_order] == sorted(each.line for each in problems.found)
        assert all("\n" not in str(each) for each in in_order)


# Round trips.

formula_characters = st.sampled_from(FORMULA_STARTS + "''';,\"1")
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | formula_characters, min_size=1, max_size=20
).filter(lambda t: t == t.strip())
responses = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | formula_characters | st.sampled_from("\t\r\n"),
    min_size=1,
    max_size=20,
).filter(lambda t: not t.isspace())
tags = st.fixed_dictionaries(
    {
        "xuid": st.from_regex(r"[a-z0-9]{8}", fullmatch=True),
        "uid": st.none() | st.binary(min_size=7, max_size=7),
        "cuid": st.none() | texts,
        "name": st.none() | texts,
        "response": st.none() | responses,
        "active": st.booleans(),
        "assigned_at": st.none() | st.datetimes(timezones=st.just(dt.UTC)),
        "key_version": st.none() | st.integers(1, 127),
        "key_check_value": st.none() | st.binary(min_size=3, max_size=3),
        "last_counter": st.none() | st.integers(0, COUNTER_MAX),
        "scan_count": st.none() | st.integers(0, (1 << 53) - 1),
        "fields": st.dictionaries(st.sampled_from(NAMES), texts),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(tags, min_size=1, max_size=4), st.sampled_from(["csv", "jsonl"]), st.integers(1, 50))
def test_what_is_written_is_read(written: list[dict[str, object]], format_: str, piece: int) -> None:
    writer = TagWriter(format_, NAMES)
    encoded = writer.header() + writer.lines([writer.values_of(**tag) for tag in written])  # type: ignore[arg-type]
    rows, problems = read(encoded, Layout(fields=NAMES), piece)
    assert problems == []
    for row, tag in zip(rows, written, strict=True):
        assigned = tag["assigned_at"] if tag["assigned_at"] is not None else NOT_ASSIGNED
        assert (row.xuid, row.uid, row.cuid, row.name, row.response, row.active, row.assigned, row.fields, row.key) == (
            tag["xuid"], tag["uid"], tag["cuid"], tag["name"], tag["response"], tag["active"], assigned, tag["fields"], None,
        )  # fmt: skip
        assert (row.last_counter, row.scan_count) == (tag["last_counter"], tag["scan_count"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(responses | st.just(""), min_size=2, max_size=2), max_size=5),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 50),
)
def test_any_csv_is_read_as_the_csv_module_means(cells: list[list[str]], separator: str, end: str, piece: int) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["CUID", "RESPONSE"], *([f"c{place}", neutralised(cell[1])] for place, cell in enumerate(cells))])
    rows, problems = read(buffer.getvalue().encode(), piece=piece)
    assert problems == []
    assert [row.response for row in rows] == [cell[1] if cell[1].strip() else None for cell in cells]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        *((f"{start}1+1", f"'{start}1+1") for start in FORMULA_STARTS + "\t\r\n"),
        *((f"'{start}1", f"''{start}1") for start in FORMULA_STARTS + "\t\r\n"),
        *((f"shoe{before}{start}1", f"shoe{before}'{start}1") for before in ";\t\r\n" for start in FORMULA_STARTS),
        ("''=1", "'''=1"),
        ("\t=1", "'\t'=1"),
        ("a\r\n'=1;@2", "a\r\n''=1;'@2"),
        *(
            (same, same)
            for same in ("", "'", "''", "'s-Hertogenbosch", "it's = 1", "a=1", "1,=2", "two\n\nlines\n", "x; y", "'1")
        ),
    ],
)
def test_a_cell_that_a_spreadsheet_would_execute_is_a_text(text: str, cell: str) -> None:
    assert (neutralised(text), original(cell)) == (cell, text)


@settings(max_examples=500)
@given(st.text(st.sampled_from(FORMULA_STARTS + "''';\t\r\n1")))
def test_no_beginning_of_a_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    cell = neutralised(text)
    assert original(cell) == text
    assert cell[:1] not in set("\t\r\n")
    assert not any(part.startswith(tuple(FORMULA_STARTS)) for part in re.split("[;\t\r\n]", cell))


@pytest.mark.parametrize("start", [*FORMULA_STARTS, "'="])
def test_an_export_has_formulas_as_texts_in_csv_and_as_they_are_in_json_lines(start: str) -> None:
    texts = dict.fromkeys(("cuid", "name", "response"), f"{start}1")
    rest = {"uid": None, "active": True, "assigned_at": None, "key_version": None, "key_check_value": None}
    rest |= {"last_counter": None, "scan_count": None}
    for format_, expected in (("csv", f"'{start}1"), ("jsonl", f"{start}1")):
        writer = TagWriter(format_, [f"{start}1"])
        line = writer.values_of(xuid="q8w3sbcz", **texts, **rest, fields={f"{start}1": f"{start}1"})  # type: ignore[arg-type]
        encoded = writer.header() + writer.lines([line])
        if format_ == "csv":
            header, cells = csv.reader(io.StringIO(encoded.decode()))
            found = dict(zip(header, cells, strict=True))
        else:
            found = json.loads(encoded)
        assert [found[name] for name in ("CUID", "TAGNAME", "RESPONSE", expected)] == [expected] * 4


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
@example(encoded=b"\x00\n\x80\n", piece=1)  # invalid UTF-8 below a header that stops the reader
@example(encoded=b'"a"b\n1,2,3,4\n', piece=1)  # a problem below a malformed record
@example(encoded=b"sep=\x80", piece=1)
def test_any_bytes_are_rows_or_problems(encoded: bytes, piece: int) -> None:
    for start in (b"", b"CUID,UID,KEY\n", b'{"CUID": "1"}\n', b"\x1f\x8b\x08"):
        whole, pieces = read(start + encoded), read(start + encoded, piece=piece)
        assert bool(whole[1]) == bool(pieces[1])
        if not start.startswith(b"\x1f"):  # everything in a damaged block is lost, even what precedes the damage
            assert pieces[1] == whole[1]


@pytest.mark.parametrize("piece", [1000, 1 << 20, LINE_BYTES_MAX - 1, LINE_BYTES_MAX])
def test_a_line_is_too_long_however_the_file_is_cut(piece: int) -> None:
    _, problems = read(b"CUID\n1\n" + b"x" * (LINE_BYTES_MAX + 1) + b"\n2,2\n", piece=piece)
    assert [(each.line, each.code) for each in problems] == [(3, "line_too_long")]
    _, problems = read(b"CUID\n1\n" + b"x" * LINE_BYTES_MAX + b"\n2,2\n", piece=piece)
    assert [(each.line, each.code) for each in problems] == [(3, "bad_csv"), (4, "wrong_cell_count")]
