"""Meta keys of the account, of batches and of tags: which of them gets those of a file, and what a worker does with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg
import pytest

from ixfast import meters
from ixfast.domain.model import EncodingProfile, Verdict
from ixfast.domain.records import TagRecord
from ixfast.domain.scan import Extras, Scan
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeySlot, KeyUnavailableError, check_value, unwrap
from ixfast.limits import META_KEYS_MAX
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.identify import identify
from ixfast.store.admin import edits, rotation
from ixfast.store.catalogue.catalogue import Catalogue, Change
from ixfast.store.connections import session
from ixfast.store.imports.importer import Options, Report, import_tags
from ixfast.store.queries import load
from ixfast.testing.memory import MemoryLedger
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

OLD, NEW = KeyEncryptionKey(bytes([1]) * 32), KeyEncryptionKey(bytes([2]) * 32)
KEYS = [n.to_bytes(2) * 8 for n in range(1, 30_000)]
PROFILE = EncodingProfile(name="own", scheme="ntag424-aes", template="b={batch}&x={xuid}&p={picc}&c={mac}")
LATE = 9000  # lines, so that they are in different blocks


class Stack:
    """An account with a group whose taps name batch and tag."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.keks = KeyEncryptionKeys([OLD])
        self.account = self.group = 0

    async def build(self) -> None:
        self.account = await edits.create_account(self.connection, "acme", is_open=True)
        folder = await edits.create_folder(self.connection, self.account, "Cards")
        self.group = await edits.create_group(self.connection, folder, "G", PROFILE)

    async def take(self, lines: Iterable[str], head: str = "XUID,META_KEY", batch: str | None = None, **more: Any) -> Report:
        content = "\n".join([head, *lines, ""]).encode()
        pieces = (content[start : start + 1000] for start in range(0, len(content), 1000))
        return await import_tags(
            self.connection, self.keks, pieces, account_id=self.account, group_id=self.group, batch=batch, options=Options(**more)
        )

    async def taken(self, lines: Iterable[str], **more: Any) -> tuple[int, int, int]:
        """Import and return how many meta keys the account, the batch and the tags got."""
        report = await self.take(lines, **more)
        assert report.stored and not report.problems, report.problems
        return report.meta_keys_added, report.batch_meta_keys_added, report.tag_meta_keys_added

    async def problem(self, lines: Iterable[str], **more: Any) -> tuple[int, str | None, str]:
        report = await self.take(lines, **more)
        (found,) = report.problems
        assert not report.stored
        return found.line, found.column, found.code

    async def of_account(self) -> list[bytes]:
        rows = await self.connection.fetch("SELECT * FROM meta_key WHERE live ORDER BY version")
        return [self._opened(row, 0, KeySlot.META) for row in rows]

    async def of_batch(self, name: str) -> list[bytes]:
        rows = await self.connection.fetch("SELECT k.* FROM batch_key AS k JOIN batch USING (batch_id) WHERE name = $1", name)
        return [self._opened(row, row["batch_id"], KeySlot.BATCH) for row in rows]

    async def of_tag(self, xuid: str) -> list[tuple[int, bool, bytes]]:
        """The tag's own meta keys: version, whether it is live, and key."""
        sql = "SELECT k.* FROM tag_key AS k JOIN tag USING (tag_id) WHERE xuid = $1 AND slot = 1 ORDER BY version"
        rows = await self.connection.fetch(sql, xuid)
        return [(row["version"], row["live"], self._opened(row, row["tag_id"], KeySlot.META)) for row in rows]

    def _opened(self, row: Any, own_id: int, slot: KeySlot) -> bytes:
        place: dict[str, Any] = {"account_id": self.account, "tag_id": own_id, "slot": slot, "version": row["version"]}
        value = unwrap(self.keks.by_id(row["kek_id"]), row["wrapped"], **place)
        assert check_value(value) == row["check_value"]
        return value


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    connection = await asyncpg.connect(database)
    built = Stack(connection)
    await built.build()
    yield built
    await connection.close()


@pytest.fixture
async def catalogue(database: str, stack: Stack) -> AsyncIterator[Catalogue]:
    pool = await session.make_pool(database, 2)
    made = Catalogue(pool, stack.keks, meters.Meters(), tags_max=100, absent_max=100, deadline_s=5.0)
    made.stale = None
    yield made
    await pool.close()


def lines(keys: Iterable[bytes], start: int = 0) -> list[str]:
    return [f"t{start + n},{key.hex()}" for n, key in enumerate(keys)]


