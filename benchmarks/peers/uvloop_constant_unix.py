"""The bare uvloop protocol with a constant response over a Unix socket: the ceiling of `uvloop_constant.py` without TCP.

The kernel does not spread the connections of a Unix socket over processes. So the first process accepts them and deals them
out in turn, which costs nothing later: the load keeps its connections.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import uvloop

from benchmarks.peers.uvloop_constant import Constant


async def serve(dealt: socket.socket) -> None:
    """Serve the connections that arrive through a socket, until that is closed."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()
    tasks: set[asyncio.Task[object]] = set()

    def receive() -> None:
        _, descriptors, _, _ = socket.recv_fds(dealt, 1, 1)
        if not descriptors:
            closed.set()
            return
        task = loop.create_task(loop.connect_accepted_socket(Constant, socket.socket(fileno=descriptors[0])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(dealt, receive)
    await closed.wait()


def main(path: str, workers: int) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
    for own, (_, dealt) in enumerate(pairs):
        if os.fork() == 0:
            listener.close()
            for number, (ours, theirs) in enumerate(pairs):
                ours.close()
                if number != own:
                    theirs.close()
            uvloop.run(serve(dealt))
            return
    for _, dealt in pairs:
        dealt.close()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    listener.listen(4096)
    turn = 0
    try:
        while True:
            connection, _ = listener.accept()
            socket.send_fds(pairs[turn % workers][0], [b"\0"], [connection.fileno()])
            connection.close()
            turn += 1
    finally:
        for ours, _ in pairs:
            ours.close()
        for _ in pairs:
            os.wait()  # so that their processor time is known to be this benchmark's (`disturbance.py`)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
