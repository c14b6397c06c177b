"""`ixfast keys`: the key-encryption keys, where they are kept and how they are replaced."""

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
        """Key-encryption keys: where they are kept, and how they are replaced."""

    _register_file_commands(keys, with_settings)
    _register_database_commands(keys, with_settings)


def _with_provider(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--key-ref", default="", help="The key inside the provider, in its own words; see docs/keys.md.")(
        command
    )
    return click.option("--provider", help="file, aws-kms, azure-keyvault, gcp-kms, pkcs11 or vault-transit.")(command)


def _register_file_commands(keys: click.Group, with_settings: Decorator) -> None:
    @keys.command("init")
    @_with_provider
    @with_settings
    def init(provider: str | None, key_ref: str, config: Path | None, **flags: object) -> None:
        """Make a key file with one key, sealed by a provider."""
        place = resolve(flags, config)
        if place.settings.kek_file is None:
            place.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        line = make_line(provider or FILE, key_ref)
        key_file.create(place.kek_file, line)
        click.echo(f"{place.kek_file} has key {line.id} of provider {line.provider}; keep a copy apart from the database's")

    @keys.command("add")
    @_with_provider
    @with_settings
    def add(provider: str | None, key_ref: str, config: Path | None, **flags: object) -> None:
        """Add a key that opens but does not seal yet: the first step of a rotation over several hosts."""
        place = resolve(flags, config)
        line = _line_like(KeyFile.read(place.kek_file), provider, key_ref)
        key_file.edit(place.kek_file, lambda file: file.with_line(line, current=False))
        click.echo(
            f"{place.kek_file} has key {line.id} too. Bring the file to every host, then: ixfast keys rotate --to {line.id}"
        )


def _register_database_commands(keys: click.Group, with_settings: Decorator) -> None:
    @keys.command("status")
    @with_settings
    def status(config: Path | None, **flags: object) -> None:
        """Show the keys of the file, whether they open, and how many rows are sealed under each."""
        place = resolve(flags, config)
        file = KeyFile.read(place.kek_file)
        with place.database() as dsn:
            used = asyncio.run(_usage(dsn))
        _show(file, used)

    @keys.command("rotate")
    @click.option("--to", "target", help="Make this key of the file the current one, instead of a new key.")
    @click.option("--new-key", is_flag=True, help="Begin with a new key although rows are left under older ones.")
    @click.option("--shared-file", is_flag=True, help="Servers on other hosts read this very file.")
    @click.option("--dry-run", is_flag=True, help="Open every envelope and say what would be done; change nothing.")
    @_with_provider
    @with_settings
    def rotate(dry_run: bool, config: Path | None, **options: Any) -> None:
        """Seal every key of every tag under another key-encryption key, while scans go on.

        Goes on with a rotation that was interrupted; else makes a new key, of the same provider unless told otherwise.
        """
        choices = {name: options.pop(name) for name in ("target", "new_key", "shared_file", "provider", "key_ref")}
        place = resolve(options, config)
        with place.database() as dsn:
            report = asyncio.run(_examine(place, dsn) if dry_run else _rotate(place, dsn, **choices))
        for spoilt in report.spoilt:
            click.echo(str(spoilt), err=True)
        if report.spoilt_count:
            left = "" if dry_run else " and were left as they are"
            raise click.ClickException(
                f"{report.spoilt_count} envelopes do not open{left}; restore them or import the keys again."
            )

    @keys.command("remove")
    @click.argument("kek_id")
    @with_settings
    def remove(kek_id: str, config: Path | None, **flags: object) -> None:
        """Remove a key from the file, if no row is sealed under it."""
        place = resolve(flags, config)

        async def work(dsn: str) -> None:
            async with connected(dsn) as connection:
                await rotation.while_unused(
                    connection, kek_id, lambda: key_file.edit(place.kek_file, lambda file: file.without(kek_id))
                )

        KeyFile.read(place.kek_file).without(kek_id)
        with place.database() as dsn:
            asyncio.run(work(dsn))
        click.echo(f"{place.kek_file} has no key {kek_id} any more; backups of the database from before the rotation need it")


