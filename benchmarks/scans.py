"""Durable scans per second through HTTP, compared with other servers: the main benchmark. `python -m benchmarks scans`

Each repetition runs every contender once, in fresh processes over a fresh copy of the database, with the same generator and the
same taps: connect, tap every tag once to warm all caches, then a closed loop whose figures exclude its start. Afterwards the
database is audited against the responses. Contenders alternate, so that a noisy minute of the machine affects all of them; the
table has medians with minimum and maximum.

A run counts only if every response was the expected one and the audit found nothing; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

from benchmarks import database_audit, disturbance, plots
from benchmarks.contenders import Contender, Running, flask_is_absent, http_contenders
from benchmarks.experiment import BenchmarkError, Experiment, add_mix_flag
from benchmarks.experiment import Size as CommonSize
from benchmarks.load import histogram
from benchmarks.load.drive import LoadError
from benchmarks.load_test import load_test
from benchmarks.processes import ROOT, ContenderError, child_environment, cpu_s, python
from benchmarks.tables import markdown, spread
from benchmarks.testbed import IXFAST_DATABASE, Testbed

LEDGER = "ledger_sql"
LEDGER_TITLE = "the ledger statement alone, without HTTP"
HISTORY = "scans.jsonl"
_ROWS_UNLESS_SEEN = 256


Constraint = Callable[[Running], contextlib.AbstractContextManager[Any]]
"""Limits a running contender for the duration of a phase."""


def unconstrained(_running: Running) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Size(CommonSize):
    settle_s: float = 1.0
    measure_s: float = 5.0
    repetitions: int = 5
    ledger_connections: int = 2


SMOKE = Size(tags=200, connections=8, settle_s=0.05, measure_s=0.3, repetitions=1)


@dataclass
class Run:
    """One contender in one repetition."""

    contender: str
    repetition: int
    requests_per_s: float
    passes_per_s: float
    server_cpu_us: float = 0.0  # per request, all processes of the contender
    postgres_cpu_us: float = 0.0
    generator_cpu_us: float = 0.0
    answered: dict[str, int] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)
    disturbance: dict[str, Any] = field(default_factory=dict)  # of the machine (`disturbance.py`)
    histogram: str = ""  # of a closed loop: it shows the queue in front of the server, not the server's latency

    @property
    def rows_a_statement(self) -> float:
        batches = self.observed.get("ixfast_ledger_batches_total", 0.0)
        return self.observed.get("ixfast_ledger_rows_total", 0.0) / batches if batches else 0.0

    @property
    def problems(self) -> list[str]:
        """What was wrong in the run, which therefore does not count."""
        return [*self.flaws, *self.audit.get("problems", [])]

    @property
    def good(self) -> bool:
        return not self.problems and disturbance.counts({"disturbance": self.disturbance})


def as_run(record: Mapping[str, Any]) -> Run:
    """A run from its record in the history."""
    return Run(**{each.name: record[each.name] for each in fields(Run) if each.name in record})


def titles() -> dict[str, str]:
    """The contenders' names in tables."""
    return {name: contender.title for name, contender in http_contenders().items()} | {LEDGER: LEDGER_TITLE}


def measure(testbed: Testbed, contender: Contender, size: Size, repetition: int, constraint: Constraint = unconstrained) -> Run:
    """One run over HTTP, under the `constraint` while it is measured."""
    with load_test(testbed, contender, size) as test:
        warm = test.load.touch_each_tag()
        for _ in test.load.prepare_enough(contender.usual_requests_per_s, size.settle_s + size.measure_s):
            before, cpu = test.running.observe(), test.cpu_s()
            with constraint(test.running):
                result = test.load.closed(size.settle_s, size.measure_s)
        server_us, postgres_us = ((b - a) * 1e6 / max(1, result.sent) for a, b in zip(cpu, test.cpu_s(), strict=True))
        after = test.running.observe()
    return Run(
        contender.name,
        repetition,
        result.requests_per_s,
        result.passes_per_s if test.dsn is not None else 0.0,
        server_us,
        postgres_us,
        result.generator_us,
        result.by_kind,
        [*(f"while warming: {flaw}" for flaw in warm.flaws()), *result.flaws()],
        test.audit._asdict(),
        {name: after[name] - before[name] for name in after},
        histogram=histogram.encode_histogram(result.latency),
    )


