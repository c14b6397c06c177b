"""Sockets that the supervisor opens for the scan API."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ixfast.process.supervisor import _choose_congestion_control, bind_listener

_NAME_BYTES_MAX = 16


@contextmanager
def accepted(algorithm: str) -> Iterator[socket.socket]:
    """The server's side of a connection."""
    with bind_listener("127.0.0.1", 0, "port", shared=True) as listener:
        _choose_congestion_control(listener, algorithm)
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                yield connection


def congestion_control(connection: socket.socket) -> str:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES_MAX).rstrip(b"\0").decode()


def test_connections_have_the_congestion_control_that_was_chosen() -> None:
    with accepted("reno") as connection:  # every kernel has it, and allows it to everybody
        assert congestion_control(connection) == "reno"


def test_without_a_choice_it_is_the_systems() -> None:
    with accepted("system") as connection:
        assert congestion_control(connection) == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def test_an_unavailable_algorithm_does_not_prevent_listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with bind_listener("127.0.0.1", 0, "port", shared=True) as listener:
        reason = _choose_congestion_control(listener, "nonesuch")
    assert reason is not None and reason.startswith("nonesuch is not available (")
    assert not caplog.text  # that is for the supervisor, when it serves: a start that fails has one message only
    with accepted("nonesuch") as connection:
        assert congestion_control(connection) == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
