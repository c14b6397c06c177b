"""No request whatever makes a server log a traceback or answer 503, and none keeps it from answering the next good scan.

`IXFAST_HOSTILE_REQUESTS` is how many connections are made, `IXFAST_HOSTILE_SEED` what they are drawn from.
"""

import asyncio
import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hostile import SPOKEN, Generator, Hostile
from support.served import Connection, Served, own_database, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

COUNT = int(os.environ.get("IXFAST_HOSTILE_REQUESTS", "4000"))
SEED = int(os.environ.get("IXFAST_HOSTILE_SEED", "1"))
BREAKING_SERVER = str(Path(__file__).parents[1] / "support" / "breaking_server.py")
GOOD = VirtualFleet(61, 400, account="good")
FLEET = VirtualFleet(62, 50, account="hostile")
_CONNECTIONS = 24  # Fewer than requests of management may wait, so that none is refused as too many.
_ANSWER_S = 0.3  # How long an answer is waited for: half of the requests are never complete.
_MORE_S = 0.02  # How long it is waited for more.
_BATCH = 500
_GONE = (errno.ENOTCONN, errno.EBADF)
"""Besides ConnectionError, what a client's socket reports once the server has reset the connection."""


async def send(port: int, hostile: Hostile) -> bytes:
    """Send a request, and return what the server sends back. The server may reset such a connection at any time; every other
    error fails the test."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    try:
        for piece in hostile.pieces:
            if writer.is_closing():
                break
            writer.write(piece)
            await asyncio.sleep(0)
        if hostile.leaves == "fin" and not writer.is_closing():
            writer.write_eof()
        elif hostile.leaves == "rst" and not writer.is_closing():
            await asyncio.sleep(0.005 if len(hostile.pieces) % 2 else 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if hostile.leaves in ("waits", "fin"):
            await receive(reader, received)
    except OSError as error:
        _check_gone(error)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError as error:
            _check_gone(error)
    return bytes(received)


def _check_gone(error: OSError) -> None:
    """Raise an error that does not come from a connection which the server has reset."""
    if not isinstance(error, ConnectionError) and error.errno not in _GONE:
        raise error


async def receive(reader: asyncio.StreamReader, received: bytearray) -> None:
    """Add what arrives to `received`, until the server closes the connection or sends nothing more. Half of the requests are
    incomplete and get no response, so a timeout is not a failure."""
    while True:
        try:
            async with asyncio.timeout(_MORE_S if received else _ANSWER_S):
                piece = await reader.read(65536)
        except TimeoutError:
            return
        if not piece:
            return
        received += piece


class Target:
    """A server with an account that is attacked and one that is not."""

    def __init__(self, server: Served) -> None:
        self.server = server
        for fleet in (GOOD, FLEET):
            server.provision(fleet)
        # The attacker's own key has none of the ids that are asked for: or it would soon be deleted.
        self.server.in_database(self._fill_api_keys)
        words = ("api-key", "create", FLEET.account, "--scope", "manage", "--scope", "keys", "--scope", "scan")
        token = server.cli(*words).strip()
        ids = ["1", "2", "3", "4", "5", FLEET.xuid(1), FLEET.xuid(2), FLEET.account]
        self.generator = Generator(SEED, token, ids, [plain_target(FLEET, i, c) for i in range(20) for c in (1, 2, 3)])
        self.statuses: Counter[int] = Counter()
        self._taps = iter(range(len(GOOD)))

    @staticmethod
    async def _fill_api_keys(connection: Any) -> None:
        await connection.execute(
            "INSERT INTO api_key (account_id, token_sha256, scopes) SELECT account_id, sha256(n::text::bytea), '{scan}' "
            "FROM account, generate_series(1, 5) AS n WHERE aid = $1",
            FLEET.account,
        )

    @staticmethod
    async def _reactivate(connection: Any) -> None:
        """Undo what locks the attacker out."""
        await connection.execute("UPDATE account SET active = true")

    async def attack(self, count: int) -> None:
        """AssertionError with the requests that were answered as none may be."""
        left = iter(range(count))
        broke: list[tuple[Hostile, bytes]] = []

        async def client() -> None:
            for _ in left:
                hostile = self.generator.next()
                port = self.server.private_port if hostile.private else self.server.port
                said = await send(port, hostile)
                statuses = [int(each) for each in SPOKEN.findall(said)]
                self.statuses.update(statuses)
                if b"internal_error" in said or any(each >= 500 for each in statuses):
                    broke.append((hostile, said))

        async with asyncio.TaskGroup() as clients:
            for _ in range(_CONNECTIONS):
                clients.create_task(client())
        assert not broke, broke
        await asyncio.to_thread(self.server.in_database, self._reactivate)

    async def check(self) -> None:
        """The server is as it was: nothing in its log, and every worker answers a good scan."""
        for _ in range(4):
            async with await Connection.open(self.server.port) as connection:
                answer = await connection.get(plain_target(GOOD, next(self._taps), 1))
                assert answer.passed, answer
        log = self.server.log
        for word in ("Traceback", "internal_error", "broke", "ERROR", "never retrieved"):
            assert word not in log, log[-5000:]


@pytest.fixture
def target(postgres: Any, template: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Target]:
    fault = getattr(request, "param", None)
    broken: dict[str, Any] = {"entry": (BREAKING_SERVER,), "environ": {"IXFAST_TEST_FAULT": fault}} if fault else {}
    with own_database(postgres, template) as dsn, Served(tmp_path / "server", dsn=dsn, **broken) as served:
        yield Target(served)


async def test_no_request_whatever_breaks_the_server(target: Target) -> None:
    for done in range(0, COUNT, _BATCH):
        await target.attack(min(_BATCH, COUNT - done))
    await target.check()
    served = sum(count for status, count in target.statuses.items() if status < 300)
    assert served > COUNT // 50, f"the requests do not get far: {target.statuses}"


@pytest.mark.parametrize("target", ["decompress", "header", "number", "abort"], indirect=True)
async def test_a_server_with_a_fault_is_caught(target: Target) -> None:
    """The control. Each fault is one that a request brings out, and nothing else."""
    with pytest.raises(AssertionError):
        for _ in range(40):
            await target.attack(_BATCH)
            await target.check()
