"""Secrets in files of their own: the flag `--dsn-file`, and the warning about a file that other users can read."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ixfast.cli import main
from ixfast.cli.exit_codes import ExitCode
from ixfast.config.settings import REDACTED
from ixfast.config.settings_loader import load

DSN = "postgresql://ixfast:pass@127.0.0.1:1/ixfast"


@pytest.fixture
def dsn_file(tmp_path: Path) -> Path:
    path = tmp_path / "dsn"
    path.write_text(DSN + "\n")
    path.chmod(0o600)
    return path


def options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in each.opts}


def test_every_command_with_a_dsn_also_takes_it_from_a_file() -> None:
    def walk(command: click.Command) -> list[click.Command]:
        if not isinstance(command, click.Group):
            return [command]
        return [each for child in command.commands.values() for each in walk(child)]

    with_dsn = [command for command in walk(main) if "--dsn" in options(command)]
    assert len(with_dsn) > 10
    assert all("--dsn-file" in options(command) for command in with_dsn)


def test_the_flag_is_the_dsn(dsn_file: Path) -> None:
    done = CliRunner().invoke(main, ["settings", "--json", "--dsn-file", str(dsn_file)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["dsn"] == REDACTED


def test_the_dsn_and_its_file_exclude_each_other(dsn_file: Path) -> None:
    done = CliRunner().invoke(main, ["settings", "--dsn-file", str(dsn_file), "--dsn", DSN])
    assert done.exit_code == ExitCode.CONFIGURATION
    assert "--dsn" in done.output and DSN not in done.output


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_can_read_is_a_warning(mode: int, dsn_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    dsn_file.chmod(mode)
    assert load({}, {"IXFAST_DSN_FILE": str(dsn_file)}).dsn == DSN
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{dsn_file} is readable by other users (mode {mode:04o})" in record.getMessage()
    assert DSN not in record.getMessage()


def test_a_file_of_the_owner_alone_is_none(dsn_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load({"dsn_file": str(dsn_file)}, {}).dsn == DSN
    assert not caplog.records


def test_a_command_prints_the_warning_as_one_line(dsn_file: Path) -> None:
    dsn_file.chmod(0o644)
    command = [sys.executable, "-m", "ixfast", "settings", "--dsn-file", str(dsn_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1 and f"{dsn_file} is readable by other users (mode 0644)" in done.stderr
