"""A worker: one process with one event loop that serves scans and management, with no state but its caches.

The supervisor passes the listening sockets, the workers' shared memory and the settings as file descriptors. The
connections of a killed worker therefore wait in the socket for its successor, and no secret appears in an environment or an
argument list.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

import uvloop

from ixfast import limits, meters
from ixfast.errors import ConfigurationError
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.front_door import FrontDoor
from ixfast.http.late_handlers import LateHandlers
from ixfast.http.rate_limits import MEMORY_BYTES, Limiter
from ixfast.http.server_state import ServerState
from ixfast.keys import KeyReloader
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.enrolment import Enrolment
from ixfast.process import hardening, logs
from ixfast.process.process_meters import ProcessMeters
from ixfast.process.tls import Certificate
from ixfast.process.unix_acceptor import UnixAcceptor
from ixfast.process.worker_config import WorkerConfig
from ixfast.rules import visitors
from ixfast.store import partitions
from ixfast.store.admin.enrolled_tags import TagRegister
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.catalogue.change_follower import ChangeFollower
from ixfast.store.catalogue.change_source import PostgresChangeSource
from ixfast.store.connections import session
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.fitness import Fitness
from ixfast.store.connections.history import History
from ixfast.store.connections.outages import Outage
from ixfast.store.db_errors import db_error_kind, reason_of
from ixfast.store.key_holders import KeyAnnouncer
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase

log = logging.getLogger("ixfast.worker")

_BACKLOG = 4096
_CATALOGUE_WAIT_S = 1.0
_HEARTBEAT_S = 0.5
_UPKEEP_S = 3600.0
_UPKEEP_RETRY_S = 30.0
_DRAIN_IDLE_S = 0.5  # While draining, a connection is closed after this long without a request.
_PR_SET_PDEATHSIG = 1


class Worker:
    """Assembles a worker from the database connections up to the sockets, and takes it down in the reverse order."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._settings = config.settings
        self._loop = asyncio.get_running_loop()
        shared = mmap.mmap(config.meters, config.workers * meters.REGION_BYTES)
        self._all_meters = [meters.Meters(shared, index) for index in range(config.workers)]
        self.meters = self._all_meters[config.worker]
        self.meters.reset()
        self._stopping = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._unix: UnixAcceptor | None = None
        self._certificates: list[Certificate] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the sockets. The database and the key providers may still be unreachable: until they answer, scans get 503 and
        readiness reports the reason."""
        settings, dsn = self._settings, self._config.dsn
        self._open_addresses()
        deadline_s = settings.deadline_ms / 1000
        self.key_reloader = KeyReloader(Path(self._config.kek_file), self.meters)
        await self.key_reloader.start()
        self._clock = clock = DatabaseClock(self.meters, moment=self._loop.time)
        history = History()
        self._pool = await session.make_pool(dsn, settings.pool_size, check_history=history.check_not_behind)
        self.catalogue = Catalogue(
            self._pool,
            self.key_reloader.keys,
            self.meters,
            tags_max=settings.cache_tags,
            absent_max=settings.negative_cache,
            deadline_s=deadline_s,
        )
        self.key_reloader.changed = self.catalogue.keys_opened
        engine = Engine(self.catalogue, self.meters, self._clock.is_past)
        self.ledger = Ledger(
            PostgresLedgerDatabase(dsn, self._pool),
            engine.settled,
            self.meters,
            clock=clock,
            history=history,
            groups=settings.committers,
            batch_max=settings.ledger_batch_max,
            queue_max=settings.ledger_queue_max,
            wait_max_s=settings.ledger_wait_max_ms / 1000,
            deadline_s=deadline_s,
        )
        engine.use(self.ledger)
        register = TagRegister(self._pool, self.meters, deadline_s=deadline_s)
        engine.enrol_by(Enrolment(engine, self.catalogue, register).takes)
        self.ledger.start()
        self._follower = ChangeFollower(
            PostgresChangeSource(dsn, self._pool),
            self.catalogue,
            self.meters,
            clock=clock,
            history=history,
            poll_interval_s=settings.poll_interval_ms / 1000,
        )
        self._follower.start()
        self._announcer = KeyAnnouncer(
            self._pool,
            self.key_reloader.keys,
            server=self._config.server,
            worker=self._config.worker,
            key_file=Path(self._config.kek_file),
        )
        self.key_reloader.adopted = self._announcer.changed
        self.fitness = Fitness(self._pool, self.key_reloader.keys, self.ledger)
        limiter = Limiter(
            mmap.mmap(self._config.rates, MEMORY_BYTES),
            per_key=settings.rate_limit_key,
            per_address=settings.rate_limit_address,
        )
        self.dispatcher = ScanDispatcher(
            engine,
            self.catalogue,
            self.meters,
            self._loop,
            limiter if limiter.active else None,
            trust_forwarded_for=settings.trust_forwarded_for,
        )
        await self._await_catalogue()
        await self._open_public()
        await self._open_private()
        tasks = (self._beat(), self._maintain_partitions(), self.fitness.run(), self._announcer.run())
        self._tasks = [self._loop.create_task(work) for work in tasks]

    def _open_addresses(self) -> None:
        """Open the file of addresses. Without a usable one the worker still serves; rules that ask for a country do not match."""
        reason = visitors.open_addresses(self._settings.addresses_file)
        if reason is not None:
            log.error("addresses_file: %s", reason)

    def reload(self) -> None:
        """Reload the key file, the file of addresses and the certificates, which may have been replaced."""
        self.key_reloader.reload()
        self._open_addresses()
        for certificate in self._certificates:
            try:
                certificate.reload()
                log.info("loaded the certificate of %s", certificate.name)
            except ConfigurationError as error:
                log.error("keeping the previous certificate of %s: %s", certificate.name, error, extra={"about": str(error)})

    async def _await_catalogue(self) -> None:
        """Wait briefly for the catalogue, so that the first connections wait in their sockets rather than get a 503."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATALOGUE_WAIT_S):
                await self._follower.usable.wait()

    async def _open_public(self) -> None:
        """Serve hot requests. All others wait until `_open_private` has loaded what serves them."""
        settings = self._settings
        self.server_state = server_state = ServerState(
            self.dispatcher,
            connections_max=settings.max_connections,
            idle_timeout_s=settings.idle_timeout_s,
            trace_every=settings.trace_every,
            deadline_s=settings.deadline_ms / 1000,
        )
        self._late = late = LateHandlers()

        def factory() -> asyncio.Protocol:
            return cast(asyncio.Protocol, FrontDoor(server_state, late.make))

        await self._listen(factory, self._config.public, Certificate.public(settings))
        if self._config.unix >= 0:
            listener = socket.socket(fileno=self._config.unix)
            self._unix = UnixAcceptor(listener, factory, self._all_meters, self._config.worker)
            self._unix.start(_BACKLOG)

    async def _open_private(self) -> None:
        """Load the applications on aiohttp, which takes longer than all else before the first scan, and serve everything."""
        idle_timeout_s = self._settings.idle_timeout_s
        # In a thread, so that scans are answered in the meantime.
        apps = await asyncio.to_thread(import_module, "ixfast.process.worker_apps")
        self._scans, make_handler = await apps.scan_handlers(self.server_state, idle_timeout_s)
        self._private, make_private = await apps.private_handlers(
            self.meters, self.readiness, self._pool, self.key_reloader.keys, self._clock.is_past, idle_timeout_s
        )
        self._late.open(make_handler)
        await self._listen(make_private, self._config.private, Certificate.private(self._settings))

    async def _listen(self, factory: Callable[[], asyncio.Protocol], descriptor: int, certificate: Certificate | None) -> None:
        server = await self._loop.create_server(
            factory,
            sock=socket.socket(fileno=descriptor),
            backlog=_BACKLOG,
            ssl=certificate.context if certificate is not None else None,
            ssl_handshake_timeout=limits.REQUEST_HEAD_S if certificate is not None else None,
        )
        self._servers.append(server)
        if certificate is not None:
            self._certificates.append(certificate)

    async def readiness(self) -> dict[str, str]:
        """The parts that are not ready with the reason for each; empty if the worker is ready. Queries the database."""
        problems = self._known_problems()
        try:
            async with session.pooled_connection(self._pool, 1.0) as connection:
                await connection.fetchval("SELECT 1")
        except Exception as error:  # an unreachable database raises many types of errors
            problems["database"] = reason_of(error)
        return problems

    def _known_problems(self) -> dict[str, str]:
        """Like `readiness`, but from the worker's own state alone."""
        problems = dict(self.fitness.problems)
        if self._stopping.is_set():
            problems["worker"] = "draining"
        if self.catalogue.stale is not None:
            problems["catalogue"] = self.catalogue.stale
        if not self.key_reloader.ready:
            problems["keys"] = "key_unavailable"
        if self.ledger.failure is not None:
            problems["ledger"] = self.ledger.failure
        return problems

    def begin_drain(self) -> None:
        """Make `run` drain and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `begin_drain` is called, then drain and stop."""
        await self._stopping.wait()
        log.info("draining")
        self.meters.slots[meters.READY] = 0
        await asyncio.sleep(self._settings.drain_delay_ms / 1000)
        public = self._servers[0]
        await asyncio.sleep(0)  # accept the connections in the queue before the socket closes
        public.close()
        if self._unix is not None:
            await self._unix.close()
        self.server_state.begin_draining()
        await self._drain()
        await self.stop()

    async def _drain(self) -> None:
        """Answer the requests under way, ask each client to close its connection, and close idle ones."""
        until = self._loop.time() + self._settings.drain_timeout_ms / 1000
        while self._loop.time() < until and (self.server_state.connections or not self.ledger.idle):
            self.server_state.close_idle(self._loop.time() - _DRAIN_IDLE_S)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Close everything at once, in the reverse order of `start`."""
        self.server_state.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._announcer.withdraw()
        await self._follower.stop()
        await self.key_reloader.stop()
        await self.ledger.stop()
        await self._scans.cleanup()
        await self._private.cleanup()
        for server in self._servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._pool.close()

    async def _beat(self) -> None:
        """Write the heartbeat and readiness to the shared memory. Objects made at start-up are collected once and then frozen,
        so that later collections skip them."""
        gc.collect()
        gc.freeze()
        process = ProcessMeters(self.meters.slots)
        while True:
            process.update(self._loop.time())
            self.meters.slots[meters.HEARTBEAT] = int(self._loop.time())
            self.meters.slots[meters.READY] = int(not self._known_problems())
            logs.write_repeats()
            await asyncio.sleep(_HEARTBEAT_S)

    async def _maintain_partitions(self) -> None:
        """Create partitions ahead and drop those beyond the retention. Every worker tries; a lock in the database admits one.

        Runs at once and then hourly: a server that is restarted daily would otherwise never do it. A failure may concern the
        current partition, so it is retried after `_UPKEEP_RETRY_S`; a missing current partition triggers a run, too.
        """
        outage = Outage(log, "partitions are maintained", self._loop.time)
        while True:
            failed = True
            self.fitness.lacks_partition.clear()
            try:
                connection = await session.connect(self._config.dsn, statement_timeout="0", lock_timeout="5000")
                try:
                    changes = await partitions.make_ahead(connection)
                    if self._clock.agree(partitions.CLOCKS_APART_MAX.total_seconds()):
                        await partitions.drop_old(connection, self._settings.scan_log_retention_days)
                    else:
                        log.error("kept old partitions: a clock was stepped after this worker started")
                    failed = any(change.problem is not None and change.ours for change in changes)
                finally:
                    await connection.close()
            except Exception as error:
                reason = str(error) if isinstance(error, ConfigurationError) else db_error_kind(error).value
                log.warning("could not maintain partitions: %s", reason)
                outage.begin()
            if not failed:
                outage.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_S):
                    await asyncio.sleep(_UPKEEP_RETRY_S)
                    if not failed:
                        await self.fitness.lacks_partition.wait()


def _exit_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the supervisor dies: an orphaned worker would never be restarted, drained or stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


async def _main(config: WorkerConfig) -> None:
    worker = Worker(config)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.begin_drain)
    await worker.start()
    loop.add_signal_handler(signal.SIGHUP, worker.reload)
    await worker.run()


def main() -> None:
    """`python -m ixfast.process.worker DESCRIPTOR PARENT`, which the supervisor runs.

    DESCRIPTOR is a pipe that delivers the `WorkerConfig`, PARENT the supervisor's process id. The pipe ends without one if the
    server cannot start.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the files are loaded
    hardening.forbid_core_dumps()
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _exit_with(parent)
    with os.fdopen(descriptor, "rb") as pipe:
        encoded = pipe.read()
    if not encoded:
        return
    config = WorkerConfig.decode(encoded)
    logs.configure(config.settings, f"worker {config.worker}")
    try:
        uvloop.run(_main(config))
    except ConfigurationError as error:  # a file was replaced since the supervisor checked it
        log.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
