"""The command line as a whole: help, settings as options, exit codes, errors in one line, JSON, completion, lazy imports."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result
from support import eventually_sync
from support.requirements import requires

from ixfast.chips import PRESETS
from ixfast.cli import bench, database, installation, main, progress
from ixfast.cli.exit_codes import MEANINGS, ExitCode, exit_code_of
from ixfast.cli.main import COMMANDS
from ixfast.cli.options import ALL, TOPICS, SettingOption
from ixfast.config.settings import describe
from ixfast.embedded import EmbeddedPostgresError
from ixfast.errors import ConfigurationError, InputError, IxfastError, ProfileError, UnavailableError
from ixfast.keys import KekFileError, ProviderError
from ixfast.store.admin.recovery import RecoveryError
from ixfast.store.admin.rotation import RotationError
from ixfast.store.connections.connect_errors import UnreachableDatabaseError
from ixfast.store.migrate import SchemaMismatchError

NOWHERE = "postgresql://someone:a-password@127.0.0.1:1/nothing"

# What a command does about a private database that does not exist. Commands of a group are classified by the group.
CREATES = {"ixfast serve", "ixfast demo"}
ADMINISTRATES = {
    "ixfast account", "ixfast api-key", "ixfast batch", "ixfast folder", "ixfast group", "ixfast meta-key", "ixfast tag",
    "ixfast import", "ixfast export", "ixfast keys rotate", "ixfast keys remove", "ixfast keys status", "ixfast migrate",
    "ixfast maintain", "ixfast recover-counters", "ixfast verify", "ixfast audit", "ixfast scans", "ixfast stats",
}  # fmt: skip
NEEDS_NONE = {
    "ixfast tap", "ixfast keys init", "ixfast keys add", "ixfast profile", "ixfast rules", "ixfast simulate", "ixfast settings",
    "ixfast versions", "ixfast completion", "ixfast bench", "ixfast doctor",
}  # fmt: skip

# Commands without `--json`, because what they print has a format of its own.
OWN_OUTPUT = {
    "ixfast serve": "it logs",
    "ixfast export": "--format jsonl",
    "ixfast rules schema": "it is JSON",
    "ixfast completion": "a script for a shell",
    "ixfast bench": "the benchmarks have their own options",
}


def leaves(command: click.Command = main, path: str = "ixfast") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from leaves(child, f"{path} {name}")


LEAVES = dict(leaves())


def classes_of(path: str) -> list[set[str]]:
    return [each for each in (CREATES, ADMINISTRATES, NEEDS_NONE) if path in each or path.rpartition(" ")[0] in each]


ADMINISTRATING = [path for path in LEAVES if classes_of(path) == [ADMINISTRATES]]


def options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in each.opts}


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, env={"IXFAST_DSN": None, "IXFAST_DATA_DIR": None, **environment})


def only_line(result: Result) -> str:
    """The one line on standard error of a command that printed nothing else."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: "), result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


