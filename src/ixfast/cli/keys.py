"""`ixfast keys`: manages and rotates the key-encryption keys."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from ixfast.cli.command_group import leave
from ixfast.cli.database import CommandEnvironment, connected, resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import json_option, print_json, print_table
from ixfast.cli.progress import progress_bar
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys import KeyEncryptionKeys, key_file
from ixfast.keys.key_file import FILE, KeyFile, KeyLine
from ixfast.keys.sealing import make_line, open_line
from ixfast.store.admin import rotation
from ixfast.store.admin.rotation import Report, Usage

Note = Callable[[str], None]
_NOTHING = Usage(0, 0)


def register(main: click.Group) -> None:
    @main.group()
    def keys() -> None:
        """Key-encryption keys: create, inspect and rotate them."""

    _register_file_commands(keys)
    _register_database_commands(keys)


def _with_provider(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--key-ref", default="", help="The key's name in the provider; see docs/how-to/manage-keys.md.")(
        command
    )
    return click.option("--provider", help="file, aws-kms, azure-keyvault, gcp-kms, pkcs11 or vault-transit.")(command)


def _register_file_commands(keys: click.Group) -> None:
    @keys.command("init")
    @_with_provider
    @json_option
    @with_settings("data_dir", "kek_file")
    def init(provider: str | None, key_ref: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """Create a key file with one key, sealed by a provider."""
        environment = resolve(flags, config)
        _refuse_second_file(environment)
        if environment.settings.kek_file is None:
            environment.data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        line = make_line(provider or FILE, key_ref)
        key_file.create(environment.kek_file, line)
        if as_json:
            print_json(_line_members(environment, line))
            return
        click.echo(
            f"created {environment.kek_file} with key {line.id} of provider {line.provider}; "
            "back it up, apart from the backups of the database"
        )

    @keys.command("add")
    @_with_provider
    @json_option
    @with_settings("data_dir", "kek_file")
    def add(provider: str | None, key_ref: str, as_json: bool, config: Path | None, **flags: object) -> None:
        """Add a key that opens envelopes but does not seal yet: the first step of a rotation across several hosts."""
        environment = resolve(flags, config)
        line = _line_like(KeyFile.read(environment.kek_file), provider, key_ref)
        key_file.edit(environment.kek_file, lambda file: file.with_line(line, current=False))
        if as_json:
            print_json(_line_members(environment, line))
            return
        click.echo(
            f"added key {line.id} to {environment.kek_file}; copy the file to every host, then run: "
            f"ixfast keys rotate --to {line.id}"
        )


def _refuse_second_file(environment: CommandEnvironment) -> None:
    """Raise ConfigurationError if the private database of the directory that the settings name has another key file already."""
    settings, own = environment.settings, environment.data_dir / "kek"
    if settings.dsn is None and settings.data_dir is not None and own.exists() and environment.kek_file.absolute() != own:
        raise ConfigurationError(
            f"{environment.data_dir} has a key file already: unset kek_file, or change its key with `ixfast keys rotate`."
        )


def _register_database_commands(keys: click.Group) -> None:
    @keys.command("status")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def status(as_json: bool, config: Path | None, **flags: object) -> None:
        """Show the keys in the key file, whether each can be opened, and how many rows are sealed under it."""
        environment = resolve(flags, config)
        file = KeyFile.read(environment.kek_file)
        with environment.database() as dsn:
            used = asyncio.run(_usage(dsn))
        _show(file, used, as_json=as_json)

    @keys.command("rotate")
    @click.option("--to", "target", help="Rotate to this key of the key file instead of a new one.")
    @click.option("--new-key", is_flag=True, help="Create a new key even if an earlier rotation is incomplete.")
    @click.option("--shared-file", is_flag=True, help="The servers on other hosts use this same key file.")
    @click.option("--dry-run", is_flag=True, help="Open every envelope and report what would be done; change nothing.")
    @_with_provider
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def rotate(dry_run: bool, as_json: bool, config: Path | None, **options: Any) -> None:
        """Reseal all stored keys under another key-encryption key, without interrupting scans.

        Resumes an interrupted rotation. Otherwise it creates a new key, of the current provider unless --provider is set.
        """
        choices = {name: options.pop(name) for name in ("target", "new_key", "shared_file", "provider", "key_ref")}
        environment = resolve(options, config)
        with environment.database() as dsn:
            note = partial(click.echo, err=as_json)  # With --json, only the document goes to standard output.
            report = asyncio.run(_examine(environment, dsn, note) if dry_run else _rotate(environment, dsn, note, **choices))
        if as_json:
            print_json(_rotation_members(environment, report, dry_run=dry_run))
        for each in report.unreadable:
            click.echo(str(each), err=True)
        if report.unreadable_count:
            unchanged = "" if dry_run else " and were left unchanged"
            raise click.ClickException(
                f"{report.unreadable_count} envelopes cannot be opened{unchanged}; restore them or import the keys again."
            )

    @keys.command("remove")
    @click.argument("kek_id")
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def remove(kek_id: str, as_json: bool, config: Path | None, **flags: object) -> None:
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
        if as_json:
            print_json({"key_file": str(environment.kek_file), "removed": kek_id})
            return
        click.echo(f"removed key {kek_id} from {environment.kek_file}; database backups from before the rotation still need it")


async def _usage(dsn: str) -> dict[str, Usage]:
    async with connected(dsn) as connection:
        return await rotation.usage(connection)


def _show(file: KeyFile, used: dict[str, Usage], *, as_json: bool) -> None:
    keys, problems = [], []
    for line in file.lines:
        opens = True
        try:
            open_line(line)
        except IxfastError as error:
            opens = False
            problems.append(f"{line.id} cannot be opened: {error}")
        rows = used.pop(line.id, _NOTHING)
        keys.append({"id": line.id, "current": line is file.lines[0], **rows._asdict(), "opens": opens, **_provider(line)})
    problems += [f"{rows.rows} rows are sealed under {id_}, which is not in the key file" for id_, rows in used.items()]
    if as_json:
        print_json({"key_file": str(file.path), "keys": keys, "problems": problems})
    else:
        click.echo(f"key file {file.path}; * marks the current key")
        headers = ("  ID", "TAG KEYS", "META KEYS", "MASTERS", "OPENS", "PROVIDER")
        print_table(headers, [_row(key) for key in keys], empty="")
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        leave(ExitCode.FAILED)


def _row(key: dict[str, Any]) -> tuple[Any, ...]:
    mark = "*" if key["current"] else " "
    provider = f"{key['provider']} {key['key_ref']}".rstrip()
    return (f"{mark} {key['id']}", key["tag_keys"], key["meta_keys"], key["group_keys"], key["opens"], provider)


def _provider(line: KeyLine) -> dict[str, str]:
    return {"provider": line.provider, "key_ref": line.reference}


def _line_members(environment: CommandEnvironment, line: KeyLine) -> dict[str, str]:
    return {"key_file": str(environment.kek_file), "id": line.id, **_provider(line)}


def _rotation_members(environment: CommandEnvironment, report: Report, *, dry_run: bool) -> dict[str, Any]:
    return {
        "key_file": str(environment.kek_file),
        "current": KeyFile.read(environment.kek_file).lines[0].id,
        "dry_run": dry_run,
        "opened": report.opened,
        "resealed": report.resealed,
        "unreadable": report.unreadable_count,
    }


def _line_like(file: KeyFile, provider: str | None, reference: str) -> KeyLine:
    """A new key of the given provider, by default that of the current key."""
    current = file.lines[0]
    if provider is None:
        return make_line(current.provider, reference or current.reference)
    return make_line(provider, reference)


def _is_like(line: KeyLine, provider: str | None, reference: str) -> bool:
    return provider in (None, line.provider) and line.reference.startswith(reference)


async def _examine(environment: CommandEnvironment, dsn: str, note: Note) -> Report:
    keks = KeyEncryptionKeys.load_file(environment.kek_file)
    async with connected(dsn) as connection:
        used = await rotation.usage(connection)
        with progress_bar("opening", sum(rows.rows for rows in used.values())) as advance:
            report = await rotation.examine_all(connection, keks, advanced=advance)
    older = _rows_under_older_keys(used, keks)
    note(f"opened {report.opened} envelopes; {older} are not sealed under the current key {keks.current.id}")
    note(f"a rotation would reseal {f'these {older}' if older else 'all of them under a new key'}; nothing was changed")
    return report


def _rows_under_older_keys(used: dict[str, Usage], keks: KeyEncryptionKeys) -> int:
    return sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)


async def _rotate(
    environment: CommandEnvironment,
    dsn: str,
    note: Note,
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
            note(
                f"{older} rows are still sealed under older keys: resuming the rotation to {keks.current.id} "
                "(--new-key creates a new key instead)"
            )
        else:
            others = [] if shared_file else await rotation.other_hosts(connection)
            if others:
                raise IxfastError(
                    f"Servers at {', '.join(others)} use this database too and need the new key first: run `ixfast keys add`, "
                    "copy the key file to them, then run `ixfast keys rotate --to ID`. If they use this same file, "
                    "pass --shared-file."
                )
            line = _line_like(KeyFile.read(environment.kek_file), provider, key_ref)
            key_file.edit(environment.kek_file, lambda file: file.with_line(line, current=True))
        keks = KeyEncryptionKeys.load_file(environment.kek_file)
        note(f"the current key in {environment.kek_file} is {keks.current.id}; back up the file now")
        with progress_bar("sealing", _rows_under_older_keys(used, keks)) as advance:
            report = await rotation.reseal_all(connection, keks, advanced=advance)
        note(f"resealed {report.resealed} envelopes under {keks.current.id}")
        used = await rotation.usage(connection)
    for id_ in keks.ids[1:]:
        if not used.get(id_, _NOTHING).rows:
            note(f"{id_} is no longer used; remove it with: ixfast keys remove {id_}")
    return report
