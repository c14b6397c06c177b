"""A TCP proxy with fault injection: it cuts, stalls and refuses connections, and loses replies after a commit.

It uses one fact about PostgreSQL's protocol: a reply is complete, and its commit done, when ReadyForQuery arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from support import eventually

READY = b"Z\x00\x00\x00\x05I"
_CHUNK_BYTES = 1 << 16


class Fault:
    """A fault for the next `times` requests that contain `needle`; `hits` counts them."""

    def __init__(self, needle: bytes, times: int, *, applied: bool, then_refuse: bool) -> None:
        self.needle = needle
        self.left = times
        self.hits = 0
        self.applied = applied
        self.then_refuse = then_refuse


class _Link:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.fault: Fault | None = None

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class TcpProxy:
    """`async with TcpProxy(5432) as proxy:` leads 127.0.0.1:`proxy.port` to the upstream port.

    While `refusing`, new connections are closed. `stall` stops traffic in both directions until `flow`.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.refusing = False
        self._upstream_port = upstream_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_left: int | None = None
        self._faults: list[Fault] = []
        self._links: set[_Link] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.refusing = True
        self.flow()
        self._server.close()
        self.cut()
        await self._server.wait_closed()
        await eventually(lambda: not self._links)

    @property
    def links(self) -> int:
        return len(self._links)

    @property
    def stalled(self) -> bool:
        return not self._flowing.is_set()

    def stall(self) -> None:
        self._flowing.clear()

    def stall_after(self, count: int) -> None:
        """Stop traffic as soon as the clients have sent so many more bytes."""
        self._bytes_left = count

    def flow(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Close every connection, on both sides."""
        for link in self._links:
            link.cut()

    def lose_replies(self, needle: bytes, times: int = 1, *, then_refuse: bool = False) -> Fault:
        """Forward the next requests that contain `needle`, drop their replies, and close: they are committed, but the client
        does not learn of it. With `then_refuse` new connections are refused until `refusing` is reset.
        """
        return self._add(Fault(needle, times, applied=True, then_refuse=then_refuse))

    def lose_requests(self, needle: bytes, times: int = 1, *, then_refuse: bool = False) -> Fault:
        """Close before the next requests that contain `needle` reach the server, so that nothing is applied."""
        return self._add(Fault(needle, times, applied=False, then_refuse=then_refuse))

    def _add(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                return
            server_reader, server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            link = _Link(client, server)
            self._links.add(link)
            try:
                with contextlib.suppress(OSError):  # the other side is closed already
                    await asyncio.gather(self._requests(client_reader, link), self._replies(server_reader, link))
            finally:
                link.cut()
                self._links.discard(link)
        finally:
            client.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while request := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            fault = next((f for f in self._faults if f.left and f.needle in request), None)
            if fault is not None:
                fault.left -= 1
                if not fault.applied:
                    self._strike(fault)
                    break
                link.fault = fault
            link.server.write(request)
            if self._bytes_left is not None:
                self._bytes_left -= len(request)
                if self._bytes_left <= 0:
                    self._bytes_left = None
                    self.stall()
        link.cut()

    async def _replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while reply := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            if link.fault is None:
                link.client.write(reply)
            elif reply.endswith(READY):
                self._strike(link.fault)
                break
        link.cut()

    def _strike(self, fault: Fault) -> None:
        fault.hits += 1
        self.refusing = self.refusing or fault.then_refuse
