"""Requests that no route can read are refused before routing, with the reason, on both listeners and by both HTTP parsers."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest
from support.served import ClosedError, Connection, Served, plain_target
from support.two_ways import HOST, OPEN, Worlds, get, tap

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(64, 50, account="framing")
_JSON = b'{"xuid":"nosuchtag"}'
_GOOD = b"Content-Length: %d\r\n" % len(_JSON)


class Case(NamedTuple):
    fields: bytes
    status: int
    code: str
    body: bytes = b""
    version: bytes = b"HTTP/1.1"


CASES = {
    "gzip": Case(b"Content-Encoding: gzip\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "gzip in capitals": Case(b"Content-Encoding: GZIP\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "deflate": Case(b"Content-Encoding: deflate\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "br": Case(b"Content-Encoding: br\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "an unknown encoding": Case(b"Content-Encoding: rot13\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "identity and gzip": Case(b"Content-Encoding: identity, gzip\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "an encoding that is not UTF-8": Case(b"Content-Encoding: \xff\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "gzip in chunks": Case(
        b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 415, "unsupported_encoding", b"1\r\n{\r\n0\r\n\r\n"
    ),
    "another charset": Case(b"Content-Type: application/json; charset=utf-16\r\n" + _GOOD, 415, "unsupported_encoding", _JSON),
    "a charset in quotes": Case(b'Content-Type: text/csv;charset="latin-1"\r\n' + _GOOD, 415, "unsupported_encoding", _JSON),
    "a transfer coding": Case(b"Transfer-Encoding: gzip, chunked\r\n", 400, "invalid_request", b"0\r\n\r\n"),
    "a length of 2^63": Case(b"Content-Length: 9223372036854775808\r\n", 400, "invalid_request"),
    "a length of 2^64 - 1": Case(b"Content-Length: 18446744073709551615\r\n", 400, "invalid_request"),
    "a length of 2^64": Case(b"Content-Length: 18446744073709551616\r\n", 400, "invalid_request"),
    "a negative length": Case(b"Content-Length: -1\r\n", 400, "invalid_request"),
    "a length with a sign": Case(b"Content-Length: +5\r\n", 400, "invalid_request"),
    "a length of 2^63 - 1": Case(b"Content-Length: 9223372036854775807\r\n", 413, "too_large"),
    "HTTP/0.9": Case(b"", 400, "invalid_request", version=b"HTTP/0.9"),
    "HTTP/2.0": Case(b"", 400, "invalid_request", version=b"HTTP/2.0"),
    "HTTP/1.2": Case(b"", 400, "invalid_request", version=b"HTTP/1.2"),
    "HTTP/3.0": Case(b"", 400, "invalid_request", version=b"HTTP/3.0"),
    "an expectation": Case(b"Expect: wonders\r\n" + _GOOD, 417, "expectation_failed", _JSON),
    "an expectation that is not UTF-8": Case(b"Expect: w\xff\xfe\r\n" + _GOOD, 417, "expectation_failed", _JSON),
    "two expectations": Case(b"Expect: 100-continue, wonders\r\n" + _GOOD, 417, "expectation_failed", _JSON),
}


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    both = Worlds()
    await both.start()
    yield both
    await both.stop()


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_refuse_alike(worlds: Worlds, name: str) -> None:
    case = CASES[name]
    stream = get(tap(1), HOST + case.fields, b" %b\r\n" % case.version) + case.body
    statuses = [status for status, _ in await worlds.compare(get(tap(2)), stream)]
    assert statuses == [200, case.status]


@pytest.fixture(scope="module")
def fleet(server: Served) -> Iterator[Served]:
    server.provision(OPEN)
    server.provision(FLEET)
    server.management_token = server.cli(  # type: ignore[attr-defined]
        "api-key", "create", FLEET.account, "--scope", "manage", "--scope", "keys", "--scope", "scan"
    ).strip()
    yield server
    assert "Traceback" not in server.log


def head(server: Served, method: str, path: str, fields: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    token = b"X-API-Key: %b\r\n" % server.management_token.encode()  # type: ignore[attr-defined]
    return b"%b %b %b\r\n" % (method.encode(), path.encode(), version) + HOST + token + fields + b"\r\n"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/scans"),
        ("POST", "/v2/scans/batch"),
        ("GET", plain_target(OPEN, 1, 1)),
        ("POST", "/v2/folders"),
        ("POST", "/v2/imports?group=2"),
        ("PATCH", "/v1/x/nosuchtag"),
        ("GET", "/readyz"),
        ("POST", "/nothing"),
    ],
)
async def test_both_listeners_refuse_what_no_route_can_read(fleet: Served, name: str, method: str, path: str) -> None:
    case = CASES[name]
    stream = head(fleet, method, path, case.fields, case.version) + case.body
    public = path.startswith(("/v2/scans", "/v1/t", "/nothing"))
    async with await Connection.open(fleet.port if public else fleet.private_port) as connection:
        connection.writer.write(stream)
        answer = await connection.answer()
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (case.status, case.code)
    assert error["request_id"]
    assert answer.headers.get("connection", "close") == "close"  # malformed requests are answered in HTTP/1.0, which implies it
    assert answer.headers["cache-control"] == "no-store"
    for word in (b"wonders", b"\xff", "\ufffd".encode(), b"rot13", b"aiohttp"):
        assert word not in answer.body + str(answer.headers).encode()


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Encoding: identity\r\n",
        b"Content-Encoding:\r\n",
        b"Content-Type: application/json; charset=UTF-8\r\n",
        b'Content-Type: application/json; charset="utf-8"; a=b\r\n',
        b"Content-Type: application/x-www-form-urlencoded; charset=ISO-8859-1\r\n",
        b"Content-Type: \xff\r\n",
        b"Expect:\r\n",
    ],
)
async def test_what_can_be_read_is_served(fleet: Served, fields: bytes) -> None:
    async with await Connection.open(fleet.port) as connection:
        connection.writer.write(get(b"/v2/scans", HOST + fields + _GOOD).replace(b"GET", b"POST") + _JSON)
        answer = await connection.answer()
        assert (answer.status, answer.json["verdict"]) == (200, "unknown")


async def test_http_1_0_is_served(fleet: Served) -> None:
    async with await Connection.open(fleet.port) as connection:
        connection.writer.write(get(plain_target(OPEN, 2, 1).encode(), b"", b" HTTP/1.0\r\n"))
        assert (await connection.answer()).passed


async def test_a_length_above_the_limit_is_refused_before_the_body_is_sent(fleet: Served) -> None:
    """No byte of the body is ever sent: the answer does not wait for it, and no `100 Continue` asks for it."""
    for path, port, limit in (
        ("/v2/scans", fleet.port, 1 << 20),
        ("/v2/folders", fleet.private_port, 1 << 20),
        ("/v2/imports?group=2", fleet.private_port, 4 << 30),
    ):
        for expect in (b"", b"Expect: 100-continue\r\n"):
            async with await Connection.open(port) as connection:
                connection.writer.write(head(fleet, "POST", path, expect + b"Content-Length: %d\r\n" % (limit + 1)))
                async with asyncio.timeout(2.0):
                    answer = await connection.answer()
            assert (answer.status, answer.json["error"]["code"]) == (413, "too_large"), path
            assert str(limit) in answer.json["error"]["message"]


async def test_a_client_that_expects_100_continue_gets_it(fleet: Served) -> None:
    for path, port, content, status in (
        ("/v2/scans", fleet.port, _JSON, 200),
        ("/v2/folders", fleet.private_port, b'{"name":"expected"}', 201),
    ):
        async with await Connection.open(port) as connection:
            length = b"Content-Length: %d\r\n" % len(content)
            connection.writer.write(head(fleet, "POST", path, b"Expect: 100-Continue\r\n" + length))
            assert (await connection.answer()).status == 100
            connection.writer.write(content)
            assert (await connection.answer()).status == status


async def test_a_compressed_file_is_imported_by_its_content(fleet: Served) -> None:
    """The file is larger than any other body may be."""
    rows = "".join(f"04{number:012X},{'n' * 60}\n" for number in range(15_000))
    content = gzip.compress(f"uid,name\n{rows}".encode(), 0)
    assert len(content) > 1 << 20
    query = "SELECT min(group_id) FROM tag_group JOIN folder USING (folder_id) JOIN account USING (account_id) WHERE aid = $1"
    group = (await asyncio.to_thread(fleet.fetch, query, FLEET.account))[0][0]
    async with await Connection.open(fleet.private_port) as connection:
        path, length = f"/v2/imports?group={group}&dry_run=true", b"Content-Length: %d\r\n" % len(content)
        connection.writer.write(head(fleet, "POST", path, length) + content)
        answer = await connection.answer()
    assert answer.status == 200, answer


async def test_a_body_that_ends_early_is_nobody_s_fault(fleet: Served) -> None:
    """No traceback, wherever the client disconnects: `fleet` checks the log."""
    for path, port in (
        ("/v2/scans", fleet.port),
        ("/v2/folders", fleet.private_port),
        ("/v2/imports?group=2", fleet.private_port),
    ):
        for stream in (
            head(fleet, "POST", path, b"Content-Length: 50\r\n") + b"{",
            head(fleet, "POST", path, b"Transfer-Encoding: chunked\r\n") + b"5\r\n{",
            head(fleet, "POST", path, b"Transfer-Encoding: chunked\r\n") + b"1\r\n{\r\nzz\r\n",
        ):
            for _ in range(5):
                async with await Connection.open(port) as connection:
                    connection.writer.write(stream)
                    await connection.writer.drain()
            async with await Connection.open(port) as connection:
                connection.writer.write(stream)
                connection.writer.write_eof()
                try:
                    assert (await connection.answer()).status == 400
                except ClosedError as error:
                    assert error.partial == b""
