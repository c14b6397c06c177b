"""`ixfast audit`: key files, options, exit statuses and several processes; keys are never shown."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from ixfast.audit import find_profile, read_keys
from ixfast.audit.tap_bytes import CHUNK_BYTES
from ixfast.chips import PRESETS, compile_profile
from ixfast.cli import audit as audit_command
from ixfast.cli.command_group import CommandGroup
from ixfast.errors import InputError, IxfastError, ProfileError
from ixfast.testing.virtual_tags import VirtualFleet

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


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["xuid,uid"], "line 1: the first line must name the columns"),
        ([""], "contains no keys"),
        (["xuid,file_key", f"a,{SECRET}"], "line 2, profile: is missing"),
        (["xuid,file_key,profile", "", f"a,{SECRET},nonsense"], "line 3: unknown encoding profile"),
        (["xuid,file_key,profile", f"a,{SECRET}0,encrypted"], "line 2, file_key: must be 32 hex digits"),
        (["xuid,file_key,profile", f"a,{SECRET[:30]} 0,encrypted"], "line 2, file_key"),
        (["xuid,file_key,profile", "a,,encrypted"], "line 2, file_key"),
        (["xuid,file_key,profile", f"a b,{SECRET},encrypted"], "line 2, xuid"),
        (["xuid,uid,file_key,profile", f"a,04,{SECRET},encrypted"], "line 2, uid: must be 14 hex digits"),
        (["xuid,file_key,profile", f"a,{SECRET},encrypted", f"a,{SECRET},encrypted"], "line 3, version: The tag already has"),
        (["xuid,file_key,profile", f"a,{SECRET},encrypted", f"a,{SECRET},path"], "line 3, xuid: an earlier line"),
        (["xuid,file_key,profile", f"a,{SECRET}"], "line 2: has 2 fields"),
        (["uid,file_key,profile,xuid", *(f"04A1B2C3D4E5F6,{SECRET},encrypted,{x}" for x in "ab")], "line 3, uid: Another"),
        (["xuid,file_key,profile,version", f"a,{SECRET},encrypted,128"], "line 2, version: must be between 1 and 127"),
        (['{"xuid": "a"', ""], "line 1: The line is not a JSON object"),
        (['{"xuid": "a", "file_key": 7, "profile": "encrypted"}'], "line 1, file_key: must be a string"),
        ([f'{{"xuid": "a", "file_key": "{SECRET}", "file_key": "{SECRET}"}}'], "line 1, file_key: appears twice in the line"),
        ([f'{{"xuid": "a", "{SECRET}": 1, "{SECRET}": 2}}'], "line 1, a member: appears twice in the line"),
        (["xuid,file_key,profile", f"a,{SECRET},ntag22x-sd/ntag424-aes"], "line 2: profile 'ntag22x-sd/ntag424-aes'"),
    ],
)
def test_a_wrong_key_file_is_told_without_its_keys(rows: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_keys(rows, find_profile)
    assert message in str(caught.value)
    assert SECRET[:12] not in str(caught.value)


def test_too_many_meta_keys_are_refused() -> None:
    rows = ["xuid,file_key,profile,meta_key", *(f"t{i},{SECRET},encrypted,{i:032x}" for i in range(17))]
    with pytest.raises(InputError, match="line 18, meta_key"):
        read_keys(rows, find_profile)


def test_keys_as_json_lines_with_versions_and_a_tag_without_a_code() -> None:
    rows = [orjson.dumps({"uid": "04A1B2C3D4E5F6", "file_key": SECRET, "version": version}).decode() for version in (1, 3)]
    catalogue = read_keys(rows, find_profile, default_profile="encrypted/ntag424-lrp")
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
    assert summary["outcomes"] == [
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
