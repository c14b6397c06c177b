"""Groups that derive the keys of their tags: what passes, what the database stores, and what happens without the master."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from support import eventually

from ixfast.domain import references
from ixfast.domain.records import ApiKey
from ixfast.domain.scan import Extras, Scan, position
from ixfast.errors import InputError
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeySlot, unwrap
from ixfast.keys.diversify import An10922, BoltCard, Derivation, SdmBackend, SdmBackendLegacy, scheme_of
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.enrolment import Enrolment
from ixfast.store.admin import edits, rotation
from ixfast.store.admin.edits import NewTag
from ixfast.store.admin.enrolled_tags import TagRegister
from ixfast.store.catalogue.catalogue import Catalogue, Change
from ixfast.store.connections import session
from ixfast.store.ledger.ledger import Ledger
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase
from ixfast.store.queries import load
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

OLD, NEW = KeyEncryptionKey(bytes([1]) * 32), KeyEncryptionKey(bytes([2]) * 32)
DERIVATIONS: tuple[Derivation, ...] = (
    An10922(input="{uid}{system_id}", system_id="4e585020"), BoltCard(), SdmBackend(), SdmBackendLegacy(),
)  # fmt: skip
FLEETS = {
    f"{profile}-{scheme_of(derivation)}": VirtualFleet(place, 4, profile, account="shop", derivation=derivation)
    for place, (profile, derivation) in enumerate((p, d) for p in ("plain-uid-counter", "encrypted") for d in DERIVATIONS)
}
PLAIN, LEGACY = FLEETS["plain-uid-counter-boltcard"], FLEETS["plain-uid-counter-sdm-backend-legacy"]


class Stack:
    """The dispatcher of a worker and everything below it on a real database, without sockets."""

    def __init__(self, dsn: str, pool: Any) -> None:
        self.keks = KeyEncryptionKeys([OLD])
        self.pool = pool
        self.meters = Meters()
        self.catalogue = Catalogue(pool, self.keks, self.meters, tags_max=100, absent_max=100, deadline_s=10.0)
        self.catalogue.stale = None
        self.engine = Engine(self.catalogue, self.meters)
        self.ledger = Ledger(PostgresLedgerDatabase(dsn, pool), self.engine.settled, self.meters, deadline_s=10.0)
        self.engine.use(self.ledger)
        self.register = TagRegister(pool, self.meters, deadline_s=10.0)
        self.enrolment = Enrolment(self.engine, self.catalogue, self.register)
        self.engine.enrol_by(self.enrolment.takes)
        self.ledger.start()
        self.dispatcher = ScanDispatcher(self.engine, self.catalogue, self.meters, asyncio.get_running_loop())

    def start(self, url: str, *, peek: bool = False, api_key: ApiKey | None = None) -> asyncio.Future[Scan]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Scan] = loop.create_future()
        scan = Scan(
            done.set_result, b"", -1, None, api_key, self.dispatcher.next_scan_id(), loop.time(), Extras(url=url, peek=peek)
        )
        self.dispatcher.spawn(self.dispatcher.identify(scan, "shop"))
        return done

    async def verdict(self, url: str, *, peek: bool = False, api_key: ApiKey | None = None) -> str:
        scan = await self.start(url, peek=peek, api_key=api_key)
        return scan.verdict.value if scan.verdict is not None else f"{scan.error} {scan.error_detail}"

    async def group_of(self, tag: VirtualTag) -> int:
        group_id: int = await self.pool.fetchval("SELECT group_id FROM tag WHERE uid = $1", tag.uid)
        return group_id


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(database)
    await provision(opened, KeyEncryptionKeys([OLD]), list(FLEETS.values()))
    yield opened
    await opened.close()


@pytest.fixture
async def stack(database: str, connection: Any) -> AsyncIterator[Stack]:
    pool = await session.make_pool(database, 4)
    stack = Stack(database, pool)
    yield stack
    await stack.ledger.stop()
    await pool.close()


@pytest.mark.parametrize("name", FLEETS)
async def test_each_scheme_has_genuine_replayed_and_forged_taps(stack: Stack, name: str) -> None:
    tag = FLEETS[name][1]
    url = tag.tap()
    assert [await stack.verdict(url) for _ in range(2)] == ["genuine", "replayed"]
    assert await stack.verdict(tag.forged("flipped_bit")) == "forged"
    assert await stack.verdict(tag.forged("wrong_key")) == "forged"
    assert await stack.verdict(tag.tap()) == "genuine"


async def test_a_dump_holds_no_secret_of_any_tag(connection: Any) -> None:
    assert await connection.fetchval("SELECT count(*) FROM tag") == 4 * len(FLEETS)
    assert await connection.fetchval("SELECT count(*) FROM tag_key") == 0
    assert await connection.fetchval("SELECT count(*) FROM group_key") == len(FLEETS)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = [await connection.fetch(f'SELECT t::text AS row FROM "{table["tablename"]}" AS t') for table in tables]
    dump = "\n".join(row["row"] for table_rows in rows for row in table_rows)
    assert FLEETS["encrypted-boltcard"].uid(0).hex() in dump  # a control: stored bytes would be found
    secrets = [fleet.file_key(i) for fleet in FLEETS.values() for i in range(len(fleet))]
    secrets += [key for fleet in FLEETS.values() for key in (fleet.master, fleet.meta_key)]
    assert [secret for secret in secrets if secret.hex() in dump.lower()] == []


async def test_a_master_opens_only_for_its_own_group(connection: Any) -> None:
    rows = await connection.fetch(
        "SELECT k.*, f.account_id FROM group_key k JOIN tag_group g USING (group_id) JOIN folder f USING (folder_id) ORDER BY 1"
    )
    place = {"account_id": rows[0]["account_id"], "tag_id": rows[0]["group_id"], "slot": KeySlot.MASTER, "version": 1}
    assert unwrap(OLD, rows[0]["wrapped"], **place) in {fleet.master for fleet in FLEETS.values()}
    for wrong in ({"tag_id": rows[1]["group_id"]}, {"slot": KeySlot.FILE}, {"version": 2}):
        with pytest.raises(Exception, match="does not open"):
            unwrap(OLD, rows[0]["wrapped"], **{**place, **wrong})


async def test_rotation_seals_masters_anew(connection: Any, stack: Stack) -> None:
    assert (await rotation.usage(connection))[OLD.id].group_keys == len(FLEETS)
    both = KeyEncryptionKeys([NEW, OLD])
    await connection.execute(
        "UPDATE group_key SET check_value = '\\x000000' WHERE group_id = (SELECT min(group_id) FROM group_key)"
    )
    report = await rotation.reseal_all(connection, both, advanced=lambda _count: None, batch_rows=3)
    (unreadable,) = report.unreadable
    assert str(unreadable).startswith(f"master of group {unreadable.tag_id}, slot 3, version 1: ")
    assert (await rotation.usage(connection))[NEW.id].group_keys == len(FLEETS) - 1
    stack.keks.adopt([NEW.id], {NEW.id: NEW})
    assert (await ask_by_code(stack, FLEETS["plain-uid-counter-sdm-backend"][0])).authentic


async def test_without_its_master_only_what_is_not_loaded_is_unanswered(stack: Stack, connection: Any) -> None:
    tags = PLAIN[0], PLAIN[1]
    assert await stack.verdict(tags[0].tap()) == "genuine"
    other = FLEETS["plain-uid-counter-sdm-backend"][0]
    stack.keks.adopt([NEW.id], {NEW.id: NEW})  # a key file without the key that opens the masters
    assert await stack.verdict(tags[0].tap()) == "genuine"
    assert await stack.verdict(tags[1].tap()) == "genuine"  # the master of a group in use stays in memory
    stack.catalogue._loader.groups.clear()
    stack.catalogue._tags.clear()
    stack.catalogue._accounts.clear()
    url = other.tap()
    assert await stack.verdict(url) == "unavailable key_unavailable"
    scan = await ask_by_code(stack, FLEETS["plain-uid-counter-an10922"][0])
    assert (scan.error, scan.error_detail) == ("unavailable", "key_unavailable")
    stack.keks.adopt([OLD.id], {OLD.id: OLD})
    stack.catalogue.keys_opened()
    assert await stack.verdict(url) == "genuine"
    assert (await ask_by_code(stack, FLEETS["plain-uid-counter-an10922"][0])).authentic


async def ask_by_code(stack: Stack, tag: VirtualTag, api_key: ApiKey | None = None) -> Scan:
    """Scan by the code that the tag has in the database, with the tag's next tap."""
    loop = asyncio.get_running_loop()
    code = await stack.pool.fetchval("SELECT xuid FROM tag WHERE uid = $1", tag.uid)
    done: asyncio.Future[Scan] = loop.create_future()
    extras = Extras(url=tag.tap())
    scan_id = stack.dispatcher.next_scan_id()
    stack.engine.submit(Scan(done.set_result, code.encode(), -1, None, api_key, scan_id, loop.time(), extras))
    return await done


