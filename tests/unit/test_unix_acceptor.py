"""How workers share the connections of one Unix socket, and what they do when they cannot accept."""

import asyncio
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from support import eventually

from ixfast import meters
from ixfast.process import unix_acceptor
from ixfast.process.unix_acceptor import UnixAcceptor
from ixfast.process.unix_socket import UnixSocket

NEVER_S = 3600.0
TURNS = 200


class CountingListener(socket.socket):
    attempts = 0

    def accept(self) -> Any:
        type(self).attempts += 1
        return super().accept()


class Worker:
    """An acceptor with what it has accepted. All are in one event loop, whose iterations are therefore those of every worker."""

    def __init__(self, made: UnixSocket, workers: list[meters.Meters], own: int) -> None:
        self._listener = CountingListener(fileno=os.dup(made.listener.fileno()))
        self.slots = workers[own].slots
        self.slots[meters.READY] = 1
        self.transports: list[asyncio.BaseTransport] = []
        self.acceptor = UnixAcceptor(self._listener, self._protocol, workers, own)

    def _protocol(self) -> asyncio.Protocol:
        worker = self

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                worker.transports.append(transport)
                worker.slots[meters.CONNECTIONS] += 1

        return Accepted()

    async def stop(self) -> None:
        if self._listener.fileno() >= 0:
            await self.acceptor.close()
        for transport in self.transports:
            transport.close()


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = UnixSocket(path)
        self._made.listener.listen(100)
        self._meters = [meters.Meters() for _ in range(2)]
        self.workers = [Worker(self._made, self._meters, own) for own in range(2)]
        self._clients: list[socket.socket] = []

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.socket(socket.AF_UNIX)
            self._clients.append(client)
            client.connect(str(self.path))

    def accepted(self) -> list[int]:
        return [len(worker.transports) for worker in self.workers]

    async def stop(self) -> None:
        for worker in self.workers:
            await worker.stop()
        for client in self._clients:
            client.close()
        self._made.remove()
        await asyncio.sleep(0)


@pytest.fixture
async def bench(open_scratch: Path, tmp_path: Path) -> Any:
    CountingListener.attempts = 0
    made = Bench(open_scratch / f"{tmp_path.name[-12:]}.sock")
    yield made
    await made.stop()


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def test_a_burst_is_shared_by_all_workers(bench: Bench) -> None:
    """Each accepts one connection per iteration. A worker that accepted all that wait would leave nothing to the other."""
    bench.connect(40)
    for worker in bench.workers:
        worker.acceptor.start(100)
    await eventually(lambda: sum(bench.accepted()) == 40)
    assert min(bench.accepted()) >= 15, bench.accepted()


async def test_a_worker_with_more_connections_leaves_the_next_ones_to_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_acceptor, "_TURN_S", NEVER_S)
    ahead, behind = bench.workers
    ahead.slots[meters.CONNECTIONS] = 5
    ahead.acceptor.start(100)
    bench.connect(3)
    await turns()
    assert bench.accepted() == [0, 0]
    behind.acceptor.start(100)
    await eventually(lambda: bench.accepted() == [0, 3])


@pytest.mark.parametrize(
    ("own", "other", "ready", "waits"),
    [(4, 0, 1, False), (5, 0, 1, True), (90, 80, 1, False), (90, 78, 1, True), (90, 0, 0, False), (0, 90, 1, False)],
)
async def test_when_a_worker_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, own: int, other: int, ready: int, waits: bool
) -> None:
    """Not for a worker that is not ready, and not for a small difference."""
    monkeypatch.setattr(unix_acceptor, "_TURN_S", NEVER_S)
    one, two = bench.workers
    one.slots[meters.CONNECTIONS], two.slots[meters.CONNECTIONS], two.slots[meters.READY] = own, other, ready
    one.acceptor.start(100)
    bench.connect(1)
    await turns()
    assert bench.accepted() == [0 if waits else 1, 0]


async def test_what_the_other_does_not_take_is_accepted_after_all(bench: Bench) -> None:
    """The other worker hangs."""
    ahead, _ = bench.workers
    ahead.slots[meters.CONNECTIONS] = 50
    ahead.acceptor.start(100)
    bench.connect(5)
    await eventually(lambda: bench.accepted() == [5, 0])


def forbid_files() -> tuple[int, int]:
    """From now on this process cannot open any more files; returns the limits before."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    return before


async def test_an_error_does_not_keep_the_loop_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unix_acceptor, "_RETRY_S", NEVER_S)
    bench.connect(1)
    bench.workers[0].acceptor.start(100)
    limits = forbid_files()
    try:
        await turns()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (CountingListener.attempts, bench.accepted()) == (1, [0, 0])
    assert caplog.messages == ["unix_socket: cannot accept a connection: Too many open files"]


async def test_after_an_error_connections_are_accepted_again(bench: Bench) -> None:
    bench.connect(3)
    bench.workers[0].acceptor.start(100)
    limits = forbid_files()
    try:
        await eventually(lambda: CountingListener.attempts >= 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert bench.accepted() == [0, 0]
    await eventually(lambda: bench.accepted() == [3, 0])


@pytest.mark.parametrize("own", [0, 50])
async def test_closing_accepts_what_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch, own: int) -> None:
    """Also if the worker has left it to another one."""
    monkeypatch.setattr(unix_acceptor, "_TURN_S", NEVER_S)
    closing, staying = bench.workers
    closing.slots[meters.CONNECTIONS] = own
    closing.acceptor.start(100)
    bench.connect(1)
    await turns()
    bench.connect(5)
    await closing.acceptor.close()
    assert bench.accepted() == [6, 0]
    staying.acceptor.start(100)
    bench.connect(1)
    await eventually(lambda: bench.accepted() == [6, 1])


async def test_closing_while_nothing_can_be_accepted(bench: Bench) -> None:
    closing, staying = bench.workers
    closing.acceptor.start(100)
    bench.connect(2)
    limits = forbid_files()
    try:
        await closing.acceptor.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    staying.acceptor.start(100)
    await eventually(lambda: bench.accepted() == [0, 2])
