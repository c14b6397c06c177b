"""`ixfast account` and `ixfast api-key`: accounts and the API keys of their callers."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import click

from ixfast.cli.database import connected, resolve
from ixfast.cli.options import DATABASE, with_settings
from ixfast.store.admin import edits


def register(main: click.Group) -> None:
    @main.group()
    def account() -> None:
        """Accounts: the owners of tags."""

    @account.command("create")
    @click.argument("aid")
    @click.option("--name", default="", help="Display name.")
    @click.option("--open", "is_open", is_flag=True, help="Let anyone verify the account's tags without an API key.")
    @with_settings(*DATABASE)
    def account_create(aid: str, name: str, is_open: bool, config: Path | None, **flags: object) -> None:
        """Create the account AID. Without --open its callers need an API key."""

        async def work(dsn: str) -> None:
            async with connected(dsn) as connection, connection.transaction():
                account_id = await edits.create_account(connection, aid, name=name, is_open=is_open)
                await edits.changed(connection, ("account", account_id, None))

        with resolve(flags, config).database() as dsn:
            asyncio.run(work(dsn))
        click.echo(f"account {aid} is {'open' if is_open else 'closed: its callers need an API key'}")

    @main.group("api-key")
    def api_key() -> None:
        """API keys, with which callers of a closed account authenticate."""

    @api_key.command("create")
    @click.argument("aid")
    @click.option("--scope", "scopes", multiple=True, default=["scan"], help="scan (default), manage or keys; repeatable.")
    @click.option("--label", default="", help="A note on the purpose of the key.")
    @click.option("--days", type=click.IntRange(1), help="Expire after this many days. By default the key never expires.")
    @with_settings(*DATABASE)
    def api_key_create(
        aid: str, scopes: tuple[str, ...], label: str, days: int | None, config: Path | None, **flags: object
    ) -> None:
        """Create an API key for the account AID and print its token. The token cannot be shown again."""

        async def work(dsn: str) -> str:
            expires_at = dt.datetime.now(dt.UTC) + dt.timedelta(days=days) if days is not None else None
            async with connected(dsn) as connection, connection.transaction():
                account_id = await edits.account_id_of(connection, aid)
                token = await edits.create_api_key(connection, account_id, scopes, label=label, expires_at=expires_at)
                await edits.changed(connection, ("api_key", None, None))
                return token

        with resolve(flags, config).database() as dsn:
            click.echo(asyncio.run(work(dsn)))
