"""The classes behind all commands: sections in the help, errors in one line, and commands that are loaded when needed.

Every command ends with a status of `exit_codes.py`. No error prints a traceback, unless `IXFAST_TRACEBACK` is set to 1.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, NoReturn

import click

from ixfast.cli.exit_codes import MEANINGS, ExitCode, exit_code_of, system_failure
from ixfast.cli.options import TOPICS, SettingOption, setting_of_flag
from ixfast.cli.output import printable
from ixfast.cli.standard_streams import replace_closed_streams
from ixfast.errors import IxfastError
from ixfast.process import logs
from ixfast.process.interrupts import QuietInterrupts

# The error for a group without a command, since click 8.2; before, click printed the help and succeeded.
_HELP: tuple[type, ...] = tuple(filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)]))
_ENDS = (".", "?")
_METAVARS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((click.IntRange, click.FloatRange), "N"),
    ((click.Path, click.File), "FILE"),
    (click.DateTime, "TIME"),
)
_SUMMARY_CHARS_MAX = 200
_TOPICS_FROM = 12  # With fewer settings than this, one section shows them all.


class Command(click.Command):
    """A command whose help has a section for settings; with many of them, one for each topic."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        for each in self.params:
            if isinstance(each, click.Option) and each.metavar is None and not each.is_flag:
                each.metavar = _metavar(each)

    def invoke(self, ctx: click.Context) -> Any:
        _require_utf8(self.params, ctx)
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            # Raised by the command itself, whose messages contain the remedy. Those of click, raised before, get a hint.
            raise _ExplainedError(error.format_message()) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        settings = [each for each in options if isinstance(each, SettingOption)]
        _write_section(ctx, formatter, "Options", [each for each in options if not isinstance(each, SettingOption)])
        if len(settings) < _TOPICS_FROM:
            _write_section(ctx, formatter, "Settings", settings)
        else:
            for topic in TOPICS:
                _write_section(ctx, formatter, topic, [each for each in settings if each.topic == topic])
        if settings:
            formatter.write_paragraph()
            formatter.write_text(
                "Every setting can also be an environment variable, such as IXFAST_DSN, or a line of the "
                "--config file. `ixfast settings` lists them all."
            )


def _require_utf8(parameters: Iterable[click.Parameter], ctx: click.Context) -> None:
    """Raise UsageError for an argument that is not UTF-8, whose bytes Python has as surrogates. Paths may be any bytes."""
    for each in parameters:
        if isinstance(each.type, (click.Path, click.File)) or _is_path(each.metavar or ""):
            continue
        value = ctx.params.get(each.name or "")
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise click.UsageError(f"{each.get_error_hint(ctx)} is not valid UTF-8.", ctx)


def _is_path(metavar: str) -> bool:
    return "FILE" in metavar or metavar == "DIRECTORY"


def _metavar(option: click.Option) -> str | None:
    """What the help shows for the value of an option, where click would show the name of a Python type."""
    if option.name == "aid":
        return "AID"
    return next((metavar for kind, metavar in _METAVARS if isinstance(option.type, kind)), None)


def _write_section(ctx: click.Context, formatter: click.HelpFormatter, title: str, parameters: Iterable[click.Parameter]) -> None:
    records = [record for each in parameters if (record := each.get_help_record(ctx)) is not None]
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


class CommandGroup(click.Group):
    """A group whose commands and groups are of these classes."""

    command_class = Command
    group_class: type[click.Group] | type[type] | None = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the whole first sentence of their help, which click would cut off."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries().items()))

    def summaries(self) -> dict[str, str]:
        """The first sentence of the help of each command."""
        return {name: command.get_short_help_str(_SUMMARY_CHARS_MAX) for name, command in self.commands.items()}