async def test_a_further_master_begins_above_the_first(stack: Stack, connection: Any) -> None:
    tag = PLAIN[0]
    assert await stack.verdict(tag.tap_at(900)) == "genuine"
    group_id = await stack.group_of(tag)
    account_id = await edits.account_id_of(connection, "shop")
    successor = bytes(range(16))
    async with connection.transaction():
        assert await edits.add_master(connection, stack.keks, account_id, group_id, successor) == 2
    await stack.catalogue.apply([Change("group", group_id, None)])
    assert await stack.verdict(tag.tap_at(901)) == "genuine"  # not reprogrammed yet
    renewed = VirtualTag(
        "plain-uid-counter", xuid=tag.xuid, uid=tag.uid, file_key=BoltCard().derive_file_key(successor, tag.uid), aid="shop"
    )
    scan = await stack.start(renewed.tap_at(1))
    assert (scan.verdict, scan.position) == ("genuine", position(2, 1))
    assert await stack.verdict(tag.tap_at(902)) == "replayed"
    await connection.execute("UPDATE group_key SET live = false WHERE group_id = $1 AND version = 1", group_id)
    await stack.catalogue.apply([Change("group", group_id, None)])
    assert await stack.verdict(tag.tap_at(903)) == "forged"


async def test_tags_in_the_cache_hear_of_another_derivation(stack: Stack) -> None:
    tag = PLAIN[2]
    assert await stack.verdict(tag.tap()) == "genuine"
    group_id = await stack.group_of(tag)
    kept = references.by_uid("shop", LEGACY.uid(0))
    assert await stack.verdict(LEGACY[0].tap()) == "genuine"
    await stack.pool.execute(
        'UPDATE group_key SET derivation = \'{"scheme": "boltcard", "version": 7}\' WHERE group_id = $1', group_id
    )
    await stack.catalogue.apply([Change("group", group_id, None)])
    assert await stack.verdict(tag.tap()) == "forged"
    other = VirtualFleet(PLAIN.seed, 4, "plain-uid-counter", account="shop", derivation=BoltCard(version=7))[2]
    assert await stack.verdict(other.tap_at(50)) == "genuine"
    assert stack.catalogue.find(kept) is not None  # tags of other groups stay cached


