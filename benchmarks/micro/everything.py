"""All micro-benchmarks, a step at a time. `python -m benchmarks micro`

With `--cores` also the cores (`micro/core.py`, `micro/lrp.py`), each in a process of its own. The figures go to the history.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.micro import cache, engine, query, reply, rules
from benchmarks.micro.timing import SEED, SMOKE, Size, report
from benchmarks.processes import ROOT, child_environment, python

HISTORY = "micro.jsonl"
MODULES = {"query": query, "cache": cache, "rules": rules, "reply": reply, "engine": engine}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks micro", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []], help="all unless named")
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--cores", action="store_true", help="also the cores, which need a C compiler")
    parser.add_argument("--results", type=Path, help="folder of the history; benchmarks/results unless given")
    given = parser.parse_args(arguments)
    size = SMOKE if given.smoke else Size()
    load = environment.load_average()
    cores = {name: _core(name, smoke=given.smoke) if given.cores else [] for name in ("core", "lrp")}
    print(
        f"{environment.processor()}, Python {platform.python_version()}, {size.inputs} inputs, {size.rounds} rounds, seed {SEED}"
    )
    steps = []
    for name in given.modules or MODULES:
        title = MODULES[name].TITLE
        steps += [{"title": title, **timing._asdict()} for timing in report(title, MODULES[name].STEPS, size)]
    described = environment.describe(load_before=load)
    record = {"session": time.strftime("%Y%m%dT%H%M%S"), **cores, "steps": steps, "environment": described}
    environment.remember(HISTORY, record, environment.folder(given))
    return 0


def _core(name: str, *, smoke: bool) -> list[dict[str, Any]]:
    """What one of the cores' own programs found; it prints its table itself."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        command = python(f"benchmarks.micro.{name}", "--json", figures, *(["--smoke"] if smoke else []))
        subprocess.run(command, cwd=ROOT, env=child_environment(), check=True)
        print()
        found: list[dict[str, Any]] = json.loads(figures.read_text())
        return found


if __name__ == "__main__":
    sys.exit(main())
