"""`ixfast audit`: verifies the taps in a file offline; see docs/how-to/audit-a-log.md.

Exit status: 0 if every tap is genuine, 3 if any tap is not, others if the audit failed, which it also has if there is no tap.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from ixfast import audit as auditing
from ixfast.audit import Audit, Summary, TagCatalogue
from ixfast.audit.account_tags import read_account
from ixfast.audit.summary import counted
from ixfast.audit.tap_format import TapFormat
from ixfast.cli.command_group import leave
from ixfast.cli.database import CommandEnvironment, resolve
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.options import DATABASE_AND_KEYS, with_settings
from ixfast.cli.output import print_json
from ixfast.cli.progress import progress_bar
from ixfast.cli.standard_streams import standard_input
from ixfast.domain.model import EncodingProfile
from ixfast.errors import IxfastError
from ixfast.store.connections import session
from ixfast.tag_files import PRESETS

_PIECE_BYTES = 1 << 18


def register(main: click.Group) -> None:
    @main.command("audit")
    @click.argument("file", metavar="FILE")
    @click.option(
        "--keys", "key_file", type=click.Path(path_type=Path), help="File of tags with their keys, as `ixfast import` takes it."
    )
    @click.option(
        "--account", "aid", help="Read the tags and keys of this account (AID) from the database, without writing to it."
    )
    @click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="NAME|@FILE",
        help="An encoding profile; the first is the default for the key file.",
    )
    @click.option(
        "--preset", type=click.Choice(list(PRESETS)), help="Accept the column names of another program in the key file."
    )
    @click.option("--ignore", "ignored", multiple=True, metavar="COLUMN", help="Ignore this column of the key file; repeatable.")
    @click.option("--allow-any-uid", is_flag=True, help="Accept UIDs in the key file that end with 04, as reversed ones do.")
    @click.option(
        "--out",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        help="Write the verdicts to this file, one JSON object per line.  [default: standard output]",
    )
    @click.option(
        "--show", type=click.Choice(["all", "refused", "none"]), default="all", show_default=True, help="Verdicts to write."
    )
    @click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of processes.")
    @click.option(
        "--in-order", is_flag=True, help="The taps of each tag are in chronological order, so report each as soon as it is read."
    )
    @click.option(
        "--json", "as_json", is_flag=True, help="Print the summary as JSON to standard output. Requires --out or --show none."
    )
    @with_settings(*DATABASE_AND_KEYS)
    def audit_command(
        file: str,
        key_file: Path | None,
        aid: str | None,
        profiles: tuple[str, ...],
        preset: str | None,
        ignored: tuple[str, ...],
        allow_any_uid: bool,
        out: Path | None,
        show: str,
        jobs: int,
        in_order: bool,
        as_json: bool,
        config: Path | None,
        **flags: object,
    ) -> None:
        """Verify the taps in FILE without a server.

        FILE is a web server's log, CSV, JSON, or one URL per line, optionally compressed with gzip; - is standard input. A line
        of CSV or JSON has the time of the tap as `at`, and the tap as `url`, as `query`, or in the columns x, n and e. The exit
        status is 0 if every tap is genuine, 3 if any is not, and 1 if no line contains a tap.
        """
        if (key_file is None) == (aid is None):
            raise click.UsageError("Give either --keys or --account.")
        if as_json and out is None and show != "none":
            raise click.UsageError("--json prints the summary in place of the verdicts: add --out FILE or --show none.")
        shown = "standard input" if file == "-" else file
        with contextlib.ExitStack() as stack:
            source, size = stack.enter_context(_opened(file))
            # The writer of a pipe (`ixfast simulate`) may still be writing the key file; it is complete before the first tap.
            pieces = _after_first(auditing.read_chunks(source, shown))
            if aid is not None:
                catalogue = _from_database(resolve(flags, config), aid)
            else:
                assert key_file is not None
                catalogue = _from_file(key_file, profiles, preset, ignored, allow_any_uid=allow_any_uid)
            target = stack.enter_context(out.open("wb")) if out is not None else sys.stdout.buffer
            pieces = stack.enter_context(_with_progress(pieces, source, size))
            started = time.perf_counter()
            audit = Audit(catalogue, jobs=jobs, in_order=in_order)
            summary = _run(audit, pieces, target, show)
            seconds = time.perf_counter() - started
        if as_json:
            print_json(summary.members(seconds, audit.format))
        else:
            for line in summary.lines(seconds):
                click.echo(line, err=True)
            for warning in summary.warnings(audit.format):
                click.echo(f"warning: {warning}", err=True)
        if not summary.has_taps:
            raise IxfastError(_why_none(shown, summary, audit.format))
        if not summary.all_genuine:
            leave(ExitCode.NEGATIVE)


def _why_none(file: str, summary: Summary, form: TapFormat | None) -> str:
    """What is wrong with a file in which no line is a tap."""
    if summary.first_problem is not None:
        return f"No line of {file} could be read as a tap; {summary.where()}."
    if summary.without_tap:
        count = counted(summary.without_tap)
        return f"{file} has {count} and none with a tap of these tags; is it the right log, and the right profile?"
    return f"{file} contains no taps" + (": no line follows its header." if form is not None and form.names else ".")


def _run(audit: Audit, pieces: Iterable[bytes], target: BinaryIO, show: str) -> Summary:
    summary = Summary()
    first_line = 1
    for judged in audit.judged(pieces):
        summary.add(judged, first_line)
        if show != "none":
            for lines in auditing.json_lines(judged, audit.catalogue, first_line, refused_only=show == "refused"):
                target.write(lines)
            target.flush()
        first_line += len(judged)
    return summary


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file opened for reading, still compressed, and its size in bytes if known."""
    if file == "-":
        yield standard_input().buffer, None
        return
    try:
        source = open(file, "rb")  # noqa: SIM115, PTH123 - closed below; a Path of '' would be the current directory
    except OSError as error:
        raise click.UsageError(f"{file or repr(file)} cannot be read: {error.strerror}.") from None
    with source:
        size = Path(file).stat().st_size
        yield source, size or None


