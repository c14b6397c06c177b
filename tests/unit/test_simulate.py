"""`ixfast simulate`: an audit finds the verdicts that it announces, for every preset; key files are closed to other users."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from ixfast.chips import PRESETS, scheme_names
from ixfast.cli import audit, simulate
from ixfast.cli.command_group import CommandGroup
from ixfast.keys.diversify import DEFAULT_DERIVATIONS

main = CommandGroup("ixfast", help="The two commands alone, as `ixfast` mounts them.")
audit.register(main)
simulate.register(main)


def run(*arguments: str, given: str | None = None) -> Result:
    result = CliRunner().invoke(main, arguments, input=given, catch_exceptions=False)
    assert result.exit_code in (0, 3), result.output
    return result


def audited(taps: str, keys: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in run("audit", "-", "--keys", str(keys), given=taps).stdout.splitlines()]


@pytest.mark.parametrize("profile", [*PRESETS, "encrypted/desfire-ev3-aes", "path/ntag424-lrp", "all"])
def test_an_audit_finds_what_was_simulated(profile: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    mix = ("--replayed", "0.2", "--forged", "0.15", "--gaps", "0.2")
    made = run(
        "simulate", "--profile", profile, "--tags", "3", "--taps", "300", "--labels", "--shuffle", *mix, "--keys-out", str(keys)
    )
    expected = [row["expected"] for row in csv.DictReader(io.StringIO(made.stdout))]
    found = audited(made.stdout, keys)
    assert [report["line"] for report in found] == list(range(2, 302))
    assert [report["verdict"] for report in found] == expected
    counts = Counter(expected)
    assert set(counts) >= {"genuine", "forged"}
    assert "replayed" in counts or profile == "plain-uid-only"
    summary = ", ".join(f"{verdict} {count}" for verdict, count in sorted(counts.items()))
    assert made.stderr.endswith(f"tags: {summary}\n")


def test_every_scheme_has_a_preset_to_simulate() -> None:
    assert {profile.scheme for profile in PRESETS.values()} | {"desfire-ev3-aes"} == set(scheme_names())


def test_the_same_seed_gives_the_same_taps_in_every_format(tmp_path: Path) -> None:
    by_format = {}
    for form in ("csv", "jsonl", "urls"):
        keys = tmp_path / form
        made = run("simulate", "--seed", "7", "--format", form, "--keys-out", str(keys))
        again = run("simulate", "--seed", "7", "--format", form)
        assert made.stdout == again.stdout
        by_format[form] = (keys.read_text(), [report["verdict"] for report in audited(made.stdout, keys)])
    assert by_format["csv"] == by_format["jsonl"] == by_format["urls"]
    assert run("simulate", "--seed", "8").stdout != run("simulate", "--seed", "7").stdout


def test_times_rise_from_the_start(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("simulate", "--start", "2026-03-01T12:00:00", "--every", "0").stdout)))
    times = [row["at"] for row in rows]
    assert times[0] == "2026-03-01T12:00:00.000000Z"
    assert len(set(times)) == len(times)
    assert times == sorted(times)


def test_the_key_file_is_closed_to_others_even_if_it_was_open(tmp_path: Path) -> None:
    keys = tmp_path / "keys.csv"
    keys.write_text("an old and longer text\n" * 100)
    keys.chmod(0o644)
    run("simulate", "--tags", "2", "--taps", "0", "--keys-out", str(keys))
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert keys.read_text().count("\n") == 3
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for place in (link, tmp_path / "no" / "folder", tmp_path):
        assert CliRunner().invoke(main, ["simulate", "--keys-out", str(place)]).exit_code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_no_umask_opens_the_key_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        run("simulate", "--taps", "0", "--keys-out", str(tmp_path / "keys"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


def test_the_owners_own_texts_are_in_the_key_file(tmp_path: Path) -> None:
    own, keys = tmp_path / "own.json", tmp_path / "keys.csv"
    template, window = "c={cuid}&a={aid}&n={counter}&e={mac}", "{cuid}&a={aid}&n={counter}&e="
    own.write_bytes(orjson.dumps({"name": "own", "scheme": "ntag424-aes", "template": template, "window": window}))
    made = run("simulate", "--profile", f"@{own}", "--forged", "0", "--replayed", "0", "--keys-out", str(keys))
    result = run("audit", "-", "--keys", str(keys), "--profile", f"@{own}", given=made.stdout)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--replayed", "0.6", "--forged", "0.6"), ("--format", "urls", "--shuffle"), ("--tags", "0"), ("--every", "-1")],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["simulate", *arguments]).exit_code == 2


@pytest.mark.parametrize("scheme", DEFAULT_DERIVATIONS)
def test_keys_of_a_derived_fleet_follow_from_its_master(scheme: str, tmp_path: Path) -> None:
    keys, masters = tmp_path / "keys.csv", tmp_path / "masters.csv"
    made = run(
        "simulate", "--profile", "encrypted", "--derivation", scheme, "--tags", "2", "--taps", "60", "--labels",
        "--keys-out", str(keys), "--masters-out", str(masters),
    )  # fmt: skip
    assert [report["verdict"] for report in audited(made.stdout, keys)] == [
        row["expected"] for row in csv.DictReader(io.StringIO(made.stdout))
    ]
    (master,) = csv.DictReader(masters.read_text().splitlines())
    assert stat.S_IMODE(masters.stat().st_mode) == 0o600 and (master["profile"], master["scheme"]) == ("encrypted", scheme)
    derivation, value = DEFAULT_DERIVATIONS[scheme], bytes.fromhex(master["master"])
    for row in csv.DictReader(keys.read_text().splitlines()):
        assert derivation.derive_file_key(value, bytes.fromhex(row["uid"])).hex() == row["file_key"]
        assert (derivation.derive_meta_key(value) or bytes.fromhex(row["meta_key"])).hex() == row["meta_key"]


def test_without_a_derivation_there_is_no_master(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["simulate", "--masters-out", str(tmp_path / "m.csv")])
    assert result.exit_code == 2 and "--derivation" in result.output
