"""A tap passes at most once, however many callers send it at once: through real sockets, two workers and one database."""

import asyncio
import random
import time
from pathlib import Path

import pytest
from support import racing_server
from support.linearizability import Operation, violations
from support.served import Connection, Served, all_of, plain_target

from ixfast.domain.scan import position
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(61, 300, account="shop")
AT_ONCE = 1000
CONNECTIONS = 64
TAGS = 200
TAPS = 10  # Of each tag; most are sent more than once.
ATTEMPTS = 20


async def ask_a_thousand_times(server: Served, index: int) -> tuple[int, int, int]:
    """Send one fresh tap AT_ONCE times: how many passed, how many were refused, and how many passes were logged."""
    answers = await all_of(server.port, [plain_target(FLEET, index, 1)] * AT_ONCE, CONNECTIONS)
    rows = server.fetch(
        "SELECT count(*) AS passes FROM scan_log JOIN tag USING (tag_id) WHERE xuid = $1 AND verdict = 'g'", FLEET.xuid(index)
    )
    return sum(a.passed for a in answers), sum(a.failed for a in answers), rows[0]["passes"]


async def play(server: Served, seed: int) -> list[str]:
    """Send rising taps of many tags, duplicated and out of order, over many connections; returns the ledger's mistakes."""
    chance = random.Random(seed)
    planned: list[tuple[float, int, int]] = []
    for index in range(TAGS):
        counter = 1  # 1 is used by the other test
        for moment in range(TAPS):
            counter += chance.choice((1, 1, 2, 5))
            planned += [(moment + chance.uniform(0, 1.5), index, counter) for _ in range(chance.choice((1, 2, 3)))]
    ids = {row["xuid"]: row["tag_id"] for row in server.fetch("SELECT xuid, tag_id FROM tag")}
    history: list[Operation] = []
    waiting = iter(sorted(planned))

    async def ask() -> None:
        async with await Connection.open(server.port) as connection:
            for _, index, counter in waiting:
                started = time.monotonic()
                answer = await connection.get(plain_target(FLEET, 100 + index, counter))
                assert answer.status == 200, answer
                outcome = "passed" if answer.passed else "refused"
                history.append(Operation(ids[FLEET.xuid(100 + index)], position(1, counter), started, time.monotonic(), outcome))

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    logged = server.fetch("SELECT tag_id, position FROM scan_log WHERE verdict = 'g'")
    final = server.fetch("SELECT tag_id, last_position FROM tag_counter")
    assert len(history) == len(planned)
    return violations(history, {r["tag_id"]: r["last_position"] for r in final}, [(r["tag_id"], r["position"]) for r in logged])


@pytest.fixture(scope="module")
def shop(server: Served) -> Served:
    server.provision(FLEET)
    return server


async def test_a_tap_passes_once_of_a_thousand(shop: Served) -> None:
    for index in range(3):
        assert await ask_a_thousand_times(shop, index) == (1, AT_ONCE - 1, 1)


@pytest.mark.parametrize("seed", [1])
async def test_interleaved_taps_are_linearizable(shop: Served, seed: int) -> None:
    assert await play(shop, seed) == []


async def test_a_ledger_that_races_is_caught(database: str, server_dir: Path) -> None:
    """The same two tests, on a server whose ledger reads, compares and then writes. On a busy machine, two workers may take
    turns for a while, so that nothing races."""
    with Served(server_dir, dsn=database, entry=(racing_server.__file__,)) as racing:
        racing.provision(FLEET)
        for index in range(ATTEMPTS):
            if (await ask_a_thousand_times(racing, index))[0] > 1:
                break
        else:
            pytest.fail("no tap passed twice")
        assert await play(racing, 1) != []
