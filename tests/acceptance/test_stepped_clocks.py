"""The database's clock is stepped under running servers: used taps never pass, and what is in doubt is 503 `clock_stepped`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support import administer, eventually
from support.replication import replicated
from support.served import Answer, Connection, Served, once, plain_target
from support.stepped_clock import SteppedClock, stepped_clock

from ixfast.embedded import EmbeddedPostgres
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(6100, 400, account="shop")
BACK_S = 30.0  # after a failover
STEPS_S = (-1, -20, -3600, -86_400, 3600, 86_400)
_indices = itertools.count()


def body(index: int, counter: int) -> dict[str, str]:
    return dict(zip(("xuid", "counter", "code"), FLEET.plain_tap(index, counter), strict=True))


def take(count: int) -> list[int]:
    """Tags that no test has tapped yet."""
    return list(itertools.islice(_indices, count))


def step_count(server: Served) -> int:
    text = server.ask_private("/metrics")[1].decode()
    samples = re.findall(r"^ixfast_database_clock_steps_total\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, samples)))


async def ask(port: int, index: int, counter: int) -> tuple[Answer, Answer]:
    """The same tap on `/v1` and on `/v2`."""
    async with await Connection.open(port) as connection:
        return (
            await connection.get(plain_target(FLEET, index, counter)),
            await connection.post("/v2/scans", body(index, counter)),
        )


async def decided(connection: Connection, path: str) -> Answer:
    """The first answer that is not a 503, since the database may be away."""

    return await answered(lambda: connection.get(path))


async def answered(request: Callable[[], Awaitable[Answer]]) -> Answer:
    """The first answer to a request that is not a 503."""

    async def answer() -> Answer | None:
        given = await request()
        return given if given.status != 503 else None

    return await eventually(answer, BACK_S)


def is_refused(answers: tuple[Answer, Answer]) -> bool:
    first, second = answers
    return first.failed and second.status == 200 and second.json["verdict"] == "replayed" and second.json["response"] == "Fail"


@pytest.fixture(scope="module")
def database_clock(open_scratch: Path) -> Iterator[SteppedClock]:
    with stepped_clock(open_scratch / "stepped", in_use=False) as clock:
        yield clock


@pytest.fixture(scope="module")
def database_server(open_scratch: Path, database_clock: SteppedClock) -> Iterator[EmbeddedPostgres]:
    with contextlib.ExitStack() as stack:
        with database_clock.in_use():  # not for the servers that a test starts
            server = stack.enter_context(EmbeddedPostgres(open_scratch / "stepped" / "data"))
        yield server


@pytest.fixture(scope="module")
def server(database_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("server")
    with Served(home, dsn=database_server.dsn) as served:
        served.provision(FLEET)
        yield served


@pytest.fixture
async def clock(server: Served, database_clock: SteppedClock) -> SteppedClock:
    """The database's clock as set, which every worker knows: a step that none has read yet would merge with the next one."""
    database_clock.step_to(0.0)
    await all_know(server, database_clock)
    return database_clock


async def all_know(server: Served, clock: SteppedClock) -> None:
    """Wait until every worker's last reading of the database's clock is what `clock` shows now."""

    def offsets_s() -> list[float]:
        text = server.ask_private("/metrics")[1].decode()
        samples = re.findall(r"^ixfast_database_clock_offset_seconds\{.*\} (\S+)$", text, re.MULTILINE)
        assert samples
        return list(map(float, samples))

    await eventually(lambda: all(abs(offset_s - clock.ahead_s) < 0.5 for offset_s in offsets_s()), BACK_S)


@pytest.mark.parametrize("step_s", STEPS_S)
async def test_a_used_tap_stays_used_whatever_the_clock_shows(server: Served, clock: SteppedClock, step_s: int) -> None:
    tags = take(20)
    for index in tags:
        assert (await once(server.port, plain_target(FLEET, index, 5))).passed
    clock.step(step_s)
    for index in tags:
        assert is_refused(await ask(server.port, index, 5)), index
    clock.step(-step_s)
    for index in tags:
        assert is_refused(await ask(server.port, index, 5)), index
        assert (await once(server.port, plain_target(FLEET, index, 6))).passed


def _logged_steps(log: str) -> list[float]:
    return [float(step) for step in re.findall(r"clock was stepped by ([+-][\d.]+) s", log)]


def _all_of(count: int, items: list[float]) -> list[float]:
    return items if len(items) == count else []


async def test_every_step_is_counted_and_logged(server: Served, clock: SteppedClock) -> None:
    workers = len(server.workers())
    for step_s in (-20, 20):
        before, logged = step_count(server), len(server.log)
        clock.step(step_s)
        await all_know(server, clock)
        assert step_count(server) == before + workers
        steps = await eventually(lambda logged=logged: _all_of(workers, _logged_steps(server.log[logged:])), BACK_S)
        assert all(abs(step - step_s) < 5 for step in steps), steps  # as precisely as a busy machine can measure it
    await eventually(lambda: server.all_ready)


