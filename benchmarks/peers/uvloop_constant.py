"""A bare uvloop protocol with a constant response: what sockets and the event loop cost, without an HTTP parser.

It is the ceiling of every server in this language: it looks at a request only to find its end, and does nothing else.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from benchmarks.peers.listening import listen

_BODY = b'{"xuid":"abcdefgh","response":"Pass"}'
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_END = b"\r\n\r\n"


class Constant(asyncio.Protocol):
    """One connection. Requests have no body."""

    __slots__ = ("_rest", "_write")

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        whole = self._rest + data if self._rest else data
        requests = whole.count(_END)
        if whole.endswith(_END):
            self._rest = b""
        else:
            self._rest = whole[whole.rfind(_END) + len(_END) :] if requests else whole
        if requests:
            self._write(_RESPONSE * requests)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Constant, sock=listen(port))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
