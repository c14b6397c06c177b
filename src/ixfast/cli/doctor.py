"""`ixfast doctor`: checks an installation, a line for each check, and changes nothing.

What it checks is in `host_checks` and `database_checks`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import click

from ixfast.cli import database_checks, host_checks
from ixfast.cli.command_group import leave
from ixfast.cli.database import CommandEnvironment, resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.host_checks import Check, checked
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import cell_text, coloured, json_option, print_json
from ixfast.config.settings import dump
from ixfast.errors import IxfastError

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
_NAME_WIDTH = 14


def register(main: click.Group) -> None:
    @main.command("doctor")
    @json_option
    @with_settings(*DATABASE_AND_KEYS, "port", "private_port", demo=False)
    def doctor(as_json: bool, config: Path | None, **flags: object) -> None:
        """Check the installation, its files and its database, and print how to fix what is wrong.

        Run it with the settings of `ixfast serve`. Each check is OK, WARN or FAIL; the exit status is 3 if any is FAIL. The
        command changes nothing, and neither creates nor starts a database.
        """
        # The worker's own checks log what they find, which is printed here as the result of a check.
        logging.getLogger("ixfast.fitness").addHandler(logging.NullHandler())
        found = []
        for check in _checks(flags, config):
            found.append(check)
            if not as_json:
                _print(check)
        failed = sum(check.status == "FAIL" for check in found)
        warned = sum(check.status == "WARN" for check in found)
        if as_json:
            print_json({"ok": not failed, "checks": [check._asdict() for check in found]})
        else:
            click.echo(f"{len(found)} checks: {failed} failed, {warned} warning{'' if warned == 1 else 's'}")
        if failed:
            leave(ExitCode.NEGATIVE)


def _print(check: Check) -> None:
    status = coloured(f"{check.status:4}", fg=_COLOURS[check.status])
    click.echo(f"{status}  {check.name:{_NAME_WIDTH}}  {cell_text(check.text)}")


def _checks(flags: dict[str, object], config: Path | None) -> Iterator[Check]:
    yield checked("installation", host_checks.check_installation)
    try:
        environment = resolve(flags, config)
    except IxfastError as error:
        yield Check("settings", "FAIL", str(error))
        return
    settings = environment.settings
    defaults = dump(type(settings)())
    changed = [name for name, value in dump(settings).items() if value != defaults[name]]
    yield Check("settings", "OK", f"valid; not the default: {', '.join(changed)}" if changed else "valid; all are the defaults")
    yield checked("data directory", lambda: host_checks.check_data_dir(environment))
    yield checked("key file", lambda: host_checks.check_key_file(environment))
    yield checked("TLS", lambda: host_checks.check_tls(settings))
    yield checked("addresses file", lambda: host_checks.check_addresses(environment))
    yield checked("limits", lambda: host_checks.check_limits(settings))
    yield checked("server", lambda: host_checks.check_server(environment))
    dsn: list[str] = []
    without = checked("database", lambda: _find_database(environment, dsn))
    if not dsn:
        yield without
        return
    yield from asyncio.run(_database_checks(dsn[0], environment))


def _find_database(environment: CommandEnvironment, dsn: list[str]) -> Check:
    """Append the connection string of the database that runs, or return why none does."""
    if environment.settings.dsn is not None:
        dsn.append(environment.settings.dsn)
    elif environment.dsn_file.exists():
        dsn.append(environment.dsn_file.read_text())
    elif environment.has_private_database():
        text = (
            f"The private PostgreSQL in {environment.data_dir} does not run; not checked: keys, schema, ledger. "
            "Run `ixfast serve`, then check again."
        )
        return Check("database", "WARN", text)
    else:
        text = f"There is no database in {environment.data_dir}: name one with --dsn, or run `ixfast serve`, which creates it."
        return Check("database", "WARN", text)
    return Check("database", "OK", "")


async def _database_checks(dsn: str, environment: CommandEnvironment) -> list[Check]:
    found = database_checks.check_database(dsn, environment)
    return [check async for check in found]