class RootGroup(CommandGroup):
    """The command `ixfast`. It imports the module of a command when the command is used, and reports all errors.

    `modules` has a module for each command or group, and the first line of its help. A module has a function `register(group)`,
    which adds its commands.
    """

    group_class = CommandGroup

    def __init__(self, *arguments: Any, modules: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        self._loaded: dict[str, click.Command] = {}
        self._modules = dict(modules)
        super().__init__(*arguments, **attributes)

    @property
    def commands(self) -> MutableMapping[str, click.Command]:
        """All commands, for programs that walk through them."""
        for name in self._modules:
            self._load(name)
        return {name: self._loaded[name] for name in self._modules}

    @commands.setter
    def commands(self, commands: MutableMapping[str, click.Command]) -> None:
        self._loaded = dict(commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        self._loaded[name or str(cmd.name)] = cmd

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules:
            self._load(cmd_name)
        return self._loaded.get(cmd_name)

    def _load(self, name: str) -> None:
        if name not in self._loaded:
            with QuietInterrupts():
                module = importlib.import_module(self._modules[name][0])
            module.register(self)

    def summaries(self) -> dict[str, str]:
        return {name: summary for name, (_, summary) in self._modules.items()}

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit with its status; without `standalone_mode`, return the result and raise errors."""
        run = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        replace_closed_streams()
        sys.exit(_status_of(run))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click would end with the status 1
                raise click.exceptions.Exit(ExitCode.BROKEN_PIPE) from None
            raise


class _ExplainedError(click.UsageError):
    """A usage error whose message says what to do."""


def _status_of(run: Callable[[], Any]) -> int:
    """Run a command, print its error if there is one, and return the exit status."""
    try:
        status = run()
        sys.stdout.flush()
        status = status if isinstance(status, int) else ExitCode.OK
    except (KeyboardInterrupt, click.Abort):
        status = ExitCode.INTERRUPTED
    except BrokenPipeError:
        status = ExitCode.BROKEN_PIPE
    except click.ClickException as error:
        if isinstance(error, _HELP):
            click.echo(error.format_message(), err=True)
        else:
            _print_error(_text_of(error))
        status = error.exit_code
    except IxfastError as error:
        _print_error(str(error))
        status = exit_code_of(error)
    except Exception as error:
        status = _unexpected(error)
    if status == ExitCode.BROKEN_PIPE:
        _discard_output()
    return int(status)


def _text_of(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError) or isinstance(error, _ExplainedError) or error.ctx is None:
        return error.format_message()
    path = error.ctx.command_path
    if isinstance(error, click.NoSuchOption):
        setting = setting_of_flag(error.option_name)
        if setting is not None:
            return f"{error.option_name} is not an option of `{path}` but a setting of `ixfast serve`; set {setting.env} instead."
        # click's own text differs between its versions and by the number of suggestions
        close = " or ".join(sorted(error.possibilities or ()))
        return f"No such option {error.option_name}.{f' Did you mean {close}?' if close else ''} See `{path} --help`."
    text = error.format_message()
    return f"{text if text.endswith(_ENDS) else f'{text}.'} See `{path} --help`."


def _print_error(text: str) -> None:
    """Print one line, as the log prints it if that is JSON. What it quotes is escaped, so that it cannot control the terminal."""
    text = printable(text.replace("\n\t", " "))  # click lists choices on lines of their own
    if logs.are_json():
        logging.getLogger("ixfast").error("%s", text)
        return
    click.echo(f"{click.style('Error:', fg='red') if _is_coloured() else 'Error:'} {text}", err=True)


def _is_coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _unexpected(error: Exception) -> ExitCode:
    """Report an error that no command expects. Its text may contain a secret, so that it is not printed."""
    if os.environ.get("IXFAST_TRACEBACK") == "1":
        traceback.print_exception(error)
        return ExitCode.INTERNAL
    failure = system_failure(error)
    if failure is not None:
        code, text = failure
        _print_error(text)
        return code
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    _print_error(
        f"{type(error).__name__}{place}. This is a bug; run the command with IXFAST_TRACEBACK=1 and report the traceback."
    )
    return ExitCode.INTERNAL


def _discard_output() -> None:
    """Point standard output at /dev/null, so that the interpreter does not fail again when it flushes at its end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)


def exit_status_table() -> str:
    """The table of exit statuses for the help."""
    return "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())


def leave(code: ExitCode) -> NoReturn:
    """End the command with this status."""
    raise click.exceptions.Exit(code)
