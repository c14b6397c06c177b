"""Failover under load: to a standby that had received everything, and to one that was behind.

The second case loses taps and management changes for good. Whatever is deactivated afterwards must still stop passing, although
the new primary numbers its changes with values that the workers already know.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.replication import Replicated, replicated
from support.served import Connection, Served, manage, plain_target
from test_crashes import FLEET as CRASH_FLEET
from test_crashes import load_on

from ixfast.testing.virtual_tags import VirtualFleet

BACK_S = 30.0
HISTORY_CHANGES = "ixfast_database_history_changes_total"
PROMISED_S = 1.0
AFTERWARDS_S = 1.0  # how long the load continues once the promise is due
TAGS = 6
KINDS = ("tag", "batch", "group", "rules", "api key", "tag again")
FLEETS = {kind: VirtualFleet(6200 + n, TAGS, account=kind.replace(" ", "")) for n, kind in enumerate(KINDS)}
GAP = VirtualFleet(6299, 20, account="gap")
RULES = {"groups": [{"name": "any", "when": "authentication == pass", "response": "Recalled"}], "default": "Recalled"}
AFTER = {
    "tag": "tag_inactive",
    "batch": "batch_inactive",
    "group": "tg_inactive",
    "rules": "Recalled",
    "api key": "unauthorised",
    "tag again": "tag_inactive",
}


class Load:
    """Taps every tag continuously, each on a connection of its own."""

    def __init__(self, server: Served, tokens: dict[str, str]) -> None:
        self.server = server
        self.tokens = tokens  # API keys for scanning a fleet's tags, by kind
        self.seen: dict[str, list[tuple[float, str]]] = {kind: [] for kind in KINDS}  # when it was sent, and the answer
        self._ends = False

    async def _tap(self, kind: str, index: int) -> None:
        counter = 0
        headers = {"X-API-Key": self.tokens[kind]} if kind in self.tokens else {}
        while not self._ends:
            with contextlib.suppress(OSError):
                async with await Connection.open(self.server.port) as connection:
                    while not self._ends:
                        counter += 1
                        asked_at = time.monotonic()
                        answer = await connection.get(plain_target(FLEETS[kind], index, counter), headers)
                        said = answer.json.get("response") or answer.json["error"]
                        self.seen[kind].append((asked_at, said))
                        await asyncio.sleep(0.01)  # a customer's pause: this is not a load test

    async def until(self, said: Callable[[str], bool]) -> None:
        """Wait until the latest answers of every kind satisfy `said`."""
        await eventually(lambda: all(len(s) > 20 and all(said(text) for _, text in s[-10:]) for s in self.seen.values()), BACK_S)


@contextlib.asynccontextmanager
async def load_of(server: Served, tokens: dict[str, str]) -> AsyncIterator[Load]:
    load = Load(server, tokens)
    tasks = [asyncio.create_task(load._tap(kind, index)) for kind in KINDS for index in range(TAGS)]
    try:
        yield load
    finally:
        load._ends = True
        await asyncio.gather(*tasks)


class ManagementClient:
    """Makes management requests and records when each was answered."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.tokens = {kind: self._token(fleet, "manage", "manager") for kind, fleet in FLEETS.items()}
        self.scanning = {"api key": self._token(FLEETS["api key"], "scan", "scanner")}
        self.acted_at: dict[str, float] = {}

    def _token(self, fleet: VirtualFleet, scope: str, label: str) -> str:
        return self.server.cli("api-key", "create", fleet.account, "--scope", scope, "--label", label).strip()

    async def ask(self, kind: str, method: str, path: str, body: Any = None) -> Any:
        return await manage(self.server, self.tokens[kind], method, path, body)

    async def rename_tags(self, times: int) -> None:
        """Make changes that affect no scan but raise the generation."""
        for number in range(times):
            await self.ask("tag", "PATCH", f"/v2/tags/{FLEETS['tag'].xuid(0)}", {"name": f"name {number}"})

    async def switch_off(self) -> None:
        for act in (self._tags, self._batch, self._group, self._rules, self._api_key, self._tags_again):
            await act()

    async def _acted(self, kind: str, acts: Awaitable[Any]) -> None:
        await acts
        self.acted_at[kind] = time.monotonic()

    async def _tags(self, kind: str = "tag") -> None:
        for index in range(TAGS):
            act = self.ask(kind, "PATCH", f"/v2/tags/{FLEETS[kind].xuid(index)}", {"active": False})
            await self._acted(kind, act)

    async def _tags_again(self) -> None:
        await self._tags("tag again")

    async def _only(self, kind: str, path: str) -> str:
        (item,) = (await self.ask(kind, "GET", path))["items"]
        return f"{path}/{item['id']}"

    async def _batch(self) -> None:
        await self._acted("batch", self.ask("batch", "PATCH", await self._only("batch", "/v2/batches"), {"active": False}))

    async def _group(self) -> None:
        await self._acted("group", self.ask("group", "PATCH", await self._only("group", "/v2/groups"), {"active": False}))

    async def _rules(self) -> None:
        await self._acted("rules", self.ask("rules", "PATCH", await self._only("rules", "/v2/groups"), {"rules": RULES}))

    async def _api_key(self) -> None:
        keys = (await self.ask("api key", "GET", "/v2/api-keys"))["items"]
        (scanner,) = [key["id"] for key in keys if key["label"] == "scanner"]
        await self._acted("api key", self.ask("api key", "DELETE", f"/v2/api-keys/{scanner}"))


