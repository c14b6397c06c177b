"""A tag that the caller may not see costs exactly the work of a tag that does not exist: the same statements, which find no rows.

The caller holds a token of one account. It asks for a code that does not exist (`unknown`), for another account's tag that the
worker has cached because its owner's customers use it (`in use`), and for one that has never been requested (`idle`), each with
a genuine and with a forged tap. These tests count the work; `python -m benchmarks timing` measures how long the answers take.
Both use the same control: an engine that refuses another account's tag as soon as it sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from benchmarks.early_server import EarlyEngine
from ixfast import meters
from ixfast.domain.model import Verdict
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import Scan
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.store.admin import edits
from ixfast.store.catalogue import catalogue as catalogue_module
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.store.connections import session
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

OWN = VirtualFleet(11, 2, account="own-stack")
FOREIGN = VirtualFleet(12, 4, account="other-stack")
KEKS = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
NOBODY = "nobodys0", "nobodys1"
IN_USE, IDLE = 0, 2
WORK = meters.CATALOGUE_QUERIES, meters.CATALOGUE_MISSES, meters.CATALOGUE_ABSENT, meters.CATALOGUE_TAGS


class CountingPool:
    """Records each statement and the number of rows it found."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.statements: list[tuple[str, int]] = []
        self.asked: list[str] = []

    async def acquire(self) -> Any:
        return _CountingConnection(self, await self._pool.acquire())

    async def release(self, connection: Any) -> None:
        await self._pool.release(connection.real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _CountingConnection:
    def __init__(self, pool: CountingPool, real: Any) -> None:
        self._pool = pool
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def fetch(self, query: str, *arguments: Any) -> Any:
        rows = await self.real.fetch(query, *arguments)
        self._pool.statements.append((query, len(rows)))
        self._pool.asked += [name for names in arguments if isinstance(names, list) for name in names if isinstance(name, str)]
        return rows


class Stack:
    """A catalogue and an engine on a counted pool, with an API key of the caller's account and one of the foreign account."""

    def __init__(self, pool: Any, own_id: int, foreign_id: int, engine: type[Engine] = Engine) -> None:
        self.meters = Meters()
        self.pool = CountingPool(pool)
        self.catalogue = Catalogue(self.pool, KEKS, self.meters, tags_max=100, absent_max=100, deadline_s=10.0)
        self.catalogue.stale = None
        self.engine = engine(self.catalogue, self.meters)
        self.engine.use(Nothing())
        self.own_key = ApiKey(1, own_id, OWN.account, frozenset(("scan",)), "", None)
        self.foreign_key = ApiKey(2, foreign_id, FOREIGN.account, frozenset(("scan",)), "", None)

    async def ask(
        self, code: str, api_key: ApiKey | None, counter: int = 1, mac: bytes = bytes(8), *, aid: str | None = None
    ) -> Scan:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Scan] = loop.create_future()
        scan = Scan(answer.set_result, code.encode(), counter, mac, api_key, 1, loop.time())
        scan.aid = aid
        self.engine.submit(scan)
        return await answer

    async def work_of(self, code: str, mac: bytes = bytes(8)) -> Any:
        """The answer to a caller of the other account, and the work done for it."""
        before, self.pool.statements = [self.meters.slots[slot] for slot in WORK], []
        scan = await self.ask(code, self.own_key, 1, mac)
        said = scan.verdict, scan.error, scan.reason, scan.record, scan.authentic
        return said, self.pool.statements, [self.meters.slots[slot] - b for slot, b in zip(WORK, before, strict=True)]

    async def use(self, index: int) -> None:
        """Scan the foreign tag as its owner, so that it is cached."""
        scan = await self.ask(FOREIGN.xuid(index), self.foreign_key)
        assert scan.verdict is Verdict.FORGED
        assert self.catalogue.find(FOREIGN.xuid(index).encode()) is not None

    async def all_work(self) -> dict[str, Any]:
        """The work of every case, twice each: the second answer comes from the cache."""
        await self.ask(OWN.xuid(0), self.own_key)  # caches the caller's own account
        for index in (IN_USE, IN_USE + 1):
            await self.use(index)
        found = {}
        for again in ("first", "again"):
            for tap, mac_of in (("forged", lambda _: bytes(8)), ("genuine", lambda i: bytes.fromhex(FOREIGN.plain_tap(i, 1)[2]))):
                shift = tap == "genuine"
                found[f"unknown, {tap}, {again}"] = await self.work_of(NOBODY[shift], mac_of(IN_USE))
                found[f"in use, {tap}, {again}"] = await self.work_of(FOREIGN.xuid(IN_USE + shift), mac_of(IN_USE + shift))
                found[f"idle, {tap}, {again}"] = await self.work_of(FOREIGN.xuid(IDLE + shift), mac_of(IDLE + shift))
        return found


