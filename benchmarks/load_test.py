"""A load test: a contender that serves a fresh database, a connected generator, and an audit of the database afterwards.

It is the drive loop that the benchmarks share. What is sent and measured in between is theirs: they use `load` inside the
`with` block, and find the audit in `audit` behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks import database_audit
from benchmarks.contenders import Contender, Running
from benchmarks.experiment import Size
from benchmarks.load.drive import Load, Result
from benchmarks.load.traffic import Traffic
from benchmarks.processes import cpu_s, socket_path
from benchmarks.testbed import Testbed
from ixfast.embedded import free_port

_SPARE = 1.5  # More is prepared than is sent, because connections do not alternate exactly.
_SPARE_PER_CONNECTION = 20


@dataclass
class LoadTest:
    """`dsn` is None for a contender without a database."""

    testbed: Testbed
    dsn: str | None
    running: Running
    load: Load
    audit: database_audit.Audit = field(default_factory=database_audit.nothing)  # of the whole test, available after the block

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds of the contender and of PostgreSQL so far."""
        return cpu_s(self.running.processes.pids), cpu_s(self.testbed.postgres_pids)

    def open(self, rate_per_s: float, seconds: float, *, poisson: bool = False) -> Result:
        """Prepare enough requests for an open loop and run it."""
        self.load.prepare(int(rate_per_s * seconds * _SPARE) + _SPARE_PER_CONNECTION * self.load.traffic.plans)
        return self.load.open(rate_per_s, seconds, poisson=poisson)


@contextlib.contextmanager
def load_test(testbed: Testbed, contender: Contender, size: Size) -> Iterator[LoadTest]:
    """A load test over a fresh copy of the contender's database."""
    with contextlib.ExitStack() as database:
        dsn = None
        if contender.template is not None:
            dsn = database.enter_context(testbed.database(contender.template))
        with serving(testbed, contender, dsn, size) as (running, load):
            test = LoadTest(testbed, dsn, running, load)
            yield test
            held = load.finish()
        check = contender.audit
        if dsn is not None and check is not None:
            test.audit = testbed.run(dsn, lambda connection: check(connection, testbed.traffic, held))


@contextlib.contextmanager
def serving(
    testbed: Testbed, contender: Contender, dsn: str | None, size: Size, traffic: Traffic | None = None
) -> Iterator[tuple[Running, Load]]:
    """A contender over a database, and a generator connected to it. Raises `ContenderError` if the contender has ended."""
    port = free_port()
    with contender.serve(testbed, dsn, port, size.workers) as running:
        headers = contender.headers(testbed)
        with Load(
            traffic or testbed.traffic,
            port,
            contender.expected,
            processes=size.processes,
            headers=headers,
            socket_path=socket_path(port) if contender.unix else None,
        ) as load:
            load.connect()
            yield running, load
        running.processes.check()