async def test_keys_that_fit_become_the_accounts(stack: Stack) -> None:
    keys = KEYS[:META_KEYS_MAX]
    assert await stack.taken(lines(keys)) == (META_KEYS_MAX, 0, 0)
    assert await stack.of_account() == keys and await stack.of_tag("t0") == []
    assert await stack.taken(lines(keys, 50)) == (0, 0, 0)


async def test_one_key_more_gives_every_tag_its_own(stack: Stack) -> None:
    keys = KEYS[: META_KEYS_MAX + 1]
    assert await stack.taken(lines(keys)) == (0, 0, len(keys))
    assert await stack.of_account() == [] and await stack.of_tag("t16") == [(1, True, keys[16])]
    report = await stack.take(lines(keys))
    assert (report.unchanged, report.tag_meta_keys_added) == (len(keys), 0)


async def test_keys_that_fit_only_at_first_are_decided_for_the_whole_file(stack: Stack) -> None:
    """The lines before the first one too many, in earlier blocks, get their keys too."""
    shared = [KEYS[n % 3] for n in range(LATE)]
    late = KEYS[100 : 100 + META_KEYS_MAX]
    assert await stack.taken(lines([*shared, *late])) == (0, 0, LATE + META_KEYS_MAX)
    assert await stack.of_account() == []
    assert await stack.of_tag(f"t{LATE - 1}") == [(1, True, KEYS[(LATE - 1) % 3])]
    assert await stack.of_tag(f"t{LATE + 15}") == [(1, True, late[15])]
    stored = await stack.connection.fetchval("SELECT count(*) FROM tag_key WHERE slot = 1")
    assert stored == LATE + META_KEYS_MAX


async def test_a_key_of_the_account_is_not_stored_again_unless_asked(stack: Stack) -> None:
    assert await stack.taken(lines(KEYS[:2])) == (2, 0, 0)
    own = KEYS[10 : 10 + META_KEYS_MAX]
    assert await stack.taken(lines([KEYS[0], *own], 20)) == (0, 0, META_KEYS_MAX)
    assert await stack.of_tag("t20") == []
    assert await stack.taken(lines([KEYS[0]], 20), meta_keys="tag") == (0, 0, 1)
    assert await stack.of_tag("t20") == [(1, True, KEYS[0])]


async def test_a_batch_gets_what_the_account_has_no_place_for(stack: Stack) -> None:
    assert await stack.taken(lines(KEYS[:META_KEYS_MAX])) == (META_KEYS_MAX, 0, 0)
    assert await stack.taken(lines([KEYS[20]] * 3, 100), batch="Lot") == (0, 1, 0)
    assert await stack.taken(lines([KEYS[20], KEYS[21]], 200), batch="Lot") == (0, 1, 0)
    assert await stack.of_batch("Lot") == [KEYS[20], KEYS[21]]
    assert await stack.taken(lines(KEYS[30 : 31 + META_KEYS_MAX], 300), batch="Lot") == (0, 0, META_KEYS_MAX + 1)


async def test_an_owner_that_was_chosen(stack: Stack) -> None:
    too_many = lines(KEYS[: META_KEYS_MAX + 1])
    full = META_KEYS_MAX + 2, "META_KEY", "meta_keys_full"
    assert await stack.problem(too_many, meta_keys="account") == full
    assert await stack.problem(too_many, meta_keys="batch", batch="Lot") == full
    with pytest.raises(InputError, match="batch"):
        await stack.take(too_many, meta_keys="batch")
    assert await stack.taken(too_many[:-1], meta_keys="batch", batch="Lot") == (0, META_KEYS_MAX, 0)
    assert await stack.taken(too_many[:2], meta_keys="account") == (2, 0, 0)
    assert await stack.taken(too_many[:2], meta_keys="tag") == (0, 0, 2)


async def test_another_own_key_is_the_next_version(stack: Stack) -> None:
    for key in (KEYS[0], KEYS[1]):
        assert await stack.taken(lines([key]), meta_keys="tag") == (0, 0, 1)
    assert await stack.of_tag("t0") == [(1, True, KEYS[0]), (2, True, KEYS[1])]
    assert await stack.taken(lines([KEYS[0]]), meta_keys="tag") == (0, 0, 0)  # live, so nothing to add
    assert await stack.taken(lines([KEYS[2]]), meta_keys="tag", retire_old_keys=True) == (0, 0, 1)
    assert [live for _, live, _ in await stack.of_tag("t0")] == [False, False, True]
    assert await stack.taken(lines([KEYS[0]]), meta_keys="tag") == (0, 0, 1)  # it authenticates nothing, so it may return
    for key in KEYS[3 : 1 + META_KEYS_MAX]:
        await stack.taken(lines([key]), meta_keys="tag")
    assert await stack.problem(lines([KEYS[99]]), meta_keys="tag") == (2, "META_KEY", "tag_meta_keys_full")


