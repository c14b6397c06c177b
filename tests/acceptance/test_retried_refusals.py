"""Refused taps that are sent again under their Idempotency-Key, to two workers of two hosts and after a restart: the scan log and
the statistics have each once, and the metrics have every answer."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet
from support import eventually
from support.served import Connection, Served, manage, own_database, target

from ixfast.testing.virtual_tags import VirtualFleet

SHOP = VirtualFleet(1911, 8, account="shop")
OTHERS = VirtualFleet(1912, 2, account="others")
SWISS = {"ip": "192.0.2.7"}
TIMES = 4
DROPPED = "ixfast_refusal_log_dropped_total"


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("addresses") / "countries.mmdb"
    writer = MMDBWriter(database_type="ixfast-test-Country")
    writer.insert_network(IPSet([f"{SWISS['ip']}/32"]), {"country": {"iso_code": "CH"}})
    writer.to_db_file(str(path))
    return path


@pytest.fixture(scope="module")
def hosts(
    postgres: Any, template: str, addresses: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Served]]:
    """Two hosts with one database. The groups of `shop` ask for countries."""
    homes = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with own_database(postgres, template) as dsn, Served(homes[0], dsn=dsn, addresses_file=addresses) as one:
        one.provision(SHOP)
        one.provision(OTHERS)
        one.fetch("UPDATE tag_group SET country_statistics = true")
        (homes[1] / "kek").write_bytes(one.kek_file.read_bytes())
        (homes[1] / "kek").chmod(0o600)
        with Served(homes[1], dsn=dsn, addresses_file=addresses) as two:
            yield one, two


def query_of(fleet: VirtualFleet, index: int, counter: int, **changes: str | None) -> dict[str, str]:
    parameters = {"x": fleet.xuid(index), **fleet[index].parameters_at(counter)} | changes
    return {"query": target({name: value for name, value in parameters.items() if value is not None}).partition("?")[2]}


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "used": (query_of(SHOP, 0, 5), "replayed"),
    "older": (query_of(SHOP, 0, 4), "replayed"),
    "forged": (query_of(SHOP, 1, 5, e="0" * 16), "forged"),
    "incomplete": (query_of(SHOP, 1, 5, e=None), "incomplete"),
    "inactive": (query_of(SHOP, 2, 5), "inactive"),
    "code": ({"xuid": "nosuchtag1"}, "unknown"),
    "code in a URL": (query_of(SHOP, 1, 5, x="nosuchtag2"), "unknown"),
    "uid": ({"uid": "04FFFFFFFFFFFF"}, "unknown"),
    "cuid": ({"cuid": "nobody's"}, "unknown"),
    "tag of another account": (query_of(OTHERS, 0, 5), "unknown"),
}


async def scan(host: Served, token: str, tap: dict[str, str], key: str | None = None) -> Any:
    """Scan on a connection of its own, which may reach either worker."""
    headers = {"X-API-Key": token} | ({"Idempotency-Key": key} if key is not None else {})
    async with await Connection.open(host.port) as connection:
        answer = await connection.post("/v2/scans", {**tap, "visitor": SWISS}, headers)
    assert answer.status == 200, answer
    return answer.json


async def scan_all(hosts: tuple[Served, ...], token: str, expected: dict[str, str], *, keyed: bool) -> None:
    """Send every refused tap to every host, at once; the scan ids by key stay in `expected`."""
    names = [name for name in REFUSED for _ in hosts]
    answers = await asyncio.gather(
        *(
            scan(hosts[number % len(hosts)], token, REFUSED[name][0], f"retried {name}" if keyed else None)
            for number, name in enumerate(names)
        )
    )
    for name, answer in zip(names, answers, strict=True):
        assert answer["verdict"] == REFUSED[name][1], (name, answer)
        if keyed:
            assert expected.setdefault(name, answer["scan_id"]) == answer["scan_id"]


def rows(host: Served) -> Counter[str]:
    """Logged refusals by scan id."""
    found = host.fetch("SELECT scan_id FROM scan_log WHERE verdict NOT IN ('g', 'p')")
    return Counter(f"{row['scan_id']:016x}" for row in found)


def metric(host: Served, name: str) -> float:
    """The sum of a metric over its series; those of all workers."""
    text = host.ask_private("/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}.*? (\S+)$", text, re.MULTILINE))


async def restart_workers(host: Served) -> None:
    workers = host.workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: len(host.workers()) == 2 and not set(host.workers()) & set(workers) and host.all_ready, 30.0)


async def ready_to_refuse(hosts: tuple[Served, ...], token: str) -> None:
    """Use up the counters, and switch a tag off on every worker of every host."""
    assert (await scan(hosts[0], token, query_of(SHOP, 0, 5)))["verdict"] == "genuine"
    await asyncio.to_thread(hosts[0].cli, "tag", "deactivate", SHOP.xuid(2))

    async def is_inactive(host: Served) -> bool:
        said = []
        for _ in range(6):
            async with await Connection.open(host.port) as connection:
                answer = await connection.post("/v2/scans?peek=true", REFUSED["inactive"][0], {"X-API-Key": token})
                said.append(answer.json["verdict"])
        return said == ["inactive"] * 6

    for host in hosts:
        await eventually(lambda host=host: is_inactive(host), 20)


async def test_each_refusal_is_logged_and_counted_once(hosts: tuple[Served, Served]) -> None:
    one, two = hosts
    token = one.cli("api-key", "create", SHOP.account, "--scope", "scan", "--scope", "read").strip()
    await ready_to_refuse(hosts, token)
    ids: dict[str, str] = {}
    for _ in range(TIMES):
        await scan_all(hosts, token, ids, keyed=True)
    once = dict.fromkeys(ids.values(), 1)
    assert len(once) == len(REFUSED)
    await eventually(lambda: asyncio.to_thread(lambda: rows(one) == once), 20)
    await restart_workers(one)
    for _ in range(TIMES):
        await scan_all(hosts, token, ids, keyed=True)
    await scan_all((one, two), token, ids, keyed=False)  # logged last, and each time
    complete = len(REFUSED) * 3
    await eventually(lambda: asyncio.to_thread(lambda: rows(one).total() >= complete), 20)
    logged = rows(one)
    assert {scan_id: logged[scan_id] for scan_id in once} == once
    assert logged.total() == complete

    by_verdict = Counter(verdict for _, verdict in REFUSED.values())
    of_tags = {verdict: 3 * count for verdict, count in by_verdict.items() if verdict != "unknown"} | {"genuine": 1}

    async def countries() -> Any:
        found = (await manage(one, token, "GET", "/v2/stats?by=country"))["counts"]
        return found if sum(each["total"] for each in found) >= sum(of_tags.values()) else None

    (country,) = await eventually(countries, 20)
    assert country["object"] == "CH"
    assert {verdict: count for verdict, count in country["verdicts"].items() if count} == of_tags
    (unknown,) = (each for each in (await manage(one, token, "GET", "/v2/stats?by=tag"))["counts"] if each["object"] is None)
    assert unknown["total"] == 3 * by_verdict["unknown"]
    assert rows(one) == logged
    for host in hosts:  # the metrics are about answers
        assert metric(host, 'ixfast_scans_total{verdict="unknown"') == (2 * TIMES + 1) * by_verdict["unknown"]
        assert metric(host, DROPPED) == 0


async def test_each_scan_of_a_batch_that_is_sent_again_is_logged_once(hosts: tuple[Served, Served]) -> None:
    one, _ = hosts
    token = one.cli("api-key", "create", SHOP.account).strip()
    batch = {"scans": [{"xuid": "nosuchtag1"}, {"xuid": "nosuchtag1"}, {"uid": "04FFFFFFFFFFFE"}]}
    ids = set()
    for host in hosts * TIMES:
        async with await Connection.open(host.port) as connection:
            answer = await connection.post("/v2/scans/batch", batch, {"X-API-Key": token, "Idempotency-Key": "batch"})
        assert [each["verdict"] for each in answer.json["scans"]] == ["unknown"] * 3
        ids |= {each["scan_id"] for each in answer.json["scans"]}
    assert len(ids) == 3
    last = (await scan(hosts[0], token, {"xuid": "nosuchtag9"}))["scan_id"]
    await eventually(lambda: asyncio.to_thread(lambda: {last, *ids} <= set(rows(one))), 20)
    assert [rows(one)[scan_id] for scan_id in ids] == [1, 1, 1]


async def test_a_key_of_an_unknown_tag_stays_free(hosts: tuple[Served, Served]) -> None:
    """It is bound by the first tap of a tag."""
    one, two = hosts
    token = one.cli("api-key", "create", SHOP.account).strip()
    for host in hosts:
        refused = await scan(host, token, {"xuid": "nosuchtag3"}, "free")
        assert refused["verdict"] == "unknown"
        await eventually(lambda refused=refused: asyncio.to_thread(lambda: refused["scan_id"] in rows(one)), 20)
    assert (await scan(two, token, query_of(SHOP, 3, 1), "free"))["verdict"] == "genuine"
    assert (await scan(one, token, query_of(SHOP, 3, 1), "free"))["verdict"] == "genuine"
