"""Private databases: which commands create one, what they report, and which files they leave alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.served import Served

from ixfast.cli import database, main
from ixfast.cli.exit_codes import ExitCode
from ixfast.embedded import EmbeddedPostgres
from ixfast.keys.key_file import KeyFile


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


def test_a_command_waits_for_another_one_before_it_reports_a_start(default_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["account", "create", "shop", "--data-dir", str(default_dir)]
    owner = EmbeddedPostgres(default_dir)
    owner.lock()
    monkeypatch.setattr(database, "LOCK_WAIT_S", 0.2)
    refused = run(*words)
    assert (refused.exit_code, refused.stdout) == (ExitCode.UNAVAILABLE, "")
    assert refused.stderr == (
        f"Error: Another ixfast command (process {os.getpid()}) uses the database in {default_dir}; "
        "try again when it has ended.\n"
    )
    monkeypatch.setattr(database, "LOCK_WAIT_S", 60.0)

    def probe(_environment: object) -> None:
        """The probe for a server, which the command makes before it waits and every time that it finds the lock held."""
        if probes:
            owner.stop()
        probes.append(None)

    probes: list[None] = []
    monkeypatch.setattr(database.CommandEnvironment, "running_dsn", probe)
    made = run(*words)
    assert (made.exit_code, made.stderr) == (0, f"Creating a private PostgreSQL in {default_dir}\n"), made.output
    assert len(probes) == 2


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
    nothing = run("verify", "foo")
    assert nothing.exit_code == ExitCode.USAGE
    assert nothing.stderr.endswith("Error: The URL has no tag code; add --account AID.\n")
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


def test_a_second_key_file_is_refused(server_dir: Path, tmp_path: Path) -> None:
    """Rows that are sealed under a key of one file stay so, and no command seals others under a key of another file."""
    folder, other = server_dir / "data", tmp_path / "kek"
    assert run("demo", "--data-dir", str(folder)).exit_code == 0
    (first,) = [line.id for line in KeyFile.read(folder / "kek").lines]
    refused = run("keys", "init", "--data-dir", str(folder), "--kek-file", str(other))
    assert refused.exit_code == ExitCode.CONFIGURATION and "has a key file already" in refused.stderr
    assert not other.exists()
    assert run("keys", "init", "--kek-file", str(other)).exit_code == 0
    ports = ("--port", "0", "--private-port", "0", "--workers", "1")
    url = "https://tag.example/?x=unknown00"
    for words in (("demo",), ("serve", *ports), ("serve", "--demo", *ports), ("verify", url)):
        command = [sys.executable, "-m", "ixfast", *words, "--data-dir", str(folder), "--kek-file", str(other)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == ExitCode.CONFIGURATION, done.stderr
        assert f"sealed under {first}, which {other} lacks" in done.stderr.splitlines()[-1]
    (folder / "kek").unlink()
    lost = run("demo", "--data-dir", str(folder))
    assert lost.exit_code == ExitCode.CONFIGURATION and "There is no key file at" in lost.stderr
    assert not (folder / "kek").exists()


def test_commands_find_the_server_of_the_data_directory(server_dir: Path) -> None:
    with Served(server_dir, workers=1) as server:
        published = server.data_dir / "addresses"
        assert published.stat().st_mode & 0o777 == 0o600
        assert run("tap", "--data-dir", str(server.data_dir)).stderr.startswith("Error: There is no demo account in ")
        assert not (server.data_dir / "simulated-tags.json").exists()
        assert run("demo", "--data-dir", str(server.data_dir), "--kek-file", str(server.kek_file)).exit_code == 0
        assert run("tap", "--data-dir", str(server.data_dir)).stdout.startswith(f"http://127.0.0.1:{server.port}/v1/t?x=")
        assert run("tap", "--data-dir", str(server.data_dir), "--port", "9").stdout.startswith("http://127.0.0.1:9/v1/t?x=")
        words = ("doctor", "--json", "--data-dir", str(server.data_dir), "--kek-file", str(server.kek_file))
        checks = {check["name"]: check for check in json.loads(run(*words).stdout)["checks"]}
        assert checks["server"]["text"] == f"runs at {server.private_url} and is ready"
    assert not published.exists()


def test_a_server_on_a_taken_port_creates_nothing(server_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "ixfast", "serve", "--data-dir", str(server_dir / "data"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitCode.CONFIGURATION and "port: cannot bind" in done.stderr
    assert not (server_dir / "data").exists()