async def test_a_dry_run_and_a_file_with_problems_store_nothing(stack: Stack) -> None:
    many = lines(KEYS[: META_KEYS_MAX + 1])
    assert (await stack.take(many, dry_run=True)).tag_meta_keys_added == META_KEYS_MAX + 1
    assert len((await stack.take([*many, "t99,12"])).problems) == 1
    assert await stack.connection.fetchval("SELECT count(*) FROM tag_key") == 0


async def test_resealing_covers_the_keys_of_tags_and_batches(stack: Stack) -> None:
    await stack.taken(lines(KEYS[: META_KEYS_MAX + 1]))
    await stack.taken(lines([KEYS[20]], 100), meta_keys="batch", batch="Lot")
    await stack.taken(lines([KEYS[30]], 200), meta_keys="account")
    assert (await rotation.usage(stack.connection))[OLD.id] == rotation.Usage(META_KEYS_MAX + 1, 2)
    stack.keks = KeyEncryptionKeys([NEW, OLD])
    report = await rotation.reseal_all(stack.connection, stack.keks, advanced=lambda _count: None)
    assert (report.resealed, report.unreadable_count) == (META_KEYS_MAX + 3, 0)
    stack.keks = KeyEncryptionKeys([NEW])
    assert await stack.of_batch("Lot") == [KEYS[20]]
    assert await stack.of_tag("t3") == [(1, True, KEYS[3])]
    await rotation.while_unused(stack.connection, OLD.id, lambda: None)
    with pytest.raises(rotation.RotationError, match="rows are sealed"):
        await rotation.while_unused(stack.connection, NEW.id, lambda: None)


async def record_of(catalogue: Catalogue, xuid: str) -> TagRecord:
    async with catalogue._pool.acquire() as connection:
        found, failed = await catalogue._loader.tags(connection, [xuid.encode()])
    if failed:
        raise failed[xuid.encode()].error
    return found[xuid.encode()]


async def test_an_envelope_that_was_moved_opens_for_no_other_tag(stack: Stack, catalogue: Catalogue) -> None:
    await stack.taken(lines(KEYS[: META_KEYS_MAX + 1]))
    assert [key.value for key in (await record_of(catalogue, "t0")).meta_keys] == [KEYS[0]]
    await stack.connection.execute(
        "UPDATE tag_key SET wrapped = (SELECT wrapped FROM tag_key JOIN tag USING (tag_id) WHERE xuid = 't1')"
        " WHERE tag_id = (SELECT tag_id FROM tag WHERE xuid = 't0')"
    )
    with pytest.raises(KeyUnavailableError):
        await record_of(catalogue, "t0")


async def test_own_keys_come_first_and_those_of_batch_and_account_follow(stack: Stack, catalogue: Catalogue) -> None:
    await stack.taken(lines([KEYS[0]]), meta_keys="account")
    await stack.taken(lines([KEYS[1]], 1), meta_keys="batch", batch="Lot")
    for key in (KEYS[2], KEYS[3]):
        await stack.taken(lines([key], 1), meta_keys="tag")
    assert [key.value for key in (await record_of(catalogue, "t1")).meta_keys] == [KEYS[3], KEYS[2], KEYS[1], KEYS[0]]
    assert [key.value for key in (await record_of(catalogue, "t0")).meta_keys] == [KEYS[0]]


async def card_in_batch(stack: Stack) -> VirtualTag:
    """A card in the batch `Lot`, whose mirror the batch's meta key opens."""
    card = VirtualFleet(5, 1, PROFILE, account="acme", batch="Lot")[0]
    line = f"{card.xuid},{card.uid.hex()},{card.file_key.hex()},{card.meta_key.hex()}"
    assert await stack.taken([line], head="XUID,UID,KEY,META_KEY", batch="Lot", meta_keys="batch") == (0, 1, 0)
    return card


def decided(catalogue: Catalogue, record: TagRecord, url: str) -> Scan:
    """The scan of a URL, decided by the real engine."""
    engine = Engine(catalogue, meters.Meters())
    ledger = MemoryLedger(engine.settled)
    ledger.add(record)
    engine.use(ledger)
    answered: list[Scan] = []
    scan = Scan(answered.append, record.xuid, -1, None, None, 1, 0.0, Extras(url=url))
    engine.found(scan, record)
    assert answered == [scan]
    return scan


