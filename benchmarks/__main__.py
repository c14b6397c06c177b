"""`python -m benchmarks [WHAT] [OPTIONS]`: every benchmark by its name; `--help` after a name tells its options.

Without a name it is `run`, all that fits into a quarter of an hour."""

from __future__ import annotations

import importlib
import signal
import sys

BENCHMARKS = {
    "run": ("benchmarks.run", "the one run: what fits into a quarter of an hour, and a report"),
    "scans": ("benchmarks.scans", "durable scans a second through HTTP, beside the peers"),
    "latency": ("benchmarks.latency", "latency at fixed arrival rates, 10 % to 110 % of capacity"),
    "overload": ("benchmarks.overload", "half, one and a half, and three times the capacity: goodput, 503s, latency"),
    "soak": ("benchmarks.soak", "20 minutes at 70 % of capacity: drift of latency, memory, tables and indexes"),
    "scale": ("benchmarks.scale.sizes", "10,000 to 10,000,000 registered tags: warm, cold, start, memory, import"),
    "ledger": ("benchmarks.ledger.sweep", "the SQL alone, by tags a statement"),
    "stages": ("benchmarks.stages", "what each stage of a scan costs, as the workers measured it"),
    "knobs": ("benchmarks.setting_variants", "what each setting is worth"),
    "generator": ("benchmarks.load.check", "what the load generator itself costs, and whether it tells the truth"),
    "keyed": ("benchmarks.keyed", "what an Idempotency-Key costs on /v2"),
    "timing": ("benchmarks.timing", "can a caller tell by the clock what it may not know?"),
    "micro": ("benchmarks.micro.suite", "one step of a scan at a time, without network and database"),
    "report": ("benchmarks.report", "all newest results as one document, with the figures to reach"),
}


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        given = ["run"]
    if given[0] not in BENCHMARKS:
        print("usage: python -m benchmarks [WHAT] [OPTIONS]\n")
        for name, (_, text) in BENCHMARKS.items():
            print(f"  {name:<10} {text}")
        return 0 if given[0] in ("-h", "--help") else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended on the way out
    module = importlib.import_module(BENCHMARKS[given[0]][0])
    return int(module.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
