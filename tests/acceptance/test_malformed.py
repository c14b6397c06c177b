"""Malformed input: a clear 4xx or the right verdict, never 500, never silence; and both HTTP parsers agree."""

import array
import asyncio
import contextlib
import fcntl
import termios
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from support import eventually
from support.malformed import QUERIES, STREAMS
from support.served import ClosedError, Connection, Served, once, plain_target, request
from support.two_ways import CLOSED, HOST, MIRROR, OPEN, Worlds, get, tap

from ixfast.http import hot_request

_PIECES = (
    b"A", b"b", b"0", b"=", b"&", b"x=", b"n=", b"e=", b"%", b"%41", b"%00", b"+", b" ", b"\t", b"\r", b"\n", b"\0", b"\xff",
    b":", b";", b"?", b"/", b"#", b"~", b"\r\n", b"\r\n\r\n", b"\r\n ", b"GET ", b" HTTP/1.1",
)  # fmt: skip
_FIELDS = (
    HOST, b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Content-Length: 0\r\n", b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"X-API-Key: a\r\n", b"Authorization: Bearer b\r\n",
    b"Accept: */*\r\n", b"TE: a\r\n", b"Upgrade: a\r\n", b"A: b\r\n", b"A:b\r\n", b"A : b\r\n", b"A:\r\n", b" c\r\n",
)  # fmt: skip


@contextlib.asynccontextmanager
async def two_worlds() -> AsyncIterator[Worlds]:
    worlds = Worlds()
    await worlds.start()
    try:
        yield worlds
    finally:
        await worlds.stop()


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    async with two_worlds() as both:
        yield both


async def test_both_ways_read_queries_alike(worlds: Worlds) -> None:
    for query in QUERIES.values():
        answers = await worlds.compare(get(b"/v1/t?" + query.encode()))
        assert [status for status, _ in answers] in ([200], [400], [401], [404]), query


@pytest.mark.parametrize("name", STREAMS)
async def test_both_ways_read_a_request_alike(worlds: Worlds, name: str) -> None:
    """The requests after it show where it was taken to end, the ones before it whether it is served at all."""
    await worlds.compare(STREAMS[name])
    await worlds.compare(STREAMS[name], get(tap(1)), get(tap(2), HOST + b"Connection: close\r\n"))
    await worlds.compare(get(tap(3)), STREAMS[name] + get(tap(4)))


async def test_both_ways_read_pieces_alike(worlds: Worlds) -> None:
    """A request may be split into packets anywhere, and end anywhere in a packet."""
    stream = get(tap(10)) + get(tap(11), HOST + b"Accept: */*\r\nX-API-Key: unknown\r\n") + get(tap(12))
    for cut in range(1, len(stream)):
        assert [status for status, _ in await worlds.compare(stream[:cut], stream[cut:])] == [200, 401, 200]
    assert len(await worlds.compare(*(stream[i : i + 1] for i in range(len(stream))))) == 3


async def test_a_pipeline_is_answered_in_order(worlds: Worlds) -> None:
    hot = worlds.hot
    bodies = [body for _, body in await worlds.compare(b"".join(get(tap(20 + i)) for i in range(100)))]
    assert bodies == [b'{"xuid":"%b","response":"Pass"}' % OPEN.xuid(20 + i).encode() for i in range(100)]
    assert worlds.hot == hot + 100, "the front door served none: aiohttp was compared with itself"


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """One or two requests with random fields, with bytes inserted, removed or replaced."""
    stream = b""
    for index in range(draw(st.integers(1, 2))):
        fields = HOST + b"".join(draw(st.lists(st.sampled_from(_FIELDS), max_size=3)))
        stream += get(tap(300 + index, draw(st.integers(1, 3))), fields)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(st.sampled_from(_PIECES)) + stream[at + draw(st.integers(0, 3)) :]
    return stream


