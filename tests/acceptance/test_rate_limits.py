"""Rate limits as callers see them: by API key and by address, on every endpoint; a refused scan consumes nothing.

Both limits are one scan a second, and a batch puts a caller a quarter of an hour into debt (`in_debt`), so that no test outlasts
it by being slow. In the tests of API keys, each request comes from a different address.
"""

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from support.served import Answer, Connection, Served, own_database, plain_target, target

from ixfast.limits import BATCH_SCANS_MAX, RETRY_AFTER_S
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(81, 40, account="shop")
ADDRESSES = (f"198.51.{high}.{low}" for high, low in itertools.product(range(256), repeat=2))
TAGS = itertools.count()
REFUSED = r'ixfast_scan_errors_total\{.*"rate_limited".*\}'
HOT_BY = r'ixfast_hot_requests_total\{worker="%d"\}'
HOT = r"ixfast_hot_requests_total\{.*\}"
Ask = Callable[[Connection, int, Mapping[str, str]], Any]


async def hot(connection: Connection, index: int, headers: Mapping[str, str]) -> Answer:
    return await connection.get(plain_target(FLEET, index, 1), headers)


async def hot_reordered(connection: Connection, index: int, headers: Mapping[str, str]) -> Answer:
    x, n, e = FLEET.plain_tap(index, 1)
    return await connection.get(target({"e": e, "n": n, "x": x}), headers)


async def aiohttps(connection: Connection, index: int, headers: Mapping[str, str]) -> Answer:
    return await connection.get(plain_target(FLEET, index, 1), {"Expect": "", **headers})


async def v2(connection: Connection, index: int, headers: Mapping[str, str]) -> Answer:
    return await connection.post("/v2/scans", {"url": FLEET[index].tap_at(1)}, headers)


async def batch(connection: Connection, index: int, headers: Mapping[str, str]) -> Answer:
    return await connection.post("/v2/scans/batch", {"scans": [{"url": FLEET[index].tap_at(1)}]}, headers)


WAYS: dict[str, tuple[Ask, bool]] = {  # and whether the front door serves it by itself
    "hot": (hot, True),
    "hot reordered": (hot_reordered, True),
    "aiohttp": (aiohttps, False),
    "v2": (v2, False),
    "batch": (batch, False),
}