@pytest.fixture
def default_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default data directory, which does not exist."""
    folder = tmp_path / "default"
    monkeypatch.setattr(database, "default_data_dir", lambda: folder)
    return folder


# Help.


def test_the_table_of_commands_agrees_with_their_modules() -> None:
    for name, (module, summary) in COMMANDS.items():
        assert main.commands[name].get_short_help_str(200) == summary
        assert module.startswith("ixfast.cli.")
    assert list(main.commands) == list(COMMANDS)


def test_every_setting_has_one_topic() -> None:
    assert sorted(ALL) == sorted(each.name for each in describe())


def test_only_the_server_and_the_list_of_settings_offer_all_of_them() -> None:
    for path, command in LEAVES.items():
        names = {str(each.name) for each in command.params if isinstance(each, SettingOption)} - {"dsn_file", "demo"}
        assert names == set(ALL) if path in ("ixfast serve", "ixfast settings") else len(names) <= 5, path


def test_help_shows_own_options_then_settings_with_defaults_and_choices() -> None:
    text = run("serve", "--help").stdout
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles == ["Options", *TOPICS]
    words = " ".join(text.split())
    assert "--log-format [text|json]" in words
    assert "[default: 1500; range: 50 to 60000]" in words
    text = run("import", "--help").stdout
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == ["Options", "Settings"]
    assert {"--retire-old-keys", "--demo"} <= set(text.partition("Settings:")[0].split()) and "--workers" not in text
    assert {"--dsn", "--dsn-file", "--data-dir", "--kek-file"} <= set(text.partition("Settings:")[2].split())


def test_the_help_of_ixfast_has_every_exit_code() -> None:
    words = " ".join(run("--help").stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning}" in words
    assert set(MEANINGS) == set(ExitCode)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "--dri-run"), "--dry-run"),
        (("serve", "--zzz"), "No such option"),
        (
            ("tap", "--workers", "2"),
            "--workers is not an option of `ixfast tap` but a setting of",
        ),
        (("impor",), "import"),
        (("account", "remove"), "See `ixfast account --help`."),
        (("tap", "extra"), "See `ixfast tap --help`."),
        (("import", "--account", "a", "--group", "g"), "Missing argument"),
        (("simulate", "--tags", "0"), "See `ixfast simulate --help`."),
        (("audit", __file__), "Give either --keys or --account."),
    ],
)
def test_a_usage_error_is_one_line_with_the_fix(words: tuple[str, ...], message: str) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert message in only_line(result)


@pytest.mark.parametrize("words", [(), ("keys",)])
def test_a_group_without_a_command_shows_its_help(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert result.stderr.startswith("Usage: ixfast ") and "..." not in result.stderr.partition("Commands:")[2]


def in_shell(command: str) -> tuple[int, str]:
    """The exit status of a command line of bash that begins with the arguments of ixfast, and its standard error."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")}
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ixfast {command}"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        env=environment,
    )  # fmt: skip
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "words", ["versions", "versions --json", "simulate --taps 5", "audit /dev/null --keys {keys} --show none --json"]
)
def test_output_to_a_closed_standard_output_fails_in_one_line(words: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"xuid,uid,file_key,profile\na2345678,04000000000001,{7:032x},ixkio-plain\n")
    assert in_shell(f"{words.format(keys=keys)} >&-") == (ExitCode.FAILED, "Error: Standard output is closed.\n")


def test_children_do_not_get_closed_descriptors_either() -> None:
    code = (
        "import os, subprocess, sys; from ixfast.cli.standard_streams import replace_closed_streams as replace; replace(); "
        "child = 'import os; [os.fstat(each) for each in range(3)]'; sys.exit(subprocess.call([sys.executable, '-c', child]))"
    )
    for closed in ("<&-", ">&-", "<&- >&- 2>&-"):
        assert subprocess.call(["bash", "-c", f'{sys.executable} -c "{code}" {closed}'], timeout=60) == 0, closed


def test_a_command_without_output_needs_no_standard_output(tmp_path: Path) -> None:
    words = f"simulate --taps 5 --keys-out {tmp_path / 'keys'}"
    assert in_shell(f"{words} 2>&- >{tmp_path / 'taps'}") == (ExitCode.OK, "")
    assert in_shell(f"audit {tmp_path / 'taps'} --keys {tmp_path / 'keys'} --show none >&-")[0] == ExitCode.OK
    assert in_shell("impor 2>&-") == (ExitCode.USAGE, "")


@pytest.mark.parametrize(
    "words",
    [
        "import - --account a --group g",
        "rules test -",
        "rules explain -",
        "meta-key add demo -",
        "group create demo g --rules -",
        "audit - --keys /dev/null",
        "profile detect https://tag.example/ --key -",
    ],
)
def test_a_closed_standard_input_is_a_usage_error(words: str) -> None:
    status, text = in_shell(f"{words} <&-")
    assert status == ExitCode.USAGE and text.count("\n") == 1
    assert "tandard input is closed; name a file." in text