class Nothing:
    """A ledger that must never be used."""

    def submit(self, scan: Scan) -> None:
        raise AssertionError("the tap was consumed")

    read_state = submit

    def log_refusal(self, scan: Scan) -> None:
        assert scan.record is not None or scan.verdict is Verdict.UNKNOWN


def assert_one_work(found: dict[str, Any]) -> None:
    for again in ("first", "again"):
        expected = found[f"unknown, forged, {again}"]
        assert expected[0] == (Verdict.UNKNOWN, "not_found", None, None, False)
        assert [rows for _, rows in expected[1]] == ([0] if again == "first" else [])
        for name, work in found.items():
            if name.endswith(again):
                assert work == expected, name


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    await provision(connection, KEKS, [OWN], is_open=False)
    await provision(connection, KEKS, [FOREIGN], is_open=False)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Any]:
    pool = await session.make_pool(database, 2)
    yield pool
    pool.terminate()


async def stack_of(pool: Any, connection: asyncpg.Connection, engine: type[Engine] = Engine) -> Stack:
    ids = {row["aid"]: row["account_id"] for row in await connection.fetch("SELECT aid, account_id FROM account")}
    return Stack(pool, ids[OWN.account], ids[FOREIGN.account], engine)


async def test_another_accounts_tag_costs_what_no_tag_costs(pool: Any, connection: asyncpg.Connection) -> None:
    stack = await stack_of(pool, connection)
    assert_one_work(await stack.all_work())


async def test_control_a_tag_refused_at_once_is_caught(pool: Any, connection: asyncpg.Connection) -> None:
    stack = await stack_of(pool, connection, EarlyEngine)
    with pytest.raises(AssertionError, match="in use, forged, first"):
        assert_one_work(await stack.all_work())


@pytest.mark.parametrize("token", [True, False])
async def test_a_cached_tag_is_looked_up_under_a_name_that_no_row_has(
    pool: Any, connection: asyncpg.Connection, token: bool
) -> None:
    """Filtering out a row would take longer than finding none. Without a token, a closed account's tag does not exist."""
    stack = await stack_of(pool, connection)
    await stack.use(IN_USE)
    stack.pool.asked = []
    code = FOREIGN.xuid(IN_USE)
    assert (await stack.ask(code, stack.own_key if token else None)).verdict is Verdict.UNKNOWN
    (name,) = stack.pool.asked
    assert len(name) == len(code)
    assert not name.isalnum()
    assert stack.catalogue.find(code.encode()) is not None


async def test_the_owner_finds_what_another_was_told_does_not_exist(pool: Any, connection: asyncpg.Connection) -> None:
    stack = await stack_of(pool, connection)
    code = FOREIGN.xuid(IDLE)
    assert (await stack.ask(code, stack.own_key)).verdict is Verdict.UNKNOWN
    assert (await stack.ask(code, stack.foreign_key)).verdict is Verdict.FORGED
    assert (await stack.ask(code, stack.own_key)).verdict is Verdict.UNKNOWN
    assert (await stack.ask(code, None)).verdict is Verdict.UNKNOWN
    # Together in one round, where one statement reads the tags for both.
    other = FOREIGN.xuid(IDLE + 1)
    scans = await asyncio.gather(*(stack.ask(other, key) for key in (stack.own_key, stack.foreign_key, None, stack.own_key)))
    assert [scan.verdict for scan in scans] == [Verdict.UNKNOWN, Verdict.FORGED, Verdict.UNKNOWN, Verdict.UNKNOWN]
    assert (await stack.ask(other, stack.foreign_key)).verdict is Verdict.FORGED


