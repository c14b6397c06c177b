"""`ixfast scans` and `ixfast stats`: the scan log of an account, and numbers of scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ixfast.cli.database import resolve
from ixfast.cli.groups import find_group
from ixfast.cli.management_client import PAGE_ROWS, ManagementClient, management, unknown
from ixfast.cli.options import DATABASE, Decorator, with_settings
from ixfast.cli.output import cell_text, json_option, print_json, print_table
from ixfast.http.management.schemas import Stats
from ixfast.store.admin import scan_log

_ROWS = 100
_VERDICTS = tuple(scan_log.WORDS.values())


def register(main: click.Group) -> None:
    _register_scans(main)
    _register_stats(main)


def _with_selection(command: Any) -> Any:
    """Options that select scans, which `_selection` takes."""
    options: tuple[Decorator, ...] = (
        click.option("--tag", metavar="CODE", help="Only scans of the tag with this code."),
        click.option("--group", metavar="NAME", help="Only scans of tags of this group."),
        click.option("--folder", metavar="NAME", help="The folder of the group, if several folders have a group of this name."),
        click.option("--batch", metavar="NAME", help="Only scans of tags of this batch. Requires --group."),
        click.option("--from", "begin", metavar="TIME", help="Beginning of the range: a time, or a day (UTC)."),
        click.option("--to", "end", metavar="TIME", help="End of the range, exclusive. By default now."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _selection(options: dict[str, Any]) -> dict[str, Any]:
    """The values of these options, which are removed."""
    selection = {name: options.pop(name) for name in ("tag", "group", "folder", "batch", "begin", "end")}
    if selection["group"] is None and (selection["folder"] is not None or selection["batch"] is not None):
        raise click.UsageError("--folder and --batch require --group.")
    return selection


async def _query(client: ManagementClient, selection: dict[str, Any]) -> dict[str, Any]:
    """The query that selects the scans. Raises InputError for a group or batch that does not exist."""
    query = {"tag": selection["tag"], "from": selection["begin"], "to": selection["end"]}
    if selection["group"] is None:
        return query
    group = await find_group(client, selection["group"], selection["folder"])
    query["group"] = group.id
    if selection["batch"] is not None:
        batches = await client.all("/v2/batches", limit=PAGE_ROWS, group=group.id)
        found = next((each for each in batches if each.name == selection["batch"]), None)
        if found is None:
            raise unknown("batch", selection["batch"], [each.name for each in batches])
        query["batch"] = found.id
    return query


def _register_scans(main: click.Group) -> None:
    @main.command()
    @click.argument("aid")
    @_with_selection
    @click.option("--verdict", "verdicts", type=click.Choice(_VERDICTS), multiple=True, help="Only this verdict; repeatable.")
    @click.option("--limit", type=click.IntRange(1, PAGE_ROWS), default=_ROWS, show_default=True, help="Maximum number of scans.")
    @click.option("--after", "cursor", metavar="CURSOR", help="Begin where a list ended; it prints the value.")
    @json_option
    @with_settings(*DATABASE)
    def scans(
        aid: str, verdicts: tuple[str, ...], limit: int, cursor: str | None, as_json: bool, config: Path | None, **options: Any
    ) -> None:
        """List the scans of the account AID, newest first, with the reasons of refusals. By default those of the last day."""
        selection = _selection(options)

        async def work(dsn: str) -> tuple[list[Any], str | None]:
            async with management(dsn, aid, readonly=True) as client:
                query = await _query(client, selection)
                return await client.page("/v2/scans", limit=limit, cursor=cursor, verdict=",".join(verdicts) or None, **query)

        found, following = resolve(options, config).run(work)
        if as_json:
            print_json({"items": found, "next_cursor": following})
            return
        rows = [(each.at, each.tag, each.verdict, each.reason, each.counter, each.scan_id) for each in found]
        print_table(("TIME", "TAG", "VERDICT", "REASON", "COUNTER", "SCAN"), rows, empty="No scans.")
        if following is not None:
            click.echo(f"There are more: add --after {cell_text(following)} and the same --from and --to", err=True)


def _register_stats(main: click.Group) -> None:
    @main.command()
    @click.argument("aid")
    @_with_selection
    @click.option("--by", type=click.Choice(scan_log.BY), default="day", show_default=True, help="What scans are counted by.")
    @click.option("--limit", type=click.IntRange(1, PAGE_ROWS), help="Maximum number of rows, those with the most scans first.")
    @json_option
    @with_settings(*DATABASE)
    def stats(aid: str, by: str, limit: int | None, as_json: bool, config: Path | None, **options: Any) -> None:
        """Count the scans of the account AID by verdict. By default those of the last 7 days, by day."""
        selection = _selection(options)

        async def work(dsn: str) -> Any:
            async with management(dsn, aid, readonly=True) as client:
                return await client.get("/v2/stats", by=by, limit=limit, **await _query(client, selection))

        found: Stats = resolve(options, config).run(work)
        if as_json:
            print_json(msgspec.to_builtins(found))
            return
        verdicts = [verdict for verdict in _VERDICTS if any(verdict in count.verdicts for count in found.counts)]
        rows = [(count.object, count.total, *(count.verdicts.get(verdict, 0) for verdict in verdicts)) for count in found.counts]
        headers = (by.upper(), "TOTAL", *(verdict.upper() for verdict in verdicts))
        print_table(headers, rows, empty="No scans.")