@pytest.mark.parametrize(
    "words",
    [
        ("api-key", "create", "demo", "--days", "3000000"),
        ("api-key", "rotate", "demo", "1", "--days", "3000000"),
        ("simulate", "--every", "1e308"),
        ("simulate", "--every", "nan"),
        ("simulate", "--every", "inf"),
        ("simulate", "--forged", "nan"),
        ("simulate", "--start", "9999-12-31", "--every", "1e6"),
        ("simulate", "--taps", "1" + "0" * 400),
    ],
)
def test_a_number_out_of_range_is_a_usage_error(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert only_line(result)


def test_an_argument_that_is_not_utf8_is_a_usage_error() -> None:
    for words in ("account show $'\\xff'", "account create a --name $'\\xff'", "profile detect $'a\\xff'"):
        status, text = in_shell(words)
        assert status == ExitCode.USAGE and "is not valid UTF-8. See `" in text, text
    assert in_shell("$'\\xff'") == (ExitCode.USAGE, "Error: No such command '\\udcff'. See `python -m ixfast --help`.\n")


def test_a_path_may_be_any_bytes(tmp_path: Path) -> None:
    for name, flag in ((b"a\xff", ""), (b"b\xff", " --json")):
        folder = os.fsencode(tmp_path) + b"/" + name
        escaped = f"$'{tmp_path}/{chr(name[0])}\\xff'"
        assert in_shell(f"keys init --data-dir {escaped}{flag}") == (ExitCode.OK, "")
        assert os.path.exists(folder + b"/kek")  # noqa: PTH110 - a Path is text
    status, text = in_shell(f"audit {escaped} --keys {escaped}")
    assert status == ExitCode.USAGE and "b\\udcff cannot be read" in text


def test_an_error_escapes_what_could_control_the_terminal() -> None:
    for words in (("audit", "a\n\u202e\x1b[31m\r", "--keys", "x"), ("a\n\u202e\x1b[31m\r",)):
        assert r"a\n\u202e\x1b[31m\r" in only_line(run(*words)).replace("\\\\", "\\")
    assert only_line(run("audit", "", "--keys", "x")) == "'' cannot be read: No such file or directory."


# Private databases.


def test_every_command_is_classified_by_what_it_does_about_a_database() -> None:
    assert {path: len(classes_of(path)) for path in LEAVES} == dict.fromkeys(LEAVES, 1)
    assert len(ADMINISTRATING) > 10


def words_for(path: str, folder: Path) -> list[str]:
    """The words of a command with all required arguments."""
    file = folder / "file"
    file.write_text(NOWHERE)
    file.chmod(0o600)
    key_file = folder / "key"
    key_file.write_text("0" * 32)
    more = {"ixfast audit": ["--account", "x"], "ixfast account set": ["--open"], "ixfast group set": ["--active"]}
    words = path.split()[1:] + more.get(path, [])
    for each in LEAVES[path].params:
        if each.required:
            value = str(file) if isinstance(each.type, click.File | click.Path) or each.name == "file" else "x"
            value = str(key_file) if each.name == "key_file" else "1" if isinstance(each.type, click.IntRange) else value
            words += [value] if isinstance(each, click.Argument) else [each.opts[0], value]
    return words


@pytest.mark.parametrize("path", ADMINISTRATING)
def test_no_command_that_administrates_creates_a_database_unasked(path: str, default_dir: Path, tmp_path: Path) -> None:
    assert {"--dsn", "--dsn-file", "--data-dir", "--demo"} <= options(LEAVES[path])
    result = run(*words_for(path, tmp_path))
    assert result.exit_code == ExitCode.CONFIGURATION
    text = only_line(result)
    if path in ("ixfast keys status", "ixfast keys remove"):  # these read the key file first
        assert text.startswith(f"There is no key file at {default_dir}")
    else:
        assert text.startswith(f"There is no database in {default_dir}.")
        assert all(flag in text for flag in ("--dsn", "--data-dir", "--demo"))
    assert not default_dir.exists()


def test_keys_of_an_empty_database_do_not_create_it_either(default_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "kek"
    assert run("keys", "init", "--kek-file", str(file)).exit_code == 0
    for words in (("status",), ("rotate",), ("remove", "x")):
        result = run("keys", *words, "--kek-file", str(file))
        assert result.exit_code == ExitCode.CONFIGURATION
        if words != ("remove", "x"):  # which has no such key
            assert only_line(result).startswith(f"There is no database in {default_dir}.")
    assert not default_dir.exists()


def test_the_demo_and_its_taps_use_no_file_of_another_database(default_dir: Path, tmp_path: Path) -> None:
    """The default directory is that of another database: its key file and its counters stay as they are."""
    default_dir.mkdir()
    (default_dir / "kek").write_text("not read")
    (default_dir / "simulated-tags.json").write_text("not read")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in default_dir.iterdir()}
    for words, flags in (
        (("demo",), "--kek-file or --data-dir"),
        (("tap",), "--data-dir"),
        (("tap", "--url", "--derivation", "boltcard"), "--data-dir"),
        (("serve", "--demo"), "--data-dir"),
    ):
        for result in (run(*words, "--dsn", NOWHERE), run(*words, IXFAST_DSN=NOWHERE)):
            assert result.exit_code == ExitCode.CONFIGURATION
            assert f"With --dsn, set {flags} too" in only_line(result)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in default_dir.iterdir()} == before
    own = tmp_path / "own"
    assert "/v1/t?x=" in run("tap", "--dsn", NOWHERE, "--data-dir", str(own)).stdout
    assert [path.name for path in own.iterdir()] == ["simulated-tags.json"]


