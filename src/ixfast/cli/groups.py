"""`ixfast group`: groups of tags with their encoding profile, rules and master keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from ixfast.chips import PRESETS
from ixfast.cli.database import resolve
from ixfast.cli.folders import find_folder
from ixfast.cli.key_input import KEY_SOURCE, add_meta_key, key_text, print_added_key, read_key, read_text
from ixfast.cli.management_client import PAGE_ROWS, ManagementClient, management, unknown
from ixfast.cli.options import DATABASE, DATABASE_AND_KEYS, Decorator, beginnings, with_settings
from ixfast.cli.output import cell_text, json_option, names_line, print_block, print_json, print_table, tag_number
from ixfast.errors import InputError
from ixfast.http.management.schemas import RETRY_WINDOW_S_MAX
from ixfast.keys.diversify import DEFAULT_DERIVATIONS

_FOLDER = "Default"


def _country_statistics(*, default: bool | None) -> Decorator:
    return click.option(
        "--country-statistics/--no-country-statistics",
        default=default,
        help="Whether the country of each visitor is stored, two letters, to count scans by country.",
    )


def register(main: click.Group) -> None:
    @main.group()
    def group() -> None:
        """Tag groups: tags with the same encoding profile and rules."""

    _register_group_reads(group)
    _register_group_edits(group)
    _register_set(group)


async def find_group(client: ManagementClient, name: str, folder: str | None) -> Any:
    """The group with this name. Raises InputError if there is none, with similar ones, or several in different folders."""
    folder_id = (await find_folder(client, folder)).id if folder is not None else None
    groups = await client.all("/v2/groups", limit=PAGE_ROWS, folder=folder_id)
    found = [group for group in groups if group.name == name]
    if not found:
        raise unknown("group", name, [group.name for group in groups])
    if len(found) > 1:
        raise InputError("ambiguous", f"Several folders have a group {name}; add --folder.", "folder")
    return found[0]


def _register_group_reads(group: click.Group) -> None:
    @group.command("list")
    @click.argument("aid")
    @click.option("--folder", help="Only groups of this folder.")
    @json_option
    @with_settings(*DATABASE)
    def group_list(aid: str, folder: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the groups of the account AID. From 1,000 tags on, their number is an estimate."""

        async def work(dsn: str) -> tuple[list[Any], dict[int, str]]:
            async with management(dsn, aid, readonly=True) as client:
                folder_id = (await find_folder(client, folder)).id if folder is not None else None
                groups = await client.all("/v2/groups", limit=PAGE_ROWS, folder=folder_id)
                names = {each.id: each.name for each in await client.all("/v2/folders", limit=PAGE_ROWS)}
                return await client.with_tags("group", groups), names

        found, folders = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        rows = [
            (g["id"], g["name"], folders.get(g["folder_id"]), _profile_name(g), g["active"], tag_number(g), g["created_at"])
            for g in found
        ]
        print_table(("ID", "GROUP", "FOLDER", "PROFILE", "ACTIVE", "TAGS", "CREATED"), rows, empty="No groups.")

    @group.command("show")
    @click.argument("aid")
    @click.argument("name")
    @click.option("--folder", help="The folder of the group, if several folders have a group of this name.")
    @json_option
    @with_settings(*DATABASE)
    def group_show(aid: str, name: str, folder: str | None, as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the group NAME of the account AID, with its batches and the versions of its master key."""

        async def work(dsn: str) -> dict[str, Any]:
            async with management(dsn, aid, readonly=True) as client:
                return await _described(client, await find_group(client, name, folder))

        found = resolve(flags, config).run(work)
        if as_json:
            print_json(found)
        else:
            print_block(_block(found))


async def _described(client: ManagementClient, group: Any) -> dict[str, Any]:
    folder = await client.get("/v2/folders/{id}", id=group.folder_id)
    (members,) = await client.with_tags("group", [group])
    return {
        **members,
        "folder": folder.name,
        "batches": [batch.name for batch in await client.all("/v2/batches", limit=PAGE_ROWS, group=group.id)],
        "master_keys": await client.all("/v2/groups/{id}/keys", id=group.id),
    }


def _profile_name(group: Mapping[str, Any]) -> str | None:
    return group["profile"].name if group["profile"] is not None else None


def _block(group: Mapping[str, Any]) -> dict[str, Any]:
    profile, rules, derivation = group["profile"], group["rules"], group["derivation"]
    return {
        "id": group["id"],
        "group": group["name"],
        "folder": group["folder"],
        "active": group["active"],
        "profile": _profile_name(group),
        "scheme": profile.scheme if profile is not None else None,
        "template": profile.template if profile is not None else None,
        "MAC window": profile.window if profile is not None else None,
        "derivation": msgspec.json.encode(derivation).decode() if derivation is not None else None,
        "enrols": group["enrols"],
        "master keys": [key_text(key) for key in group["master_keys"]],
        "rules": _rules_text(rules),
        "fields": [f"{name}={value}" for name, value in sorted(group["fields"].items())],
        "retry window": f"{group['retry_window_s']} s" if group["retry_window_s"] else None,
        "country statistics": group["country_statistics"],
        "tags": tag_number(group),
        "batches": group["batches"],
        "created": group["created_at"],
    }


def _rules_text(rules: Mapping[str, Any] | None) -> str | None:
    if rules is None:
        return None
    names = [cell_text(each.get("name")) for each in rules.get("groups", ())]
    return f"{', '.join(names)}; default" if names else "default"


def _register_group_edits(group: click.Group) -> None:
    @group.command(
        "create", epilog=f"\b\n{names_line('Presets', PRESETS)}\n{names_line('Derivation schemes', DEFAULT_DERIVATIONS)}"
    )
    @click.argument("aid")
    @click.argument("name")
    @click.option("--folder", default=_FOLDER, show_default=True, help="The group's folder; created if it does not exist.")
    @click.option(
        "--profile", metavar="PRESET|@FILE|-", shell_complete=beginnings(PRESETS),
        help="Encoding profile: a preset, or JSON as `ixfast profile detect` prints it. Without it, tags are not authenticated.",
    )  # fmt: skip
    @click.option("--rules", "rules_file", metavar=KEY_SOURCE, help="File with a rule set in JSON.")
    @click.option("--field", "fields", multiple=True, metavar="NAME=VALUE", help="Value of an extended field; repeatable.")
    @click.option(
        "--retry-window",
        type=click.IntRange(0, RETRY_WINDOW_S_MAX),
        default=0,
        metavar="SECONDS",
        help="How long anyone who repeats the URL of the newest tap gets its first answer again; 0 is never.",
    )
    @_country_statistics(default=False)
    @click.option("--derivation", metavar="SCHEME|@FILE|-", help="Derive the keys of tags from a master key: a scheme, or JSON.")
    @click.option("--master-key", metavar=KEY_SOURCE, help="File with the master key, 32 hex digits. Requires --derivation.")
    @click.option("--enrols", is_flag=True, help="Create a tag at its first genuine tap. Requires --derivation.")
    @click.option("--meta-key", metavar=KEY_SOURCE, help="File with a meta key, 32 hex digits, to add to the account.")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def group_create(aid: str, name: str, as_json: bool, config: Path | None, **options: Any) -> None:
        """Create the group NAME in the account AID.

        The file of a key contains 32 hex digits, and comments that begin with #; - is standard input.
        """
        folder: str = options.pop("folder")
        body, keys = _draft(name, options)
        environment = resolve(options, config)

        async def work(dsn: str) -> tuple[dict[str, Any], bool]:
            async with management(dsn, aid, environment if any(keys.values()) else None) as client:
                folders = await client.all("/v2/folders", limit=PAGE_ROWS)
                found = next((each for each in folders if each.name == folder), None)
                parent = found or await client.post("/v2/folders", {"name": folder})
                made = await client.post("/v2/groups", {**body, "folder_id": parent.id})
                if keys["meta"] is not None:
                    await add_meta_key(client, keys["meta"])
                if keys["master"] is not None:
                    await client.post("/v2/groups/{id}/keys", {"key": keys["master"].hex()}, id=made.id)
                return await _described(client, made), found is None

        with environment.database() as dsn:
            made, folder_made = asyncio.run(work(dsn))
        _print_warnings(made)
        if as_json:
            print_json(made)
            return
        if folder_made:
            click.echo(f"folder {folder} created in account {aid}")
        click.echo(f"group {name} created with {f'profile {_profile_name(made)}' if made['profile'] else 'no profile'}")
        if made["derivation"] is not None and not made["master_keys"]:
            click.echo("its tags cannot pass before the group has a master key: add it with `ixfast group add-key`", err=True)

    @group.command("add-key")
    @click.argument("aid")
    @click.argument("name")
    @click.argument("key_file", metavar=KEY_SOURCE)
    @click.option("--folder", help="The folder of the group, if several folders have a group of this name.")
    @click.option("--retire-others", is_flag=True, help="Retire the older versions, so that they verify nothing any more.")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def group_add_key(
        aid: str, name: str, key_file: str, folder: str | None, retire_others: bool, as_json: bool, config: Path | None,
        **flags: object,
    ) -> None:  # fmt: skip
        """Add the master key in FILE to the group NAME of the account AID, which derives the keys of its tags."""
        value, environment = read_key(key_file), resolve(flags, config)

        async def work(dsn: str) -> Any:
            async with management(dsn, aid, environment) as client:
                found = await find_group(client, name, folder)
                body = {"key": value.hex(), "retire_others": retire_others}
                return await client.post("/v2/groups/{id}/keys", body, id=found.id)

        with environment.database() as dsn:
            made = asyncio.run(work(dsn))
        print_added_key("master key", made, as_json=as_json)


def _register_set(group: click.Group) -> None:
    @group.command("set")
    @click.argument("aid")
    @click.argument("name")
    @click.option("--folder", help="The folder of the group, if several folders have a group of this name.")
    @click.option("--name", "new_name", help="Rename the group.")
    @click.option("--active/--inactive", default=None, help="Whether tags of the group can pass.")
    @click.option(
        "--profile", metavar="PRESET|@FILE|-", shell_complete=beginnings(PRESETS),
        help="Encoding profile, as in `ixfast group create`.",
    )  # fmt: skip
    @click.option("--rules", "rules_file", metavar=KEY_SOURCE, help="File with a rule set in JSON.")
    @click.option("--no-rules", is_flag=True, help="Remove the rule set.")
    @click.option("--field", "fields", multiple=True, metavar="NAME=VALUE", help="Value of an extended field; repeatable.")
    @click.option(
        "--retry-window", type=click.IntRange(0, RETRY_WINDOW_S_MAX), metavar="SECONDS",
        help="How long anyone who repeats the URL of the newest tap gets its first answer again; 0 is never.",
    )  # fmt: skip
    @_country_statistics(default=None)
    @json_option
    @with_settings(*DATABASE)
    def group_set(aid: str, name: str, folder: str | None, as_json: bool, config: Path | None, **options: Any) -> None:
        """Change the group NAME of the account AID. What no option names stays as it is."""
        changes = _changes(options)
        if not changes:
            raise click.UsageError("Nothing to change: add an option such as --rules, --field or --inactive.")

        async def work(dsn: str) -> dict[str, Any]:
            async with management(dsn, aid) as client:
                found = await find_group(client, name, folder)
                return await _described(client, await client.patch("/v2/groups/{id}", changes, id=found.id))

        changed = resolve(options, config).run(work)
        if "profile" in changes:
            _print_warnings(changed)
        if as_json:
            print_json(changed)
        else:
            print_block(_block(changed))


def _print_warnings(group: Mapping[str, Any]) -> None:
    for warning in group.get("warnings", ()):
        click.echo(f"Warning: {warning}", err=True)


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """The body that changes a group, from the options of the command, which are removed."""
    name, active, profile, rules_file, no_rules, fields, retry_window, country_statistics = (
        options.pop(each)
        for each in (
            "new_name", "active", "profile", "rules_file", "no_rules", "fields", "retry_window", "country_statistics",
        )
    )  # fmt: skip
    if rules_file is not None and no_rules:
        raise click.UsageError("--rules and --no-rules exclude each other.")
    if profile == rules_file == "-":
        raise click.UsageError("Only one option can read standard input.")
    body = {
        "name": name,
        "active": active,
        "profile": _named_or_json(profile, "--profile", {preset: preset for preset in PRESETS}),
        "rules": _json(rules_file, "--rules") if rules_file is not None else None,
        "fields": dict(map(_assignment, fields)) or None,
        "retry_window_s": retry_window,
        "country_statistics": country_statistics,
    }
    return {member: value for member, value in body.items() if value is not None} | ({"rules": None} if no_rules else {})


def _draft(name: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bytes | None]]:
    """The body that creates a group, and the keys, from the options of the command, which are removed."""
    taken = {
        each: options.pop(each)
        for each in (
            "profile", "rules_file", "fields", "retry_window", "country_statistics", "derivation", "master_key", "enrols",
            "meta_key",
        )
    }  # fmt: skip
    if [*taken.values()].count("-") > 1:
        raise click.UsageError("Only one option can read standard input.")
    if taken["master_key"] is not None and taken["derivation"] is None:
        raise click.UsageError("--master-key requires --derivation.")
    body = {
        "name": name,
        "profile": _named_or_json(taken["profile"], "--profile", {preset: preset for preset in PRESETS}),
        "rules": _json(taken["rules_file"], "--rules") if taken["rules_file"] is not None else None,
        "fields": dict(_assignment(each) for each in taken["fields"]),
        "retry_window_s": taken["retry_window"],
        "country_statistics": taken["country_statistics"],
        "derivation": _named_or_json(taken["derivation"], "--derivation", DEFAULT_DERIVATIONS),
        "enrols": taken["enrols"],
    }
    keys = {kind: read_key(taken[f"{kind}_key"]) if taken[f"{kind}_key"] is not None else None for kind in ("master", "meta")}
    return body, keys


def _named_or_json(text: str | None, option: str, named: Mapping[str, Any]) -> Any:
    if text is None:
        return None
    if text == "-" or text.startswith("@"):
        return _json(text.removeprefix("@"), option)
    if text not in named:
        raise click.UsageError(f"{option}: {unknown('preset' if option == '--profile' else 'scheme', text, named)}")
    return named[text]


def _json(source: str, option: str) -> Any:
    try:
        return msgspec.json.decode(read_text(source, option))
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{option}: {source} is not JSON: {error}.") from None


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--field {text}: write NAME=VALUE.")
    return name, value
