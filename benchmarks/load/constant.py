"""A server that does no work, as cheaply as Python can: it shows what the generator itself costs.

It answers everything that it receives. `--delay-us` delays responses, `--busy-us` uses the processor for that long, and
`--stall-ms` stops once after `--stall-after` requests, which a correct generator must notice. On SIGTERM it prints the number
of requests that it answered.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from typing import cast

import uvloop

_BODY = b'{"xuid":"abcdefgh","response":"Pass"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class Constant(asyncio.Protocol):
    answered = 0
    delay_s = 0.0
    busy_ns = 0
    stall_s = 0.0
    stall_after = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, received: bytes) -> None:
        cls = Constant
        if cls.busy_ns:
            until_ns = time.monotonic_ns() + cls.busy_ns
            while time.monotonic_ns() < until_ns:
                pass
        if cls.stall_s and cls.answered == cls.stall_after:
            time.sleep(cls.stall_s)
        if cls.delay_s:
            self._loop.call_later(cls.delay_s, self._answer)
        else:
            self._transport.write(ANSWER)
        cls.answered += 1

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    left = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, left.set)
    server = await loop.create_server(Constant, "127.0.0.1", port, reuse_port=True, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await left.wait()
    server.close()
    print(Constant.answered, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 lets the kernel choose; the port is printed")
    parser.add_argument("--delay-us", type=int, default=0)
    parser.add_argument("--busy-us", type=int, default=0)
    parser.add_argument("--stall-ms", type=int, default=0)
    parser.add_argument("--stall-after", type=int, default=0)
    given = parser.parse_args()
    Constant.delay_s, Constant.busy_ns = given.delay_us / 1e6, given.busy_us * 1000
    Constant.stall_s, Constant.stall_after = given.stall_ms / 1e3, given.stall_after
    uvloop.run(_serve(given.port))


if __name__ == "__main__":
    main()
