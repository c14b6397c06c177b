"""What the benchmarks of the native cores share: loops in C over the core's own headers, timed rounds, and a hash of the results.

All implementations of one operation must agree: rows of one operation with different hashes make the exit status 1.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.environment import processor
from ixfast import cmac

HEADERS = Path(__file__).parents[2] / "src" / "ixfast"
Row = tuple[str, Callable[[], bytes]]
Tap = tuple[bytes, bytes, int, bytes, bytes]
"""File key (16 bytes), UID (7), counter, window, MAC (8)."""


class Rounds(NamedTuple):
    """How many messages a round has, how often it is repeated, and how often with the twin in plain Python."""

    messages: int
    native: int
    twin: int


class Operation(NamedTuple):
    """Implementations of one operation, each a function that works through all messages. `about` identifies it in the results."""

    title: str
    about: dict[str, Any]
    rows: Iterable[Row]


def simulated_taps(seed: int, count: int, window_size: int, mac: Callable[..., bytes]) -> tuple[Random, list[Tap]]:
    """Taps with windows of one size, of which one in eight is forged; and the generator of random numbers behind them."""
    dice = Random(seed)
    taps: list[Tap] = []
    for _ in range(count):
        tap = dice.randbytes(16), dice.randbytes(7), dice.randrange(1 << 24), dice.randbytes(window_size)
        forged = dice.randrange(8) == 0
        taps.append((*tap, dice.randbytes(8) if forged else mac(*tap)))
    return dice, taps


def compiled(source: str, folder: str) -> Any:
    """The functions of a C source that includes the core's headers."""
    path, library = Path(folder) / "loops.c", Path(folder) / "loops.so"
    path.write_text(source)
    command = [os.environ.get("CC", "cc"), "-O2", "-std=c11", "-shared", "-fPIC", f"-I{HEADERS}", str(path)]
    subprocess.run([*command, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def measure(run: Callable[[], bytes], count: int, rounds: int) -> tuple[float, float, str]:
    """Fastest and median nanoseconds per message, and the hash of the results."""
    spent_ns = []
    for _ in range(rounds):
        start_ns = time.perf_counter_ns()
        results = run()
        spent_ns.append((time.perf_counter_ns() - start_ns) / count)
    return min(spent_ns), statistics.median(spent_ns), hashlib.sha256(results).hexdigest()[:16]


def main(
    doc: str, source: str, operations: Callable[[int, Any], Iterable[Operation]], sizes: tuple[Rounds, Rounds], seed: int,
    unit: tuple[str, float, int], arguments: Sequence[str] | None,
) -> int:  # fmt: skip
    """The command of one such benchmark. `sizes` are those of a normal and of a smoke run; `unit` has a name, its nanoseconds and
    the digits that are printed."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    given = parser.parse_args(arguments)
    size, (name, ns, digits) = sizes[given.smoke], unit
    reason = f" ({cmac.REASON})" if cmac.REASON else ""
    print(f"{cmac.IMPLEMENTATION}{reason}, {processor()}, Linux {platform.release()}, Python {platform.python_version()},")
    print(
        f"cryptography {version('cryptography')}, {size.messages} messages, {size.native} rounds (twin {size.twin}), seed {seed}"
    )
    agree, kept = True, []
    with tempfile.TemporaryDirectory() as folder:
        for operation in operations(size.messages, None if cmac.REASON else compiled(source, folder)):
            print(f"\n{operation.title:<45} {name} fastest  {name} median  results")
            hashes = set()
            for row, run in operation.rows:
                fastest, median, digest = measure(run, size.messages, size.twin if row.startswith("twin") else size.native)
                print(f"{row:<45} {fastest / ns:>10.{digits}f} {median / ns:>10.{digits}f}  {digest}")
                hashes.add(digest)
                figures = {f"{name}_fastest": fastest / ns, f"{name}_median": median / ns, "digest": digest}
                kept.append({**operation.about, "name": row, **figures})
            agree = agree and len(hashes) == 1
    if given.json is not None:
        given.json.write_text(json.dumps(kept))
    if not agree:
        print("the implementations disagree", file=sys.stderr)
    return 0 if agree else 1
