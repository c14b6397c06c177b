"""Connections to the simulated database, and what can happen to a request and its reply in transit.

A request may be lost, arrive long after its connection broke, or be served although its reply never arrives. News of a broken
connection also takes time to arrive; on a silent link it never does.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from .database import Cluster, Server
from .loop import Process, SimulatedLoop

CONNECT_TIMEOUT_S = 1.0
USUAL_DELAY_S = 0.0003
Statement = Callable[[Server], Awaitable[Any]]


class Network:
    """The state of all links; probabilities are per request, delays in seconds."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self.delay_s = USUAL_DELAY_S
        self.request_loss = 0.0
        self.reply_loss = 0.0
        self.late = 0.0
        self.injected: Counter[str] = Counter()
        self._chance = chance

    def delay(self) -> float:
        return self.delay_s * (0.5 + self._chance.random()) + (
            self._chance.random() * 0.02 if self._chance.random() < 0.02 else 0.0
        )

    def fate(self) -> str:
        """What happens to the next request: it is delivered, or meets one of the faults."""
        if not (self.request_loss or self.reply_loss or self.late):
            return "delivered"
        drawn = self._chance.random()
        for kind, share in (("request lost", self.request_loss), ("reply lost", self.reply_loss), ("late", self.late)):
            if drawn < share:
                self.injected[kind] += 1
                return kind
            drawn -= share
        return "delivered"

    def lateness(self) -> float:
        return 0.05 + self._chance.random() * 3


class Link:
    """One worker's link to the database. While `silent`, nothing arrives in either direction, and neither end notices."""

    def __init__(self, network: Network, cluster: Cluster, process: Process) -> None:
        self.network = network
        self.cluster = cluster
        self.process = process
        self.silent = False
        self.connections: dict[Connection, None] = {}

    async def connect(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Connection:
        """Connect to the current primary. Raises TimeoutError, ConnectionError or a PostgreSQL error."""
        await asyncio.sleep(self.network.delay())
        server = self.cluster.primary
        if server is None and not self.silent:
            raise ConnectionRefusedError("connection refused")
        async with asyncio.timeout(timeout_s):
            if server is None or self.silent:
                await asyncio.Event().wait()
            assert server is not None
            connection = Connection(self, server)
            await connection.call(_hello)
        if self.cluster.read_only:
            connection.terminate()
            raise asyncpg.TargetServerAttributeNotMatched("no host is read-write")
        return connection

    def silence(self) -> None:
        self.silent = True

    def speak(self) -> None:
        """Reach the database again. Connections from before the silence are broken."""
        self.silent = False
        self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for connection in list(self.connections):
            connection.break_off()


class Connection:
    """The client's end of a connection. One statement at a time."""

    def __init__(self, link: Link, server: Server) -> None:
        self._link = link
        self.server = server
        self.closed = False
        self.lost: asyncio.Future[None] = link.network.loop.create_future()
        self.wake: Callable[[], None] | None = None  # called on a notification
        self._pending: asyncio.Future[Any] | None = None
        server.connections[self] = None
        link.connections[self] = None

    async def call(self, statement: Statement) -> Any:
        """Have the server run a statement. Raises ConnectionError if the connection breaks, whether or not the statement ran."""
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        if self._pending is not None:
            raise asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
        network = self._link.network
        future = self._pending = network.loop.create_future()
        fate = network.fate()
        if not self._link.silent:
            if fate == "request lost" or not self.server.alive:
                self.break_off()
            else:
                late_s = network.lateness() if fate == "late" else 0.0
                self.server.process.deliver(network.delay() + late_s, self._begin, statement, future, fate)
                if fate == "late":
                    self.break_off()
        try:
            return await future
        finally:
            self._pending = None

    def _begin(self, statement: Statement, future: asyncio.Future[Any], fate: str) -> None:
        self.server.process.spawn(self._serve(statement, future, fate))

    async def _serve(self, statement: Statement, future: asyncio.Future[Any], fate: str) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = await statement(self.server)
        except asyncpg.PostgresError as refusal:
            error = refusal
        if fate == "reply lost":
            self.break_off()
        elif not self._link.silent:
            self._link.process.deliver(self._link.network.delay(), self._answer, future, result, error)

    def _answer(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        if future.done() or self.closed:
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def notify(self) -> None:
        """Deliver a notification to the client, if it listens."""
        if self.wake is not None and not self._link.silent:
            self._link.process.deliver(self._link.network.delay(), self._woken)

    def _woken(self) -> None:
        if self.wake is not None and not self.closed:
            self.wake()

    def break_off(self) -> None:
        """Break the connection. The client notices a moment later, unless its link is silent."""
        self.server.connections.pop(self, None)
        if not self._link.silent:
            self._link.process.deliver(self._link.network.delay(), self.terminate)

    def terminate(self) -> None:
        """Close the client's end; a pending call gets ConnectionError. A statement that the server has started continues."""
        if self.closed:
            return
        self.closed = True
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(ConnectionResetError("the connection is closed"))
        self.server.connections.pop(self, None)
        self._link.connections.pop(self, None)
        if not self.lost.done():
            self.lost.set_result(None)


async def _hello(_server: Server) -> None:
    pass
