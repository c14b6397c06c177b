"""Secrets in files of their own: the flag `--dsn-file`, and who else may have access to such a file."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ixfast import secret_files
from ixfast.cli import main
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.key_input import read_key
from ixfast.config.settings import REDACTED
from ixfast.config.settings_loader import load
from ixfast.errors import ConfigurationError
from ixfast.keys.kek import KekFileError
from ixfast.keys.key_file import KeyFile
from ixfast.keys.provider import ProviderError
from ixfast.keys.providers.pkcs11 import _pin
from ixfast.keys.providers.vault_transit import VaultTransit

DSN = "postgresql://ixfast:pass@127.0.0.1:1/ixfast"
STRANGER = 65534


@pytest.fixture
def dsn_file(tmp_path: Path) -> Path:
    path = tmp_path / "dsn"
    path.write_text(DSN + "\n")
    path.chmod(0o600)
    return path


def options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in each.opts}


def commands(command: click.Command = main) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    return [each for child in command.commands.values() for each in commands(child)]


def test_every_command_with_a_dsn_also_takes_it_from_a_file() -> None:
    with_dsn = [command for command in commands() if "--dsn" in options(command)]
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


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444, 0o602, 0o777])
def test_a_file_that_all_users_may_access_is_refused(mode: int, dsn_file: Path) -> None:
    dsn_file.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        load({}, {"IXFAST_DSN_FILE": str(dsn_file)})
    assert f"IXFAST_DSN_FILE: {dsn_file} is accessible to all users (mode {mode:04o})" in str(caught.value)
    assert f"chmod 600 {dsn_file}" in str(caught.value)
    assert DSN not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o660])
def test_a_file_that_its_group_may_access_is_a_warning(mode: int, dsn_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    dsn_file.chmod(mode)
    assert load({}, {"IXFAST_DSN_FILE": str(dsn_file)}).dsn == DSN
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{dsn_file} is accessible to its group (mode {mode:04o})" in record.getMessage()
    assert DSN not in record.getMessage()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_the_owner_alone_is_read_silently(mode: int, dsn_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    dsn_file.chmod(mode)
    assert load({"dsn_file": str(dsn_file)}, {}).dsn == DSN
    assert not caplog.records


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create a file of root")
@pytest.mark.parametrize(("mode", "warnings"), [(0o440, 0), (0o640, 0), (0o660, 1)])
def test_root_may_hand_a_secret_to_a_group(mode: int, warnings: int, dsn_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As Kubernetes does with `fsGroup`, and Debian with the group `ssl-cert`."""
    dsn_file.chmod(mode)
    status = dsn_file.stat()
    os.seteuid(STRANGER)
    try:
        secret_files.check(dsn_file, status, "dsn_file")
    finally:
        os.seteuid(0)
    assert len(caplog.records) == warnings


@pytest.mark.parametrize("words", [["settings"], ["migrate"], ["serve"], ["account", "list"], ["keys", "status"]])
def test_every_command_refuses_it_in_one_line(words: list[str], dsn_file: Path) -> None:
    dsn_file.chmod(0o644)
    done = CliRunner().invoke(main, [*words, "--dsn-file", str(dsn_file)])
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.output.count("\n") == 1 and done.output.startswith(f"Error: flag --dsn-file: {dsn_file} is accessible")


def test_the_file_of_an_old_primary_is_refused_too(dsn_file: Path) -> None:
    dsn_file.chmod(0o644)
    done = CliRunner().invoke(main, ["recover-counters", "--from-dsn-file", str(dsn_file), "--dsn", DSN])
    assert done.exit_code == ExitCode.USAGE
    assert f"--from-dsn-file: {dsn_file} is accessible to all users" in done.output


def test_a_token_file_is_refused_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("hvs.secret")
    token.chmod(0o644)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(token))
    with pytest.raises(Exception, match=r"token is accessible to all users \(mode 0644\)"):
        VaultTransit().open("transit/ixfast", b"vault:v1:AAAA", "0" * 16)


def test_a_secret_through_a_pipe_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """As a shell passes it with `--dsn-file <(pass show ixfast)`."""
    read, write = os.pipe()
    os.write(write, DSN.encode() + b"\n")
    os.close(write)
    try:
        assert load({"dsn_file": f"/dev/fd/{read}"}, {}).dsn == DSN
    finally:
        os.close(read)
    assert not caplog.records


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b" \n", "is empty"), (b"x" * 70_000, "larger than 64 KiB")])
def test_a_file_that_cannot_be_a_secret(content: bytes, words: str, dsn_file: Path) -> None:
    dsn_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words):
        secret_files.read(dsn_file, "dsn_file")


