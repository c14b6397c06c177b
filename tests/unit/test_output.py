"""Output of the commands: aligned tables, blocks, JSON, and colours on terminals only."""

import datetime as dt
import json
import os
import pty
import subprocess
import sys

import click
import msgspec
import pytest

from ixfast.cli import output

AT = dt.datetime(2026, 1, 31, 9, 30, tzinfo=dt.timezone(dt.timedelta(hours=1)))
TABLE = "from ixfast.cli import output; output.print_table(['A'], [['b']], empty='')"


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_columns_are_aligned_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("acme", 12, True, None, AT), ("日本", None, False, ["a", "b"], None)]
    output.print_table(("ACCOUNT", "TAGS", "OPEN", "SCOPES", "CREATED"), rows, empty="No accounts.")
    assert printed(capsys) == [
        "ACCOUNT  TAGS  OPEN  SCOPES  CREATED",
        "acme       12  yes   -       2026-01-31 08:30:00Z",
        "日本        -  no    a, b    -",
    ]


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("ACCOUNT",), [], empty="No accounts.")
    assert printed(capsys) == ["No accounts."]


def test_a_block_has_a_line_for_each_member(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_block({"id": 7, "display name": "", "scopes": ("scan", "manage")})
    assert printed(capsys) == ["id            7", "display name  -", "scopes        scan, manage"]


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\u202egnp", "\x07"])
def test_a_name_cannot_control_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("NAME",), [[text]], empty="")
    output.print_block({"name": text})
    assert all(line.isprintable() for line in printed(capsys))
    assert len(output.cell_text(text)) > len(text)


def test_json_is_one_document_with_iso_times(capsys: pytest.CaptureFixture[str]) -> None:
    class Account(msgspec.Struct):
        name: str
        created_at: dt.datetime
        active: bool = True

    output.print_json([Account("Ærø", dt.datetime(2026, 1, 31, tzinfo=dt.UTC))])
    text = capsys.readouterr().out
    assert json.loads(text) == [{"name": "Ærø", "created_at": "2026-01-31T00:00:00Z", "active": True}]
    assert text.index("name") < text.index("created_at") < text.index("active") and "Ærø" in text


def test_the_option_is_passed_as_as_json() -> None:
    @click.command()
    @output.json_option
    def command(as_json: bool) -> None:
        assert as_json

    command(["--json"], standalone_mode=False)


def on_terminal(environ: dict[str, str]) -> bytes:
    master, slave = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", TABLE], stdout=slave, env={**os.environ, **environ}, check=True)
        return os.read(master, 1000)
    finally:
        os.close(master)
        os.close(slave)


def test_colours_are_for_terminals() -> None:
    piped = subprocess.run([sys.executable, "-c", TABLE], stdout=subprocess.PIPE, check=True).stdout
    assert b"\x1b" in on_terminal({"NO_COLOR": ""})
    assert b"\x1b" not in on_terminal({"NO_COLOR": "1"})
    assert b"\x1b" not in piped
