"""A server answers scans before it has loaded what serves everything else, and nothing that arrives in between is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import eventually, eventually_sync
from support.served import Connection, Served, children_of, lives, once, own_database, plain_target

from ixfast.cli.exit_codes import ExitCode
from ixfast.embedded import free_port
from ixfast.keys import KeyEncryptionKeys
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(6401, 5, account="shop")
GATED_SERVER = Path(__file__).parents[1] / "support" / "gated_server.py"
DEADLINE_S = 60.0


@pytest.fixture
def gated(postgres: Any, template: str, tmp_path: Path) -> Iterator[Served]:
    """A starting server, whose workers wait for the file `gate` with what serves requests other than plain scans."""
    with own_database(postgres, template) as dsn:
        environ = {"APPS_GATE": str(tmp_path / "gate")}
        ports = {"port": free_port(), "private_port": free_port()}
        server = Served(tmp_path / "server", dsn=dsn, entry=(str(GATED_SERVER),), environ=environ, workers=1, **ports)
        server.port, server.private_port = ports["port"], ports["private_port"]
        server.start(ready=False)
        try:
            server.provision(FLEET)
            yield server
        finally:
            server.stop()


async def passes(port: int, counter: int) -> bool:
    try:
        return (await once(port, plain_target(FLEET, 0, counter))).passed
    except OSError:
        return False


async def test_scans_pass_while_everything_else_still_loads(gated: Served, tmp_path: Path) -> None:
    await eventually(lambda: passes(gated.port, 1), DEADLINE_S)
    assert not gated.ready

    held = [asyncio.create_task(once(gated.port, target)) for target in ("/v2/none", "/v2/scans")]
    async with await Connection.open(gated.port) as pipelined:
        scan = f"GET {plain_target(FLEET, 0, 2)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        pipelined.writer.write(scan + b"GET /v2/none HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await pipelined.answer()).passed
        last = asyncio.create_task(pipelined.answer())
        assert await passes(gated.port, 3)
        assert not any(task.done() for task in (*held, last))
        assert not gated.ready

        (tmp_path / "gate").touch()
        assert [(await task).status for task in (*held, last)] == [404, 405, 404]
    await eventually(lambda: gated.ready, DEADLINE_S)
    assert await passes(gated.port, 4)


async def test_a_client_that_leaves_before_its_request_can_be_served_disturbs_nothing(gated: Served, tmp_path: Path) -> None:
    await eventually(lambda: passes(gated.port, 1), DEADLINE_S)
    async with await Connection.open(gated.port) as leaving, await Connection.open(gated.port) as half_closed:
        leaving.writer.write(b"GET /v2/none HTTP/1.1\r\nHost: x\r\n\r\n")
        half_closed.writer.write(b"GET /v2/none HTTP/1.1\r\nHost: x\r\n\r\n")
        half_closed.writer.write_eof()
        assert await passes(gated.port, 2)
        await leaving.close()
        assert await passes(gated.port, 3)
        (tmp_path / "gate").touch()
        assert (await half_closed.answer()).status == 404
    await eventually(lambda: gated.ready, DEADLINE_S)
    assert "unhandled" not in gated.log


def start(tmp_path: Path, dsn: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ixfast", "serve", "--workers", "2", "--port", "0", "--private-port", "0"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")}
    environ |= {"IXFAST_DSN": dsn, "IXFAST_KEK_FILE": str(tmp_path / "kek")}
    KeyEncryptionKeys.create_file(tmp_path / "kek")
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environ, start_new_session=True, **pipes)


@contextmanager
def tcp_silence() -> Iterator[int]:
    """The port of a listener that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    return eventually_sync(lambda: found if len(found := children_of(process.pid)) == 2 else [], DEADLINE_S)


def await_end(pids: list[int]) -> None:
    eventually_sync(lambda: not any(map(lives, pids)), DEADLINE_S)


def test_a_server_that_cannot_start_leaves_no_worker_and_one_message(tmp_path: Path) -> None:
    with tcp_silence() as port:
        process = start(tmp_path, f"postgresql://nobody@127.0.0.1:{port}/none")
        workers = workers_of(process)
    _, error = process.communicate(timeout=DEADLINE_S)  # the connection was reset
    assert process.returncode == ExitCode.UNAVAILABLE
    assert error.startswith(b"Error: ") and error.count(b"\n") == 1
    await_end(workers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_quietly_with_a_supervisor_that_ends_during_the_start(tmp_path: Path, number: signal.Signals) -> None:
    with tcp_silence() as port:  # the database accepts the connection and never answers, so the preparation does not end
        process = start(tmp_path, f"postgresql://nobody@127.0.0.1:{port}/none")
        workers = workers_of(process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, error = process.communicate(timeout=DEADLINE_S)
        assert b"Traceback" not in error
        await_end(workers)