def test_a_tap_without_a_database_creates_nothing(default_dir: Path) -> None:
    result = run("tap")
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "`ixfast demo`" in only_line(result)
    assert not default_dir.exists()


# Exit codes.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (IxfastError("text"), ExitCode.FAILED),
        (InputError("not_found", "text"), ExitCode.FAILED),
        (ProfileError("text"), ExitCode.FAILED),
        (RecoveryError("text"), ExitCode.FAILED),
        (RotationError("text"), ExitCode.FAILED),
        (ConfigurationError("text"), ExitCode.CONFIGURATION),
        (KekFileError("text"), ExitCode.CONFIGURATION),
        (SchemaMismatchError("text"), ExitCode.CONFIGURATION),
        (UnreachableDatabaseError("text"), ExitCode.UNAVAILABLE),
        (EmbeddedPostgresError("text"), ExitCode.UNAVAILABLE),
        (ProviderError("Vault", "text"), ExitCode.UNAVAILABLE),
        (UnavailableError("unavailable", "database_unreachable"), ExitCode.UNAVAILABLE),
        (OSError(28, "No space left on device", "/a/file"), ExitCode.FAILED),
        (click.ClickException("text"), ExitCode.FAILED),
        (asyncpg.InsufficientPrivilegeError("permission denied for table account"), ExitCode.FAILED),
        (asyncpg.InvalidTextRepresentationError('invalid input syntax: "a secret"'), ExitCode.FAILED),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), ExitCode.UNAVAILABLE),
        (ConnectionRefusedError(111, "Connection refused"), ExitCode.UNAVAILABLE),
        (ValueError("a secret"), ExitCode.INTERNAL),
    ],
)
def test_an_error_has_a_code_and_one_line(error: Exception, code: ExitCode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(installation, "versions", fail)
    result = run("versions")
    assert result.exit_code == code
    text = only_line(result)
    assert "a secret" not in text
    assert ("permission denied for table account" in text) == isinstance(error, asyncpg.InsufficientPrivilegeError)
    if isinstance(error, IxfastError):
        assert exit_code_of(error) == code and text == str(error)


def test_a_bug_shows_its_place_and_on_request_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "versions", lambda: 1 // 0)
    text = only_line(run("versions"))
    assert text.startswith("ZeroDivisionError in line ") and "IXFAST_TRACEBACK=1" in text
    monkeypatch.setenv("IXFAST_TRACEBACK", "1")
    result = run("versions")
    assert result.exit_code == ExitCode.INTERNAL
    assert result.stderr.startswith("Traceback") and "ZeroDivisionError" in result.stderr


def test_a_database_that_cannot_be_reached() -> None:
    for words in (("migrate",), ("account", "create", "x"), ("export", "--account", "x")):
        result = run(*words, "--dsn", NOWHERE)
        assert result.exit_code == ExitCode.UNAVAILABLE
        assert "Cannot connect to the database" in only_line(result) and "a-password" not in result.stderr


def test_a_closed_pipe_ends_a_command_quietly() -> None:
    command = [sys.executable, "-m", "ixfast", "simulate", "--taps", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (ExitCode.BROKEN_PIPE, b"")


def test_ctrl_c_ends_a_command_quietly(tmp_path: Path) -> None:
    out = tmp_path / "taps"
    command = [sys.executable, "-m", "ixfast", "simulate", "--taps", "100000000"]
    with out.open("wb") as stdout, subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE) as process:
        eventually_sync(lambda: out.stat().st_size > 0, 60)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert (process.wait(60), process.stderr.read().strip()) == (ExitCode.INTERRUPTED, b"")


@pytest.mark.parametrize("library", ["click", "orjson"])  # of the command line, and of one command
@pytest.mark.parametrize("entry", ["module", "script"])
def test_ctrl_c_ends_a_command_quietly_while_it_loads(entry: str, library: str, tmp_path: Path) -> None:
    # An import that lasts. Like some libraries, it turns every exception into another one.
    stand_in = """
        import signal
        try:
            print("loading", flush=True)
            while True:
                signal.pause()
        except BaseException:
            raise ImportError from None
    """
    (tmp_path / f"{library}.py").write_text(textwrap.dedent(stand_in))
    project = Path(__file__).parents[2] / "pyproject.toml"
    module, function = tomllib.loads(project.read_text())["project"]["scripts"]["ixfast"].split(":")
    script = f"from {module} import {function}; {function}()"
    command = [sys.executable, *(["-m", "ixfast"] if entry == "module" else ["-c", script]), "simulate"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"loading\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stderr.read()) == (ExitCode.INTERRUPTED, b"")


# Output.


def test_every_command_that_prints_results_has_json() -> None:
    without = {path for path, command in LEAVES.items() if "--json" not in options(command)}
    assert without - set(OWN_OUTPUT) == set()


@pytest.mark.parametrize(
    "words",
    [
        ("versions",),
        ("settings",),
        ("tap", "--dsn", NOWHERE, "--data-dir", "FOLDER"),
        ("keys", "init", "--data-dir", "FOLDER"),
        ("rules", "test", "RULES"),
        ("rules", "explain", "RULES"),
        ("profile", "detect", "https://tag.example/?a=1", "--key", "0" * 32),
    ],
)
def test_json_is_one_document_on_standard_output(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rules").write_text('{"groups": [{"name": "a", "when": "first_scan", "response": "b"}], "default": "c"}')
    places = {"FOLDER": str(tmp_path), "RULES": str(tmp_path / "rules")}
    result = run(*(places.get(word, word) for word in words), "--json")
    assert result.exit_code in (ExitCode.OK, ExitCode.NEGATIVE), result.stderr
    assert isinstance(json.loads(result.stdout), dict)
    people = run(*(places.get(word, word) for word in words))
    assert people.stdout != result.stdout


def test_settings_are_a_table_for_people() -> None:
    result = run("settings", "--port", "9000")
    assert re.search(r"^port +9000 +8480$", result.stdout, re.MULTILINE)
    assert re.search(r"^trust_forwarded_for +false +false$", result.stdout, re.MULTILINE)
    assert "a-password" not in run("settings", IXFAST_DSN=NOWHERE).stdout


def on_terminal(*words: str, **environment: str) -> tuple[int, str]:
    """The exit status of a command whose standard error is a terminal, and what that shows."""
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "ixfast", *words]
    variables = {**os.environ, "TERM": "xterm", **environment}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=inside, env=variables)
    os.close(inside)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(outside, 10_000):
            shown += piece
    os.close(outside)
    return process.wait(60), shown.decode()


def test_a_terminal_gets_colours_unless_they_are_unwanted() -> None:
    assert "\x1b[31mError:\x1b[0m" in on_terminal("tap", "--zzz", NO_COLOR="")[1]
    assert on_terminal("tap", "--zzz", NO_COLOR="1")[1].startswith("Error: ")


def test_an_audit_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    keys, taps = tmp_path / "keys", tmp_path / "taps"
    taps.write_text(run("simulate", "--keys-out", str(keys)).stdout)
    status, shown = on_terminal("audit", str(taps), "--keys", str(keys))
    assert status == ExitCode.NEGATIVE
    assert "reading" in shown and "100%" in shown


def test_a_count_is_one_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal, expected in ((False, ""), (True, "\r1,000 passes\r2,000 passes\n")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with progress.running_count("passes") as show:
            show(1000)
            show(2000)
        assert capsys.readouterr().err == expected


# Completion and imports.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_commands_in_each_shell(shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_IXFAST_COMPLETE" in script and "ixfast" in script
    assert run("completion", "csh").exit_code == ExitCode.USAGE


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    bash = requires("bash", package="bash")
    program = tmp_path / "ixfast"
    code = "import sys; sys.argv[0] = 'ixfast'; from ixfast.cli import main; main()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    program.chmod(0o755)
    lines = (
        'eval "$(ixfast completion bash)"',
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()',
        '_ixfast_completion ixfast; echo "${COMPREPLY[*]}"; }',
        "complete_words ixfast ver",
        "complete_words ixfast import --dry",
        "complete_words ixfast completion ''",
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([bash, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["verify versions", "--dry-run", "bash zsh fish"], done.stderr


def test_the_help_of_ixfast_imports_no_command() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ixfast", "--help"]
    imported = set(re.findall(r"\| +(\S+)$", subprocess.run(command, capture_output=True, text=True).stderr, re.MULTILINE))
    assert "click.core" in imported and "ixfast.cli.main" in imported
    heavy = {"asyncpg", "aiohttp", "cryptography", "ixfast.cli.database", "ixfast.cli.serve"}
    assert imported & heavy == set()


def test_settings_show_where_the_private_files_are(default_dir: Path, tmp_path: Path) -> None:
    shown = json.loads(run("settings", "--json").stdout)
    assert (shown["data_dir"], shown["kek_file"]) == (str(default_dir), str(default_dir / "kek"))
    shown = json.loads(run("settings", "--json", "--data-dir", str(tmp_path), "--kek-file", "own").stdout)
    assert (shown["data_dir"], shown["kek_file"]) == (str(tmp_path), "own")


def test_the_benchmarks_are_listed_without_their_libraries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_NEEDED", ("no_such_library",))
    assert run("bench", "--help").exit_code == 0
    assert "the standard set" in capfd.readouterr().out
    assert "`make bench`" in only_line(run("bench"))


def test_presets_are_listed_and_completed() -> None:
    items = json.loads(run("profile", "list", "--json").stdout)["items"]
    assert [each["name"] for each in items] == list(PRESETS) and all(each["template"] for each in items)
    for words in (["group", "create"], ["group", "set"], ["simulate"]):
        parser = BashComplete(main, {}, "ixfast", "_IXFAST_COMPLETE")
        assert [each.value for each in parser.get_completions([*words, "--profile"], "boltc")] == ["boltcard"], words


def test_no_help_names_a_type_of_python() -> None:
    for path in LEAVES:
        if path != "ixfast bench":
            text = run(*path.split()[1:], "--help").stdout
            assert not re.search(r"^  --.* (INTEGER RANGE|FLOAT RANGE|PATH|FILENAME|\[%Y)", text, re.MULTILINE), path
            assert "--account TEXT" not in text, path
