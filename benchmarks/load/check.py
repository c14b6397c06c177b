"""Cost and accuracy of the load generator. `python -m benchmarks generator`

It runs against a server that does no work, and compares with wrk where that is installed:

1. free: the server answers at once. The generator's own cost is its processor time for a request.
2. slow: the server needs 50 µs of processor time for each request. It is the bottleneck, and both must measure the same rate.
3. late: every response comes 5 ms after the request, and both must measure that latency.
4. stalled: the server stops once for 200 ms while requests are due at a fixed rate. All requests due meanwhile must show it,
   about 200 at 1,000/s. A generator that measures from the time of sending would show one for each connection.

In each case the server must have counted as many requests as the generator sent.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import disturbance
from benchmarks.load import histogram
from benchmarks.load.drive import CONSTANT_ANSWER, Load, Result
from benchmarks.load.traffic import Traffic
from benchmarks.processes import python

_SEED = 77
_SETTLE_S = 0.3
_STALL_MS = 200
_RATE_PER_S = 1000
WRK_IS_ABSENT = "wrk is not installed: the comparison is skipped"


class Size(NamedTuple):
    measure_s: float = 4.0
    connections: int = 64
    requests: int = 1_000_000


SMOKE = Size(0.4, 8, 60_000)


class Row(NamedTuple):
    server: str
    generator: str
    requests_per_s: float
    latency_us_p50: int
    latency_us_p99: int
    cpu_us: float
    counted: bool | None  # whether the server counted the same number; None if that is unknown


@contextlib.contextmanager
def constant(**options: int) -> Iterator[tuple[int, dict[str, int]]]:
    """A constant server; yields its port and a dict that has `answered` once the server has ended."""
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    counted: dict[str, int] = {}
    with subprocess.Popen(python("benchmarks.load.constant", *arguments), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline()), counted
        finally:
            server.send_signal(signal.SIGTERM)
            counted["answered"] = int(server.stdout.readline() or -1)


def own(name: str, size: Size, processes: int, **options: int) -> Row:
    with constant(**options) as (port, counted):
        traffic = Traffic(_SEED, 10 * size.connections, size.connections)
        with Load(traffic, port, CONSTANT_ANSWER, processes=processes) as load:
            load.connect()
            sent, seconds = 0, _SETTLE_S + size.measure_s
            for _ in load.prepare_enough(size.requests / seconds, seconds):
                result = load.closed(_SETTLE_S, size.measure_s)
                sent += result.sent
            flaws = result.flaws()
            load.finish()
    if flaws:
        raise RuntimeError(f"{name}: {'; '.join(flaws)}")
    times = histogram.summary(result.latency)
    label = f"own, {processes} process{'es' if processes > 1 else ''}"
    return Row(
        name, label, result.requests_per_s, times["p50_us"], times["p99_us"], result.generator_us, sent == counted["answered"]
    )


def wrk(name: str, size: Size, **options: int) -> Row:
    with constant(**options) as (port, _):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(
            [
                "wrk", "--latency", "-t1", f"-c{size.connections}", f"-d{max(1, round(size.measure_s))}s",
                f"http://127.0.0.1:{port}/v1/t?x=abcdefgh&n=000001&e=0123456789ABCDEF",
            ],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    requests = int(_found(r"(\d+) requests in", output))
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", output))
    return Row(name, "wrk, 1 thread", rate, _us(output, "50%"), _us(output, "99%"), cpu * 1e6 / requests, None)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"unexpected output of wrk:\n{text}")
    return match[1]


def _us(output: str, percentile: str) -> int:
    number, unit = _found(rf"{percentile}\s+([\d.]+\w+)", output), 1.0
    for ending, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if number.endswith(ending):
            number, unit = number.removesuffix(ending), factor
            break
    return round(float(number) * unit)


def stalled(size: Size) -> tuple[Result, int]:
    """An open loop over a server that stops once, and the number of requests that waited for half of the stall or longer."""
    seconds = max(0.8, size.measure_s / 2)
    with constant(stall_ms=_STALL_MS, stall_after=round(_RATE_PER_S * seconds / 3)) as (port, _):
        traffic = Traffic(_SEED, 10 * size.connections, size.connections)
        with Load(traffic, port, CONSTANT_ANSWER, processes=1) as load:
            load.prepare(round(2 * _RATE_PER_S * seconds) + 50 * size.connections)
            load.connect()
            result = load.open(_RATE_PER_S, seconds)
            load.finish()
    return result, _above(result.latency, _STALL_MS * 500)


def _above(latency: Any, us: int) -> int:
    return sum(item.count_added_in_this_iter_step for item in latency.get_recorded_iterator() if item.value_iterated_to > us)


def rows(size: Size, *, with_wrk: bool) -> Iterator[Row]:
    for name, options in (("free", {}), ("slow, 50 µs", {"busy_us": 50}), ("late, 5 ms", {"delay_us": 5000})):
        for processes in (1, 2):
            yield own(name, size, processes, **options)
        if with_wrk:
            yield wrk(name, size, **options)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks generator", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a size that only shows that it works")
    disturbance.add_flag(parser)
    given = parser.parse_args(arguments)
    size, watch = SMOKE if given.smoke else Size(), disturbance.watch(given)
    has_wrk = shutil.which("wrk") is not None
    print(f"{size.connections} connections, {size.measure_s:g} s each, seed {_SEED}\n")
    print("| server | generator | requests/s | p50 µs | p99 µs | generator's CPU µs per request | server counted the same |")
    print("|---|---|---:|---:|---:|---:|---|")
    accurate = True
    for row in rows(size, with_wrk=has_wrk):
        accurate = accurate and row.counted is not False
        print(
            f"| {row.server} | {row.generator} | {row.requests_per_s:,.0f} | {row.latency_us_p50:,} | {row.latency_us_p99:,} "
            f"| {row.cpu_us:.1f} | {'-' if row.counted is None else 'yes' if row.counted else 'NO'} |"
        )
    result, slow = stalled(size)
    print(
        f"\nA stall of {_STALL_MS} ms at {_RATE_PER_S}/s: {slow} of {result.answered} requests waited for half of it or longer."
    )
    if not has_wrk:
        print(WRK_IS_ABSENT)
    print(f"\n{watch.summary()}")
    return watch.status(accurate and slow >= _STALL_MS // 4)
