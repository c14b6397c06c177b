"""HAProxy and nginx as deploy/ configures them, in front of two real servers that share one database.

The shipped files run unchanged; only the addresses are filled in, in the way each file provides. Both balancers come from the
distribution (`apt-get install haproxy nginx`).
"""

import asyncio
import contextlib
import gzip
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually, eventually_sync
from support.requirements import requires
from support.served import STOP_DEADLINE_S, Answer, ClosedError, Connection, Served, once, own_database, plain_target, request

from ixfast.embedded import free_port
from ixfast.testing.virtual_tags import VirtualFleet

DEPLOY = Path(__file__).parents[2] / "deploy"
FLEET = VirtualFleet(77, 20_000, account="balanced")
DRAIN_DELAY_MS = 3000
CLIENTS = 8

_next_tag = iter(range(len(FLEET)))


def fresh_tap() -> str:
    """The request target of a tap that has not been scanned before."""
    return plain_target(FLEET, next(_next_tag), 1)


def free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


class Balancer:
    """A running balancer; `settings` holds the variables that the shipped files expect."""

    def __init__(self, kind: str, home: Path, config: str, settings: dict[str, str]) -> None:
        program = requires(kind, package=kind)
        self.kind = kind
        self.port = int(settings["BALANCER_BIND"].rpartition(":")[2])
        self._log = home / "balancer.log"
        environ = {"PATH": os.environ["PATH"]}
        if kind == "haproxy":
            (home / "haproxy.cfg").write_text(config)
            command = [program, "-db", "-f", str(home / "haproxy.cfg")]
            environ |= settings
        else:
            for name, value in settings.items():
                config = config.replace(f"${{{name}}}", value)
            (home / "included.conf").write_text(config)
            user = "user root;" if os.geteuid() == 0 else ""
            folders = " ".join(
                f"{each}_temp_path {home}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            (home / "nginx.conf").write_text(
                f"daemon off; {user} pid {home}/pid; error_log stderr notice; worker_processes 2; events {{}}\n"
                f"http {{ {folders} include {home}/included.conf; }}\n"
            )
            command = [program, "-p", str(home), "-c", str(home / "nginx.conf")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            eventually_sync(self._answers, 10)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="module")
def pair(postgres: Any, template: str, open_scratch: Path) -> Iterator[tuple[Served, Served]]:
    """Two servers, as on two hosts: one database, the same key file, fixed ports."""
    ports = free_ports(4)
    homes = [open_scratch / "host-1", open_scratch / "host-2"]
    with own_database(postgres, template) as dsn:
        one, two = (
            Served(
                home,
                dsn=dsn,
                workers=1,
                drain_delay_ms=DRAIN_DELAY_MS,
                port=ports[2 * place],
                private_port=ports[2 * place + 1],
                unix_socket=socket_of(home),
            )
            for place, home in enumerate(homes)
        )
        with one:
            homes[1].mkdir(mode=0o711)
            shutil.copy2(one.kek_file, two.kek_file)
            with two:
                one.provision(FLEET)
                yield one, two


def socket_of(home: Path) -> Path:
    return home.with_name(f"{home.name}.sock")


def addresses(*servers: Served) -> dict[str, str]:
    settings = {"BALANCER_BIND": f"127.0.0.1:{free_ports(1)[0]}"}
    for number, server in enumerate(servers, 1):
        settings |= {
            f"SERVER_{number}_ADDRESS": f"127.0.0.1:{server.port}",
            f"SERVER_{number}_PRIVATE_PORT": str(server.private_port),
        }
    return settings


def shipped(kind: str) -> str:
    return (DEPLOY / {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]).read_text()


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def balancer(request: pytest.FixtureRequest, pair: tuple[Served, Served], open_scratch: Path) -> Iterator[Balancer]:
    home = open_scratch / f"balancer-{request.param}"
    home.mkdir()
    running = Balancer(request.param, home, shipped(request.param), addresses(*pair))
    yield running
    running.stop()


