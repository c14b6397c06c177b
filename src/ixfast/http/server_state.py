"""The state that all connections of a worker share, whether the front door or aiohttp serves them.

It registers the open connections, records what happens on them (a head begins, a request begins, a request is done), closes
those that are idle or send a request too slowly, and says whether the worker is draining. It decides nothing about scans:
which of them a busy worker takes in is `admission`'s business.

Invariants:
1. A connection is in `connections` from `connection_made` to `connection_lost`, and there are at most `connections_max`.
2. A transport is in `pending_heads` while a request head of which at least one byte has arrived is incomplete.
3. A transport is in `active_requests` while aiohttp handles a request of it. Its body may still be on its way, so the time
   limit for heads does not apply to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from ixfast import limits, meters
from ixfast.http.admission import Admission
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.hot_request import Recogniser
from ixfast.trace import Trace

_SWEEP_INTERVAL_S = 1.0


class Connection(Protocol):
    """What is registered: the front door's protocol objects."""

    def close_if_idle(self, idle_since: float) -> None: ...


class ServerState:
    """One per worker. Times are those of the event loop, in seconds.

    `trace_every` traces every Nth scan of the front door; 0 disables tracing. `moment` is the loop's clock at the moment of
    the call, where `now` is cached for one iteration of the loop.
    """

    def __init__(
        self,
        dispatcher: ScanDispatcher,
        *,
        connections_max: int,
        idle_timeout_s: float,
        trace_every: int = 0,
        deadline_s: float = 1.5,
        moment: Callable[[], float] = monotonic,
    ) -> None:
        self.dispatcher = dispatcher
        self.admission = Admission(dispatcher, deadline_s=deadline_s, moment=moment)
        self.loop: asyncio.AbstractEventLoop = dispatcher.loop
        self.now = self.loop.time
        self.slots = dispatcher.meters.slots
        self.limited = dispatcher.limiter is not None
        self.recognise = Recogniser().recognise
        self.draining = False
        self.connections: set[Connection] = set()
        self.pending_heads: dict[Any, float] = {}  # by transport: when the first byte arrived
        self.active_requests: set[Any] = set()  # transports
        self.trace_every = trace_every
        self._untraced = 0
        self._trace_slots = dispatcher.meters.slots  # a Python object, while `slots` is a C array in the compiled form
        self._connections_max = connections_max
        self._idle_timeout_s = idle_timeout_s
        self._sweeper = self.loop.call_later(_SWEEP_INTERVAL_S, self._sweep)

    def connection_made(self, connection: Connection) -> bool:
        """Register a connection. False if there are too many: it must be closed, and is not registered."""
        if len(self.connections) >= self._connections_max:
            self.slots[meters.CONNECTIONS_REFUSED] += 1
            return False
        self.connections.add(connection)
        self.slots[meters.CONNECTIONS] = len(self.connections)
        return True

    def connection_lost(self, connection: Connection, transport: Any) -> None:
        self.connections.discard(connection)
        self.slots[meters.CONNECTIONS] = len(self.connections)
        self.pending_heads.pop(transport, None)

    def head_begun(self, transport: Any, now: float) -> None:
        """Bytes arrived that may begin a request. The time limit runs from the first of them."""
        self.pending_heads.setdefault(transport, now)

    def head_complete(self, transport: Any) -> None:
        self.pending_heads.pop(transport, None)

    def request_begun(self, transport: Any) -> None:
        """aiohttp has read a head and calls the application."""
        self.pending_heads.pop(transport, None)
        self.active_requests.add(transport)

    def request_done(self, transport: Any) -> None:
        """The application has responded. What arrived in the meantime was the body; the next head is timed from its next byte."""
        self.active_requests.discard(transport)
        self.pending_heads.pop(transport, None)

    def begin_draining(self) -> None:
        """From now on every response closes its connection, and requests that were postponed are refused."""
        self.draining = True
        self.admission.refuse_postponed()

    def next_trace(self) -> Trace | None:
        """A trace for every Nth scan, None for the others."""
        self._untraced += 1
        if self._untraced < self.trace_every:
            return None
        self._untraced = 0
        return Trace(self._trace_slots)

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(_SWEEP_INTERVAL_S, self._sweep)
        self.close_idle(self.loop.time() - self._idle_timeout_s)
        self._close_slow_heads(self.loop.time() - limits.REQUEST_HEAD_S)

    def _close_slow_heads(self, begun_before: float) -> None:
        """A byte now and then keeps a connection from being idle, so an incomplete head has a time limit of its own."""
        for transport, begun_at in list(self.pending_heads.items()):
            # While a request is active, what arrives is its body, or the next request.
            if begun_at < begun_before and transport not in self.active_requests:
                transport.close()

    def close_idle(self, idle_since: float) -> None:
        """Close the connections that have sent nothing since then and wait for no response."""
        for connection in list(self.connections):
            connection.close_if_idle(idle_since)

    def close(self) -> None:
        """Stop all timers."""
        self._sweeper.cancel()
        self.admission.close()
