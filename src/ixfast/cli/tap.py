"""`ixfast demo` and `ixfast tap`: simulated tags."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from ixfast.chips import PRESETS
from ixfast.cli.database import CommandEnvironment, connected, resolve
from ixfast.keys import KeyEncryptionKeys
from ixfast.testing.provision import DEMO_AID, DEMO_DERIVED, DEMO_PROFILE, demo_fleet, derived_demo_fleet, ensure_demo
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_COUNTERS = "simulated-tags.json"

__all__ = ["curl_line", "ensure_demo", "next_tap", "register"]


def next_tap(place: CommandEnvironment, fleet: VirtualFleet, index: int = 0) -> VirtualTag:
    """A simulated tag of the demo account with its counter raised: counters are kept in the data directory, as a
    chip keeps its own."""
    # Root's private PostgreSQL runs as another user, who has to pass through; what lies there is closed by itself.
    place.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    descriptor = os.open(place.data_dir / _COUNTERS, os.O_RDWR | os.O_CREAT, 0o600)
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
    """What a web server passes on of this tap to `/v1/t`. A tag that enrols has no code yet: its chip alone tells which it is."""
    parameters = {"x": tag.xuid, **tag.parameters_at(tag.counter)}
    if not enrols:
        return parameters
    uid = {} if tag.profile.encrypted else {"u": tag.uid.hex().upper()}
    return {"a": DEMO_AID, **uid, **{name: value for name, value in parameters.items() if name != "x"}}


def curl_line(place: CommandEnvironment, base_url: str) -> str:
    return f"curl '{base_url}/v1/t?{urlencode(parameters_of(next_tap(place, demo_fleet())))}'"


def register(main: click.Group, with_settings: Decorator) -> None:
    @main.command()
    @with_settings
    def demo(config: Path | None, **flags: object) -> None:
        """Provision the demo account with simulated tags of every encoding."""
        place = resolve(flags, config)

        async def work(dsn: str, keks: KeyEncryptionKeys) -> bool:
            async with connected(dsn) as connection:
                return await ensure_demo(connection, keks)

        with place.database() as dsn:
            made = asyncio.run(work(dsn, place.keys()))
        click.echo(f"account {DEMO_AID} {'is provisioned' if made else 'was there already'}; tap its tags with `ixfast tap`")

    @main.command()
    @click.option("--profile", type=click.Choice(list(PRESETS)), default=DEMO_PROFILE, show_default=True)
    @click.option(
        "--derivation", type=click.Choice(list(DEMO_DERIVED)), help="A tag whose keys are derived, and which its first tap makes."
    )
    @click.option("--tag", "index", type=click.IntRange(0), default=0, show_default=True, help="Which of the simulated tags.")
    @click.option("--url", "as_url", is_flag=True, help="Print the URL that the phone would open, not a request to the server.")
    @with_settings
    def tap(profile: str, derivation: str | None, index: int, as_url: bool, config: Path | None, **flags: object) -> None:
        """Tap a simulated tag of the demo account and print what comes of it."""
        place = resolve(flags, config)
        fleet = demo_fleet(profile) if derivation is None else derived_demo_fleet(derivation)
        if index >= len(fleet):
            raise click.UsageError(f"--tag: there are {len(fleet)} of these tags, 0 to {len(fleet) - 1}.")
        tag = next_tap(place, fleet, index)
        base = f"http://{place.settings.host}:{place.settings.port}/v1/t"
        click.echo(tag.tap_at(tag.counter) if as_url else f"{base}?{urlencode(parameters_of(tag, enrols=fleet.enrols))}")
