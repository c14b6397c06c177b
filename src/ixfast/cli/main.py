"""The entry point of the command line: `serve`, `migrate`, `settings` and `versions`, and the registration of all others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ixfast.cli import account, audit, bench, import_export, keys, profile, recover, rules, simulate, tap, verify
from ixfast.cli.database import CommandEnvironment, connected, resolve
from ixfast.config import settings as settings_module
from ixfast.config.settings import Settings
from ixfast.embedded import EmbeddedPostgres
from ixfast.errors import IxfastError
from ixfast.process import hardening, logs
from ixfast.store.migrate import migrate
from ixfast.store.partitions import Change
from ixfast.versions import versions


class _Group(click.Group):
    """Prints the errors of ixfast as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IxfastError as error:
            raise click.ClickException(str(error)) from None


def _with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every setting to a command, a `-file` variant for every secret, and `--config`."""
    for setting in reversed(settings_module.describe()):
        if setting.secret:
            command = click.option(
                f"{setting.flag}-file", f"{setting.name}_file", metavar="PATH", help=f"A file that contains {setting.flag}."
            )(command)
        command = click.option(setting.flag, setting.name, metavar=setting.kind.upper(), help=setting.consequence)(command)
    return click.option("--config", type=click.Path(path_type=Path), envvar="IXFAST_CONFIG", help="A TOML file with settings.")(
        command
    )


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ixfast", prog_name="ixfast")
def main() -> None:
    """Verification engine for authentication NFC tags."""
    hardening.forbid_core_dumps()


@main.command()
@click.option("--demo", is_flag=True, help="Create the demo account with simulated tags, and print a tap to try.")
@_with_settings
def serve(demo: bool, config: Path | None, **flags: object) -> None:
    """Serve scans. Without --dsn this starts an embedded PostgreSQL in the data directory."""
    # Imported here because it imports all of HTTP, which takes half a second that other commands need not spend.
    from ixfast.process.supervisor import Supervisor

    environment = resolve(flags, config)
    settings = environment.settings
    logs.configure(settings, "supervisor")
    environment.check_addresses()
    with contextlib.ExitStack() as stack:
        postgres = None
        dsn = settings.dsn
        if dsn is None:
            postgres = EmbeddedPostgres(environment.data_dir, max_connections=_connections(settings))
            stack.enter_context(postgres)
            dsn = postgres.dsn
            environment.publish(dsn)
            stack.callback(environment.withdraw)
        environment.check_keys()  # report an unusable key file before anything is served
        _prepare(environment, dsn, demo=demo)
        announce = _banner(environment, demo=demo)
        Supervisor(settings, dsn, environment.kek_file, postgres=postgres, announce=announce).run()


def _connections(settings: Settings) -> int:
    """The connections of all workers, and some for commands and interactive sessions."""
    return settings.worker_count * (settings.committers + settings.pool_size + 1) + 20


def _prepare(environment: CommandEnvironment, dsn: str, *, demo: bool) -> None:
    async def work() -> None:
        await migrate(dsn)
        if demo:
            async with connected(dsn) as connection:
                await tap.ensure_demo(connection, environment.keys())

    asyncio.run(work())


def _banner(environment: CommandEnvironment, *, demo: bool) -> Callable[[int, int], None]:
    def announce(port: int, private_port: int) -> None:
        settings = environment.settings
        scheme = "https" if settings.tls_cert is not None else "http"
        running = versions()
        click.echo(f"ixfast {running['ixfast']} ({running['core']}) verifies scans at {scheme}://{settings.host}:{port}")
        click.echo(f"health, metrics and versions at http://{settings.private_host}:{private_port}")
        if running["core_reason"] is not None:
            click.echo(f"The slow pure-Python core is in use: {running['core_reason']}.")
        if demo:
            click.echo("A tap of a simulated tag, which passes once; run it twice:")
            click.echo(f"  {tap.curl_line(environment, f'{scheme}://{settings.host}:{port}')}")

    return announce


@main.command("migrate")
@click.option(
    "--post", is_flag=True, help="Also apply the migrations that require all workers of the previous release to be stopped."
)
@_with_settings
def migrate_command(post: bool, config: Path | None, **flags: object) -> None:
    """Upgrade the schema of the database to this release."""
    environment = resolve(flags, config)
    changes: list[Change] = []
    with environment.database() as dsn:
        applied = asyncio.run(migrate(dsn, post=post, changed=changes.append))
    done = [f"applied {name}" for name in applied] + [str(change) for change in changes if change.problem is None]
    problems = [str(change) for change in changes if change.problem is not None]
    if done or not problems:
        click.echo("\n".join(done) or "nothing to apply")
    if problems:
        raise click.ClickException("\n".join(problems))


@main.command("settings")
@_with_settings
def settings_command(config: Path | None, **flags: object) -> None:
    """Show the settings in effect, with secrets hidden."""
    click.echo(json.dumps(settings_module.dump(resolve(flags, config).settings), indent=2, default=str))


@main.command("versions")
def versions_command() -> None:
    """Show the versions of ixfast, its core and its libraries, and why the native core is not in use if so."""
    for name, version in versions().items():
        click.echo(f"{name:14} {version if version is not None else '-'}")


tap.register(main, _with_settings)
account.register(main, _with_settings)
keys.register(main, _with_settings)
verify.register(main, _with_settings)
profile.register(main, _with_settings)
rules.register(main, _with_settings)
import_export.register(main, _with_settings)
audit.register(main, _with_settings)
recover.register(main, _with_settings)
simulate.register(main, _with_settings)
bench.register(main)
