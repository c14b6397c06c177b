"""Clients of the Unix socket get what clients of the TCP port get, from the same ledger and from every worker."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support import eventually, eventually_sync
from support.certificates import write_certificate
from support.held_rows import rows_held
from support.requirements import requires
from support.served import (
    STOP_DEADLINE_S,
    Answer,
    ClosedError,
    Connection,
    Served,
    all_of,
    descendants_of,
    once,
    own_database,
    plain_target,
    request,
)

from ixfast.cli.exit_codes import ExitCode
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(131, 4000, account="shop")
ANSWERED = r'ixfast_hot_requests_total\{worker="(\d)"\} (\S+)'
OPEN = r'ixfast_connections\{worker="(\d)"\} (\S+)'
REFUSED = r'ixfast_scan_errors_total\{code="rate_limited",worker="(\d)"\} (\S+)'

_tags = itertools.count()


def fresh_tap() -> str:
    return plain_target(FLEET, next(_tags), 1)


@pytest.fixture
def path(open_scratch: Path, tmp_path: Path) -> Iterator[Path]:
    """Where a server of the test's own makes its socket. Paths of pytest may be too long for one."""
    made = open_scratch / f"{tmp_path.name[-12:]}.sock"
    yield made
    made.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def unix(postgres: Any, template: str, open_scratch: Path) -> Iterator[tuple[Served, Path]]:
    """A server with two workers, and its socket."""
    made = open_scratch / "shared.sock"
    with own_database(postgres, template) as dsn, Served(open_scratch / "unix", dsn=dsn, unix_socket=made) as server:
        server.provision(FLEET)
        yield server, made
        assert "Traceback" not in server.log


def by_worker(server: Served, pattern: str) -> dict[int, int]:
    text = server.ask_private("/metrics")[1].decode()
    return {int(worker): int(float(value)) for worker, value in re.findall(rf"^{pattern}$", text, re.MULTILINE)}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["socket first", "port first"])
async def test_a_tap_passes_once_whichever_way_it_comes(unix: tuple[Served, Path], order: tuple[int, int]) -> None:
    server, made = unix
    places: list[int | Path] = [made, server.port]
    tap = fresh_tap()
    assert (await once(places[order[0]], tap)).passed
    assert (await once(places[order[1]], tap)).failed
    both = fresh_tap()
    answers = await asyncio.gather(*(once(place, both) for place in places * 8))
    assert sorted(answer.json["response"] for answer in answers) == ["Fail"] * 15 + ["Pass"]


