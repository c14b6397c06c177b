"""`ixfast tag`: lists and shows tags with their counters, and switches them on and off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from ixfast.cli.database import connected, resolve
from ixfast.cli.groups import find_group
from ixfast.cli.key_input import key_text
from ixfast.cli.management_client import PAGE_ROWS, ManagementClient, management, unknown
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, note_more, print_block, print_json, print_table
from ixfast.store.admin import tag_search
from ixfast.store.queries import load

ROWS = 100
ROWS_MAX = 10_000
_READ_MAX = 50_000  # Tags that one command reads at most to find those that match its filters.


class _Filter(NamedTuple):
    """What `tag list` selects. `after` is a tag code."""

    group: str | None
    folder: str | None
    batch: str | None
    active: bool | None
    prefix: str | None
    uid: str | None
    cuid: str | None
    limit: int
    after: str | None


class _Found(NamedTuple):
    """Tags, the code after which the next page begins, and the names of groups and batches by id."""

    tags: list[Any]
    following: str | None
    groups: dict[int, str]
    batches: dict[int, str]


def register(main: click.Group) -> None:
    @main.group()
    def tag() -> None:
        """Tags: list, show, activate and deactivate them."""

    _register_list(tag)
    _register_show(tag)
    _register_activation(tag, "activate", True, "Activate the tag CODE.")
    _register_activation(tag, "deactivate", False, "Deactivate the tag CODE. Its taps no longer pass.")


def _register_list(tag: click.Group) -> None:
    @tag.command("list")
    @click.argument("aid")
    @click.option("--group", help="Only tags of this group.")
    @click.option("--folder", help="The folder of the group, if several folders have a group of this name.")
    @click.option("--batch", help="Only tags of this batch of the group.")
    @click.option("--active/--inactive", default=None, help="Only tags that are active, or that are not.")
    @click.option("--prefix", metavar="TEXT", help="Only tags whose code begins with this text, in the order of their codes.")
    @click.option("--uid", metavar="HEX", help="The tag with this UID.")
    @click.option("--cuid", metavar="TEXT", help="The tag with this CUID.")
    @click.option("--limit", type=click.IntRange(1, ROWS_MAX), default=ROWS, show_default=True, help="Maximum number of tags.")
    @click.option("--after", metavar="CODE", help="Start after this tag, the last one of the previous page.")
    @json_option
    @with_settings(*DATABASE)
    def tag_list(aid: str, as_json: bool, config: Path | None, **options: Any) -> None:
        """List tags of the account AID, the oldest first.

        A page ends at --limit, and also after reading 50,000 tags. The command prints how to list the next page.
        """
        filters = _Filter(**{name: options.pop(name) for name in _Filter._fields})
        if filters.group is None and (filters.batch is not None or filters.folder is not None):
            raise click.UsageError("--batch and --folder require --group.")
        if [filters.prefix, filters.uid, filters.cuid].count(None) < 2:
            raise click.UsageError("--prefix, --uid and --cuid exclude each other.")

        async def work(dsn: str) -> _Found:
            async with management(dsn, aid, readonly=True) as client:
                return await _find(client, filters)

        found = resolve(options, config).run(work)
        if as_json:
            print_json({"items": found.tags, "next": found.following})
            return
        headers = ("CODE", "UID", "CUID", "GROUP", "BATCH", "ACTIVE", "CREATED")
        rows = [
            (t.xuid, t.uid, t.cuid, found.groups.get(t.group_id), found.batches.get(t.batch_id), t.active, t.created_at)
            for t in found.tags
        ]
        print_table(headers, rows, empty="No tags." if found.following is None else "No matching tags so far.")
        note_more(found.following)


async def _find(client: ManagementClient, filters: _Filter) -> _Found:
    groups = await client.all("/v2/groups", limit=PAGE_ROWS)
    group = await find_group(client, filters.group, filters.folder) if filters.group is not None else None
    batches = await client.all("/v2/batches", limit=PAGE_ROWS, group=group.id if group is not None else None)
    batch = next((each for each in batches if each.name == filters.batch), None)
    if filters.batch is not None and batch is None:
        raise unknown("batch", filters.batch, [each.name for each in batches])
    if filters.uid is not None or filters.cuid is not None:
        source = _by_name(client, filters)
    elif filters.prefix is not None:
        source = _by_code(client, filters)
    else:
        source = _by_id(client, filters, group, batch)
    found: list[Any] = []
    last, following, read = "", None, 0
    async for each in source:
        if len(found) == filters.limit or read == _READ_MAX:
            following = last
            break
        last, read = each.xuid, read + 1
        if (
            (group is None or each.group_id == group.id)
            and (batch is None or each.batch_id == batch.id)
            and filters.active in (None, each.active)
        ):
            found.append(each)
    return _Found(found, following, {each.id: each.name for each in groups}, {each.id: each.name for each in batches})


async def _by_id(client: ManagementClient, filters: _Filter, group: Any, batch: Any) -> AsyncIterator[Any]:
    """Tags in the order in which they were created."""
    cursor = await client.cursor_after_tag(filters.after) if filters.after is not None else None
    place = {"batch": batch.id} if batch is not None else {"group": group.id} if group is not None else {}
    rows = min(filters.limit + 1, PAGE_ROWS)
    while True:
        tags, cursor = await client.page("/v2/tags", limit=rows, cursor=cursor, **place)
        for each in tags:
            yield each
        if cursor is None:
            return
        rows = PAGE_ROWS


async def _by_name(client: ManagementClient, filters: _Filter) -> AsyncIterator[Any]:
    """The tag with a UID or CUID."""
    uid = filters.uid.upper() if filters.uid is not None else None
    for each in (await client.page("/v2/tags", uid=uid, cuid=filters.cuid))[0]:
        yield each


async def _by_code(client: ManagementClient, filters: _Filter) -> AsyncIterator[Any]:
    """Tags in the order of their codes."""
    assert filters.prefix is not None
    after = filters.after or ""
    while True:
        rows = min(filters.limit + 1, PAGE_ROWS)
        codes = await tag_search.codes_with_prefix(client.connection, client.account_id, filters.prefix, after, rows)
        for code in codes:
            yield await client.get("/v2/tags/{xuid}", xuid=code)
        if len(codes) < rows:
            return
        after = codes[-1]


def _register_show(tag: click.Group) -> None:
    @tag.command("show")
    @click.argument("code")
    @json_option
    @with_settings(*DATABASE)
    def tag_show(code: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the tag CODE with its counter and the versions of its keys, of any account."""

        async def work(dsn: str) -> dict[str, Any]:
            async with management(dsn, await _account_of(dsn, code), readonly=True) as client:
                return await _described(client, code)

        found = resolve(flags, config).run(work)
        if as_json:
            print_json(found)
        else:
            print_block(_block(found))


