"""How new connections take turns, and what becomes of one whose caller has gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ixfast import limits
from ixfast.store.connections import hosts
from ixfast.store.connections.dialling import ConnectQueue, PoolDialler

PATIENCE_S = limits.CONNECT_TIMEOUT_MS / 1000
PATIENCE_S_MAX = limits.CONNECT_TIMEOUT_MS_MAX / 1000


DSN = "postgresql://u@h/x"


class Connection:
    """One that was opened."""

    def __init__(self) -> None:
        self.terminated = False

    def is_closed(self) -> bool:
        return self.terminated

    def terminate(self) -> None:
        self.terminated = True


class Server:
    """Lets an attempt succeed when a test says so."""

    def __init__(self) -> None:
        self.attempts: list[asyncio.Future[Connection]] = []

    async def connect(self, *_: Any, **__: Any) -> Connection:
        self.attempts.append(asyncio.get_running_loop().create_future())
        return await self.attempts[-1]


async def turns() -> None:
    """Let every task get as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(hosts.asyncpg, "connect", server.connect)
    return server


async def test_attempts_take_turns() -> None:
    line, server = ConnectQueue(), Server()
    calls = [asyncio.ensure_future(line.open(lambda _: server.connect())) for _ in range(3)]
    await turns()
    assert len(server.attempts) == 1
    server.attempts[0].set_exception(ConnectionRefusedError())  # one that fails passes the turn on, too
    await turns()
    assert len(server.attempts) == 2
    server.attempts[1].set_result(Connection())
    await turns()
    server.attempts[2].set_result(Connection())
    first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, ConnectionRefusedError)
    assert all(isinstance(other, Connection) for other in others)


async def test_without_turns_all_attempts_run_at_once() -> None:
    """The control: what the line is for."""
    server = Server()
    calls = [asyncio.ensure_future(server.connect()) for _ in range(3)]
    await turns()
    assert len(server.attempts) == 3
    for attempt in server.attempts:
        attempt.set_result(Connection())
    await asyncio.gather(*calls)


async def test_an_attempt_that_ran_out_of_time_gives_the_next_one_more() -> None:
    line = ConnectQueue()
    granted: list[float] = []

    async def runs_out(patience_s: float) -> None:
        granted.append(patience_s)
        raise TimeoutError

    async def refuses(patience_s: float) -> None:
        granted.append(patience_s)
        raise ConnectionRefusedError

    async def answers(patience_s: float) -> None:
        granted.append(patience_s)

    for dial in (runs_out, refuses, runs_out, runs_out, runs_out, answers, answers):
        try:
            await line.open(dial)
        except (TimeoutError, ConnectionRefusedError):
            continue
    doubled = [min(PATIENCE_S * 2**n, PATIENCE_S_MAX) for n in range(5)]
    # A refusal says nothing of the time it takes; one that was opened quickly does.
    assert granted == [doubled[0], doubled[1], doubled[1], doubled[2], doubled[3], doubled[4], PATIENCE_S]


async def left(dialler: PoolDialler) -> None:
    """Ask for a connection, and go before it is there."""
    caller = asyncio.ensure_future(dialler(DSN))
    await turns()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)


@pytest.mark.parametrize("opened_before", [False, True])
async def test_a_connection_whose_caller_has_gone_is_the_next_ones(server: Server, opened_before: bool) -> None:
    dialler, connection = PoolDialler(), Connection()
    await left(dialler)
    if opened_before:
        server.attempts[0].set_result(connection)
        await turns()
    caller = asyncio.ensure_future(dialler(DSN))
    await turns()
    if not opened_before:
        server.attempts[0].set_result(connection)
    assert await asyncio.wait_for(caller, 5) is connection
    assert len(server.attempts) == 1
    another = asyncio.ensure_future(dialler(DSN))  # it is given away once
    await turns()
    assert len(server.attempts) == 2
    another.cancel()


async def test_a_connection_that_nobody_took_in_time_is_closed(server: Server) -> None:
    dialler, old, new = PoolDialler(), Connection(), Connection()
    await left(dialler)
    server.attempts[0].set_result(old)
    await turns()
    (left_at, attempt) = dialler._abandoned.pop()
    dialler._abandoned.append((left_at - PATIENCE_S_MAX, attempt))
    caller = asyncio.ensure_future(dialler(DSN))
    await turns()
    assert old.terminated
    server.attempts[1].set_result(new)
    assert await asyncio.wait_for(caller, 5) is new


@pytest.mark.parametrize("how", ["failed", "closed"])
async def test_a_left_attempt_that_is_of_no_use_is_passed_over(server: Server, how: str) -> None:
    dialler, broken, new = PoolDialler(), Connection(), Connection()
    await left(dialler)
    if how == "failed":
        server.attempts[0].set_exception(OSError())
    else:
        server.attempts[0].set_result(broken)
        broken.terminate()
    await turns()
    caller = asyncio.ensure_future(dialler(DSN))
    await turns()
    server.attempts[1].set_result(new)
    assert await asyncio.wait_for(caller, 5) is new


@pytest.mark.parametrize("when", ["opened", "opening", "left after the pool was closed"])
async def test_a_pool_leaves_no_connection_behind(server: Server, when: str) -> None:
    dialler, connection = PoolDialler(), Connection()
    caller = asyncio.ensure_future(dialler(DSN))
    await turns()
    if when == "opened":
        server.attempts[0].add_done_callback(lambda _: caller.cancel())
        server.attempts[0].set_result(connection)
    elif when == "opening":
        caller.cancel()
    else:
        dialler.close()
        caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert dialler._abandoned or when.startswith("left")
    dialler.close()
    await turns()
    assert not dialler._abandoned
    assert connection.terminated if when == "opened" else server.attempts[0].cancelled()
