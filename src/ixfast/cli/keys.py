"""`ixfast keys`: manages and rotates the key-encryption keys."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from ixfast.store import key_holders
from ixfast.store.admin import rotation
from ixfast.store.admin.rotation import Report, Usage
from ixfast.store.admin.rotation_plan import Plan, Step, make_plan
from ixfast.store.key_holders import Holder, lacking, named, sealing

Note = Callable[[str], None]
_NOTHING = Usage(0, 0)
_PATIENCE_S = 10.0
"""How long to wait for servers to announce a change of their key files, which they check every second."""
_POLL_S = 0.1


class _Wanted(NamedTuple):
    """The options of a rotation."""

    target: str | None
    new_key: bool
    provider: str | None
    key_ref: str


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
        click.echo(f"added key {line.id} to {environment.kek_file}; copy the file to every host, then run: ixfast keys rotate")


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
        """Show the keys in the key file, whether each can be opened, how many rows are sealed under it, and which running servers
        have it open."""
        environment = resolve(flags, config)
        file = KeyFile.read(environment.kek_file)
        with environment.database() as dsn:
            used, holders = asyncio.run(_usage(dsn))
        _show(file, used, holders, as_json=as_json)

    @keys.command("rotate")
    @click.option("--to", "target", help="Rotate to this key of the key file.")
    @click.option("--new-key", is_flag=True, help="Create a new key even if the key file has one to go on with.")
    @click.option("--dry-run", is_flag=True, help="Show the plan and open every envelope; change nothing.")
    @_with_provider
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def rotate(dry_run: bool, as_json: bool, config: Path | None, **options: Any) -> None:
        """Reseal all stored keys under another key-encryption key, without interrupting scans.

        Resumes an interrupted rotation, or goes on to the key that `ixfast keys add` has added. Otherwise it creates a new key,
        of the current provider unless --provider is set. Nothing is resealed before every running server has the key open.
        """
        names = ("target", "new_key", "provider", "key_ref")
        wanted = _Wanted(*(options.pop(name) for name in names))
        environment = resolve(options, config)
        with environment.database() as dsn:
            note = partial(click.echo, err=as_json)  # With --json, only the document goes to standard output.
            report = asyncio.run((_examine if dry_run else _rotate)(environment, dsn, note, wanted))
        if as_json:
            print_json(_rotation_members(environment, report, dry_run=dry_run))
        elif report.unreadable_retired:
            click.echo(f"{report.unreadable_retired} envelopes of retired versions cannot be opened; nothing needs them")
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
        """Remove a key from the key file. Fails while rows of live versions are sealed under it, or a running server seals under
        it."""
        environment = resolve(flags, config)

        async def work(dsn: str) -> None:
            async with connected(dsn) as connection:
                await _await_other_keys(connection, kek_id)
                await rotation.while_unused(
                    connection, kek_id, lambda: key_file.edit(environment.kek_file, lambda file: file.without(kek_id))
                )

        KeyFile.read(environment.kek_file).without(kek_id)
        with environment.database() as dsn:
            asyncio.run(work(dsn))
        if as_json:
            print_json({"key_file": str(environment.kek_file), "removed": kek_id})
            return
        click.echo(
            f"removed key {kek_id} from {environment.kek_file}; backups of the database with keys sealed under it still need it"
        )


async def _usage(dsn: str) -> tuple[dict[str, Usage], list[Holder]]:
    async with connected(dsn) as connection:
        return await rotation.usage(connection), await key_holders.holders(connection)


def _show(file: KeyFile, used: dict[str, Usage], holders: list[Holder], *, as_json: bool) -> None:
    keys, notes, problems = [], [], []
    all_used = dict(used)
    for line in file.lines:
        opens = True
        try:
            open_line(line)
        except IxfastError as error:
            opens = False
            problems.append(f"{line.id} cannot be opened: {error}")
        rows = used.pop(line.id, _NOTHING)
        keys.append({"id": line.id, "current": line is file.lines[0], **rows._asdict(), "opens": opens, **_provider(line)})
    for id_, rows in used.items():
        where = f"sealed under {id_}, which is not in the key file"
        if rows.live:
            problems.append(f"{rows.live} rows are {where}")
        else:
            notes.append(f"{rows.retired} rows of retired versions are {where}; nothing needs them")
    for id_, rows in all_used.items():
        if rows.live and (without := lacking(holders, id_)):
            names = named(without)
            problems.append(f"{rows.live} rows are sealed under {id_}, which is not open on {names}; copy the key file there")
    if as_json:
        print_json(
            {"key_file": str(file.path), "keys": keys, "servers": _server_members(holders), "notes": notes, "problems": problems}
        )
    else:
        click.echo(f"key file {file.path}; * marks the current key")
        headers = ("  ID", "TAG KEYS", "META KEYS", "MASTERS", "OPENS", "PROVIDER")
        print_table(headers, [_row(key) for key in keys], empty="")
        for holder in holders:
            others = ", ".join(sorted(holder.opens - holder.seals)) or "no other key"
            click.echo(f"running on {holder}: seals under {', '.join(sorted(holder.seals)) or 'no key'}, also opens {others}")
        for note in notes:
            click.echo(note)
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


def _server_members(holders: list[Holder]) -> list[dict[str, Any]]:
    return [each._asdict() | {"opens": sorted(each.opens), "seals": sorted(each.seals)} for each in holders]


def _rotation_members(environment: CommandEnvironment, report: Report, *, dry_run: bool) -> dict[str, Any]:
    return {
        "key_file": str(environment.kek_file),
        "current": KeyFile.read(environment.kek_file).lines[0].id,
        "dry_run": dry_run,
        "opened": report.opened,
        "resealed": report.resealed,
        "unreadable": report.unreadable_count,
        "unreadable_retired": report.unreadable_retired,
    }


def _line_like(file: KeyFile, provider: str | None, reference: str) -> KeyLine:
    """A new key of the given provider, by default that of the current key."""
    current = file.lines[0]
    if provider is None:
        return make_line(current.provider, reference or current.reference)
    return make_line(provider, reference)


def _is_like(line: KeyLine, wanted: _Wanted) -> bool:
    return wanted.provider in (None, line.provider) and line.reference.startswith(wanted.key_ref)


async def _examine(environment: CommandEnvironment, dsn: str, note: Note, wanted: _Wanted) -> Report:
    keks = KeyEncryptionKeys.load_file(environment.kek_file)
    async with connected(dsn) as connection:
        used = await rotation.usage(connection)
        await _planned(connection, environment.kek_file, used, wanted, note)
        with progress_bar("opening", sum(rows.rows for rows in used.values())) as advance:
            report = await rotation.examine_all(connection, keks, advanced=advance)
    older = sum(rows.rows for id_, rows in used.items() if id_ != keks.current.id)
    note(f"opened {report.opened} envelopes; {older} are not sealed under the current key {keks.current.id}")
    note("nothing was changed")
    return report


async def _planned(connection: Any, path: Path, used: dict[str, Usage], wanted: _Wanted, note: Note) -> Plan:
    """Decide what a rotation does now, and show it."""
    file = KeyFile.read(path)
    if wanted.target is not None:
        file.with_current(wanted.target)  # raises KekFileError if the file has no such key
    goal = file.next_id or file.lines[0].id
    may_resume = _is_like(next(line for line in file.lines if line.id == goal), wanted)
    plan = make_plan(file, used, target=wanted.target, new_key=wanted.new_key, may_resume=may_resume)
    if plan.step is Step.NOTHING:
        note(f"nothing to reseal: all envelopes are under the current key {plan.target} (--new-key begins another rotation)")
        return plan
    if plan.step is Step.ADD:
        note(f"plan: add a key to {path} and reseal {plan.rows} envelopes under it")
    elif plan.target == file.lines[0].id:
        note(f"plan: resume the rotation to {plan.target}: reseal {plan.rows} envelopes that are under older keys")
    else:
        note(f"plan: make {plan.target} the current key of {path} and reseal {plan.rows} envelopes under it")
    if holders := await key_holders.holders(connection):
        note(f"plan: reseal nothing before the key is open on the running servers: {named(holders)}")
    return plan


async def _rotate(environment: CommandEnvironment, dsn: str, note: Note, wanted: _Wanted) -> Report:
    path = environment.kek_file
    async with connected(dsn) as connection:
        await rotation.lock_rotation(connection)
        used = await rotation.usage(connection)
        plan = await _planned(connection, path, used, wanted, note)
        report = Report()
        if plan.step is not Step.NOTHING:
            target = plan.target or _add(path, wanted, note)
            KeyEncryptionKeys.load_file(path).by_id(target)  # it opens here
            await _await_announcements(connection, target)
            key_file.edit(path, lambda file: file.with_current(target))
            keks = KeyEncryptionKeys.load_file(path)
            note(f"the current key in {path} is {target}; back up the file now")
            with progress_bar("sealing", plan.rows) as advance:
                report = await rotation.reseal_all(connection, keks, advanced=advance)
            note(f"resealed {report.resealed} envelopes under {target}")
            used = await rotation.usage(connection)
        holders = await key_holders.holders(connection)
    file = KeyFile.read(path)
    others = [each for each in holders if not each.uses(path)]  # those of this file follow it within a second
    if behind := [each for each in others if each.seals - {file.lines[0].id}]:
        note(f"copy {path} to {named(behind)}, which still seals under an older key, and run `ixfast keys rotate` again")
    for line in file.lines[1:]:
        if not used.get(line.id, _NOTHING).live and line.id != file.next_id and not sealing(others, line.id):
            note(f"{line.id} is no longer used; remove it with: ixfast keys remove {line.id}")
    return report


def _add(path: Path, wanted: _Wanted, note: Note) -> str:
    line = _line_like(KeyFile.read(path), wanted.provider, wanted.key_ref)
    key_file.edit(path, lambda file: file.with_line(line, current=False))
    note(f"added key {line.id} to {path}")
    return line.id


async def _await_announcements(connection: Any, kek_id: str) -> None:
    """Wait a while until every running server has announced the key. Raises IxfastError if one has not."""
    without: list[Holder] = []

    async def obstacle() -> str | None:
        without[:] = lacking(await key_holders.holders(connection), kek_id)
        if without:
            return (
                f"Nothing was resealed: {kek_id} is not open on {named(without)}. Copy the key file there, and run "
                "`ixfast keys rotate` again. `ixfast keys status` shows what each running server has open."
            )
        if silent := await key_holders.silent_addresses(connection):
            return (
                f"Nothing was resealed: {', '.join(silent)} uses this database and does not announce its keys. Wait for imports "
                "to end, upgrade servers of earlier releases, and run `ixfast keys rotate` again."
            )
        return None

    await _until_clear(obstacle)


async def _await_other_keys(connection: Any, kek_id: str) -> None:
    """Wait a while until no running server seals under the key. Raises IxfastError if one does."""

    async def obstacle() -> str | None:
        if holders := sealing(await key_holders.holders(connection), kek_id):
            return (
                f"{named(holders)} still seals under {kek_id}. Copy the key file there, run `ixfast keys rotate` once more, and "
                "then remove the key."
            )
        return None

    await _until_clear(obstacle)


async def _until_clear(obstacle: Callable[[], Awaitable[str | None]]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (found := await obstacle()) is not None:
        if time.monotonic() > deadline:
            raise IxfastError(found)
        await asyncio.sleep(_POLL_S)
