"""`ixfast settings`, `ixfast versions` and `ixfast completion`: what is installed and how it is configured."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import get_completion_class

from ixfast.cli.database import resolve
from ixfast.cli.options import ALL, with_settings
from ixfast.cli.output import json_option, print_block, print_json, print_table
from ixfast.config import settings as settings_module
from ixfast.versions import versions

_SHELLS = ("bash", "zsh", "fish")


def register(main: click.Group) -> None:
    @main.command("settings")
    @json_option
    @with_settings(*ALL)
    def settings_command(as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the settings in effect, with secrets hidden."""
        environment = resolve(flags, config)
        values = settings_module.dump(environment.settings)
        values |= {"data_dir": str(environment.data_dir), "kek_file": str(environment.kek_file)}
        if as_json:
            print_json(values)
            return
        described = {each.name: each for each in settings_module.describe()}
        rows = [(name, _shown(value, described[name].default), described[name].default) for name, value in values.items()]
        print_table(("SETTING", "VALUE", "DEFAULT"), rows, empty="")

    @main.command("versions")
    @json_option
    def versions_command(as_json: bool) -> None:
        """Show the versions of ixfast, its core and its libraries."""
        if as_json:
            print_json(versions())
        else:
            print_block(versions())

    @main.command("completion")
    @click.argument("shell", type=click.Choice(_SHELLS))
    @click.pass_context
    def completion(ctx: click.Context, shell: str) -> None:
        """Print a script that completes ixfast's commands and options in SHELL.

        \b
        bash: add this line to ~/.bashrc:
          eval "$(ixfast completion bash)"
        zsh: add this line to ~/.zshrc, after compinit:
          eval "$(ixfast completion zsh)"
        fish: run this command once:
          ixfast completion fish > ~/.config/fish/completions/ixfast.fish
        """
        script = get_completion_class(shell)
        assert script is not None
        click.echo(script(ctx.find_root().command, {}, "ixfast", "_IXFAST_COMPLETE").source())


def _shown(value: object, default: str) -> str:
    """A value as people read it: booleans as they are written, and the default's description for what is not set."""
    if value is None:
        return default
    return str(value).lower() if isinstance(value, bool) else str(value)
