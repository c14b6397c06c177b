"""Connections that the front door hands over before aiohttp and the applications on it are loaded.

A worker serves hot requests as soon as it can, and loads everything else in the meantime. What arrives for that waits here, as
it would have waited in the socket, and is then given to the real protocol object in the order in which it came.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

from ixfast import limits


class ClosingProtocol(asyncio.Protocol):
    """What aiohttp's protocol object offers beyond `asyncio.Protocol`. For type checkers."""

    @abstractmethod
    def close(self) -> None:
        """Let the active request finish, then close the connection."""


class LateHandlers:
    """`make` makes the protocol object of a connection; those made before `open` wait for it."""

    def __init__(self) -> None:
        self._make: Callable[[], ClosingProtocol] | None = None
        self._waiting: list[_Waiting] = []

    def make(self) -> asyncio.Protocol:
        if self._make is not None:
            return self._make()
        waiting = _Waiting()
        self._waiting.append(waiting)
        return waiting

    def open(self, make: Callable[[], ClosingProtocol]) -> None:
        """From here on, protocol objects come from `make`. Those that wait begin."""
        self._make = make
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.begin(make)


class _Waiting(asyncio.Protocol):
    """Keeps what one connection receives, within a bound, and then only forwards calls to the real protocol object."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._handler: ClosingProtocol | None = None
        self._received: list[bytes] = []
        self._size = 0
        self._eof = False
        self._lost = False

    def begin(self, make: Callable[[], ClosingProtocol]) -> None:
        if self._lost:
            return
        handler = self._handler = make()
        handler.connection_made(self._transport)
        received, self._received = b"".join(self._received), []
        if received:
            handler.data_received(received)
        if self._eof:
            handler.close()
        if self._size > limits.PIPELINE_BYTES_MAX and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._received.clear()
        if self._handler is not None:
            self._handler.connection_lost(error)

    def data_received(self, received: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(received)
            return
        self._received.append(received)
        before, self._size = self._size, self._size + len(received)
        if before <= limits.PIPELINE_BYTES_MAX < self._size:
            self._transport.pause_reading()

    def eof_received(self) -> bool | None:
        if self._handler is not None:
            return self._handler.eof_received()
        self._eof = True
        return True  # a client that has closed its sending side still gets its response

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()
