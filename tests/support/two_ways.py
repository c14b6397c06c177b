"""Compares the two HTTP parsers, the front door and aiohttp alone: the same bytes must have the same effect on both.

They run in two worlds with equal initial state, one for each parser. Each world has its own in-memory ledger, so that a used tap
is used in both. Nothing waits for a socket or a database, so every request completes within a few iterations of the event loop.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from itertools import accumulate, pairwise
from typing import Any

from ixfast.chips import compile_profile
from ixfast.domain import references
from ixfast.domain.records import Account, Group
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.front_door import FrontDoor
from ixfast.http.request_handler import handlers
from ixfast.http.scan_app import make_scan_app
from ixfast.http.server_state import ServerState
from ixfast.meters import HOT_REQUESTS, Meters
from ixfast.pipeline.engine import Engine
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger
from ixfast.testing.virtual_tags import VirtualFleet
from support.served import plain_target

OPEN = VirtualFleet(91, 400, account="open-account")
CLOSED = VirtualFleet(92, 5, account="closed-account")
MIRROR = VirtualFleet(93, 20, profile="encrypted", account="open-account")
TOKEN = "ixf_accepted"
HOST = b"Host: localhost\r\n"
_TURNS = 30
_RANDOM = re.compile(rb'"(request_id|scan_id)":"[^"]*"')


class Catalogue(MemoryCatalogue):
    """A catalogue with accounts, which identify taps that have no tag code."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[Group] = []

    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        groups = [group for group in self.groups if group.account.aid == aid]
        return (groups[0].account, groups) if groups and (is_owner or groups[0].account.open) else None


class Wire(asyncio.Transport):
    """The client's side of a connection: what the server wrote, and whether it closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_reading(self) -> bool:
        return True


class World:
    """A dispatcher behind both parsers, with `more` fleets than the usual ones: open accounts, whose API keys are `token_of`."""

    def __init__(self, *more: VirtualFleet) -> None:
        self._more = more

    async def start(self) -> None:
        self.meters = Meters()
        catalogue = Catalogue()
        engine = Engine(catalogue, self.meters)
        ledger = MemoryLedger(engine.settled)
        engine.use(ledger)
        catalogue.add_account("open-account", meta_keys=MIRROR[0].meta_keys())
        catalogue.add_account("closed-account", is_open=False)
        for fleet in {fleet.account: fleet for fleet in self._more}.values():
            catalogue.add_account(fleet.account, meta_keys=fleet[0].meta_keys())
            catalogue.add_api_key(fleet.account, references.token_sha256(token_of(fleet)))
        for fleet in (OPEN, CLOSED, MIRROR, *self._more):
            group = catalogue.add_group(fleet.account, compile_profile(fleet.profile.profile))
            catalogue.groups.append(group)
            for index, tag in enumerate(fleet):
                ledger.add(
                    catalogue.add_tag(
                        group, tag.xuid, uid=tag.uid, cuid=tag.cuid or f"{fleet.seed}-{index}", keys=tag.file_keys()
                    )
                )
        catalogue.add_api_key("closed-account", references.token_sha256(TOKEN))
        self.dispatcher = ScanDispatcher(engine, catalogue, self.meters, asyncio.get_running_loop())  # type: ignore[arg-type]
        self.server_state = ServerState(self.dispatcher, connections_max=1000, idle_timeout_s=75)
        self.runner, self.make_handler = await handlers(make_scan_app(self.server_state), 75)

        self.ends: list[int] = []  # lengths of the requests that the front door recognised
        recognise = self.server_state.recognise

        def noted(received: bytes) -> Any:
            hot = recognise(received)
            if hot is not None:
                self.ends.append(hot[2])
            return hot

        self.server_state.recognise = noted

    async def stop(self) -> None:
        self.server_state.close()
        await self.runner.cleanup()

    async def say(self, *pieces: bytes, door: bool) -> tuple[bytes, bool]:
        """The response to these bytes, which arrive piece by piece, and whether the server then closes the connection."""
        wire = Wire()
        protocol: Any = FrontDoor(self.server_state, self.make_handler) if door else self.make_handler()
        protocol.connection_made(wire)
        for piece in pieces:
            if not wire.closed:
                protocol.data_received(piece)
                await _turns(3)
        seen = -1
        while seen != len(wire.written):
            seen = len(wire.written)
            await _turns(_TURNS)
        said = _RANDOM.sub(lambda match: b"-" * len(match[0]), bytes(wire.written)), wire.closed
        protocol.connection_lost(None)
        await _turns(3)
        return said

    async def post(self, path: bytes, content: Any) -> Any:
        """The JSON answer of aiohttp's application to a POST of JSON."""
        body = json.dumps(content).encode()
        head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (path, HOST, len(body))
        stream, _ = await self.say(head + body, door=False)
        return json.loads(re.sub(rb"-{20,}", b'"masked":true', stream.partition(b"\r\n\r\n")[2]))


@contextlib.asynccontextmanager
async def serving(*fleets: VirtualFleet) -> AsyncIterator[World]:
    """A world of these fleets, started."""
    world = World(*fleets)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()


def token_of(fleet: VirtualFleet) -> str:
    return f"ixf_{fleet.account}"


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Worlds:
    """The same bytes sent to both worlds."""

    async def start(self) -> None:
        self.doors, self.routes = World(), World()
        await self.doors.start()
        await self.routes.start()

    async def stop(self) -> None:
        await self.doors.stop()
        await self.routes.stop()

    async def compare(self, *pieces: bytes) -> list[tuple[int, bytes]]:
        """The responses of both parsers to these bytes, which must be the same. Raises AssertionError if they differ.

        aiohttp drops valid requests that arrive in the same packet as a malformed one, which is legitimate. Its packets are
        therefore split where the front door saw the end of a request; if aiohttp sees no end there, the responses differ.
        """
        self.doors.ends.clear()
        by_door = await self.doors.say(*pieces, door=True)
        cuts = {0, *accumulate(self.doors.ends), *accumulate(map(len, pieces))}
        stream = b"".join(pieces)
        by_route = await self.routes.say(*(stream[a:b] for a, b in pairwise(sorted(cuts))), door=False)
        said, expected = _answers(by_door[0]), _answers(by_route[0])
        assert said == expected, f"{b''.join(pieces)!r}\nfront door: {by_door}\naiohttp:    {by_route}"
        assert by_door[1] == by_route[1], f"{b''.join(pieces)!r}: only one closes the connection"
        assert all(status < 500 for status, _, _ in said), by_door
        return [(status, body) for status, _, body in said]

    @property
    def hot(self) -> int:
        """Number of requests that the front door itself served."""
        return self.doors.meters.slots[HOT_REQUESTS]


def _answers(stream: bytes) -> list[tuple[int, list[bytes], bytes]]:
    """Status, sorted header fields and body of each response."""
    answers = []
    while stream:
        head, _, rest = stream.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        length = next((int(f.split(b":")[1]) for f in fields if f.lower().startswith(b"content-length:")), 0)
        body = rest[:length]
        sorted_fields = sorted(f.lower() for f in fields if not f.lower().startswith((b"connection", b"date")))
        answers.append((int(line.split(b" ")[1]), sorted_fields, body))
        stream = rest[length:]
    return answers


def tap(index: int, counter: int = 1) -> bytes:
    """The request target of a tap of a tag in an open account."""
    return plain_target(OPEN, index, counter).encode()


def get(path: bytes, fields: bytes = HOST, line_end: bytes = b" HTTP/1.1\r\n") -> bytes:
    return b"GET " + path + line_end + fields + b"\r\n"
