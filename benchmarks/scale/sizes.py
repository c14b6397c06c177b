"""Does a scan cost the same with ten million tags as with ten thousand? `python -m benchmarks scale`

One PostgreSQL with a database for each size (10,000 to 10,000,000 registered tags, `--sizes`), and in each:

- `start`: seconds from starting `ixfast serve` to the first tap that passes;
- `cold`: durable passes per second with fresh workers, 200,000 tags spread evenly over all, each tapped once;
- `warm`: the same with as many tags in every size (10,000, also spread evenly), in a closed loop after each was tapped once.
  Sizes alternate, so that a noisy minute affects all of them, and ratios are formed within a repetition;
- memory of a cached tag: the growth of one worker that caches 1,000,000 tags, in the first size that has as many;
- import: `ixfast import` of 1,000,000 tags from CSV, the whole command.

`--keep FOLDER` keeps the databases for later runs; filling 10,000,000 takes most of the time. Results are written after each
measurement (`scale-SESSION.jsonl`). Responses are checked, and each database is audited at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import database_audit, scans
from benchmarks.contenders import Running, http_contenders, ixfast_with, start_ixfast
from benchmarks.database_audit import Held
from benchmarks.experiment import Experiment
from benchmarks.figures import SCALE
from benchmarks.load.drive import Load
from benchmarks.load.results import Result
from benchmarks.load.traffic import Mix, Traffic
from benchmarks.load_test import serving
from benchmarks.processes import child_environment, memory, python
from benchmarks.scale.filler import fill, fleet
from benchmarks.tables import markdown, spread
from benchmarks.testbed import Testbed
from ixfast.embedded import free_port

_START_S = 60.0
_COLD_S = 60.0
_CACHE_S = 600.0
GENUINE = Mix(1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Size(scans.Size):
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    working_set: int = 10_000
    cold: int = 200_000
    cached: int = 1_000_000
    imported: int = 1_000_000
    repetitions: int = 3


SMOKE = Size(
    sizes=(300, 1500), working_set=100, cold=200, cached=1000, imported=100, connections=8, settle_s=0.05, measure_s=0.3,
    repetitions=1,
)  # fmt: skip


class SizedDatabases:
    """A database for each size, and what each must hold."""

    def __init__(self, testbed: Testbed, size: Size, seed: int, *, kept: bool) -> None:
        self.testbed = testbed
        self.kept = kept
        self.size = size
        self.seed = seed
        self.dsns: dict[int, str] = {}
        self._held: dict[int, dict[int, tuple[int, int, int]]] = {}
        self._counters: dict[int, int] = {}

    def fill(self, tags: int, experiment: Experiment) -> dict[str, Any]:
        """Fill the database of a size unless it was kept; returns how long that took and how large the database is."""
        begun = time.monotonic()
        work = partial(
            fill, kek_file=self.testbed.kek_file, seed=self.seed, count=tags, processes=os.cpu_count() or 1,
            progress=experiment.progress,
        )  # fmt: skip
        self.dsns[tags], made = self.testbed.make(f"scale_{self.seed}_{tags}", work)
        sql = "SELECT pg_database_size(current_database())"
        found = self.testbed.run(self.dsns[tags], lambda connection: connection.fetchval(sql))
        return {"filled_s": time.monotonic() - begun if made else None, "database_bytes": found}

    def next_counter(self, tags: int, room: int) -> int:
        """A counter above those of all tags of the size; `room` taps of one tag may follow."""
        counter = self._counters.get(tags, 0)
        self._counters[tags] = counter + room
        return counter

    def hold(self, tags: int, held: Held) -> None:
        """Record what the database must hold from now on."""
        own = self._held.setdefault(tags, {})
        for tag, (passes, last, uncertain) in held.items():
            before = own.get(tag, (0, 0, 0))
            own[tag] = before[0] + passes, max(before[1], last), before[2] + uncertain

    def audit(self, tags: int) -> list[str]:
        """The problems of a size. If its database is kept, its counters and its log are reset afterwards."""
        traffic = Traffic(self.seed, tags, 1)
        held = self._held.get(tags, {})
        dsn = self.dsns[tags]
        found = self.testbed.run(dsn, lambda connection: database_audit.of_ixfast(connection, traffic, held))
        if self.kept:
            self.testbed.run(dsn, _forget)
        return [f"{tags:,} tags: {problem}" for problem in found.problems]

    def traffic(self, tags: int, tapped: int, room: int, *, offset: int = 0, mix: Mix | None = None) -> Traffic:
        """`tapped` tags, spread evenly over all of the size."""
        stride = max(1, tags // tapped)
        return Traffic(
            self.seed, min(tapped, tags), self.size.connections, mix or Mix(), stride=stride, offset=offset % stride,
            registered=tags, first_counter=self.next_counter(tags, room),
        )  # fmt: skip


async def _forget(connection: Any) -> None:
    await connection.execute("TRUNCATE scan_log")
    await connection.execute(
        "UPDATE tag_counter SET scan_count = 0, last_scan_id = 0, last_at = 'epoch', last_position = 0, previous_position = 0"
        " WHERE scan_count > 0"
    )
    await connection.execute("VACUUM tag_counter")


def start(databases: SizedDatabases, tags: int) -> float:
    """Seconds from starting the server to the first tap that passes."""
    port, private_port, counter = free_port(), free_port(), databases.next_counter(tags, 1) + 1
    index = tags - 1
    x, n, e = fleet(databases.seed, tags).plain_tap(index, counter)
    begun = time.monotonic()
    with start_ixfast(databases.testbed, databases.dsns[tags], port, private_port, databases.size.workers) as processes:
        while not _passes(port, f"/v1/t?x={x}&n={n}&e={e}"):
            processes.check()
            if time.monotonic() > begun + _START_S:
                raise RuntimeError(f"no tap passed within {_START_S:g} s of the start")
            time.sleep(0.01)
        spent = time.monotonic() - begun
    databases.hold(tags, {index: (1, counter, 0)})
    return spent


def _passes(port: int, target: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", target)
            return b'"Pass"' in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False  # it does not listen yet, or is not ready


def cold(databases: SizedDatabases, tags: int, repetition: int) -> tuple[float, list[str]]:
    """Passes per second when no worker has cached anything, and why the figure does not count."""
    traffic = databases.traffic(tags, databases.size.cold, 2, offset=repetition, mix=GENUINE)
    with _loaded(databases, tags, traffic) as (_, load):
        result = load.touch_each_tag(_COLD_S)
        databases.hold(tags, load.finish())
    return result.passes_per_s, result.flaws()


def warm(databases: SizedDatabases, tags: int) -> tuple[Result, list[str]]:
    """A closed loop on the working set after each of its tags was tapped."""
    size = databases.size
    traffic = databases.traffic(tags, size.working_set, 100_000)
    with _loaded(databases, tags, traffic) as (_, load):
        touched = load.touch_each_tag()
        for _ in load.prepare_enough(http_contenders()["ixfast"].usual_requests_per_s, size.settle_s + size.measure_s):
            result = load.closed(size.settle_s, size.measure_s)
        databases.hold(tags, load.finish())
    return result, [*touched.flaws(), *result.flaws()]


def cached_tag_bytes(databases: SizedDatabases, tags: int) -> tuple[dict[str, float], list[str]]:
    """The growth of one worker for each tag that it caches."""
    size = databases.size
    traffic = databases.traffic(tags, size.cached, 2, mix=GENUINE)
    flags = ("--cache-tags", str(2 * size.cached))
    with _loaded(databases, tags, traffic, replace(size, workers=1), flags) as (running, load):
        before = memory(running.processes.pids, children=True)[0]["rss"]
        result = load.touch_each_tag(_CACHE_S)
        after = memory(running.processes.pids, children=True)[0]["rss"]
        cached = running.observe()["ixfast_catalogue_cached_tags"]
        databases.hold(tags, load.finish())
    flaws = result.flaws() if cached >= 0.99 * size.cached else [*result.flaws(), f"only {cached:,.0f} tags are cached"]
    return {"cached_tag_bytes": (after - before) / max(1, cached), "cached_tags": cached, "cached_worker_rss": after}, flaws


def _loaded(
    databases: SizedDatabases, tags: int, traffic: Traffic, size: Size | None = None, flags: tuple[str, ...] = ()
) -> contextlib.AbstractContextManager[tuple[Running, Load]]:
    """A fresh server over the database of a size, and a connected generator."""
    contender = http_contenders()["ixfast"]._replace(serve=ixfast_with(flags))
    return serving(databases.testbed, contender, databases.dsns[tags], size or databases.size, traffic)


def imports(databases: SizedDatabases, tags: int, repetition: int) -> float | None:
    """Tags per second of `ixfast import` into the database of a size, the whole command; None if there is no such command."""
    count = databases.size.imported
    strangers = fleet(databases.seed + repetition, count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tags.csv"
        with file.open("w") as lines:
            lines.write("XUID,UID,KEY\n")
            lines.writelines(
                f"{strangers.xuid(i)},{strangers.uid(i).hex()},{strangers.file_key(i).hex()}\n" for i in range(count)
            )
        variables = child_environment({"IXFAST_DSN": databases.dsns[tags], "IXFAST_KEK_FILE": str(databases.testbed.kek_file)})
        command = python("ixfast", "import", file, "--account", "bench", "--group", strangers.profile.name)
        begun = time.monotonic()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
        spent = time.monotonic() - begun
    if "No such command" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"ixfast import: {done.stderr[-500:]}")
    return count / spent


def steps(databases: SizedDatabases, experiment: Experiment) -> Iterator[tuple[int, str, Any, list[str]]]:
    """Every measurement in turn: the size, the name, the value, and why it does not count."""
    size = databases.size
    for tags in size.sizes:
        for name, value in databases.fill(tags, experiment).items():
            yield tags, name, value, []
    for repetition in range(1, size.repetitions + 1):
        for tags in size.sizes:
            yield tags, "start_s", start(databases, tags), []
            yield tags, "cold_passes_per_s", *cold(databases, tags, repetition)
            result, flaws = warm(databases, tags)
            yield tags, "warm_passes_per_s", result.passes_per_s, flaws
    large = [tags for tags in size.sizes if tags >= size.cached]
    if large:
        found, flaws = cached_tag_bytes(databases, large[0])
        for name, value in found.items():
            yield large[0], name, value, flaws
    for tags in size.sizes:
        yield tags, "audit", None, databases.audit(tags)
    for repetition in range(1, size.repetitions + 1):
        rate = imports(databases, size.sizes[0], repetition)
        if rate is not None:
            yield size.sizes[0], "import_tags_per_s", rate, []


def table(record: Mapping[str, Any]) -> str:
    columns = (
        "registered tags", "database", "start s", "cold passes/s", "warm passes/s", "warm ÷ smallest", "memory per cached tag",
    )  # fmt: skip
    rows = []
    smallest = next((found.get("warm_passes_per_s", []) for found in record["sizes"].values()), [])
    for tags, found in record["sizes"].items():
        warm_rates = found.get("warm_passes_per_s", [])
        ratios = [own / first for first, own in zip(smallest, warm_rates, strict=False) if first]
        starts = found.get("start_s", [])
        rows.append([
            f"{int(tags):,}", f"{found.get('database_bytes', 0) / 2**30:.2f} GiB",
            f"{statistics.median(starts):.2f}" if starts else "-",
            spread(found.get("cold_passes_per_s", [])), spread(warm_rates), spread(ratios, ".2f"),
            f"{found['cached_tag_bytes']:.0f} B" if "cached_tag_bytes" in found else "-",
        ])  # fmt: skip
    rates = record.get("import_tags_per_s", [])
    imported = ["", f"`ixfast import`: {spread(rates)} tags/s."] if rates else []
    return "\n".join([markdown(columns, rows, text_columns=0), *imported])


def _put(record: dict[str, Any], tags: int, name: str, value: Any) -> None:
    """Repeated measurements are lists."""
    if name == "import_tags_per_s":
        record[name].append(value)
    elif name.endswith("_per_s") or name == "start_s":
        record["sizes"].setdefault(str(tags), {}).setdefault(name, []).append(value)
    elif value is not None:
        record["sizes"].setdefault(str(tags), {})[name] = value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks scale", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a folder in which the databases stay for later runs")
    flags = {"sizes": "numbers of registered tags", "repetitions": "repetitions", "cached": "cached tags to divide memory by"}
    experiment = Experiment(parser, SCALE, arguments, size=Size(), flags=flags)
    keep, size = experiment.given.keep, experiment.sized(Size(), SMOKE)
    minutes = sum(size.sizes) / 2.5e6 + len(size.sizes) * size.repetitions * 0.8 + 4
    experiment.plan(
        f"{sum(size.sizes):,} tags to fill unless kept", f"{size.repetitions} repetitions", f"about {minutes:.0f} minutes"
    )
    if keep is not None:
        keep.mkdir(mode=0o711, parents=True, exist_ok=True)
    with experiment.testbed(replace(size, tags=size.working_set), folder=keep) as testbed:
        record = experiment.begin(testbed, size=asdict(size), sizes={}, import_tags_per_s=[])
        databases = SizedDatabases(testbed, size, experiment.given.seed, kept=keep is not None)
        flaws: list[str] = []
        with experiment.interruptible():
            for tags, name, value, wrong in steps(databases, experiment):
                _put(record, tags, name, value)
                flaws += [f"{name} of {tags:,}: {each}" for each in wrong]
                experiment.keep({"tags": tags, "name": name, "value": value, "flaws": wrong})
                shown = f"{value:,.2f}" if isinstance(value, float) else value
                experiment.progress(f"{tags:>10,} tags  {name} {shown} {'; '.join(wrong)}")
    experiment.show(table(record))
    return experiment.end(record, [*flaws, *(["it was interrupted"] if experiment.interrupted else [])])
