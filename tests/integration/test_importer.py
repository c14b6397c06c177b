"""Import on a real database: what is stored, what is refused, and that it is all or nothing whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import datetime as dt
import gzip
import hashlib
import io
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from click.testing import CliRunner
from support import eventually
from support.ledger_kit import ADVANCED, open_ledger

from ixfast.chips.named_profiles import find_profile
from ixfast.cli import main
from ixfast.domain.decision import CounterState, Finding, Submission, decide
from ixfast.domain.scan import position
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, check_value, unwrap
from ixfast.limits import COUNTER_MAX, KEY_VERSIONS_MAX, META_KEYS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports import importer
from ixfast.store.imports.exporter import export_tags
from ixfast.store.imports.group_names import group_named
from ixfast.store.imports.importer import Options, Report, import_tags
from ixfast.store.imports.seen_tags import SeenNames, TagIds
from ixfast.store.queries import load
from ixfast.store.random_codes import draw_codes
from ixfast.tag_files import PROBLEMS
from ixfast.tag_files.columns import ALIASES
from ixfast.tag_files.recognition import HEAD_BYTES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "how-to" / "import-tags.md").read_text()
KEYS = [bytes([n]) * 16 for n in range(256)]
TABLES = ("tag", "tag_key", "tag_counter", "meta_key", "batch_key", "batch", "catalogue_change", "audit_log", "deleted_tag")


def uid(number: int) -> str:
    return f"04{number:012X}"


def csv_of(head: str, lines: Iterable[str]) -> bytes:
    return "\n".join((head, *lines, "")).encode()


class Stack:
    """An account `acme` with a folder that has two fields and two groups, a second folder, and another account."""

    def __init__(self, connection: Any, dsn: str) -> None:
        self.connection = connection
        self.dsn = dsn
        self.keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
        self.account = self.group = 0
        self.reported: list[dict[str, Any]] = []

    async def build(self) -> None:
        c = self.connection
        self.account = await edits.create_account(c, "acme")
        folder = await edits.create_folder(c, self.account, "Shoes")
        await c.execute("""UPDATE folder SET fields = '[{"name": "Colour"}, {"name": "Product Name"}]'""")
        for name in ("Red", "Blue"):
            await edits.create_group(c, folder, name, None)
        self.group = await group_named(c, self.account, "Red")
        elsewhere = await edits.create_folder(c, self.account, "Bags")
        for name in ("Green", "Blue"):
            await edits.create_group(c, elsewhere, name, None)
        other = await edits.create_account(c, "other")
        group = await edits.create_group(c, await edits.create_folder(c, other, "Theirs"), "Theirs", None)
        theirs = edits.NewTag("theirs01", bytes.fromhex(uid(1)), None, cuid="1")
        await edits.add_tags(c, self.keks, other, group, [theirs])

    async def take(self, content: bytes | str, *, group: str = "Red", folder: str | None = None, **more: Any) -> Report:
        """Import the content in small pieces."""
        encoded = content.encode() if isinstance(content, str) else content
        self.reported = []
        group_id = await group_named(self.connection, self.account, group, folder)
        options = Options(**{name: more.pop(name) for name in Options._fields if name in more})
        pieces = (encoded[start : start + 1000] for start in range(0, len(encoded), 1000))
        return await import_tags(
            self.connection, self.keks, pieces, account_id=self.account, group_id=group_id, options=options,
            on_lines=self.reported.extend, **more,
        )  # fmt: skip

    async def taken(self, content: bytes | str, **more: Any) -> Report:
        report = await self.take(content, **more)
        assert report.stored and not report.problems, report.problems
        return report

    async def refused(self, content: bytes | str, *expected: tuple[int, str | None, str], **more: Any) -> Report:
        """Import and expect these problems, each with line, column and code; nothing is stored."""
        before = await self.everything()
        report = await self.take(content, **more)
        assert [(p.line, p.column, p.code) for p in report.problems] == list(expected)
        for problem in report.problems:
            assert (problem.message.startswith(PROBLEMS[problem.code][0]), problem.remedy) == (True, PROBLEMS[problem.code][1])
        assert not report.stored
        assert await self.everything() == before
        return report

    async def everything(self) -> dict[str, list[Any]]:
        return {
            table: [tuple(row) for row in await self.connection.fetch(f"SELECT t::text FROM {table} AS t ORDER BY 1")]
            for table in TABLES
        }

    async def tag(self, xuid: str) -> Any:
        return await self.connection.fetchrow("SELECT * FROM tag WHERE xuid = $1", xuid)

    async def keys(self, xuid: str) -> list[tuple[int, bool, bytes]]:
        """Each key as version, whether it is live, and value, newest first. Check values must match their keys."""
        rows = await self.connection.fetch(
            "SELECT k.*, t.account_id FROM tag_key AS k JOIN tag AS t USING (tag_id) WHERE t.xuid = $1 ORDER BY version DESC",
            xuid,
        )
        found = []
        for row in rows:
            place = {name: row[name] for name in ("account_id", "tag_id", "slot", "version")}
            value = unwrap(self.keks.by_id(row["kek_id"]), row["wrapped"], **place)
            assert check_value(value) == row["check_value"]
            found.append((row["version"], row["live"], value))
        return found


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    connection = await asyncpg.connect(database)
    stack = Stack(connection, database)
    await stack.build()
    yield stack
    await connection.close()


# Stored tags.


async def test_new_tags(stack: Stack) -> None:
    head = "XUID,UID,CUID,TAGNAME,RESPONSE,STATUS,ASSIGNED,KEY,META_KEY,colour,Product Name"
    line = f"q8w3sbcz,{uid(1)},1,A tag,Hi {{cuid}},inactive,2026-01-31,{KEYS[1].hex()},{KEYS[9].hex()},red,Vase"
    report = await stack.taken(csv_of(head, [line, f",{uid(2)}" + "," * 9]), batch="B")
    assert (report.lines, report.added, report.keys_added, report.meta_keys_added, report.batch_created) == (2, 2, 1, 1, True)
    row = await stack.tag("q8w3sbcz")
    assert (row["uid"].hex().upper(), row["cuid"], row["name"], row["active"]) == (uid(1), "1", "A tag", False)
    assert row["assigned_at"] == dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    assert json.loads(row["rule_set"]) == {"groups": [], "default": "Hi {cuid}"}
    assert json.loads(row["fields"]) == {"Colour": "red", "Product Name": "Vase"}
    assert await stack.keys("q8w3sbcz") == [(1, True, KEYS[1])]
    made = stack.reported[1]["xuid"]
    assert re.fullmatch("[a-z0-9]{16}", made)
    other = await stack.tag(made)
    assert (other["cuid"], other["active"], other["rule_set"], other["fields"], other["assigned_at"]) == (
        None,
        True,
        None,
        None,
        None,
    )
    assert row["batch_id"] == other["batch_id"] is not None
    assert (
        await stack.connection.fetchval(
            "SELECT count(*) FROM tag_counter WHERE tag_id = ANY ($1)", [row["tag_id"], other["tag_id"]]
        )
        == 2
    )
    kinds = {r["kind"] for r in await stack.connection.fetch("SELECT kind FROM catalogue_change")}
    assert {"tags_added", "account"} <= kinds
    audit = await stack.connection.fetchrow("SELECT * FROM audit_log WHERE act = 'import'")
    assert json.loads(audit["after"])["added"] == 2


async def test_short_codes_are_asked_for(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code that is already taken is drawn again."""
    drawn = iter([["theirs01", "fresh001"], ["fresh002"]])
    monkeypatch.setattr("ixfast.store.imports.importer.draw_codes", lambda count, chars: next(drawn) if count else [])
    await stack.taken(csv_of("CUID", "ab"), code_chars=8)
    assert {line["xuid"] for line in stack.reported} == {"fresh001", "fresh002"}


