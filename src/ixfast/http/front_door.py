"""The front door: the protocol of the public socket.

It serves the hot request, a plain `GET /v1/t`, straight from the received bytes, and hands every other connection over to
aiohttp. It parses no HTTP of its own beyond `hot_request`, and it never refuses a request for its form.

Invariants:
1. A request is served here only if `hot_request` recognises all of it. At the first bytes that neither are nor can become
   such a request, the connection goes to aiohttp's protocol object for good, with all bytes not yet served.
2. One scan of a connection is in flight at a time. What arrives in the meantime waits in `_received`, which is bounded by pausing
   the transport, and is served in order: responses to pipelined requests never overtake each other.
3. After the hand-over this object only forwards calls. It stays the transport's protocol so that connections are counted,
   limited and closed when idle, whichever of the two serves them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from ixfast import limits, meters
from ixfast.domain.scan import Scan
from ixfast.error_codes import STATUS
from ixfast.errors import InputError
from ixfast.http import raw_response
from ixfast.http.credentials import peer_address
from ixfast.http.hot_request import Head, may_become_hot
from ixfast.http.raw_response import v1_response
from ixfast.http.server_state import ServerState
from ixfast.http.v1_query import read_query, sent_code
from ixfast.responses import bodies
from ixfast.trace import REPLY, WRITE, Trace


class FrontDoor:
    """One connection, an `asyncio.Protocol`. `make_handler` makes aiohttp's protocol object for the hand-over."""

    __slots__ = (
        "_admission", "_busy", "_eof", "_handler", "_make_handler", "_paused", "_received", "_reply", "_server_state",
        "_transport", "active_at",
    )  # fmt: skip

    def __init__(self, server_state: ServerState, make_handler: Callable[[], asyncio.Protocol]) -> None:
        self._server_state = server_state
        self._admission = server_state.admission
        self._make_handler = make_handler
        self._transport: asyncio.Transport
        self._received = b""
        self._busy = False
        self._eof = False
        self._paused = False
        self._handler: asyncio.Protocol | None = None  # aiohttp's, after the hand-over
        self._reply: Callable[[Scan], None] = self._respond  # bound once instead of for every scan
        self.active_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.active_at = self._server_state.now()
        if not self._server_state.connection_made(self):
            transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._server_state.connection_lost(self, self._transport)
        self._reply = _discard  # the bound method would keep this object alive in a reference cycle
        if self._handler is not None:
            self._handler.connection_lost(error)

    def data_received(self, received: bytes) -> None:
        server_state, admission = self._server_state, self._admission
        self.active_at = server_state.now()
        if self.active_at > admission.round_at:
            admission.begin_round(self.active_at)
        if self._handler is not None:
            server_state.head_begun(self._transport, self.active_at)
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
        """Serve the request that `received` begins with; the rest waits."""
        server_state, admission = self._server_state, self._admission
        trace = server_state.next_trace() if server_state.trace_every else None
        hot = server_state.recognise(received)
        if hot is None:
            if self._eof:
                self._transport.close()
            elif may_become_hot(received):
                self._received = received
                server_state.head_begun(self._transport, server_state.now())
            else:
                self._hand_over(received)
            return
        query, head, end = hot
        self._received = received[end:]
        self._busy = True
        if server_state.pending_heads:
            server_state.head_complete(self._transport)
        server_state.slots[meters.HOT_REQUESTS] += 1
        if admission.slow and admission.is_overdue(self._transport):
            admission.postpone(self, query, head)
            return
        self.submit(query, head, trace)

    def submit(self, query: Any, head: Head, trace: Trace | None) -> None:
        """Start the scan. `query` is as the recogniser read it: code, counter and MAC, or a raw query string."""
        server_state, admission = self._server_state, self._admission
        address = self._client_address(head) if server_state.limited else None
        admission.in_flight += 1
        if not isinstance(query, str):
            code, counter, mac = query
            server_state.dispatcher.submit_plain(code, counter, mac, head.token_sha256, self._reply, address, trace)
        else:
            try:
                server_state.dispatcher.submit_v1(
                    read_query(query, keyed=head.token_sha256 is not None), head.token_sha256, self._reply, address
                )
            except InputError as error:
                admission.in_flight -= 1
                self._respond_malformed(error, query)
        server_state.dispatcher.waited_s = 0.0

    def _respond_malformed(self, error: InputError, query: str) -> None:
        self._server_state.slots[meters.SCAN_ERRORS[error.code]] += 1
        body = bodies.v1_error(error.code, sent_code(query), parameter=error.field)
        self._write(raw_response.response(STATUS[error.code], body, closing=self._server_state.draining))

    def refuse(self, query: Any) -> None:
        """Respond that the worker is busy."""
        if isinstance(query, str):
            try:
                ref = read_query(query, keyed=True).ref or b""
            except InputError as error:
                self._respond_malformed(error, query)
                return
        else:
            ref = query[0]
        self._admission.in_flight += 1
        scan = Scan(self._reply, ref, -1, None, None, 0, self.active_at, None)
        scan.route = 0
        self._server_state.dispatcher.engine.fail(scan, "overloaded", "worker_busy")

    def _client_address(self, head: Head) -> str | None:
        peer = self._transport.get_extra_info("peername")
        address: str | None = self._server_state.dispatcher.client_address(peer_address(peer), head.forwarded_for)
        return address

    def _respond(self, scan: Scan) -> None:
        admission = self._admission
        admission.in_flight -= 1
        admission.answered += 1
        if admission.in_flight <= admission.resume_at:
            admission.resume_soon()
        response = v1_response(scan, self._server_state.draining)
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
        if self._server_state.draining or (self._eof and not self._received):
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
        server_state.head_begun(self._transport, server_state.now())
        handler = self._handler = self._make_handler()
        handler.connection_made(self._transport)
        handler.data_received(received)

    def eof_received(self) -> bool | None:
        if self._handler is not None:
            return self._handler.eof_received()
        # A client that has closed its sending side still gets the responses to what it has sent.
        self._eof = True
        if self._received and not self._busy:
            self._server_state.loop.call_soon(self._serve_next)  # the rest of a pipeline, or a request that was cut short
        return self._busy or bool(self._received)

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()
        else:
            # The client does not read its responses: take no more requests from this connection.
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def close_if_idle(self, idle_since: float) -> None:
        """Close a connection that has sent nothing since then and waits for no response."""
        server_state = self._server_state
        if self._busy or self.active_at >= idle_since:
            return
        if server_state.draining and self._transport in server_state.active_requests:
            return
        self._transport.close()


def _discard(_scan: Scan) -> None:
    """The reply callback of a closed connection."""
