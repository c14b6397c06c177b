"""What the longer experiments have in common: options, a plan told beforehand, and results that survive an interruption."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.stage import Stage

SEED = 424


class Experiment:
    """One run: its options, its session (a time, by which a run is called) and its record in a history file."""

    def __init__(self, parser: argparse.ArgumentParser, history: str, arguments: list[str] | None) -> None:
        parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
        parser.add_argument("--seed", type=int, default=SEED)
        parser.add_argument("--results", type=Path, help="folder of the history and the plots; benchmarks/results unless given")
        self.given = parser.parse_args(arguments)
        self.session = time.strftime("%Y%m%dT%H%M%S")
        self.name = history.partition(".")[0]
        self.interrupted = False
        self._history = history
        self._begun = time.monotonic()

    @property
    def folder(self) -> Path:
        folder = environment.folder(self.given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def plan(self, *parts: str) -> None:
        """Say beforehand what comes."""
        print(f"{self.name}: {'; '.join(parts)}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Progress, with the seconds since the beginning."""
        print(f"  {time.monotonic() - self._begun:>6.0f} s  {text}", file=sys.stderr, flush=True)

    def begin(self, stage: Stage, **more: Any) -> dict[str, Any]:
        """A record with the environment. Nothing is written yet."""
        described = environment.describe(
            load_before=environment.load_average(), postgres=stage.settings(), traffic=environment.plain(stage.traffic)
        )
        return {"session": self.session, "environment": described, **more}

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM ends the block, and what was found until then is kept."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self.interrupted = True
            print("interrupted: what was found until now is kept", file=sys.stderr, flush=True)

    def keep(self, part: dict[str, Any]) -> None:
        """Append a part of a long run to a file of its own at once."""
        with (self.folder / f"{self.name}-{self.session}.jsonl").open("a") as file:
            file.write(json.dumps(part, default=str) + "\n")

    def draw(self, name: str, svg: str) -> None:
        (self.folder / f"{self.name}-{self.session}-{name}.svg").write_text(svg)

    def end(self, record: dict[str, Any], flaws: Sequence[str]) -> int:
        """Write the record, say whether it counts; the exit status."""
        record |= {"flaws": list(flaws), "interrupted": self.interrupted, "spent_s": time.monotonic() - self._begun}
        environment.remember(self._history, record, self.folder)
        print("\nEvery answer was the expected one, the audit clean." if not flaws else f"\nNOT GOOD: {'; '.join(flaws)}")
        print(f"\n{environment.as_markdown(record['environment'])}")
        return 1 if flaws else 0
