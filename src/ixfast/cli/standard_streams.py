"""Standard streams that the caller closed, as in `ixfast audit - <&-`: reading or writing one ends the command with one line.

Python sets `sys.stdin` and `sys.stdout` to None then, and the next file or connection that is opened gets their descriptor.
"""

from __future__ import annotations

import io
import os
import sys
from typing import IO, TextIO

import click

_CLOSED_INPUT = "standard input is closed; name a file."


def standard_input() -> TextIO:
    """Standard input. Raises UsageError if it is closed."""
    if sys.stdin is None:
        raise click.UsageError(f"{_CLOSED_INPUT[0].upper()}{_CLOSED_INPUT[1:]}")
    return sys.stdin


class InputFile(click.File):
    """An argument that is a file to read, in which `-` is standard input."""

    def convert(
        self, value: str | os.PathLike[str] | IO[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> IO[str]:
        if value == "-" and sys.stdin is None:
            self.fail(_CLOSED_INPUT, param, ctx)
        return super().convert(value, param, ctx)


def replace_closed_streams() -> None:
    """Occupy the descriptors of closed streams. The first write to a closed standard output then fails with one line."""
    for descriptor, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            _occupy(descriptor)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_ClosedOutput()), encoding="utf-8", errors="surrogateescape")
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")  # a path may be any bytes
    if sys.stderr is None:
        sys.stderr = _null_output()


def discard_closed_output() -> None:
    """Let a command that runs for long and prints only notes succeed without a standard output."""
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _ClosedOutput):
        sys.stdout = _null_output()


def _null_output() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123 - until the process ends


def _occupy(descriptor: int) -> None:
    """Open /dev/null as this descriptor, for child processes too: libuv aborts a worker whose connection has a standard one."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null == descriptor:
            os.set_inheritable(null, True)
        else:
            os.dup2(null, descriptor)
            os.close(null)


class _ClosedOutput(io.RawIOBase):
    """Fails once. It discards what is written later, which is what buffers still hold when the command ends."""

    def __init__(self) -> None:
        self._has_failed = False

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        if not self._has_failed:
            self._has_failed = True
            raise click.ClickException("Standard output is closed.")
        return memoryview(data).nbytes  # type: ignore[arg-type]
