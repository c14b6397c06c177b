"""Admission control of the front door: which hot requests a worker that is short of CPU serves now, postpones or refuses.

A worker that keeps up admits everything and measures nothing. When an iteration of the event loop was late, a request may
have waited in the kernel for longer than its caller will; answering it late helps nobody and delays all others. So while the
worker is late, requests are looked at before they become scans:

1. The time that a request has already waited counts towards its scan's deadline.
2. A late worker admits as many scans as it has lately answered in `limits.WORKER_CAPACITY_S`. The rest is postponed and resumed
   when half of that is answered, the newest first, because the newest has the most time left.
3. A request that has waited longer than `limits.WORKER_WAIT_SHARE` of the deadline is refused (503 `overloaded`). Refusals are
   rationed: one takes a third of the time of a pass, and a worker that refused everything at once would serve nothing.
4. A worker with nothing in flight admits any request, however old.

The query of a request is opaque here. "Round" means an iteration of the event loop in which requests are read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ixfast import limits
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.hot_request import Head
from ixfast.trace import Trace

_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_TCP_INFO_BYTES = 56
_LAST_DATA_RECEIVED = struct.Struct("I")
_LAST_DATA_RECEIVED_AT = 52  # `tcpi_last_data_recv` of struct tcp_info, in milliseconds (linux/tcp.h)


class Connection(Protocol):
    """A connection whose request was postponed."""

    def submit(self, query: Any, head: Head, trace: Trace | None) -> None: ...
    def refuse(self, query: Any) -> None: ...


class Admission:
    """One per worker. Connections count their scans in `in_flight` and `answered`; everything else follows from that."""

    def __init__(self, dispatcher: ScanDispatcher, *, deadline_s: float, moment: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        dispatcher.moment = moment
        self._loop: asyncio.AbstractEventLoop = dispatcher.loop
        self._moment = moment
        self._draining = False
        self.in_flight = 0  # scans admitted and not answered yet
        self.answered = 0
        self.round_at = 0.0  # when the current round began
        self.slow = False  # the current round began late
        self._answered_before = 0  # when the last round began
        self._budget_s = deadline_s * limits.WORKER_WAIT_SHARE
        self._rate = 0.0  # scans answered per second while many were in flight; 0: not measured yet
        self._busy_s = 0.0
        self._busy_answered = 0
        self._until_age_check = 0  # requests of this round that share the last measured age
        self._age_s = 0.0
        self._overdue_at = 0.0
        self._in_flight_max = limits.WORKER_CAPACITY_MIN  # while the worker is late
        self._postponed: deque[tuple[float, Connection, Any, Head]] = deque()  # with their time of arrival, oldest first
        self._too_late: deque[tuple[Connection, Any]] = deque()  # to be refused
        self.resume_at = -1  # resume postponed requests when so few scans are in flight; -1: there are none
        self._answered_at_refusal = 0
        self._refuser: asyncio.TimerHandle | None = None

    def begin_round(self, now: float) -> None:
        """Called with the first bytes read in a round: whatever is read in it has waited at least since the round before, and
        possibly longer."""
        length_s = now - self.round_at
        self.round_at = now
        self.slow = length_s > limits.SLOW_ROUND_S or (self.slow and self._age_s > limits.SLOW_ROUND_S)
        self._until_age_check = 0
        if self.in_flight >= limits.WORKER_RATE_SCANS_MIN:
            self._busy_s += length_s
            self._busy_answered += self.answered - self._answered_before
            if self._busy_s >= limits.WORKER_RATE_WINDOW_S:
                self._update_rate()
        self._answered_before = self.answered

    def _update_rate(self) -> None:
        rate = self._busy_answered / self._busy_s
        self._rate = (self._rate + rate) / 2 if self._rate else rate
        self._in_flight_max = max(limits.WORKER_CAPACITY_MIN, int(self._rate * limits.WORKER_CAPACITY_S))
        self._busy_s = 0.0
        self._busy_answered = 0

    def is_overdue(self, transport: Any) -> bool:
        """Whether the request read now must be postponed. If not, the time it has waited is charged to its scan."""
        self._until_age_check -= 1
        if self._until_age_check < 0:
            self._until_age_check = limits.AGE_LOOK_EVERY
            self._age_s = _unread_s(transport)
        now = self._moment()
        overdue = self.in_flight > (0 if self._age_s > self._budget_s else self._in_flight_max)
        if overdue:
            self._overdue_at = now
        else:
            self._dispatcher.waited_s = self._age_s
        return overdue

    def postpone(self, connection: Connection, query: Any, head: Head) -> None:
        """Keep an overdue request until it can be served or refused."""
        if self._age_s > self._budget_s:
            self._too_late.append((connection, query))
        else:
            self._postponed.append((self._overdue_at - self._age_s, connection, query, head))
            self.resume_at = self._in_flight_max // 2
        if self._refuser is None:
            self._answered_at_refusal = self.answered
            self._refuser = self._loop.call_later(limits.REFUSAL_INTERVAL_S, self._refuse)

    def resume_soon(self) -> None:
        """Not at once: the response that made this possible may be one of hundreds that a single ledger statement brings."""
        self.resume_at = -1
        self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Serve postponed requests, the newest first."""
        postponed = self._postponed
        while postponed and self.in_flight <= self._in_flight_max and not self._draining:
            waited_s = self._moment() - postponed[-1][0]
            if waited_s > self._budget_s:
                return
            _, connection, query, head = postponed.pop()
            self._dispatcher.waited_s = waited_s
            connection.submit(query, head, None)
        if postponed:
            self.resume_at = self._in_flight_max // 2

    def _refuse(self) -> None:
        """Refuse the oldest requests: a few for what was answered in the meantime, many if the worker has nothing else to do."""
        self._resume()
        postponed, too_late = self._postponed, self._too_late
        too_old = self._moment() - self._budget_s
        while postponed and (postponed[0][0] < too_old or self._draining):
            _, connection, query, _ = postponed.popleft()
            too_late.append((connection, query))
        if not self.in_flight or self._moment() > self._overdue_at + limits.OVERDUE_MEMORY_S or self._draining:
            count = limits.REFUSALS_IDLE
        else:
            count = max(1, (self.answered - self._answered_at_refusal) // limits.ANSWERS_A_REFUSAL)
        for _ in range(min(count, len(too_late))):
            connection, query = too_late.popleft()
            connection.refuse(query)
        self._answered_at_refusal = self.answered
        if not postponed:
            self.resume_at = -1
        more = postponed or too_late
        self._refuser = self._loop.call_later(limits.REFUSAL_INTERVAL_S, self._refuse) if more else None

    def refuse_postponed(self) -> None:
        """The worker is draining: resume nothing any more, and refuse without rationing."""
        self._draining = True

    def close(self) -> None:
        if self._refuser is not None:
            self._refuser.cancel()


def _unread_s(transport: Any) -> float:
    """Seconds since the kernel received the last bytes of a connection; 0 if that cannot be found out (TLS, Unix sockets, tests).

    For a Unix socket the kernel keeps no such time, and the length of the round does not say it: the loop may have been idle. A
    request from there therefore counts as having just arrived. It is postponed if too many scans are in flight, and from then on
    its age is known. What is not counted is bounded: each iteration of the loop reads from all connections that have data, so a
    request waits in the kernel for no longer than an iteration takes.
    """
    connection = transport.get_extra_info("socket")
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_INFO_BYTES)
    except (AttributeError, OSError):
        return 0.0
    if len(info) != _TCP_INFO_BYTES:
        return 0.0
    milliseconds: int = _LAST_DATA_RECEIVED.unpack_from(info, _LAST_DATA_RECEIVED_AT)[0]
    return milliseconds / 1000