async def test_an_open_accounts_tag_where_another_account_is_named(pool: Any, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE account SET open = true")
    await assert_absent_where_another_account_is_named(await stack_of(pool, connection))


async def test_control_an_absence_remembered_for_everyone_is_caught(
    pool: Any, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("UPDATE account SET open = true")
    monkeypatch.setattr(catalogue_module, "_absent_key", lambda _scan, ref: ref)
    with pytest.raises(AssertionError):
        await assert_absent_where_another_account_is_named(await stack_of(pool, connection))


async def assert_absent_where_another_account_is_named(stack: Stack) -> None:
    """It does not exist for that scan, in use or not, and is as ever for all others."""
    await stack.use(IN_USE)
    for code in (FOREIGN.xuid(IN_USE), FOREIGN.xuid(IDLE)):
        stack.pool.asked = []
        for _ in "first", "again":
            scan = await stack.ask(code, None, aid=OWN.account)
            assert (scan.verdict, scan.error, scan.record) == (Verdict.UNKNOWN, "not_found", None)
        (name,) = stack.pool.asked[:1]
        assert name.isalnum() is (code == FOREIGN.xuid(IDLE))  # what is cached is looked up under a name that no row has
        stack.catalogue._tags.clear()  # so that the others cannot find it there
        for aid in (None, FOREIGN.account):
            assert (await stack.ask(code, None, aid=aid)).verdict is Verdict.FORGED
    scans = await asyncio.gather(*(stack.ask(FOREIGN.xuid(3), None, aid=aid) for aid in (OWN.account, None, FOREIGN.account)))
    assert [scan.verdict for scan in scans] == [Verdict.UNKNOWN, Verdict.FORGED, Verdict.FORGED]


async def test_naming_the_account_costs_no_query(pool: Any, connection: asyncpg.Connection) -> None:
    await connection.execute("UPDATE account SET open = true")
    work = []
    for aid in (None, FOREIGN.account):
        stack = await stack_of(pool, connection)
        await stack.ask(FOREIGN.xuid(0), None)
        stack.pool.statements = []
        for code in (FOREIGN.xuid(0), FOREIGN.xuid(1)):
            assert (await stack.ask(code, None, aid=aid)).verdict is Verdict.FORGED
        work.append(stack.pool.statements)
    assert work[0] == work[1]


SPOIL = {
    "its own key": "UPDATE tag_key AS k SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
    " FROM tag AS t JOIN account AS a USING (account_id) WHERE k.tag_id = t.tag_id AND a.aid = $1",
    "a meta key": "UPDATE meta_key AS k SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
    " FROM account AS a WHERE k.account_id = a.account_id AND a.aid = $1",
    "its group's profile": """UPDATE tag_group AS g SET profile = '{"name": "later", "scheme": "later", "template": ""}'"""
    " FROM folder AS f JOIN account AS a USING (account_id) WHERE f.folder_id = g.folder_id AND a.aid = $1",
}


@pytest.mark.parametrize("what", SPOIL)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
async def test_what_is_in_trouble_is_told_to_those_who_may_ask(
    pool: Any, connection: asyncpg.Connection, what: str, is_open: bool
) -> None:
    """For all others it does not exist: alone and in the same round as its owner, on the first request and on later ones."""
    stack = await stack_of(pool, connection)
    account_id = stack.foreign_key.account_id
    await edits.add_meta_key(connection, KEKS, account_id, 1, bytes(16))
    await connection.execute(SPOIL[what], FOREIGN.account)
    await connection.execute("UPDATE account SET open = $1 WHERE account_id = $2", is_open, account_id)
    code = FOREIGN.xuid(IDLE)
    unknown, failure = (Verdict.UNKNOWN, "not_found"), (None, "unavailable")
    expected = {stack.own_key: unknown, None: failure if is_open else unknown, stack.foreign_key: failure}
    for api_key, said in expected.items():
        for _ in "12":
            scan = await stack.ask(code, api_key)
            assert (scan.verdict, scan.error) == said, api_key
    for index in (IDLE, IDLE + 1):
        scans = await asyncio.gather(*(stack.ask(FOREIGN.xuid(index), api_key) for api_key in expected))
        assert [(scan.verdict, scan.error) for scan in scans] == list(expected.values())


async def test_what_is_in_trouble_costs_a_stranger_what_no_tag_costs(pool: Any, connection: asyncpg.Connection) -> None:
    stack = await stack_of(pool, connection)
    await connection.execute(SPOIL["its own key"], FOREIGN.account)
    for _ in "12":
        assert await stack.work_of(FOREIGN.xuid(IDLE)) == await stack.work_of(NOBODY[0])


async def test_an_open_accounts_tag_is_there_without_a_token(pool: Any, connection: asyncpg.Connection) -> None:
    stack = await stack_of(pool, connection)
    await connection.execute("UPDATE account SET open = true WHERE aid = $1", FOREIGN.account)
    code = FOREIGN.xuid(IN_USE)
    assert (await stack.ask(code, stack.own_key)).verdict is Verdict.UNKNOWN
    assert (await stack.ask(code, None)).verdict is Verdict.FORGED
    assert (await stack.ask(code, stack.own_key)).verdict is Verdict.UNKNOWN
