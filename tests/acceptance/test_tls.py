"""TLS terminated by the server itself, with a certificate made here: by the front door and by aiohttp, and what is not TLS."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import write_certificate
from support.requirements import requires
from support.served import ClosedError, Connection, Served, own_database, plain_target, request

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(31, 20, account="shop")


@pytest.fixture(scope="module")
def secured(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("tls")
    cert, key = write_certificate(home)
    with (
        own_database(postgres, template) as dsn,
        Served(home, "--demo", dsn=dsn, tls_cert=cert, tls_key=key, workers=1) as served,
    ):
        served.provision(FLEET)
        yield served


@pytest.fixture
def trusting(secured: Served) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(secured.home / "cert.pem"))


async def test_both_ways_in_speak_tls(secured: Served, trusting: ssl.SSLContext) -> None:
    assert secured.scheme == "https"
    async with await Connection.open(secured.port, ssl=trusting) as connection:
        answers = [await connection.get(plain_target(FLEET, 0, 1)) for _ in "12"]
        assert [a.json["response"] for a in answers] == ["Pass", "Fail"]
        x, n, e = FLEET.plain_tap(1, 1)
        posted = await connection.post("/v2/scans", {"xuid": x, "counter": n, "code": e})
        assert posted.json["verdict"] == "genuine"
        assert (await connection.get(plain_target(FLEET, 1, 2))).passed  # by aiohttp, which owns the connection by now
    text = secured.ask_private("/metrics")[1].decode()
    assert 'ixfast_hot_requests_total{worker="0"} 2.0' in text
    assert 'ixfast_handed_over_connections_total{worker="0"} 1.0' in text


async def test_a_pipeline_and_pieces_through_tls(secured: Served, trusting: ssl.SSLContext) -> None:
    async with await Connection.open(secured.port, ssl=trusting) as connection:
        stream = b"".join(request("GET", plain_target(FLEET, index, 1)) for index in range(2, 12))
        for at in range(0, len(stream), 7):  # each write is a TLS record of its own
            connection.writer.write(stream[at : at + 7])
        assert all([(await connection.answer()).passed for _ in range(2, 12)])


async def test_many_handshakes_at_once(secured: Served, trusting: ssl.SSLContext) -> None:
    async def one(index: int) -> bool:
        async with await Connection.open(secured.port, ssl=trusting) as connection:
            return (await connection.get(plain_target(FLEET, index % 8 + 12, 1))).status == 200

    assert all(await asyncio.gather(*(one(index) for index in range(40))))


async def test_what_is_no_tls_gets_no_answer(secured: Served) -> None:
    for stream in (request("GET", plain_target(FLEET, 19, 1)), b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\0" * 600):
        async with await Connection.open(secured.port) as connection:
            connection.writer.write(stream)
            with pytest.raises((ClosedError, ConnectionResetError)):
                await connection.answer()
    assert "Traceback" not in secured.log


def test_the_printed_curl_line_works_with_the_certificate(secured: Served) -> None:
    url = next(line for line in secured.output.splitlines() if "curl" in line).split("'")[1]
    command = [requires("curl", package="curl"), "-sS", "--cacert", str(secured.home / "cert.pem"), url]
    assert '"response":"Pass"' in subprocess.run(command, capture_output=True, text=True, timeout=20).stdout


def test_a_drain_closes_tls_connections(secured: Served, trusting: ssl.SSLContext, database: str, server_dir: Path) -> None:
    """With one idle connection open."""

    async def leave(served: Served) -> None:
        async with await Connection.open(served.port, ssl=trusting) as connection:
            assert (await connection.get("/v1/t?x=unknown1")).status == 404
            served.signal()
            with pytest.raises((ClosedError, ConnectionResetError)):
                await connection.answer()

    files = {"tls_cert": secured.home / "cert.pem", "tls_key": secured.home / "key.pem"}
    with Served(server_dir, dsn=database, workers=1, **files) as served:
        asyncio.run(leave(served))
        assert served.stop() == 0
        assert "Traceback" not in served.log
