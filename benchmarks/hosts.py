"""Workers and hosts on one database: what does a scan cost, and what does PostgreSQL wait for? `python -m benchmarks hosts`

A closed loop over 256 connections per host against, in turn: one worker; two; four on one host; two hosts' worth of workers
(two `ixfast serve` of two workers each, with tags and connections of their own) on one database; the same while management
changes 50 tags per second there; and two workers with nothing pinned. In all but the last, the generator has the last core for
itself and everything else has the others, where the machine has two cores or more. Layouts alternate, and repetitions show how
far they vary.

Each run has the processor time of a scan in workers, PostgreSQL and generator, and samples of pg_stat_activity every 20 ms
(`wait_events.py`). A model of the cost (`cost_model.py`) is fitted to the first two layouts and predicts the others; the error
is printed, as is what the model says of more cores. Every response is checked and the database is audited after each run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import asyncpg

from benchmarks import database_audit, plots, scans, wait_events
from benchmarks.background import in_background
from benchmarks.contenders import Running, http_contenders
from benchmarks.cost_model import Model, Prediction, fit
from benchmarks.experiment import Experiment
from benchmarks.load.drive import Load, LoadError, Result
from benchmarks.load.traffic import Traffic, fleet_of
from benchmarks.processes import ContenderError, cpu_s, pinned
from benchmarks.tables import markdown, spread
from benchmarks.testbed import IXFAST_DATABASE, Testbed
from ixfast.embedded import free_port
from ixfast.store.admin import edits

HISTORY = "hosts.jsonl"
_BATCHES, _ROWS = "ixfast_ledger_batches_total", "ixfast_ledger_rows_total"
_DOUBLINGS_MAX = 4
_EDITORS = 2
_CORES = (2, 4, 8, 16, 32)
_SCANS = (64, 256)
T = TypeVar("T")


class Layout(NamedTuple):
    name: str
    hosts: int
    workers: int  # of each host
    pinned: bool
    fitted: bool  # whether the model is fitted to it; it predicts the others
    changes_per_s: int = 0  # by management, from two connections


ONE_HOST, TWO_HOSTS = "2 workers", "2 hosts of 2 workers"
LAYOUTS = (
    Layout("1 worker", 1, 1, pinned=True, fitted=True),
    Layout(ONE_HOST, 1, 2, pinned=True, fitted=True),
    Layout("4 workers", 1, 4, pinned=True, fitted=False),
    Layout(TWO_HOSTS, 2, 2, pinned=True, fitted=False),
    Layout(f"{TWO_HOSTS}, 50 changes/s", 2, 2, pinned=True, fitted=False, changes_per_s=50),
    Layout("2 workers, nothing pinned", 1, 2, pinned=False, fitted=False),
)


@dataclass(frozen=True, kw_only=True)
class Size(scans.Size):
    repetitions: int = 3


SMOKE = Size(tags=200, connections=8, settle_s=0.05, measure_s=0.3, repetitions=1)


class Cores(NamedTuple):
    """The cores of workers and PostgreSQL, and of the generator; the same ones if there is only one."""

    server: frozenset[int]
    generator: frozenset[int]

    @property
    def apart(self) -> bool:
        return self.server != self.generator


def cores() -> Cores:
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        return Cores(frozenset(found), frozenset(found))
    return Cores(frozenset(found[:-1]), frozenset(found[-1:]))


def traffic_of(traffic: Traffic, hosts: int, host: int) -> Traffic:
    """A host's share of the tags: every `hosts`-th, over as many connections as one host has alone."""
    return traffic._replace(tags=traffic.tags // hosts, stride=hosts, offset=host, registered=traffic.tags)


def at_once(loads: Sequence[Load], work: Callable[[Load], T]) -> list[T]:
    """The work on every generator at the same time."""
    with ThreadPoolExecutor(len(loads)) as pool:
        return list(pool.map(work, loads))


def closed(
    loads: Sequence[Load], per_s: float, size: Size, around: Callable[[], contextlib.AbstractContextManager[Any]]
) -> list[Result]:
    """A closed loop on every generator, with twice as many requests prepared as long as one uses them up."""
    seconds = size.settle_s + size.measure_s
    for doublings in range(_DOUBLINGS_MAX + 1):
        requests = int(per_s * seconds * 2**doublings / len(loads))
        at_once(loads, lambda load, requests=requests: load.prepare(requests))  # type: ignore[misc]
        with around():
            results = at_once(loads, lambda load: load.closed(size.settle_s, size.measure_s))
        if not any(result.exhausted for result in results):
            break
    return results


@contextlib.contextmanager
def changing(testbed: Testbed, dsn: str, changes_per_s: int) -> Iterator[None]:
    """Management changes tags, from two connections: each change takes the row of the catalogue's generation and notifies all
    workers, which read the tag again. Nothing about the tags differs afterwards."""
    fleet = fleet_of(testbed.traffic)

    async def change(over: threading.Event, first: int) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for index in itertools.cycle(range(first, len(fleet), _EDITORS)):
                if over.is_set():
                    return
                tag = await connection.fetchval("SELECT tag_id FROM tag WHERE xuid = $1", fleet.xuid(index))
                async with connection.transaction():
                    await edits.changed(connection, ("tag", tag, fleet.xuid(index)))
                await asyncio.sleep(_EDITORS / changes_per_s)
        finally:
            await connection.close()

    async def work(over: threading.Event) -> None:
        await asyncio.gather(*(change(over, first) for first in range(_EDITORS)))

    with in_background(work) if changes_per_s else contextlib.nullcontext():
        yield


class Meter:
    """Processor time, statements and wait events of the last block that it measured."""

    def __init__(self, testbed: Testbed, dsn: str, running: Sequence[Running], changes_per_s: int) -> None:
        self._testbed = testbed
        self._changes_per_s = changes_per_s
        self._dsn = dsn
        self._running = running
        self.waits: Counter[str] = Counter()
        self.spent: tuple[float, ...] = ()

    def _read(self) -> tuple[float, ...]:
        """Seconds of the workers and of PostgreSQL, statements and scans in them."""
        seen = [each.observe() for each in self._running]
        pids = [pid for each in self._running for pid in each.processes.pids]
        return (
            cpu_s(pids), cpu_s(self._testbed.postgres_pids), sum(each[_BATCHES] for each in seen),
            sum(each[_ROWS] for each in seen),
        )  # fmt: skip

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        before = self._read()
        editors = changing(self._testbed, self._dsn, self._changes_per_s)
        with wait_events.sampled(self._dsn) as self.waits, editors:
            yield
        self.spent = tuple(b - a for a, b in zip(before, self._read(), strict=True))


def measure(testbed: Testbed, layout: Layout, size: Size) -> dict[str, Any]:
    """One run of a layout over a fresh copy of the database."""
    contender, where = http_contenders()["ixfast"], cores()
    held: dict[int, tuple[int, int, int]] = {}
    with testbed.database(IXFAST_DATABASE) as dsn:
        with contextlib.ExitStack() as stack:
            running, loads = [], []
            for host in range(layout.hosts):
                port = free_port()
                running.append(stack.enter_context(contender.serve(testbed, dsn, port, layout.workers)))
                traffic, processes = traffic_of(testbed.traffic, layout.hosts, host), max(1, size.processes // layout.hosts)
                loads.append(stack.enter_context(Load(traffic, port, contender.expected, processes=processes)))
                loads[-1].connect()
            flaws = [f"while warming: {flaw}" for each in at_once(loads, Load.touch_each_tag) for flaw in each.flaws()]
            if layout.pinned and where.apart:
                servers = [pid for each in running for pid in each.processes.pids]
                stack.enter_context(pinned([*servers, *testbed.postgres_pids], where.server))
                stack.enter_context(pinned([pid for load in loads for pid in load.pids], where.generator))
            meter = Meter(testbed, dsn, running, layout.changes_per_s)
            results = closed(loads, contender.usual_requests_per_s, size, meter.measured)
            flaws += [flaw for each in results for flaw in each.flaws()]
            for load in loads:
                held |= load.finish()
            for each in running:
                each.processes.check()
        audit = testbed.run(dsn, lambda connection: database_audit.of_ixfast(connection, testbed.traffic, held))
    return _point(layout, results, meter, [*flaws, *audit.problems])


def _point(layout: Layout, results: Sequence[Result], meter: Meter, flaws: list[str]) -> dict[str, Any]:
    server_s, postgres_s, batches, rows = meter.spent
    sent, answered = sum(each.sent for each in results), sum(each.answered for each in results)
    return {
        **layout._asdict(),
        "requests_per_s": sum(each.requests_per_s for each in results),
        "passes_per_s": sum(each.passes_per_s for each in results),
        "server_cpu_us": server_s * 1e6 / max(1, sent),
        "postgres_cpu_us": postgres_s * 1e6 / max(1, sent),
        "generator_cpu_us": sum(each.cpu_s for each in results) * 1e6 / max(1, answered),
        "rows_a_statement": rows / batches if batches else 0.0,
        "waits": dict(meter.waits),
        "flaws": flaws,
    }


def attempt(testbed: Testbed, layout: Layout, size: Size) -> dict[str, Any]:
    """The run, or a point with the error as its flaw."""
    try:
        return measure(testbed, layout, size)
    except (ContenderError, LoadError) as error:
        return {**layout._asdict(), "flaws": [str(error)]}


def good(points: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The points that count, by layout."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        if not point["flaws"]:
            found.setdefault(point["name"], []).append(point)
    return found


def ratios(points: Sequence[Mapping[str, Any]]) -> list[float]:
    """Cost of a scan with two hosts' worth of workers ÷ with one host's, in each repetition that has both."""
    costs = {(point["name"], point["repetition"]): _cost(point) for point in points if not point["flaws"]}
    one = {repetition: cost for (name, repetition), cost in costs.items() if name == ONE_HOST}
    return [cost / one[repetition] for (name, repetition), cost in costs.items() if name == TWO_HOSTS and one.get(repetition)]


def _cost(point: Mapping[str, Any]) -> float:
    return float(point["server_cpu_us"] + point["postgres_cpu_us"])


def _median(points: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(point[name] for point in points)


def fitted(record: Mapping[str, Any]) -> Model | None:
    """The model of the layouts that it is fitted to; None without a good run of any."""
    own = [points for points in good(record["points"]).values() if points[0]["fitted"]]
    scans_of = [max(1.0, _median(points, "rows_a_statement")) for points in own]
    if not own:
        return None
    server, postgres = (
        fit([(each, _median(points, name)) for each, points in zip(scans_of, own, strict=True)])
        for name in ("server_cpu_us", "postgres_cpu_us")
    )
    share = statistics.median(
        each * points[0]["hosts"] * points[0]["workers"] / _connections(record, points[0])
        for each, points in zip(scans_of, own, strict=True)
    )
    return Model(server, postgres, statistics.median(_median(points, "generator_cpu_us") for points in own), share)


def _connections(record: Mapping[str, Any], layout: Mapping[str, Any]) -> int:
    return int(layout["hosts"] * record["size"]["connections"])


def predicted(record: Mapping[str, Any], model: Model) -> dict[str, Prediction]:
    """What the model says of each layout that was measured."""
    server, everything = record["cores"]["server"], record["cores"]["all"]
    found = {}
    for name, points in good(record["points"]).items():
        layout = points[0]
        apart = layout["pinned"] and server < everything
        found[name] = model.predict(
            layout["hosts"] * layout["workers"], _connections(record, layout), server if apart else everything, own_core=apart,
        )  # fmt: skip
    return found


def _measured_table(record: Mapping[str, Any]) -> str:
    columns = (
        "layout", "runs", "requests/s", "CPU µs per request: workers", "PostgreSQL", "both", "generator", "scans per statement",
    )  # fmt: skip
    rows = []
    for name, points in good(record["points"]).items():
        costs = [_median(points, part) for part in ("server_cpu_us", "postgres_cpu_us")]
        rows.append([
            name, str(len(points)), spread([point["requests_per_s"] for point in points]), *(f"{cost:.1f}" for cost in costs),
            spread([_cost(point) for point in points], ".1f"), f"{_median(points, 'generator_cpu_us'):.1f}",
            f"{_median(points, 'rows_a_statement'):.0f}",
        ])  # fmt: skip
    return markdown(columns, rows)


def _model_table(record: Mapping[str, Any], model: Model) -> str:
    found, rows = good(record["points"]), []
    for name, each in predicted(record, model).items():
        points = found[name]
        cost, rate = statistics.median(map(_cost, points)), _median(points, "requests_per_s")
        rows.append([
            name, "fitted" if points[0]["fitted"] else "predicted",
            f"{each.scans:.0f} / {_median(points, 'rows_a_statement'):.0f}",
            f"{each.server_us:.1f} / {_median(points, 'server_cpu_us'):.1f}",
            f"{each.postgres_us:.1f} / {_median(points, 'postgres_cpu_us'):.1f}",
            f"{each.cost_us / cost - 1:+.0%}" if cost else "-", f"{each.requests_per_s:,.0f} / {rate:,.0f}",
            f"{each.requests_per_s / rate - 1:+.0%}" if rate else "-",
        ])  # fmt: skip
    columns = (
        "model / measured", "", "scans per statement", "µs: workers", "PostgreSQL", "error of both", "requests/s", "error",
    )  # fmt: skip
    return markdown(columns, rows, text_columns=2)


def _cores_table(model: Model) -> str:
    rows = []
    for each in _CORES:
        at = [model.on(each, scans_a_statement) for scans_a_statement in _SCANS]
        rows.append([str(each), *(text for workers, rate in at for text in (str(workers), f"{rate:,.0f}"))])
    columns = (
        "cores of workers and PostgreSQL",
        *(t for n in _SCANS for t in (f"workers, {n} scans per statement", "requests/s")),
    )
    return markdown(columns, rows, text_columns=0)


def table(record: Mapping[str, Any]) -> str:
    waits: dict[str, Counter[str]] = {}
    for name, points in good(record["points"]).items():
        waits[name] = sum((Counter(point["waits"]) for point in points), Counter())
    parts = [_measured_table(record), ""]
    found = ratios(record["points"])
    if found:
        parts += [f"Two hosts' worth of workers ÷ one host's, cost of a scan: {spread(found, '.2f')}.", ""]
    server, everything = record["cores"]["server"], record["cores"]["all"]
    where = f"the generator on a core of its own, the others on {server}" if server < everything else "nothing: there is one core"
    parts += [f"Pinned: {where}.", "", wait_events.table(waits)]
    model = fitted(record)
    if model is not None:
        parts += [
            "", "A scan in a statement of n costs " + ", ".join(
                f"{name} {cost.per_scan:.1f} + {cost.per_statement:.0f} ÷ n µs"
                for name, cost in (("workers", model.server), ("PostgreSQL", model.postgres))
            ) + f", the generator {model.generator_us:.1f} µs. A statement carries"
            f" {model.share:.0%} of a worker's connections.",
            "", _model_table(record, model), "", "More cores, if nothing contends:", "", _cores_table(model),
        ]  # fmt: skip
    return "\n".join(parts)


def cost_plot(record: Mapping[str, Any]) -> Any:
    """Cost of a scan in each layout."""
    values = {name: [_cost(point) for point in points] for name, points in good(record["points"]).items()}
    return plots.bars("Cost of a scan, workers and PostgreSQL", "µs of processor time, median and range", values, record)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[layout.name for layout in LAYOUTS], help="only these layouts")
    flags = {
        "repetitions": "repetitions", "connections": "client connections of each host", "measure_s": "seconds of each run",
    }  # fmt: skip
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    size = experiment.sized(Size(), SMOKE)
    layouts = [layout for layout in LAYOUTS if not experiment.given.only or layout.name in experiment.given.only]
    runs = len(layouts) * size.repetitions
    experiment.plan("set-up 20 s", f"{runs} runs of about 30 s", f"{runs * 0.5 + 0.5:.0f} minutes")
    where = cores()
    with experiment.testbed(size) as testbed:
        counted = {"server": len(where.server), "all": len(where.server | where.generator)}
        record = experiment.begin(testbed, size=asdict(size), cores=counted, points=[])
        with experiment.interruptible():
            for repetition in range(1, size.repetitions + 1):
                for layout in layouts:
                    point = {"repetition": repetition, **attempt(testbed, layout, size)}
                    record["points"].append(point)
                    experiment.lap(f"{layout.name} {repetition}")
                    experiment.keep(point)
                    experiment.progress(_summary(point))
    if good(record["points"]):
        experiment.draw("costs", cost_plot(record))
        experiment.show(table(record))
    return experiment.end(record, [f"{p['name']} {p['repetition']}: {flaw}" for p in record["points"] for flaw in p["flaws"]])


def _summary(point: Mapping[str, Any]) -> str:
    if point["flaws"]:
        return f"{point['repetition']}  {point['name']}: NOT GOOD: {'; '.join(point['flaws'])}"
    return (
        f"{point['repetition']}  {point['name']:<26} {point['requests_per_s']:>9,.0f} requests/s {_cost(point):>6.1f} µs a scan"
        f" {point['rows_a_statement']:>4.0f} scans a statement"
    )
