"""Lanes: one connection each, in a closed or an open loop.

They share the cores with the server they measure, so a request costs as little here as it can in Python: bytes are ready, the
answer is checked by its first bytes and one search, times are appended to a list. Sums are made after the clock stopped.

An answer is complete when its last byte closes a JSON object; all contenders answer flat objects without a line feed.
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
"""By kind of tap: what an answer begins with, and what is in it."""


class Lane:
    """What both loops have in common, an `asyncio.Protocol`. `at` is the place of the request that is under way or next."""

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
        return False  # an answer cut short is none: the connection closes, and is lost

    def pause_writing(self) -> None:
        """Never more than one request is under way: there is nothing to hold back."""

    def resume_writing(self) -> None:
        pass

    def give_up(self, reason: str) -> None:
        """The request under way gets no answer any more."""
        self._in_flight = False
        self.plan.failures[self.at] = reason
        self.plan.uncertain.add(self.at)
        self.at += 1

    def _note(self, answer: bytes) -> None:
        """An answer that was not expected."""
        self.plan.failures[self.at] = _describe(answer)
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")):
            self.plan.uncertain.add(self.at)

    def settle(self) -> None:
        """Leave in the plan how far it was answered."""
        if self._in_flight:
            self.give_up("no_answer")
        self.plan.answered = self.at


class ClosedLane(Lane):
    """The next request leaves when the answer to the one before is there, until `until` requests were sent."""

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
        if self._partial:
            received = self._partial + received
            self._partial = b""
        if received[-1] != _CLOSING_BRACE:
            self._partial = received
            return
        now_ns = monotonic_ns()
        at = self.at
        beginning, word = self._expected[self._kinds[at]]
        if word not in received or not received.startswith(beginning):
            self._note(received)
        self.latencies_ns.append(now_ns - self._start_ns)
        at += 1
        self.at = at
        if at < self.until:
            self._start_ns = now_ns
            self._write(self._requests[at])
        else:
            self._in_flight = False
            self._finished()


class OpenLane(Lane):
    """Sends when it is told to; time counts from when the request was due, wherever it had to wait."""

    __slots__ = ("_idle", "_overdue")

    def __init__(self, plan: Plan, expected: Expected, idle: deque[OpenLane], overdue: deque[int]) -> None:
        super().__init__(plan, expected)
        self._idle = idle  # lanes without a request under way, the longest idle first
        self._overdue = overdue  # times of arrivals that found no idle lane

    def send(self, due_ns: int) -> None:
        self._in_flight = True
        self._start_ns = due_ns
        self._write(self._requests[self.at])

    def data_received(self, received: bytes) -> None:
        if self._partial:
            received = self._partial + received
            self._partial = b""
        if received[-1] != _CLOSING_BRACE:
            self._partial = received
            return
        at = self.at
        beginning, word = self._expected[self._kinds[at]]
        if word not in received or not received.startswith(beginning):
            self._note(received)
        self.latencies_ns.append(monotonic_ns() - self._start_ns)
        at += 1
        self.at = at
        if at >= len(self._requests):
            self._in_flight = False  # has said all it had: it comes back to nobody
        elif self._overdue:
            self._start_ns = self._overdue.popleft()
            self._write(self._requests[at])
        else:
            self._in_flight = False
            self._idle.append(self)


def _describe(answer: bytes) -> str:
    """Status and word of an answer, as a key to count by."""
    status = answer[9:12].decode("latin-1")
    for word in (b'"response":"', b'"error":"'):
        start = answer.find(word)
        if start >= 0:
            said = answer[start + len(word) :].partition(b'"')[0]
            return f"{status} {said.decode('latin-1')[:40]}"
    return f"{status} without a verdict"
