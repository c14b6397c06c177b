"""Speed of `ixfast audit`: the whole command in a fresh process, over files of simulated taps made beforehand.

Prints taps per second (of the whole command including its start, and of the verification alone as reported by the command), the
seconds of processor time for a million taps, which other load on the machine affects least, and a hash of the verdicts; all
rows of one file must have the same hash, otherwise the exit status is 1. Two files are also audited without a report.

Files: plain and encrypted mirrors as CSV with URLs, plain ones in columns `x,n,e`, JSON lines, a plain file out of order, and
tags that are verified one by one (LRP mode). One tap in 64 is forged and one in 16 replayed; in one file a quarter is forged,
because taps that are not authentic are verified again one by one. `--smoke` runs a size that only shows that it works; `--core`
adds the rate of the core alone with the same plain taps in one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from ixfast import cmac
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

SEED = 27182
TAGS = 2000
DISTINCT_MAX = 20_000
"""Number of distinct taps of profiles that are slow to simulate; further taps repeat their URLs and are replays."""

START_S = 1_767_225_600  # 2026-01-01
Tap = tuple[str, str]  # time, URL


def plain_taps(count: int, forged_of_64: int = 1) -> Iterator[tuple[str, str, str, str]]:
    """Time, code, counter and MAC, in order of time."""
    fleet, dice = VirtualFleet(SEED, TAGS), random.Random(SEED)
    counters = [0] * TAGS
    for number in range(count):
        index, fate = dice.randrange(TAGS), dice.randrange(64)
        if fate < 60 or not counters[index]:
            counters[index] += 1
        x, n, e = fleet.plain_tap(index, counters[index])
        if fate < forged_of_64:
            e = f"{int(e, 16) ^ 1 << dice.randrange(64):016X}"
        yield _time(number), x, n, e


def profile_taps(profile: str, count: int) -> Iterator[Tap]:
    """Taps of a profile that is slow to simulate; after `DISTINCT_MAX` the same URLs are repeated."""
    fleet, dice = VirtualFleet(SEED, TAGS, profile), random.Random(SEED)
    tags: dict[int, VirtualTag] = {}
    urls: list[str] = []
    for number in range(count):
        if number < DISTINCT_MAX:
            index = dice.randrange(TAGS)
            tag = tags.setdefault(index, fleet[index])
            urls.append(tag.forged() if dice.randrange(64) == 0 else tag.tap())
        yield _time(number), urls[number % len(urls)]


def _time(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(START_S + number // 1000)) + f".{number % 1000:03}Z"


def csv_of_urls(taps: Iterator[Tap]) -> Iterator[str]:
    yield "at,url\n"
    for at, url in taps:
        yield f"{at},{url}\n"


def plain_urls(count: int, forged_of_64: int = 1) -> Iterator[Tap]:
    for at, x, n, e in plain_taps(count, forged_of_64):
        yield at, f"https://tag.example/t?x={x}&n={n}&e={e}"


def columns(count: int) -> Iterator[str]:
    yield "at,x,n,e\n"
    for tap in plain_taps(count):
        yield ",".join(tap) + "\n"


def json_lines(count: int) -> Iterator[str]:
    for at, url in plain_urls(count):
        yield orjson.dumps({"at": at, "url": url}).decode() + "\n"


def shuffled(count: int) -> Iterator[str]:
    lines = list(csv_of_urls(plain_urls(count)))
    taps = lines[1:]
    random.Random(SEED).shuffle(taps)
    yield lines[0]
    yield from taps


FILES: dict[str, tuple[str, Callable[[int], Iterator[str]]]] = {
    "plain, CSV of URLs": ("ixkio-plain", lambda count: csv_of_urls(plain_urls(count))),
    "plain, CSV of x,n,e": ("ixkio-plain", columns),
    "plain, JSON lines": ("ixkio-plain", json_lines),
    "plain, out of order": ("ixkio-plain", shuffled),
    "plain, 1/4 forged": ("ixkio-plain", lambda count: csv_of_urls(plain_urls(count, 16))),
    "encrypted mirror": ("encrypted", lambda count: csv_of_urls(profile_taps("encrypted", count))),
    "encrypted file data": ("encrypted-file", lambda count: csv_of_urls(profile_taps("encrypted-file", count))),
    "tamper in file data": ("encrypted-tamper", lambda count: csv_of_urls(profile_taps("encrypted-tamper", count))),
    "LRP, one by one": ("lrp-encrypted", lambda count: csv_of_urls(profile_taps("lrp-encrypted", count))),
}


WITHOUT_REPORT = ("plain, CSV of URLs", "plain, JSON lines")


def write_keys(path: Path, profile: str) -> None:
    fleet = VirtualFleet(SEED, TAGS, profile)
    meta_key = fleet.meta_key.hex() if fleet.profile.encrypted else ""
    rows = (f"{fleet.xuid(i)},{fleet.uid(i).hex()},{fleet.file_key(i).hex()},{meta_key},{profile}\n" for i in range(TAGS))
    path.write_text("xuid,uid,file_key,meta_key,profile\n" + "".join(rows))


class Run(NamedTuple):
    """Seconds of the whole command, of the verification as it reports it, and of processor time; the hash of the verdicts."""

    spent_s: float
    verifying_s: float
    processor_s: float
    digest: str


def audit(taps: Path, keys: Path, jobs: int, show: str = "all") -> Run:
    out = taps.with_suffix(".verdicts")
    command = [sys.executable, "-m", "ixfast", "audit", str(taps), "--keys", str(keys), "--out", str(out), "--jobs", str(jobs)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*command, "--show", show], capture_output=True, text=True)
    spent_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)
    reported = re.search(r"in ([\d.]+) s", done.stderr)
    assert reported is not None
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(spent_s, float(reported[1]), processor_s, hashlib.sha256(out.read_bytes()).hexdigest()[:16])


def row(name: str, jobs: int, count: int, run: Run) -> None:
    verifying = f"{count / run.verifying_s:,.0f}" if run.verifying_s else "-"
    processor = f"{run.processor_s * 1e6 / count:.2f}"
    print(f"{name:<22} {jobs:>4} {count / run.spent_s:>10,.0f} {verifying:>10} {processor:>7}  {run.digest}", flush=True)


def core_alone(count: int) -> float:
    """Taps per second of `sdm_verify_batch` with the same taps, packed beforehand."""
    fleet = VirtualFleet(SEED, TAGS)
    places = {fleet.xuid(i): i for i in range(TAGS)}
    taps = [(places[x], int(n, 16), e) for _, x, n, e in plain_taps(min(count, 50_000))]
    keys = b"".join(fleet.file_key(i) for i, _, _ in taps)
    uids = b"".join(fleet.uid(i) for i, _, _ in taps)
    packed = keys, uids, array("I", [n for _, n, _ in taps]).tobytes(), None, bytes.fromhex("".join(e for _, _, e in taps))
    best_s = float("inf")
    for _ in range(9):
        started = time.perf_counter()
        cmac.sdm_verify_batch(*packed, b"\3" * len(taps))
        best_s = min(best_s, time.perf_counter() - started)
    return len(taps) / best_s


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--taps", type=int, default=1_000_000, help="lines of each file")
    parser.add_argument("--file", dest="files", action="append", choices=FILES, help="only this file; can be repeated")
    parser.add_argument("--core", action="store_true", help="add the core alone")
    asked = parser.parse_args(arguments)
    count = 2000 if asked.smoke else asked.taps
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    print(f"{cmac.IMPLEMENTATION}, {os.cpu_count()} cores, Python {platform.python_version()}, {count:,} taps of {TAGS:,} tags")
    print(f"seed {SEED}; load before: {load} (above 0: other load)\n")
    print(f"{'file':<22} {'jobs':>4} {'taps/s':>10} {'verifying':>10} {'cpu s/M':>7}  verdicts")
    agree = True
    with tempfile.TemporaryDirectory() as folder:
        for name, (profile, lines) in FILES.items():
            if asked.files and name not in asked.files:
                continue
            keys, taps = Path(folder) / "keys.csv", Path(folder) / "taps"
            write_keys(keys, profile)
            with taps.open("w") as file:
                file.writelines(lines(count))
            hashes = set()
            for jobs in (1, 2):
                run = audit(taps, keys, jobs)
                row(name, jobs, count, run)
                hashes.add(run.digest)
            agree = agree and len(hashes) == 1
            if name in WITHOUT_REPORT:
                for jobs in (1, 2):
                    row("the same, no report", jobs, count, audit(taps, keys, jobs, "none"))
    if asked.core or asked.smoke:
        print(f"{'core alone':<22} {1:>4} {core_alone(count):>10,.0f}")
    if not agree:
        print("one process and two disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
