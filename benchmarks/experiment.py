"""What the longer benchmarks share: sizes and their flags, progress, and results that survive an interruption.

A benchmark describes its size in a frozen dataclass that extends `Size`, and names the fields that are flags. It starts no
server and sends no load; `load_test.py` does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import disturbance, environment, plots
from benchmarks.load.traffic import Mix, Traffic
from benchmarks.testbed import Testbed

SEED = 424
CAPACITY = "requests/s that are 100 %% (default: measured)"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What every benchmark over HTTP has: registered tags, client connections, server workers and generator processes."""

    tags: int = 100_000
    connections: int = 256
    workers: int = 2
    processes: int = 2


S = TypeVar("S", bound=Size)


class BenchmarkError(RuntimeError):
    """A benchmark cannot go on, for example because the capacity could not be measured. It is recorded as a flaw of the run."""


class Experiment:
    """One run: its flags, its session (the time that identifies it) and its record in a history file.

    `flags` are the fields of `size` that are flags of the command, each with its help text.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        history: str,
        arguments: Sequence[str] | None,
        *,
        size: Any = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        add_common_flags(parser)
        parser.add_argument("--seed", type=int, default=SEED)
        for name, text in (flags or {}).items():
            _add_flag(parser, name, getattr(size, name), text)
        self.given = parser.parse_args(arguments)
        self.session = session()
        self.name = history.partition(".")[0]
        self.interrupted = False
        self.flaws: list[str] = []
        self._flags = tuple(flags or ())
        self._history = history
        self._begun = time.monotonic()
        self.watch = disturbance.watch(self.given)

    @property
    def folder(self) -> Path:
        folder = environment.folder(self.given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sized(self, default: S, smoke: S) -> S:
        """The size with the values of the given flags."""
        chosen = {name: getattr(self.given, name) for name in self._flags}
        return replace(smoke if self.given.smoke else default, **{k: v for k, v in chosen.items() if v is not None})

    def testbed(self, size: Size, **options: Any) -> Testbed:
        """A testbed for the traffic of this size. `--mix` sets the mix, where the command has it."""
        traffic = Traffic(self.given.seed, size.tags, size.connections, Mix(*getattr(self.given, "mix", Mix())))
        return Testbed(traffic, aged=not self.given.smoke, **options)

    def plan(self, *parts: str) -> None:
        """Print beforehand what will run."""
        print(f"{self.name}: {'; '.join(parts)}", file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Print progress, with the seconds since the start."""
        print(f"  {time.monotonic() - self._begun:>6.0f} s  {text}", file=sys.stderr, flush=True)

    def begin(self, testbed: Testbed, **more: Any) -> dict[str, Any]:
        """A record with the environment. Nothing is written yet. The machine is watched from now on."""
        described = environment.describe(
            load_before=environment.load_average(), postgres=testbed.settings(), traffic=environment.plain(testbed.traffic)
        )
        self.watch.restart()
        return {"session": self.session, "environment": described, **more}

    def lap(self, name: str) -> None:
        """A part of the run has ended, which has to be undisturbed by itself."""
        found = self.watch.lap(name)
        if found.reasons:
            self.progress(f"{name}: disturbed, {found}")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM or a `BenchmarkError` ends the block; results up to then are kept."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.interrupted = True
            print("interrupted: results up to now are kept", file=sys.stderr, flush=True)
        except BenchmarkError as error:
            self.flaws.append(str(error))

    def keep(self, part: dict[str, Any]) -> None:
        """Append a part of a long run to a file of its own immediately."""
        with (self.folder / f"{self.name}-{self.session}.jsonl").open("a") as file:
            file.write(json.dumps(part, default=str) + "\n")

    def show(self, text: str) -> None:
        """Print the figures, unless the run is unfit."""
        if self.watch.unfit:
            text = "The figures are not shown, because the machine was disturbed; the history keeps them."
        print(text)

    def draw(self, name: str, figure: Any) -> None:
        """Write a plot to the folder of the history, unless the run is unfit."""
        if self.watch.unfit:
            return
        plots.write(figure, self.folder / f"{self.name}-{self.session}-{name}.svg")

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record to the history."""
        environment.remember(self._history, record, self.folder)

    def end(self, record: dict[str, Any], flaws: Sequence[str] = ()) -> int:
        """Write the record and print whether it is valid. Returns the exit status."""
        flaws = [*self.flaws, *flaws]
        spent_s = time.monotonic() - self._begun
        disturbed = {"disturbance": self.watch.record()}
        self.append(record | disturbed | {"flaws": flaws, "interrupted": self.interrupted, "spent_s": spent_s})
        return self.conclude(record["environment"], flaws)

    def conclude(self, described: Mapping[str, Any], flaws: Sequence[str]) -> int:
        """Print whether the run is valid and how disturbed the machine was. Returns the exit status."""
        print("\nEvery answer was the expected one, the audit clean." if not flaws else f"\nNOT GOOD: {'; '.join(flaws)}")
        print(f"\n{self.watch.summary()}\n\n{environment.as_markdown(described)}")
        return self.watch.status(not flaws)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that writes a history."""
    disturbance.add_flag(parser)
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--results", type=Path, help="folder of the history and the plots (default: benchmarks/results)")


def add_mix_flag(parser: argparse.ArgumentParser) -> None:
    names = tuple(name.upper() for name in Mix._fields)
    parser.add_argument("--mix", type=float, nargs=4, default=list(Mix()), metavar=names, help="weights of the kinds of taps")


def session() -> str:
    """The local time, which identifies a run."""
    return time.strftime("%Y%m%dT%H%M%S")


def _add_flag(parser: argparse.ArgumentParser, name: str, default: Any, text: str) -> None:
    flag, help_text = f"--{name.replace('_', '-')}", text if "default" in text else f"{text} (default: {default})"
    if isinstance(default, bool):
        parser.add_argument(flag, action="store_true", default=None, help=text)
    elif isinstance(default, tuple):
        parser.add_argument(flag, type=type(default[0]), nargs="+", action=_Sorted, help=help_text)
    else:
        parser.add_argument(flag, type=type(default), help=help_text)


class _Sorted(argparse.Action):
    """Several values as a sorted tuple."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(sorted(values)))
