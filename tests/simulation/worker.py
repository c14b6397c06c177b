"""A worker made of the real classes, on a simulated process, link and transport.

A control replaces one of the class attributes of `Worker`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import orjson

from ixfast.domain.scan import Scan
from ixfast.errors import InputError, UnavailableError
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.front_door import FrontDoor
from ixfast.http.server_state import ServerState
from ixfast.http.v2_scans import Caller, ScanBody
from ixfast.http.v2_scans import run as run_v2
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.responses import bodies
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.catalogue.change_follower import ChangeFollower
from ixfast.store.connections.database_clock import DatabaseClock
from ixfast.store.connections.history import History
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import LedgerDatabase as LedgerDatabaseProtocol

from . import fleet
from .adapters import ChangeSource, LedgerDatabase, Pool
from .database import Cluster
from .loop import Process, SimulatedLoop
from .network import Link, Network
from .operations import Operation

DEADLINE_S = 1.5
POLL_INTERVAL_S = 1.0
DRAIN_ROUNDS = 40
EPOCH = 1.7e9
"""Unix time at the start of a run, by a correct clock."""

_asking: ContextVar[Operation | None] = ContextVar("asking", default=None)
Answer = Callable[[Operation, str, str | None, dict[str, Any] | None], None]


class _Transport:
    """The worker's end of a caller's connection."""

    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._closing = False

    def write(self, response: bytes) -> None:
        self._answer(response)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("192.0.2.1", 1) if name == "peername" else None

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Worker:
    """One worker process from start to end. A restart creates another one with the same name."""

    groups = 1
    catalogue_kind: Callable[..., Any] = Catalogue
    ledger_kind: Callable[..., Any] = Ledger
    database_kind: Callable[[Link, Pool], Any] = LedgerDatabase
    source_kind: Callable[[Link, Pool], Any] = ChangeSource
    follower_kind: Callable[..., Any] = ChangeFollower
    clock_kind: Callable[..., Any] = DatabaseClock

    def __init__(self, loop: SimulatedLoop, network: Network, cluster: Cluster, name: str, chance: random.Random) -> None:
        self.name = name
        self.loop = loop
        self.process = Process(loop, name)
        self.link = Link(network, cluster, self.process)
        self._scan_ids = chance
        self.process.run(self._start)

    def _start(self) -> None:
        gauges = self.meters = Meters()
        pool = Pool(self.link)
        self.database: LedgerDatabaseProtocol = self.database_kind(self.link, pool)
        clock = self.clock_kind(gauges, moment=self.loop.time, host_clock=lambda: EPOCH + self.loop.time())
        history = History()
        self.catalogue = self.catalogue_kind(
            pool, fleet.keks(), gauges, tags_max=1000, absent_max=1000, deadline_s=DEADLINE_S
        )  # the real loader, on simulated rows
        self.engine = Engine(self.catalogue, gauges, clock.is_past)
        self.ledger = self.ledger_kind(
            self.database,
            self.engine.settled,
            gauges,
            clock=clock,
            history=history,
            groups=self.groups,
            deadline_s=DEADLINE_S,
        )
        self.engine.use(self.ledger)
        self.ledger.start()
        self.follower = self.follower_kind(
            self.source_kind(self.link, pool),
            self.catalogue,
            gauges,
            clock=clock,
            history=history,
            poll_interval_s=POLL_INTERVAL_S,
        )
        self.follower.start()
        self.dispatcher = ScanDispatcher(self.engine, self.catalogue, gauges, self.loop)
        self.dispatcher.next_scan_id = self._next_scan_id
        self.server_state = ServerState(
            self.dispatcher, connections_max=10_000, idle_timeout_s=1e9, moment=self.dispatcher.loop.time
        )

    def _next_scan_id(self) -> int:
        scan_id = self._scan_ids.getrandbits(62)
        operation = _asking.get()
        if operation is not None:
            operation.scan_ids.append(scan_id)
        return scan_id

    def ask(self, operation: Operation, answer: Answer) -> None:
        """Receive a request on a connection of its own."""
        if self.server_state.draining:
            return  # the listener is closed
        _asking.set(operation)
        if operation.v2:
            asyncio.get_running_loop().create_task(self._ask_v2(operation, answer))
        else:
            self._ask_v1(operation, answer)

    def _ask_v1(self, operation: Operation, answer: Answer) -> None:
        connection: Any = FrontDoor(self.server_state, _no_handler)

        def written(response: bytes) -> None:
            answer(operation, *read_v1(response, is_plain=operation.position < 0))
            self.loop.call_soon(connection.connection_lost, None)

        connection.connection_made(_Transport(written))
        connection.data_received(v1_request(operation))

    async def _ask_v2(self, operation: Operation, answer: Answer) -> None:
        try:
            scan = await self._run_v2(operation)
        except InputError as error:
            answer(operation, _WORDS[error.code], None, None)
        except UnavailableError as error:
            answer(operation, _WORDS[error.code], error.reason, None)
        else:
            answer(operation, *read_v2(scan))

    async def _run_v2(self, operation: Operation) -> Scan:
        """Run the request as the application's handler does."""
        api_key = None
        if operation.api_key_id is not None:
            api_key = await self.dispatcher.api_key(fleet.API_KEYS[operation.api_key_id])
            obstacle = self.engine.obstacle(api_key)
            if obstacle is not None:
                code, reason = obstacle
                raise InputError(code, "") if reason is None else UnavailableError(code, reason)
        body = ScanBody(xuid=fleet.xuid(operation.tag_id))
        if operation.position >= 0:
            body.counter = operation.counter
            body.code = _mac(operation)
        scan = await run_v2(
            self.dispatcher, body, Caller(api_key, "192.0.2.1"), peek=operation.peek, idempotency_key=operation.key
        )
        if operation.key is not None:
            operation.scan_ids.append(scan.scan_id)
        return scan

    async def stop(self) -> None:
        """Shut down gracefully, as after SIGTERM."""
        self.server_state.begin_draining()
        for _ in range(DRAIN_ROUNDS):
            if self.ledger.idle and self.catalogue.idle:
                break
            await asyncio.sleep(0.05)
        self.server_state.close()
        await self.follower.stop()
        await self.ledger.stop()

    def kill(self) -> None:
        self.process.kill()
        for connection in list(self.link.connections):
            connection.terminate()


