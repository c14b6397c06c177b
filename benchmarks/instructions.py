"""Instructions per scan, counted by valgrind: the same from run to run, where times are not. `python -m benchmarks instructions`

The steps of `micro/engine.py` run under `valgrind --tool=callgrind`, and once more without the scans themselves: the difference
of the two counts leaves out the start of the process and the making of taps. valgrind emulates a processor with AES-NI and
AVX2; the native core chooses its instructions accordingly, and not those of the processor at hand.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import environment
from benchmarks.experiment import add_common_flags, session
from benchmarks.micro import engine
from benchmarks.processes import ROOT, child_environment, python
from benchmarks.tables import markdown

HISTORY = "instructions.jsonl"
_SCANS = 5_000
_SMOKE_SCANS = 50
_TIMEOUT_S = 600


def count(step: int, scans: int, *, prepare_only: bool) -> int:
    """Instructions of a process that takes so many scans through a step of `engine.STEPS`."""
    with tempfile.TemporaryDirectory() as folder:
        child = ["--only", step, "--scans", scans, *(["--prepare-only"] if prepare_only else [])]
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/%p"]
        command = [*valgrind, *python("benchmarks.instructions", *child)]
        variables = child_environment({"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"})
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=_TIMEOUT_S)
        if process.returncode:
            raise RuntimeError(f"valgrind: {said.decode(errors='replace')[-500:]}")
        counts = (Path(folder) / str(process.pid)).read_text()
    (total,) = re.findall(r"^totals: (\d+)$", counts, re.MULTILINE)
    return int(total)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--scans", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--prepare-only", action="store_true", help=argparse.SUPPRESS)
    add_common_flags(parser)
    given = parser.parse_args(arguments)
    if given.only is not None:
        work = engine.STEPS[given.only].prepare(given.scans)
        if not given.prepare_only:
            work()
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return 2
    scans = _SMOKE_SCANS if given.smoke else _SCANS
    # Once without valgrind, because the first process after a change compiles modules to bytecode.
    subprocess.run(python("benchmarks.instructions", "--only", 0, "--scans", 1), cwd=ROOT, env=child_environment(), check=True)
    load, steps = environment.load_average(), []
    for number, step in list(enumerate(engine.STEPS))[-1 if given.smoke else 0 :]:
        each = (count(number, scans, prepare_only=False) - count(number, scans, prepare_only=True)) / scans
        steps.append({"name": step.name, "instructions": round(each)})
        print(f"  {step.name}: {each:,.0f}", file=sys.stderr, flush=True)
    print("\n" + markdown(("step", "instructions per scan"), [(step["name"], f"{step['instructions']:,}") for step in steps]))
    record = {"session": session(), "steps": steps, "environment": environment.describe(load_before=load)}
    environment.remember(HISTORY, record, environment.folder(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
