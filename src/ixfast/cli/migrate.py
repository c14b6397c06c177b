"""`ixfast migrate`: upgrades the schema of the database to this release."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from ixfast.cli.command_group import leave
from ixfast.cli.database import resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, print_json
from ixfast.store.migrate import migrate
from ixfast.store.partitions import Change


def register(main: click.Group) -> None:
    @main.command("migrate")
    @click.option(
        "--post", is_flag=True, help="Also apply the migrations that require all workers of the previous release to be stopped."
    )
    @json_option
    @with_settings(*DATABASE)
    def migrate_command(post: bool, as_json: bool, config: Path | None, **flags: object) -> None:
        """Upgrade the schema of the database to this release."""
        changes: list[Change] = []
        with resolve(flags, config).server() as dsn:
            applied = asyncio.run(migrate(dsn, post=post, changed=changes.append))
        partitions = [str(change) for change in changes if change.problem is None]
        problems = [str(change) for change in changes if change.problem is not None]
        if as_json:
            print_json({"applied": applied, "partitions": partitions, "problems": problems})
        elif applied or partitions or not problems:
            click.echo("\n".join([*(f"applied {name}" for name in applied), *partitions]) or "nothing to apply")
        for problem in problems:
            click.echo(f"Error: {problem}", err=True)
        if problems:
            leave(ExitCode.FAILED)
