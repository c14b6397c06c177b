"""`ixfast import` and `ixfast export`: reads tags from files and writes them to files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
import orjson

from ixfast.cli.database import connected, resolve
from ixfast.cli.options import DATABASE, DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import json_option, print_json
from ixfast.cli.progress import progress_bar
from ixfast.cli.standard_streams import InputFile
from ixfast.errors import InputError, UnavailableError
from ixfast.store.admin import edits
from ixfast.store.imports.exporter import export_tags
from ixfast.store.imports.group_names import batch_named, group_named
from ixfast.store.imports.importer import Options, Report, import_tags
from ixfast.store.imports.meta_key_owners import META_KEY_OWNERS
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS, counted

_PIECE_BYTES = 256 * 1024
_SWITCH_S = 0.0005  # How long parsing may delay the database connection. The default is 5 ms, reached about ten times a block.
_GC_THRESHOLD = 200_000  # A block creates 50,000 objects that live until it is written, and no reference cycles.


def register(main: click.Group) -> None:
    _register_import(main)
    _register_export(main)


def _with_tag_location(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--batch", help="A batch of the group.")(command)
    command = click.option("--folder", help="The folder of the group, if several folders have a group of this name.")(command)
    return click.option("--account", "aid", required=True, metavar="AID", help="The account of the tags.")(command)


def _register_import(main: click.Group) -> None:
    @main.command("import")
    @click.argument("file", type=InputFile("rb"))
    @_with_tag_location
    @click.option("--group", required=True, help="The group that new tags are added to.")
    @click.option("--dry-run", is_flag=True, help="Check the whole file against the database, but import nothing.")
    @click.option("--preset", type=click.Choice(list(PRESETS)), help="Accept the column names of another program.")
    @click.option("--ignore", "ignored", multiple=True, metavar="COLUMN", help="Ignore this column; repeatable.")
    @click.option("--allow-zero-keys", is_flag=True, help="Accept all-zero keys, which are public knowledge.")
    @click.option("--allow-any-uid", is_flag=True, help="Accept UIDs that do not begin with 04, the code of NXP's chips.")
    @click.option(
        "--meta-keys",
        type=click.Choice(META_KEY_OWNERS),
        default=META_KEY_OWNERS[0],
        show_default=True,
        help="The owner of the meta keys in FILE; auto: the account if they fit, else each tag.",
    )
    @click.option("--retire-old-keys", is_flag=True, help="Retire keys that are replaced, so that they verify nothing any more.")
    @click.option(
        "--code-length", type=click.Choice([str(each) for each in CODE_CHARS]), default=str(CODE_CHARS[-1]), show_default=True,
        help="Length of the tag codes generated for new tags.",
    )  # fmt: skip
    @click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the outcome of each line to this file, as JSON lines.",
    )
    @json_option
    @with_settings(*DATABASE_AND_KEYS)
    def import_command(
        file: BinaryIO,
        aid: str,
        group: str,
        folder: str | None,
        batch: str | None,
        as_json: bool,
        config: Path | None,
        **flags: Any,
    ) -> None:
        """Import the tags in FILE, all or none.

        FILE contains CSV or JSON lines, optionally compressed with gzip; - is standard input. Existing tags are updated; a blank
        cell leaves the stored value unchanged.
        """
        options = Options(
            preset=flags.pop("preset"),
            ignored=flags.pop("ignored"),
            allow_zero_keys=flags.pop("allow_zero_keys"),
            allow_any_uid=flags.pop("allow_any_uid"),
            retire_old_keys=flags.pop("retire_old_keys"),
            meta_keys=flags.pop("meta_keys"),
            code_chars=int(flags.pop("code_length")),
            dry_run=flags.pop("dry_run"),
        )
        report_path: Path | None = flags.pop("report")
        environment = resolve(flags, config)

        async def work(dsn: str, lines: _ReportFile, progress: Callable[[int], None]) -> Report:
            async with connected(dsn) as connection:
                _pin_to_one_cpu()
                account_id = await edits.account_id_of(connection, aid)
                return await import_tags(
                    connection,
                    await environment.sealing_keys(connection),
                    _pieces(file),
                    account_id=account_id,
                    group_id=await group_named(connection, account_id, group, folder),
                    batch=batch,
                    options=options,
                    on_lines=lines.write if lines.wanted else None,
                    on_bytes=progress,
                )

        sys.setswitchinterval(_SWITCH_S)
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        with (
            environment.database() as dsn,
            _ReportFile(report_path) as lines,
            progress_bar("importing", _length(file)) as progress,
        ):
            with _reported_outcome():
                report = asyncio.run(work(dsn, lines, progress))
            lines.finish(report)
        _print_report(report, batch, as_json=as_json)


def _register_export(main: click.Group) -> None:
    @main.command("export")
    @_with_tag_location
    @click.option("--group", help="Export only the tags of this group.")
    @click.option(
        "--format", "format_", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Format of the file."
    )
    @click.option("--output", type=click.File("wb"), default="-", help="Write to this file instead of standard output.")
    @with_settings(*DATABASE)
    def export_command(
        aid: str, group: str | None, folder: str | None, batch: str | None, format_: str, output: BinaryIO, config: Path | None,
        **flags: object,
    ) -> None:  # fmt: skip
        """Export tags, without their keys, in a format that `ixfast import` reads.

        The output is a file in the format that --format names, so there is no --json.
        """
        environment = resolve(flags, config)

        async def work(dsn: str) -> None:
            async with connected(dsn) as connection:
                account_id = await edits.account_id_of(connection, aid)
                group_id, batch_id = await _group_and_batch(connection, account_id, group, folder, batch)
                pieces = export_tags(connection, account_id, group_id=group_id, batch_id=batch_id, format_=format_)
                async for piece in pieces:
                    output.write(piece)

        with environment.database() as dsn:
            asyncio.run(work(dsn))


def _pin_to_one_cpu() -> None:
    """Run all threads on one CPU. They take turns anyway, and do so without waking a CPU that the database needs.

    Call this only after the embedded PostgreSQL was started, which would inherit the affinity.
    """
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextlib.contextmanager
def _file_errors(failure: str) -> Iterator[None]:
    """Turn OSError of a file into InputError, to keep it apart from errors of the database connection."""
    try:
        yield
    except OSError as error:
        raise InputError("invalid_request", f"{failure}: {error.strerror}. Nothing was imported.") from None


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with _file_errors("Cannot read the file"):
        while piece := file.read(_PIECE_BYTES):
            yield piece


@contextlib.contextmanager
def _reported_outcome() -> Iterator[None]:
    """Turn database errors into a message that says whether the file was imported."""
    try:
        with edits.database_errors(readonly=False):
            yield
    except UnavailableError as error:
        outcome = "The file may have been imported" if error.code == "outcome_unknown" else "Nothing was imported"
        raise click.ClickException(
            f"{outcome}: {error.reason}. Import it again; tags that exist already are not added twice."
        ) from None


async def _group_and_batch(
    connection: Any, account_id: int, group: str | None, folder: str | None, batch: str | None
) -> tuple[int | None, int | None]:
    if group is None:
        if folder is not None or batch is not None:
            raise InputError("missing_parameter", "--folder and --batch require --group.", "group")
        return None, None
    group_id = await group_named(connection, account_id, group, folder)
    batch_id = await batch_named(connection, group_id, batch) if batch is not None else None
    if batch is not None and batch_id is None:
        raise InputError("not_found", "The group has no such batch.", "batch")
    return group_id, batch_id


class _ReportFile:
    """The report, written under a temporary name that is replaced once the outcome of the import is known."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    @property
    def wanted(self) -> bool:
        return self._path is not None

    @property
    def _part(self) -> Path:
        assert self._path is not None
        return self._path.with_name(self._path.name + ".part")

    def __enter__(self) -> _ReportFile:
        if self._path is not None:
            self._file = self._part.open("wb")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        assert self._file is not None
        with _file_errors("Cannot write the report"):
            self._file.writelines(orjson.dumps(row) + b"\n" for row in rows)
            self._file.flush()  # so that a full disk is detected before the commit

    def finish(self, report: Report) -> None:
        if self._path is None or self._file is None:
            return
        if report.problems:
            self.write([{"outcome": "refused", **each._asdict()} for each in report.problems])
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.rename(self._path)


