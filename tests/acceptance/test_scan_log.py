"""The scan log on a real server, by API and by command: reasons, scans of unknown tags, and countries of visitors."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from support import eventually
from support.served import Connection, Served, manage, once, own_database, target

from ixfast.cli.exit_codes import ExitCode
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(1907, 6, account="shop")
SWISS, FRENCH, NOBODYS = "192.0.2.7", "198.51.100.1", "10.0.0.1"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) Visitor-Of-This-Test"


@pytest.fixture(scope="module")
def shop(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("server")
    writer = MMDBWriter(database_type="ixfast-test-Country")
    for address, country in ((SWISS, "CH"), (FRENCH, "FR")):
        writer.insert_network(IPSet([f"{address}/32"]), {"country": {"iso_code": country}})
    addresses = home / "countries.mmdb"
    writer.to_db_file(str(addresses))
    with own_database(postgres, template) as dsn, Served(home / "server", dsn=dsn, addresses_file=addresses) as server:
        server.provision(FLEET)
        yield server


async def logged(shop: Served, token: str, query: str, count: int) -> list[Any]:
    """The scans of a list, once there are as many; refusals are written in the background."""

    async def found() -> list[Any] | None:
        items: list[Any] = (await manage(shop, token, "GET", f"/v2/scans?{query}"))["items"]
        return items if len(items) >= count else None

    return await eventually(found)


async def test_refusals_are_logged_with_the_reason_of_their_response(shop: Served) -> None:
    reader = shop.cli("api-key", "create", FLEET.account, "--scope", "read").strip()
    scanner = shop.cli("api-key", "create", FLEET.account).strip()
    tap = FLEET[0].parameters_at(7)
    taps = [
        tap,
        tap,
        {**FLEET[0].parameters_at(8), "e": "0" * 16},
        {name: value for name, value in FLEET[0].parameters_at(9).items() if name != "e"},
    ]
    shown = {}
    async with await Connection.open(shop.port) as connection:
        for parameters in taps:
            body = {"query": target({"x": FLEET.xuid(0), **parameters}).partition("?")[2]}
            answer = (await connection.post("/v2/scans", body, {"X-API-Key": scanner})).json
            shown[answer["scan_id"]] = (answer["verdict"], answer["reason"])
        for headers in ({}, {"X-API-Key": scanner}):
            answer = (await connection.post("/v2/scans", {"xuid": "nosuchtag1"}, headers)).json
            assert (answer["verdict"], answer["reason"]) == ("unknown", "not_found")
        shown[answer["scan_id"]] = ("unknown", "not_found")
    items = await logged(shop, reader, "", len(shown))
    assert {item["scan_id"]: (item["verdict"], item["reason"]) for item in items} == shown
    assert sorted(Counter(item["tag"] for item in items).items(), key=str) == [(FLEET.xuid(0), 4), (None, 1)]
    assert (await manage(shop, reader, "GET", "/v2/scans?verdict=unknown,replayed"))["items"] == [
        item for item in items if item["verdict"] in ("unknown", "replayed")
    ]
    printed = shop.cli("scans", FLEET.account, "--verdict", "forged", "--verdict", "unknown").splitlines()
    assert printed[0].split() == ["TIME", "TAG", "VERDICT", "REASON", "COUNTER", "SCAN"]
    assert sorted(line.split()[2:5] for line in printed[1:]) == sorted(
        [[FLEET.xuid(0), "forged", "mac_mismatch"], ["-", "unknown", "not_found"]]
    )
    as_json = json.loads(shop.cli("scans", FLEET.account, "--json", "--limit", "2"))
    assert as_json["items"] == [{**item, "at": as_json["items"][n]["at"]} for n, item in enumerate(items[:2])]
    following = json.loads(
        shop.cli("scans", FLEET.account, "--json", "--after", as_json["next_cursor"], "--from", f"{items[-1]['at'][:10]}")
    )
    assert [item["scan_id"] for item in following["items"]] == [item["scan_id"] for item in items[2:]]
    by_hour = json.loads(shop.cli("stats", FLEET.account, "--by", "hour", "--json"))["counts"]
    assert sum(count["total"] for count in by_hour) == len(shown)
    assert {dt.datetime.fromisoformat(count["object"]).minute for count in by_hour} == {0}
    table = shop.cli("stats", FLEET.account, "--by", "tag").splitlines()
    assert table[0].split()[:2] == ["TAG", "TOTAL"] and table[1].split()[:2] == [FLEET.xuid(0), "4"]


async def test_countries_are_stored_where_the_group_asks_for_them_and_nothing_else(shop: Served, tmp_path: Path) -> None:
    reader = shop.cli("api-key", "create", FLEET.account, "--scope", "read").strip()
    (group,) = (await manage(shop, reader, "GET", "/v2/groups"))["items"]
    counter = iter(range(1, 1000))

    async def tap(address: str, index: int = 1) -> None:
        parameters = {"x": FLEET.xuid(index), **FLEET[index].parameters_at(next(counter)), "ip": address, "ua": PHONE}
        assert (await once(shop.port, target(parameters))).passed

    await tap(SWISS)
    assert "country statistics  no" in shop.cli("group", "show", FLEET.account, group["name"])
    shown = shop.cli("group", "set", FLEET.account, group["name"], "--country-statistics")
    assert "country statistics  yes" in shown

    async def counts(by: str = "country") -> Any:
        found = (await manage(shop, reader, "GET", f"/v2/stats?by={by}&tag={FLEET.xuid(2)}"))["counts"]
        return {count["object"]: count["total"] for count in found}

    async def is_counted() -> bool:
        await tap(SWISS, index=2)
        return "CH" in await counts()

    await eventually(is_counted)  # every worker learns of the change within a second
    before = await counts()

    async def french() -> bool:
        await tap(FRENCH, index=2)
        await tap(NOBODYS, index=2)
        return "FR" in await counts()

    await eventually(french)
    assert set(await counts()) == {"CH", "FR"} and (await counts())["CH"] >= before["CH"]
    assert "CH" in shop.cli("stats", FLEET.account, "--by", "country")
    dumped = json.dumps([[str(value) for value in row.values()] for row in shop.fetch("SELECT * FROM visitor_country")])
    assert "CH" in dumped and "FR" in dumped
    (row, *_) = shop.fetch("SELECT * FROM visitor_country")
    assert list(row.keys()) == ["at", "tag_id", "verdict", "country"]
    assert leaks(shop) == []
    # The control: an address in the log would be found.
    scan = 'INSERT INTO scan_log (at, scan_id, tag_id, verdict, reason) VALUES (now(), 1, 0, $$f$$::"char", $1)'
    shop.fetch(scan, f"from {SWISS}")
    assert leaks(shop) == [("scan_log", SWISS)]
    shop.fetch("DELETE FROM scan_log WHERE scan_id = 1")


def leaks(shop: Served) -> list[tuple[str, str]]:
    """The tables that contain something of a visitor, other than the country."""
    found = []
    for table in ("visitor_country", "scan_log", "tag_counter", "keyed_scan"):
        rows = " ".join(str(tuple(row.values())) for row in shop.fetch(f"SELECT * FROM {table}"))
        found += [(table, text) for text in (SWISS, FRENCH, NOBODYS, "iPhone", "Visitor-Of-This-Test") if text in rows]
    return found


def test_mistakes_on_the_command_line(shop: Served) -> None:
    for words, text in (
        (("scans", "nobody"), "There is no account nobody"),
        (("scans", FLEET.account, "--batch", "B"), "--folder and --batch require --group."),
        (("scans", FLEET.account, "--group", "nogroup"), "There is no group nogroup"),
        (("scans", FLEET.account, "--tag", "nosuchtag1"), "The account has no such tag."),
        (("scans", FLEET.account, "--verdict", "fake"), "'genuine', 'plain', 'repeat', 'replayed', 'forged'"),
        (("scans", FLEET.account, "--from", "yesterday"), "from: Send a time such as 2026-01-31T09:30:00+01:00"),
        (("stats", FLEET.account, "--by", "month"), "'hour', 'day', 'group', 'batch', 'tag', 'country'"),
        (("group", "set", FLEET.account, "any", "--retry-window", "3601"), "0<=x<=3600"),
    ):
        done = subprocess.run(shop.command(*words), env=shop.environ, capture_output=True, text=True, timeout=60)
        assert done.returncode in (ExitCode.USAGE, ExitCode.FAILED), (words, done.stderr)
        assert text in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr


async def test_only_the_scope_scan_verifies_taps(shop: Served) -> None:
    """Every route of the public listener for a key with each scope, and with all others."""
    scopes = ("scan", "read", "manage", "keys")
    counters = iter(range(1, 1000))
    for granted in ((each,) for each in scopes), (tuple(each for each in scopes if each != "scan"),), (scopes,):
        for given in granted:
            flags = [word for scope in given for word in ("--scope", scope)]
            headers = {"X-API-Key": shop.cli("api-key", "create", FLEET.account, *flags).strip()}
            expected = 200 if "scan" in given else 401
            parameters = {"x": FLEET.xuid(3), **FLEET[3].parameters_at(next(counters))}
            assert (await once(shop.port, target(parameters), headers)).status == expected, given
            async with await Connection.open(shop.port) as connection:
                for path, body in (("/v2/scans", {"xuid": FLEET.xuid(3)}), ("/v2/scans/batch", {"scans": []})):
                    assert (await connection.post(path, body, headers)).status == expected, (given, path)
            for path, needed in (("/v2/scans", {"read", "manage"}), ("/v2/meta-keys", {"read", "manage", "keys"})):
                token = headers["X-API-Key"]
                status = (await once(shop.private_port, path, {"X-API-Key": token})).status
                assert status == (401 if needed.isdisjoint(given) else 200), (given, path)
