"""The listening socket of the Python peers: one for each process (SO_REUSEPORT), set up like the one of ixfast."""

from __future__ import annotations

import contextlib
import socket

_CONGESTION_CONTROL = b"cubic"  # as of ixfast and the generator: with bbr each response would cost a timer


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with contextlib.suppress(OSError):  # the kernel does not provide it: its default applies
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
    listener.bind(("127.0.0.1", port))
    return listener
