"""Filters of the scan log and of scan counts: group, batch, tag, verdicts and time; reasons, unknown tags and countries."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from test_management import Stack, open_stack

from ixfast.store.admin import scan_log
from ixfast.store.ledger.ledger_database import PostgresLedgerDatabase
from ixfast.store.queries import load

NOON = dt.datetime.now(dt.UTC).replace(hour=12, minute=0, second=0, microsecond=0) - dt.timedelta(days=1)
RANGE = f"from={quote((NOON - dt.timedelta(hours=2)).isoformat())}&to={quote((NOON + dt.timedelta(hours=2)).isoformat())}"
INSERT = (
    "INSERT INTO scan_log (at, scan_id, tag_id, position, verdict, reason, account_id)"
    ' VALUES ($1, $2, $3, $4, $5::text::"char", $6, $7)'
)


class Scanned(NamedTuple):
    """A scan in the log. The minutes are those after noon, the tag is None for an unknown one."""

    minutes: int
    tag: str | None
    verdict: str
    reason: str | None = None


SCANS = (
    Scanned(-61, "a1", "genuine"),
    Scanned(-1, "a1", "replayed", "counter_used"),
    Scanned(0, "a2", "forged", "mac_mismatch"),
    Scanned(1, "b1", "incomplete", "missing_parameter"),
    Scanned(2, "b1", "inactive", "batch_inactive"),
    Scanned(3, None, "unknown", "not_found"),
    Scanned(4, None, "unknown", "not_found"),
    Scanned(59, "plain", "plain"),
    Scanned(60, "a1", "repeat"),
)
GROUPS = {"a1": "A", "a2": "A", "b1": "A", "plain": "P", None: None}
BATCHES = {"a1": "A1", "a2": "A1", "b1": "A2", "plain": None, None: None}


class Shop(NamedTuple):
    """An account with the tags of SCANS in groups and batches, by name, and another account with the same scans."""

    stack: Stack
    groups: dict[str, int]
    batches: dict[str, int]

    async def scans(self, query: str = "") -> list[Scanned]:
        items = await self.stack.all_of(f"/v2/scans?{RANGE}&limit=4&{query}")
        found = []
        for item in reversed(items):
            after_noon = dt.datetime.fromisoformat(item["at"]) - NOON
            found.append(Scanned(after_noon // dt.timedelta(minutes=1), item["tag"], item["verdict"], item["reason"]))
        return found

    async def counts(self, query: str) -> dict[str | None, dict[str, int]]:
        found = (await self.stack.ask("GET", f"/v2/stats?{RANGE}&{query}")).json["counts"]
        assert all(count["total"] == sum(count["verdicts"].values()) for count in found)
        return {count["object"]: count["verdicts"] for count in found}


def selected(**wanted: Any) -> list[Scanned]:
    """The scans of which each of these members, or the group or batch of the tag, is among the values given."""
    places = {"group": GROUPS, "batch": BATCHES}
    return [
        scan
        for scan in SCANS
        if all((places[name][scan.tag] if name in places else getattr(scan, name)) in values for name, values in wanted.items())
    ]


def tallied(key: Any, scans: tuple[Scanned, ...] | list[Scanned] = SCANS) -> dict[Any, dict[str, int]]:
    found: dict[Any, dict[str, int]] = {}
    for scan in scans:
        verdicts = found.setdefault(key(scan), {})
        verdicts[scan.verdict] = verdicts.get(scan.verdict, 0) + 1
    return found


async def furnish(stack: Stack, token: str, prefix: str = "") -> tuple[dict[str, int], dict[str, int]]:
    async def made(path: str, body: Any) -> Any:
        return (await stack.ask("POST", path, body, token=token)).made

    folder = (await made("/v2/folders", {"name": "F"}))["id"]
    groups = {name: (await made("/v2/groups", {"folder_id": folder, "name": name}))["id"] for name in ("A", "P", "Empty")}
    batches = {name: (await made("/v2/batches", {"group_id": groups["A"], "name": name}))["id"] for name in ("A1", "A2")}
    for tag, group in GROUPS.items():
        if tag is not None and group is not None:
            batch = BATCHES[tag]
            place = {"batch_id": batches[batch]} if batch is not None else {"group_id": groups[group]}
            await made("/v2/tags", {**place, "xuid": prefix + tag})
    return groups, batches


async def fill(stack: Stack, aid: str, prefix: str = "") -> None:
    account = await stack.pool.fetchval("SELECT account_id FROM account WHERE aid = $1", aid)
    ids = dict(await stack.pool.fetch("SELECT xuid, tag_id FROM tag"))
    letters = {word: letter for letter, word in scan_log.WORDS.items()}
    rows = [
        (
            NOON + dt.timedelta(minutes=scan.minutes), number, ids[prefix + scan.tag] if scan.tag is not None else 0, None,
            letters[scan.verdict], scan.reason, account if scan.tag is None else None,
        )
        for number, scan in enumerate(SCANS, start=1)
    ]  # fmt: skip
    async with stack.pool.acquire() as connection:
        await connection.executemany(INSERT, rows)


@pytest.fixture
async def shop(database: str) -> AsyncIterator[Shop]:
    async with open_stack(database) as stack:
        # The day before may be in a month without a partition.
        month = NOON.replace(day=1, hour=0)
        following = (month + dt.timedelta(days=31)).replace(day=1)
        for table in ("scan_log", "visitor_country"):
            await stack.pool.execute(
                f"CREATE TABLE IF NOT EXISTS {table}_{month:%Y_%m} PARTITION OF {table}"
                f" FOR VALUES FROM ('{month:%Y-%m-%d} 00:00+00') TO ('{following:%Y-%m-%d} 00:00+00')"
            )
        groups, batches = await furnish(stack, stack.tokens["both"])
        await furnish(stack, (await stack.account("other"))["both"], "other")
        await fill(stack, "mine")
        await fill(stack, "other", "other")
        yield Shop(stack, groups, batches)


async def test_scans_have_the_reason_of_their_refusal(shop: Shop) -> None:
    assert await shop.scans() == list(SCANS)


async def test_scans_by_group_and_batch(shop: Shop) -> None:
    groups, batches = shop.groups, shop.batches
    assert await shop.scans(f"group={groups['A']}") == selected(group=["A"])
    assert await shop.scans(f"group={groups['P']}") == selected(group=["P"])
    assert await shop.scans(f"group={groups['Empty']}") == []
    assert await shop.scans(f"batch={batches['A1']}") == selected(batch=["A1"])
    assert await shop.scans(f"group={groups['P']}&batch={batches['A1']}") == []
    for query in ("group=987654321", "batch=987654321"):
        assert (await shop.stack.ask("GET", f"/v2/scans?{query}")).problem == (404, "not_found"), query
    for query in ("group=x", "batch=-1", "batch=1&batch=2"):
        assert (await shop.stack.ask("GET", f"/v2/scans?{query}")).problem == (400, "invalid_parameter"), query


async def test_a_batch_keeps_the_scans_of_its_deleted_tags(shop: Shop) -> None:
    assert (await shop.stack.ask("DELETE", "/v2/tags/a2")).status == 204
    assert await shop.scans(f"batch={shop.batches['A1']}") == selected(batch=["A1"])
    assert (await shop.counts("by=batch"))[str(shop.batches["A1"])] == tallied(lambda _: 0, selected(batch=["A1"]))[0]


async def test_scans_by_several_verdicts(shop: Shop) -> None:
    assert await shop.scans("verdict=forged,replayed") == selected(verdict=["forged", "replayed"])
    assert await shop.scans("verdict=forged&verdict=replayed") == selected(verdict=["forged", "replayed"])
    assert await shop.scans("verdict=unknown") == selected(tag=[None])
    assert await shop.scans("verdict=unknown,unknown,plain") == selected(verdict=["unknown", "plain"])
    assert await shop.scans(f"verdict={','.join(scan_log.WORDS.values())}") == list(SCANS)
    assert await shop.scans(f"verdict=genuine,repeat&tag=a1&group={shop.groups['A']}") == selected(
        verdict=["genuine", "repeat"], tag=["a1"]
    )
    for query in ("verdict=", "verdict=forged,", "verdict=fake", "verdict=forged&verdict=fake"):
        answer = await shop.stack.ask("GET", f"/v2/scans?{query}")
        assert answer.problem == (400, "invalid_parameter"), query
        assert "genuine, plain, repeat, replayed, forged, incomplete, inactive, unknown" in answer.text


async def test_scans_of_unknown_tags_belong_to_one_account(shop: Shop) -> None:
    others = await shop.stack.account("third")
    assert (await shop.stack.ask("GET", f"/v2/scans?{RANGE}", token=others["read"])).json["items"] == []
    assert (await shop.stack.ask("GET", f"/v2/stats?{RANGE}", token=others["read"])).json["counts"] == []
    assert len(await shop.scans("verdict=unknown")) == 2


async def test_the_account_of_unknown_tags_matters(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the comparison, another account's scans of unknown tags appear."""
    forgetful = load("management")["scans"].replace("WHERE s.account_id = $1", "WHERE s.account_id IS NOT NULL")
    monkeypatch.setitem(load("management"), "scans", forgetful)
    assert len(await shop.scans("verdict=unknown")) == 4


