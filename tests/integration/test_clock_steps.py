"""The ledger while its database's clock is stepped: retry windows, lost replies, and first answers under a key."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import administer, drop_database, eventually, in_own_loop
from support.followed_ledger import FollowedLedger, followed_ledger
from support.ledger_kit import ADVANCED, REPEATED, REPLAYED, Truth, open_ledger, word
from support.stepped_clock import SteppedClock, stepped_clock
from support.tcp_proxy import TcpProxy

from ixfast.domain.decision import CounterState
from ixfast.domain.scan import Scan
from ixfast.embedded import EmbeddedPostgres
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase
from ixfast.store.migrate import migrate

TAGS = 50
WINDOW_S = 60
STEPPED = "unavailable:clock_stepped"
MARKED = 0x5EA1_ED5C_A402
MARK = MARKED.to_bytes(6)


@pytest.fixture(scope="module")
def clock(open_scratch: Path) -> Iterator[SteppedClock]:
    with stepped_clock(open_scratch / "clock_steps") as clock:
        yield clock


@pytest.fixture(scope="module")
def stepped_server(open_scratch: Path, clock: SteppedClock) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(open_scratch / "clock_steps" / "data", tcp=True) as server:
        administer(server.dsn, "CREATE DATABASE migrated")
        in_own_loop(lambda: migrate(server.dsn_of("migrated")))
        yield server


@pytest.fixture
def database(stepped_server: EmbeddedPostgres, clock: SteppedClock) -> Iterator[str]:
    """A database of the test's own, on the server whose clock is stepped and begins as this host's."""
    clock.step_to(0)
    name = f"stepped_{secrets.token_hex(6)}"
    administer(stepped_server.dsn, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield stepped_server.dsn_of(name)
    drop_database(stepped_server.dsn, name)


@pytest.fixture
async def ledger(database: str, truth: Truth) -> AsyncIterator[FollowedLedger]:
    async with followed_ledger(database, retry_window_s=WINDOW_S) as ledger:
        yield ledger


# Retry windows.


async def test_without_a_step_the_newest_tap_repeats_inside_its_window(
    ledger: FollowedLedger, clock: SteppedClock, database: str
) -> None:
    assert await ledger.word(1, 5) == ADVANCED
    assert [await ledger.word(1, 5) for _ in range(3)] == [REPEATED] * 3
    assert await ledger.word(1, 4) == REPLAYED
    assert ledger.steps == 0


@pytest.mark.parametrize("step_s", [-20, -3600, -86_400])
async def test_after_a_step_back_nothing_accepted_before_repeats(
    ledger: FollowedLedger, clock: SteppedClock, step_s: int
) -> None:
    assert await ledger.word(1, 5) == ADVANCED
    clock.step(step_s)
    assert await ledger.word(1, 5) == REPLAYED  # at once: its age is negative
    await ledger.sees_steps(1)
    assert await ledger.word(1, 5) == REPLAYED
    clock.step(-step_s + 1)  # by the clock it is one second old, and that can be true or not
    assert await ledger.word(1, 5) == STEPPED
    assert await ledger.word(1, 4) == REPLAYED


async def test_a_tap_never_repeats_later_than_its_window(ledger: FollowedLedger, clock: SteppedClock) -> None:
    """61 s pass, by the clock, and then it goes back by 30."""
    assert await ledger.word(1, 5) == ADVANCED
    clock.step(WINDOW_S + 1)
    await ledger.sees_steps(1)
    clock.step(-30)
    assert await ledger.word(1, 5) == STEPPED


class Undoubting(PostgresLedgerDatabase):
    """The control: it does not know that the clock went back."""

    async def states(self, *arguments: Any) -> list[CounterState]:
        return [state._replace(doubtful=False) for state in await super().states(*arguments)]


async def test_without_doubt_a_tap_would_repeat_later_than_its_window(database: str, truth: Truth, clock: SteppedClock) -> None:
    async with followed_ledger(database, retry_window_s=WINDOW_S, database_kind=Undoubting) as ledger:
        assert await ledger.word(1, 5) == ADVANCED
        clock.step(WINDOW_S + 1)
        await ledger.sees_steps(1)
        clock.step(-30)
        assert await ledger.word(1, 5) == REPEATED


@pytest.mark.parametrize("step_s", [30, 3600, 86_400])
async def test_after_a_step_forward_nobody_is_refused_inside_the_window(
    ledger: FollowedLedger, clock: SteppedClock, step_s: int
) -> None:
    assert await ledger.word(1, 5) == ADVANCED
    clock.step(step_s)
    assert await ledger.word(1, 5) == (REPEATED if step_s < WINDOW_S else STEPPED)
    assert await ledger.word(1, 4) == REPLAYED
    assert await ledger.word(1, 6) == ADVANCED
    assert await ledger.word(1, 6) == REPEATED


async def test_a_worker_that_starts_after_a_step_back_knows_of_it(database: str, truth: Truth, clock: SteppedClock) -> None:
    async with followed_ledger(database, retry_window_s=WINDOW_S) as before:
        assert await before.word(1, 5) == ADVANCED
        clock.step(WINDOW_S + 1)
        await before.sees_steps(1)
    clock.step(-30)
    async with followed_ledger(database, retry_window_s=WINDOW_S) as after:
        assert await after.word(1, 5) == STEPPED
    async with followed_ledger(database, retry_window_s=WINDOW_S) as later:
        assert await later.word(1, 5) == STEPPED
        assert later.steps == 0
        assert await later.word(1, 6) == ADVANCED


async def test_a_database_that_starts_again_with_an_earlier_clock_is_noticed(
    stepped_server: EmbeddedPostgres, database: str, truth: Truth, clock: SteppedClock
) -> None:
    async with followed_ledger(database, retry_window_s=WINDOW_S) as ledger:
        assert await ledger.word(1, 5) == ADVANCED
        clock.step(WINDOW_S + 1)
        await ledger.sees_steps(1)
    await truth.connection.close()
    stepped_server.stop()
    clock.step(-30)
    with clock.in_use():
        stepped_server.start()
    async with followed_ledger(database, retry_window_s=WINDOW_S) as ledger:
        assert await ledger.word(1, 5) == STEPPED


# A lost reply.


@pytest.fixture
async def proxy(stepped_server: EmbeddedPostgres) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(stepped_server.port) as proxy:
        yield proxy


@pytest.fixture
def through(stepped_server: EmbeddedPostgres, proxy: TcpProxy, database: str) -> str:
    return stepped_server.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port)


async def overtaken(
    ledger: FollowedLedger, proxy: TcpProxy, database: str, clock: SteppedClock, step_s: float, *, applied: bool
) -> Scan:
    """A scan whose reply is lost; then the clock is stepped, and another worker raises the counter."""
    fault = (proxy.lose_replies if applied else proxy.lose_requests)(MARK, then_refuse=True)
    answer = ledger.submit(1, 5, MARKED)
    await eventually(lambda: fault.hits)
    clock.step(step_s)
    async with open_ledger(database) as other:
        assert await other.word(1, 6) == ADVANCED
    proxy.refusing = False
    return await answer


@pytest.mark.parametrize("step_s", [-86_400, -3600, -20, 20, 3600, 86_400])
@pytest.mark.parametrize("applied", [True, False])
async def test_a_lost_reply_is_resolved_rightly_across_a_step(
    through: str, database: str, proxy: TcpProxy, truth: Truth, clock: SteppedClock, step_s: int, applied: bool
) -> None:
    async with followed_ledger(through, pool_dsn=database) as ledger:
        assert await ledger.word(1, 1) == ADVANCED
        scan = await overtaken(ledger, proxy, database, clock, step_s, applied=applied)
        assert word(scan) == (ADVANCED if applied else REPLAYED)
        assert await truth.log() == [(1, 1), *([(1, 5)] if applied else []), (1, 6)]
        assert await ledger.word(1, 5) == REPLAYED


# First answers under a key.


@pytest.mark.parametrize("step_s", [-86_400, -20, 3600, 86_400])
async def test_a_first_answer_does_not_change_with_the_clock(
    ledger: FollowedLedger, database: str, clock: SteppedClock, step_s: int
) -> None:
    assert await ledger.word(1, 2) == ADVANCED
    first = await ledger.submit(1, 5, 77, idempotent=True)
    clock.step(step_s)
    assert await ledger.word(1, 9) == ADVANCED
    async with open_ledger(database) as other:
        for asked in (ledger.submit(1, 5, 77, idempotent=True), other.submit(1, 5, 77, idempotent=True)):
            again = await asked
            assert word(first) == word(again) == ADVANCED
            assert (again.previous_position, again.scan_count) == (first.previous_position, first.scan_count) == (2, 2)
        assert await other.word(1, 5, 78, idempotent=True) == REPLAYED