def meter(server: Served, name: str, labels: str = "") -> int:
    """The sum of a metric's samples whose labels contain `labels`."""
    lines = server.ask_private("/metrics")[1].decode().splitlines()
    samples = (re.fullmatch(rf"{name}{{(.*)}} (\S+)", line) for line in lines)
    return sum(int(float(sample[2])) for sample in samples if sample and labels in sample[1])


def meters(servers: tuple[Served, Served], name: str) -> int:
    return sum(meter(server, name) for server in servers)


async def test_a_tap_passes_once_whichever_server_is_asked(balancer: Balancer, pair: tuple[Served, Served]) -> None:
    before = [meter(server, "ixfast_scans_total") for server in pair]
    for _ in range(20):
        path = fresh_tap()
        answers = await asyncio.gather(*(once(balancer.port, path) for _ in range(4)))
        assert sorted(answer.json["response"] for answer in answers) == ["Fail", "Fail", "Fail", "Pass"]
    after = [meter(server, "ixfast_scans_total") for server in pair]
    assert all(later - earlier >= 10 for earlier, later in zip(before, after, strict=True)), "both servers must receive scans"


def browser(number: int) -> dict[str, str]:
    """Header fields of many kinds of clients; X-Forwarded-For occurs twice once the balancer has added its own."""
    return {
        "User-Agent": f"Mozilla/5.0 (Phone {number}; é)",
        "Accept": "application/json, */*;q=0.8",
        "Accept-Language": "de-AT,de;q=0.9",
        "Cookie": f"session={number}",
        "X-Forwarded-For": f"198.51.100.{number % 250}",
        "Connection": "keep-alive",
        "TE": "trailers",
    }


async def test_kept_connections_stay_on_the_front_door(balancer: Balancer, pair: tuple[Served, Served]) -> None:
    """Other requests between the scans get connections of their own, so they do not slow the scans down."""
    hot, handed_over = meters(pair, "ixfast_hot_requests_total"), meters(pair, "ixfast_handed_over_connections_total")
    scans = 0

    async def client(place: int) -> None:
        nonlocal scans
        async with await Connection.open(balancer.port) as connection:
            for number in range(30):
                assert (await connection.get(fresh_tap(), browser(place * 100 + number))).passed
                scans += 1
                if number % 10 == 0:
                    refused = await connection.post("/v2/scans", {"xuid": "nosuchtag"})
                    assert (refused.status, refused.json["verdict"]) == (200, "unknown")
                    assert (await connection.get(fresh_tap() + "&note=%7E", browser(number))).passed
                    assert (await connection.get(fresh_tap(), method="HEAD")).status == 200

    await asyncio.gather(*(client(place) for place in range(CLIENTS)))
    assert meters(pair, "ixfast_hot_requests_total") - hot == scans == 30 * CLIENTS
    # At most one for each request in flight at the same time.
    assert meters(pair, "ixfast_handed_over_connections_total") - handed_over <= 2 * CLIENTS


async def test_a_body_that_cannot_be_read_is_refused_in_the_usual_shape(balancer: Balancer) -> None:
    """On every path, and on both of the balancer's routes to the servers."""
    body = gzip.compress(b'{"xuid":"nosuchtag"}')
    for method, path in (("POST", "/v2/scans"), ("POST", "/v2/scans/batch"), ("GET", fresh_tap())):
        async with await Connection.open(balancer.port) as connection:
            connection.writer.write(request(method, path, {"Content-Encoding": "gzip"}, body))
            answer = await connection.answer()
        assert (answer.status, answer.json["error"]["code"]) == (415, "unsupported_encoding"), (method, path)
        assert answer.json["error"]["request_id"]
        async with await Connection.open(balancer.port) as connection:
            connection.writer.write(request(method, path, {"Content-Length": "1048577"}))
            answer = await connection.answer()
        assert (answer.status, answer.json["error"]["code"]) == (413, "too_large"), (method, path)
    assert (await once(balancer.port, fresh_tap(), {"Content-Encoding": "gzip"})).passed, "there is no body to decode"