def test_drawn_codes_are_fair() -> None:
    codes = draw_codes(20_000, 16)
    assert len(set(codes)) == 20_000
    counts = [sum(code.count(letter) for code in codes) for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    assert sum(counts) == 320_000
    assert max(abs(count - 320_000 / 36) for count in counts) < 600  # more than six standard deviations


def test_tag_ids() -> None:
    dice = random.Random(7)
    ids, known = TagIds(), set[int]()
    for _ in range(5000):
        tag_id = dice.randrange(20_000)
        assert (tag_id in ids) == (tag_id in known)
        assert ids.add(tag_id) == (tag_id not in known)
        known.add(tag_id)


def test_tag_ids_of_a_sequence_from_which_others_draw() -> None:
    dice = random.Random(8)
    ids, known, drawn = TagIds(), set[int](), 1000
    for _ in range(200):
        drawn += dice.choice((0, 0, 3))  # drawn by another session between two draws
        draw = list(range(drawn, drawn + dice.randrange(20)))
        drawn += 20
        if len(draw) > 2 and dice.random() < 0.3:
            del draw[1]  # and in the middle of a draw
        ids.add_new(draw)
        known.update(draw)
        known.add(stored := dice.randrange(1000))
        ids.add(stored)
    assert {tag_id for tag_id in range(drawn) if tag_id in ids} == known
    assert not any(ids.add(tag_id) for tag_id in known)


def test_names_are_not_forgotten() -> None:
    names = SeenNames()
    batches = [[f"a{n}".encode() for n in range(start, start + 1000)] for start in range(0, 20_000, 1000)]
    taken_for_known = sum(len(names.add_all(batch)) for batch in batches)
    assert taken_for_known < 100  # 20,000² / 2 / 2²⁷ is 1.5
    assert [name for batch in batches for name in names.add_all(batch)] == [name for batch in batches for name in batch]


async def test_the_same_again_changes_nothing(stack: Stack) -> None:
    lines = [
        f"x{n},{uid(n)},c{n},Name {n},R{n},active,{'yes' if n % 2 else 'no'},{KEYS[n].hex()},{KEYS[3].hex()},red"
        for n in range(1, 60)
    ]
    content = csv_of("XUID,UID,CUID,TAGNAME,RESPONSE,STATUS,ASSIGNED,KEY,META_KEY,Colour", lines)
    await stack.taken(content)
    before = await stack.everything()
    report = await stack.taken(content)
    assert (report.unchanged, report.added, report.changed, report.keys_added, report.keys_replaced) == (59, 0, 0, 0, 0)
    assert {line["outcome"] for line in stack.reported} == {"unchanged"}
    assert await stack.everything() == before


async def test_a_tag_is_meant_by_xuid_else_uid_else_cuid(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,UID,CUID", [f"a1,{uid(1)},", "a2,,c2", f"a3,{uid(3)},c3"]))
    report = await stack.taken(csv_of("XUID,UID,CUID,TAGNAME", ["a1,,,one", f",{uid(5)},c2,two", f",{uid(3)},,three"]))
    assert (report.changed, report.added) == (3, 0)
    assert [(await stack.tag(x))["name"] for x in ("a1", "a2", "a3")] == ["one", "two", "three"]
    assert (await stack.tag("a2"))["uid"].hex().upper() == uid(5)
    assert [line.get("changed") for line in stack.reported] == ["name", "uid name", "name"]


async def test_blank_leaves_and_the_rest_changes(stack: Stack) -> None:
    head = "XUID,UID,CUID,TAGNAME,RESPONSE,STATUS,ASSIGNED,Colour,Product Name"
    await stack.taken(csv_of(head, [f"a1,{uid(1)},c1,one,R,inactive,yes,red,Vase"]), batch="B")
    before = dict(await stack.tag("a1"))
    await stack.taken(csv_of(head, ["a1,,,,,,,,"]), group="Green", folder="Bags", ignored=["Colour", "Product Name"])
    assert dict(await stack.tag("a1")) == before
    await stack.taken(csv_of(head, ["a1,,c2,two,S,active,no,blue,"]), batch="C")
    after = await stack.tag("a1")
    assert (after["cuid"], after["name"], after["active"], after["assigned_at"]) == ("c2", "two", True, None)
    assert json.loads(after["fields"]) == {"Colour": "blue", "Product Name": "Vase"}
    assert (after["uid"], after["group_id"], after["batch_id"]) == (before["uid"], before["group_id"], before["batch_id"])
    noted = await stack.connection.fetch("SELECT xuid FROM catalogue_change WHERE kind = 'tag'")
    assert {row["xuid"] for row in noted} == {"a1"}


async def test_a_changed_key_is_a_new_version_and_positions_stay(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    tag_id = (await stack.tag("a1"))["tag_id"]
    await stack.connection.execute("UPDATE tag_counter SET last_position = $1 WHERE tag_id = $2", position(1, 500), tag_id)
    report = await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[2].hex()}"]))
    assert (report.keys_added, report.keys_replaced, stack.reported[0]["changed"]) == (0, 1, "key")
    assert await stack.keys("a1") == [(2, True, KEYS[2]), (1, True, KEYS[1])]
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[3].hex()}"]), retire_old_keys=True)
    assert await stack.keys("a1") == [(3, True, KEYS[3]), (2, False, KEYS[2]), (1, False, KEYS[1])]
    assert await stack.connection.fetchval("SELECT last_position FROM tag_counter WHERE tag_id = $1", tag_id) == position(1, 500)
    await stack.refused(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]), (2, "KEY", "key_used_before"))


async def test_a_key_of_the_same_check_value_is_another_key(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    await stack.connection.execute("UPDATE tag_key SET check_value = $1", check_value(KEYS[2]))
    report = await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[2].hex()}"]))
    assert report.keys_replaced == 1


async def test_a_deleted_tag_goes_on_from_its_last_counter(stack: Stack) -> None:
    c = stack.connection
    deleted = """
        INSERT INTO deleted_tag (tag_id, account_id, group_id, xuid, uid, last_position, key_versions, check_values)
        VALUES (999, $1, 1, 'a1', $2, $3, '{1,2}', $4)
    """
    values = [check_value(KEYS[1]), check_value(KEYS[2])]
    await c.execute(deleted, stack.account, bytes.fromhex(uid(1)), position(2, 77), values)
    await stack.refused(csv_of("UID,KEY", [f"{uid(1)},{KEYS[1].hex()}"]), (2, "KEY", "key_used_before"))
    lines = [f"{uid(1)},{KEYS[2].hex()}", f"{uid(2)},{KEYS[2].hex()}"]
    await stack.taken(csv_of("UID,KEY", lines))
    found = "SELECT last_position FROM tag_counter JOIN tag USING (tag_id) WHERE account_id = $1 ORDER BY uid"
    assert [row["last_position"] for row in await c.fetch(found, stack.account)] == [position(1, 77), 0]


# Counters of tags that were in use in another service.


class Counters:
    """Reads and changes the rows of `tag_counter`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    async def of(self, xuid: str) -> tuple[int, int, int]:
        """Position, previous position and scan count."""
        row = await self.stack.connection.fetchrow(
            "SELECT c.* FROM tag_counter AS c JOIN tag USING (tag_id) WHERE xuid = $1", xuid
        )
        return row["last_position"], row["previous_position"], row["scan_count"]

    async def scan(self, xuid: str, place: int) -> None:
        """A pass, with the ledger's own statement."""
        tag_id = (await self.stack.tag(xuid))["tag_id"]
        assert await self.stack.connection.fetchval(load("ledger")["advance"], [tag_id], [place], [place]) == [tag_id]

    async def finding(self, xuid: str, place: int, retry_window_s: int = 0) -> Finding:
        """What the ledger decides about a tap that did not advance the counter."""
        tag_id = (await self.stack.tag(xuid))["tag_id"]
        (row,) = await self.stack.connection.fetch(load("ledger")["states"], [tag_id])
        return decide(Submission(tag_id, place, 12345, retry_window_s * 1000), CounterState(*row)).finding


