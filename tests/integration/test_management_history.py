"""The scan log and scan counts over the management API, and whether the OpenAPI description has every route."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import msgspec
import pytest
from test_management import Stack, folder_with_groups, open_stack

from ixfast.error_codes import MANAGEMENT, STATUS
from ixfast.http.management import ROUTES
from ixfast.http.openapi.document import description
from ixfast.http.scan_app import make_scan_app
from ixfast.http.server_state import ServerState
from ixfast.store.admin import scan_log
from ixfast.store.queries import load

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = NOW.replace(hour=0, minute=0, second=0)


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


class Log:
    """Scans of two groups of the account and of a foreign tag, at random moments of the current day."""

    def __init__(self) -> None:
        self.rows: list[tuple[dt.datetime, int, str, str]] = []  # moment, scan id, tag code, verdict letter
        self.groups: dict[str, int] = {}

    async def fill(self, stack: Stack) -> None:
        random_ = random.Random(7)
        _, first, batch = await folder_with_groups(stack)
        folder = (await stack.ask("GET", f"/v2/groups/{first}")).json["folder_id"]
        second = (await stack.ask("POST", "/v2/groups", {"folder_id": folder, "name": "Right"})).made["id"]
        for number in range(4):
            place = {"batch_id": batch} if number < 3 else {"group_id": second}
            xuid = (await stack.ask("POST", "/v2/tags", {**place, "xuid": f"tag{number}"})).made["xuid"]
            self.groups[xuid] = first if number < 3 else second
        ids = {row["xuid"]: row["tag_id"] for row in await stack.pool.fetch("SELECT xuid, tag_id FROM tag")}
        since_midnight = max(1.0, (NOW - DAY).total_seconds())
        for scan_id in range(1, 301):
            # Mostly far apart, some at the same moment, like the scans of one statement.
            at = DAY + dt.timedelta(seconds=round(random_.random() * since_midnight, random_.choice((0, 6)))) / (scan_id % 3 + 1)
            self.rows.append((at, scan_id, random_.choice(list(ids)), random_.choice(list(scan_log.WORDS))))
        values = [(at, scan_id, ids[xuid], (1 << 24) + scan_id, letter) for at, scan_id, xuid, letter in self.rows]
        values += [(at, scan_id, 987_654, 1, "g") for at, scan_id, _, _ in self.rows]  # of a tag that belongs to no account
        insert = 'INSERT INTO scan_log (at, scan_id, tag_id, position, verdict) VALUES ($1, $2, $3, $4, $5::text::"char")'
        async with stack.pool.acquire() as connection:
            await connection.executemany(insert, values)
        self.rows.sort(reverse=True)

    def shown(self, *, tag: str | None = None, verdict: str | None = None) -> list[tuple[str, str, str]]:
        return [
            (f"{scan_id:016x}", xuid, scan_log.WORDS[letter])
            for _, scan_id, xuid, letter in self.rows
            if tag in (None, xuid) and verdict in (None, scan_log.WORDS[letter])
        ]


RANGE = f"from={quote(DAY.isoformat())}&to={quote((NOW + dt.timedelta(seconds=2)).isoformat())}"


async def scans(stack: Stack, query: str) -> list[tuple[str, str, str]]:
    return [(s["scan_id"], s["tag"], s["verdict"]) for s in await stack.all_of(f"/v2/scans?{RANGE}{query}")]


async def test_scans_are_paged_newest_first_without_loss_or_repetition(stack: Stack) -> None:
    log = Log()
    await log.fill(stack)
    assert await scans(stack, "&limit=1000") == log.shown()
    assert await scans(stack, "&limit=17") == log.shown()
    assert await scans(stack, "&limit=1&tag=tag3&verdict=genuine") == log.shown(tag="tag3", verdict="genuine")
    one = (await stack.ask("GET", f"/v2/scans?{RANGE}&limit=1")).json["items"][0]
    assert one["key_version"] == 1 and one["counter"] == int(one["scan_id"], 16)
    assert dt.datetime.fromisoformat(one["at"]) == log.rows[0][0]
    assert await stack.all_of("/v2/scans?from=2020-01-01&to=2020-01-02") == []


async def test_a_page_that_takes_too_long_ends_early_and_goes_on(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    await log.fill(stack)
    monkeypatch.setattr(scan_log, "_PAGE_S", -1.0)
    monkeypatch.setattr(scan_log, "_FIRST_WINDOW", (NOW - DAY) / 20)
    page = (await stack.ask("GET", f"/v2/scans?{RANGE}&limit=1000")).json
    assert len(page["items"]) < 300 and page["next_cursor"] is not None
    assert await scans(stack, "&limit=1000") == log.shown()


async def test_a_deleted_tags_scans_stay(stack: Stack) -> None:
    log = Log()
    await log.fill(stack)
    assert (await stack.ask("DELETE", "/v2/tags/tag1")).status == 204
    assert await scans(stack, "&limit=50") == log.shown()
    assert await scans(stack, "&tag=tag1") == log.shown(tag="tag1")
    by_tag = {c["object"]: c["total"] for c in (await stack.ask("GET", f"/v2/stats?{RANGE}&by=tag")).json["counts"]}
    assert by_tag["tag1"] == len(log.shown(tag="tag1"))


async def test_counts(stack: Stack) -> None:
    log = Log()
    await log.fill(stack)

    async def counted(query: str) -> dict[str, Any]:
        found = (await stack.ask("GET", f"/v2/stats?{RANGE}{query}")).json
        assert all(count["total"] == sum(count["verdicts"].values()) for count in found["counts"])
        return {count["object"]: count["verdicts"] for count in found["counts"]}

    assert await counted("") == {f"{DAY:%Y-%m-%d}": Counter(verdict for _, _, verdict in log.shown())}
    by_tag = await counted("&by=tag")
    assert by_tag == {x: Counter(verdict for _, _, verdict in log.shown(tag=x)) for x in log.groups}
    totals = [sum(by_tag[xuid].values()) for xuid in by_tag]
    assert totals == sorted(totals, reverse=True)
    assert list(await counted("&by=tag&limit=1")) == list(by_tag)[:1]
    by_group = await counted("&by=group")
    assert by_group[str(log.groups["tag3"])] == by_tag["tag3"] and len(by_group) == 2
    assert await counted(f"&by=tag&group={log.groups['tag3']}") == {"tag3": by_tag["tag3"]}
    assert await counted("&tag=tag2") == {f"{DAY:%Y-%m-%d}": by_tag["tag2"]}


async def test_ranges_have_bounds(stack: Stack) -> None:
    for path in ("/v2/scans", "/v2/stats"):
        for query, problem in (
            ("from=2026-01-02&to=2026-01-01", (400, "invalid_parameter")),
            ("from=yesterday", (400, "invalid_parameter")),
            ("from=0001-01-01", (400, "invalid_parameter")),
            ("from=2025-01-01&to=2026-01-01", (422, "range_too_wide")),
            ("tag=nosuch", (404, "not_found")),
            ("limit=1001", (400, "invalid_parameter")),
            ("by=month&verdict=x", (400, "invalid_parameter")),
        ):
            assert (await stack.ask("GET", f"{path}?{query}")).problem == problem, (path, query)
    foreign = await stack.ask("GET", f"/v2/scans?{RANGE}&limit=1&cursor=WzEsMSwxXQ")
    assert foreign.problem == (400, "invalid_parameter")


async def test_counting_too_much_is_said(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement timeout is reported as what it means for the caller."""
    raises = "CREATE FUNCTION cancelled() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE query_canceled; END $$"
    await stack.pool.execute(raises)
    given = {
        "counts": "bigint timestamptz timestamptz bigint bigint[] bigint text bigint",
        "counts_by_country": "bigint timestamptz timestamptz bigint bigint[] bigint bigint",
        "scans": "bigint timestamptz timestamptz text[] timestamptz bigint bigint bigint bigint[] bigint bigint",
    }
    for statement, kinds in given.items():
        parameters = ", ".join(f"${i}::{kind} AS p{i}" for i, kind in enumerate(kinds.split(), 1))
        monkeypatch.setitem(load("management"), statement, f"SELECT cancelled() FROM (SELECT {parameters}) AS given")
    for path in ("/v2/stats", "/v2/stats?by=country", "/v2/scans"):
        assert (await stack.ask("GET", path)).problem == (422, "range_too_wide")


