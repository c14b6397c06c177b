"""The servers under test: how each is started, which responses it must give, and how its database is audited."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks import database_audit
from benchmarks.load.connections import Expected
from benchmarks.load.drive import CONSTANT_ANSWER, SCAN_ANSWERS
from benchmarks.processes import ContenderError, Processes, python, socket_path
from benchmarks.testbed import IXFAST_DATABASE, IXFAST_FULL_DATABASE, PEER_DATABASE, Testbed
from ixfast.embedded import free_port

_READY_S = 30.0
_FLASK_NEEDS = ("flask", "gunicorn", "psycopg", "Crypto")


class Running(NamedTuple):
    """A contender that accepts requests. `observe` reads its own counters."""

    processes: Processes
    observe: Callable[[], dict[str, float]]
    stages: Callable[[], dict[str, tuple[float, float]]] = dict  # by stage the seconds spent, and how often they were measured


class Contender(NamedTuple):
    name: str
    title: str
    template: str | None
    expected: Expected
    usual_requests_per_s: int  # as many requests are prepared first, and twice as many when a run uses them up
    serve: Callable[..., contextlib.AbstractContextManager[Running]]
    audit: Callable[..., Any] | None
    headers: Callable[[Testbed], bytes] = lambda _: b""  # additional header fields of every request
    unix: bool = False  # whether the load goes to the Unix socket at `socket_path(port)`


def start_ixfast(
    testbed: Testbed, dsn: str, port: int, private_port: int, workers: int, flags: Sequence[str] = (), module: str = "ixfast"
) -> Processes:
    """Starts `ixfast serve`, or the `serve` of another module, on 127.0.0.1."""
    command = python(
        module, "serve", "--workers", workers, "--host", "127.0.0.1", "--port", port, "--private-port", private_port,
        "--log-level", "warning", *flags,
    )  # fmt: skip
    return Processes([command], {"IXFAST_DSN": dsn, "IXFAST_KEK_FILE": str(testbed.kek_file)})


def ixfast_with(
    flags: Sequence[str] = (), module: str = "ixfast", *, unix: bool = False
) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """ixfast with additional flags."""

    @contextlib.contextmanager
    def serve(testbed: Testbed, dsn: str | None, port: int, workers: int) -> Iterator[Running]:
        private_port = free_port()
        assert dsn is not None
        base = f"http://127.0.0.1:{private_port}"
        more = ("--unix-socket", str(socket_path(port))) if unix else ()
        with start_ixfast(testbed, dsn, port, private_port, workers, (*flags, *more), module) as processes:
            processes.await_listeners(port, workers)
            _await_readiness(processes, f"{base}/readyz")
            yield Running(processes, lambda: _observe(base), lambda: stage_sums(_scrape(base)))

    return serve


def _with_token(testbed: Testbed) -> bytes:
    testbed.prepare(IXFAST_FULL_DATABASE)
    return b"X-API-Key: %b\r\n" % testbed.token.encode()


def _await_readiness(processes: Processes, url: str) -> None:
    until = time.monotonic() + _READY_S
    while True:
        processes.check()
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if json.load(answer)["ready"]:
                return
        if time.monotonic() > until:
            raise ContenderError(f"not ready after {_READY_S:g} s: {url}")
        time.sleep(0.05)


def _scrape(base: str) -> str:
    with urllib.request.urlopen(f"{base}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def stage_sums(exposed: str) -> dict[str, tuple[float, float]]:
    """Seconds and counts of `ixfast_stage_…{stage="…"}` in a scrape, summed over all workers."""
    units = {"seconds": 1.0, "us": 1e-6, "ns": 1e-9}
    row = re.compile(r'^ixfast_stage_(seconds|us|ns)_(sum|count)(?:_total)?\{[^}]*stage="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)
    found: dict[str, list[float]] = {}
    for unit, kind, name, value in row.findall(exposed):
        both = found.setdefault(name, [0.0, 0.0])
        both[kind == "count"] += float(value) * (units[unit] if kind == "sum" else 1.0)
    return {name: (total_s, count) for name, (total_s, count) in found.items()}


def _observe(base: str) -> dict[str, float]:
    """ixfast's own counters, summed over all workers."""
    text = _scrape(base)
    found: dict[str, float] = {}
    for name, value in re.findall(r"^(ixfast_\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(value)
    shown = (
        "ixfast_ledger_batches_total", "ixfast_ledger_rows_total", "ixfast_ledger_statement_seconds_sum",
        "ixfast_catalogue_misses_total", "ixfast_handed_over_connections_total", "ixfast_hot_requests_total",
        "ixfast_ledger_held_total", "ixfast_refusal_log_dropped_total", "ixfast_connections", "ixfast_catalogue_cached_tags",
        "ixfast_catalogue_queries_total",
    )  # fmt: skip
    return {name: found.get(name, 0.0) for name in shown}


@contextlib.contextmanager
def _one_process_per_worker(module: str, dsn: str | None, port: int, workers: int) -> Iterator[Running]:
    with Processes([python(module, port)] * workers, {"BENCH_DSN": dsn or ""}) as processes:
        processes.await_listeners(port, workers)
        yield Running(processes, dict)


@contextlib.contextmanager
def _uvloop_unix(_testbed: Testbed, _dsn: str | None, port: int, workers: int) -> Iterator[Running]:
    path = socket_path(port)
    try:
        with Processes([python("benchmarks.peers.uvloop_constant_unix", path, workers)]) as processes:
            processes.await_socket(path)
            yield Running(processes, dict)
    finally:
        path.unlink(missing_ok=True)


def _peer(module: str) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    return lambda _testbed, dsn, port, workers: _one_process_per_worker(module, dsn, port, workers)


def _flask(interpreter: str) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def serve(_testbed: Testbed, dsn: str | None, port: int, workers: int) -> Iterator[Running]:
        command = [
            interpreter, "-m", "gunicorn", "--workers", str(workers), "--worker-class", "gthread", "--threads", "4",
            "--keep-alive", "75", "--bind", f"127.0.0.1:{port}", "--log-level", "warning",
            "benchmarks.peers.flask_peer:application",
        ]  # fmt: skip
        with Processes([command], {"BENCH_DSN": dsn or ""}) as processes:
            processes.await_port(port)
            yield Running(processes, dict)

    return serve


def http_contenders(*, flask_python: str | None = None) -> dict[str, Contender]:
    """All contenders by name, in the order of the table."""
    contenders = (
        Contender("ixfast", "ixfast", IXFAST_DATABASE, SCAN_ANSWERS, 120_000, ixfast_with(), database_audit.of_ixfast),
        Contender(
            "ixfast_unix", "ixfast over a Unix socket", IXFAST_DATABASE, SCAN_ANSWERS, 120_000, ixfast_with(unix=True),
            database_audit.of_ixfast, unix=True,
        ),
        Contender(
            "ixfast_full", "ixfast with rules, extended fields and an API key", IXFAST_FULL_DATABASE, SCAN_ANSWERS, 120_000,
            ixfast_with(), database_audit.of_ixfast, _with_token,
        ),
        Contender(
            "aiohttp_constant", "aiohttp, constant response, no database", None, CONSTANT_ANSWER, 120_000,
            _peer("benchmarks.peers.aiohttp_constant"), None,
        ),
        Contender(
            "uvloop_constant", "bare uvloop protocol, constant response, no database", None, CONSTANT_ANSWER, 240_000,
            _peer("benchmarks.peers.uvloop_constant"), None,
        ),
        Contender(
            "uvloop_constant_unix", "bare uvloop protocol over a Unix socket, constant response, no database", None,
            CONSTANT_ANSWER, 240_000, _uvloop_unix, None, unix=True,
        ),
        Contender(
            "aiohttp_asyncpg", "aiohttp + asyncpg, one guarded UPDATE per scan", PEER_DATABASE, SCAN_ANSWERS, 30_000,
            _peer("benchmarks.peers.aiohttp_asyncpg"), database_audit.of_peer,
        ),
        # A busy thread of gunicorn stays with its connection, so one connection may need far more taps than another.
        Contender(
            "flask", "Flask + gunicorn + pycryptodome + psycopg", PEER_DATABASE, SCAN_ANSWERS, 60_000,
            _flask(flask_python or sys.executable), database_audit.of_peer,
        ),
    )  # fmt: skip
    return {contender.name: contender for contender in contenders}


def flask_is_absent(interpreter: str | None) -> str | None:
    """Why the Flask peer cannot run, or None."""
    if interpreter is None:
        missing = [name for name in _FLASK_NEEDS if importlib.util.find_spec(name) is None]
    else:
        program = f"import importlib.util as u; print(*[n for n in {_FLASK_NEEDS} if u.find_spec(n) is None])"
        missing = subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    return f"the Flask peer is skipped: {', '.join(missing)} not installed" if missing else None