async def _account_of(dsn: str, code: str) -> str:
    """The AID of a tag's account. Raises InputError if there is no such tag, with similar ones."""
    async with connected(dsn) as connection:
        row = await connection.fetchrow(load("management")["account_of_tag"], code)
        if row is None:
            raise unknown("tag", code, await tag_search.similar_codes(connection, None, code))
        aid: str = row["aid"]
        return aid


async def _described(client: ManagementClient, code: str) -> dict[str, Any]:
    tag = await client.get("/v2/tags/{xuid}", xuid=code)
    group = await client.get("/v2/groups/{id}", id=tag.group_id)
    folder = await client.get("/v2/folders/{id}", id=group.folder_id)
    batch = await client.get("/v2/batches/{id}", id=tag.batch_id) if tag.batch_id is not None else None
    account = await client.get("/v2/accounts/{aid}", aid=client.aid)
    parents = {"account": account, "folder": folder, "group": group, "batch": batch}
    return {
        **msgspec.structs.asdict(tag),
        "account": account.aid,
        "folder": folder.name,
        "group": group.name,
        "batch": batch.name if batch is not None else None,
        "inactive_parents": [kind for kind, each in parents.items() if each is not None and not each.active],
        **msgspec.structs.asdict(await client.get("/v2/tags/{xuid}/counter", xuid=code)),
        "keys": await client.all("/v2/tags/{xuid}/keys", xuid=code),
        "meta_keys": await client.all("/v2/tags/{xuid}/meta-keys", xuid=code),
        "derives_key": group.derivation is not None,
    }


def _block(tag: dict[str, Any]) -> dict[str, Any]:
    inactive = [*([] if tag["active"] else ["tag"]), *tag["inactive_parents"]]
    return {
        "code": tag["xuid"],
        "account": tag["account"],
        "folder": tag["folder"],
        "group": tag["group"],
        "batch": tag["batch"],
        "UID": tag["uid"],
        "CUID": tag["cuid"],
        "name": tag["name"],
        "state": f"inactive (because of: {', '.join(inactive)})" if inactive else "active",
        "assigned": tag["assigned_at"],
        "originality": tag["originality"],
        "fields": [f"{name}={value}" for name, value in sorted(tag["fields"].items())],
        "rules": "its own" if tag["rules"] is not None else "those of the group",
        "scans passed": tag["scan_count"],
        "counter": tag["counter"],
        "key version": tag["key_version"],
        "last pass": tag["last_at"],
        "keys": ["derived by the group"] if tag["derives_key"] else [key_text(key) for key in tag["keys"]],
        **({"meta keys": [key_text(key) for key in tag["meta_keys"]]} if tag["meta_keys"] else {}),
        "created": tag["created_at"],
    }


def _register_activation(tag: click.Group, name: str, active: bool, summary: str) -> None:
    @tag.command(name, help=summary)
    @click.argument("code")
    @json_option
    @with_settings(*DATABASE)
    def command(code: str, as_json: bool, config: Path | None, **flags: object) -> None:
        async def work(dsn: str) -> Any:
            async with management(dsn, await _account_of(dsn, code)) as client:
                return await client.patch("/v2/tags/{xuid}", {"active": active}, xuid=code)

        changed = resolve(flags, config).run(work)
        if as_json:
            print_json(changed)
        else:
            click.echo(f"tag {code} is {'active' if changed.active else 'inactive'}")
