"""Durable scans a second through HTTP, beside the peers: the main benchmark. `python -m benchmarks scans`

Each repetition runs every contender once, in fresh processes over a fresh copy of the database, with the same generator and
the same taps: connect, tap every tag once so that nothing is cold, then a closed loop of which all but the beginning
counts. Afterwards the database is audited against the answers. Contenders alternate, so that a noisy minute of the machine
meets all of them; the table has medians with the smallest and largest.

A run counts only if every answer was the expected one and the audit found nothing; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import audit, environment
from benchmarks.contenders import Contender, Running, flask_is_absent, http_contenders
from benchmarks.load import histogram
from benchmarks.load.drive import Load, LoadError
from benchmarks.load.traffic import Mix, Traffic
from benchmarks.processes import ROOT, ContenderError, child_environment, cpu_s, free_port, python
from benchmarks.stage import IXFAST_DATABASE, Stage

LEDGER = "ledger_sql"
LEDGER_TITLE = "the ledger's SQL alone, without HTTP"
HISTORY = "scans.jsonl"
_ROWS_UNLESS_SEEN = 256


Hindered = Callable[[Running], contextlib.AbstractContextManager[Any]]
"""What hinders a contender that runs, for as long as a phase takes."""


def unhindered(_running: Running) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Size:
    tags: int = 100_000
    connections: int = 256
    workers: int = 2
    processes: int = 2
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
    server_cpu_us: float = 0.0  # a request, all processes of the contender
    postgres_cpu_us: float = 0.0
    generator_cpu_us: float = 0.0
    answered: dict[str, int] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, float] = field(default_factory=dict)
    histogram: str = ""  # of a closed loop: it shows the queue in front of the server, not its latency

    @property
    def rows_a_statement(self) -> float:
        batches = self.observed.get("ixfast_ledger_batches_total", 0.0)
        return self.observed.get("ixfast_ledger_rows_total", 0.0) / batches if batches else 0.0

    @property
    def good(self) -> bool:
        return not self.flaws and not self.audit.get("problems")


def as_run(record: Mapping[str, Any]) -> Run:
    """A run from its record in the history."""
    return Run(**{each.name: record[each.name] for each in fields(Run) if each.name in record})


def titles() -> dict[str, str]:
    """What the contenders are called in tables."""
    return {name: contender.title for name, contender in http_contenders().items()} | {LEDGER: LEDGER_TITLE}


def measure(stage: Stage, contender: Contender, size: Size, repetition: int, hindered: Hindered = unhindered) -> Run:
    """One run over HTTP, `hindered` while it is measured."""
    if contender.template is None:
        return _measure(stage, contender, size, repetition, None, hindered)
    with stage.database(contender.template) as dsn:
        return _measure(stage, contender, size, repetition, dsn, hindered)


def _measure(stage: Stage, contender: Contender, size: Size, repetition: int, dsn: str | None, hindered: Hindered) -> Run:
    port = free_port()
    with contender.serve(stage, dsn, port, size.workers) as running:
        headers = contender.headers(stage)
        with Load(stage.traffic, port, contender.expected, processes=size.processes, headers=headers) as load:
            load.connect()
            warm = load.touch_each_tag()
            load.prepare(int(contender.requests_per_s_max * (size.settle_s + size.measure_s)))
            before, cpu = running.observe(), _spent(running.processes.pids, stage.postgres_pids)
            with hindered(running):
                result = load.closed(size.settle_s, size.measure_s)
            server_s, postgres_s = (b - a for a, b in zip(cpu, _spent(running.processes.pids, stage.postgres_pids), strict=True))
            after = running.observe()
            held = load.finish()
        running.processes.check()
    audited = audit.Audit(0, 0, 0, 0, [])
    if dsn is not None and contender.audit is not None:
        check = contender.audit
        audited = stage.run(dsn, lambda connection: check(connection, stage.traffic, held))
    sent = max(1, result.sent)
    return Run(
        contender.name,
        repetition,
        result.requests_per_s,
        result.passes_per_s if dsn is not None else 0.0,
        server_s * 1e6 / sent,
        postgres_s * 1e6 / sent,
        result.generator_us,
        result.by_kind,
        [*(f"while warming: {flaw}" for flaw in warm.flaws()), *result.flaws()],
        audited._asdict(),
        {name: after[name] - before[name] for name in after},
        histogram.encode_histogram(result.latency),
    )


def _spent(server: list[int], postgres: list[int]) -> tuple[float, float]:
    return cpu_s(server), cpu_s(postgres)


def measure_ledger(stage: Stage, size: Size, repetition: int, rows: int, *, unsafe: bool = False) -> Run:
    """The ledger's statement driven alone at `rows` tags a statement; `unsafe` does not wait for the disk."""
    with stage.database(IXFAST_DATABASE) as dsn:
        command = python(
            "benchmarks.ledger.driver", "--connections", size.ledger_connections, "--rows", rows,
            "--seconds", size.measure_s, "--seed", stage.traffic.seed, *(["--unsafe"] if unsafe else []),
        )  # fmt: skip
        cpu = cpu_s(stage.postgres_pids)
        variables = child_environment({"BENCH_DSN": dsn})
        output = subprocess.run(command, env=variables, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=300).stdout
        seen = json.loads(output)
        cpu = cpu_s(stage.postgres_pids) - cpu
        audited = stage.run(dsn, lambda connection: audit.of_ledger(connection, seen["advanced"]))
    flaws = [] if seen["advanced"] == seen["expected"] else [f"{seen['expected'] - seen['advanced']} taps did not advance"]
    if seen.get("ran_out"):
        flaws.append("prepared statements ran out before the time")
    rate = seen["advanced"] / seen["seconds"]
    return Run(
        LEDGER, repetition, 0.0, rate, seen["driver_cpu_s"] * 1e6 / seen["advanced"], cpu * 1e6 / seen["advanced"], 0.0,
        {"genuine": seen["advanced"]}, flaws, audited._asdict(), {"rows_a_statement": seen["rows"]},
    )  # fmt: skip


