"""`ixfast meta-key`: the meta keys of an account, and those of its batches and tags."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from ixfast.cli.database import resolve
from ixfast.cli.groups import find_group
from ixfast.cli.key_input import KEY_SOURCE, add_meta_key, print_added_key, read_key
from ixfast.cli.management_client import PAGE_ROWS, ManagementClient, management, unknown
from ixfast.cli.options import DATABASE, DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import json_option, print_json, print_table


def register(main: click.Group) -> None:
    @main.group("meta-key")
    def meta_key() -> None:
        """Meta keys, which decrypt what a chip mirrors encrypted. All groups of an account share them.

        With --tag or --batch, the meta keys of a single tag or batch, which the URL of a tap must name.
        """

    _register_list(meta_key)
    _register_add(meta_key)


def _with_owner(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--folder", help="The folder of the group, if several folders have a group of this name."),
        click.option("--group", help="The group of the batch."),
        click.option("--batch", metavar="NAME", help="The own meta keys of this batch of the group."),
        click.option("--tag", metavar="CODE", help="The own meta keys of this tag."),
    ):
        command = option(command)
    return command


class _Owner(NamedTuple):
    """What `--tag`, `--batch`, `--group` and `--folder` name; without any, the whole account."""

    tag: str | None
    batch: str | None
    group: str | None
    folder: str | None

    def check(self) -> None:
        """Raise UsageError for options that do not go together."""
        if self.tag is not None and self.batch is not None:
            raise click.UsageError("--tag and --batch exclude each other.")
        if (self.batch is None) is not (self.group is None) or (self.folder is not None and self.group is None):
            raise click.UsageError("--batch requires --group, and --group and --folder require --batch.")

    async def path(self, client: ManagementClient) -> tuple[str, dict[str, object]]:
        """The route of the owner's meta keys, with its parameters. Raises InputError if there is no such owner."""
        if self.tag is not None:
            return "/v2/tags/{xuid}/meta-keys", {"xuid": self.tag}
        if self.batch is None:
            return "/v2/meta-keys", {}
        assert self.group is not None
        group = await find_group(client, self.group, self.folder)
        batches = await client.all("/v2/batches", limit=PAGE_ROWS, group=group.id)
        found = next((each for each in batches if each.name == self.batch), None)
        if found is None:
            raise unknown("batch", self.batch, [each.name for each in batches])
        return "/v2/batches/{id}/meta-keys", {"id": found.id}


def _register_list(meta_key: click.Group) -> None:
    @meta_key.command("list")
    @click.argument("aid")
    @_with_owner
    @json_option
    @with_settings(*DATABASE)
    def meta_key_list(aid: str, as_json: bool, config: Path | None, **flags: Any) -> None:
        """List the versions of the meta key of the account AID, without the keys."""
        owner = _Owner(**{name: flags.pop(name) for name in _Owner._fields})
        owner.check()

        async def work(dsn: str) -> list[Any]:
            async with management(dsn, aid, readonly=True) as client:
                path, members = await owner.path(client)
                return await client.all(path, **members)

        found = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        rows = [(key.version, key.check_value, "live" if key.live else "retired", key.created_at) for key in found]
        print_table(("VERSION", "CHECK VALUE", "STATE", "CREATED"), rows, empty="No meta keys.")


def _register_add(meta_key: click.Group) -> None:
    @meta_key.command("add")
    @click.argument("aid")
    @click.argument("key_file", metavar=KEY_SOURCE)
    @_with_owner
    @click.option("--retire-others", is_flag=True, help="Retire the older versions, so that they decrypt nothing any more.")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def meta_key_add(aid: str, key_file: str, retire_others: bool, as_json: bool, config: Path | None, **flags: Any) -> None:
        """Add the meta key in FILE, 32 hex digits, to the account AID."""
        owner = _Owner(**{name: flags.pop(name) for name in _Owner._fields})
        owner.check()
        value, environment = read_key(key_file), resolve(flags, config)

        async def work(dsn: str) -> Any:
            async with management(dsn, aid, environment) as client:
                path, members = await owner.path(client)
                return await add_meta_key(client, value, path, retire_others=retire_others, **members)

        with environment.database() as dsn:
            made = asyncio.run(work(dsn))
        print_added_key("meta key", made, as_json=as_json)
