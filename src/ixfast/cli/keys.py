"""`ixfast keys`: manages and rotates the key-encryption keys."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import CommandEnvironment, connected, resolve
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys import KeyEncryptionKeys, key_file
from ixfast.keys.key_file import FILE, KeyFile, KeyLine
from ixfast.keys.sealing import make_line, open_line
from ixfast.store.admin import rotation
from ixfast.store.admin.rotation import Report, Usage

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_NOTHING = Usage(0, 0)


def register(main: click.Group, with_settings: Decorator) -> None:
    @main.group()
    def keys() -> None:
        """Key-encryption keys: create, inspect and rotate them."""

    _register_file_commands(keys, with_settings)
    _register_database_commands(keys, with_settings)


def _with_provider(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--key-ref", default="", help="The key's name in the provider; see docs/how-to/manage-keys.md.")(
        command
    )
    return click.option("--provider", help="file, aws-kms, azure-keyvault, gcp-kms, pkcs11 or vault-transit.")(command)


def _register_file_commands(keys: click.Group, with_settings: Decorator) -> None:
    @keys.command("init")
    @_with_provider
    @with_settings
    def init(provider: str | None, key_ref: str, config: Path | None, **flags: object) -> None:
        """Create a key file with one key, sealed by a provider."""
        environment = resolve(flags, config)
        if environment.settings.kek_file is None:
            environment.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        line = make_line(provider or FILE, key_ref)
        key_file.create(environment.kek_file, line)
        click.echo(
            f"created {environment.kek_file} with key {line.id} of provider {line.provider}; "
            "back it up, apart from the backups of the database"
        )

    @keys.command("add")
    @_with_provider
    @with_settings
    def add(provider: str | None, key_ref: str, config: Path | None, **flags: object) -> None:
        """Add a key that opens envelopes but does not seal yet: the first step of a rotation across several hosts."""
        environment = resolve(flags, config)
        line = _line_like(KeyFile.read(environment.kek_file), provider, key_ref)
        key_file.edit(environment.kek_file, lambda file: file.with_line(line, current=False))
        click.echo(
            f"added key {line.id} to {environment.kek_file}; copy the file to every host, then run: "
            f"ixfast keys rotate --to {line.id}"
        )


def _register_database_commands(keys: click.Group, with_settings: Decorator) -> None:
    @keys.command("status")
    @with_settings
    def status(config: Path | None, **flags: object) -> None:
        """Show the keys in the key file, whether each can be opened, and how many rows are sealed under it."""
        environment = resolve(flags, config)
        file = KeyFile.read(environment.kek_file)
        with environment.database() as dsn:
            used = asyncio.run(_usage(dsn))
        _show(file, used)

    @keys.command("rotate")
    @click.option("--to", "target", help="Rotate to this key of the key file instead of a new one.")
    @click.option("--new-key", is_flag=True, help="Create a new key even if an earlier rotation is incomplete.")
    @click.option("--shared-file", is_flag=True, help="The servers on other hosts use this same key file.")
    @click.option("--dry-run", is_flag=True, help="Open every envelope and report what would be done; change nothing.")
    @_with_provider
    @with_settings
    def rotate(dry_run: bool, config: Path | None, **options: Any) -> None:
        """Reseal all stored keys under another key-encryption key, without interrupting scans.

        Resumes an interrupted rotation. Otherwise it creates a new key, of the current provider unless --provider is set.
        """
        choices = {name: options.pop(name) for name in ("target", "new_key", "shared_file", "provider", "key_ref")}
        environment = resolve(options, config)
        with environment.database() as dsn:
            report = asyncio.run(_examine(environment, dsn) if dry_run else _rotate(environment, dsn, **choices))
        for each in report.unreadable:
            click.echo(str(each), err=True)
        if report.unreadable_count:
            unchanged = "" if dry_run else " and were left unchanged"
            raise click.ClickException(
                f"{report.unreadable_count} envelopes cannot be opened{unchanged}; restore them or import the keys again."
            )

    @keys.command("remove")
    @click.argument("kek_id")
    @with_settings
    def remove(kek_id: str, config: Path | None, **flags: object) -> None:
        """Remove a key from the key file. Fails while rows are sealed under it."""
        environment = resolve(flags, config)

        async def work(dsn: str) -> None:
            async with connected(dsn) as connection:
                await rotation.while_unused(
                    connection, kek_id, lambda: key_file.edit(environment.kek_file, lambda file: file.without(kek_id))
                )

        KeyFile.read(environment.kek_file).without(kek_id)
        with environment.database() as dsn:
            asyncio.run(work(dsn))
        click.echo(f"removed key {kek_id} from {environment.kek_file}; database backups from before the rotation still need it")


async def _usage(dsn: str) -> dict[str, Usage]:
    async with connected(dsn) as connection:
        return await rotation.usage(connection)


def _show(file: KeyFile, used: dict[str, Usage]) -> None:
    click.echo(f"key file {file.path}; * marks the current key")
    click.echo(f"  {'id':16}  {'tag keys':>12}  {'meta keys':>9}  {'masters':>7}  {'opens':5}  provider")
    problems = []
    for line in file.lines:
        rows = used.pop(line.id, _NOTHING)
        opens = "yes"
        try:
            open_line(line)
        except IxfastError as error:
            opens = "no"
            problems.append(f"{line.id} cannot be opened: {error}")
        mark = "*" if line is file.lines[0] else " "
        counts = f"{rows.tag_keys:12}  {rows.meta_keys:9}  {rows.group_keys:7}"
        click.echo(f"{mark} {line.id}  {counts}  {opens:5}  {line.provider} {line.reference}".rstrip())
    problems += [f"{rows.rows} rows are sealed under {id_}, which is not in the key file" for id_, rows in used.items()]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)


def _line_like(file: KeyFile, provider: str | None, reference: str) -> KeyLine:
    """A new key of the given provider, by default that of the current key."""
    current = file.lines[0]
    if provider is None:
        return make_line(current.provider, reference or current.reference)
    return make_line(provider, reference)


def _is_like(line: KeyLine, provider: str | None, reference: str) -> bool:
    return provider in (None, line.provider) and line.reference.startswith(reference)


async def _examine(environment: CommandEnvironment, dsn: str) -> Report:
    keks = KeyEncryptionKeys.load_file(environment.kek_file)
    async with connected(dsn) as connection:
        used = await rotation.usage(connection)
        with _progress("opening", sum(rows.rows for rows in used.values())) as bar:
            report = await rotation.examine_all(connection, keks, advanced=bar.update)
    older = _rows_under_older_keys(used, keks)
    click.echo(f"opened {report.opened} envelopes; {older} are not sealed under the current key {keks.current.id}")
    click.echo(f"a rotation would reseal {f'these {older}' if older else 'all of them under a new key'}; nothing was changed")
    return report


def _rows_under_older_keys(used: dict[str, Usage], keks: KeyEncryptionKeys) -> int:
    return sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)


async def _rotate(
    environment: CommandEnvironment,
    dsn: str,
    *,
    target: str | None,
    new_key: bool,
    shared_file: bool,
    provider: str | None,
    key_ref: str,
) -> Report:
    async with connected(dsn) as connection:
        await rotation.lock_rotation(connection)
        keks = KeyEncryptionKeys.load_file(environment.kek_file)
        used = await rotation.usage(connection)
        older = _rows_under_older_keys(used, keks)
        if target is not None:
            key_file.edit(environment.kek_file, lambda file: file.with_current(target))
        elif older and not new_key and _is_like(KeyFile.read(environment.kek_file).lines[0], provider, key_ref):
            click.echo(
                f"{older} rows are still sealed under older keys: resuming the rotation to {keks.current.id} "
                "(--new-key creates a new key instead)"
            )
        else:
            others = [] if shared_file else await rotation.other_hosts(connection)
            if others:
                raise ConfigurationError(
                    f"Servers at {', '.join(others)} use this database too and need the new key first: run `ixfast keys add`, "
                    "copy the key file to them, then run `ixfast keys rotate --to ID`. If they use this same file, "
                    "pass --shared-file."
                )
            line = _line_like(KeyFile.read(environment.kek_file), provider, key_ref)
            key_file.edit(environment.kek_file, lambda file: file.with_line(line, current=True))
        keks = KeyEncryptionKeys.load_file(environment.kek_file)
        click.echo(f"the current key in {environment.kek_file} is {keks.current.id}; back up the file now")
        with _progress("sealing", _rows_under_older_keys(used, keks)) as bar:
            report = await rotation.reseal_all(connection, keks, advanced=bar.update)
        click.echo(f"resealed {report.resealed} envelopes under {keks.current.id}")
        used = await rotation.usage(connection)
    for id_ in keks.ids[1:]:
        if not used.get(id_, _NOTHING).rows:
            click.echo(f"{id_} is no longer used; remove it with: ixfast keys remove {id_}")
    return report


def _progress(label: str, length: int) -> Any:
    return click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True)
