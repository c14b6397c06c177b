"""`ixfast batch`: parts of a group, such as a production run, that can be deactivated as one. An import creates them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import resolve
from ixfast.cli.groups import find_group
from ixfast.cli.management_client import PAGE_ROWS, management, unknown
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, print_json, print_table, tag_number

_with_folder = click.option("--folder", help="The folder of the group, if several folders have a group of this name.")


def register(main: click.Group) -> None:
    @main.group()
    def batch() -> None:
        """Batches: parts of a group, such as a production run."""

    _register_list(batch)
    _register_activation(batch, "activate", True, "Activate the batch NAME of the group GROUP.")
    _register_activation(batch, "deactivate", False, "Deactivate the batch NAME of the group GROUP. Its tags no longer pass.")


def _register_list(batch: click.Group) -> None:
    @batch.command("list")
    @click.argument("aid")
    @click.argument("group")
    @_with_folder
    @json_option
    @with_settings(*DATABASE)
    def batch_list(aid: str, group: str, folder: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the batches of the group GROUP of the account AID. From 1,000 tags on, their number is an estimate."""

        async def work(dsn: str) -> list[dict[str, Any]]:
            async with management(dsn, aid, readonly=True) as client:
                found = await find_group(client, group, folder)
                batches = await client.all("/v2/batches", limit=PAGE_ROWS, group=found.id)
                return await client.with_tags("batch", batches)

        found = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        rows = [(each["id"], each["name"], each["active"], tag_number(each), each["created_at"]) for each in found]
        print_table(("ID", "BATCH", "ACTIVE", "TAGS", "CREATED"), rows, empty="No batches.")


def _register_activation(batch: click.Group, command_name: str, active: bool, summary: str) -> None:
    @batch.command(command_name, help=summary)
    @click.argument("aid")
    @click.argument("group")
    @click.argument("name")
    @_with_folder
    @json_option
    @with_settings(*DATABASE)
    def command(aid: str, group: str, name: str, folder: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        async def work(dsn: str) -> Any:
            async with management(dsn, aid) as client:
                parent = await find_group(client, group, folder)
                batches = await client.all("/v2/batches", limit=PAGE_ROWS, group=parent.id)
                found = next((each for each in batches if each.name == name), None)
                if found is None:
                    raise unknown("batch", name, [each.name for each in batches])
                return await client.patch("/v2/batches/{id}", {"active": active}, id=found.id)

        changed = resolve(flags, config).run(work)
        if as_json:
            print_json(changed)
        else:
            click.echo(f"batch {name} is {'active' if changed.active else 'inactive'}")
