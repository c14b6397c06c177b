"""`ixfast account` and `ixfast api-key`: accounts and the API keys of their callers."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import connected, resolve
from ixfast.cli.management_client import ManagementClient, management
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, note_more, print_block, print_json, print_table, tag_number
from ixfast.http.management.schemas import ID_MAX
from ixfast.store.admin import edits, tag_search
from ixfast.store.admin.tag_search import TagCount
from ixfast.store.queries import load

ROWS = 100
ROWS_MAX = 1000
KEY_ID = click.IntRange(1, ID_MAX)


def register(main: click.Group) -> None:
    @main.group()
    def account() -> None:
        """Accounts: the owners of tags."""

    @main.group("api-key")
    def api_key() -> None:
        """API keys, with which callers of a closed account authenticate."""

    _register_account_reads(account)
    _register_account_edits(account)
    _register_api_key_reads(api_key)
    _register_api_key_edits(api_key)


def _register_account_reads(account: click.Group) -> None:
    @account.command("list")
    @click.option(
        "--limit", type=click.IntRange(1, ROWS_MAX), default=ROWS, show_default=True, help="Maximum number of accounts."
    )
    @click.option("--after", default="", metavar="AID", help="Start after this account, the last one of the previous page.")
    @json_option
    @with_settings(*DATABASE)
    def account_list(limit: int, after: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the accounts in the order of their ids.

        From 1,000 tags on, their number is an estimate.
        """

        async def work(dsn: str) -> list[dict[str, Any]]:
            async with connected(dsn) as connection:
                rows = await connection.fetch(load("management")["accounts"], after, limit + 1)
                counts = await tag_search.count_tags(connection, "account", [row["account_id"] for row in rows])
                return [_summary(row, counts[row["account_id"]]) for row in rows]

        found = resolve(flags, config).run(work)
        following = found[limit - 1]["aid"] if len(found) > limit else None
        found = found[:limit]
        if as_json:
            print_json({"items": found, "next": following})
            return
        headers = ("ACCOUNT", "NAME", "ACCESS", "ACTIVE", "TAGS", "CREATED")
        rows = [(a["aid"], a["name"], _access(a["open"]), a["active"], tag_number(a), a["created_at"]) for a in found]
        print_table(headers, rows, empty="No accounts.")
        note_more(following)

    @account.command("show")
    @click.argument("aid")
    @json_option
    @with_settings(*DATABASE)
    def account_show(aid: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the account AID."""

        async def work(dsn: str) -> dict[str, Any]:
            async with management(dsn, aid, readonly=True) as client:
                return await _described(client)

        found = resolve(flags, config).run(work)
        _print_account(found, as_json=as_json)


def _summary(row: Any, count: TagCount) -> dict[str, Any]:
    members = ("aid", "name", "open", "active", "cors", "created_at")
    return {**{name: row[name] for name in members}, "tags": count.tags, "tags_exact": count.exact}


async def _described(client: ManagementClient) -> dict[str, Any]:
    row = await client.connection.fetchrow(load("management")["account"], client.account_id)
    counts = await tag_search.count_tags(client.connection, "account", [client.account_id])
    live = [key for key in await client.all("/v2/api-keys", limit=ROWS_MAX) if key.live]
    return {
        **_summary(row, counts[client.account_id]),
        "groups": len(await client.all("/v2/groups", limit=ROWS_MAX)),
        "live_api_keys": len(live),
        "live_meta_keys": sum(key.live for key in await client.all("/v2/meta-keys")),
    }


def _print_account(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_block(
        {
            "account": found["aid"],
            "name": found["name"],
            "access": _access(found["open"]),
            "active": found["active"],
            "cors": found["cors"],
            "created": found["created_at"],
            "tags": tag_number(found),
            "groups": found["groups"],
            "live API keys": found["live_api_keys"],
            "live meta keys": found["live_meta_keys"],
        }
    )


def _access(is_open: bool) -> str:
    return "open" if is_open else "closed"


def _register_account_edits(account: click.Group) -> None:
    @account.command("create")
    @click.argument("aid")
    @click.option("--name", default="", help="Display name.")
    @click.option("--open", "is_open", is_flag=True, help="Let anyone verify the account's tags without an API key.")
    @json_option
    @with_settings(*DATABASE)
    def account_create(aid: str, name: str, is_open: bool, as_json: bool, config: Path | None, **flags: object) -> None:
        """Create the account AID. Without --open its callers need an API key."""

        async def work(dsn: str) -> dict[str, Any]:
            async with connected(dsn) as connection, connection.transaction():
                account_id = await edits.create_account(connection, aid, name=name, is_open=is_open)
                await edits.changed(connection, ("account", account_id, None))
                return await _described(ManagementClient(connection, account_id, aid, None))

        found = resolve(flags, config).run(work)
        if as_json:
            print_json(found)
        else:
            click.echo(f"account {aid} is {'open' if is_open else 'closed: its callers need an API key'}")

    @account.command("set")
    @click.argument("aid")
    @click.option("--name", help="Display name.")
    @click.option("--open/--closed", "is_open", default=None, help="Whether callers need no API key.")
    @click.option("--active/--inactive", default=None, help="Whether the account's tags can pass.")
    @click.option("--cors/--no-cors", default=None, help="Whether web pages of other origins can verify the account's tags.")
    @json_option
    @with_settings(*DATABASE)
    def account_set(
        aid: str, name: str | None, is_open: bool | None, active: bool | None, cors: bool | None, as_json: bool,
        config: Path | None, **flags: object,
    ) -> None:  # fmt: skip
        """Change the account AID. What no option names stays as it is."""
        chosen = {"name": name, "open": is_open, "active": active, "cors": cors}
        changes = {member: value for member, value in chosen.items() if value is not None}
        if not changes:
            raise click.UsageError("Nothing to change: set --name, --open, --closed, --active, --inactive, --cors or --no-cors.")

        async def work(dsn: str) -> dict[str, Any]:
            async with management(dsn, aid) as client:
                await client.patch("/v2/accounts/{aid}", changes, aid=aid)
                return await _described(client)

        found = resolve(flags, config).run(work)
        _print_account(found, as_json=as_json)


def _register_api_key_reads(api_key: click.Group) -> None:
    @api_key.command("list")
    @click.argument("aid")
    @click.option("--all", "with_dead", is_flag=True, help="Include expired and revoked keys.")
    @json_option
    @with_settings(*DATABASE)
    def api_key_list(aid: str, with_dead: bool, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the API keys of the account AID. Their tokens are not stored and cannot be shown."""

        async def work(dsn: str) -> list[Any]:
            async with management(dsn, aid, readonly=True) as client:
                keys = await client.all("/v2/api-keys", limit=ROWS_MAX)
                return [key for key in keys if key.live or with_dead]

        found = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        headers = ("ID", "LABEL", "SCOPES", "STATE", "EXPIRES", "CREATED")
        rows = [(key.id, key.label, key.scopes, _state(key), key.expires_at, key.created_at) for key in found]
        print_table(headers, rows, empty="No API keys." if with_dead else "No live API keys.")

    @api_key.command("show")
    @click.argument("aid")
    @click.argument("key_id", metavar="ID", type=KEY_ID)
    @json_option
    @with_settings(*DATABASE)
    def api_key_show(aid: str, key_id: int, as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the API key ID of the account AID."""

        async def work(dsn: str) -> Any:
            async with management(dsn, aid, readonly=True) as client:
                return await client.get("/v2/api-keys/{id}", id=key_id)

        with resolve(flags, config).database() as dsn:
            _print_api_key(aid, asyncio.run(work(dsn)), as_json=as_json)


def _print_api_key(aid: str, key: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    print_block(
        {
            "id": key.id,
            "account": aid,
            "label": key.label,
            "scopes": key.scopes,
            "state": _state(key),
            "expires": key.expires_at,
            "revoked": key.revoked_at,
            "created": key.created_at,
        }
    )


def _state(key: Any) -> str:
    return "live" if key.live else "revoked" if key.revoked_at is not None else "expired"


_with_days = click.option(
    "--days", type=click.IntRange(1, 36_500), help="Expire after this many days. By default the key never expires."
)


def _expiry(days: int | None) -> str | None:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).isoformat() if days is not None else None


def _register_api_key_edits(api_key: click.Group) -> None:
    @api_key.command("create")
    @click.argument("aid")
    @click.option(
        "--scope", "scopes", type=click.Choice(edits.SCOPES), multiple=True, default=["scan"], show_default=True,
        help="What the key may do; repeatable.",
    )  # fmt: skip
    @click.option("--label", default="", help="A note on the purpose of the key.")
    @_with_days
    @json_option
    @with_settings(*DATABASE)
    def api_key_create(
        aid: str, scopes: tuple[str, ...], label: str, days: int | None, as_json: bool, config: Path | None, **flags: object
    ) -> None:
        """Create an API key for the account AID and print its token. The token cannot be shown again."""

        async def work(dsn: str) -> Any:
            async with management(dsn, aid) as client:
                body = {"scopes": list(dict.fromkeys(scopes)), "label": label, "expires_at": _expiry(days)}
                return await client.post("/v2/api-keys", body)

        made = resolve(flags, config).run(work)
        _print_token(made, as_json=as_json)

    @api_key.command("rotate")
    @click.argument("aid")
    @click.argument("key_id", metavar="ID", type=KEY_ID)
    @click.option(
        "--overlap", type=click.IntRange(0), default=86_400, show_default=True, metavar="SECONDS",
        help="How long the old key stays live.",
    )  # fmt: skip
    @_with_days
    @json_option
    @with_settings(*DATABASE)
    def api_key_rotate(
        aid: str, key_id: int, overlap: int, days: int | None, as_json: bool, config: Path | None, **flags: object
    ) -> None:
        """Replace the API key ID of the account AID and print the new token.

        The old key stays live for another day, or as long as --overlap specifies, so that its callers can switch.
        """

        async def work(dsn: str) -> tuple[Any, Any]:
            async with management(dsn, aid) as client:
                body = {"overlap_s": overlap, "expires_at": _expiry(days)}
                made = await client.post("/v2/api-keys/{id}/rotate", body, id=key_id)
                return made, await client.get("/v2/api-keys/{id}", id=key_id)

        made, old = resolve(flags, config).run(work)
        _print_token(made, as_json=as_json)
        if not as_json:
            click.echo(f"API key {made.id} replaces {old.id}, which expires at {old.expires_at:%Y-%m-%d %H:%M:%S}Z", err=True)

    @api_key.command("revoke")
    @click.argument("aid")
    @click.argument("key_id", metavar="ID", type=KEY_ID)
    @json_option
    @with_settings(*DATABASE)
    def api_key_revoke(aid: str, key_id: int, as_json: bool, config: Path | None, **flags: object) -> None:
        """Revoke the API key ID of the account AID. This cannot be undone."""

        async def work(dsn: str) -> Any:
            async with management(dsn, aid) as client:
                await client.delete("/v2/api-keys/{id}", id=key_id)
                return await client.get("/v2/api-keys/{id}", id=key_id)

        revoked = resolve(flags, config).run(work)
        if as_json:
            print_json(revoked)
        else:
            click.echo(f"API key {key_id} is revoked")


def _print_token(made: Any, *, as_json: bool) -> None:
    """Print the token alone, so that a script can capture it, or the whole new key as JSON."""
    if as_json:
        print_json(made)
    else:
        click.echo(made.token)