SECRET = "S3cret"
OTHER_DSN = f"postgresql://app:{SECRET}B@127.0.0.1:1/other"
DAMAGED = {
    f"{DSN}\n{OTHER_DSN}\n".encode(): "has 2 lines; it must contain only the secret, on one line.",
    f"{DSN}\r\n\r\n{OTHER_DSN}".encode(): "has 3 lines; it must contain only the secret, on one line.",
    f"# the {SECRET}\n{DSN}\n".encode(): "has 2 lines, 1 of them a comment; it must contain only the secret, on one line.",
    f"#\n#\n{DSN}\n".encode(): "has 3 lines, 2 of them comments; it must contain only the secret, on one line.",
    DSN.encode("utf-8-sig"): "begins with a byte order mark (BOM); save it as UTF-8 without one.",
    DSN.encode("utf-16"): "is in UTF-16; save it as UTF-8.",
    DSN.encode("utf-16-be"): "is in UTF-16; save it as UTF-8.",
    f"{DSN}\xfc".encode("latin-1"): "is not text in UTF-8.",
}


@pytest.mark.parametrize("content", DAMAGED)
def test_what_is_wrong_with_the_text_is_named_without_a_part_of_it(content: bytes, dsn_file: Path) -> None:
    dsn_file.write_bytes(content)
    done = CliRunner().invoke(main, ["account", "list", "--dsn-file", str(dsn_file)])
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.output == f"Error: flag --dsn-file: {dsn_file} {DAMAGED[content]}\n"
    done = CliRunner().invoke(main, ["recover-counters", "--from-dsn-file", str(dsn_file), "--dsn", DSN])
    assert done.exit_code == ExitCode.USAGE
    assert f"--from-dsn-file: {dsn_file} {DAMAGED[content]}\n" in done.output
    assert SECRET not in done.output


@pytest.mark.parametrize(
    "dsn", [f"{DSN}\n{OTHER_DSN}", f"{DSN}{OTHER_DSN}", f"{DSN} {OTHER_DSN}", f"# {OTHER_DSN}", f"\ufeff{DSN}"]
)
def test_a_variable_with_more_than_one_url_is_refused_without_showing_them(dsn: str) -> None:
    done = CliRunner().invoke(main, ["account", "list"], env={"IXFAST_DSN": dsn})
    assert done.exit_code == ExitCode.CONFIGURATION
    assert done.output.startswith("Error: environment variable IXFAST_DSN: ") and done.output.count("\n") == 1
    assert "must be a URL of the form" in done.output and SECRET not in done.output


def test_tokens_and_pins_are_read_by_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text(f"{SECRET}A\n{SECRET}B\n")
    token.chmod(0o600)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(token))
    with pytest.raises(Exception, match=r"token has 2 lines; it must contain only the secret, on one line") as caught:
        VaultTransit().open("transit/ixfast", b"vault:v1:AAAA", "0" * 16)
    assert SECRET not in str(caught.value)
    with pytest.raises(ProviderError, match=r"token has 2 lines") as caught:
        _pin(f"file:{token}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_the_encoding_of_key_files_and_settings_files_is_named(encoding: str, tmp_path: Path) -> None:
    reason = "is in UTF-16" if encoding == "utf-16" else "begins with a byte order mark"
    kek, toml = tmp_path / "kek", tmp_path / "ixfast.toml"
    kek.write_bytes("ixfast-key-encryption-keys 1\n".encode(encoding))
    kek.chmod(0o600)
    with pytest.raises(KekFileError, match=f"kek is not an ixfast key file: it {reason}"):
        KeyFile.read(kek)
    toml.write_bytes("port = 8480\n".encode(encoding))
    with pytest.raises(ConfigurationError, match=f"The settings file .*toml {reason}"):
        load({}, {}, toml)


def test_a_key_that_was_saved_by_another_editor(tmp_path: Path) -> None:
    key = tmp_path / "key.txt"
    key.write_bytes(f"{'0f' * 16}\r\n".encode("utf-8-sig"))
    assert read_key(str(key)) == b"\x0f" * 16
    key.write_bytes(f"{'0f' * 16}\r\n".encode("utf-16"))
    with pytest.raises(click.UsageError, match=r"key.txt is in UTF-16; save it as UTF-8") as caught:
        read_key(str(key))
    assert "0f0f" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_path_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^dsn_file: cannot read .*: (No such file|Is a directory)"):
        secret_files.read(tmp_path / name, "dsn_file")


def test_a_command_prints_the_warning_as_one_line(dsn_file: Path) -> None:
    dsn_file.chmod(0o640)
    command = [sys.executable, "-m", "ixfast", "settings", "--dsn-file", str(dsn_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1 and f"{dsn_file} is accessible to its group (mode 0640)" in done.stderr