async def test_a_tap_of_a_loaded_tag_derives_nothing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the slow scheme would cost milliseconds twice per tap: for the meta key and for the file key."""
    fleet = FLEETS["encrypted-sdm-backend-legacy"]
    derivation, tag = fleet.derivation, fleet[0]
    assert await stack.verdict(tag.tap()) == "genuine"
    calls: list[str] = []
    for name in ("derive_file_key", "derive_meta_key"):
        monkeypatch.setattr(SdmBackendLegacy, name, lambda *_: calls.append("derived"))
    assert [await stack.verdict(url) for url in (tag.tap(), tag.tap(), tag.forged())] == ["genuine", "genuine", "forged"]
    assert calls == [] and derivation is not None


async def test_tags_that_are_being_loaded_while_keys_change_are_not_kept_with_the_old_ones(stack: Stack) -> None:
    tag = PLAIN[0]
    assert await stack.verdict(tag.tap()) == "genuine"
    group_id, catalogue = await stack.group_of(tag), stack.catalogue
    code = tag.xuid.encode()
    record = catalogue._tags.get(code)
    forget = catalogue._forget_outgrown
    applied: list[int] = []

    async def slowly() -> None:
        await forget()
        applied.append(catalogue._changes_applied)

    catalogue._forget_outgrown = slowly  # type: ignore[method-assign]
    before = catalogue._changes_applied
    await stack.pool.execute(
        'UPDATE group_key SET derivation = \'{"scheme": "boltcard", "version": 7}\' WHERE group_id = $1', group_id
    )
    await catalogue.apply([Change("group", group_id, None)])
    assert record is not None and catalogue._tags.get(code) is None
    assert applied == [before + 2]  # a load begun earlier can no longer store anything when the cached tags are scanned


async def test_a_card_that_is_programmed_anew_with_its_next_version(stack: Stack, connection: Any) -> None:
    """The same master with another derivation is a further version: its counters begin above those of the previous one."""
    tag = PLAIN[1]
    renewed = VirtualFleet(PLAIN.seed, 4, "plain-uid-counter", account="shop", derivation=BoltCard(version=2))[1]
    assert await stack.verdict(tag.tap_at(57)) == "genuine"
    group_id = await stack.group_of(tag)
    account_id = await edits.account_id_of(connection, "shop")

    async def add() -> int:
        async with connection.transaction():
            return await edits.add_master(connection, stack.keks, account_id, group_id, PLAIN.master)

    with pytest.raises(InputError, match="old taps would pass again"):
        await add()
    await connection.execute("UPDATE tag_group SET derivation = $1", '{"scheme": "boltcard", "version": 2}')
    assert await add() == 2
    await stack.catalogue.apply([Change("group", group_id, None)])
    assert await stack.verdict(tag.tap_at(58)) == "genuine"  # not reprogrammed yet
    assert [await stack.verdict(renewed.tap_at(1)) for _ in range(2)] == ["genuine", "replayed"]
    assert await stack.verdict(tag.tap_at(59)) == "replayed"
    assert await stack.verdict(PLAIN[3].tap_at(1)) == "genuine"
    await connection.execute(load("management")["delete_tag"], await tag_id_of(connection, tag))
    async with connection.transaction():
        await edits.add_tags(connection, stack.keks, account_id, group_id, [NewTag("again", tag.uid, None)])
    await stack.catalogue.apply([Change("all", None, None)])
    assert [await stack.verdict(each) for each in (renewed.tap_at(1), tag.tap_at(58))] == ["replayed", "replayed"]
    assert await stack.verdict(renewed.tap_at(2)) == "genuine"


async def tag_id_of(connection: Any, tag: VirtualTag) -> int:
    tag_id: int = await connection.fetchval("SELECT tag_id FROM tag WHERE uid = $1", tag.uid)
    return tag_id


async def test_a_slow_derivation_holds_up_nobody_else(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, threads = threading.Event(), set()
    derive = SdmBackendLegacy.derive_file_key

    def held(self: SdmBackendLegacy, master: bytes, uid: bytes) -> bytes:
        threads.add(threading.current_thread())
        assert may_go_on.wait(30)
        return derive(self, master, uid)

    urls = [LEGACY[i].tap_at(5) for i in range(3)]
    monkeypatch.setattr(SdmBackendLegacy, "derive_file_key", held)
    slow = [stack.start(url) for url in urls]
    again = [stack.start(urls[0]) for _ in range(20)]
    assert await stack.verdict(PLAIN[3].tap()) == "genuine"
    assert not any(each.done() for each in slow)
    may_go_on.set()
    outcomes = [scan.verdict for scan in await asyncio.gather(*slow, *again)]
    assert sorted(filter(None, outcomes)) == ["genuine"] * 3 + ["replayed"] * 20
    assert threading.main_thread() not in threads
    await eventually(lambda: stack.catalogue.idle)  # the look-ups are answered before their round has ended


async def test_nobody_waits_for_the_keys_of_what_is_none_to_him(
    stack: Stack, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response time would reveal that the tag exists. Asked together with its owner in one round, and alone."""
    may_go_on, derive, tags = threading.Event(), SdmBackendLegacy.derive_file_key, LEGACY[:2]

    def held(self: SdmBackendLegacy, master: bytes, uid: bytes) -> bytes:
        assert may_go_on.wait(30)
        return derive(self, master, uid)

    await connection.execute("UPDATE account SET open = false")
    account_id = await edits.account_id_of(connection, "shop")
    owner, stranger = ApiKey(1, account_id, "shop", frozenset(), "", None), ApiKey(2, 0, "other", frozenset(), "", None)
    monkeypatch.setattr(SdmBackendLegacy, "derive_file_key", held)
    own = asyncio.create_task(ask_by_code(stack, tags[0], owner))
    others = [ask_by_code(stack, tag, api_key) for tag in tags for api_key in (None, stranger)]
    try:
        assert [scan.error for scan in await asyncio.gather(*others)] == ["not_found"] * 4
        assert not own.done()
    finally:
        may_go_on.set()  # the thread outlives the test
    assert (await own).authentic


