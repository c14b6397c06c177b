"""docs/reference/rules.md is true: its rule sets, lines, errors, commands and responses are run, and its table is complete."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from mmdb_writer import MMDBWriter

from ixfast import limits, rules
from ixfast.cli import main
from ixfast.domain.scan import Scan
from ixfast.responses.response_text import SUBTAGS, compile_response
from ixfast.rules import RuleError, facts, line_notation, visitors

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "rules.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", DOCUMENT)
    assert found, language
    return found


def pairs(language: str) -> list[tuple[str, str]]:
    return [(left, right) for left, _, right in (row.partition(" => ") for row in blocks(language)[0].splitlines())]


def test_rule_sets() -> None:
    for block in blocks("json"):
        checked = rules.read_rules(block)
        assert rules.read_rules(rules.to_document(checked)) == checked
        rules.compile_rules(checked)


@pytest.mark.parametrize("text", blocks("rules")[0].splitlines())
def test_lines(text: str) -> None:
    assert line_notation.parse(line_notation.print_line(line_notation.parse(text))) == line_notation.parse(text)


@pytest.mark.parametrize(("text", "message"), pairs("errors"))
def test_errors(text: str, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        line_notation.parse(text)
    assert str(caught.value) == message
    assert caught.value.code in DOCUMENT


@pytest.mark.parametrize(("text", "expected"), pairs("responses"))
def test_responses(text: str, expected: str) -> None:
    scan = Scan(lambda _scan: None, b"", -1, None, None, 1, 0.0)
    scan.authentic, scan.scan_count = True, 12
    fields = {"Product Name": "Vase & lid"}
    record: Any = SimpleNamespace(cuid="A 1", name="Vase {cuid}", fields=fields, reply_fields=fields)
    scan.record = record
    assert compile_response(text).render(scan) == expected


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules.json").write_text(blocks("json")[0])
    monkeypatch.chdir(tmp_path)
    for session in re.findall(r"(?ms)^\$ (.*?)\n(.*?)(?=^\$ |\Z)", blocks("console")[0]):
        command, expected = session
        done = CliRunner().invoke(main, shlex.split(command)[1:])
        assert (done.exit_code, done.output) == (0, expected), done.exception


def test_table_has_every_fact() -> None:
    rows = re.findall(r"(?m)^\| `([^`]+)` \| (.*?) \| (.*?) \| (.*?) \|$", DOCUMENT)
    described = {name: (operators, meaning) for name, _, operators, meaning in rows}
    assert set(described) == {*facts.FACTS, "field.NAME"}
    for name, (operators, meaning) in described.items():
        fact = facts.find_fact(name)
        assert fact is not None
        assert tuple(re.findall("`(.*?)`", operators)) == fact.operators
        assert meaning.startswith(fact.meaning)
    for name, words, *_ in rows:
        assert facts.FACTS.get(name, SimpleNamespace(words=())).words in ((), tuple(re.findall("`(.*?)`", words)))


def test_subtags_and_limits_are_described() -> None:
    for name in SUBTAGS:
        assert f"`{{{name}}}`" in DOCUMENT
    for bound in (
        limits.RULE_GROUPS_MAX, limits.RULE_CONDITIONS_MAX, limits.RULE_DEPTH_MAX, limits.RULE_VALUES_MAX,
        limits.RULE_LINE_CHARS_MAX, limits.RESPONSE_SUBTAGS_MAX, limits.SUBTAG_VALUE_CHARS_MAX,
        limits.RESPONSE_RENDERED_CHARS_MAX,
    ):  # fmt: skip
        assert f"{bound:,}" in DOCUMENT


def test_command_tells_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"groups": [{"name": "a", "when": "scan_cuont < 5", "response": ""}], "default": ""}')
    done = CliRunner().invoke(main, ["rules", "test", str(path)])
    assert done.exit_code == 1
    assert "Did you mean scan_count? (at $.groups[0].when, column 1)" in done.output
    path.write_text(blocks("json")[0])
    for given, expected in (
        ("scan_count", "NAME=VALUE"),
        ("scan_count=x", "whole number"),
        ("scan_cuont=1", "Did you mean scan_count?"),
        ("now=yesterday", "expected a time"),
        ("assigned=perhaps", "true or false"),
    ):
        done = CliRunner().invoke(main, ["rules", "test", str(path), "--fact", given])
        assert done.exit_code == 2
        assert expected in " ".join(done.output.split())


def test_command_warns_and_prints_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"groups": [{"name": "a", "when": "country == DE", "response": ""}], "default": ""}')
    done = CliRunner().invoke(main, ["rules", "explain", str(path)])
    assert "warning: unavailable: country; no address database is configured" in done.output
    done = CliRunner().invoke(main, ["rules", "explain", str(path), "--addresses-file", str(tmp_path / "none.mmdb")])
    assert f"warning: unavailable: country; {tmp_path / 'none.mmdb'} cannot be read" in done.output
    done = CliRunner().invoke(main, ["rules", "schema"])
    assert '"title": "ixfast rule set"' in done.output


@pytest.mark.parametrize("command", ["explain", "test"])
def test_commands_warn_of_subtags_as_the_route_does(command: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"groups": [{"name": "a", "when": "first_scan", "response": "{TzLocal} {cuid}"}], "default": "{currency}"}')
    done = CliRunner().invoke(main, ["rules", command, str(path)])
    assert done.exit_code == 0
    assert done.output.endswith("\nwarning: unavailable: currency, tzlocal; no address database is configured\n")


def test_commands_do_not_warn_of_what_the_file_knows(addresses: Path, tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"groups": [{"name": "a", "when": "country == DE", "response": "{tzlocal}"}], "default": ""}')
    for given, environment in ((["--addresses-file", str(addresses)], {}), ([], {"IXFAST_ADDRESSES_FILE": str(addresses)})):
        done = CliRunner().invoke(main, ["rules", "explain", str(path), *given], env=environment)
        assert done.exit_code == 0
        assert "warning" not in done.output
    assert visitors.lacking({"country"}) != ()  # a command leaves no file open


@pytest.fixture
def addresses(tmp_path: Path) -> Path:
    path = tmp_path / "city.mmdb"
    MMDBWriter().to_db_file(str(path))
    return path