HABITS = {
    "haproxy": """
defaults
    mode http
    option forwardfor
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend scans
    bind "${BALANCER_BIND}"
    http-request set-header X-Forwarded-Proto http
    default_backend servers
backend servers
    server one "${SERVER_1_ADDRESS}"
    server two "${SERVER_2_ADDRESS}"
""",
    "nginx": """
upstream servers { server ${SERVER_1_ADDRESS}; server ${SERVER_2_ADDRESS}; keepalive 16; }
server {
    listen ${BALANCER_BIND};
    location / {
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_pass http://servers;
    }
}
""",
}


@pytest.mark.parametrize("kind", HABITS)
async def test_the_header_fields_that_balancers_usually_add_stay_on_the_front_door(
    kind: str, pair: tuple[Served, Served], tmp_path: Path
) -> None:
    """A user's own configuration: nothing specific to ixfast, only the usual directives."""
    balancer = Balancer(kind, tmp_path, HABITS[kind], addresses(*pair))
    try:
        hot, handed_over = meters(pair, "ixfast_hot_requests_total"), meters(pair, "ixfast_handed_over_connections_total")
        async with await Connection.open(balancer.port) as connection:
            for _ in range(40):
                assert (await connection.get(fresh_tap(), {"User-Agent": "curl/8.5.0", "Accept": "*/*"})).passed
        assert meters(pair, "ixfast_hot_requests_total") - hot == 40
        assert meters(pair, "ixfast_handed_over_connections_total") == handed_over
    finally:
        balancer.stop()


@pytest.mark.parametrize("kind", HABITS)
async def test_the_shipped_files_with_unix_sockets(kind: str, pair: tuple[Served, Served], tmp_path: Path) -> None:
    """With the changes that the guide names, and nothing else: the balancer reaches neither port of the scan API."""
    settings, config = addresses(*pair), shipped(kind)
    for number, server in enumerate(pair, 1):
        prefix = {"haproxy": "unix@", "nginx": "unix:"}[kind]
        settings[f"SERVER_{number}_ADDRESS"] = f"{prefix}{socket_of(server.home)}"
    if kind == "haproxy":
        config = config.replace('" check port ', '" check addr 127.0.0.1 port ')
    balancer = Balancer(kind, tmp_path, config, settings)
    try:
        hot, scans = meters(pair, "ixfast_hot_requests_total"), [meter(server, "ixfast_scans_total") for server in pair]
        async with await Connection.open(balancer.port) as connection:
            for number in range(40):
                path = fresh_tap()
                assert (await connection.get(path, browser(number))).passed
                assert (await once(pair[number % 2].port, path)).failed  # the same ledger
                refused = await connection.post("/v2/scans", {"xuid": "nosuchtag"})
                assert (refused.status, refused.json["verdict"]) == (200, "unknown")
        assert meters(pair, "ixfast_hot_requests_total") - hot == 80
        after = [meter(server, "ixfast_scans_total") for server in pair]
        # 20 replays, 20 scans of each server's share of the taps, and at least some of the other requests.
        assert all(later - earlier >= 30 for earlier, later in zip(scans, after, strict=True)), "both servers must receive scans"
        assert "unhandled" not in pair[0].log + pair[1].log
    finally:
        balancer.stop()


async def scan_until(stop: asyncio.Event, port: int) -> list[Answer | str]:
    """Scan fresh taps one after the other on a persistent connection; an error takes the place of an answer, as text."""
    outcomes: list[Answer | str] = []
    connection = await Connection.open(port)
    while not stop.is_set():
        try:
            answer = await connection.get(fresh_tap())
        except (ClosedError, OSError, TimeoutError) as error:
            outcomes.append(repr(error))
            await connection.close()
            connection = await Connection.open(port)
            continue
        outcomes.append(answer)
        if answer.headers.get("connection") == "close":
            await connection.close()
            connection = await Connection.open(port)
        await asyncio.sleep(0.05)  # a steady load that leaves CPU time to other tests
    await connection.close()
    return outcomes


