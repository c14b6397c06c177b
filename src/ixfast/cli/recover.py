"""`ixfast recover-counters`: measures and repairs what a failover to a lagging standby lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ixfast import secret_files
from ixfast.cli.database import resolve
from ixfast.cli.options import DATABASE, with_settings
from ixfast.cli.output import json_option, print_json
from ixfast.cli.progress import running_count
from ixfast.config.dsn_form import dsn_mistake
from ixfast.errors import ConfigurationError
from ixfast.store.admin.recovery import SKIPPED_SHOWN_MAX, Report, recover


def register(main: click.Group) -> None:
    @main.command("recover-counters")
    @click.option(
        "--from-dsn-file",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FILE",
        help="File with the connection string of the old primary. The command only reads from that server.",
    )
    @click.option("--since", metavar="TIME", help="Compare passes from this time on (ISO 8601; UTC unless it has an offset).")
    @click.option("--dry-run", is_flag=True, help="Only measure; change nothing.")
    @json_option
    @with_settings(*DATABASE)
    def recover_counters(
        from_dsn_file: Path, since: str | None, dry_run: bool, as_json: bool, config: Path | None, **flags: object
    ) -> None:
        """Recover the passes that a failover lost from the old primary.

        Raises the counter of each tag to the highest position that the old primary accepted, so that no tap of the gap passes
        a second time, and adds the lost passes to the scan log. Servers may keep serving scans. A second run changes nothing.
        """
        old_dsn, moment = _read_dsn(from_dsn_file), _moment(since)
        environment = resolve(flags, config)
        with environment.database() as dsn, running_count("passes compared") as advance:
            report = asyncio.run(recover(dsn, old_dsn, since=moment, dry_run=dry_run, advanced=advance))
        if as_json:
            print_json(_members(report, dry_run=dry_run))
            return
        for line in _lines(report, dry_run=dry_run):
            click.echo(line)


def _read_dsn(file: Path) -> str:
    try:
        dsn = secret_files.read_line(file, "--from-dsn-file")
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    if (form := dsn_mistake(dsn)) is not None:
        raise click.UsageError(f"--from-dsn-file: {file} must contain {form} (the value is a secret and not shown).")
    return dsn.strip()


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--since {text}: expected a time such as 2026-01-31T09:30:00+01:00.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _members(report: Report, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "compared": report.read,
        "lost": report.lost,
        "accepted_again": report.accepted_again,
        "resent": report.resent,
        "counters_raised": report.raised,
        "uncompared_partitions": sorted(report.uncompared),
        "not_logged": report.not_logged,
        "skipped_passes": report.skipped_passes,
        "skipped": [tag._asdict() for tag in report.skipped],
    }


def _lines(report: Report, *, dry_run: bool) -> list[str]:
    if not report.read:
        return ["the scan log of the old primary has no passes since that time: nothing to recover"]
    lines = [
        f"passes of the old primary compared: {report.read}",
        f"passes lost in the failover: {report.lost}",
        f"  accepted again by the current primary: {report.accepted_again}",
        f"  of skipped tags: {report.skipped_passes}",
        f"counters {'to raise' if dry_run else 'raised'}: {report.raised}",
    ]
    if report.resent:
        lines.append(f"passes not lost, because a server sent them again to the current primary: {report.resent}")
    if report.uncompared:
        lines.append(
            f"the current scan log lacks {', '.join(sorted(report.uncompared))}: passes of that time are not added to it, and "
            f"count as lost only if they are above their counters ({report.not_logged})"
        )
    lines += [f"skipped: tag {tag.xuid or '?'} with id {tag.tag_id}, {tag.passes} passes: {tag.reason}" for tag in report.skipped]
    if len(report.skipped) == SKIPPED_SHOWN_MAX:
        lines.append("skipped: possibly more tags than listed")
    if dry_run:
        lines.append("dry run: nothing was changed")
    return lines