def measured_capacity(
    testbed: Testbed, contender: Contender, size: Size, constraint: Constraint = unconstrained, *, may_refuse: bool = False
) -> float:
    """Requests/s of a closed loop. Raises `BenchmarkError` if the run does not count, unless it `may_refuse` at its capacity."""
    run = measure(testbed, contender, size, 1, constraint)
    if not run.good and not (may_refuse and run.requests_per_s):
        raise BenchmarkError(f"the capacity could not be measured: {'; '.join(run.problems)}")
    return run.requests_per_s


def measure_ledger(testbed: Testbed, size: Size, repetition: int, rows: int, *, unsafe: bool = False) -> Run:
    """The ledger's statement alone at `rows` tags per statement; `unsafe` does not wait for the disk."""
    with testbed.database(IXFAST_DATABASE) as dsn:
        command = python(
            "benchmarks.ledger.driver", "--connections", size.ledger_connections, "--rows", rows,
            "--seconds", size.measure_s, "--seed", testbed.traffic.seed, *(["--unsafe"] if unsafe else []),
        )  # fmt: skip
        cpu = cpu_s(testbed.postgres_pids)
        variables = child_environment({"BENCH_DSN": dsn})
        output = subprocess.run(command, env=variables, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300).stdout
        seen = json.loads(output)
        cpu = cpu_s(testbed.postgres_pids) - cpu
        audited = testbed.run(dsn, lambda connection: database_audit.of_ledger(connection, seen["advanced"]))
    flaws = [] if seen["advanced"] == seen["expected"] else [f"{seen['expected'] - seen['advanced']} taps did not advance"]
    rate = seen["advanced"] / seen["seconds"]
    return Run(
        LEDGER, repetition, 0.0, rate, seen["driver_cpu_s"] * 1e6 / seen["advanced"], cpu * 1e6 / seen["advanced"], 0.0,
        {"genuine": seen["advanced"]}, flaws, audited._asdict(), {"rows_a_statement": seen["rows"]},
    )  # fmt: skip


def run_all(testbed: Testbed, contenders: Sequence[Contender], size: Size, *, with_ledger: bool) -> Iterator[Run]:
    """Every contender in turn, `size.repetitions` times. One that fails yields a run with the reason, and the others go on."""
    rows = 0.0
    for repetition in range(1, size.repetitions + 1):
        for contender in contenders:
            run = attempt(contender.name, repetition, partial(measure, testbed, contender, size, repetition))
            rows = run.rows_a_statement or rows
            yield run
        if with_ledger:
            batch = max(1, round(rows)) if rows else _ROWS_UNLESS_SEEN
            yield attempt(LEDGER, repetition, partial(measure_ledger, testbed, size, repetition, batch))


def attempt(name: str, repetition: int, work: Callable[[], Run]) -> Run:
    """The run, or a run with the error as its flaw."""
    try:
        return work()
    except (ContenderError, LoadError, subprocess.SubprocessError) as error:
        return Run(name, repetition, 0.0, 0.0, flaws=[str(error)])


def _summary(run: Run) -> str:
    unfit = f"UNFIT: {'; '.join(run.disturbance.get('unfit', []))}"
    state = "ok" if run.good else f"NOT GOOD: {'; '.join(run.problems)}" if run.problems else unfit
    rates = f"{run.requests_per_s:>9,.0f} requests/s {run.passes_per_s:>9,.0f} passes/s"
    return f"{run.repetition}  {run.contender:<20} {rates}  {state}"


