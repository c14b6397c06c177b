"""Private databases: which commands create one, what they report, and which files they leave alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.served import Served

from ixfast.cli import database, main
from ixfast.cli.exit_codes import ExitCode


@pytest.fixture
def default_dir(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default data directory, which does not exist yet."""
    monkeypatch.setattr(database, "default_data_dir", lambda: server_dir)
    return server_dir


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, env={"IXFAST_DSN": None, "IXFAST_DATA_DIR": None, **environment})


@pytest.mark.parametrize("way", ["flag", "environment", "file", "--demo"])
def test_a_named_directory_gets_a_database(way: str, default_dir: Path, tmp_path: Path) -> None:
    """Each way to name it; with `--demo` the default directory."""
    config = tmp_path / "settings.toml"
    config.write_text(f'data_dir = "{default_dir}"')
    words, environment = {
        "flag": (["--data-dir", str(default_dir)], {}),
        "environment": ([], {"IXFAST_DATA_DIR": str(default_dir)}),
        "file": (["--config", str(config)], {}),
        "--demo": (["--demo"], {}),
    }[way]
    made = run("account", "create", "shop", *words, **environment)
    assert (made.exit_code, made.stderr) == (0, f"Creating a private PostgreSQL in {default_dir}\n"), made.output
    again = run("account", "create", "shop", *words, **environment)
    assert again.exit_code == ExitCode.FAILED
    assert again.stderr.startswith(f"Starting the private PostgreSQL in {default_dir}\nError: ")


def test_the_demo_creates_a_database_and_others_then_use_it(default_dir: Path) -> None:
    made = run("demo")
    assert (made.exit_code, made.stderr) == (0, f"Creating a private PostgreSQL in {default_dir}\n")
    assert run("tap").stderr == ""
    token = run("api-key", "create", "demo", "--scope", "manage")
    assert token.exit_code == 0 and token.stderr == f"Starting the private PostgreSQL in {default_dir}\n"
    url = run("tap", "--url").stdout.strip()
    passes = run("verify", url, "--account", "demo")
    assert passes.exit_code == 0 and "is new, a scan would pass" in passes.stdout
    assert run("verify", url, "--account", "demo").exit_code == 0  # consumes nothing
    forged = run("verify", url[:-1] + ("0" if url[-1] != "0" else "1"), "--account", "demo", "--json")
    assert forged.exit_code == ExitCode.NEGATIVE
    assert json.loads(forged.stdout)["passes"] is False


def test_a_server_reports_the_private_database_that_it_starts(server_dir: Path) -> None:
    with Served(server_dir, workers=1) as server:
        assert f"Creating a private PostgreSQL in {server.data_dir}" in server.log
        done = subprocess.run(server.command("migrate"), env=server.environ, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to apply\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_server_of_another_user(server_dir: Path) -> None:
    """A user who may not read the data directory gets one line.

    The command runs as root without the capabilities that ignore permissions, because another user may be unable to read this
    interpreter.
    """
    server_dir.mkdir(mode=0o700)
    os.chown(server_dir, 65534, 65534)
    limited = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    command = [*limited, sys.executable, "-m", "ixfast", "migrate", "--data-dir", str(server_dir / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stderr.count("\n") == 1 and "belongs to the server of another user" in done.stderr