def meter(server: Served, name: str) -> int:
    text = server.ask_private("/metrics")[1].decode()
    return int(sum(map(float, re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))))


async def ask(server: Served, fleet: VirtualFleet, index: int, counter: int) -> str:
    """The response to a tap, or the error."""
    async with await Connection.open(server.port) as connection:
        answer = await connection.get(plain_target(fleet, index, counter))
    return answer.json.get("response") or answer.json["error"]


async def tap_all(server: Served, fleet: VirtualFleet, indices: range, counter: int) -> list[str]:
    """The answers to a tap of each tag; a 503 is retried."""

    async def tap(index: int) -> str:
        async def said() -> str | None:
            answer = await ask(server, fleet, index, counter)
            return answer if answer not in ("unavailable", "overloaded", "outcome_unknown") else None

        return await eventually(said, BACK_S)

    return list(await asyncio.gather(*map(tap, indices)))


@pytest.fixture
def pair(server_dir: Path) -> Iterator[Replicated]:
    with replicated(server_dir) as servers:
        yield servers


@pytest.fixture
def server(pair: Replicated, tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "server", dsn=pair.dsn) as server:
        for kind, fleet in FLEETS.items():
            server.provision(fleet, is_open=kind != "api key")
        server.provision(GAP)
        yield server


async def fail_over_with_a_gap(pair: Replicated, work: Awaitable[Any]) -> None:
    """Promote a standby that has not received `work`."""
    await asyncio.to_thread(pair.catch_up)
    await asyncio.to_thread(pair.hold_back)
    await work
    pair.kill_primary()
    await asyncio.to_thread(pair.promote)


async def test_what_is_switched_off_after_a_lossy_failover_stops_passing(pair: Replicated, server: Served) -> None:
    client = ManagementClient(server)
    async with load_of(server, client.scanning) as load:
        await load.until(lambda text: text == "Pass")

        async def act_in_the_gap() -> None:
            """Make more changes than the new primary will, so that its numbers are all known; failover undoes some of them."""
            await client._tags("tag again")
            await load.until(lambda text: text in ("Pass", "tag_inactive"))
            await client.rename_tags(40)

        await fail_over_with_a_gap(pair, act_in_the_gap())
        await load.until(lambda text: text == "Pass")  # what was deactivated in the gap passes again: that change is lost
        await client.switch_off()
        over = time.monotonic() + PROMISED_S + AFTERWARDS_S
        await eventually(lambda: time.monotonic() > over, 10.0)
    for kind, acted_at in client.acted_at.items():
        late = {text for asked_at, text in load.seen[kind] if asked_at > acted_at + PROMISED_S}
        assert late == {AFTER[kind]}, kind
    assert meter(server, HISTORY_CHANGES) == len(server.workers())
    assert server.log.count("the database's history changed from ") == len(server.workers())