async def test_a_server_that_leaves_costs_no_scan(balancer: Balancer, pair: tuple[Served, Served]) -> None:
    """A rolling restart under load: every tap passes before, while and after one server is away."""
    _, leaving = pair
    stop = asyncio.Event()
    clients = [asyncio.create_task(scan_until(stop, balancer.port)) for _ in range(CLIENTS)]
    try:
        await eventually(lambda: meter(leaving, "ixfast_hot_requests_total") > 20, 20)
        process = leaving.process
        assert process is not None
        leaving.signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, DRAIN_DELAY_MS / 1000 + STOP_DEADLINE_S) == 0
        await asyncio.sleep(0.5)
        await asyncio.to_thread(leaving.start)
        await eventually(lambda: meter(leaving, "ixfast_hot_requests_total") > 20, 30)
    finally:
        stop.set()
        answers = [answer for client in await asyncio.gather(*clients) for answer in client]
    bad = [answer for answer in answers if isinstance(answer, str) or not answer.passed]
    assert not bad, f"{len(bad)} of {len(answers)} did not pass; the first: {bad[0]}"
    assert len(answers) > 100


async def test_a_server_that_is_not_ready_is_asked_nothing(
    pair: tuple[Served, Served], postgres: Any, template: str, tmp_path: Path
) -> None:
    """Its port is open but its database is gone; HAProxy learns this from /readyz."""
    ready, _ = pair
    with contextlib.ExitStack() as exits:
        with own_database(postgres, template) as dsn:
            lost = exits.enter_context(Served(tmp_path / "lost", dsn=dsn, workers=1))
        balancer = Balancer("haproxy", tmp_path, shipped("haproxy"), addresses(ready, lost))
        exits.callback(balancer.stop)
        await eventually(lambda: "Server hot/two is DOWN" in balancer.log, 10)
        hot = meter(ready, "ixfast_hot_requests_total")
        for _ in range(30):
            assert (await once(balancer.port, fresh_tap())).passed
        assert meter(ready, "ixfast_hot_requests_total") == hot + 30
        assert (await once(lost.port, fresh_tap())).status == 503


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_without_any_server_the_balancer_answers_in_our_shape(kind: str, tmp_path: Path) -> None:
    nobody = [f"127.0.0.1:{port}" for port in free_ports(2)]
    settings = {"BALANCER_BIND": f"127.0.0.1:{free_ports(1)[0]}", "SERVER_1_ADDRESS": nobody[0], "SERVER_2_ADDRESS": nobody[1]}
    settings |= {"SERVER_1_PRIVATE_PORT": nobody[0].rpartition(":")[2], "SERVER_2_PRIVATE_PORT": nobody[1].rpartition(":")[2]}
    balancer = Balancer(kind, tmp_path, shipped(kind), settings)
    try:
        if kind == "haproxy":
            await eventually(lambda: "backend hot has no server available" in balancer.log, 10)
        expected = (503, "unavailable", "no_server") if kind == "haproxy" else (502, "outcome_unknown", "answer_lost")
        first = await once(balancer.port, "/v1/t?x=abc&n=000001&e=0011223344556677")
        assert (first.status, first.json["error"], first.json["reason"]) == expected
        async with await Connection.open(balancer.port) as connection:
            second = await connection.post("/v2/scans", {"xuid": "abc"})
        error = second.json["error"]
        assert (second.status, error["code"], error["reason"]) == expected
        assert len(error["request_id"]) >= 16
        for answer in (first, second):
            assert answer.headers["content-type"] == "application/json; charset=utf-8"
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["cache-control"] == "no-store"
    finally:
        balancer.stop()