async def test_groups_load_while_the_keys_of_a_tag_are_derived(
    stack: Stack, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of look-ups waits for its groups, and everybody in the round with it."""
    deriving, may_go_on, derive = threading.Event(), threading.Event(), SdmBackendLegacy.derive_file_key
    tag, tag_of_other_group = LEGACY[0], FLEETS["encrypted-sdm-backend-legacy"][0]

    def held(self: SdmBackendLegacy, master: bytes, uid: bytes) -> bytes:
        deriving.set()
        assert may_go_on.wait(30)
        return derive(self, master, uid)

    await connection.execute("UPDATE account SET open = false")
    owner = ApiKey(1, await edits.account_id_of(connection, "shop"), "shop", frozenset(), "", None)
    monkeypatch.setattr(SdmBackendLegacy, "derive_file_key", held)
    own = asyncio.create_task(ask_by_code(stack, tag, owner))
    await eventually(deriving.is_set)
    try:
        other = await ask_by_code(stack, tag_of_other_group)
        assert other.error == "not_found"
        assert not own.done()
    finally:
        may_go_on.set()
    assert (await own).authentic


async def test_a_tag_that_comes_back_goes_on_from_its_last_counter(stack: Stack, connection: Any) -> None:
    tag = PLAIN[1]
    assert await stack.verdict(tag.tap_at(40)) == "genuine"
    group_id = await stack.group_of(tag)
    tag_id = await connection.fetchval("SELECT tag_id FROM tag WHERE uid = $1", tag.uid)
    account_id = await edits.account_id_of(connection, "shop")
    await connection.execute(load("management")["delete_tag"], tag_id)
    with pytest.raises(InputError, match="derives the keys"):
        async with connection.transaction():
            await edits.add_tags(connection, stack.keks, account_id, group_id, [NewTag("again", tag.uid, bytes(16))])
    async with connection.transaction():
        await edits.add_tags(connection, stack.keks, account_id, group_id, [NewTag("again", tag.uid, None)])
    await stack.catalogue.apply([Change("tag", tag_id, tag.xuid)])
    assert await stack.verdict(tag.tap_at(40)) == "replayed"
    assert await stack.verdict(tag.tap_at(41)) == "genuine"
