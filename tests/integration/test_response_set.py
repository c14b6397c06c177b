"""The response to a scan by an owner's rules, extended fields and a tag's own rule set, as read from the database."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import orjson
import pytest

from ixfast.domain.scan import Scan
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.responses import bodies
from ixfast.store.catalogue.catalogue import Catalogue, Change
from ixfast.store.connections import session
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

RULES = {
    "groups": [
        {"name": "first", "when": "authentication == pass and scan_count == 1", "response": "Welcome {cuid}"},
        {"name": "again", "when": "authentication == pass", "response": "Scan {scount} of {xuid}"},
    ],
    "default": "No",
}


class Stack:
    """A catalogue, an engine and a ledger on a real database; scans return the `/v1` body."""

    def __init__(self, dsn: str, pool: Any) -> None:
        meters = Meters()
        self.keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(32))])
        self.pool = pool
        self.catalogue = Catalogue(pool, self.keks, meters, tags_max=100, absent_max=100, deadline_s=5.0)
        self.catalogue.stale = None
        self.engine = Engine(self.catalogue, meters)
        self.ledger = Ledger(PostgresLedgerDatabase(dsn, pool), self.engine.settled, meters, deadline_s=5.0)
        self.engine.use(self.ledger)
        self.ledger.start()
        self._ids = iter(range(1, 1000))

    async def v1(self, fleet: VirtualFleet, index: int, counter: int) -> bytes:
        x, n, e = fleet.plain_tap(index, counter)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Scan] = loop.create_future()
        scan = Scan(done.set_result, x.encode(), int(n, 16), bytes.fromhex(e), None, next(self._ids), loop.time())
        self.engine.submit(scan)
        return bodies.v1_body(await done)

    async def change(self, sql: str, *arguments: object, kind: str, xuid: str | None = None) -> None:
        group_id = await self.pool.fetchval("SELECT group_id FROM tag_group")
        await self.pool.execute(sql, *arguments)
        await self.catalogue.apply([Change(kind, group_id, xuid)])


@pytest.fixture
async def stack(database: str) -> Any:
    pool = await session.make_pool(database, 4)
    stack = Stack(database, pool)
    yield stack
    await stack.ledger.stop()
    await pool.close()


async def test_group_rules_fields_and_own_rules_answer(stack: Stack, database: str) -> None:
    fleet = VirtualFleet(1, 3)
    connection = await asyncpg.connect(database)
    await provision(connection, stack.keks, [fleet])
    await connection.close()
    assert orjson.loads(await stack.v1(fleet, 0, 1))["response"] == "Pass"

    await stack.change("UPDATE tag_group SET rule_set = $1", orjson.dumps(RULES).decode(), kind="group")
    x = fleet.xuid(1)
    assert await stack.v1(fleet, 1, 1) == b'{"xuid":"%b","response":"Welcome ixkio-plain-1"}' % x.encode()
    assert orjson.loads(await stack.v1(fleet, 1, 2))["response"] == f"Scan 2 of {x}"
    assert orjson.loads(await stack.v1(fleet, 1, 2))["response"] == "No"

    definitions = orjson.dumps([{"name": "scancount", "in_reply": True}, {"name": "secret"}]).decode()
    await stack.change("UPDATE folder SET fields = $1", definitions, kind="group")
    await stack.change("UPDATE tag_group SET fields = $1", '{"scancount": "{scount}"}', kind="group")
    assert await stack.v1(fleet, 1, 3) == b'{"xuid":"%b","response":"Scan 3 of %b","scancount":"3"}' % (x.encode(), x.encode())
    await stack.change("UPDATE tag SET fields = $2 WHERE xuid = $1", x, '{"scancount": "own \\"4\\""}', kind="tag", xuid=x)
    assert orjson.loads(await stack.v1(fleet, 1, 4))["scancount"] == 'own "4"'

    own = orjson.dumps({"groups": [], "default": "Mine"}).decode()
    await stack.change("UPDATE tag SET rule_set = $2 WHERE xuid = $1", x, own, kind="tag", xuid=x)
    assert orjson.loads(await stack.v1(fleet, 1, 5))["response"] == "Mine"
    assert orjson.loads(await stack.v1(fleet, 0, 2))["response"] == f"Scan 2 of {fleet.xuid(0)}"
    await stack.change("UPDATE tag SET rule_set = NULL WHERE xuid = $1", x, kind="tag", xuid=x)
    assert orjson.loads(await stack.v1(fleet, 1, 6))["response"] == f"Scan 6 of {x}"


async def test_names_and_fields_are_expanded_with_the_dates_they_ask_for(stack: Stack, database: str) -> None:
    fleet = VirtualFleet(1, 1)
    connection = await asyncpg.connect(database)
    await provision(connection, stack.keks, [fleet])
    await connection.close()
    x = fleet.xuid(0)
    definitions = orjson.dumps([{"name": "n", "in_reply": True}]).decode()
    await stack.change("UPDATE folder SET fields = $1", definitions, kind="group")
    await stack.change("UPDATE tag_group SET fields = $1", '{"n": "{scount} & {cuid}"}', kind="group")
    own = orjson.dumps({"groups": [], "default": "https://example.org/{tagname}?m={meta:n}"}).decode()
    await stack.change("UPDATE tag SET rule_set = $2 WHERE xuid = $1", x, own, kind="tag", xuid=x)
    sql = "UPDATE tag SET name = $2, created_at = '2026-01-31T09:30:00Z' WHERE xuid = $1"
    await stack.change(sql, x, "Chair {dtcreated}", kind="tag", xuid=x)
    url = "https://example.org/Chair%202026-01-31T09%3A30%3A00Z?m=1%20%26%20ixkio-plain-0&n=1%20%26%20ixkio-plain-0"
    assert orjson.loads(await stack.v1(fleet, 0, 1)) == {"xuid": x, "response": url, "n": "1 & ixkio-plain-0"}


async def test_tags_that_are_cached_know_the_dates_that_their_group_asks_for_later(stack: Stack, database: str) -> None:
    fleet = VirtualFleet(1, 1)
    connection = await asyncpg.connect(database)
    await provision(connection, stack.keks, [fleet])
    await connection.close()
    await stack.pool.execute("UPDATE tag SET created_at = '2026-01-31T09:30:00Z', assigned_at = '2026-02-01T00:00:00Z'")
    assert orjson.loads(await stack.v1(fleet, 0, 1)) == {"xuid": fleet.xuid(0), "response": "Pass"}
    rules = orjson.dumps({"groups": [], "default": "{dtcreated}"}).decode()
    await stack.change("UPDATE tag_group SET rule_set = $1", rules, kind="group")
    assert orjson.loads(await stack.v1(fleet, 0, 2))["response"] == "2026-01-31T09:30:00Z"
    await stack.change("UPDATE tag_group SET rule_set = NULL", kind="group")
    await stack.change("UPDATE tag SET name = 'x'", kind="tag", xuid=fleet.xuid(0))
    assert orjson.loads(await stack.v1(fleet, 0, 3))["response"] == "Pass"
    definitions = orjson.dumps([{"name": "n", "in_reply": True}]).decode()
    await stack.change("UPDATE folder SET fields = $1", definitions, kind="group")
    await stack.change("UPDATE tag_group SET fields = $1", '{"n": "{dtassigned}"}', kind="group")
    assert orjson.loads(await stack.v1(fleet, 0, 4))["n"] == "2026-02-01T00:00:00Z"


async def test_a_broken_rule_set_never_replaces_a_good_one(stack: Stack, database: str) -> None:
    fleet = VirtualFleet(1, 1)
    connection = await asyncpg.connect(database)
    await provision(connection, stack.keks, [fleet])
    await connection.close()
    assert orjson.loads(await stack.v1(fleet, 0, 1))["response"] == "Pass"
    await stack.change("UPDATE tag_group SET rule_set = $1", '{"groups": [], "defautl": "x"}', kind="group")
    assert orjson.loads(await stack.v1(fleet, 0, 2))["response"] == "Pass"