async def test_counts_by_hour_and_day(shop: Shop) -> None:
    def hour(scan: Scanned) -> str:
        return f"{NOON + dt.timedelta(minutes=scan.minutes):%Y-%m-%dT%H}:00Z"

    by_hour = await shop.counts("by=hour")
    assert by_hour == tallied(hour) and list(by_hour) == sorted(by_hour) and len(by_hour) == 4
    assert list(await shop.counts("by=hour&limit=2")) == list(by_hour)[:2]
    assert await shop.counts("") == tallied(lambda _: f"{NOON:%Y-%m-%d}")
    in_batch = selected(batch=["A1"])
    assert await shop.counts(f"by=hour&batch={shop.batches['A1']}") == tallied(hour, in_batch)


async def test_an_hour_is_listed_for_the_whole_of_the_longest_range(shop: Shop) -> None:
    hours = scan_log.COUNTS_RANGE_DAYS_MAX * 24
    begin = NOON - dt.timedelta(hours=2)
    tag_id = await shop.stack.pool.fetchval("SELECT tag_id FROM tag WHERE xuid = 'a1'")
    await shop.stack.pool.execute("CREATE TABLE all_hours AS TABLE scan_log WITH NO DATA")
    fill = (
        "INSERT INTO all_hours SELECT $1::timestamptz + interval '1 hour' * n, n, $2, 1, 'g' FROM generate_series(0, $3 - 1) AS n"
    )
    await shop.stack.pool.execute(fill, begin, tag_id, hours)
    await shop.stack.pool.execute("ALTER TABLE scan_log RENAME TO scan_log_aside; ALTER TABLE all_hours RENAME TO scan_log")
    end = begin + dt.timedelta(hours=hours)
    query = f"from={quote(begin.isoformat())}&to={quote(end.isoformat())}&by=hour"
    counts = (await shop.stack.ask("GET", f"/v2/stats?{query}")).json["counts"]
    assert len(counts) == hours and {count["total"] for count in counts} == {1}