async def test_taps_of_the_gap_pass_once_more_until_they_are_recovered(pair: Replicated, server: Served, tmp_path: Path) -> None:
    every = range(len(GAP))
    assert await tap_all(server, GAP, every, 1) == ["Pass"] * 20

    async def tap_in_the_gap() -> None:
        for counter in (2, 3):
            assert await tap_all(server, GAP, every, counter) == ["Pass"] * 20
            assert await tap_all(server, GAP, every, counter) == ["Fail"] * 20

    await fail_over_with_a_gap(pair, tap_in_the_gap())
    assert await tap_all(server, GAP, every, 1) == ["Fail"] * 20
    await eventually(lambda: meter(server, HISTORY_CHANGES) == len(server.workers()), BACK_S)
    asked, left = range(10), range(10, 20)
    assert await tap_all(server, GAP, asked, 2) == ["Pass"] * 10  # floors of the lost history refuse no tap
    for _ in range(3):  # by either worker
        assert await tap_all(server, GAP, asked, 2) == ["Fail"] * 10
    old = await asyncio.to_thread(pair.start_old_primary)
    dsn_file = tmp_path / "old-dsn"
    dsn_file.write_text(old.dsn)
    dsn_file.chmod(0o600)
    report = await asyncio.to_thread(server.cli, "recover-counters", "--from-dsn-file", str(dsn_file))
    assert "passes lost in the failover: 40\n" in report
    assert "accepted again by the current primary: 10\n" in report
    for counter in (2, 3):
        assert await tap_all(server, GAP, left, counter) == ["Fail"] * 10
    assert await tap_all(server, GAP, asked, 3) == ["Fail"] * 10
    assert await tap_all(server, GAP, every, 4) == ["Pass"] * 20


async def test_a_synchronous_failover_loses_nothing_and_passes_nothing_twice(server_dir: Path, tmp_path: Path) -> None:
    with replicated(server_dir, synchronous=True) as pair, Served(tmp_path / "server", dsn=pair.dsn) as server:
        server.provision(CRASH_FLEET)
        token = server.cli("api-key", "create", CRASH_FLEET.account, "--scope", "manage").strip()
        switched_off = range(CRASH_FLEET.count - 10, CRASH_FLEET.count)
        async with load_on(server) as load:
            await load.goes_on()
            pair.kill_primary()
            await asyncio.to_thread(pair.promote)
            await load.goes_on()
        assert await asyncio.to_thread(load.violations) == []
        for index in switched_off:
            await manage(server, token, "PATCH", f"/v2/tags/{CRASH_FLEET.xuid(index)}", {"active": False})
        due = time.monotonic() + PROMISED_S
        await eventually(lambda: time.monotonic() > due)
        assert await tap_all(server, CRASH_FLEET, switched_off, 100_000) == ["tag_inactive"] * 10
        assert await tap_all(server, CRASH_FLEET, range(10), 100_000) == ["Pass"] * 10


async def test_an_old_primary_that_comes_back_where_it_was_passes_nothing_twice(pair: Replicated, server: Served) -> None:
    """It still accepts writes and comes first in the connection string, so every new connection finds it."""
    every = range(len(GAP))
    assert await tap_all(server, GAP, every, 1) == ["Pass"] * 20
    await asyncio.to_thread(pair.catch_up)
    pair.kill_primary()
    new = await asyncio.to_thread(pair.promote)
    assert await tap_all(server, GAP, every, 2) == ["Pass"] * 20
    token = server.cli("api-key", "create", GAP.account, "--scope", "manage").strip()
    await manage(server, token, "PATCH", f"/v2/tags/{GAP.xuid(0)}", {"active": False})

    async def is_deactivated() -> bool:
        return await tap_all(server, GAP, [0] * 16, 2) == ["tag_inactive"] * 16

    await eventually(is_deactivated)
    old = await asyncio.to_thread(pair.start_old_primary, same_port=True)
    for _ in range(3):
        new.fetchval("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ixfast'")
        said = await asyncio.gather(*(ask(server, GAP, index, 2) for index in every))
        assert set(said) <= {"Fail", "unavailable", "outcome_unknown", "tag_inactive"}
        assert said[0] != "Fail", "an answer of the old primary was used"
    assert await asyncio.to_thread(old.fetchval, "SELECT max(last_position) & 16777215 FROM tag_counter") == 1
    old.kill9()
    assert await tap_all(server, GAP, every, 3) == ["tag_inactive"] + ["Pass"] * 19
    assert meter(server, HISTORY_CHANGES) == len(server.workers())
