"""All micro-benchmarks but those of the cores, which stand alone (`micro/core.py`). `python -m benchmarks micro`"""

from __future__ import annotations

import argparse
import platform
import sys

from benchmarks.environment import processor
from benchmarks.micro import cache, engine, query, reply, rules
from benchmarks.micro.timing import SEED, SMOKE, Size, report

MODULES = {"query": query, "cache": cache, "rules": rules, "reply": reply, "engine": engine}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks micro", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", choices=[*MODULES, []], help="all unless named")
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    given = parser.parse_args(arguments)
    size = SMOKE if given.smoke else Size()
    print(f"{processor()}, Python {platform.python_version()}, {size.inputs} inputs, {size.rounds} rounds, seed {SEED}")
    for name in given.modules or MODULES:
        report(MODULES[name].TITLE, MODULES[name].STEPS, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
