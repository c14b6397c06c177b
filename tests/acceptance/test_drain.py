"""SIGTERM under load fails no request and leaves nothing running; a hung worker is replaced."""

import asyncio
import os
import signal
from pathlib import Path

from support import eventually, eventually_sync
from support.held_rows import rows_held
from support.served import ClosedError, Connection, Served, descendants_of, lives, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(41, 40, account="shop")
CLIENTS = 32
ENOUGH = 2000
# Here, hangs are detected after seconds instead of half a minute.
IMPATIENT = "from ixfast import cli; from ixfast.process import supervisor as s; s._HUNG_S = s._STARTUP_S = 2.0; cli.main()"


class Visitors:
    """Clients that send requests one after the other until the server closes their connection, and then find its port closed."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.answered = 0
        self.closed_by_server = 0
        self.failures: list[str] = []

    async def run(self, index: int) -> None:
        counter = 0
        while True:
            try:
                connection = await Connection.open(self.server.port)
            except OSError:
                return  # the listener is closed: done
            async with connection:
                closing = False
                while not closing:
                    counter += 1
                    try:
                        answer = await self._ask(connection, index, counter)
                    except (ClosedError, ConnectionResetError, BrokenPipeError) as error:
                        # A connection that the listener had not accepted when it closed is reset a little late.
                        if connection.answers or getattr(error, "partial", b""):
                            self.failures.append(f"after {connection.answers} answers: {error}")
                        return
                    self.answered += 1
                    if answer != 200:
                        self.failures.append(str(answer))
                    closing = connection.closing
                self.closed_by_server += 1

    async def _ask(self, connection: Connection, index: int, counter: int) -> int:
        """Half of the clients are served by aiohttp."""
        if index % 2:
            return (await connection.get(plain_target(FLEET, index, counter))).status
        x, n, e = FLEET.plain_tap(index, counter)
        return (await connection.post("/v2/scans", {"xuid": x, "counter": n, "code": e})).status


async def test_a_drain_under_load_fails_no_request(server_dir: Path) -> None:
    with Served(server_dir) as server:
        server.provision(FLEET)
        visitors = Visitors(server)
        clients = [asyncio.create_task(visitors.run(index)) for index in range(CLIENTS)]
        await eventually(lambda: visitors.answered > ENOUGH or any(c.done() for c in clients), 30.0)
        process = server.process
        assert process is not None
        family = descendants_of(process.pid)
        assert len(family) > 3  # two workers and several processes of PostgreSQL
        server.signal()
        await asyncio.wait_for(asyncio.gather(*clients), 20.0)
        assert await eventually(lambda: process.poll() is not None, 20.0)
        assert process.returncode == 0, server.log
        assert visitors.failures == []
        assert visitors.closed_by_server >= CLIENTS // 2
        await eventually(lambda: not any(map(lives, family)), 5.0)
        postgres = "".join(path.read_text() for path in (server.data_dir / "postgresql/cluster/log").glob("*.log"))
        assert "database system is shut down" in postgres
        assert not (server.data_dir / "dsn").exists()
        assert "Traceback" not in server.log
    with Served(server_dir) as again:
        log = "".join(path.read_text() for path in (again.data_dir / "postgresql/cluster/log").glob("*.log"))
        assert "was not properly shut down" not in log
        assert again.stop() == 0


async def test_scans_that_wait_are_answered_while_draining(database: str, server_dir: Path) -> None:
    """The front door and aiohttp both owe an answer, on connections silent for longer than an idle one is kept."""
    x, n, e = FLEET.plain_tap(1, 1)
    with Served(server_dir, dsn=database) as server:
        server.provision(FLEET)
        async with await Connection.open(server.port) as hot, await Connection.open(server.port) as posted:
            async with rows_held(database) as waiting:
                answers = asyncio.gather(
                    hot.get(plain_target(FLEET, 0, 1)), posted.post("/v2/scans", {"xuid": x, "counter": n, "code": e})
                )
                await eventually(waiting)
                server.signal()
                await eventually(lambda: refuses(server), 5.0)
                await asyncio.sleep(0.6)  # a drain takes a connection that was silent for this long to be idle
            outcomes = [(answer.status, answer.headers.get("connection")) for answer in await answers]
        assert all(status in (200, 503) and connection == "close" for status, connection in outcomes), outcomes
        assert server.stop() == 0


async def refuses(server: Served) -> bool:
    try:
        await (await Connection.open(server.port)).close()
    except OSError:
        return True
    return False


def test_a_hung_worker_is_replaced(database: str, server_dir: Path) -> None:
    with Served(server_dir, dsn=database, entry=("-c", IMPATIENT)) as server:
        hung, other = server.workers()
        os.kill(hung, signal.SIGSTOP)
        eventually_sync(lambda: not lives(hung), 20.0)
        eventually_sync(lambda: len(server.workers()) == 2 and server.all_ready, 20.0)
        assert hung not in server.workers() and other in server.workers()
        assert f"(pid {hung}) stopped responding: killing it" in server.log
        assert server.stop() == 0


def test_a_supervisor_that_is_killed_takes_its_workers_along(database: str, server_dir: Path) -> None:
    with Served(server_dir, dsn=database) as server:
        workers = server.workers()
        process, server.process = server.process, None
        assert process is not None
        process.kill()
        process.wait(5.0)
        eventually_sync(lambda: not any(map(lives, workers)), 20.0)
