"""All micro-benchmarks, one step of a scan at a time. `python -m benchmarks micro`

`--cores` adds the native cores (`micro/core.py`, `micro/lrp.py`), each in a process of its own. The figures are stored in the
history.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import disturbance, environment
from benchmarks.experiment import add_common_flags, session
from benchmarks.micro import cache, engine, query, responses, rules
from benchmarks.micro.step_timer import SEED, SMOKE, Size, report
from benchmarks.processes import ROOT, child_environment, python

HISTORY = "micro.jsonl"
MODULES = {"query": query, "cache": cache, "rules": rules, "reply": responses, "engine": engine}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks micro", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []], help="default: all")
    parser.add_argument("--cores", action="store_true", help="also the native cores, which requires a C compiler")
    add_common_flags(parser)
    given = parser.parse_args(arguments)
    size = SMOKE if given.smoke else Size()
    load, watch = environment.load_average(), disturbance.watch(given)
    cores = {name: _core(name, smoke=given.smoke) if given.cores else [] for name in ("core", "lrp")}
    print(
        f"{environment.processor()}, Python {platform.python_version()}, {size.inputs} inputs, {size.rounds} rounds, seed {SEED}"
    )
    steps = []
    for name in given.modules or MODULES:
        title = MODULES[name].TITLE
        steps += [{"title": title, **timing._asdict()} for timing in report(title, MODULES[name].STEPS, size)]
    described = environment.describe(load_before=load)
    record = {"session": session(), **cores, "steps": steps, "environment": described, "disturbance": watch.record()}
    environment.remember(HISTORY, record, environment.folder(given))
    print(f"\n{watch.summary()}")
    return watch.status(good=True)


def _core(name: str, *, smoke: bool) -> list[dict[str, Any]]:
    """The figures of one of the cores' own programs, which prints its table itself."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        command = python(f"benchmarks.micro.{name}", "--json", figures, *(["--smoke"] if smoke else []))
        subprocess.run(command, cwd=ROOT, env=child_environment(), check=True)
        print()
        found: list[dict[str, Any]] = json.loads(figures.read_text())
        return found
