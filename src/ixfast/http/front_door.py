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
import socket
import struct
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, cast

from ixfast import limits, meters
from ixfast.domain.scan import Scan
from ixfast.error_codes import STATUS
from ixfast.errors import InputError
from ixfast.http import raw_response
from ixfast.http.hot_request import Head, Recogniser, may_become_hot
from ixfast.http.raw_response import v1_response
from ixfast.http.v1_query import read_query
from ixfast.responses import bodies
from ixfast.trace import REPLY, WRITE, Trace

_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_TCP_INFO_BYTES = 56
_LAST_DATA_RECEIVED = struct.Struct("I")
_LAST_DATA_RECEIVED_AT = 52  # `tcpi_last_data_recv` of struct tcp_info, in milliseconds (linux/tcp.h)


class FrontDoor:
    """One connection, an `asyncio.Protocol`. `server_state` is what all connections of the worker share."""

    __slots__ = ("_busy", "_eof", "_handler", "_paused", "_received", "_reply", "_server_state", "_transport", "active_at")

    def __init__(self, server_state: ServerState) -> None:
        self._server_state = server_state
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
        self.active_at = self._server_state.now()
        if not self._server_state.admit(self):
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._reply = _hung_up  # or the two would keep each other alive
        self._server_state.dispatcher.unread.pop(self._transport, None)
        if self._handler is not None:
            self._handler.connection_lost(error)

    def data_received(self, received: bytes) -> None:
        server_state = self._server_state
        self.active_at = server_state.now()
        if self.active_at > server_state.round_at:
            server_state.begin_round(self.active_at)
        if self._handler is not None:
            server_state.dispatcher.unread.setdefault(self._transport, self.active_at)  # until a request is there
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
        trace = self._server_state.next_trace() if self._server_state.trace_every else None
        hot = self._server_state.recognise(received)
        if hot is None:
            if self._eof:
                self._transport.close()
            elif may_become_hot(received):
                self._received = received
                self._server_state.dispatcher.unread.setdefault(self._transport, self._server_state.now())
            else:
                self._hand_over(received)
            return
        asked, head, end = hot
        self._received = received[end:]
        self._busy = True
        server_state = self._server_state
        if server_state.dispatcher.unread:
            server_state.dispatcher.unread.pop(self._transport, None)
        server_state.slots[meters.HOT_REQUESTS] += 1
        if server_state.slow and server_state.is_overdue(self._transport):
            server_state.postpone(self, asked, head)
            return
        self.submit(asked, head, trace)

    def submit(self, asked: Any, head: Head, trace: Trace | None) -> None:
        """Start the scan that was asked for."""
        server_state = self._server_state
        address = self._client_address(head) if server_state.limited else None
        server_state.inside += 1
        if not isinstance(asked, str):
            code, counter, mac = asked
            server_state.dispatcher.submit_plain(code, counter, mac, head.token_sha256, self._reply, address, trace)
        else:
            try:
                server_state.dispatcher.submit_v1(read_query(asked), head.token_sha256, self._reply, address)
            except InputError as error:
                server_state.inside -= 1
                self._answer_malformed(error)
        server_state.dispatcher.waited_s = 0.0

    def _answer_malformed(self, error: InputError) -> None:
        self._server_state.slots[meters.SCAN_ERRORS[error.code]] += 1
        body = bodies.v1_error(error.code, parameter=error.field)
        self._write(raw_response.response(STATUS[error.code], body, closing=self._server_state.dispatcher.draining))

    def refuse(self, asked: Any) -> None:
        """Answer that the worker is busy."""
        server_state = self._server_state
        if isinstance(asked, str):
            try:
                ref = read_query(asked).ref or b""
            except InputError as error:
                self._answer_malformed(error)
                return
        else:
            ref = asked[0]
        server_state.inside += 1
        server_state.dispatcher.engine.fail(
            Scan(self._reply, ref, -1, None, None, 0, self.active_at, None), "overloaded", "worker_busy"
        )

    def _client_address(self, head: Head) -> str | None:
        peer = self._transport.get_extra_info("peername")
        address: str | None = self._server_state.dispatcher.client_address(peer[0] if peer else None, head.forwarded_for)
        return address

    def _answer(self, scan: Scan) -> None:
        server_state = self._server_state
        server_state.inside -= 1
        server_state.answered += 1
        if server_state.inside <= server_state.resume_at:
            server_state.resume_soon()
        response = v1_response(scan, server_state.dispatcher.draining)
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
        if self._server_state.dispatcher.draining or (self._eof and not self._received):
            transport.close()
        elif self._received:
            # Not from here: a long pipeline answered from memory would nest a call for every request.
            self._server_state.loop.call_soon(self._serve_next)

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
        server_state = self._server_state
        server_state.slots[meters.HANDED_OVER] += 1
        self._received = b""
        server_state.dispatcher.unread.setdefault(self._transport, server_state.now())
        handler = self._handler = server_state.make_handler()
        handler.connection_made(self._transport)
        handler.data_received(received)

    def eof_received(self) -> bool | None:
        if self._handler is not None:
            return self._handler.eof_received()
        # A client that has said all it will say still gets the answers to it.
        self._eof = True
        if self._received and not self._busy:
            self._server_state.loop.call_soon(self._serve_next)  # the rest of a pipeline, or a request that was cut short
        return self._busy or bool(self._received)

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()
        else:
            # ResponseSet pile up unread: take no more questions from this connection.
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def close_if_idle(self, idle_since: float) -> None:
        """Close a connection that has sent nothing since then and waits for nothing of ours."""
        dispatcher = self._server_state.dispatcher
        if self._busy or self.active_at >= idle_since or (dispatcher.draining and self._transport in dispatcher.answering):
            return
        self._transport.close()


