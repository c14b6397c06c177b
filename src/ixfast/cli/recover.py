"""`ixfast recover-counters`: what a failover to a standby that was behind has lost, measured and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ixfast.cli.database import resolve
from ixfast.errors import ConfigurationError
from ixfast.store.admin.recovery import LEFT_SHOWN_MAX, Report, recover

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_PROGRESS_ROWS = 1_000_000


def register(main: click.Group, with_settings: Decorator) -> None:
    @main.command("recover-counters")
    @click.option(
        "--from-dsn-file",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FILE",
        help="A file with the connection string of the old primary, which is only read.",
    )
    @click.option("--since", metavar="TIME", help="Compare passes from this moment on (ISO 8601, UTC unless it says otherwise).")
    @click.option("--dry-run", is_flag=True, help="Measure only; change nothing.")
    @with_settings
    def recover_counters(from_dsn_file: Path, since: str | None, dry_run: bool, config: Path | None, **flags: object) -> None:
        """Recover passes that a failover lost, from the old primary.

        Raises the counters of tags to the highest position that the old primary had accepted, so that no tap of the gap passes
        once more, and adds the lost passes to the scan log. Scans may be served meanwhile. Running it again changes nothing.
        """
        old_dsn, moment = _read_dsn(from_dsn_file), _moment(since)
        place = resolve(flags, config)
        with place.database() as dsn:
            report = asyncio.run(recover(dsn, old_dsn, since=moment, dry_run=dry_run, advanced=_show_progress()))
        for line in _lines(report, dry_run=dry_run):
            click.echo(line)


def _read_dsn(file: Path) -> str:
    try:
        dsn = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"--from-dsn-file: {file} cannot be read ({reason}).") from None
    if not dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"--from-dsn-file: {file} has to hold postgresql://USER:PASSWORD@HOST:PORT/DATABASE alone.")
    return dsn


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--since {text}: write a moment as 2026-01-31T09:30:00+01:00.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _show_progress() -> Callable[[int], None]:
    shown = 0

    def advanced(passes: int) -> None:
        nonlocal shown
        if passes - shown >= _PROGRESS_ROWS:
            shown = passes
            click.echo(f"{passes} passes compared", err=True)

    return advanced


def _lines(report: Report, *, dry_run: bool) -> list[str]:
    if not report.read:
        return ["the old primary's scan log has no passes from that time on; nothing to recover"]
    lines = [
        f"passes of the old primary that were compared: {report.read}",
        f"passes in the gap, which the current primary did not have: {report.lost}",
        f"  accepted a second time meanwhile: {report.accepted_again}",
        f"  of tags that were left: {report.left_passes}",
        f"counters that {'would be' if dry_run else 'were'} raised: {report.raised}",
    ]
    if report.resent:
        lines.append(f"passes that a server had sent again to the current primary, so that they were not lost: {report.resent}")
    if report.uncompared:
        lines.append(
            f"the current scan log has no {', '.join(sorted(report.uncompared))}: passes of that time are not added to it, and "
            f"count as lost only if they are above their counters ({report.not_logged})"
        )
    lines += [f"left: tag {tag.xuid or '?'} with id {tag.tag_id}, {tag.passes} passes: {tag.reason}" for tag in report.left]
    if len(report.left) == LEFT_SHOWN_MAX:
        lines.append("left: perhaps more tags than these")
    if dry_run:
        lines.append("dry run: nothing was changed")
    return lines
