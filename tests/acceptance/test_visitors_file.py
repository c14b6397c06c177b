"""Rules and responses that depend on the visitor, on a real server, and an address file that is replaced while it runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from support import eventually
from support.served import Connection, Served, manage, once, own_database, target

from ixfast.cli.exit_codes import ExitCode
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(1901, 6, account="shop")
GERMAN, AMERICAN, NOBODYS = "192.0.2.7", "198.51.100.1", "10.0.0.1"
PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.4 Mobile/15E148 Safari/604.1"
)
RULES = {
    "groups": [
        {"name": "home", "when": "country in (DE, AT)", "response": "Hallo {countrycode} {timezone} {currency}"},
        {"name": "phone", "when": "os == ios", "response": "{os} {browser} {countrycode}"},
    ],
    "default": "Hello {countrycode}",
}


def write(path: Path, country: str, zone: str) -> None:
    """A City edition that places the German visitor's addresses in `country`."""
    writer = MMDBWriter(database_type="ixfast-test-City")
    writer.insert_network(IPSet(["192.0.2.0/24"]), {"country": {"iso_code": country}, "location": {"time_zone": zone}})
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"country": {"iso_code": "US"}})
    fresh = path.with_suffix(".fresh")
    writer.to_db_file(str(fresh))
    fresh.rename(path)


@pytest.fixture
def shop(postgres: Any, template: str, tmp_path: Path) -> Iterator[Served]:
    addresses = tmp_path / "city.mmdb"
    write(addresses, "DE", "Europe/Berlin")
    with own_database(postgres, template) as dsn, Served(tmp_path / "server", dsn=dsn, addresses_file=addresses) as server:
        server.provision(FLEET)
        yield server


async def test_countries_and_devices_that_were_passed_on(shop: Served, tmp_path: Path) -> None:
    token = shop.cli("api-key", "create", FLEET.account, "--scope", "manage").strip()
    trial = {"rules": RULES, "facts": {"country": "AT"}}
    assert (await manage(shop, token, "POST", "/v2/rules/test", trial)) == {
        "group": "home", "response": RULES["groups"][0]["response"], "steps": ANY, "warnings": [],
    }  # fmt: skip
    (group,) = (await manage(shop, token, "GET", "/v2/groups"))["items"]
    await manage(shop, token, "PATCH", f"/v2/groups/{group['id']}", {"rules": RULES})
    tap = FLEET[0].parameters_at(1)

    async def response_to(**visitor: str) -> str:
        return str((await once(shop.port, target({**tap, **visitor}))).json["response"])

    async def all_respond(text: str, **visitor: str) -> bool:
        """Whether every worker responds with `text`, through the front door and aiohttp alike."""
        once_each = [await response_to(**visitor) for _ in range(8)]
        v2 = {"xuid": FLEET.xuid(0), "visitor": {"ip": visitor.get("ip"), "user_agent": visitor.get("ua")}}
        async with await Connection.open(shop.port) as connection:
            other_way = (await connection.post("/v2/scans", v2)).json["response"]
        return {*once_each, other_way} == {text}

    await eventually(lambda: all_respond("Hallo DE Europe/Berlin EUR", ip=GERMAN))
    assert await all_respond("Hello US", ip=AMERICAN)
    assert await all_respond("Hello ", ip=NOBODYS)
    assert await all_respond("iOS Safari US", ip=AMERICAN, ua=PHONE)
    assert await all_respond("iOS Safari ", ua=PHONE)
    assert await all_respond("Hello ", ip="no address", ua="no telephone")
    assert await all_respond("Hello ")

    write(tmp_path / "city.mmdb", "AT", "Europe/Vienna")
    assert await all_respond("Hallo DE Europe/Berlin EUR", ip=GERMAN)  # the previous file is still the open one
    shop.signal(signal.SIGHUP)
    await eventually(lambda: all_respond("Hallo AT Europe/Vienna EUR", ip=GERMAN))

    (tmp_path / "broken").write_bytes(b"no database")
    (tmp_path / "broken").rename(tmp_path / "city.mmdb")
    shop.signal(signal.SIGHUP)
    await eventually(lambda: shop.log.count("cannot be read as a MaxMind DB file") == 2)
    assert await all_respond("Hallo AT Europe/Vienna EUR", ip=GERMAN)


@pytest.mark.parametrize("content", [None, b"no database"])
def test_a_file_that_cannot_be_read_is_told_at_the_start(content: bytes | None, database: str, tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    if content is not None:
        path.write_bytes(content)
    server = Served(tmp_path / "server", dsn=database, addresses_file=path)
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(60) == ExitCode.CONFIGURATION
    server.stop()
    expected = f"Error: addresses_file: {path} cannot be read as a MaxMind DB file: "
    assert server.log.startswith(expected) and server.output == ""


async def test_without_a_file_countries_are_unknown_and_said_to_be(server: Served) -> None:
    server.provision(FLEET)
    token = server.cli("api-key", "create", FLEET.account, "--scope", "manage").strip()
    for rules, lacking in (
        (RULES, "country, countrycode, currency, timezone"),
        ({"groups": [], "default": "{tzlocal}"}, "tzlocal"),
        ({"groups": [], "default": "{os}"}, None),
    ):
        expected = [] if lacking is None else [f"unavailable: {lacking}; no address database is configured"]
        assert (await manage(server, token, "POST", "/v2/rules/test", {"rules": rules}))["warnings"] == expected
