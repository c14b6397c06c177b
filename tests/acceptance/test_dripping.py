"""Requests that come byte by byte are bounded in time, though a connection on which something comes is never idle."""

from __future__ import annotations

import asyncio

import pytest
from support.served import ANSWER_DEADLINE_S, Connection, Served, plain_target, request

from ixfast import limits
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(2101, 4, account="shop")
PAUSE_S = 0.1  # Between two bytes: no connection is idle for as long as the setting says.
BOUND_S = max(limits.REQUEST_HEAD_S, limits.REQUEST_BODY_S)

HOT = request("GET", plain_target(FLEET, 0, 1), {"User-Agent": "x" * 4000})
OTHER = request("GET", "/nowhere", {"User-Agent": "x" * 4000})
POST = request("POST", "/v2/scans", {"Content-Type": "application/json"}, b" " * 4000)
BODY_BEGINS = POST.index(b"\r\n\r\n") + 4

WHOLE = request("GET", "/nowhere")
CASES = {
    "a hot request": (b"", HOT),
    "a hot request after one": (request("GET", plain_target(FLEET, 1, 1)), HOT),
    "a request that aiohttp reads": (b"", OTHER),
    "one after another that aiohttp reads": (WHOLE, OTHER),
    "a hot request on a connection of aiohttp": (WHOLE, HOT),
    "a body": (POST[:BODY_BEGINS], POST[BODY_BEGINS:]),
}


async def drip(port: int, whole: bytes, dripped: bytes) -> bytes:
    """What the server says until it closes; TimeoutError if it lets the request drip."""
    async with await Connection.open(port) as connection:
        if whole:
            connection.writer.write(whole)
            if whole.endswith(b"\r\n\r\n") and b"Content-Length" not in whole:
                await connection.answer()
        said = asyncio.create_task(connection.reader.read())
        for place in range(len(dripped) - 1):
            done, _ = await asyncio.wait([said], timeout=PAUSE_S)
            if done:
                return said.result()
            connection.writer.write(dripped[place : place + 1])
            if place * PAUSE_S > BOUND_S + ANSWER_DEADLINE_S:
                break
        said.cancel()
        raise TimeoutError


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    server.provision(FLEET)
    return server


async def test_what_drips_is_closed_and_what_flows_is_not(fleets: Served) -> None:
    ends = asyncio.Event()

    async def flow(path: str) -> int:
        """Whole requests on one connection, all the time; how many were answered."""
        async with await Connection.open(fleets.port) as connection:
            while not ends.is_set():
                assert (await connection.get(path)).status in (200, 404)
                await asyncio.sleep(PAUSE_S)
            return connection.answers

    async def pause() -> int:
        """A body that comes after its head, and then nothing for longer than a request may drip: the connection stays."""
        body = b'{"xuid": "nosuchtg"}'
        whole = request("POST", "/v2/scans", {"Content-Type": "application/json"}, body)
        async with await Connection.open(fleets.port) as connection:
            for _ in range(2):
                connection.writer.write(whole[: -len(body)])
                await asyncio.sleep(PAUSE_S)
                connection.writer.write(body)
                assert (await connection.answer()).status == 200
                await asyncio.sleep(BOUND_S + 3.0)
            return connection.answers

    pausing = asyncio.create_task(pause())
    flowing = [asyncio.create_task(flow(path)) for path in (plain_target(FLEET, 2, 1), "/nowhere", "/v1/t?x=nosuchtg&t=x")]
    said = await asyncio.gather(*(drip(fleets.port, *case) for case in CASES.values()), return_exceptions=True)
    ends.set()
    counts = await asyncio.gather(*flowing)
    by_case = dict(zip(CASES, said, strict=True))
    assert by_case.pop("a body").startswith(b"HTTP/1.1 400 ")  # type: ignore[union-attr]
    assert set(by_case.values()) == {b""}, by_case
    assert min(counts) > 10
    assert await pausing == 2