def by_contender(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs that count."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.good:
            found.setdefault(run.contender, []).append(run)
    return found


def table(runs: Sequence[Run], names: Mapping[str, str]) -> str:
    """The runs that count as markdown: one row for each contender, then the ratios."""
    found = by_contender(runs)
    rows = []
    for name, own in found.items():
        cpu = [statistics.median(getattr(r, f"{part}_cpu_us") for r in own) for part in ("server", "postgres", "generator")]
        rates = spread([r.requests_per_s for r in own]), spread([r.passes_per_s for r in own])
        rows.append([names[name], str(len(own)), *rates, *(f"{value:.1f}" for value in cpu)])
    columns = "contender", "runs", "requests/s", "durable passes/s", "CPU µs per request: server", "PostgreSQL", "generator"
    return "\n".join([markdown(columns, rows), "", *_ratios(found)])


class Ratio(NamedTuple):
    """What ixfast's durable passes/s are divided by, and the targets of the ratio."""

    contender: str
    figure: str  # its name in the table of figures
    title: str
    measured: str
    least: float
    aim: float | None


RATIOS = (
    Ratio(
        "aiohttp_constant", "aiohttp with a constant response", "requests/s of aiohttp with a constant response",
        "requests_per_s", 1.2, 1.45,
    ),
    Ratio(
        "uvloop_constant", "a bare uvloop protocol with a constant response",
        "requests/s of a bare uvloop protocol with a constant response", "requests_per_s", 0.52, 0.6,
    ),
    Ratio(
        "aiohttp_asyncpg", "aiohttp + asyncpg, one guarded UPDATE per scan", "passes/s of aiohttp + asyncpg", "passes_per_s",
        10, 12,
    ),
    Ratio("flask", "Flask + gunicorn + pycryptodome + psycopg", "passes/s of Flask", "passes_per_s", 20, None),
    Ratio(
        LEDGER, "the ledger statement alone at the batch sizes seen",
        "rows/s of the ledger statement alone at the batch sizes seen", "passes_per_s", 0.5, 0.7,
    ),
)  # fmt: skip


def ratios_to(ratio: Ratio, found: Mapping[str, list[Run]]) -> list[float]:
    """ixfast's durable passes/s divided by the other figure, in each repetition that has both."""
    own = {run.repetition: run.passes_per_s for run in found.get("ixfast", [])}
    others = [(run.repetition, getattr(run, ratio.measured)) for run in found.get(ratio.contender, [])]
    return [own[repetition] / other for repetition, other in others if other and repetition in own]


def _ratios(found: Mapping[str, list[Run]]) -> list[str]:
    own = found.get("ixfast", [])
    if not own:
        return []
    rows = []
    for ratio in RATIOS:
        ratios = ratios_to(ratio, found)
        if ratios:
            rows.append([ratio.title, spread(ratios, ",.2f"), str(ratio.least), str(ratio.aim or "-")])
    batch = statistics.median(run.rows_a_statement for run in own)
    ratio_table = markdown(("ixfast's durable passes/s ÷", "ratio", "at least", "aim"), rows)
    return [ratio_table, "", f"ixfast committed {batch:.1f} scans per statement."]


def plot(records: Sequence[Mapping[str, Any]]) -> Any:
    """Durable passes/s of each contender, and requests/s of the one without a database."""
    found, names = by_contender([as_run(record) for record in records]), titles()
    values = {names[name]: [run.passes_per_s or run.requests_per_s for run in own] for name, own in found.items()}
    own = [run.requests_per_s for run in found.get("ixfast", [])]
    origin = {**records[-1], "capacity": statistics.median(own) if own else None}
    return plots.bars("Durable genuine scans per second", "median and range of the repetitions, /s", values, origin)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks scans", description=__doc__.splitlines()[0])
    parser.add_argument("contenders", nargs="*", choices=[*http_contenders(), LEDGER, []], help="default: all")
    parser.add_argument("--flask-python", help="an interpreter with the libraries of the Flask peer (default: this one)")
    add_mix_flag(parser)
    flags = {name: name.replace("_", " ") for name in asdict(Size())}
    experiment = Experiment(parser, HISTORY, arguments, size=Size(), flags=flags)
    given, size = experiment.given, experiment.sized(Size(), SMOKE)
    contenders = http_contenders(flask_python=given.flask_python)
    wanted = given.contenders or [*contenders, LEDGER]
    absent = flask_is_absent(given.flask_python) if "flask" in wanted else None
    if absent:
        print(absent, file=sys.stderr)
        wanted = [name for name in wanted if name != "flask"]
    with experiment.testbed(size) as testbed:
        begun = experiment.begin(testbed, size=asdict(size))
        runs = []
        chosen = [contenders[name] for name in wanted if name in contenders]
        for run in run_all(testbed, chosen, size, with_ledger=LEDGER in wanted):
            found = experiment.watch.lap(f"{run.contender} {run.repetition}")
            run.disturbance = disturbance.as_record(found, found.reasons, accepted=experiment.watch.accepted)
            runs.append(run)
            experiment.progress(_summary(run))
            experiment.append({**begun, **asdict(run)})
    print(table(runs, titles()))
    return experiment.conclude(begun["environment"], [f"{run.contender}: {each}" for run in runs for each in run.problems])
