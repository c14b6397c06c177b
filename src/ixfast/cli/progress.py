"""Progress of long work, on standard error and only if it is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

Advance = Callable[[int], None]
"""Called with the amount of work done since the last call."""


@contextlib.contextmanager
def progress_bar(label: str, length: int | None) -> Iterator[Advance]:
    """A bar for work of this length; for work of an unknown length, nothing. See `running_count` for that."""
    if not length or not sys.stderr.isatty():
        yield _ignore
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@contextlib.contextmanager
def running_count(noun: str) -> Iterator[Advance]:
    """A line with a count, for work of unknown length. The function that it yields takes the total so far."""
    if not sys.stderr.isatty():
        yield _ignore
        return
    shown = False

    def show(total: int) -> None:
        nonlocal shown
        shown = True
        click.echo(f"\r{total:,} {noun}", err=True, nl=False)

    try:
        yield show
    finally:
        if shown:
            click.echo(err=True)


def _ignore(_amount: int) -> None:
    return