async def test_counts_by_group_batch_and_tag(shop: Shop) -> None:
    batches = {str(shop.batches[name]): name for name in shop.batches}
    by_batch = {name and batches[name]: verdicts for name, verdicts in (await shop.counts("by=batch")).items()}
    assert by_batch == tallied(lambda scan: BATCHES[scan.tag])
    groups = {str(shop.groups[name]): name for name in shop.groups}
    by_group = {name and groups[name]: verdicts for name, verdicts in (await shop.counts("by=group")).items()}
    assert by_group == tallied(lambda scan: GROUPS[scan.tag])
    by_tag = await shop.counts("by=tag")
    assert by_tag == tallied(lambda scan: scan.tag)
    totals = [sum(verdicts.values()) for verdicts in by_tag.values()]
    assert totals == sorted(totals, reverse=True)
    assert await shop.counts(f"by=tag&group={shop.groups['A']}") == tallied(lambda scan: scan.tag, selected(group=["A"]))
    assert (await shop.stack.ask("GET", "/v2/stats?by=week")).json["error"]["message"] == (
        "by must be one of hour, day, group, batch, tag, country."
    )


async def test_counts_by_country(shop: Shop) -> None:
    ids = dict(await shop.stack.pool.fetch("SELECT xuid, tag_id FROM tag"))
    database = PostgresLedgerDatabase("", shop.stack.pool)
    rows = [("a1", "g", "CH"), ("a1", "r", "CH"), ("a2", "g", "FR"), ("plain", "p", "CH"), ("othera1", "g", "DE")]
    before = dt.datetime.now(dt.UTC)
    await database.log_countries([(ids[tag], letter, country) for tag, letter, country in rows], 10.0)
    stored = await shop.stack.pool.fetch("SELECT * FROM visitor_country")
    assert {tuple(row.keys()) for row in stored} == {("at", "tag_id", "verdict", "country")}
    assert all((row["at"].minute, row["at"].second, row["at"].microsecond) == (0, 0, 0) for row in stored)

    async def counts(query: str) -> Any:
        end = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)
        range_ = f"from={quote(before.isoformat())}&to={quote(end.isoformat())}"
        found = (await shop.stack.ask("GET", f"/v2/stats?by=country&{range_}&{query}")).json["counts"]
        return {count["object"]: count["verdicts"] for count in found}

    assert await counts("") == {"CH": {"genuine": 1, "replayed": 1, "plain": 1}, "FR": {"genuine": 1}}
    assert list(await counts("limit=1")) == ["CH"]
    assert await counts("tag=a2") == {"FR": {"genuine": 1}}
    assert await counts(f"group={shop.groups['P']}") == {"CH": {"plain": 1}}
    assert await counts(f"batch={shop.batches['A2']}") == {}