def run_all(stage: Stage, contenders: Sequence[Contender], size: Size, *, with_ledger: bool) -> Iterator[Run]:
    """Every contender in turn, `size.repetitions` times. One that fails leaves a run that says why, and the others go on."""
    rows = 0.0
    for repetition in range(1, size.repetitions + 1):
        for contender in contenders:
            run = _attempt(contender.name, repetition, partial(measure, stage, contender, size, repetition))
            rows = run.rows_a_statement or rows
            yield run
        if with_ledger:
            batch = max(1, round(rows)) if rows else _ROWS_UNLESS_SEEN
            yield _attempt(LEDGER, repetition, partial(measure_ledger, stage, size, repetition, batch))


def _attempt(name: str, repetition: int, work: Callable[[], Run]) -> Run:
    try:
        return work()
    except (ContenderError, LoadError, subprocess.SubprocessError) as error:
        return Run(name, repetition, 0.0, 0.0, flaws=[str(error)])


def _tell(run: Run) -> None:
    state = "ok" if run.good else f"NOT GOOD: {'; '.join([*run.flaws, *run.audit.get('problems', [])])}"
    rates = f"{run.requests_per_s:>9,.0f} requests/s {run.passes_per_s:>9,.0f} passes/s"
    print(f"  {run.repetition}  {run.contender:<17} {rates}  {state}", file=sys.stderr, flush=True)