async def test_new_tags_go_on_from_the_counter_of_another_service(stack: Stack) -> None:
    lines = [f"a1,{KEYS[1].hex()},41,57", "a2,,0x29,", f"a3,{KEYS[3].hex()},,3", "a4,,,", f"a5,{KEYS[5].hex()},0,0"]
    await stack.taken(csv_of("XUID,KEY,LAST_COUNTER,SCAN_COUNT", lines))
    counters = Counters(stack)
    rows = [await counters.of(f"a{n}") for n in (1, 2, 3, 4, 5)]
    assert rows == [(position(1, 41), 0, 57), (position(1, 41), 0, 0), (0, 0, 3), (0, 0, 0), (position(1, 0), 0, 0)]
    for used in (1, 40, 41):
        assert await counters.finding("a1", position(1, used), retry_window_s=3600) in (Finding.REPLAYED, Finding.EXPIRED)
    await counters.scan("a1", position(1, 42))
    assert await counters.of("a1") == (position(1, 42), position(1, 41), 58)
    await stack.taken(csv_of("XUID,KEY", [f"a2,{KEYS[2].hex()}"]))  # the first key of a tag is version 1
    await counters.scan("a2", position(1, 42))


async def test_a_counter_is_raised_and_never_lowered(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}", f"a2,{KEYS[2].hex()}"]))
    counters = Counters(stack)
    await counters.scan("a1", position(1, 10))
    content = csv_of("XUID,LAST_COUNTER,SCAN_COUNT", ["a1,30,5", "a2,7,"])
    report = await stack.taken(content)
    assert (report.changed, [line["changed"] for line in stack.reported]) == (2, ["last_counter scan_count", "last_counter"])
    assert await counters.of("a1") == (position(1, 30), position(1, 10), 5)
    assert (await stack.taken(content)).unchanged == 2
    await counters.scan("a1", position(1, 31))
    before = await stack.everything()
    report = await stack.taken(csv_of("XUID,LAST_COUNTER,SCAN_COUNT", ["a1,29,4", "a2,,0"]))
    assert (report.changed, report.unchanged) == (0, 2)
    assert await stack.everything() == before
    await stack.taken(csv_of("XUID,LAST_COUNTER,SCAN_COUNT", ["a1,1,99"]))
    assert await counters.of("a1") == (position(1, 31), position(1, 30), 99)


