"""Accepts connections to the Unix socket of the scan API, whose queue all workers share.

For TCP each worker has a listening socket of its own, and the kernel spreads connections over them. For Unix sockets it does
not: the first to ask gets the next connection, and the worker that wakes up first could take all of them. So a worker accepts one
connection per iteration of its event loop, and none for a moment while it has clearly more than another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from ixfast import meters

log = logging.getLogger("ixfast.worker")

_TURN_S = 0.001  # The time in which a worker with fewer connections can take the next one.
_RETRY_S = 0.1  # After an error, such as too many open files. Other workers go on accepting.
_AHEAD_MIN = 4  # So many connections more than another worker do not make it wait,
_AHEAD_SHARE = 8  # nor does one in this many of its own.


class UnixAcceptor:
    """One per worker. It reads from the meters how many connections each worker has, those of TCP included."""

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        workers: Sequence[meters.Meters],
        own: int,
    ) -> None:
        """`listener` is bound and does not block; `close` closes it. `own` is the index of this worker in `workers`."""
        self._listener = listener
        self._factory = factory
        self._workers = [each.slots for each in workers]
        self._own = self._workers[own]
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self, backlog: int) -> None:
        self._listener.listen(backlog)
        self._loop.add_reader(self._listener, self._take_turn)

    async def close(self) -> None:
        """Accept the connections in the queue, then no more. Other workers may still accept."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        with contextlib.suppress(OSError):
            while self._accept():
                pass
        self._listener.close()
        await asyncio.gather(*self._connecting)

    def _take_turn(self) -> None:
        if self._is_ahead():
            self._wait(_TURN_S)
        else:
            self._accept_one()

    def _is_ahead(self) -> bool:
        own = self._own[meters.CONNECTIONS]
        few = own - max(_AHEAD_MIN, own // _AHEAD_SHARE)
        return any(each[meters.READY] and each[meters.CONNECTIONS] < few for each in self._workers)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Accept what the others have left: they may hang."""
        self._loop.add_reader(self._listener, self._take_turn)
        self._accept_one()

    def _accept_one(self) -> None:
        try:
            self._accept()
        except OSError as error:
            # The socket stays readable: trying again at once would keep the loop busy.
            log.error("unix_socket: cannot accept a connection: %s", error.strerror)
            self._wait(_RETRY_S)

    def _accept(self) -> bool:
        """Accept a connection. False if none is waiting, perhaps because another worker was faster."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return False
        task = self._loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as error:
            log.debug("unix_socket: lost a connection that was just accepted: %s", error.strerror)
            connection.close()
