"""`ixfast audit`: key files, options, exit statuses and several processes; keys are never shown."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from ixfast import cmac
from ixfast.audit import find_profile, read_keys
from ixfast.audit.findings import GENUINE
from ixfast.audit.judge import judge
from ixfast.audit.tap_bytes import CHUNK_BYTES
from ixfast.chips import PRESETS, compile_profile
from ixfast.cli import audit as audit_command
from ixfast.cli.command_group import CommandGroup
from ixfast.errors import InputError, IxfastError, ProfileError
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

main = CommandGroup("ixfast", help="The command alone, as `ixfast` mounts it.")
audit_command.register(main)


def key_rows(*fleets: VirtualFleet) -> list[str]:
    rows = ["xuid,uid,file_key,meta_key,profile"]
    for fleet in fleets:
        rows += [f"{tag.xuid},{tag.uid.hex()},{tag.file_key.hex()},{tag.meta_key.hex()},{fleet.profile.name}" for tag in fleet]
    return rows


class Files:
    """A key file and a tap file for a small fleet."""

    def __init__(self, folder: Path) -> None:
        self.fleet = VirtualFleet(3, 4)
        self.keys = folder / "keys.csv"
        self.keys.write_text("\n".join(key_rows(self.fleet)))
        self.taps = folder / "taps.csv"
        tag = self.fleet[0]
        self.lines = ["url", tag.tap(), tag.tap()]
        self.write()

    def write(self, *more: str) -> None:
        self.lines += more
        self.taps.write_text("".join(f"{line}\n" for line in self.lines))

    def run(self, *options: str, file: str | None = None, given: bytes | None = None) -> Result:
        return CliRunner().invoke(main, ["audit", file or str(self.taps), *options], input=given)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- key files ------------------------------------------------------------------------------------

SECRET = "00112233445566778899aabbccddeeff"


def lines_of(rows: list[str]) -> list[bytes]:
    return ["\n".join(rows).encode()]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["xuid,uid,profile", "a,04A1B2C3D4E5F6,encrypted"], "contains no keys. Call the column with the file keys KEY."),
        (
            ["uid,K0,K1,K2,profile", f"04A1B2C3D4E5F6,,,{SECRET},boltcard"],
            "contains no keys. Its columns are those of --preset bolt-card.",
        ),
        (["file_key,profile", f"{SECRET},encrypted"], "line 1: No column identifies the tags."),
        (["cuid,file_key,profile", f"a,{SECRET},encrypted"], "line 2, xuid: is missing"),
        ([""], "line 1: The file is empty."),
        (["xuid,file_key", f"a,{SECRET}"], "line 2, profile: is missing"),
        (["xuid,file_key,profile", "", f"a,{SECRET},nonsense"], "line 3: unknown encoding profile"),
        (["xuid,file_key,profile", f"a,{SECRET}0,encrypted"], "line 2, file_key: A key must be 16 bytes."),
        (["xuid,file_key,profile", f"a,{SECRET[:30]} 0,encrypted"], "line 2, file_key"),
        (["xuid,file_key,profile", "a,,encrypted"], "contains no keys."),
        (["xuid,file_key,profile", f"a,{SECRET},encrypted", "a,,encrypted"], "line 3, file_key: is missing, and an earlier"),
        (["xuid,file_key,profile", f"a b,{SECRET},encrypted"], "line 2, xuid"),
        (["xuid,uid,file_key,profile", f"a,04,{SECRET},encrypted"], "line 2, uid: A UID must be 7 bytes."),
        (["xuid,file_key,profile", f"a,{SECRET},encrypted", f"a,{SECRET},encrypted"], "line 3, version: The tag already has"),
        (["xuid,file_key,profile", f"a,{SECRET},encrypted", f"a,{SECRET},path"], "line 3, xuid: an earlier line"),
        (["xuid,file_key,profile", f"a,{SECRET}"], "line 2: The line has a different number of cells"),
        (["uid,file_key,profile,xuid", *(f"04A1B2C3D4E5F6,{SECRET},encrypted,{x}" for x in "ab")], "line 3, uid: Another"),
        (
            ["xuid,uid,file_key,profile", *(f"{x},F6E5D4C3B2A104,{SECRET},encrypted" for x in "ab")],
            r"line 2, UID: The bytes of the UID are in reverse order: .* allow such UIDs \(--allow-any-uid, .* \(1 more\)",
        ),
        (["xuid,file_key,profile,version", f"a,{SECRET},encrypted,128"], "line 2, version: must be between 1 and 127"),
        (['{"xuid": "a"', ""], "line 1: The line is not a JSON object"),
        (['{"xuid": "a", "file_key": 7, "profile": "encrypted"}'], "line 1, file_key: The value is not a string"),
        (
            [f'{{"xuid": "a", "file_key": "{SECRET}", "file_key": "{SECRET}"}}'],
            "line 1, file_key: The object has a duplicate member",
        ),
        ([f'{{"xuid": "a", "{SECRET}": 1, "{SECRET}": 2}}'], "line 1: The object has a duplicate member"),
        ([f"xuid;key;profile;{SECRET}", f"a;{SECRET}0;encrypted;", "b c;00;encrypted;"], "line 1: The file has no header line."),
        (
            ["xuid;key;profile", f"a;{SECRET}00;encrypted", "b c;00;encrypted"],
            "line 2, key: A key must be 16 bytes. .* \\(2 more\\)",
        ),
        (["xuid;key;profile", f"a;{SECRET};nonsense", "b c;00;encrypted"], "line 2: unknown encoding profile"),
        (["xuid,file_key,profile", f"a,{SECRET},ntag22x-sd/ntag424-aes"], "line 2: profile 'ntag22x-sd/ntag424-aes'"),
    ],
)
def test_a_wrong_key_file_is_told_without_its_keys(rows: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_keys(lines_of(rows), find_profile)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert SECRET[:12] not in str(caught.value)


def test_a_reversed_uid_in_the_key_file_is_read_if_it_is_allowed(tmp_path: Path) -> None:
    rows = ["uid,file_key,profile", f"F6E5D4C3B2A104,{SECRET},encrypted", f"05E5D4C3B2A1F6,{SECRET},encrypted"]
    assert len(read_keys(lines_of(rows), find_profile, allow_any_uid=True)) == 2
    assert len(read_keys(lines_of([rows[0], rows[2]]), find_profile)) == 1
    keys, taps = tmp_path / "keys.csv", tmp_path / "taps.txt"
    keys.write_text("\n".join(rows) + "\n")
    taps.write_text(f"{VirtualTag('encrypted', uid='F6E5D4C3B2A104', file_key=SECRET).tap()}\n")
    command = ["audit", str(taps), "--keys", str(keys)]
    refused = CliRunner().invoke(main, command)
    assert str(refused.exception).startswith("key file, line 2, UID: The bytes of the UID are in reverse order")
    assert CliRunner().invoke(main, [*command, "--allow-any-uid"]).exit_code == 3  # read; its meta key is not in the file


def test_any_number_of_meta_keys_is_read() -> None:
    rows = ["xuid,uid,file_key,profile,meta_key"]
    rows += [f"t{i},04{i:012x},{SECRET},encrypted,{i + 1:032x}" for i in range(40)]
    catalogue = read_keys(lines_of(rows), find_profile)
    assert [len(catalogue.meta_keys_of(index)) for index in (0, 15, 16, 39)] == [16, 16, 17, 17]
    for index in (3, 17, 39):  # no text names the tag
        tag = VirtualTag("encrypted", uid=f"04{index:012x}", file_key=SECRET, meta_key=f"{index + 1:032x}")
        assert judge(catalogue, tag.tap()).tag == index
        assert judge(catalogue, tag.tap()).code == GENUINE


IMPORTED = {
    "as ixfast import documents it": f"UID;KEY\n04:a1:b2:c3:d4:e5:f6;0x{SECRET}\n",
    "tabs, CRLF, names with spaces": f"Tag UID\tSDM File Read Key\r\n04 A1 B2 C3 D4 E5 F6\t{SECRET.upper()}\r\n",
    "Excel's directive": f"sep=;\nUID;KEY\n04A1B2C3D4E5F6;{SECRET}\n",
    "columns that only an import knows": f"XUID,UID,TAGNAME,RESPONSE,STATUS,KEY,lot\n,04A1B2C3D4E5F6,n,https://a/,inactive,{SECRET},7\n",
    "a check value": f"UID,KEY,KCV\n04A1B2C3D4E5F6,{SECRET},{cmac.aes_cmac(bytes.fromhex(SECRET), bytes(16))[:3].hex()}\n",
    "JSON Lines": f'{{"UID":"04-A1-B2-C3-D4-E5-F6","KEY":"{SECRET}","TAGNAME":null}}\n',
    "a spreadsheet's quotation marks": f'"UID";"KEY"\n"04A1B2C3D4E5F6";"{SECRET}"\n',
}


@pytest.mark.parametrize("text", IMPORTED.values(), ids=IMPORTED.keys())
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_file_of_keys_for_an_import_is_read(text: str, pack: Callable[[bytes], bytes]) -> None:
    catalogue = read_keys([pack(text.encode())], find_profile, default_profile="plain-uid-counter")
    assert (catalogue.codes, catalogue.uids) == (["04A1B2C3D4E5F6"], [bytes.fromhex("04A1B2C3D4E5F6")])
    assert [key.value.hex() for key in catalogue.file_keys(0)] == [SECRET]


@pytest.mark.parametrize(
    ("preset", "row"),
    [
        ("bolt-card", {"uid": "04a1b2c3d4e5f6", "k0": "00" * 16, "k1": "11" * 16, "k2": SECRET, "k3": "", "k4": ""}),
        ("sdm-keys", {"uid": "04a1b2c3d4e5f6", "picc_master_key": "22" * 16, "app_read_key": "11" * 16, "sdm_mac_key": SECRET}),
    ],
)
def test_the_presets_of_an_import_are_those_of_a_key_file(preset: str, row: dict[str, str]) -> None:
    text = ",".join(row) + "\n" + ",".join(row.values())
    catalogue = read_keys([text.encode()], find_profile, default_profile="boltcard", preset=preset)
    assert [key.value.hex() for key in catalogue.file_keys(0)] == [SECRET]
    assert [key.value.hex() for key in catalogue.meta_keys] == (["11" * 16] if preset == "bolt-card" else [])


def test_a_factory_key_is_a_key_and_a_tag_may_have_none() -> None:
    rows = [f"UID,KEY\n04A1B2C3D4E5F6,{'00' * 16}\n04A1B2C3D4E5F7,\n".encode()]
    catalogue = read_keys(rows, find_profile, default_profile="encrypted")
    assert [len(catalogue.file_keys(index)) for index in (0, 1)] == [1, 0]


def test_the_version_of_a_key_may_be_called_as_an_export_calls_it() -> None:
    rows = [f"UID,KEY,KEY_VERSION\n04A1B2C3D4E5F6,{SECRET},2\n04A1B2C3D4E5F6,{SECRET[::-1]},1\n".encode()]
    catalogue = read_keys(rows, find_profile, default_profile="encrypted")
    assert [key.version for key in catalogue.file_keys(0)] == [2, 1]


def test_columns_that_are_not_read_are_reported(files: Files) -> None:
    rows = files.keys.read_text().splitlines()
    lines = [f"{rows[0]},lot,meta key,{SECRET}", *(f"{row},7,," for row in rows[1:])]
    files.keys.write_text("\n".join(lines).replace(",", ";"))
    result = files.run("--keys", str(files.keys), "--ignore", "meta key")
    assert "has no header line" in str(result.exception)  # a name that is a key is not a name
    files.keys.write_text(files.keys.read_text().replace(f";{SECRET}", ";colour"))
    result = files.run("--keys", str(files.keys), "--ignore", "meta key")
    assert result.exit_code == 0, result.output
    assert "warning: columns of the key file that are not read: lot, colour\n" in result.stderr


def test_keys_as_json_lines_with_versions_and_a_tag_without_a_code() -> None:
    rows = [orjson.dumps({"uid": "04A1B2C3D4E5F6", "file_key": SECRET, "version": version}).decode() for version in (1, 3)]
    catalogue = read_keys(lines_of(rows), find_profile, default_profile="encrypted/ntag424-lrp")
    assert catalogue.codes == ["04A1B2C3D4E5F6"]
    assert [key.version for key in catalogue.file_keys(0)] == [3, 1]
    profile = catalogue.profile(0)
    assert profile is not None
    assert profile.scheme.name == "ntag424-lrp"
    assert SECRET not in repr(catalogue)


def test_profiles_by_notation() -> None:
    assert find_profile("encrypted") is PRESETS["encrypted"]
    assert find_profile("path/ntag424-lrp").name == "path/ntag424-lrp"
    assert find_profile("mine", {"mine": PRESETS["path"]}) is PRESETS["path"]
    with pytest.raises(ProfileError, match="did you mean"):
        find_profile("encryptd")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_all_is_well_with_status_0(files: Files) -> None:
    result = files.run("--keys", str(files.keys))
    assert result.exit_code == 0, result.output
    code = files.fleet.xuid(0)
    assert result.stdout.splitlines() == [
        f'{{"line":2,"verdict":"genuine","tag":"{code}","counter":1}}',
        f'{{"line":3,"verdict":"genuine","tag":"{code}","counter":2}}',
    ]
    assert result.stderr.splitlines()[1].split() == ["genuine", "-", "2", "100.00", "%"]


def test_the_command_says_what_is_refused_with_status_3(files: Files, tmp_path: Path) -> None:
    files.write(files.lines[1])
    out = tmp_path / "out.jsonl"
    result = files.run("--keys", str(files.keys), "--show", "refused", "--out", str(out))
    assert result.exit_code == 3
    assert result.stdout == ""
    assert [orjson.loads(line)["line"] for line in out.read_text().splitlines()] == [4]
    assert files.run("--keys", str(files.keys), "--show", "none").stdout == ""


def test_the_summary_is_json_in_place_of_the_verdicts(files: Files) -> None:
    files.write(files.lines[1])
    result = files.run("--keys", str(files.keys), "--show", "none", "--json")
    assert (result.exit_code, result.stderr) == (3, "")
    summary = orjson.loads(result.stdout)
    assert summary["taps"] == 3
    assert summary["counts"] == [
        {"verdict": "genuine", "reason": None, "taps": 2},
        {"verdict": "replayed", "reason": "counter_used", "taps": 1},
    ]
    mixed = files.run("--keys", str(files.keys), "--json")
    assert mixed.exit_code == 2 and "add --out FILE or --show none" in mixed.stderr


def test_standard_input_and_gzip(files: Files, tmp_path: Path) -> None:
    taps = files.taps.read_bytes()
    expected = files.run("--keys", str(files.keys)).stdout
    assert files.run("--keys", str(files.keys), file="-", given=taps).stdout == expected
    packed = tmp_path / "taps.gz"
    packed.write_bytes(gzip.compress(taps))
    assert files.run("--keys", str(files.keys), file=str(packed)).stdout == expected
    packed.write_bytes(gzip.compress(taps)[:-9])
    result = files.run("--keys", str(files.keys), file=str(packed))
    assert isinstance(result.exception, IxfastError)
    assert "damaged" in str(result.exception)


@pytest.mark.parametrize(("given", "why"), [(b"", "contains no taps."), (b"at,url\n", "no line follows its header.")])
def test_a_file_without_a_tap_is_an_error(files: Files, given: bytes, why: str) -> None:
    result = files.run("--keys", str(files.keys), file="-", given=given)
    assert isinstance(result.exception, IxfastError) and str(result.exception).endswith(why)
    assert result.stdout == ""


@pytest.mark.parametrize("options", [(), ("--keys", "k", "--account", "acme"), ("--keys", "no-such-file")])
def test_a_wrong_command_has_status_2(files: Files, options: tuple[str, ...]) -> None:
    assert files.run(*options).exit_code == 2
    assert files.run("--keys", str(files.keys), file="no-such-file").exit_code == 2


def test_a_profile_of_the_owners_own(tmp_path: Path) -> None:
    own = tmp_path / "shop.json"
    own.write_text('{"name": "shop", "scheme": "ntag424-aes", "template": "/t/{xuid}?p={picc}&c={mac}"}')
    profile = compile_profile(audit_command.auditing.read_profile_file(own))
    fleet = VirtualFleet(15, 1, profile)
    keys = tmp_path / "keys.csv"
    keys.write_text("\n".join(row.removesuffix(",shop") for row in key_rows(fleet)).replace(",profile", ""))
    taps = tmp_path / "taps"
    tag = fleet[0]
    taps.write_text(f"{tag.tap()}\n{tag.tap()}\n")
    result = CliRunner().invoke(main, ["audit", str(taps), "--keys", str(keys), "--profile", f"@{own}"])
    assert result.exit_code == 0, result.output
    own.write_text('{"name": "shop", "scheme": "ntag424-aes", "template": "/t/{xuid}?c={mac}", "template": "/t/{xuid}?e={mac}"}')
    with pytest.raises(ProfileError, match="duplicate member 'template'"):
        audit_command.auditing.read_profile_file(own)
    own.write_text("{}")
    result = CliRunner().invoke(main, ["audit", str(taps), "--keys", str(keys), "--profile", f"@{own}"])
    assert isinstance(result.exception, ProfileError)


def test_two_processes_report_what_one_does(files: Files) -> None:
    tags = list(files.fleet)
    odd = ("", "nonsense", tags[0].forged(), f"{tags[0].tap_at(1)}0")
    files.write(*(odd[number // 50 % 4] if number % 50 == 0 else tags[number % 4].tap() for number in range(12_000)))
    assert files.taps.stat().st_size > CHUNK_BYTES
    command = [sys.executable, "-m", "ixfast", "audit", str(files.taps), "--keys", str(files.keys), "--jobs"]
    one, two = (subprocess.run([*command, jobs], capture_output=True) for jobs in ("1", "2"))
    assert (one.returncode, two.returncode) == (3, 3), two.stderr
    assert one.stdout == two.stdout
    assert one.stdout.count(b"\n") > 10_000