@pytest.fixture(scope="module")
def limited(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that trusts the balancer in front of it. Its workers share their counts."""
    home = tmp_path_factory.mktemp("limited")
    with (
        own_database(postgres, template) as dsn,
        Served(home, dsn=dsn, workers=2, trust_forwarded_for=True, rate_limit_key=1, rate_limit_address=1) as served,
    ):
        served.provision(FLEET)
        yield served


def counted(server: Served, series: str) -> float:
    text = server.ask_private("/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{series} (\S+)$", text, re.MULTILINE))


def came_from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def in_debt(server: Served, headers: Mapping[str, str]) -> None:
    """Put this caller so deep into debt that it is refused for the rest of the tests."""
    async with await Connection.open(server.port) as connection:
        answer = await connection.post("/v2/scans/batch", {"scans": [{}] * BATCH_SCANS_MAX}, headers)
        assert answer.status == 200


def is_refused(answer: Answer) -> bool:
    if answer.status != 429:
        return False
    code = answer.json["error"]
    assert (code if isinstance(code, str) else code["code"]) == "rate_limited"
    assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
    return True


def has_passed(answer: Answer) -> bool:
    said = answer.json["scans"][0] if "scans" in answer.json else answer.json
    return answer.status == 200 and said.get("response") == "Pass"


async def assert_limits(
    server: Served, way: str, spent: Callable[[], Mapping[str, str]], free: Callable[[], Mapping[str, str]]
) -> None:
    """A caller in debt is refused, and another caller with the very same tap is not."""
    ask, is_hot = WAYS[way]
    index = next(TAGS)
    refused, answered = counted(server, REFUSED), counted(server, HOT)
    async with await Connection.open(server.port) as connection:
        for _ in "12":
            assert is_refused(await ask(connection, index, spent()))
        assert has_passed(await ask(connection, index, free()))
    assert counted(server, REFUSED) == refused + 2
    assert counted(server, HOT) == answered + 3 * is_hot


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_in_debt_is_refused_and_others_are_not(limited: Served, way: str) -> None:
    spent, free = (limited.cli("api-key", "create", FLEET.account).strip() for _ in "12")
    await in_debt(limited, {"X-API-Key": spent, **came_from(next(ADDRESSES))})
    await assert_limits(
        limited,
        way,
        lambda: {"X-API-Key": spent, **came_from(next(ADDRESSES))},
        lambda: {"X-API-Key": free, **came_from(next(ADDRESSES))},
    )


@pytest.mark.parametrize("way", WAYS)
async def test_an_address_in_debt_is_refused_and_others_are_not(limited: Served, way: str) -> None:
    spent = next(ADDRESSES)
    await in_debt(limited, came_from(spent))
    await assert_limits(limited, way, lambda: came_from(spent), lambda: came_from(next(ADDRESSES)))


@pytest.mark.parametrize("way", WAYS)
async def test_only_the_balancers_word_counts(limited: Served, way: str) -> None:
    """Only the last entry is the balancer's, whether in the client's own field or in a second one."""
    spent = next(ADDRESSES)
    await in_debt(limited, came_from(spent))
    ask, index = WAYS[way][0], next(TAGS)
    async with await Connection.open(limited.port) as connection:
        assert is_refused(await ask(connection, index, came_from(f"{next(ADDRESSES)}, {spent}")))
        assert is_refused(await ask(connection, index, {**came_from(next(ADDRESSES)), "x-forwarded-for": spent}))
        assert has_passed(await ask(connection, index, {**came_from(spent), "x-forwarded-for": next(ADDRESSES)}))


@pytest.mark.parametrize("show", [lambda token: ({}, f"&r={token}"), lambda token: ({"Authorization": f"Bearer {token}"}, "")])
async def test_a_key_is_one_caller_however_it_is_shown(limited: Served, show: Any) -> None:
    token = limited.cli("api-key", "create", FLEET.account).strip()
    await in_debt(limited, {"Ixkio-R": token, **came_from(next(ADDRESSES))})
    headers, query = show(token)
    async with await Connection.open(limited.port) as connection:
        path = plain_target(FLEET, next(TAGS), 1) + query
        assert is_refused(await connection.get(path, {**headers, **came_from(next(ADDRESSES))}))
        assert is_refused(await connection.get(path, {**headers, "Expect": "", **came_from(next(ADDRESSES))}))
        assert is_refused(await connection.post(f"/v2/scans?{query}", {}, {**headers, **came_from(next(ADDRESSES))}))


@pytest.mark.parametrize("way", WAYS)
async def test_an_address_that_is_no_text_is_one_as_any(limited: Served, way: str) -> None:
    strange = came_from(f"\xff{way}")
    await in_debt(limited, strange)
    async with await Connection.open(limited.port) as connection:
        assert is_refused(await WAYS[way][0](connection, 0, strange))


async def test_without_trust_nobody_names_his_own_address(database: str, server_dir: Any) -> None:
    with Served(server_dir, dsn=database, workers=1, rate_limit_address=1) as served:
        served.provision(FLEET)
        await in_debt(served, came_from(next(ADDRESSES)))
        async with await Connection.open(served.port) as connection:
            for way, (ask, _) in WAYS.items():
                assert is_refused(await ask(connection, 0, came_from(next(ADDRESSES)))), way


async def test_control_where_there_is_no_limit_nobody_is_in_debt(database: str, server_dir: Any) -> None:
    with Served(server_dir, dsn=database, workers=1) as served:
        served.provision(FLEET)
        key = {"X-API-Key": served.cli("api-key", "create", FLEET.account).strip()}
        await in_debt(served, key)
        async with await Connection.open(served.port) as connection:
            for index, (ask, _) in enumerate(WAYS.values()):
                assert has_passed(await ask(connection, index, key))


RATE = 100
LENGTH_S = 2.0


async def passed_in(server: Served, connections: int, headers: Callable[[], Mapping[str, str]]) -> tuple[int, float]:
    """How many scans passed over the given number of connections, each used sequentially, and how long it took."""
    begin = time.monotonic()
    passed = refused = 0

    async def ask() -> None:
        nonlocal passed, refused
        async with await Connection.open(server.port) as connection:
            while time.monotonic() < begin + LENGTH_S:
                answer = await connection.get(plain_target(FLEET, 0, 1), headers())
                assert answer.status == 200 or is_refused(answer)
                passed += answer.status == 200
                refused += answer.status == 429

    await asyncio.gather(*(ask() for _ in range(connections)))
    assert refused  # otherwise the limit was never reached
    return passed, time.monotonic() - begin


@pytest.fixture(scope="module")
def generous(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("generous")
    with (
        own_database(postgres, template) as dsn,
        Served(home, dsn=dsn, workers=2, trust_forwarded_for=True, rate_limit_key=RATE, rate_limit_address=RATE) as served,
    ):
        served.provision(FLEET)
        yield served


@pytest.mark.parametrize("connections", [1, 16])
@pytest.mark.parametrize("kind", ["key", "address"])
async def test_a_caller_gets_the_whole_limit_of_the_host_and_no_more(generous: Served, connections: int, kind: str) -> None:
    """Over one connection, which one worker serves, and over many, which both serve."""
    before = [counted(generous, HOT_BY % worker) for worker in range(2)]
    if kind == "key":
        token = generous.cli("api-key", "create", FLEET.account).strip()
        passed, length_s = await passed_in(generous, connections, lambda: {"X-API-Key": token, **came_from(next(ADDRESSES))})
    else:
        headers = came_from(next(ADDRESSES))
        passed, length_s = await passed_in(generous, connections, lambda: headers)
    served = {worker for worker in range(2) if counted(generous, HOT_BY % worker) > before[worker]}
    assert len(served) == min(connections, 2)
    assert 0.9 <= passed / (RATE * (1 + length_s)) <= 1.03  # lower if the machine paused the client just before the end
