"""What management changes while scans are served: every worker follows within a second, and no scan is lost meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from support import eventually
from support.served import Connection, Served, manage

from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

AID = "busy"
FLEET = VirtualFleet(1812, 12, account=AID)
TAKEN_OVER_S = 1.0
AFTERWARDS_S = 0.5  # How long the load goes on once the change must be there.


class Seen(NamedTuple):
    sent_at: float
    text: str  # the response, or the error


class Load:
    """Connections that tap without a pause, each one tag, so many that every worker has some."""

    def __init__(self, port: int, tags: list[Any]) -> None:
        self.port = port
        self.tags = tags
        self.seen: list[list[Seen]] = [[] for _ in tags]
        self.ends = asyncio.Event()

    async def run(self, index: int) -> None:
        async with await Connection.open(self.port) as connection:
            while not self.ends.is_set():
                sent_at = time.monotonic()
                answer = await connection.get(self.tags[index]())
                assert answer.status == 200, answer
                self.seen[index].append(Seen(sent_at, answer.json.get("response") or answer.json["error"]))

    async def during(self, act: Callable[[], Awaitable[Any]]) -> float:
        """Run the load, act in the middle of it, go on; the moment of the act's answer."""
        tasks = [asyncio.create_task(self.run(index)) for index in range(len(self.tags))]
        await eventually(lambda: all(len(seen) >= 5 for seen in self.seen))
        await act()
        acted_at = time.monotonic()
        await eventually(lambda: time.monotonic() > acted_at + TAKEN_OVER_S + AFTERWARDS_S)
        self.ends.set()
        await asyncio.gather(*tasks)
        return acted_at


@pytest.fixture(scope="module")
def busy(server: Served) -> Served:
    server.provision(FLEET)
    server.management_token = server.cli(  # type: ignore[attr-defined]
        "api-key", "create", AID, "--scope", "manage", "--scope", "keys"
    ).strip()
    return server


async def ask(server: Served, method: str, path: str, body: Any = None) -> Any:
    return await manage(server, server.management_token, method, path, body)  # type: ignore[attr-defined]


def taps(index: int, first: int) -> Callable[[], str]:
    """The next genuine tap of a tag, each time it is called."""
    counter = iter(range(first, 1 << 24))

    def tap() -> str:
        x, n, e = FLEET.plain_tap(index, next(counter))
        return f"/v1/t?x={x}&n={n}&e={e}"

    return tap


def check(load: Load, acted_at: float, before: str, after: str) -> float:
    """Nobody gets the old answer more than a second after the act; how long it took in fact."""
    last_old = 0.0
    for seen in load.seen:
        assert {each.text for each in seen} == {before, after}, {each.text for each in seen}
        late = [each for each in seen if each.sent_at > acted_at + TAKEN_OVER_S]
        assert late and {each.text for each in late} == {after}
        last_old = max(last_old, *(each.sent_at - acted_at for each in seen if each.text == before))
    return last_old


async def test_changes_under_load_are_served_everywhere_within_a_second(busy: Served) -> None:
    (group,) = (await ask(busy, "GET", "/v2/groups"))["items"]
    (batch,) = (await ask(busy, "GET", "/v2/batches"))["items"]
    counts = dict.fromkeys(range(8), 1)
    rules = {"groups": [{"name": "a", "when": "authentication == pass", "response": "Welcome"}], "default": "No"}
    for path, patch, before, after in (
        (f"/v2/batches/{batch['id']}", {"active": False}, "Pass", "batch_inactive"),
        (f"/v2/batches/{batch['id']}", {"active": True}, "batch_inactive", "Pass"),
        (f"/v2/groups/{group['id']}", {"rules": rules}, "Pass", "Welcome"),
        (f"/v2/groups/{group['id']}", {"rules": None}, "Welcome", "Pass"),
        ("/v2/accounts/busy", {"active": False}, "Pass", "folder_inactive"),
        ("/v2/accounts/busy", {"active": True}, "folder_inactive", "Pass"),
    ):
        load = Load(busy.port, [taps(index, counts[index]) for index in counts])
        acted_at = await load.during(lambda path=path, patch=patch: ask(busy, "PATCH", path, patch))  # type: ignore[misc]
        took = check(load, acted_at, before, after)
        print(f"{path} {patch}: the last old answer {took * 1000:+.0f} ms after the act")
        for index, seen in enumerate(load.seen):
            counts[index] += len(seen)


async def test_a_new_key_under_load(busy: Served) -> None:
    """Taps of the old key pass until it is retired, those of the new one from then on; of both, each once."""
    index = 9
    x, new_key = FLEET.xuid(index), bytes(range(16))
    programmed = VirtualTag("ixkio-plain", xuid=x, uid=FLEET.uid(index), file_key=new_key, base_url="/v1/t")
    old, new = Load(busy.port, [taps(index, 1)]), Load(busy.port, [programmed.tap])
    added_at = await new.during(lambda: ask(busy, "POST", f"/v2/tags/{x}/keys", {"key": new_key.hex()}))
    check(new, added_at, "Fail", "Pass")
    versions = (await ask(busy, "GET", f"/v2/tags/{x}/keys"))["items"]
    assert [(each["version"], each["live"]) for each in versions] == [(1, True), (2, True)]
    async with await Connection.open(busy.port) as connection:
        # Both are live, but a tap of the newer one was accepted: what the older one says is older.
        assert (await connection.get(old.tags[0]())).failed
        assert (await connection.get(programmed.tap())).passed
    counter = await ask(busy, "GET", f"/v2/tags/{x}/counter")
    assert counter["key_version"] == 2 and counter["counter"] == programmed.counter

    index = 10
    x = FLEET.xuid(index)
    old = Load(busy.port, [taps(index, 1)])
    body = {"key": "5a" * 16, "retire_others": True}
    retired_at = await old.during(lambda: ask(busy, "POST", f"/v2/tags/{x}/keys", body))
    check(old, retired_at, "Pass", "Fail")


async def test_an_api_key_is_good_from_its_making_and_bad_after_its_end(busy: Served) -> None:
    await ask(busy, "PATCH", "/v2/accounts/busy", {"open": False})
    made = await ask(busy, "POST", "/v2/api-keys", {"scopes": ["scan"]})
    target = f"/v1/t?x={FLEET.xuid(11)}&r={made['token']}"

    async def status() -> int:
        async with await Connection.open(busy.port) as connection:
            return (await connection.get(target)).status

    async def is_told(wanted: int) -> bool:
        return {await status() for _ in range(8)} == {wanted}

    await eventually(lambda: is_told(200), TAKEN_OVER_S)
    await ask(busy, "DELETE", f"/v2/api-keys/{made['id']}")
    await eventually(lambda: is_told(401), TAKEN_OVER_S)
    await ask(busy, "PATCH", "/v2/accounts/busy", {"open": True})


async def test_the_logged_scans_are_those_that_were_made(busy: Served) -> None:
    items: list[Any] = []
    cursor = ""
    while True:
        page = await ask(busy, "GET", f"/v2/scans?limit=1000{cursor}")
        items += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    ids = [item["scan_id"] for item in items if item["verdict"] == "genuine"]
    assert len(ids) == len(set(ids)) == sum(row["scan_count"] for row in await counters(busy))
    days = (await ask(busy, "GET", "/v2/stats"))["counts"]
    assert sum(day["verdicts"].get("genuine", 0) for day in days) == len(ids)


async def counters(server: Served) -> list[Any]:
    tags = (await ask(server, "GET", "/v2/tags"))["items"]
    return [await ask(server, "GET", f"/v2/tags/{tag['xuid']}/counter") for tag in tags]