async def test_a_repeated_answer_is_the_first_one_after_a_step(server: Served, clock: SteppedClock) -> None:
    for step_s in STEPS_S:
        (index,) = take(1)
        key = {"Idempotency-Key": f"step {step_s}"}
        async with await Connection.open(server.port) as connection:
            assert (await connection.post("/v2/scans", body(index, 3))).json["verdict"] == "genuine"
            first = await connection.post("/v2/scans", body(index, 7), key)
            clock.step(step_s)
            again = await connection.post("/v2/scans", body(index, 7), key)
            assert (await connection.post("/v2/scans", body(index, 8))).json["verdict"] == "genuine"
            later = await connection.post("/v2/scans", body(index, 7), key)
            clock.step(-step_s)
            back = await connection.post("/v2/scans", body(index, 7), key)
        assert (first.json["counter"], first.json["previous_counter"], first.json["scan_count"]) == (7, 3, 2)
        assert again.json["first_answer"]["of_now"]
        for answer in (again, later, back):
            assert answer.json | {"first_answer": None} == first.json, step_s
            assert answer.json["first_answer"] == again.json["first_answer"]


async def test_a_key_has_expired_only_when_every_clock_says_so(server: Served, clock: SteppedClock) -> None:
    lasting = server.cli("api-key", "create", "shop", "--days", "1").strip()
    past = server.cli("api-key", "create", "shop", "--label", "past", "--days", "1").strip()
    administer(server.dsn, "UPDATE api_key SET expires_at = now() - interval '1 hour' WHERE label = 'past'")
    (index,) = take(1)
    counters = itertools.count(1)

    async def scans(token: str) -> list[tuple[int, str | None]]:
        """Status and reason on `/v1` and `/v2`."""
        async with await Connection.open(server.port) as connection:
            first = await connection.get(plain_target(FLEET, index, next(counters)), {"X-API-Key": token})
            second = await connection.post("/v2/scans", body(index, next(counters)), {"X-API-Key": token})
        return [(first.status, first.json.get("reason")), (second.status, second.json.get("error", {}).get("reason"))]

    async def manages(token: str) -> int:
        async with await Connection.open(server.private_port) as connection:
            return (await connection.get("/v2/groups", {"X-API-Key": token})).status

    manager = server.cli("api-key", "create", "shop", "--scope", "manage", "--days", "1").strip()
    good, expired, doubtful = [(200, None)] * 2, [(401, None)] * 2, [(503, "clock_stepped")] * 2
    assert await scans(lasting) == good
    assert await manages(manager) == 200
    assert await scans(past) == expired
    for step_s in (2 * 86_400, -2 * 86_400):
        before = step_count(server)
        clock.step(step_s)
        await eventually(lambda before=before: step_count(server) >= before + 2)
        ahead = step_s > 0
        assert await scans(lasting) == (doubtful if ahead else good)
        assert await manages(manager) == (503 if ahead else 200)
        assert await scans(past) == expired
    before = step_count(server)
    clock.step(-7200)  # by the database's clock, the second key is still valid
    await eventually(lambda: step_count(server) >= before + 2)
    assert await scans(past) == doubtful
    assert await scans(lasting) == good
    clock.step(7200)


async def test_a_promoted_standby_that_is_20_s_behind_passes_no_used_tap(server_dir: Path, tmp_path: Path) -> None:
    with replicated(server_dir, synchronous=True, standbys=0) as servers, stepped_clock(server_dir, in_use=False) as behind:
        behind.step_to(-20)
        with behind.in_use():
            servers.add_standby()
        fleet = VirtualFleet(6101, 40, account="behind")
        with Served(tmp_path / "server", dsn=servers.dsn) as server:
            server.provision(fleet)
            taps = [plain_target(fleet, index, 1) for index in range(40)]
            async with await Connection.open(server.port) as connection:
                assert all([(await decided(connection, tap)).passed for tap in taps])
                servers.kill_primary()
                await asyncio.to_thread(servers.promote)
                assert all([(await decided(connection, tap)).failed for tap in taps])
                for index in range(40):
                    x, n, e = fleet.plain_tap(index, 1)
                    body = {"xuid": x, "counter": n, "code": e}
                    answer = await answered(lambda body=body: connection.post("/v2/scans", body))
                    assert answer.json["verdict"] == "replayed"
                assert all([(await connection.get(plain_target(fleet, index, 2))).passed for index in range(40)])
            (step,) = await eventually(lambda: _all_of(1, _logged_steps(server.log)[:1]), BACK_S)
            assert -25 < step < -15
