"""`ixfast demo` and `ixfast tap`: the demo account and its simulated tags."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from urllib.parse import urlencode

import click

from ixfast.chips import PRESETS
from ixfast.cli.database import CommandEnvironment, ServerAddresses, connected, resolve
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import json_option, names_line, print_json
from ixfast.errors import ConfigurationError
from ixfast.testing.provision import DEMO_AID, DEMO_DERIVED, DEMO_PROFILE, demo_fleet, derived_demo_fleet, ensure_demo
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

COUNTERS = "simulated-tags.json"
"""File with the counters of the simulated tags that `ixfast tap` has tapped, in the data directory."""

__all__ = ["curl_line", "ensure_demo", "next_tap", "register"]


def next_tap(environment: CommandEnvironment, fleet: VirtualFleet, index: int = 0) -> VirtualTag:
    """A simulated tag of the demo account, with its counter incremented. The counters are stored in the data directory."""
    # Under root the embedded PostgreSQL runs as another user, who must be able to enter; each file in it has its own mode.
    environment.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    descriptor = os.open(environment.data_dir / COUNTERS, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counters = json.loads(file.read() or "{}")
        tag = fleet[index]
        counters[tag.xuid] = tag.counter = counters.get(tag.xuid, 0) + 1
        file.seek(0)
        file.truncate()
        json.dump(counters, file)
    return tag


def parameters_of(tag: VirtualTag, *, enrols: bool = False) -> dict[str, str]:
    """The parameters of `/v1/t` for this tap. A tag that is not enrolled yet has no tag code and is identified by its chip."""
    parameters = {"x": tag.xuid, **tag.parameters_at(tag.counter)}
    if not enrols:
        return parameters
    uid = {} if tag.profile.encrypted else {"u": tag.uid.hex().upper()}
    return {"a": DEMO_AID, **uid, **{name: value for name, value in parameters.items() if name != "x"}}


def curl_line(environment: CommandEnvironment, base_url: str) -> str:
    return f"curl '{base_url}/v1/t?{urlencode(parameters_of(next_tap(environment, demo_fleet())))}'"


def _has_demo(environment: CommandEnvironment) -> bool:
    """Whether the private database has the demo account; a stopped database is not started to find out."""
    if not environment.has_private_database():
        return False
    dsn = environment.running_dsn()

    async def work(dsn: str) -> bool:
        async with connected(dsn) as connection:
            return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM account WHERE aid = $1)", DEMO_AID))

    return dsn is None or asyncio.run(work(dsn))


def register(main: click.Group) -> None:
    @main.command()
    @json_option
    @with_settings(*DATABASE_AND_KEYS, demo=False)
    def demo(as_json: bool, config: Path | None, **flags: object) -> None:
        """Provision the demo account with simulated tags of every encoding."""
        environment = resolve(flags, config)
        if environment.settings.kek_file is None:
            environment.require_own_files("key file", "--kek-file", "--data-dir")

        async def work(dsn: str) -> bool:
            async with connected(dsn) as connection:
                return await ensure_demo(connection, await environment.sealing_keys(connection))

        with environment.database(create=True) as dsn:
            made = asyncio.run(work(dsn))
        if as_json:
            print_json({"account": DEMO_AID, "created": made})
            return
        click.echo(f"account {DEMO_AID} {'created' if made else 'exists already'}; tap its tags with `ixfast tap`")

    @main.command(epilog=f"\b\n{names_line('Presets', PRESETS)}")
    @click.option(
        "--profile",
        metavar="PRESET",
        type=click.Choice(list(PRESETS)),
        default=DEMO_PROFILE,
        show_default=True,
        help="Encoding profile of the tag.",
    )
    @click.option(
        "--derivation", type=click.Choice(list(DEMO_DERIVED)), help="Use a tag with derived keys, which its first tap enrols."
    )
    @click.option("--tag", "index", type=click.IntRange(0), default=0, show_default=True, help="Index of the simulated tag.")
    @click.option("--url", "as_url", is_flag=True, help="Print the URL that a phone would open instead of the server's.")
    @json_option
    @with_settings("dsn", "data_dir", "host", "port", demo=False)
    def tap(
        profile: str, derivation: str | None, index: int, as_url: bool, as_json: bool, config: Path | None, **flags: object
    ) -> None:
        """Tap a simulated tag of the demo account and print the URL of the resulting request."""
        environment = resolve(flags, config)
        environment.require_own_files(COUNTERS, "--data-dir")
        if environment.settings.dsn is None and not _has_demo(environment):
            raise ConfigurationError(
                f"There is no demo account in {environment.data_dir}. Run `ixfast demo` or `ixfast serve --demo`."
            )
        fleet = demo_fleet(profile) if derivation is None else derived_demo_fleet(derivation)
        if index >= len(fleet):
            raise click.UsageError(f"--tag: must be between 0 and {len(fleet) - 1}.")
        tag = next_tap(environment, fleet, index)
        running = environment.server_addresses() if flags["host"] is None and flags["port"] is None else None
        addresses = running or ServerAddresses.of(environment.settings, environment.settings.port, 0)
        url, request = tag.tap_at(tag.counter), f"{addresses.scans}/v1/t?{urlencode(parameters_of(tag, enrols=fleet.enrols))}"
        if as_json:
            print_json({"request": request, "url": url, "xuid": tag.xuid, "counter": tag.counter, "profile": tag.profile.name})
        else:
            click.echo(url if as_url else request)
