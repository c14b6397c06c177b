"""`python -m benchmarks [WHAT] [OPTIONS]` runs a benchmark by its name; `--help` after the name lists its options.

Without a name it runs `run`, the standard set.
"""

from __future__ import annotations

import importlib
import signal
import sys

BENCHMARKS = {
    "run": ("benchmarks.run", "the standard set, in about a quarter of an hour, and a report"),
    "scans": ("benchmarks.scans", "durable scans per second through HTTP, compared with the peers"),
    "latency": ("benchmarks.latency", "latency at fixed arrival rates, 10 % to 110 % of capacity"),
    "overload": ("benchmarks.overload", "50, 150 and 300 % of capacity: goodput, 503s, latency"),
    "hosts": ("benchmarks.hosts", "1, 2 and 4 workers and two hosts on one database: cost, wait events, a model"),
    "restart": ("benchmarks.restart", "empty caches under full load: seconds until p99 is normal again"),
    "soak": ("benchmarks.soak", "20 minutes at 70 % of capacity: drift of latency, memory, tables and indexes"),
    "scale": ("benchmarks.scale.sizes", "10,000 to 10,000,000 registered tags: warm, cold, start, memory, import"),
    "ledger": ("benchmarks.ledger.sweep", "the SQL alone, by tags per statement"),
    "hand_over": ("benchmarks.ledger.hand_over", "would one commit stream a host pay?"),
    "stages": ("benchmarks.stages", "cost of each stage of a scan, as measured by the workers"),
    "knobs": ("benchmarks.setting_variants", "effect of each setting"),
    "generator": ("benchmarks.load.check", "cost and accuracy of the load generator itself"),
    "keyed": ("benchmarks.keyed", "cost of an Idempotency-Key on /v2"),
    "timing": ("benchmarks.timing", "do response times reveal what a caller may not know?"),
    "micro": ("benchmarks.micro.suite", "one step of a scan at a time, without network and database"),
    "instructions": ("benchmarks.instructions", "instructions per scan, which do not vary as times do"),
    "report": ("benchmarks.report", "the newest results as one document, with the targets"),
}


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        given = ["run"]
    if given[0] not in BENCHMARKS:
        print("usage: python -m benchmarks [WHAT] [OPTIONS]\n")
        for name, (_, text) in BENCHMARKS.items():
            print(f"  {name:<12} {text}")
        return 0 if given[0] in ("-h", "--help") else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` blocks end child processes
    module = importlib.import_module(BENCHMARKS[given[0]][0])
    return int(module.main(given[1:]))


if __name__ == "__main__":
    sys.exit(main())
