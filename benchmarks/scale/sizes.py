"""Does a scan cost the same with ten million tags as with ten thousand? `python -m benchmarks scale`

One PostgreSQL with a database for each size (10,000 to 10,000,000 registered tags, `--sizes`), and over each:

- `start`: seconds from starting `ixfast serve` to the first tap that passes;
- `cold`: durable passes a second with fresh workers, every tag tapped once, 200,000 of them spread evenly over all;
- `warm`: the same on the same number of tags in every size (10,000, also spread evenly), in a closed loop after each was tapped
  once. Sizes take turns, so that a noisy minute meets all, and ratios are made within a repetition;
- memory a cached tag: what one worker grows by when it caches 1,000,000 tags, in the first size that has as many;
- import: `ixfast import` of 200,000 tags from CSV, the whole command.

`--keep FOLDER` keeps the databases for the next time: filling 10,000,000 takes most of the time. Results are written after each
measurement (`scale-SESSION.jsonl`). Answers are checked, and each database is audited at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import audit, scans
from benchmarks.audit import Held
from benchmarks.contenders import http_contenders, ixfast_command, ixfast_with
from benchmarks.experiment import Experiment
from benchmarks.figures import SCALE
from benchmarks.load.drive import Load, Result
from benchmarks.load.traffic import Mix, Traffic
from benchmarks.processes import Processes, child_environment, free_port, memory, python
from benchmarks.scale.filler import fill, fleet
from benchmarks.stage import Stage

_START_S = 60.0
_COLD_S = 60.0
_CACHE_S = 600.0
GENUINE = Mix(1, 0, 0, 0)


@dataclass(frozen=True)
class Size:
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    working_set: int = 10_000
    cold: int = 200_000
    cached: int = 1_000_000
    imported: int = 1_000_000
    connections: int = 256
    workers: int = 2
    processes: int = 2
    settle_s: float = 1.0
    measure_s: float = 5.0
    repetitions: int = 3


SMOKE = Size((300, 1500), 100, 200, 1000, 100, 8, settle_s=0.05, measure_s=0.3, repetitions=1)


class Ground:
    """The server with a database for each size, and what must be in each."""

    def __init__(self, stage: Stage, size: Size, seed: int, *, kept: bool) -> None:
        self.stage = stage
        self.kept = kept
        self.size = size
        self.seed = seed
        self.dsns: dict[int, str] = {}
        self._held: dict[int, dict[int, tuple[int, int, int]]] = {}
        self._counters: dict[int, int] = {}

    def fill(self, tags: int, experiment: Experiment) -> dict[str, Any]:
        """Make a size unless it was kept; what it took and how large it is."""
        begun = time.monotonic()
        work = partial(
            fill, kek_file=self.stage.kek_file, seed=self.seed, count=tags, processes=os.cpu_count() or 1, say=experiment.say
        )
        self.dsns[tags], made = self.stage.make(f"scale_{self.seed}_{tags}", work)
        sql = "SELECT pg_database_size(current_database())"
        found = self.stage.run(self.dsns[tags], lambda connection: connection.fetchval(sql))
        return {"filled_s": time.monotonic() - begun if made else None, "database_bytes": found}

    def next_counter(self, tags: int, room: int) -> int:
        """A counter above all that any tag of the size had; `room` taps of one tag may follow."""
        counter = self._counters.get(tags, 0)
        self._counters[tags] = counter + room
        return counter

    def hold(self, tags: int, held: Held) -> None:
        """Remember what the database must hold from now on."""
        own = self._held.setdefault(tags, {})
        for tag, (passes, last, uncertain) in held.items():
            before = own.get(tag, (0, 0, 0))
            own[tag] = before[0] + passes, max(before[1], last), before[2] + uncertain

    def audit(self, tags: int) -> list[str]:
        """What is wrong with a size. If it is kept, its counters and its log are as at the beginning afterwards."""
        traffic = Traffic(self.seed, tags, 1)
        held = self._held.get(tags, {})
        dsn = self.dsns[tags]
        found = self.stage.run(dsn, lambda connection: audit.of_ixfast(connection, traffic, held))
        if self.kept:
            self.stage.run(dsn, _forget)
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


def start(ground: Ground, tags: int) -> float:
    """Seconds from starting the server to the first tap that passes."""
    port, private_port, counter = free_port(), free_port(), ground.next_counter(tags, 1) + 1
    place = tags - 1
    x, n, e = fleet(ground.seed, tags).plain_tap(place, counter)
    environment = {"IXFAST_DSN": ground.dsns[tags], "IXFAST_KEK_FILE": str(ground.stage.kek_file)}
    begun = time.monotonic()
    with Processes([ixfast_command(port, private_port, ground.size.workers)], environment) as processes:
        while not _passes(port, f"/v1/t?x={x}&n={n}&e={e}"):
            processes.check()
            if time.monotonic() > begun + _START_S:
                raise RuntimeError(f"no tap passed within {_START_S:g} s of the start")
            time.sleep(0.01)
        spent = time.monotonic() - begun
    ground.hold(tags, {place: (1, counter, 0)})
    return spent


def _passes(port: int, target: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", target)
            return b'"Pass"' in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False  # nobody listens yet, or it is not ready


def cold(ground: Ground, tags: int, repetition: int) -> tuple[float, list[str]]:
    """Passes a second when no worker has cached anything, and why they do not count."""
    traffic = ground.traffic(tags, ground.size.cold, 2, offset=repetition, mix=GENUINE)
    with _loaded(ground, tags, traffic) as (load, _):
        result = load.touch_each_tag(_COLD_S)
        ground.hold(tags, load.finish())
    return result.passes_per_s, result.flaws()


def warm(ground: Ground, tags: int) -> tuple[Result, list[str]]:
    """A closed loop on the working set after each of its tags was tapped."""
    size = ground.size
    traffic = ground.traffic(tags, size.working_set, 100_000)
    with _loaded(ground, tags, traffic) as (load, _):
        touched = load.touch_each_tag()
        load.prepare(int(http_contenders()["ixfast"].requests_per_s_max * (size.settle_s + size.measure_s)))
        result = load.closed(size.settle_s, size.measure_s)
        ground.hold(tags, load.finish())
    return result, [*touched.flaws(), *result.flaws()]


def cached_tag_bytes(ground: Ground, tags: int) -> tuple[dict[str, float], list[str]]:
    """What one worker grows by for a tag that it caches."""
    size = ground.size
    traffic = ground.traffic(tags, size.cached, 2, mix=GENUINE)
    flags = ("--cache-tags", str(2 * size.cached))
    with _loaded(ground, tags, traffic, workers=1, flags=flags) as (load, running):
        before = memory(running.processes.pids, children=True)[0]["rss"]
        result = load.touch_each_tag(_CACHE_S)
        after = memory(running.processes.pids, children=True)[0]["rss"]
        cached = running.observe()["ixfast_catalogue_cached_tags"]
        ground.hold(tags, load.finish())
    flaws = result.flaws() if cached >= 0.99 * size.cached else [*result.flaws(), f"only {cached:,.0f} tags are cached"]
    return {"cached_tag_bytes": (after - before) / max(1, cached), "cached_tags": cached, "cached_worker_rss": after}, flaws


@contextlib.contextmanager
def _loaded(
    ground: Ground, tags: int, traffic: Traffic, *, workers: int | None = None, flags: tuple[str, ...] = ()
) -> Iterator[tuple[Load, Any]]:
    """A fresh server over a size, and a connected generator."""
    port, contender = free_port(), http_contenders()["ixfast"]
    with (
        ixfast_with(flags)(ground.stage, ground.dsns[tags], port, workers or ground.size.workers) as running,
        Load(traffic, port, contender.expected, processes=ground.size.processes) as load,
    ):
        load.connect()
        yield load, running
        running.processes.check()


def imports(ground: Ground, tags: int, repetition: int) -> float | None:
    """Tags a second of `ixfast import` into the database of a size, the whole command; None if there is no such command."""
    count = ground.size.imported
    strangers = fleet(ground.seed + repetition, count)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tags.csv"
        with file.open("w") as lines:
            lines.write("XUID,UID,KEY\n")
            lines.writelines(
                f"{strangers.xuid(i)},{strangers.uid(i).hex()},{strangers.file_key(i).hex()}\n" for i in range(count)
            )
        variables = child_environment({"IXFAST_DSN": ground.dsns[tags], "IXFAST_KEK_FILE": str(ground.stage.kek_file)})
        command = python("ixfast", "import", file, "--account", "bench", "--group", strangers.profile.name)
        begun = time.monotonic()
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
        spent = time.monotonic() - begun
    if "No such command" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"ixfast import: {done.stderr[-500:]}")
    return count / spent


def steps(ground: Ground, experiment: Experiment) -> Iterator[tuple[int, str, Any, list[str]]]:
    """Every measurement in turn: the size, what it is, its value, why it does not count."""
    size = ground.size
    for tags in size.sizes:
        for name, value in ground.fill(tags, experiment).items():
            yield tags, name, value, []
    for repetition in range(1, size.repetitions + 1):
        for tags in size.sizes:
            yield tags, "start_s", start(ground, tags), []
            yield tags, "cold_passes_per_s", *cold(ground, tags, repetition)
            result, flaws = warm(ground, tags)
            yield tags, "warm_passes_per_s", result.passes_per_s, flaws
    large = [tags for tags in size.sizes if tags >= size.cached]
    if large:
        found, flaws = cached_tag_bytes(ground, large[0])
        for name, value in found.items():
            yield large[0], name, value, flaws
    for tags in size.sizes:
        yield tags, "audit", None, ground.audit(tags)
    for repetition in range(1, size.repetitions + 1):
        rate = imports(ground, size.sizes[0], repetition)
        if rate is not None:
            yield size.sizes[0], "import_tags_per_s", rate, []


def table(record: Mapping[str, Any]) -> str:
    lines = [
        "| registered tags | database | start s | cold passes/s | warm passes/s | warm ÷ smallest | memory a cached tag |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    smallest = [found.get("warm_passes_per_s", []) for found in record["sizes"].values()][:1]
    for tags, found in record["sizes"].items():
        warm_rates = found.get("warm_passes_per_s", [])
        ratios = [own / first for first, own in zip(*(smallest or [[]]), warm_rates, strict=False) if first]
        around = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "-"
        starts = found.get("start_s", [])
        cells = [
            f"{int(tags):,}", f"{found.get('database_bytes', 0) / 2**30:.2f} GiB",
            f"{statistics.median(starts):.2f}" if starts else "-",
            *(scans.spread(rates) if rates else "-" for rates in (found.get("cold_passes_per_s", []), warm_rates)), around,
            f"{found['cached_tag_bytes']:.0f} B" if "cached_tag_bytes" in found else "-",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    rates = record.get("import_tags_per_s", [])
    return "\n".join([*lines, *(["", f"`ixfast import`: {scans.spread(rates)} tags/s."] if rates else [])])


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
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of registered tags, ascending")
    parser.add_argument("--repetitions", type=int, help=f"{Size().repetitions} unless given")
    parser.add_argument("--cached", type=int, help=f"tags cached to weigh one; {Size().cached:,} unless given")
    parser.add_argument("--keep", type=Path, help="a folder where the databases stay for the next time")
    experiment = Experiment(parser, SCALE, arguments)
    given = experiment.given
    size = SMOKE if given.smoke else Size()
    size = replace(size, **{n: getattr(given, n) for n in ("repetitions", "cached") if getattr(given, n)})
    if given.sizes:
        size = replace(size, sizes=tuple(sorted(given.sizes)))
    minutes = sum(size.sizes) / 2.5e6 + len(size.sizes) * size.repetitions * 0.8 + 4
    experiment.plan(
        f"{sum(size.sizes):,} tags to fill unless kept", f"{size.repetitions} repetitions", f"about {minutes:.0f} minutes"
    )
    if given.keep is not None:
        given.keep.mkdir(mode=0o711, parents=True, exist_ok=True)
    with Stage(Traffic(given.seed, size.working_set, size.connections), folder=given.keep, aged=not given.smoke) as stage:
        record = experiment.begin(stage, size=asdict(size), sizes={}, import_tags_per_s=[])
        flaws: list[str] = []
        with experiment.interruptible():
            for tags, name, value, wrong in steps(Ground(stage, size, given.seed, kept=given.keep is not None), experiment):
                _put(record, tags, name, value)
                flaws += [f"{name} of {tags:,}: {each}" for each in wrong]
                experiment.keep({"tags": tags, "name": name, "value": value, "flaws": wrong})
                shown = f"{value:,.2f}" if isinstance(value, float) else value
                experiment.say(f"{tags:>10,} tags  {name} {shown} {'; '.join(wrong)}")
    print(table(record))
    return experiment.end(record, [*flaws, *(["it was interrupted"] if experiment.interrupted else [])])


if __name__ == "__main__":
    sys.exit(main())
