"""`ixfast meta-key`, and what commands that store keys share: reading keys from files, and showing versions of keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import resolve
from ixfast.cli.management_client import ManagementClient, management
from ixfast.cli.options import DATABASE, DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import json_option, print_json, print_table
from ixfast.cli.standard_streams import standard_input
from ixfast.keys import check_value
from ixfast.limits import RULE_SET_BYTES_MAX

FILE_BYTES_MAX = max(RULE_SET_BYTES_MAX, 64 * 1024)
KEY_SOURCE = "FILE|-"


def register(main: click.Group) -> None:
    @main.group("meta-key")
    def meta_key() -> None:
        """Meta keys, which decrypt what a chip mirrors encrypted. All groups of an account share them."""

    _register_meta_key_commands(meta_key)


def _register_meta_key_commands(meta_key: click.Group) -> None:
    @meta_key.command("list")
    @click.argument("aid")
    @json_option
    @with_settings(*DATABASE)
    def meta_key_list(aid: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """List the versions of the meta key of the account AID, without the keys."""

        async def work(dsn: str) -> list[Any]:
            async with management(dsn, aid, readonly=True) as client:
                return await client.all("/v2/meta-keys")

        found = resolve(flags, config).run(work)
        if as_json:
            print_json({"items": found})
            return
        rows = [(key.version, key.check_value, "live" if key.live else "retired", key.created_at) for key in found]
        print_table(("VERSION", "CHECK VALUE", "STATE", "CREATED"), rows, empty="No meta keys.")

    @meta_key.command("add")
    @click.argument("aid")
    @click.argument("key_file", metavar=KEY_SOURCE)
    @click.option("--retire-others", is_flag=True, help="Retire the older versions, so that they decrypt nothing any more.")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def meta_key_add(aid: str, key_file: str, retire_others: bool, as_json: bool, config: Path | None, **flags: object) -> None:
        """Add the meta key in FILE, 32 hex digits, to the account AID."""
        value, environment = read_key(key_file), resolve(flags, config)

        async def work(dsn: str) -> Any:
            async with management(dsn, aid, environment) as client:
                return await add_meta_key(client, value, retire_others=retire_others)

        with environment.database() as dsn:
            made = asyncio.run(work(dsn))
        print_added_key("meta key", made, as_json=as_json)


def read_text(source: str, option: str) -> str:
    """The content of a file, or of standard input."""
    try:
        with contextlib.ExitStack() as stack:
            file = standard_input() if source == "-" else stack.enter_context(Path(source).open(encoding="utf-8"))
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise click.UsageError(f"{option}: cannot read {source}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{option}: {source} is not text in UTF-8.") from None
    if len(text) > FILE_BYTES_MAX:
        raise click.UsageError(f"{option}: {source} is larger than {FILE_BYTES_MAX} bytes.")
    return text


def read_key(source: str) -> bytes:
    """An AES-128 key from a file or standard input, so that other users do not see it in the list of processes.

    No error shows the text: it may be most of a key.
    """
    lines: Sequence[str] = [line.partition("#")[0].strip() for line in read_text(source, "key").splitlines()]
    words = [line for line in lines if line]
    with contextlib.suppress(ValueError):
        if len(words) == 1 and len(words[0]) == 32:
            return bytes.fromhex(words[0])
    raise click.UsageError(f"{'standard input' if source == '-' else source} must contain one key of 32 hex digits.")


async def add_meta_key(client: ManagementClient, value: bytes, *, retire_others: bool = False) -> Any:
    """Add a meta key to the account, unless it is one of its live ones. Returns its version."""
    same = check_value(value).hex().upper()
    for key in await client.all("/v2/meta-keys"):
        if key.live and key.check_value == same and not retire_others:
            return key
    return await client.post("/v2/meta-keys", {"key": value.hex(), "retire_others": retire_others})


def key_text(key: Any) -> str:
    """A version of a key, without the key."""
    return f"version {key.version} ({key.check_value}{'' if key.live else ', retired'})"


def print_added_key(kind: str, key: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
    else:
        click.echo(f"the {kind} is version {key.version}; its check value is {key.check_value}")