def _after_first(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, after waiting for the first one."""
    first = next(pieces, None)

    def chained() -> Iterator[bytes]:
        if first is not None:
            yield first
            yield from pieces

    return chained()


def _from_file(
    path: Path, profiles: tuple[str, ...], preset: str | None, ignored: tuple[str, ...], *, allow_any_uid: bool
) -> TagCatalogue:
    own: dict[str, EncodingProfile] = {}
    default = None
    for source in profiles:
        name = source
        if source.startswith("@"):
            profile = auditing.read_profile_file(Path(source[1:]))
            name, own[profile.name] = profile.name, profile
        else:
            auditing.find_profile(name)
        default = default or name
    unread: list[str] = []
    try:
        with path.open("rb") as file:
            catalogue = auditing.read_keys(
                iter(lambda: file.read(_PIECE_BYTES), b""),
                lambda notation: auditing.find_profile(notation, own),
                default_profile=default,
                preset=preset,
                ignored=ignored,
                unread=unread,
                allow_any_uid=allow_any_uid,
            )
    except OSError as error:
        raise click.UsageError(f"--keys: {path} cannot be read: {error.strerror}.") from None
    if unread:
        click.echo(f"warning: columns of the key file that are not read: {', '.join(unread)}", err=True)
    if zeros := catalogue.factory_keys:
        keys = "1 key of the key file is" if zeros == 1 else f"{zeros:,} keys of the key file are"
        click.echo(f"warning: {keys} all zeros, which is public: anyone can make taps that are genuine under it", err=True)
    return catalogue


def _from_database(environment: CommandEnvironment, aid: str) -> TagCatalogue:
    async def work(dsn: str) -> TagCatalogue:
        pool = await session.make_pool(dsn, 1)
        try:
            async with pool.acquire() as connection:
                return await read_account(connection, await environment.keys(connection), aid)
        finally:
            await pool.close()

    with environment.database() as dsn:
        return asyncio.run(work(dsn))


@contextlib.contextmanager
def _with_progress(pieces: Iterator[bytes], source: BinaryIO, size: int | None) -> Iterator[Iterator[bytes]]:
    """The same chunks; on a terminal, a progress bar shows how much of the file has been read."""
    with progress_bar("reading", size) as advance:
        if size is None:  # a pipe, which has no position
            yield pieces
            return

        def watched() -> Iterator[bytes]:
            done = 0
            for piece in pieces:
                yield piece
                now = source.tell()
                advance(now - done)
                done = now

        yield watched()