async def test_a_dry_run_raises_no_counter(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    before = await stack.everything()
    report = await stack.take(csv_of("XUID,LAST_COUNTER", ["a1,5", "a2,5"]), dry_run=True)
    assert (report.changed, report.added) == (1, 1)
    assert await stack.everything() == before


RAISE = load("importing")["raise_counters"]
LOWERS = re.sub(r"greatest\(c\.(\w+), (n\.\w+)\)", r"\2", RAISE).partition("\n  AND (c.last_position")[0]
KEEPS_TIME = re.sub(r"last_at = CASE.*END", "last_at = c.last_at", RAISE)


@pytest.mark.parametrize("statement", [RAISE, LOWERS], ids=["as it is", "control: without a comparison"])
async def test_a_scan_that_passes_meanwhile_stays_used(stack: Stack, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """The counter advances further than the file says, after its line was read and before the import ends."""
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    other = await asyncpg.connect(stack.dsn)
    tag_id = (await stack.tag("a1"))["tag_id"]
    monkeypatch.setitem(load("importing"), "raise_counters", statement)

    def scan_meanwhile(rows: Sequence[dict[str, Any]]) -> None:
        async def scan() -> None:
            await other.fetch(load("ledger")["advance"], [tag_id], [position(1, 50)], [50])

        scans.append(asyncio.get_running_loop().create_task(scan()))

    scans: list[asyncio.Task[None]] = []
    locked = importer.raise_counters

    async def after_the_scan(*arguments: Any) -> None:
        await asyncio.gather(*scans)
        await locked(*arguments)

    monkeypatch.setattr(importer, "raise_counters", after_the_scan)
    group_id = await group_named(stack.connection, stack.account, "Red")
    pieces = [csv_of("XUID,LAST_COUNTER,SCAN_COUNT", ["a1,20,1"])]
    await import_tags(stack.connection, stack.keks, pieces, account_id=stack.account, group_id=group_id, on_lines=scan_meanwhile)
    await other.close()
    last, _, _ = await Counters(stack).of("a1")
    assert (last == position(1, 50)) == (statement == RAISE)


@pytest.mark.parametrize("statement", [RAISE, KEEPS_TIME], ids=["as it is", "control: the time is kept"])
async def test_a_tap_that_passed_elsewhere_is_in_no_retry_window(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    counters = Counters(stack)
    await counters.scan("a1", position(1, 10))
    assert await counters.finding("a1", position(1, 10), retry_window_s=3600) is Finding.REPEATED
    monkeypatch.setitem(load("importing"), "raise_counters", statement)
    await stack.taken(csv_of("XUID,LAST_COUNTER", ["a1,11"]))
    expected = Finding.EXPIRED if statement == RAISE else Finding.REPEATED
    assert await counters.finding("a1", position(1, 11), retry_window_s=3600) is expected


async def test_a_counter_belongs_to_the_key_of_its_line_or_of_its_tag(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a{n},{KEYS[n].hex()}" for n in (1, 2, 3, 4)]))
    counters = Counters(stack)
    await counters.scan("a1", position(1, 500))
    await stack.taken(csv_of("XUID,KEY,LAST_COUNTER", [f"a1,{KEYS[101].hex()},7", f"a2,{KEYS[2].hex()},7", "a3,,7"]))
    assert [(await counters.of(f"a{n}"))[0] for n in (1, 2, 3)] == [position(2, 7), position(1, 7), position(1, 7)]
    await stack.taken(csv_of("XUID,KEY", [f"a4,{KEYS[104].hex()}"]))
    await stack.refused(csv_of("XUID,LAST_COUNTER", ["a4,7"]), (2, "LAST_COUNTER", "counter_ambiguous"))
    await stack.taken(csv_of("XUID,SCAN_COUNT", ["a4,7"]))
    await stack.taken(csv_of("XUID,KEY,LAST_COUNTER", [f"a4,{KEYS[104].hex()},7"]))
    assert (await counters.of("a4"))[0] == position(2, 7)
    await stack.taken(csv_of("XUID,KEY", [f"a3,{KEYS[103].hex()}"]), retire_old_keys=True)
    await stack.taken(csv_of("XUID,LAST_COUNTER", ["a3,9"]))
    assert (await counters.of("a3"))[0] == position(2, 9)


async def test_a_counter_of_a_group_that_derives_belongs_to_its_only_master(stack: Stack) -> None:
    await stack.taken(csv_of("XUID", ["a1"]))
    await deriving(stack, KEYS[1], KEYS[2])
    for line in ("a1,,5", f",{uid(1)},5"):
        await stack.refused(csv_of("XUID,UID,LAST_COUNTER", [line]), (2, "LAST_COUNTER", "counter_ambiguous"))
    await stack.connection.execute("UPDATE group_key SET live = false WHERE version = 1")
    await stack.taken(csv_of("XUID,UID,LAST_COUNTER", ["a1,,5", f"b1,{uid(1)},6"]))
    counters = Counters(stack)
    assert [(await counters.of(xuid))[0] for xuid in ("a1", "b1")] == [position(2, 5), position(2, 6)]


async def test_a_deleted_tag_goes_on_from_the_higher_counter(stack: Stack) -> None:
    deleted = """
        INSERT INTO deleted_tag (tag_id, account_id, group_id, xuid, uid, last_position, key_versions, check_values)
        VALUES (999, $1, 1, 'a1', $2, $3, '{1}', $4)
    """
    for n in (1, 2):
        await stack.connection.execute(
            deleted.replace("999", f"99{n}").replace("a1", f"a{n}"), stack.account, bytes.fromhex(uid(n)), position(1, 77),
            [check_value(KEYS[n])],
        )  # fmt: skip
    await stack.taken(csv_of("XUID,KEY,LAST_COUNTER", [f"a1,{KEYS[1].hex()},70", f"a2,{KEYS[2].hex()},80"]))
    counters = Counters(stack)
    assert [(await counters.of(f"a{n}"))[0] for n in (1, 2)] == [position(1, 77), position(1, 80)]


async def exported(stack: Stack) -> dict[str, tuple[str, str]]:
    """LAST_COUNTER and SCAN_COUNT of each tag in an export, which can be imported again without any change."""
    content = b"".join([piece async for piece in export_tags(stack.connection, stack.account)])
    before = await stack.everything()
    report = await stack.taken(content)
    assert (report.added, report.changed) == (0, 0)
    assert await stack.everything() == before
    rows = csv.DictReader(io.StringIO(content.decode(), newline=""))
    return {row["XUID"]: (row["LAST_COUNTER"], row["SCAN_COUNT"]) for row in rows}


async def test_an_export_has_the_counter_of_the_only_live_key(stack: Stack) -> None:
    lines = [*(f"a{n},{KEYS[n].hex()},{10 * n}," for n in (1, 2, 3)), "b1,,41,57", "b2,,,", f"b3,{KEYS[9].hex()},,"]
    await stack.taken(csv_of("XUID,KEY,LAST_COUNTER,SCAN_COUNT", lines))
    counters = Counters(stack)
    await counters.scan("a1", position(1, 11))
    await stack.taken(csv_of("XUID,KEY", [f"a2,{KEYS[102].hex()}"]))
    await stack.taken(csv_of("XUID,KEY", [f"a3,{KEYS[103].hex()}"]), retire_old_keys=True)
    none = ("", "")
    expected = {"a1": ("11", "1"), "a2": none, "a3": none, "b1": ("41", "57"), "b2": none, "b3": none}
    assert await exported(stack) == expected
    await counters.scan("a3", position(2, 4))
    assert await exported(stack) == expected | {"a3": ("4", "1")}


async def test_an_export_has_the_counter_of_the_only_live_master(stack: Stack) -> None:
    await stack.taken(csv_of("XUID", ["a1"]))
    await deriving(stack, KEYS[1])
    await stack.taken(csv_of("XUID,LAST_COUNTER", ["a1,5"]))
    assert await exported(stack) == {"a1": ("5", "")}
    async with stack.connection.transaction():
        await edits.add_master(stack.connection, stack.keks, stack.account, stack.group, KEYS[2])
    assert await exported(stack) == {"a1": ("", "")}


async def test_many_counters_are_raised_in_ascending_order(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixfast.store.imports.counter_columns._CHUNK_TAGS", 1000)
    await stack.taken(csv_of("XUID,LAST_COUNTER", (f"x{n},1" for n in range(9000))))
    order = list(range(9000))
    random.Random(3).shuffle(order)
    report = await stack.taken(csv_of("XUID,LAST_COUNTER", (f"x{n},{n}" for n in order)))
    assert (report.changed, report.unchanged) == (8998, 2)
    rows = await stack.connection.fetch("SELECT xuid, last_position FROM tag JOIN tag_counter USING (tag_id) WHERE xuid ~ '^x'")
    assert all(row["last_position"] == position(1, max(1, int(row["xuid"][1:]))) for row in rows)


async def deriving(stack: Stack, *masters: bytes) -> None:
    """Make the group Red derive the keys of its tags from these masters."""
    c = stack.connection
    profile = '{"name": "x", "scheme": "ntag424-aes", "template": "p={picc}&c={mac}"}'
    derivation = '{"scheme": "boltcard", "version": 1}'
    await c.execute(
        "UPDATE tag_group SET kind = 'authentication', profile = $2, derivation = $3 WHERE group_id = $1",
        stack.group, profile, derivation,
    )  # fmt: skip
    async with c.transaction():
        for master in masters:
            await edits.add_master(c, stack.keks, stack.account, stack.group, master)


async def test_tags_of_a_group_that_derives_have_no_keys(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", ["a1,", f"a2,{KEYS[2].hex()}", f"g1,{KEYS[3].hex()}"]))
    await deriving(stack, KEYS[1])
    for xuid in ("a1", "a2", "b1"):
        await stack.refused(csv_of("XUID,KEY", [f"{xuid},{KEYS[4].hex()}"]), (2, "KEY", "key_derived"))
    await stack.refused(csv_of("XUID,KEY", [f"a1,{KEYS[4].hex()}"]), (2, "KEY", "key_derived"), group="Green")
    report = await stack.taken(csv_of("XUID,UID,KEY", [f"a2,,{KEYS[2].hex()}", f"b1,{uid(1)},"]))
    assert (report.unchanged, report.added, report.keys_added) == (1, 1, 0)


async def test_a_deleted_tag_of_a_group_that_derives_goes_on(stack: Stack) -> None:
    """Under the same master its used taps stay used, including those of an older master."""
    c = stack.connection
    await deriving(stack, KEYS[7], KEYS[1], KEYS[2])
    deleted = """
        INSERT INTO deleted_tag (tag_id, account_id, group_id, xuid, uid, last_position, key_versions, check_values)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    """
    way = hashlib.md5((await c.fetchval("SELECT derivation::text FROM group_key LIMIT 1")).encode()).digest()
    for n, used, masters in ((1, position(2, 77), (1, 2)), (2, position(2, 77), (2, 1)), (3, position(1, 5), (9,))):
        values = [check_value(KEYS[each]) + way for each in masters]
        versions = list(range(1, len(masters) + 1))
        rows = (900 + n, stack.account, stack.group, f"a{n}", bytes.fromhex(uid(n)), used, versions, values)
        await c.execute(deleted, *rows)
    await stack.taken(csv_of("UID", [uid(n) for n in (1, 2, 3)]))
    found = "SELECT last_position FROM tag_counter JOIN tag USING (tag_id) WHERE account_id = $1 ORDER BY uid"
    begins = [row["last_position"] for row in await c.fetch(found, stack.account)]
    assert begins == [position(3, 77), position(3, COUNTER_MAX), 0]


async def test_meta_keys_that_are_derived_are_counted(stack: Stack) -> None:
    await deriving(stack, KEYS[200])
    lines = [f"b{n},{KEYS[n + 1].hex()}" for n in range(META_KEYS_MAX)]
    full = META_KEYS_MAX + 1, "META_KEY", "meta_keys_full"
    await stack.refused(csv_of("XUID,META_KEY", lines), full, meta_keys="account")
    await stack.taken(csv_of("XUID,META_KEY", lines[:-1]))


async def test_a_profile_may_be_named_as_the_group_or_as_a_preset(stack: Stack) -> None:
    profile = msgspec.structs.replace(find_profile("encrypted/ntag424-lrp"), name="ours")
    await stack.connection.execute(
        "UPDATE tag_group SET kind = 'authentication', profile = $2 WHERE group_id = $1",
        stack.group, msgspec.json.encode(profile).decode(),
    )  # fmt: skip
    await stack.taken(csv_of("XUID,profile", ["b1,ours", "b2,encrypted/ntag424-lrp", "b3,"]))
    await stack.refused(csv_of("XUID,profile", ["b1,encrypted"]), (2, "profile", "other_profile"))
    await stack.refused(csv_of("XUID,profile", ["b1,no such"]), (2, "profile", "other_profile"))
    assert (await stack.taken(csv_of("XUID,profile", ["b1,encrypted"]), ignored=["profile"])).unchanged == 1


async def test_a_profile_is_that_of_the_group_that_the_tag_is_in(stack: Stack) -> None:
    for group, name in (("Red", "encrypted"), ("Green", "plain-uid-counter")):
        profile = msgspec.json.encode(find_profile(name)).decode()
        await stack.connection.execute(
            "UPDATE tag_group SET kind = 'authentication', profile = $2 WHERE name = $1", group, profile
        )
    await stack.taken(csv_of("XUID,PROFILE", ["r1,encrypted"]))
    await stack.taken(csv_of("XUID,PROFILE", ["g1,plain-uid-counter"]), group="Green")
    for group in ("Red", "Green"):
        both = csv_of("XUID,PROFILE,TAGNAME", ["r1,encrypted,a", "g1,plain-uid-counter,b"])
        assert (await stack.taken(both, group=group)).lines == 2
        swapped = csv_of("XUID,PROFILE", ["r1,plain-uid-counter", "g1,encrypted"])
        await stack.refused(swapped, *((line, "PROFILE", "other_profile") for line in (2, 3)), group=group)
    await stack.refused(csv_of("XUID,PROFILE", ["new1,plain-uid-counter"]), (2, "PROFILE", "other_profile"))


@pytest.mark.parametrize("dry_run", [False, True])
async def test_tags_that_stay_in_another_group_or_batch_are_warned_about(stack: Stack, dry_run: bool) -> None:
    await stack.taken(csv_of("XUID", ["r1", "r2", "r3"]), batch="A")
    await stack.taken(csv_of("XUID", ["g1"]), group="Green")
    before = [(await stack.tag(xuid))["batch_id"] for xuid in ("r1", "g1")]
    every = csv_of("XUID,TAGNAME", ["r1,", "r2,x", "r3,", "g1,", "new1,"])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"group": "Green"}, "3 tags are in another group than the one named, and stay there"),
        ({"batch": "B"}, "4 tags are in another group or batch than the one named, and stay there"),
        ({"batch": "A"}, "1 tag is in another group or batch than the one named, and stays there"),
    ]
    for options, expected in cases:
        report = await stack.take(every, dry_run=True, **options)
        (warning,) = report.warnings
        assert not report.problems and warning.startswith(f"{expected}: an import moves no tags. Move ")
        assert warning.endswith(" with PATCH /v2/tags/{xuid}, with the members group_id and batch_id.")
    assert (await stack.take(csv_of("XUID", ["r1", "r2"]), dry_run=dry_run)).warnings == []  # no batch is named
    assert (await stack.take(csv_of("XUID", ["r1"]), dry_run=dry_run, batch="A")).warnings == []
    assert len((await stack.take(csv_of("XUID", ["r1"]), dry_run=dry_run, group="Green")).warnings) == 1
    assert [(await stack.tag(xuid))["batch_id"] for xuid in ("r1", "g1")] == before


async def test_any_uid_if_allowed(stack: Stack) -> None:
    content = csv_of("XUID,UID", ["b1,F6E5D4C3B2A104", "b2,05A1B2C3D4E5F6", f"b3,04{'00' * 5}04"])
    assert (await stack.taken(content, allow_any_uid=True)).added == 3
    assert (await stack.taken(content)).unchanged == 3  # a stored UID is not questioned


async def test_a_dry_run_stores_nothing(stack: Stack) -> None:
    content = csv_of("UID,KEY,META_KEY", [f"{uid(n)},{KEYS[n].hex()},{KEYS[0xAA].hex()}" for n in range(1, 9)])
    before = await stack.everything()
    report = await stack.take(content, dry_run=True, batch="B")
    assert (report.stored, report.dry_run, report.added, report.keys_added, report.problems) == (False, True, 8, 8, [])
    assert await stack.everything() == before
    assert (await stack.taken(content)).added == 8


async def test_many_changes_empty_the_caches(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixfast.store.imports.importer._TAGS_NOTED_MAX", 3)
    await stack.taken(csv_of("XUID", (f"a{n}" for n in range(5))))
    await stack.taken(csv_of("XUID,TAGNAME", (f"a{n},x" for n in range(5))))
    assert await stack.connection.fetchval("SELECT kind FROM catalogue_change ORDER BY generation DESC LIMIT 1") == "all"


async def test_pieces_may_come_asynchronously_and_compressed(stack: Stack) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        encoded = gzip.compress(csv_of("UID,CUID", (f"{uid(n)},{n}" for n in range(3000))))
        for start in range(0, len(encoded), 777):
            yield encoded[start : start + 777]
            await asyncio.sleep(0)

    counted: list[int] = []
    report = await import_tags(
        stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group, on_bytes=counted.append
    )
    assert (report.stored, report.added) == (True, 3000)
    assert max(counted) == 777


async def test_tags_are_looked_up_in_their_own_indexes(stack: Stack) -> None:
    """Even while the statistics know nothing of the account and assume it is small."""
    c = stack.connection
    columns = "INSERT INTO tag (account_id, group_id, xuid, uid, cuid)"
    row = "1, $2 || n, decode('04' || lpad(to_hex(n), 12, '0'), 'hex'), n::text"
    fill = f"{columns} SELECT $1, {row} FROM generate_series(1, 3000) AS n"
    await c.execute(fill, 77, "known")
    await c.execute("ANALYZE tag")
    await c.execute(fill, stack.account, "new")
    async with c.transaction():
        await c.execute(load("importing")["set_timeouts"], "1000")
        await c.execute(f"PREPARE found (bigint, text[], bytea[], text[]) AS {load('importing')['find_tags']}")
        plan = await c.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE found ({stack.account}, '{{a}}', '{{\\\\x00}}', '{{a}}')")
        await c.execute(f"PREPARE names (bigint, bigint, bigint) AS {load('importing')['stored_names']}")
        names_plan = await c.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE names ({stack.account}, 0, 20000)")
    assert set(re.findall(r'"Index Name": "(\w+)"', plan)) == {"tag_xuid", "tag_uid", "tag_cuid", "tag_pkey"}
    assert (re.findall(r'"Index Name": "(\w+)"', names_plan), "Sort" in names_plan) == (["tag_by_account"], False)


# Refusals.

SEED = csv_of(
    "XUID,UID,CUID,KEY", [f"a1,{uid(1)},c1,{KEYS[1].hex()}", f"a2,{uid(2)},c2,", "a3,,c3,", f"a4,{uid(4)},,{KEYS[4].hex()}"]
)
Case = tuple[str, str, list[str], list[tuple[int, str | None, str]]]
REFUSALS: Sequence[Case] = [
    ("another account's code", "XUID,TAGNAME", ["theirs01,x"], [(2, "XUID", "xuid_taken")]),
    ("uid of another tag", "XUID,UID", [f"a3,{uid(1)}"], [(2, "UID", "uid_taken")]),
    ("uid of a tag, with a new code", "XUID,UID", [f"new1,{uid(1)}"], [(2, "UID", "uid_taken")]),
    ("another chip", "XUID,UID", [f"a1,{uid(9)}"], [(2, "UID", "uid_differs")]),
    ("another chip under a cuid", "UID,CUID", [f"{uid(9)},c1"], [(2, "UID", "uid_differs")]),
    ("cuid of another tag", "XUID,CUID", ["a1,c2"], [(2, "CUID", "cuid_taken")]),
    ("cuid given away in the file", "XUID,CUID", ["a1,c9", "a4,c1"], [(3, "CUID", "cuid_taken")]),
    ("same uid twice", "UID,TAGNAME", [f"{uid(7)},a", f"{uid(8)},b", f"{uid(7)},c"], [(4, "UID", "duplicate")]),
    ("same xuid twice", "XUID", ["b1", "b2", "b1"], [(4, "XUID", "duplicate")]),
    ("same xuid with another uid", "XUID,UID", [f"b1,{uid(7)}", f"b1,{uid(8)}"], [(3, "XUID", "two_uids")]),
    (
        "same xuid with another uid and key",
        "XUID,UID,KEY",
        [f"b1,{uid(7)},{KEYS[7].hex()}", f"b1,{uid(8)},{KEYS[8].hex()}"],
        [(3, "XUID", "two_uids")],
    ),
    ("same xuid, once without a uid", "XUID,UID", [f"b1,{uid(7)}", "b1,"], [(3, "XUID", "duplicate")]),
    ("a stored tag without a uid gets two", "XUID,UID", [f"a3,{uid(7)}", f"a3,{uid(8)}"], [(3, "XUID", "two_uids")]),
    ("same cuid twice", "XUID,CUID", ["b1,k", "b2,k"], [(3, "CUID", "duplicate")]),
    ("a stored tag twice", "XUID,UID", ["a1,", f",{uid(1)}"], [(3, "UID", "duplicate")]),
    ("a new uid of a stored tag twice", "XUID,UID", [f"a3,{uid(7)}", f",{uid(7)}"], [(3, "UID", "duplicate")]),
    ("its new uid under a new code", "XUID,UID", [f"a3,{uid(7)}", f"b7,{uid(7)}"], [(3, "UID", "duplicate")]),
    ("two keys", "UID,KEY", [f"{uid(7)},{KEYS[7].hex()}", f"{uid(7)},{KEYS[8].hex()}"], [(3, "UID", "two_keys")]),
    ("the same key twice", "UID,KEY", [f"{uid(7)},{KEYS[7].hex()}"] * 2, [(3, "UID", "duplicate")]),
    ("two keys for a stored tag", "UID,KEY", [f"{uid(1)},{KEYS[n].hex()}" for n in (1, 8)], [(3, "UID", "two_keys")]),
    (
        "a bad line and a repeated one",
        "UID,KEY",
        [f"{uid(7)},", f"{uid(8)},12", f"{uid(7)},"],
        [(3, "KEY", "key_length"), (4, "UID", "duplicate")],
    ),
    ("a uid in reverse order", "UID,KEY", [f"F6E5D4C3B2A104,{KEYS[1].hex()}"], [(2, "UID", "uid_reversed")]),
    ("a uid in reverse order with colons", "UID", [uid(7), "00:00:00:00:00:00:04"], [(3, "UID", "uid_reversed")]),
    ("a uid in reverse order for a stored tag", "XUID,UID", ["a3,f6e5d4c3b2a104"], [(2, "UID", "uid_reversed")]),
    ("a uid of another manufacturer", "UID", ["05A1B2C3D4E5F6"], [(2, "UID", "uid_not_nxp")]),
    ("another profile", "XUID,PROFILE", ["a3,encrypted"], [(2, "PROFILE", "other_profile")]),
    ("another account", "XUID,aid", ["a3,acme", "a4,other"], [(3, "aid", "other_account")]),
    ("a field of another folder", "XUID,Colour", ["g1,red"], [(2, "Colour", "other_folder")]),
    ("keys of who may not", "XUID,KEY", [f"a3,{KEYS[1].hex()}"], [(1, "KEY", "keys_not_allowed")]),
]


@pytest.mark.parametrize(("head", "lines", "expected"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
@pytest.mark.parametrize(
    ("apart", "names_read_first"),
    [(0, 100_000), (9000, 100_000), (0, -1_000_000), (9000, -30_000)],
    ids=["together", "blocks apart", "together, names not read", "blocks apart, names read in between"],
)
async def test_refusals(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, head: str, lines: list[str], expected: list[tuple[int, str | None, str]],
    apart: int, names_read_first: int,
) -> None:  # fmt: skip
    """Also with many good lines between contradicting lines, so that they end up in different blocks, and in an account whose
    names have not all been read when the file begins."""
    monkeypatch.setattr("ixfast.store.imports.importer._NAMES_READ_FIRST", names_read_first)
    monkeypatch.setattr("ixfast.store.imports.importer._NAMES_READ_AT_ONCE", 3000)
    await stack.taken(SEED)
    await stack.taken(csv_of("XUID", ["g1"]), group="Green")
    commas = "," * head.count(",")
    between = [f"f{n}{commas}" if head.startswith("XUID") else f"{uid(100_000 + n)}{commas}" for n in range(apart)]
    content = csv_of(head, [*lines[:1], *between, *lines[1:]])
    there = [(line if line < 3 else line + apart, column, code) for line, column, code in expected]
    await stack.refused(content, *there, allow_keys="keys_not_allowed" not in str(expected))


MIXED: Sequence[tuple[bytes, list[tuple[int, str | None, str]]]] = [
    ("UID,KEY,Größe,Batch (nr.),\n,,,,\n".encode(), [(1, "Größe", "unknown_column"), (1, "Batch (nr.)", "unknown_column")]),
    (b"UID,KEY,,Colours\n,,,\n", [(1, None, "unknown_column"), (1, "Colours", "unknown_column")]),
    (b"CUID,UID,KEY\ncaf\xe9,04AA,\n", [(2, None, "bad_encoding"), (2, "UID", "uid_length")]),
    (b"CUID,UID,KEY\ncaf\xe9,,%s\n" % KEYS[0].hex().encode(), [(2, None, "bad_encoding"), (2, "KEY", "zero_key")]),
    (
        f'{{"UID": "{uid(1)}", "": "1"}}\n{{"Größe": "2", "1": "3", "KCV": "010203"}}\n'.encode(),
        [(1, None, "unknown_column"), (2, "Größe", "unknown_column"), (2, None, "unknown_column"), (2, None, "no_identity")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), MIXED)
async def test_a_line_with_a_problem_of_its_own_and_one_of_a_column(
    stack: Stack, content: bytes, expected: list[tuple[int, str | None, str]]
) -> None:
    await stack.refused(content, *expected)


async def test_any_file_has_its_list_of_problems(stack: Stack) -> None:
    """Whatever its bytes and the names of its columns are."""
    dice = random.Random(15)
    words = ["UID", "XUID", "CUID", "KEY", "Größe", "Colour", "", " ", "1st", "(x)", uid(1), KEYS[0].hex(), KEYS[7].hex()]
    words += [uid(2)[:8], "\0", '"', "'=1", "\r", "é", "\u202e", "active", "[", "{", "#"]
    for _ in range(60):
        lines = [dice.choice(",;\t").join(dice.choices(words, k=dice.randrange(1, 5))) for _ in range(dice.randrange(5))]
        if dice.random() < 0.3:
            lines = [json.dumps(dict(zip(dice.sample(words, 4), dice.choices(words, k=4), strict=True))) for _ in lines]
        encoded = "\n".join(lines).encode(dice.choice(["utf-8", "utf-8", "utf-16", "utf-16-be"]))
        content = encoded[: dice.randrange(1, 400)] + (dice.randbytes(4) if dice.random() < 0.3 else b"")
        report = await stack.take(content, dry_run=True, preset=dice.choice([None, "bolt-card"]))
        assert report.problems == sorted(report.problems, key=lambda each: each.line)


@pytest.mark.parametrize("apart", [0, 9000], ids=["together", "blocks apart"])
async def test_refusals_in_the_first_file_of_an_account(stack: Stack, apart: int) -> None:
    """Here, only those UIDs and CUIDs are looked up that may have occurred earlier in the file."""
    between = [f"f{n},,," for n in range(apart)]
    for line, again, expected in (
        (f"b1,{uid(7)},,{KEYS[7].hex()}", f",{uid(7)},,{KEYS[7].hex()}", ("UID", "duplicate")),
        (f",{uid(7)},,{KEYS[7].hex()}", f",{uid(7)},,{KEYS[8].hex()}", ("UID", "two_keys")),
        (f",{uid(7)},k,", f",{uid(8)},k,", ("CUID", "duplicate")),
        ("b1,,,", "b1,,k,", ("XUID", "duplicate")),
        ("b1,,,", "theirs01,,,", ("XUID", "xuid_taken")),
    ):
        await stack.refused(csv_of("XUID,UID,CUID,KEY", [line, *between, again]), (3 + apart, *expected))


async def test_a_tag_has_so_many_keys(stack: Stack) -> None:
    await stack.taken(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    await stack.connection.execute("UPDATE tag_key SET version = $1", KEY_VERSIONS_MAX)
    with pytest.raises(Exception, match="does not open"):  # the row was moved to another version
        await stack.take(csv_of("XUID,KEY", [f"a1,{KEYS[1].hex()}"]))
    await stack.refused(csv_of("XUID,KEY", [f"a1,{KEYS[2].hex()}"]), (2, "KEY", "key_versions_full"))


async def test_every_refusal_is_tried() -> None:
    here = {code for *_, expected in REFUSALS for _, _, code in expected} | {
        "key_used_before",
        "key_versions_full",
        "key_derived",
        "counter_ambiguous",
        "meta_keys_full",
        "tag_meta_keys_full",  # test_meta_key_owners.py
    }
    unit = (Path(__file__).parents[1] / "unit" / "test_tag_files.py").read_text()
    tried = (here | {"file_too_long"}) - {"duplicate_column", "key_length"}
    assert {code for code in PROBLEMS if f'("{code}", ' not in unit} == tried


async def test_a_bad_line_at_the_end_of_a_large_file_leaves_nothing_behind(stack: Stack) -> None:
    lines = [f"{uid(n)},{n:032x}" for n in range(1, 20_000)]
    await stack.refused(csv_of("UID,KEY", [*lines, "04,"]), (20_001, "UID", "uid_length"))
    assert await stack.connection.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'import_%'") == 0
    assert (await stack.taken(csv_of("UID,KEY", lines))).added == 19_999


async def test_problems_are_bounded(stack: Stack) -> None:
    report = await stack.take(csv_of("UID", ["04"] * 5000))
    assert (len(report.problems), report.more_problems) == (100, True)
    report = await stack.take(csv_of("XUID", ["a"] * 5000), problems_max=7)
    assert (len(report.problems), report.more_problems) == (7, True)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"group": "None"}, "not_found"), ({"group": "Blue"}, "ambiguous"), ({"preset": "x"}, "invalid_parameter"),
        ({"code_chars": 9}, "invalid_parameter"),
    ],
)  # fmt: skip
async def test_where_and_how(stack: Stack, more: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        await stack.take(b"CUID\n1\n", **more)
    assert caught.value.code == code
    await stack.taken(b"CUID\n1\n", group="Blue", folder="Bags")


# Concurrent changes.


async def test_two_imports_into_an_account(stack: Stack) -> None:
    async with contextlib.AsyncExitStack() as exits:
        other = await asyncpg.connect(stack.dsn)
        exits.push_async_callback(other.close)
        await exits.enter_async_context(other.transaction())
        pieces = [b"CUID\n1\n"]
        assert (await import_tags(other, stack.keks, pieces, account_id=stack.account, group_id=stack.group)).stored
        with pytest.raises(InputError, match="Another import"):
            await stack.take(b"CUID\n2\n")
    await stack.taken(b"CUID\n2\n")


async def test_imports_into_two_accounts_wait_for_each_other_at_their_ends(stack: Stack) -> None:
    other = await asyncpg.connect(stack.dsn)
    theirs = await other.fetchval("SELECT account_id FROM account WHERE aid = 'other'")
    group = await group_named(other, theirs, "Theirs")
    async with other.transaction():
        await import_tags(other, stack.keks, [csv_of("CUID", map(str, range(2, 999)))], account_id=theirs, group_id=group)
        mine = asyncio.create_task(stack.taken(csv_of("CUID", map(str, range(999)))))

        async def waits() -> bool:
            return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits, 20)
    assert (await mine).added == 999
    await other.close()


async def test_a_lost_connection_is_told_in_a_sentence(stack: Stack, command_line: CommandLine) -> None:
    await stack.connection.execute("CREATE FUNCTION off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                                   "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$")  # fmt: skip
    await stack.connection.execute("CREATE TRIGGER off BEFORE INSERT ON tag_counter FOR EACH ROW EXECUTE FUNCTION off()")
    path = command_line.folder / "tags.csv"
    path.write_text("CUID\n1\n")
    done = await in_thread(command_line, "import", str(path), "--account", "acme", "--group", "Red")
    assert done.exit_code == 1
    assert done.output == (
        "Error: The file may have been imported: connection_lost. Import it again; tags that exist already are not added twice.\n"
    )


async def test_somebody_else_takes_the_code_meanwhile(stack: Stack) -> None:
    other = await asyncpg.connect(stack.dsn)
    group = await other.fetchval("SELECT group_id FROM tag_group WHERE name = 'Red'")

    async def pieces() -> AsyncIterator[bytes]:
        yield csv_of("XUID", (f"x{n}" for n in range(10_000)))
        await edits.add_tags(other, stack.keks, stack.account, group, [edits.NewTag("late", None, None)])
        yield b"late\n"

    before = await stack.connection.fetchval("SELECT count(*) FROM tag")
    report = await import_tags(stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group)
    assert (report.stored, report.unchanged) == (True, 1)  # the tag existed when its line was read
    await other.close()
    assert await stack.connection.fetchval("SELECT count(*) FROM tag") == before + 10_001


@pytest.mark.parametrize("is_first", [True, False])
async def test_somebody_else_adds_the_chip_meanwhile(stack: Stack, is_first: bool) -> None:
    if not is_first:
        await stack.taken(b"XUID\nold1\n")
    other = await asyncpg.connect(stack.dsn)
    group = await other.fetchval("SELECT group_id FROM tag_group WHERE name = 'Red'")

    async def pieces() -> AsyncIterator[bytes]:
        """The second line is looked up, then stored after the first: in between, another session adds its tag."""
        yield csv_of("XUID,UID", [f"x1,{uid(1)}"]) + b"\n" * HEAD_BYTES  # no line is read before the file is recognised
        yield csv_of(f"x2,{uid(2)}", [])
        await eventually(lambda: lookups == [1, 1], 20)
        await edits.add_tags(other, stack.keks, stack.account, group, [edits.NewTag("late", bytes.fromhex(uid(2)), None)])

    lookups: list[int] = []
    import_plan = importer.plan

    def plan(context: Any, matches: Any, *rest: Any) -> Any:
        lookups.append(len(matches))
        return import_plan(context, matches, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="was added concurrently"):
        patch.setattr(importer, "plan", plan)
        await import_tags(stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group)
    await other.close()
    assert await stack.tag("x1") is None


async def test_a_sender_that_fails_leaves_nothing_behind(stack: Stack) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield csv_of("XUID", (f"x{n}" for n in range(20_000)))
        raise ConnectionResetError

    before = await stack.everything()
    with pytest.raises(ConnectionResetError):
        await import_tags(stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group)
    assert await stack.everything() == before


async def test_a_cancelled_import_leaves_nothing_behind(stack: Stack) -> None:
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield csv_of("XUID", (f"x{n}" for n in range(20_000)))
        begun.set()
        await asyncio.Event().wait()

    before = await stack.everything()
    task = asyncio.create_task(
        import_tags(stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group)
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stack.everything() == before


async def test_scans_of_existing_tags_go_on(stack: Stack) -> None:
    await stack.taken(csv_of("XUID", (f"old{n}" for n in range(300))))
    tag_ids = [row["tag_id"] for row in await stack.connection.fetch("SELECT tag_id FROM tag WHERE xuid LIKE 'old%'")]
    scanned = 0
    done = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield csv_of("XUID,TAGNAME", (f"old{n},changed" for n in range(300)))
        for start in range(0, 12_000, 3000):
            yield "".join(f"x{n},\n" for n in range(start, start + 3000)).encode()
            before = scanned
            await eventually(lambda before=before: scanned >= before + 300, 20)

    async with open_ledger(stack.dsn) as ledger:

        async def scan() -> None:
            nonlocal scanned
            counter = 0
            while not done.is_set():
                counter += 1
                words = await asyncio.gather(*(ledger.word(tag_id, counter) for tag_id in tag_ids))
                assert set(words) == {ADVANCED}
                scanned += len(words)

        scanning = asyncio.create_task(scan())
        report = await import_tags(stack.connection, stack.keks, pieces(), account_id=stack.account, group_id=stack.group)
        done.set()
        await scanning
    assert (report.added, report.changed) == (12_000, 300)
    assert scanned >= 1200


# As a command.


class CommandLine:
    """Runs `ixfast` commands on the database, with a key file."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        self.environment = {"IXFAST_DSN": stack.dsn, "IXFAST_KEK_FILE": str(folder / "kek")}
        self.keks = stack.keks = KeyEncryptionKeys.create_file(folder / "kek")

    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(main, list(arguments), env=self.environment)


@pytest.fixture
def command_line(stack: Stack, tmp_path: Path) -> CommandLine:
    return CommandLine(stack, tmp_path)


async def in_thread(command_line: CommandLine, *arguments: str) -> Any:
    return await asyncio.to_thread(command_line.run, *arguments)


async def test_kill_in_the_middle_leaves_nothing_behind(stack: Stack, command_line: CommandLine) -> None:
    before = await stack.everything()
    place = ["--account", "acme", "--group", "Red"]
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "ixfast", "import", "-", *place, "--report", str(command_line.folder / "report")],
        stdin=subprocess.PIPE, env={**os.environ, **command_line.environment}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(csv_of("UID,KEY", (f"{uid(n)},{n:032x}" for n in range(1, 30_000))))
        process.stdin.flush()
        watched = await asyncpg.connect(stack.dsn)

        async def has_rows() -> bool:
            """Whether the table contains rows that are not visible yet."""
            return bool(await watched.fetchval("SELECT pg_relation_size('tag_key') > 100000"))

        await eventually(has_rows, 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
        process.stdin.close()

    async def gone() -> bool:
        return not await watched.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        )

    await eventually(gone, 20)
    await watched.close()
    assert await stack.everything() == before
    assert not (command_line.folder / "report").exists()
    assert (await stack.taken(csv_of("UID,KEY", (f"{uid(n)},{n:032x}" for n in range(1, 3000))))).added == 2999


async def test_no_key_is_seen_anywhere(stack: Stack, command_line: CommandLine, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in anything printed, logged, reported or raised, nor in anything that the database receives or stores."""
    caplog.set_level(logging.DEBUG)
    canary = bytes.fromhex("ca9a47ca9a47ca9a47ca9a47ca9a47ca")
    forms = [canary, canary.hex().encode(), canary.hex().upper().encode(), canary.hex(":").encode(), str(canary).encode()]
    seen: list[bytes] = []
    watched = await asyncpg.connect(stack.dsn)
    lines = [f"{uid(n)},{canary.hex()},{canary.hex()}" for n in range(1, 6000)]
    files = {
        "good": csv_of("UID,KEY,META_KEY", lines),
        "bad": csv_of("UID,KEY,META_KEY", [*lines, f"{canary.hex()},{canary.hex()}0,{canary.hex()}"]),
        "swapped": csv_of("UID,KEY,META_KEY", [f"{canary.hex()},{uid(1)},{canary.hex()}"]),
        "headless": csv_of(f"{uid(1)},{canary.hex()}", [f"{uid(1)},{canary.hex()}"]),
        "odd": csv_of("CUID,STATUS", [f"1,{canary.hex()}"]),
    }
    codes = []
    for name, content in files.items():
        (command_line.folder / name).write_bytes(content)
        report = command_line.folder / f"{name}.report"
        running = asyncio.create_task(
            in_thread(
                command_line,
                "import",
                str(command_line.folder / name),
                "--account",
                "acme",
                "--group",
                "Red",
                "--report",
                str(report),
            )
        )
        while not running.done():
            seen += [str(dict(row)).encode() for row in await watched.fetch("SELECT * FROM pg_stat_activity")]
            await asyncio.sleep(0.01)
        done = running.result()
        codes.append(done.exit_code)
        seen += [done.output.encode(), repr(done.exception).encode(), report.read_bytes()]
    assert codes == [0, 1, 1, 1, 1]
    tables = await watched.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    for table in tables:
        seen += [str(row).encode() for row in await watched.fetch(f"SELECT t::text FROM {table['relname']} AS t")]
    await watched.close()
    seen += [record.getMessage().encode() for record in caplog.records]
    everything = b"\n".join(seen).lower()
    assert b"uid_length" in everything and b"import_block" in everything
    for form in forms:
        assert form.lower() not in everything


async def test_command(stack: Stack, command_line: CommandLine) -> None:
    path, report = command_line.folder / "tags.csv", command_line.folder / "report.jsonl"
    path.write_bytes(csv_of("UID,KEY", [f"{uid(n)},{KEYS[n].hex()}" for n in (1, 2)]))
    command = ["import", str(path), "--account", "acme", "--group", "Red", "--batch", "B", "--report", str(report)]
    done = await in_thread(command_line, *command, "--dry-run", "--code-length", "8")
    assert done.output.endswith("batch B created\ndry run: nothing was imported\n")
    assert [len(json.loads(line)["xuid"]) for line in report.read_text().splitlines()] == [8, 8]
    done = await in_thread(command_line, *command)
    assert done.output == "2 tags: 2 added, 0 changed, 0 unchanged; 2 keys added, 0 replaced\nbatch B created\n"
    assert [json.loads(line)["outcome"] for line in report.read_text().splitlines()] == ["added", "added"]
    done = await in_thread(command_line, *command)
    assert done.output.endswith("no changes: the tags are already up to date\n")
    done = await in_thread(command_line, *command[:4], "--group", "Green")
    assert done.output.splitlines()[1:] == [
        "Warning: 2 tags are in another group than the one named, and stay there: an import moves no tags. Move each with "
        "PATCH /v2/tags/{xuid}, with the members group_id and batch_id.",
        "no changes",
    ]
    path.write_text(f"UID,KEY\n04,\n{uid(3)},12\n")
    done = await in_thread(command_line, *command)
    assert done.exit_code == 1
    assert (
        "line 3, KEY: key_length: A key must be 16 bytes." in done.output and "2 problems. Nothing was imported." in done.output
    )
    refused = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(line["line"], line["code"], line["outcome"]) for line in refused] == [
        (2, "uid_length", "refused"),
        (3, "key_length", "refused"),
    ]
    assert not list(command_line.folder.glob("*.part"))
    done = await in_thread(command_line, *command[:2], "--account", "nobody", "--group", "Red")
    assert "There is no account nobody." in done.output


# docs/how-to/import-tags.md against the code. tests/acceptance/test_tutorials.py runs its commands.


def test_the_document_has_every_problem_and_alias() -> None:
    rows = dict(re.findall(r"(?m)^\| `([a-z_0-9]+)` \| (.*?) \|$", DOCUMENT))
    described = {code: tuple(cells.split(" | ")) for code, cells in rows.items() if code in PROBLEMS}
    assert described == dict(PROBLEMS)
    for meaning, aliases in ALIASES.items():
        if meaning != "IGNORED":
            row = re.search(rf"(?m)^\| `{meaning}` \|.*$", DOCUMENT)
            assert row is not None, meaning
            assert set(re.findall("`([A-Z_]+)`", row[0])) >= set(aliases), meaning