async def _usage(dsn: str) -> dict[str, Usage]:
    async with connected(dsn) as connection:
        return await rotation.usage(connection)


def _show(file: KeyFile, used: dict[str, Usage]) -> None:
    click.echo(f"key file {file.path}; the key marked * seals")
    click.echo(f"  {'id':16}  {'tag keys':>12}  {'meta keys':>9}  {'masters':>7}  {'opens':5}  provider")
    problems = []
    for line in file.lines:
        rows = used.pop(line.id, _NOTHING)
        opens = "yes"
        try:
            open_line(line)
        except IxfastError as error:
            opens = "no"
            problems.append(f"{line.id} does not open: {error}")
        mark = "*" if line is file.lines[0] else " "
        counts = f"{rows.tag_keys:12}  {rows.meta_keys:9}  {rows.group_keys:7}"
        click.echo(f"{mark} {line.id}  {counts}  {opens:5}  {line.provider} {line.reference}".rstrip())
    problems += [f"{rows.rows} rows are sealed under {id_}, which is not in the key file" for id_, rows in used.items()]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)


def _line_like(file: KeyFile, provider: str | None, reference: str) -> KeyLine:
    """A new key of the given provider, or of the current key's."""
    current = file.lines[0]
    if provider is None:
        return make_line(current.provider, reference or current.reference)
    return make_line(provider, reference)


def _is_like(line: KeyLine, provider: str | None, reference: str) -> bool:
    return provider in (None, line.provider) and line.reference.startswith(reference)


async def _examine(place: CommandEnvironment, dsn: str) -> Report:
    keks = KeyEncryptionKeys.load_file(place.kek_file)
    async with connected(dsn) as connection:
        used = await rotation.usage(connection)
        with _progress("opening", sum(rows.rows for rows in used.values())) as bar:
            report = await rotation.examine_all(connection, keks, advanced=bar.update)
    left = sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)
    click.echo(f"{report.opened} envelopes open; {left} are not sealed under the current key {keks.current.id}")
    click.echo(
        f"a rotation would seal {f'these {left} under it' if left else 'all of them under a new key'}; nothing was changed"
    )
    return report


async def _rotate(
    place: CommandEnvironment,
    dsn: str,
    *,
    target: str | None,
    new_key: bool,
    shared_file: bool,
    provider: str | None,
    key_ref: str,
) -> Report:
    async with connected(dsn) as connection:
        await rotation.be_only_one(connection)
        keks = KeyEncryptionKeys.load_file(place.kek_file)
        used = await rotation.usage(connection)
        left = sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)
        if target is not None:
            key_file.edit(place.kek_file, lambda file: file.with_current(target))
        elif left and not new_key and _is_like(KeyFile.read(place.kek_file).lines[0], provider, key_ref):
            click.echo(f"{left} rows are left under older keys: going on with {keks.current.id}; --new-key begins anew")
        else:
            others = [] if shared_file else await rotation.other_hosts(connection)
            if others:
                raise ConfigurationError(
                    f"Servers at {', '.join(others)} use this database too and have to have the new key first: "
                    "`ixfast keys add`, bring the file to them, then `ixfast keys rotate --to ID`. If they read this very "
                    "file: --shared-file."
                )
            line = _line_like(KeyFile.read(place.kek_file), provider, key_ref)
            key_file.edit(place.kek_file, lambda file: file.with_line(line, current=True))
        keks = KeyEncryptionKeys.load_file(place.kek_file)
        click.echo(f"{place.kek_file} has the current key {keks.current.id}; keep a copy of the file before anything else")
        left = sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)
        with _progress("sealing", left) as bar:
            report = await rotation.reseal_all(connection, keks, advanced=bar.update)
        click.echo(f"{report.resealed} envelopes are sealed under {keks.current.id}")
        used = await rotation.usage(connection)
    for id_ in keks.ids[1:]:
        if not used.get(id_, _NOTHING).rows:
            click.echo(f"no row is sealed under {id_} any more: ixfast keys remove {id_}")
    return report


def _progress(label: str, length: int) -> Any:
    return click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True)