def _hung_up(_scan: Scan) -> None:
    """The reply of a connection that is gone."""


class ServerState:
    """What the connections of a worker share: the dispatcher, the way to aiohttp, limits and the register of connections."""

    def __init__(
        self,
        dispatcher: Any,
        make_handler: Any,
        *,
        connections_max: int,
        idle_timeout_s: float,
        trace_every: int = 0,
        deadline_s: float = 1.5,
        moment: Callable[[], float] = monotonic,
    ) -> None:
        self.dispatcher = dispatcher
        self.loop: asyncio.AbstractEventLoop = dispatcher.loop
        self.now = self.loop.time
        self._moment = moment  # the loop's clock as it stands, where `now` is that of the loop's round
        self.slots = dispatcher.meters.slots
        self.limited = dispatcher.limiter is not None
        self.trace_every = trace_every
        self._untraced = 0
        self._slots = dispatcher.meters.slots  # for traces; `slots` may lie in C
        self.make_handler = make_handler
        self.recognise = Recogniser().recognise
        self.connections: set[FrontDoor] = set()
        self._connections_max = connections_max
        self._idle_timeout_s = idle_timeout_s
        self._sweeper = self.loop.call_later(1.0, self._sweep)
        self.round_at = 0.0  # when the loop's round began in which a request was last read
        self.slow = False  # that round came late
        self.inside = 0  # scans taken in and not answered yet
        self.answered = 0
        self._answered_before = 0  # when the last round began
        self._budget_s = deadline_s * limits.WORKER_WAIT_SHARE
        self._rate = 0.0  # scans answered in a second while many were under way; 0: that was not seen yet
        self._busy_s = 0.0
        self._busy_answered = 0
        self._looked = 0  # requests of this round until an age is looked up again
        self._age_s = 0.0
        self._overdue_at = 0.0
        self._room = limits.WORKER_ROOM_MIN  # scans that may be under way in a worker that is late
        self._postponed: deque[tuple[float, FrontDoor, Any, Head]] = deque()  # with when they arrived, the oldest first
        self._too_late: deque[tuple[FrontDoor, Any]] = deque()  # to be refused
        self.resume_at = -1  # with so few scans under way those that were postponed get their turn; -1: there are none
        self._answered_refused = 0
        self._refuser: asyncio.TimerHandle | None = None

    def begin_round(self, now: float) -> None:
        """Requests read from now on have waited for the loop at most since the last round, if not even longer."""
        length_s = now - self.round_at
        self.round_at = now
        self.slow = length_s > limits.SLOW_ROUND_S or (self.slow and self._age_s > limits.SLOW_ROUND_S)
        self._looked = 0
        if self.inside >= limits.WORKER_RATE_SCANS_MIN:
            self._busy_s += length_s
            self._busy_answered += self.answered - self._answered_before
            if self._busy_s >= limits.WORKER_RATE_WINDOW_S:
                self._learn_rate()
        self._answered_before = self.answered

    def _learn_rate(self) -> None:
        rate = self._busy_answered / self._busy_s
        self._rate = (self._rate + rate) / 2 if self._rate else rate
        self._room = max(limits.WORKER_ROOM_MIN, int(self._rate * limits.WORKER_ROOM_S))
        self._busy_s = 0.0
        self._busy_answered = 0

    def is_overdue(self, transport: Any) -> bool:
        """Is the request that is read now to wait? What it has waited already is taken from the scan's time."""
        self._looked -= 1
        if self._looked < 0:
            self._looked = limits.AGE_LOOK_EVERY
            self._age_s = _unread_s(transport)
        now = self._moment()
        # One that comes to an idle worker is tried, however old it is.
        overdue = self.inside > (0 if self._age_s > self._budget_s else self._room)
        if overdue:
            self._overdue_at = now
        else:
            self.dispatcher.waited_s = self.round_at - now + self._age_s
        return overdue

    def postpone(self, connection: FrontDoor, asked: Any, head: Head) -> None:
        """Leave a request until there is time to serve it, or to refuse it: a refusal takes a third of what a pass takes, so that
        a worker that refused at once all that it cannot serve would serve nothing."""
        if self._age_s > self._budget_s:
            self._too_late.append((connection, asked))
        else:
            self._postponed.append((self._overdue_at - self._age_s, connection, asked, head))
            self.resume_at = self._room // 2
        if self._refuser is None:
            self._answered_refused = self.answered
            self._refuser = self.loop.call_later(limits.REFUSAL_INTERVAL_S, self._refuse)

    def resume_soon(self) -> None:
        """Not from an answer: it may be one of hundreds that a single reply of the database brings."""
        self.resume_at = -1
        self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Serve those that were postponed, the newest first: it is they who have the time to wait for the answer."""
        postponed = self._postponed
        while postponed and self.inside <= self._room and not self.dispatcher.draining:
            waited_s = self._moment() - postponed[-1][0]
            if waited_s > self._budget_s:
                return
            _, connection, asked, head = postponed.pop()
            self.dispatcher.waited_s = waited_s + self.now() - self._moment()
            connection.submit(asked, head, None)
        if postponed:
            self.resume_at = self._room // 2

    def _refuse(self) -> None:
        """Refuse the oldest that were postponed: a few for what was answered meanwhile, many if nothing else is to be done."""
        self._resume()
        postponed, too_late = self._postponed, self._too_late
        too_old = self._moment() - self._budget_s
        while postponed and (postponed[0][0] < too_old or self.dispatcher.draining):
            _, connection, asked, _ = postponed.popleft()
            too_late.append((connection, asked))
        if not self.inside or self._moment() > self._overdue_at + limits.OVERDUE_MEMORY_S or self.dispatcher.draining:
            count = limits.REFUSALS_IDLE
        else:
            count = max(1, (self.answered - self._answered_refused) // limits.ANSWERS_A_REFUSAL)
        for _ in range(min(count, len(too_late))):
            connection, asked = too_late.popleft()
            connection.refuse(asked)
        self._answered_refused = self.answered
        if not postponed:
            self.resume_at = -1
        more = postponed or too_late
        self._refuser = self.loop.call_later(limits.REFUSAL_INTERVAL_S, self._refuse) if more else None

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
        for transport, begun_at in list(self.dispatcher.unread.items()):
            if begun_at < begun_before and transport not in self.dispatcher.answering:  # there it is a body, or the next request
                transport.close()

    def close_idle(self, idle_since: float) -> None:
        for connection in list(self.connections):
            connection.close_if_idle(idle_since)

    def close(self) -> None:
        self._sweeper.cancel()
        if self._refuser is not None:
            self._refuser.cancel()


def _unread_s(transport: Any) -> float:
    """How long ago the last bytes of a connection arrived in the kernel; 0 if nobody knows."""
    connection = transport.get_extra_info("socket")
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return 0.0
    milliseconds: int = _LAST_DATA_RECEIVED.unpack_from(told, _LAST_DATA_RECEIVED_AT)[0] if len(told) == _TCP_INFO_BYTES else 0
    return milliseconds / 1000
