"""The front door: the protocol of the public socket.

Rules of this class:
1. It serves a request only if `hot_request` recognises it whole. At the first bytes that are, or can become, nothing of
   that kind, the connection goes to aiohttp's own protocol object for good, with all bytes not yet served.
2. One scan of a connection is under way at a time. What arrives meanwhile waits in `_received`, which is bounded by
   pausing the transport, and is served in order: pipelined answers never overtake each other.
3. After the hand-over this object only passes calls on. It stays the transport's protocol so that connections can be
   counted, limited and closed when idle, whoever serves them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from ixfast import limits, meters, reply
from ixfast.errors import InputError
from ixfast.http import wire
from ixfast.http.hot_request import Head, Recogniser, may_become_hot
from ixfast.http.v1_query import read_query
from ixfast.http.wire import v1_response
from ixfast.scan import Scan
from ixfast.trace import REPLY, WRITE, Trace


class FrontDoor:
    """One connection, an `asyncio.Protocol`. `house` is what all connections of the worker share."""

    __slots__ = ("_busy", "_eof", "_handler", "_house", "_paused", "_received", "_reply", "_transport", "active_at")

    def __init__(self, house: House) -> None:
        self._house = house
        self._transport: asyncio.Transport
        self._received = b""
        self._busy = False
        self._eof = False
        self._paused = False
        self._handler: asyncio.Protocol | None = None  # aiohttp's, after the hand-over
        self._reply: Callable[[Scan], None] = self._answer  # bound once, not for every scan
        self.active_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.active_at = self._house.now()
        if not self._house.admit(self):
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._house.connections.discard(self)
        self._reply = _hung_up  # or the two would keep each other alive
        self._house.desk.unread.pop(self._transport, None)
        if self._handler is not None:
            self._handler.connection_lost(error)

    def data_received(self, received: bytes) -> None:
        house = self._house
        self.active_at = house.now()
        if self._handler is not None:
            house.desk.unread.setdefault(self._transport, self.active_at)  # until a request is there
            self._handler.data_received(received)
            return
        if self._received:
            received = self._received + received
        if self._busy:
            self._received = received
            if len(received) > limits.PIPELINE_BYTES_MAX and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            return
        self._serve(received)

    def _serve(self, received: bytes) -> None:
        """Serve the request that `received` begins with; what follows it waits."""
        trace = self._house.next_trace() if self._house.trace_every else None
        hot = self._house.recognise(received)
        if hot is None:
            if self._eof:
                self._transport.close()
            elif may_become_hot(received):
                self._received = received
                self._house.desk.unread.setdefault(self._transport, self._house.now())
            else:
                self._hand_over(received)
            return
        asked, head, end = hot
        self._received = received[end:]
        self._busy = True
        house = self._house
        if house.desk.unread:
            house.desk.unread.pop(self._transport, None)
        house.slots[meters.HOT_REQUESTS] += 1
        address = self._client_address(head) if house.limited else None
        if not isinstance(asked, str):
            code, counter, mac = asked
            house.desk.submit_usual(code, counter, mac, head.token_sha256, self._reply, address, trace)
            return
        try:
            house.desk.submit_v1(read_query(asked), head.token_sha256, self._reply, address)
        except InputError as error:
            house.slots[meters.SCAN_ERRORS[error.code]] += 1
            body = reply.v1_error(error.code, parameter=error.field)
            self._write(wire.response(reply.STATUS[error.code], body, closing=house.desk.draining))

    def _client_address(self, head: Head) -> str | None:
        peer = self._transport.get_extra_info("peername")
        address: str | None = self._house.desk.client_address(peer[0] if peer else None, head.forwarded_for)
        return address

    def _answer(self, scan: Scan) -> None:
        response = v1_response(scan, self._house.desk.draining)
        trace = scan.trace
        if trace is None:
            self._write(response)
        else:
            trace.ends(REPLY)
            self._write(response)
            trace.ends(WRITE)

    def _write(self, response: bytes) -> None:
        self._busy = False
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(response)
        if self._house.desk.draining or (self._eof and not self._received):
            transport.close()
        elif self._received:
            # Not from here: a long pipeline answered from memory would nest a call for every request.
            self._house.loop.call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if self._busy or self._handler is not None or self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._received:
            received, self._received = self._received, b""
            self._serve(received)

    def _hand_over(self, received: bytes) -> None:
        house = self._house
        house.slots[meters.HANDED_OVER] += 1
        self._received = b""
        house.desk.unread.setdefault(self._transport, house.now())
        handler = self._handler = house.make_handler()
        handler.connection_made(self._transport)
        handler.data_received(received)

    def eof_received(self) -> bool | None:
        if self._handler is not None:
            return self._handler.eof_received()
        # A client that has said all it will say still gets the answers to it.
        self._eof = True
        if self._received and not self._busy:
            self._house.loop.call_soon(self._serve_next)  # the rest of a pipeline, or a request that was cut short
        return self._busy or bool(self._received)

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()
        else:
            # Answers pile up unread: take no more questions from this connection.
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def close_if_idle(self, idle_since: float) -> None:
        """Close a connection that has sent nothing since then and waits for nothing of ours."""
        desk = self._house.desk
        if self._busy or self.active_at >= idle_since or (desk.draining and self._transport in desk.answering):
            return
        self._transport.close()


def _hung_up(_scan: Scan) -> None:
    """The reply of a connection that is gone."""


class House:
    """What the connections of a worker share: the desk, the way to aiohttp, limits and the register of connections."""

    def __init__(
        self, desk: Any, make_handler: Any, *, connections_max: int, idle_timeout_s: float, trace_every: int = 0
    ) -> None:
        self.desk = desk
        self.loop: asyncio.AbstractEventLoop = desk.loop
        self.now = self.loop.time
        self.slots = desk.meters.slots
        self.limited = desk.limiter is not None
        self.trace_every = trace_every
        self._untraced = 0
        self._slots = desk.meters.slots  # for traces; `slots` may lie in C
        self.make_handler = make_handler
        self.recognise = Recogniser().recognise
        self.connections: set[FrontDoor] = set()
        self._connections_max = connections_max
        self._idle_timeout_s = idle_timeout_s
        self._sweeper = self.loop.call_later(1.0, self._sweep)

    def next_trace(self) -> Trace | None:
        """A trace for every so-many-th scan."""
        self._untraced += 1
        if self._untraced < self.trace_every:
            return None
        self._untraced = 0
        return Trace(self._slots)

    def admit(self, connection: FrontDoor) -> bool:
        if len(self.connections) >= self._connections_max:
            self.slots[meters.CONNECTIONS_REFUSED] += 1
            return False
        self.connections.add(connection)
        return True

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(1.0, self._sweep)
        self.slots[meters.CONNECTIONS] = len(self.connections)
        self.close_idle(self.loop.time() - self._idle_timeout_s)
        self._close_dripping(self.loop.time() - limits.REQUEST_HEAD_S)

    def _close_dripping(self, begun_before: float) -> None:
        """Close connections whose request does not get on: a byte now and then keeps a connection from being idle for ever."""
        for transport, begun_at in list(self.desk.unread.items()):
            if begun_at < begun_before and transport not in self.desk.answering:  # there it is a body, or the next request
                transport.close()

    def close_idle(self, idle_since: float) -> None:
        for connection in list(self.connections):
            connection.close_if_idle(idle_since)

    def close(self) -> None:
        self._sweeper.cancel()
