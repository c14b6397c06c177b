"""Cost of a rule decision, and of a loaded rule set: nanoseconds per call by kind of set, and bytes per set of 10,000 different
ones.

The cost of calling an empty function is printed for comparison, because every row includes it. Prints a hash of all decisions,
which a change that is meant to make rules faster must not change. `--smoke` runs a size that only shows that the benchmark
works.
"""

import argparse
import gc
import hashlib
import platform
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ixfast import rules
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Extras, Scan, Visitor, position
from ixfast.responses.response_set import ResponseSet

TYPICAL = (
    ("few", "authentication == pass and scan_count < 5"),
    ("many", "authentication == pass"),
    ("again", "verdict == replayed"),
)
SETS = {
    "built in": None,
    "typical": TYPICAL,
    "counters": (("gap", "gap between 1 and 10"), ("count", "chip_count > 1000 or scan_count between 5 and 9")),
    "texts": (("batch", "batch in (B1, B2) and assigned"), ("cuid", "cuid starts with ABC"), ("field", "field.colour == red")),
    "hours": (("open", "time between 09:00 and 17:00 and not weekday in (sat, sun) at Europe/Berlin"),),
    "visitor": (("home", "country in (DE, AT, CH)"), ("phone", "os in (ios, android)")),
    "64 groups": tuple((f"g{n}", f"scan_count == {n + 100}") for n in range(64)),
}


def scans() -> list[tuple[str, Scan]]:
    """A scan of each verdict that rules see, in a fixed order."""
    found = []
    for verdict in (Verdict.GENUINE, Verdict.REPLAYED, Verdict.FORGED, Verdict.PLAIN):
        scan = Scan(lambda _scan: None, b"q8w3sbcz", 61, None, None, 1, 0.0, Extras(visitor=Visitor("192.0.2.1", "none")))
        scan.verdict, scan.authentic, scan.scan_count = verdict, verdict is Verdict.GENUINE, 12
        scan.position, scan.previous_position = position(1, 61), position(1, 60)
        record: Any = SimpleNamespace(cuid="XYZ", batch=SimpleNamespace(name="B2"), assigned=False, fields={"colour": "blue"})
        scan.record = record
        found.append((verdict.value, scan))
    return found


def rule_set(groups: tuple[tuple[str, str], ...] | None) -> rules.RuleSet:
    if groups is None:
        return rules.AUTHENTICATION_PASS
    members = [{"name": name, "when": when, "response": name} for name, when in groups]
    return rules.load_rules({"groups": members, "default": "Fail"})


def nanoseconds(decide: Callable[[Scan], int], scan: Scan, calls: int, rounds: int) -> tuple[float, float]:
    """Nanoseconds per call in the fastest and the median round."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter_ns()
        for _ in range(calls):
            decide(scan)
        times.append((time.perf_counter_ns() - started) / calls)
    return min(times), statistics.median(times)


def memory(count: int) -> tuple[float, float, float]:
    """The cost of one rule set with its responses, from `count` different ones of one shape: bytes as counted by Python, bytes
    by which the process grew, and microseconds to load.
    """

    def load(n: int) -> ResponseSet:
        conditions = (f"authentication == pass and scan_count < {n}", f"batch == B{n}", "verdict == replayed")
        groups = [
            {"name": name, "when": when, "response": f"{name} {n}"}
            for name, when in zip(("few", "batch", "again"), conditions, strict=True)
        ]
        return ResponseSet(rules.load_rules({"groups": groups, "default": f"Fail {n}"}))

    load(0)
    gc.collect()
    resident = resident_bytes()
    started = time.perf_counter()
    untraced = [load(n) for n in range(1, count + 1)]
    took_us = (time.perf_counter() - started) / count * 1e6
    gc.collect()
    grown = resident_bytes() - resident
    del untraced
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    loaded = [load(n) for n in range(1, count + 1)]
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / len(loaded), grown / count, took_us


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    calls, rounds, sets = (100, 1, 100) if smoke else (100_000, 9, 10_000)
    print(f"Python {platform.python_version()}, {platform.machine()}")
    print(f"{'rule set':12} {'scan':10} {'decision':>8} {'fastest ns':>11} {'median ns':>10}")
    decisions = hashlib.sha256()
    fastest, median = nanoseconds(lambda _scan: -1, scans()[0][1], calls, rounds)
    print(f"{'(empty)':12} {'':10} {'':>8} {fastest:11.0f} {median:10.0f}")
    for name, groups in SETS.items():
        loaded = rule_set(groups)
        for verdict, scan in scans():
            decision = loaded.decide(scan)
            if name != "hours":  # which depends on when it is run
                decisions.update(f"{name} {verdict} {decision}\n".encode())
            fastest, median = nanoseconds(loaded.decide, scan, calls, rounds)
            print(f"{name:12} {verdict:10} {decision:8} {fastest:11.0f} {median:10.0f}")
    size, grown, took_us = memory(sets)
    print(
        f"{sets} different rule sets of three groups, with their responses: {size:.0f} bytes ({grown:.0f} of the process)"
        f" and {took_us:.0f} us each"
    )
    print(f"decisions {decisions.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
