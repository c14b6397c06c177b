"""`python -m tests.simulation`: one seed with its trace, or as many as there is time for."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .controls import CONTROLS, Control
from .run import Run
from .worker import Worker


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further seed after so long")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="run a broken variant, which is to be found")
    parser.add_argument("--trace", action="store_true", help="print the trace also of a run without a violation")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed with a violation")
    options = parser.parse_args()
    control = CONTROLS[options.control] if options.control else Control(Worker)
    began = time.monotonic()
    answers: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    bad: list[int] = []
    run = 0
    for seed in range(options.seed, options.seed + options.seeds):
        if time.monotonic() - began > options.seconds:
            break
        result = Run(seed, *control).execute()
        run += 1
        answers += result.answers
        faults += result.faults
        if result.violations:
            bad.append(seed)
            print(result.report() if not options.keep_going else f"seed {seed}: " + "\n  ".join(result.violations), flush=True)
            if not options.keep_going:
                break
        elif options.trace:
            print(result.report())
    seconds = time.monotonic() - began
    print(f"{run} seeds from {options.seed} on in {seconds:.0f} s, {1000 * seconds / max(1, run):.0f} ms each")
    print(f"{answers.total()} scans: " + ", ".join(f"{n} {answer}" for answer, n in answers.most_common()))
    print(f"{faults.total()} faults: " + ", ".join(f"{n} {kind}" for kind, n in faults.most_common()))
    print(f"violations: {len(bad)} seeds" + (f": {bad[:20]}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
