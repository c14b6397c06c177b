"""`ixfast folder`: folders of groups, which define the extended fields of their groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import resolve
from ixfast.cli.management_client import PAGE_ROWS, ManagementClient, management, unknown
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, print_json, print_table


def register(main: click.Group) -> None:
    @main.group()
    def folder() -> None:
        """Folders: groups of an account that have the same extended fields."""

    _register_folder_commands(folder)


def _register_folder_commands(folder: click.Group) -> None:
    @folder.command("list")
    @click.argument("aid")
    @json_option
    @with_settings(*DATABASE)
    def folder_list(aid: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the folders of the account AID."""

        async def work(dsn: str) -> list[Any]:
            async with management(dsn, aid, readonly=True) as client:
                return await client.all("/v2/folders", limit=PAGE_ROWS)

        found = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        rows = [(f.id, f.name, f.active, [field.name for field in f.fields], f.created_at) for f in found]
        print_table(("ID", "FOLDER", "ACTIVE", "FIELDS", "CREATED"), rows, empty="No folders.")

    @folder.command("create")
    @click.argument("aid")
    @click.argument("name")
    @click.option("--field", "fields", multiple=True, metavar="NAME", help="Define an extended field; repeatable.")
    @click.option(
        "--reply-field", "reply_fields", multiple=True, metavar="NAME",
        help="Define an extended field that is part of responses to scans; repeatable.",
    )  # fmt: skip
    @json_option
    @with_settings(*DATABASE)
    def folder_create(
        aid: str, name: str, fields: tuple[str, ...], reply_fields: tuple[str, ...], as_json: bool, config: Path | None,
        **flags: object,
    ) -> None:  # fmt: skip
        """Create the folder NAME in the account AID."""
        definitions = [{"name": each, "in_reply": False} for each in fields]
        definitions += [{"name": each, "in_reply": True} for each in reply_fields]

        async def work(dsn: str) -> Any:
            async with management(dsn, aid) as client:
                return await client.post("/v2/folders", {"name": name, "fields": definitions})

        made = resolve(flags, config).run(work)
        if as_json:
            print_json(made)
        else:
            click.echo(f"folder {name} created in account {aid}")


async def find_folder(client: ManagementClient, name: str) -> Any:
    """The folder with this name. Raises InputError if there is none, with similar ones."""
    folders = await client.all("/v2/folders", limit=PAGE_ROWS)
    found = next((folder for folder in folders if folder.name == name), None)
    if found is None:
        raise unknown("folder", name, [folder.name for folder in folders])
    return found
