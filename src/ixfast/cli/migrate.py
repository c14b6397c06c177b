"""`ixfast migrate` and `ixfast maintain`: what the owner of the tables does, the first at each upgrade and the second daily."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click

from ixfast.cli.command_group import leave
from ixfast.cli.database import resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, print_json
from ixfast.errors import ConfigurationError
from ixfast.store import partitions, privileges
from ixfast.store.migrate import check, connected, migrate
from ixfast.store.partitions import Change
from ixfast.store.table_locks import TableLocks


def register(main: click.Group) -> None:
    @main.command("migrate")
    @click.option(
        "--post", is_flag=True, help="Also apply the migrations that require all workers of the previous release to be stopped."
    )
    @click.option("--grant-to", metavar="ROLE", help="Also grant ROLE what `ixfast serve` needs, and nothing more.")
    @json_option
    @with_settings(*DATABASE)
    def migrate_command(post: bool, grant_to: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        """Upgrade the schema of the database to this release.

        Run it as the role that owns the database. `ixfast serve` can use another role, which creates and alters nothing.
        """
        changes: list[Change] = []
        with resolve(flags, config).server() as dsn:
            applied = asyncio.run(migrate(dsn, post=post, changed=changes.append, waiting=_wait))
            if grant_to is not None:
                asyncio.run(_grant(dsn, grant_to))
        done = [f"applied {name}" for name in applied]
        granted = [f"granted {grant_to} what a server needs"] if grant_to is not None else []
        report: dict[str, object] = {"applied": applied}
        if grant_to is not None:
            report["granted_to"] = grant_to
        _report(as_json, report, done, changes, granted)

    @main.command("maintain")
    @json_option
    @with_settings(*DATABASE, "scan_log_retention_days")
    def maintain(as_json: bool, config: Path | None, **flags: object) -> None:
        """Create the partitions of the coming months, and drop those beyond the retention.

        A server does this itself unless its role does not own the tables. Then run this command daily as the role that does.
        """
        changes: list[Change] = []
        environment = resolve(flags, config)
        with environment.server() as dsn:
            dropped = asyncio.run(_maintain(dsn, environment.settings.scan_log_retention_days, changes))
        _report(as_json, {"dropped": dropped}, [f"dropped partition {name}" for name in dropped], changes)


async def _grant(dsn: str, role: str) -> None:
    async with connected(dsn) as connection:
        locks = TableLocks(dsn, connection, _wait)
        await locks.patiently(lambda: privileges.grant_to(connection, role), f"granting privileges to {role}")


async def _maintain(dsn: str, retention_days: int, changes: list[Change]) -> list[str]:
    async with connected(dsn) as connection:
        await check(connection)
        await privileges.require_owner(connection)
        clocks = await partitions.read_clocks(connection)
        locks = TableLocks(dsn, connection, _wait)
        await partitions.make_ahead(connection, clocks, changed=changes.append, locks=locks)
        if not clocks.agree:
            raise ConfigurationError(
                "The clocks of this host and of the database differ by more than an hour, so no partition was dropped. Set them "
                "right (NTP), then run the command again."
            )
        return await partitions.drop_old(connection, retention_days, clocks, locks=locks)


def _report(
    as_json: bool, json: dict[str, object], done: Sequence[str], changes: Sequence[Change], further: Sequence[str] = ()
) -> None:
    """Print what was done. The exit status is 1 if a partition could not be created, 4 if another session locked its table."""
    made = [str(change) for change in changes if change.problem is None]
    problems = [str(change) for change in changes if change.problem is not None]
    if as_json:
        print_json({**json, "partitions": made, "problems": problems})
    elif done or made or further or not problems:
        nothing = [] if done or made else ["nothing to do" if "dropped" in json else "nothing to apply"]
        click.echo("\n".join([*done, *made, *nothing, *further]))
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        leave(ExitCode.CONFIGURATION if any(change.locked for change in changes) else ExitCode.FAILED)


def _wait(line: str) -> None:
    click.echo(f"{line[:1].upper()}{line[1:]}", err=True)