async def test_a_key_of_the_batch_that_does_not_open_makes_nobody_a_forger(stack: Stack, catalogue: Catalogue) -> None:
    card = await card_in_batch(stack)
    await stack.taken(lines([KEYS[0]], 7), meta_keys="account")
    record = await record_of(catalogue, card.xuid)
    assert decided(catalogue, record, card.tap()).verdict is Verdict.GENUINE
    spoil = "UPDATE batch_key SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)"
    await stack.connection.execute(spoil)
    batch_id = await stack.connection.fetchval("SELECT batch_id FROM batch")
    await catalogue.apply([Change("batch", batch_id, None)])
    scan = decided(catalogue, record, card.tap())
    assert (scan.verdict, scan.error, scan.error_detail) == (None, "unavailable", "no_meta_key")
    with pytest.raises(KeyUnavailableError):
        await identify(catalogue, "acme", Extras(url=card.tap()), is_owner=False)
    assert record.batch is not None
    record.batch.lacks_keys = False  # the control: without this mark, the other keys would decide
    assert decided(catalogue, record, card.tap()).verdict is Verdict.FORGED
    await stack.connection.execute(spoil)
    catalogue.keys_opened()
    for task in list(catalogue._renewals):
        await task
    assert decided(catalogue, record, card.tap()).verdict is Verdict.GENUINE


async def test_a_key_of_the_account_that_does_not_open_makes_no_tag_with_its_own_a_forger(
    stack: Stack, catalogue: Catalogue
) -> None:
    shared = VirtualFleet(6, 1, PROFILE, account="acme", batch="Lot")[0]
    line = f"{shared.xuid},{shared.uid.hex()},{shared.file_key.hex()},"
    await stack.taken([line + shared.meta_key.hex()], head="XUID,UID,KEY,META_KEY", meta_keys="account")
    await stack.taken([f"{shared.xuid},{KEYS[0].hex()}"], meta_keys="tag")
    record = await record_of(catalogue, shared.xuid)
    assert decided(catalogue, record, shared.tap()).verdict is Verdict.GENUINE
    await edits.add_meta_key(stack.connection, KeyEncryptionKeys([NEW]), stack.account, 2, KEYS[1])
    await catalogue.apply([Change("account", stack.account, None)])
    assert decided(catalogue, record, shared.tap()).error_detail == "no_meta_key"
    record.group.account.lacks_keys = False  # the control
    assert decided(catalogue, record, shared.tap()).verdict is Verdict.FORGED


async def test_taps_that_name_their_batch_are_found_by_its_keys(stack: Stack, catalogue: Catalogue) -> None:
    card = await card_in_batch(stack)
    by_uid = b"\0uacme\0" + card.uid
    assert by_uid in await identify(catalogue, "acme", Extras(url=card.tap()), is_owner=False)
    assert by_uid not in await identify(catalogue, "acme", Extras(url=card.tap().replace("b=Lot", "b=Other")), is_owner=False)
    batch_id = await stack.connection.fetchval("SELECT batch_id FROM batch")
    await stack.connection.execute("UPDATE batch SET name = 'Renamed'")
    await catalogue.apply([Change("batch", batch_id, None)])
    assert by_uid not in await identify(catalogue, "acme", Extras(url=card.tap()), is_owner=False)
    assert by_uid in await identify(catalogue, "acme", Extras(url=card.tap().replace("b=Lot", "b=Renamed")), is_owner=False)


async def test_a_batch_of_another_account_opens_nothing(stack: Stack, catalogue: Catalogue) -> None:
    card = await card_in_batch(stack)
    other = await edits.create_account(stack.connection, "other", is_open=True)
    await edits.create_group(stack.connection, await edits.create_folder(stack.connection, other, "F"), "G", PROFILE)
    assert await identify(catalogue, "other", Extras(url=card.tap()), is_owner=False) == [card.xuid.encode()]
    assert await catalogue.batch_meta_keys(other, "Lot") == ()
    assert [key.value for key in await catalogue.batch_meta_keys(stack.account, "Lot")] == [card.meta_key]


async def test_deleting_a_tag_deletes_its_own_keys(stack: Stack) -> None:
    await stack.taken(lines(KEYS[: META_KEYS_MAX + 1]))
    tag_id = await stack.connection.fetchval("SELECT tag_id FROM tag WHERE xuid = 't0'")
    await stack.connection.execute(load("management")["delete_tag"], tag_id)
    assert await stack.connection.fetchval("SELECT count(*) FROM tag_key WHERE tag_id = $1", tag_id) == 0
    assert await stack.taken(lines([KEYS[50]]), meta_keys="tag") == (0, 0, 1)
    assert await stack.of_tag("t0") == [(1, True, KEYS[50])]
