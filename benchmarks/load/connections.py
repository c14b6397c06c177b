"""The client connections: each sends one request at a time, in a closed or an open loop.

They share the cores with the server under test, so a request costs as little as it can in Python: bytes are prepared, a
response is checked by its first bytes and one search, times are appended to a list. Sums are made after the clock has stopped.

A response is complete when its last byte closes a JSON object; all contenders send flat objects without a line feed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import cast

from benchmarks.load.traffic import Plan

_CLOSING_BRACE = 0x7D
Expected = Sequence[tuple[bytes, bytes]]
"""By kind of tap: how the response starts, and a word that it contains."""


class TapConnection:
    """What both loops have in common, an `asyncio.Protocol`. `at` is the index of the request in flight, or of the next one."""

    __slots__ = (
        "_expected", "_in_flight", "_kinds", "_partial", "_requests", "_start_ns", "_write", "at", "latencies_ns", "lost",
        "plan", "transport",
    )  # fmt: skip

    def __init__(self, plan: Plan, expected: Expected) -> None:
        self.plan = plan
        self.at = plan.answered
        self.lost = False
        self.latencies_ns: list[int] = []
        self.transport: asyncio.Transport
        self._expected = expected
        self._requests = plan.requests
        self._kinds = plan.kinds
        self._partial = b""
        self._in_flight = False
        self._start_ns = 0

    @property
    def in_flight(self) -> bool:
        return self._in_flight

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.attach(cast(asyncio.Transport, transport))

    def attach(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._write = transport.write

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._in_flight:
            self.give_up("connection_lost")

    def eof_received(self) -> bool:
        return False  # a truncated response does not count: the connection closes and is lost

    def pause_writing(self) -> None:
        """At most one request is in flight, so there is nothing to hold back."""

    def resume_writing(self) -> None:
        pass

    def give_up(self, reason: str) -> None:
        """Record that the request in flight gets no response."""
        self._in_flight = False
        self.plan.failures[self.at] = reason
        self.plan.uncertain.add(self.at)
        self.at += 1

    def settle(self) -> None:
        """Record in the plan how many requests were answered."""
        if self._in_flight:
            self.give_up("no_answer")
        self.plan.answered = self.at

    def _completed(self, received: bytes) -> bytes:
        """The whole response; empty while its end has not been received."""
        if self._partial:
            received = self._partial + received
            self._partial = b""
        if received[-1] != _CLOSING_BRACE:
            self._partial = received
            return b""
        return received

    def _note(self, response: bytes) -> None:
        """Record a response that differs from the expected one."""
        self.plan.failures[self.at] = _describe(response)
        if not response.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")):
            self.plan.uncertain.add(self.at)


class ClosedLoopConnection(TapConnection):
    """Sends the next request when the response to the previous one is there, until `until` requests were sent."""

    __slots__ = ("_finished", "until")

    def __init__(self, plan: Plan, expected: Expected, finished: Callable[[], None]) -> None:
        super().__init__(plan, expected)
        self._finished = finished
        self.until = len(plan.requests)

    def start(self) -> None:
        if self.at < self.until and not self.lost:
            self._in_flight = True
            self._start_ns = monotonic_ns()
            self._write(self._requests[self.at])
        else:
            self._finished()

    def give_up(self, reason: str) -> None:
        super().give_up(reason)
        self._finished()

    def data_received(self, received: bytes) -> None:
        response = self._completed(received)
        if not response:
            return
        now_ns = monotonic_ns()
        at = self.at
        beginning, word = self._expected[self._kinds[at]]
        if word not in response or not response.startswith(beginning):
            self._note(response)
        self.latencies_ns.append(now_ns - self._start_ns)
        at += 1
        self.at = at
        if at < self.until:
            self._start_ns = now_ns
            self._write(self._requests[at])
        else:
            self._in_flight = False
            self._finished()


class OpenLoopConnection(TapConnection):
    """Sends when `send` is called; latency counts from when the request was due, wherever it had to wait."""

    __slots__ = ("_idle", "_overdue")

    def __init__(self, plan: Plan, expected: Expected, idle: deque[OpenLoopConnection], overdue: deque[int]) -> None:
        super().__init__(plan, expected)
        self._idle = idle  # connections without a request in flight, the longest idle first
        self._overdue = overdue  # due times of arrivals that found no idle connection

    def send(self, due_ns: int) -> None:
        self._in_flight = True
        self._start_ns = due_ns
        self._write(self._requests[self.at])

    def data_received(self, received: bytes) -> None:
        response = self._completed(received)
        if not response:
            return
        at = self.at
        beginning, word = self._expected[self._kinds[at]]
        if word not in response or not response.startswith(beginning):
            self._note(response)
        self.latencies_ns.append(monotonic_ns() - self._start_ns)
        at += 1
        self.at = at
        if at >= len(self._requests):
            self._in_flight = False  # out of requests: it does not become idle again
        elif self._overdue:
            self._start_ns = self._overdue.popleft()
            self._write(self._requests[at])
        else:
            self._in_flight = False
            self._idle.append(self)


def _describe(response: bytes) -> str:
    """Status and word of a response, as a key to count by."""
    status = response[9:12].decode("latin-1")
    for word in (b'"response":"', b'"error":"'):
        start = response.find(word)
        if start >= 0:
            text = response[start + len(word) :].partition(b'"')[0]
            return f"{status} {text.decode('latin-1')[:40]}"
    return f"{status} without a verdict"