def table(runs: Sequence[Run], names: Mapping[str, str]) -> str:
    """The good runs as markdown: a row a contender, then the ratios."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        if run.good:
            by_name.setdefault(run.contender, []).append(run)
    lines = [
        "| contender | runs | requests/s | durable passes/s | CPU µs a request: server | PostgreSQL | generator |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, own in by_name.items():
        cpu = [statistics.median(getattr(r, f"{part}_cpu_us") for r in own) for part in ("server", "postgres", "generator")]
        rates = spread([r.requests_per_s for r in own]), spread([r.passes_per_s for r in own])
        cells = [names[name], str(len(own)), *rates, *(f"{value:.1f}" for value in cpu)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *ratios(by_name)])


def spread(values: list[float]) -> str:
    """The median, with the smallest and largest behind it."""
    median = statistics.median(values)
    if not median:
        return "-"
    return f"{median:,.0f}" if len(values) == 1 else f"{median:,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def ratios(by_name: dict[str, list[Run]]) -> list[str]:
    """ixfast's durable passes over what others did in the same repetition: median, smallest and largest."""
    own = {run.repetition: run for run in by_name.get("ixfast", [])}
    if not own:
        return []
    lines = ["| ixfast's durable passes/s ÷ | ratio | at least | aim |", "|---|---:|---:|---:|"]
    for name, title, measure_name, least, aim in (
        ("aiohttp_constant", "requests/s of aiohttp answering a constant", "requests_per_s", 0.75, 1.2),
        ("aiohttp_asyncpg", "passes/s of aiohttp + asyncpg", "passes_per_s", 8, 10),
        ("flask", "passes/s of Flask", "passes_per_s", 20, None),
        (LEDGER, "rows/s of the SQL alone at the batch sizes seen", "passes_per_s", 0.5, 0.7),
    ):
        pairs = [(own[run.repetition].passes_per_s, getattr(run, measure_name)) for run in by_name.get(name, [])]
        found = [ours / theirs for ours, theirs in pairs if theirs]
        if found:
            around = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
            lines.append(f"| {title} | {statistics.median(found):.2f}{around} | {least or '-'} | {aim or '-'} |")
    rows = [run.rows_a_statement for run in own.values()]
    return [*lines, "", f"ixfast committed {statistics.median(rows):.1f} scans a statement."]


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    size = SMOKE if given.smoke else Size()
    chosen = {name: getattr(given, name) for name in asdict(size) if getattr(given, name, None) is not None}
    size = replace(size, **chosen)
    contenders = http_contenders(flask_python=given.flask_python)
    wanted = given.contenders or [*contenders, LEDGER]
    absent = flask_is_absent(given.flask_python) if "flask" in wanted else None
    if absent:
        print(absent, file=sys.stderr)
        wanted = [name for name in wanted if name != "flask"]
    traffic = Traffic(given.seed, size.tags, size.connections, Mix(*given.mix))
    session, folder = time.strftime("%Y%m%dT%H%M%S"), environment.folder(given)
    with Stage(traffic, aged=not given.smoke) as stage:
        described = environment.describe(
            load_before=environment.load_average(),
            postgres=stage.settings(),
            traffic=environment.plain(traffic),
            size=asdict(size),
        )  # fmt: skip
        runs = []
        for run in run_all(stage, [contenders[n] for n in wanted if n in contenders], size, with_ledger=LEDGER in wanted):
            runs.append(run)
            _tell(run)
            environment.remember(HISTORY, {"session": session, **asdict(run), "environment": described}, folder)
    print(table(runs, titles()))
    print("\nEvery answer was the expected one, every audit clean." if all(r.good for r in runs) else "\nNOT GOOD, see above.")
    print(f"\n{environment.as_markdown(described)}")
    return 0 if all(run.good for run in runs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks scans", description=__doc__.splitlines()[0])
    parser.add_argument("contenders", nargs="*", choices=[*http_contenders(), LEDGER, []], help="all unless named")
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    parser.add_argument("--seed", type=int, default=424)
    parser.add_argument("--mix", type=float, nargs=4, default=list(Mix()), metavar=("GENUINE", "REPLAYED", "FORGED", "UNKNOWN"))
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=None, help=f"{default} unless given")
    parser.add_argument("--flask-python", help="an interpreter that has the Flask peer's libraries; this one unless given")
    parser.add_argument("--results", type=Path, help="folder of the history; benchmarks/results unless given")
    return parser


if __name__ == "__main__":
    sys.exit(main())