def _length(file: BinaryIO) -> int | None:
    """The size of a file in bytes; None for a pipe."""
    with contextlib.suppress(OSError, ValueError):
        return os.fstat(file.fileno()).st_size
    return None


def _print_report(report: Report, batch: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json(_members(report))
    for problem in report.problems:
        click.echo(str(problem), err=True)
    if report.problems:
        more = "; the rest of the file was not read" if report.more_problems else ""
        raise click.ClickException(f"{counted(report.problems)}{more}. Nothing was imported.")
    if as_json:
        return
    keys = f"{report.keys_added} keys added, {report.keys_replaced} replaced"
    for owner, count in (("", report.meta_keys_added), (" of the batch", report.batch_meta_keys_added)):
        if count:
            keys += f", {count} meta key{'' if count == 1 else 's'}{owner} added"
    click.echo(f"{report.lines} tags: {report.added} added, {report.changed} changed, {report.unchanged} unchanged; {keys}")
    if report.tag_meta_keys_added:
        one = report.tag_meta_keys_added == 1
        got = (
            "1 tag got a meta key of its own: its"
            if one
            else f"{report.tag_meta_keys_added} tags got a meta key of their own: their"
        )
        click.echo(f"{got} taps must name the tag")
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if report.batch_created:
        click.echo(f"batch {batch} created")
    if report.dry_run:
        click.echo("dry run: nothing was imported")
    elif not report.added and not report.changed:
        click.echo("no changes" if report.warnings else "no changes: the tags are already up to date")


def _members(report: Report) -> dict[str, Any]:
    return {**msgspec.structs.asdict(report), "problems": [each._asdict() for each in report.problems]}