def _no_handler() -> asyncio.Protocol:
    raise AssertionError("a request of the simulation was handed over to aiohttp")


def _mac(operation: Operation) -> str:
    return fleet.mac(operation.tag_id, operation.version, operation.counter).hex().upper()


def v1_request(operation: Operation) -> bytes:
    query = f"x={fleet.xuid(operation.tag_id)}"
    if operation.position >= 0:
        query += f"&n={operation.counter:06X}&e={_mac(operation)}"
    token = f"X-API-Key: {fleet.API_KEYS[operation.api_key_id]}\r\n" if operation.api_key_id is not None else ""
    return f"GET /v1/t?{query} HTTP/1.1\r\nHost: tap.example\r\n{token}\r\n".encode()


_WORDS = {
    "tg_inactive": "inactive", "batch_inactive": "inactive", "folder_inactive": "inactive", "tag_inactive": "inactive",
    "not_found": "unknown tag", "unauthorised": "unauthorised", "idempotency_conflict": "conflict",
    "overloaded": "unavailable", "unavailable": "unavailable", "draining": "unavailable", "outcome_unknown": "outcome unknown",
    "genuine": "passed", "plain": "passed", "repeat": "repeat", "replayed": "replayed", "forged": "forged",
}  # fmt: skip


def read_v1(response: bytes, *, is_plain: bool) -> tuple[str, str | None, None]:
    """The judge's term for a response, and the reason that the response gives."""
    head, _, body = response.partition(b"\r\n\r\n")
    members = orjson.loads(body)
    if "error" in members:
        return _WORDS[members["error"]], members.get("reason"), None
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"a response without an error is not 200: {head!r}")
    return ("passed" if is_plain or members["response"] == "Pass" else "refused"), None, None


def read_v2(scan: Scan) -> tuple[str, str | None, dict[str, Any] | None]:
    if scan.error is not None:
        return _WORDS[scan.error], scan.error_detail, None
    body = bodies.v2_scan(scan)
    return _WORDS[body["verdict"]], body["reason"], body