async def test_the_description_has_every_route(stack: Stack) -> None:
    shown = (await stack.ask("GET", "/openapi.json", token="")).json
    assert shown == msgspec.json.decode(msgspec.json.encode(description())) and shown["openapi"] == "3.1.0"
    described = {(method.upper(), path) for path, methods in shown["paths"].items() for method in methods}
    public = {
        (route.method, route.resource.canonical)
        for route in make_scan_app(cast(ServerState, SimpleNamespace(dispatcher=None))).router.routes()
        if not route.resource.canonical.endswith("/")  # the same once more
    }
    private = {
        (route.method, route.resource.canonical)
        for route in stack.app.router.routes()
        if route.method != "HEAD"  # added by aiohttp for every GET
    }
    assert described == public | private
    names = [operation["operationId"] for methods in shown["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))
    text = msgspec.json.encode(shown).decode()
    referenced = {piece.split('"')[0] for piece in text.split('"$ref":"#/components/schemas/')[1:]}
    assert referenced <= set(shown["components"]["schemas"])


def test_the_document_has_every_route_and_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "management-api.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+) (/\S+)` \| ([^|]+) \|", text, re.MULTILINE)
    documented = [(method, path, re.findall(r"`(\w+)`", scopes)) for method, path, scopes in rows]
    assert sorted(documented) == sorted((route.method, route.path, list(route.scopes)) for route in ROUTES)
    codes = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE)}
    assert codes == {code: STATUS[code] for code in MANAGEMENT}