async def test_the_switch_of_a_group(shop: Shop) -> None:
    path = f"/v2/groups/{shop.groups['A']}"
    assert (await shop.stack.ask("GET", path)).json["country_statistics"] is False
    assert (await shop.stack.ask("PATCH", path, {"country_statistics": True})).json["country_statistics"] is True
    folder = (await shop.stack.ask("GET", path)).json["folder_id"]
    draft = {"folder_id": folder, "name": "New", "country_statistics": True}
    assert (await shop.stack.ask("POST", "/v2/groups", draft)).made["country_statistics"] is True
    assert (await shop.stack.ask("PATCH", path, {"country_statistics": "yes"})).problem == (400, "invalid_request")


async def test_the_kinds_of_objects_in_the_audit_log(shop: Shop) -> None:
    for kind in ("account", "api_key", "folder", "group", "batch", "tag"):
        found = await shop.stack.all_of(f"/v2/audit?object={kind}&limit=3")
        assert found and {act["object"] for act in found} == {kind}
    answer = await shop.stack.ask("GET", "/v2/audit?object=tags")
    assert answer.problem == (400, "invalid_parameter")
    assert answer.json["error"]["message"] == "object must be one of account, api_key, folder, group, batch, tag."


async def test_lists_that_are_complete_have_pages_too(shop: Shop) -> None:
    for n in range(1, 6):
        await shop.stack.ask("POST", "/v2/tags/a1/keys", {"key": f"{n:032x}"})
    for path, expected in (("/v2/tags/a1/keys", [1, 2, 3, 4, 5]), ("/v2/meta-keys", [])):
        assert [key["version"] for key in await shop.stack.all_of(f"{path}?limit=2")] == expected
    assert len(await shop.stack.all_of("/v2/accounts?limit=1")) == 1
    for query in ("limit=0", "cursor=x"):
        assert (await shop.stack.ask("GET", f"/v2/accounts?{query}")).problem == (400, "invalid_parameter")