def search(examples: int) -> None:
    """Compare the worlds on random streams; raises AssertionError if they differ."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        worlds = Worlds()
        runner.run(worlds.start())

        @settings(max_examples=examples, deadline=None, database=None)
        @given(streams(), st.data())
        def compare(stream: bytes, data: st.DataObject) -> None:
            cut = data.draw(st.integers(0, len(stream)))
            runner.run(worlds.compare(*filter(None, (stream[:cut], stream[cut:])), get(tap(1))))

        try:
            compare()
        finally:
            runner.run(worlds.stop())


def test_both_ways_read_anything_alike() -> None:
    search(600)


@pytest.mark.parametrize("name", ["chunked without an end", "TE.CL", "one chunk"])
async def test_a_front_door_that_ignores_a_transfer_encoding_is_caught(
    monkeypatch: pytest.MonkeyPatch, worlds: Worlds, name: str
) -> None:
    monkeypatch.setattr(hot_request, "_SURPRISING", hot_request._SURPRISING - {b"transfer-encoding", b"content-length"})
    monkeypatch.setattr(hot_request, "_SURPRISING_BEGINNINGS", ())
    with pytest.raises(AssertionError):
        await test_both_ways_read_a_request_alike(worlds, name)


@pytest.fixture(scope="module")
def fleets(server: Served) -> Iterator[Served]:
    server.provision(OPEN, MIRROR)
    server.provision(CLOSED, is_open=False)
    yield server
    assert "Traceback" not in server.log


async def said_to(server: Served, stream: bytes) -> list[int]:
    """The status of each answer to these bytes and to one further request. Only the first has to arrive promptly."""
    async with await Connection.open(server.port) as connection:
        connection.writer.write(stream + request("GET", "/nothing", {"Connection": "close"}))
        statuses: list[int] = []
        with contextlib.suppress(ClosedError, ConnectionResetError):
            statuses.append((await connection.answer()).status)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while True:
                        statuses.append((await connection.answer()).status)
        return statuses


async def test_a_real_server_answers_every_malformed_request(fleets: Served) -> None:
    streams = [*STREAMS.values(), *(get(b"/v1/t?" + query.encode()) for query in QUERIES.values())]
    streams.remove(STREAMS["method b'HEAD'"])  # its answer has a Content-Length but no body, which this reader cannot handle
    answers = await asyncio.gather(*(said_to(fleets, stream) for stream in streams))
    for stream, statuses in zip(streams, answers, strict=True):
        assert statuses, f"no answer to {stream!r}"
        assert all(status < 500 for status in statuses), (stream, statuses)


async def test_a_real_server_reads_a_request_cut_anywhere(fleets: Served) -> None:
    """Each piece is a packet of its own: none is sent before the previous one was acknowledged."""
    stream = get(plain_target(OPEN, 50, 1).encode())

    async def cut(at: int) -> int:
        async with await Connection.open(fleets.port) as connection:
            for piece in (stream[:at], stream[at:]):
                connection.writer.write(piece)
                await eventually(lambda: unacknowledged(connection) == 0)
            return (await connection.answer()).status

    assert set(await asyncio.gather(*(cut(at) for at in range(1, len(stream))))) == {200}
    async with await Connection.open(fleets.port) as connection:
        for byte in stream:
            connection.writer.write(bytes((byte,)))
            await eventually(lambda: unacknowledged(connection) == 0)
        assert (await connection.answer()).status == 200


def unacknowledged(connection: Connection) -> int:
    """Bytes that the peer's kernel has not acknowledged yet (SIOCOUTQ, tcp(7))."""
    left = array.array("i", [0])
    fcntl.ioctl(connection.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, left)
    return left[0]


async def test_a_body_of_v2_that_is_wrong_is_400(fleets: Served) -> None:
    x, n, e = OPEN.plain_tap(51, 1)
    bodies = [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b'{"xuid":1}', b'{"xuid":"\\ud800"}',
        b'{"xuid":"a","xuid2":"b"}', b'{"xuid":"","counter":1}', b'{"xuid":"a","cuid":"b"}', b'{"url":"a","query":"b"}',
        b'{"url":"\\u0000"}', b'{"url":"http://["}', b'{"uid":"04","account":"open-account"}',
        b'{"query":"x=%ff"}', b'{"query":"x=\\u00e9"}', b'{"cuid":"\\n","account":"open-account"}',
        b'{"xuid":"%b","counter":-1}' % x.encode(), b'{"xuid":"%b","counter":16777216}' % x.encode(),
        b'{"xuid":"%b","counter":1e99}' % x.encode(), b'{"xuid":"%b","counter":"zz","code":"%b"}' % (x.encode(), e.encode()),
        b'{"xuid":"%b","counter":"%b","code":"\\ud83d"}' % (x.encode(), n.encode()), b"[" * 100_000, b'{"scans":' * 5000,
        b'{"visitor":{"ip":1}}', b'{"parameters":{"n":"1"}}', b'{"parameters":{"a\\u0000":"\\u0000"},"account":"open-account"}',
    ]  # fmt: skip
    async with await Connection.open(fleets.port) as connection:
        for body in bodies:
            for path in ("/v2/scans", "/v2/scans/batch"):
                connection.writer.write(request("POST", path, None, body))
                answer = await connection.answer()
                assert answer.status in (200, 400, 404), (path, body[:80], answer)
                assert answer.status != 200 or answer.json["verdict"] not in ("genuine", "plain"), body


@pytest.mark.parametrize("name", ["X-API-Key", "Idempotency-Key", "X-Request-Id", "Authorization", "X-Forwarded-For", "Origin"])
@pytest.mark.parametrize("value", ["\xff\xc3", "\x7f", "a" * 5000, ",,,", '"', "\xed\xa0\x80"], ids=ascii)
async def test_odd_header_values_are_no_fault_of_ours(fleets: Served, name: str, value: str) -> None:
    async with await Connection.open(fleets.port) as connection:
        connection.writer.write(request("POST", "/v2/scans", {name: value}, b'{"xuid":"a"}'))
        assert (await connection.answer()).status < 500
    assert (await once(fleets.port, plain_target(OPEN, 52, 1), {name: value})).status < 500
