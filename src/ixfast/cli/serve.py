"""`ixfast serve`: runs the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from ixfast.cli.command_group import Command
from ixfast.cli.database import CommandEnvironment, ServerAddresses, connected, resolve
from ixfast.cli.options import ALL, with_settings
from ixfast.cli.standard_streams import discard_closed_output
from ixfast.config.addresses import authority
from ixfast.config.settings import PREFIX, Settings
from ixfast.embedded import EmbeddedPostgres
from ixfast.process import logs
from ixfast.store.migrate import migrate
from ixfast.versions import versions

log = logging.getLogger("ixfast.serve")


def register(main: click.Group) -> None:
    @main.command(cls=ServeCommand)
    @click.option("--demo", is_flag=True, help="Create the demo account with simulated tags, and print a tap to try.")
    @with_settings(*ALL)
    def serve(demo: bool, config: Path | None, **flags: object) -> None:
        """Serve scans. Without --dsn this starts a private PostgreSQL in the data directory."""
        # Imported here because `--help` need not load it.
        from ixfast.process import tls
        from ixfast.process.supervisor import Supervisor

        discard_closed_output()
        environment = resolve(flags, config)
        settings = environment.settings
        if demo:
            environment.require_own_files(_demo_commands().COUNTERS, "--data-dir")
        logs.configure(settings, "supervisor")
        environment.check_addresses()
        tls.check(settings)
        with contextlib.ExitStack() as stack:
            # Before a database or a key file is created, because a port or the Unix socket may be taken; and so that the workers
            # load meanwhile.
            announce = _banner(environment, demo=demo)
            supervisor = stack.enter_context(Supervisor(settings, environment.kek_file, announce=announce))
            postgres = None
            dsn = settings.dsn
            if dsn is None:
                postgres = EmbeddedPostgres(environment.data_dir, max_connections=_connections(settings))
                stack.callback(postgres.stop)
                postgres.lock()
                log.info("%s", environment.start_message())
                postgres.start()
                dsn = postgres.dsn
                environment.publish(dsn)
                stack.callback(environment.withdraw)
            environment.check_key_file()
            _prepare(environment, dsn, demo=demo)
            supervisor.run(dsn, postgres)


def _demo_commands() -> ModuleType:
    """Imported only for the demo: it loads simulated tags of every encoding."""
    return import_module("ixfast.cli.tap")


def _connections(settings: Settings) -> int:
    """The connections of all workers, and some for commands and interactive sessions."""
    return settings.worker_count * (settings.committers + settings.pool_size + 1) + 20


def _prepare(environment: CommandEnvironment, dsn: str, *, demo: bool) -> None:
    async def work() -> None:
        await migrate(dsn)
        async with connected(dsn) as connection:
            warning = await environment.check_keys(connection)
            if warning is not None:
                log.error("%s Scans of tags whose keys are sealed under it get 503 until then.", warning)
            if demo:
                await _demo_commands().ensure_demo(connection, await environment.keys(connection))

    asyncio.run(work())


def _banner(environment: CommandEnvironment, *, demo: bool) -> Callable[[int, int], None]:
    say = _log_line if logs.are_json() else click.echo

    def announce(port: int, private_port: int) -> None:
        settings = environment.settings
        addresses = ServerAddresses.of(settings, port, private_port)
        if settings.dsn is None:
            environment.publish_addresses(addresses)
        scans = f"{settings.scheme}://{authority(settings.host, port)}"
        private = f"{settings.private_scheme}://{authority(settings.private_host, private_port)}"
        running = versions()
        say(f"ixfast {running['ixfast']} ({running['core']}) verifies scans at {scans}")
        say(f"health, metrics and versions at {private}")
        if settings.unix_socket is not None:
            path = shlex.quote(str(settings.unix_socket))
            say(f"scans also through the Unix socket {path}:")
            say(f"  curl --unix-socket {path} 'http://localhost/v1/t?x=nosuchtag'")
        if running["core_reason"] is not None:
            say(f"The slow pure-Python core is in use: {running['core_reason']}.")
        if demo:
            say("A tap of a simulated tag, which passes once; run it twice:")
            say(f"  {_demo_commands().curl_line(environment, addresses.scans)}")

    return announce


def _log_line(text: str) -> None:
    log.info("%s", text.strip())


class ServeCommand(Command):
    """`ixfast serve`, whose output goes to a log collector: with `log_format` json, errors are JSON from the first line on."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if wants_json_log(args, os.environ):
            logs.start("supervisor", "json")
        return super().make_context(info_name, args, parent, **extra)


def wants_json_log(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether flags, environment or settings file ask for a log in JSON, read without checking anything else in them."""
    flags = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if "=" in word)
    chosen = flags.get("--log-format") or environ.get(f"{PREFIX}LOG_FORMAT")
    path = flags.get("--config") or environ.get(f"{PREFIX}CONFIG")
    if not chosen and path:
        with contextlib.suppress(OSError, ValueError):
            chosen = str(tomllib.loads(Path(path).read_text()).get("log_format"))
    return chosen == "json"
