"""What connections report to the state that they share, and which of them it closes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from ixfast import limits, meters
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.server_state import ServerState
from ixfast.pipeline.engine import Engine


class Transport:
    closed = False

    def close(self) -> None:
        self.closed = True


class Connection:
    def __init__(self) -> None:
        self.query: list[float] = []

    def close_if_idle(self, idle_since: float) -> None:
        self.query.append(idle_since)


@pytest.fixture
async def state() -> Any:
    catalogue: Any = type("Catalogue", (), {"find": None})()
    gauges = meters.Meters()
    dispatcher = ScanDispatcher(Engine(catalogue, gauges), catalogue, gauges, asyncio.get_running_loop())
    made = ServerState(dispatcher, connections_max=2, idle_timeout_s=75, trace_every=3)
    yield made
    made.close()


@pytest.fixture
def transports() -> Iterator[tuple[Transport, Transport]]:
    yield Transport(), Transport()


async def test_connections_beyond_the_limit_are_refused_and_counted(state: ServerState) -> None:
    connections = [Connection() for _ in range(3)]
    assert [state.connection_made(each) for each in connections] == [True, True, False]
    assert state.dispatcher.meters.slots[meters.CONNECTIONS_REFUSED] == 1
    state.connection_lost(connections[0], None)
    assert state.connection_made(connections[2])
    state.close_idle(5.0)
    assert [each.query for each in connections] == [[], [5.0], [5.0]]


async def test_a_head_is_timed_from_its_first_byte_until_it_is_complete(
    state: ServerState, transports: tuple[Transport, Transport]
) -> None:
    slow, quick = transports
    state.head_begun(slow, 10.0)
    state.head_begun(slow, 19.0)
    state.head_begun(quick, 10.0)
    state.head_complete(quick)
    state._close_slow_heads(11.0)  # type: ignore[attr-defined, unused-ignore]
    assert (slow.closed, quick.closed) == (True, False)
    state.connection_lost(Connection(), slow)
    assert not state.pending_heads


async def test_a_body_is_not_timed_like_a_head(state: ServerState, transports: tuple[Transport, Transport]) -> None:
    active, done = transports
    for transport in transports:
        state.head_begun(transport, 10.0)
        state.request_begun(transport)
        state.head_begun(transport, 11.0)  # the body, or the next request
    state.request_done(done)
    state.head_begun(done, 12.0)
    state._close_slow_heads(13.0)  # type: ignore[attr-defined, unused-ignore]
    assert (active.closed, done.closed) == (False, True)
    assert state.active_requests == {active}


async def test_draining_also_ends_the_postponement_of_requests(state: ServerState) -> None:
    refused: list[Any] = []

    class Postponed:
        def submit(self, query: Any, head: Any, trace: Any) -> None:
            raise AssertionError("resumed")

        def refuse(self, query: Any) -> None:
            refused.append(query)

    for query in range(20):
        state.admission.postpone(Postponed(), query, None)  # type: ignore[arg-type]
    state.begin_draining()
    assert state.draining
    async with asyncio.timeout(5):
        while len(refused) < 20:  # noqa: ASYNC110 - a timer of the loop refuses them
            await asyncio.sleep(limits.REFUSAL_INTERVAL_S / 5)
    assert refused == list(range(20))
