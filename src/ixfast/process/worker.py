"""A worker: one process with one event loop, stateless but for its caches.

Started by the supervisor, which hands it its listening sockets, the workers' shared memory and its settings by file descriptor:
so a killed worker's connections wait in the socket for its successor, and no secret stands in an environment or an argument list.
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
import ssl
import sys
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from ixfast import limits, meters
from ixfast.config.settings import Settings
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.front_door import FrontDoor, ServerState
from ixfast.http.private_app import make_private_app
from ixfast.http.rate_limits import MEMORY_BYTES, Limiter
from ixfast.http.request_handler import handlers
from ixfast.http.scan_app import make_scan_app
from ixfast.keys import KeyReloader
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.enrolment import Enrolment
from ixfast.process import hardening, logs
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
from ixfast.store.db_errors import db_error_kind, reason_of
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase

log = logging.getLogger("ixfast.worker")

_BACKLOG = 4096
_CATALOGUE_WAIT_S = 1.0
_HEARTBEAT_S = 0.5
_UPKEEP_S = 3600.0
_UPKEEP_RETRY_S = 30.0
_DRAIN_IDLE_S = 0.5  # A connection this long without a request while draining has none on its way.
_PR_SET_PDEATHSIG = 1


class Inheritance(msgspec.Struct):
    """What the supervisor hands a worker, as JSON on a file descriptor. The other members are descriptors."""

    settings: Settings
    dsn: str
    kek_file: str
    worker: int
    workers: int
    public: int
    private: int
    meters: int
    rates: int

    def encode(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=str)  # paths are the only values that JSON has no word for

    @classmethod
    def decode(cls, encoded: bytes) -> Inheritance:
        return msgspec.json.decode(encoded, type=cls, dec_hook=lambda kind, value: kind(value))


class Worker:
    """Builds the rooms from the database to the sockets, and takes them down in the opposite order."""

    def __init__(self, inheritance: Inheritance) -> None:
        self._inheritance = inheritance
        self._settings = inheritance.settings
        self._loop = asyncio.get_running_loop()
        shared = mmap.mmap(inheritance.meters, inheritance.workers * meters.REGION_BYTES)
        self.meters = meters.Meters(shared, inheritance.worker)
        self.meters.reset()
        self._leaving = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the sockets. Neither the database nor a provider of keys need be there yet: until they are, scans are 503
        and readiness says why."""
        settings, dsn = self._settings, self._inheritance.dsn
        self._open_addresses()
        deadline_s = settings.deadline_ms / 1000
        self.key_reloader = KeyReloader(Path(self._inheritance.kek_file), self.meters)
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
        self.fitness = Fitness(self._pool, self.key_reloader.keys, self.ledger)
        limiter = Limiter(
            mmap.mmap(self._inheritance.rates, MEMORY_BYTES),
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
        await self._open_doors()
        self._tasks = [self._loop.create_task(work) for work in (self._beat(), self._upkeep(), self.fitness.keep())]

    def _open_addresses(self) -> None:
        """Serve without what tells countries rather than not at all: rules that ask for one do not match then."""
        reason = visitors.open_addresses(self._settings.addresses_file)
        if reason is not None:
            log.error("addresses_file: %s", reason)

    def reload(self) -> None:
        """Read the files again that may have been replaced."""
        self.key_reloader.reload()
        self._open_addresses()

    async def _await_catalogue(self) -> None:
        """Let the first connections wait in their sockets for a moment rather than answer them that we are starting."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CATALOGUE_WAIT_S):
                await self._follower.heard.wait()

    async def _open_doors(self) -> None:
        settings, inheritance = self._settings, self._inheritance
        self._scans, make_handler = await handlers(make_scan_app(self.dispatcher), settings.idle_timeout_s)
        private_app = make_private_app(self.meters, self.readiness, self._pool, self.key_reloader.keys, self._clock.is_past)
        self._private, make_private = await handlers(private_app, settings.idle_timeout_s)
        self.server_state = ServerState(
            self.dispatcher,
            make_handler,
            connections_max=settings.max_connections,
            idle_timeout_s=settings.idle_timeout_s,
            trace_every=settings.trace_every,
            deadline_s=settings.deadline_ms / 1000,
        )
        tls = None
        if settings.tls_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(settings.tls_cert, settings.tls_key)
        server_state = self.server_state
        for factory, descriptor, context in (
            (lambda: cast(asyncio.Protocol, FrontDoor(server_state)), inheritance.public, tls),
            (make_private, inheritance.private, None),
        ):
            listener = socket.socket(fileno=descriptor)
            handshake_s = limits.REQUEST_HEAD_S if context is not None else None
            server = await self._loop.create_server(
                factory, sock=listener, backlog=_BACKLOG, ssl=context, ssl_handshake_timeout=handshake_s
            )
            self._servers.append(server)

    async def readiness(self) -> dict[str, str]:
        """What is not ready, and why."""
        problems = self._known_problems()
        try:
            async with session.pooled_connection(self._pool, 1.0) as connection:
                await connection.fetchval("SELECT 1")
        except Exception as error:  # every kind that an unreachable database can raise
            problems["database"] = reason_of(error)
        return problems

    def _known_problems(self) -> dict[str, str]:
        """What is known to stand in the way of scans, without asking anybody."""
        problems = dict(self.fitness.problems)
        if self._leaving.is_set():
            problems["worker"] = "draining"
        if self.catalogue.stale is not None:
            problems["catalogue"] = self.catalogue.stale
        if not self.key_reloader.ready:
            problems["keys"] = "key_unavailable"
        if self.ledger.trouble is not None:
            problems["ledger"] = self.ledger.trouble
        return problems

    def leave(self) -> None:
        """Begin to drain."""
        self._leaving.set()

    async def run(self) -> None:
        await self._leaving.wait()
        log.info("draining")
        self.meters.slots[meters.READY] = 0
        await asyncio.sleep(self._settings.drain_delay_ms / 1000)
        public = self._servers[0]
        await asyncio.sleep(0)  # what is in the accept queue is taken before the socket closes
        public.close()
        self.dispatcher.draining = True
        await self._drain()
        await self.stop()

    async def _drain(self) -> None:
        """Answer what is asked, tell each connection to go, and close those that ask nothing more."""
        until = self._loop.time() + self._settings.drain_timeout_ms / 1000
        while self._loop.time() < until and (self.server_state.connections or not self.ledger.idle):
            self.server_state.close_idle(self._loop.time() - _DRAIN_IDLE_S)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.server_state.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        """Show that the loop turns. A first collection of garbage done, what start-up made is never looked at again."""
        gc.collect()
        gc.freeze()
        while True:
            self.meters.slots[meters.HEARTBEAT] = int(self._loop.time())
            self.meters.slots[meters.READY] = int(not self._known_problems())
            logs.write_repeats()
            await asyncio.sleep(_HEARTBEAT_S)

    async def _upkeep(self) -> None:
        """Partitions ahead, and no older than the retention; every worker tries, the database's lock lets one do it.

        At once and then every hour: a server that is restarted daily would otherwise never get to it. What failed is tried again
        soon, because it may be about the current partition; and that this one is missing is found out sooner than in an hour.
        """
        while True:
            failed = True
            self.fitness.lacks_partition.clear()
            try:
                connection = await session.connect(self._inheritance.dsn, statement_timeout="0", lock_timeout="5000")
                try:
                    changes = await partitions.make_ahead(connection)
                    if self._clock.agree(partitions.CLOCKS_APART_MAX.total_seconds()):
                        await partitions.drop_old(connection, self._settings.scan_log_retention_days)
                    else:
                        log.error("no partition of the scan log is dropped: a clock was stepped since this worker started")
                    failed = any(change.problem is not None for change in changes)
                finally:
                    await connection.close()
            except Exception as error:
                log.warning("upkeep of the scan log failed: %s", db_error_kind(error).value)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UPKEEP_S):
                    await asyncio.sleep(_UPKEEP_RETRY_S)
                    if not failed:
                        await self.fitness.lacks_partition.wait()


def _die_with(parent: int) -> None:
    """Without a supervisor nobody would restart, drain or stop this worker."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


async def _main(inheritance: Inheritance) -> None:
    worker = Worker(inheritance)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.leave)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal's; the supervisor decides
    await worker.start()
    loop.add_signal_handler(signal.SIGHUP, worker.reload)
    await worker.run()


def main() -> None:
    """`python -m ixfast.process.worker DESCRIPTOR PARENT`: the supervisor's way to start a worker."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload; ending is SIGTERM's
    hardening.forbid_core_dumps()
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        inheritance = Inheritance.decode(file.read())
    logs.configure(inheritance.settings, f"worker {inheritance.worker}")
    uvloop.run(_main(inheritance))


if __name__ == "__main__":
    main()