Ask = Callable[[Connection], Awaitable[Answer]]
REQUESTS: dict[str, Ask] = {
    "unknown": lambda c: c.get("/v1/t?x=nosuchtag"),
    "malformed": lambda c: c.get("/v1/t?x=nosuchtag&n=zz"),
    "head": lambda c: c.get("/v1/t?x=nosuchtag", method="HEAD"),
    "preflight": lambda c: c.get("/v2/scans", {"Origin": "https://a.example"}, method="OPTIONS"),
    "cross origin": lambda c: c.get("/v1/t?x=nosuchtag", {"Origin": "https://a.example"}),
    "no route": lambda c: c.get("/v2/nowhere"),
    "v2": lambda c: c.post("/v2/scans?peek=true", {"xuid": "nosuchtag"}),
    "batch": lambda c: c.post("/v2/scans/batch", {"scans": [{"xuid": "nosuchtag"}] * 3}),
    "wrong body": lambda c: c.post("/v2/scans", {"xuid": 1}),
    "bad key": lambda c: c.get("/v1/t?x=nosuchtag", {"X-API-Key": "ixf_nonesuch"}),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_every_response_is_that_of_the_port(unix: tuple[Served, Path], name: str) -> None:
    server, made = unix
    answers = []
    for place in (made, server.port):
        async with await Connection.open(place) as connection:
            answer = await REQUESTS[name](connection)
            again = await REQUESTS[name](connection)  # the connection is kept
        headers = {key: value for key, value in answer.headers.items() if key != "x-request-id"}
        assert again.status == answer.status
        answers.append((answer.status, headers, re.sub(rb'"(request_id|scan_id)":"[^"]*"', b"", answer.body)))
    assert answers[0] == answers[1]


async def test_pipelines_and_pieces(unix: tuple[Served, Path]) -> None:
    _, made = unix
    stream = b"".join(request("GET", fresh_tap()) for _ in range(60))
    async with await Connection.open(made) as connection:
        for at in range(0, len(stream), 777):
            connection.writer.write(stream[at : at + 777])
            await connection.writer.drain()
        assert all([(await connection.answer()).passed for _ in range(60)])


async def opened(made: Path, count: int, *, at_once: bool) -> list[Connection]:
    """Connections of which each has been answered."""

    async def one() -> Connection:
        connection = await Connection.open(made)
        assert (await connection.get("/v1/t?x=nosuchtag")).status == 404
        return connection

    return list(await asyncio.gather(*(one() for _ in range(count)))) if at_once else [await one() for _ in range(count)]


@pytest.mark.parametrize(("count", "at_once"), [(256, True), (64, False)], ids=["at once", "one after the other"])
async def test_connections_are_spread_over_the_workers(unix: tuple[Served, Path], count: int, at_once: bool) -> None:
    server, made = unix
    await eventually(lambda: sum(by_worker(server, OPEN).values()) == 0, 20.0)
    connections = await opened(made, count, at_once=at_once)
    try:
        spread = by_worker(server, OPEN)
        assert sum(spread.values()) == count and len(spread) == 2
        assert min(spread.values()) >= count // 4, spread
    finally:
        for connection in connections:
            await connection.close()
    await eventually(lambda: sum(by_worker(server, OPEN).values()) == 0, 20.0)


async def scan_until(stop: asyncio.Event, made: Path) -> list[str]:
    """Scan fresh taps; returns what was no pass. A broken connection is opened again, and must be accepted."""
    wrong: list[str] = []
    connection = await Connection.open(made)
    while not stop.is_set():
        try:
            answer = await connection.get(fresh_tap())
        except (ClosedError, OSError) as error:
            wrong.append(type(error).__name__)
            await connection.close()
            connection = await Connection.open(made)
            continue
        if not answer.passed:
            wrong.append(f"{answer.status} {answer.body!r}")
        await asyncio.sleep(0.02)
    await connection.close()
    return wrong


async def test_a_worker_that_is_killed_costs_only_its_own_connections(unix: tuple[Served, Path]) -> None:
    server, made = unix
    stop = asyncio.Event()
    clients = [asyncio.create_task(scan_until(stop, made)) for _ in range(16)]
    try:
        await eventually(lambda: min(by_worker(server, OPEN).values()) >= 2, 20.0)
        killed, other = server.workers()
        os.kill(killed, signal.SIGKILL)
        # Connections that are waiting are not lost with it, and neither are new ones.
        answers = await all_of(made, [fresh_tap() for _ in range(40)], 40)
        broken = [answer for answer in answers if not answer.passed]
        assert not broken, broken
        await eventually(lambda: len(server.workers()) == 2 and server.all_ready, 30.0)
        assert killed not in server.workers() and other in server.workers()
        connections = await opened(made, 40, at_once=True)
        try:
            assert min(by_worker(server, OPEN).values()) >= 10  # the new worker accepts, too
        finally:
            for connection in connections:
                await connection.close()
    finally:
        stop.set()
        outcomes = await asyncio.gather(*clients)
    assert sum(len(wrong) for wrong in outcomes) < 16, outcomes  # one failure for each connection of that worker
    assert {each for wrong in outcomes for each in wrong} <= {"ClosedError", "ConnectionResetError", "BrokenPipeError"}, outcomes


async def test_connections_wait_while_no_worker_lives(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, workers=1, unix_socket=path) as server:
        server.provision(FLEET)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        assert (await once(path, plain_target(FLEET, 0, 1))).passed
        assert server.stop() == 0


async def is_refused(path: Path) -> bool:
    try:
        await (await Connection.open(path)).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


async def test_a_drain_answers_what_is_under_way_and_removes_the_file(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, unix_socket=path) as server:
        server.provision(FLEET)
        async with await Connection.open(path) as hot, await Connection.open(path) as posted, await Connection.open(path) as idle:
            assert (await idle.get("/v1/t?x=nosuchtag")).status == 404
            x, n, e = FLEET.plain_tap(1, 1)
            async with rows_held(database) as waiting:
                answers = asyncio.gather(
                    hot.get(plain_target(FLEET, 0, 1)), posted.post("/v2/scans", {"xuid": x, "counter": n, "code": e})
                )
                await eventually(waiting)
                server.signal()
                await eventually(lambda: is_refused(path), 20.0)
            outcomes = [(answer.status, answer.headers.get("connection")) for answer in await answers]
            assert all(status in (200, 503) and connection == "close" for status, connection in outcomes), outcomes
            assert await asyncio.wait_for(idle.reader.read(), 20.0) == b""
        # Another signal could meet a process that no longer handles it.
        process, server.process = server.process, None
        assert process is not None
        assert await asyncio.to_thread(process.wait, STOP_DEADLINE_S) == 0
        assert not path.exists()  # noqa: ASYNC240
        assert "Traceback" not in server.log


async def test_scans_are_accepted_during_the_drain_delay(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, unix_socket=path, drain_delay_ms=600_000) as server:
        server.provision(FLEET)
        server.signal()
        await eventually(lambda: not server.ready, 20.0)
        assert (await once(path, plain_target(FLEET, 0, 1))).passed
        assert (await once(path, plain_target(FLEET, 0, 1))).failed
        kill(server)  # instead of waiting for the end of the delay


def kill(server: Served) -> None:
    """Kill the supervisor and its workers."""
    process, server.process = server.process, None
    assert process is not None
    for pid in (process.pid, *descendants_of(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_the_file_of_a_killed_server_is_replaced(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, workers=1, unix_socket=path) as server:
        server.provision(FLEET)
        kill(server)
        assert stat.S_ISSOCK(path.stat().st_mode)
        # The kernel may take a moment to close what the worker had open.
        eventually_sync(lambda: asyncio.run(is_refused(path)), 20.0)
        server.start()
        assert asyncio.run(once(path, plain_target(FLEET, 0, 1))).passed
        assert server.stop() == 0
        assert not path.exists()


def test_a_second_server_is_refused(unix: tuple[Served, Path], postgres: Any, template: str, server_dir: Path) -> None:
    _, made = unix
    inode = made.stat().st_ino
    with own_database(postgres, template) as dsn:
        second = Served(server_dir, dsn=dsn, unix_socket=made)
        second.start(ready=False)
        assert second.process is not None
        assert second.process.wait(30) == ExitCode.CONFIGURATION
        second.process = None
    assert second.log == (
        f"Error: unix_socket: cannot bind {made} (another server uses it); stop the other server or choose another path.\n"
    )
    assert made.stat().st_ino == inode
    assert asyncio.run(once(made, fresh_tap())).passed


def test_the_file_of_another_server_is_not_removed(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, workers=1, unix_socket=path) as server:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            assert server.stop() == 0
            assert path.exists()


def test_the_banner_shows_how_to_try_it(database: str, server_dir: Path, path: Path) -> None:
    curl = requires("curl", package="curl")
    spaced = path.with_name(f"with space {path.name}")
    with Served(server_dir, dsn=database, workers=1, unix_socket=spaced) as server:
        line = eventually_sync(lambda: next((line for line in server.output.splitlines() if "--unix-socket" in line), None), 10)
        assert f"scans also through the Unix socket {shlex.quote(str(spaced))}" in server.output
        words = shlex.split(line)
        assert words[0] == "curl"
        body = subprocess.run([curl, *words[1:], "-sS"], capture_output=True, text=True, timeout=20, check=True).stdout
        assert json.loads(body)["error"] == "not_found"
        assert stat.S_IMODE(spaced.stat().st_mode) == 0o666


def test_without_the_setting_there_is_no_socket(server: Served) -> None:
    assert "socket" not in server.output


async def test_limits_of_connections_count_both_ways(database: str, server_dir: Path, path: Path) -> None:
    with Served(server_dir, dsn=database, workers=1, unix_socket=path, max_connections=3) as server:
        two = [await Connection.open(path) for _ in "12"]
        for connection in two:
            assert (await connection.get("/v1/t?x=nosuchtag")).status == 404
        async with await Connection.open(server.port) as third:
            assert (await third.get("/v1/t?x=nosuchtag")).status == 404
            with pytest.raises((ClosedError, ConnectionError)):
                await once(path, "/v1/t?x=nosuchtag")
        for connection in two:
            await connection.close()
        await eventually(lambda: by_worker(server, OPEN) == {0: 0}, 20.0)
        assert (await once(path, "/v1/t?x=nosuchtag")).status == 404


async def test_the_socket_speaks_http_beside_a_port_with_tls(database: str, server_dir: Path, path: Path) -> None:
    server_dir.mkdir(mode=0o711)  # noqa: ASYNC240
    cert, key = write_certificate(server_dir)
    with Served(server_dir, dsn=database, workers=1, unix_socket=path, tls_cert=cert, tls_key=key) as server:
        server.provision(FLEET)
        assert server.scheme == "https"
        assert (await once(path, plain_target(FLEET, 0, 1))).passed


def named(made: Path, name: bytes | str) -> socket.socket:
    """A connection whose client has given itself a name."""
    client = socket.socket(socket.AF_UNIX)
    if name:
        client.bind(name)
    client.connect(str(made))
    client.setblocking(False)
    return client


WAYS: dict[str, Ask] = {
    "hot": lambda c: c.get(fresh_tap()),
    "aiohttp": lambda c: c.get(fresh_tap(), {"Expect": ""}),
    "v2": lambda c: c.post("/v2/scans", {"url": FLEET[next(_tags)].tap_at(1)}),
}


@pytest.fixture(scope="module")
def limited(postgres: Any, template: str, open_scratch: Path) -> Iterator[tuple[Served, Path]]:
    made = open_scratch / "limited.sock"
    settings = {"unix_socket": made, "workers": 1, "rate_limit_address": 1, "trust_forwarded_for": True}
    with own_database(postgres, template) as dsn, Served(open_scratch / "limited", dsn=dsn, **settings) as server:
        server.provision(FLEET)
        yield server, made
        assert "Traceback" not in server.log and "unhandled" not in server.log


async def in_debt(made: Path, headers: Mapping[str, str]) -> None:
    """Spend what this caller may send in the next quarter of an hour."""
    async with await Connection.open(made) as connection:
        scans = {"scans": [{"xuid": "nosuchtag"}] * 1000}
        assert (await connection.post("/v2/scans/batch", scans, headers)).status in (200, 429)


@pytest.mark.parametrize("way", WAYS)
async def test_clients_of_the_socket_share_one_limit_whatever_they_call_themselves(
    limited: tuple[Served, Path], way: str, tmp_path: Path
) -> None:
    """A client of TCP cannot choose its address either."""
    _, made = limited
    await in_debt(made, {})
    for name in ("", b"\0127.0.0.1", b"\0\xff\xfe", "10.0.0.7", str(made.with_name(f"c-{way}"))):
        with contextlib.chdir(tmp_path):  # a relative name may look like an address
            client = named(made, name)
        async with Connection(*await asyncio.open_unix_connection(sock=client)) as connection:
            assert (await WAYS[way](connection)).status == 429, name


@pytest.mark.parametrize("way", WAYS)
async def test_a_balancer_reports_the_addresses_of_its_clients(limited: tuple[Served, Path], way: str) -> None:
    _, made = limited
    blocked, free = {"X-Forwarded-For": f"198.51.100.{len(way)}"}, {"X-Forwarded-For": f"203.0.113.{len(way)}"}
    await in_debt(made, blocked)
    ask = {
        "hot": lambda c, h: c.get(fresh_tap(), h),
        "aiohttp": lambda c, h: c.get(fresh_tap(), {"Expect": "", **h}),
        "v2": lambda c, h: c.post("/v2/scans", {"url": FLEET[next(_tags)].tap_at(1)}, h),
    }[way]
    async with await Connection.open(made) as connection:
        assert (await ask(connection, blocked)).status == 429
        assert (await ask(connection, free)).status == 200
