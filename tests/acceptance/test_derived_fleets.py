"""Fleets that store no keys, as their owner's web server sees them: every scheme, and tags that their first tap makes."""

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.served import Answer, Connection, Served, all_of, once, target

from ixfast.keys.diversify import An10922, BoltCard, Derivation, SdmBackend, SdmBackendLegacy, scheme_of
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

DERIVATIONS: tuple[Derivation, ...] = (An10922(), BoltCard(), SdmBackend(), SdmBackendLegacy())
AT_ONCE = 64
CONNECTIONS = 16


def fleets(seed: int, account: str, profile: str, *, enrols: bool) -> list[VirtualFleet]:
    return [
        VirtualFleet(seed + place, 70, profile, account=account, derivation=derivation, enrols=enrols)
        for place, derivation in enumerate(DERIVATIONS)
    ]


REGISTERED = fleets(10, "kept", "plain-uid-counter", enrols=False) + fleets(20, "kept", "encrypted", enrols=False)
PLAIN = fleets(30, "fresh", "plain-uid-counter", enrols=True)
ENCRYPTED = fleets(40, "fresh", "encrypted", enrols=True)
BY_SCHEME = [f"{fleet.profile.name}-{scheme_of(fleet.derivation)}" for fleet in REGISTERED if fleet.derivation is not None]


@pytest.fixture(scope="module")
def fresh(server: Served) -> Served:
    server.provision(*REGISTERED)
    server.provision(*PLAIN, *ENCRYPTED)
    return server


def named(tag: VirtualTag, aid: str, counter: int) -> dict[str, str]:
    """The tap as `/v1/t` takes it of a tag that is known by its chip alone."""
    parameters = tag.parameters_at(counter)
    parameters.pop("x")
    return {"a": aid, **({} if tag.profile.encrypted else {"u": tag.uid.hex().upper()}), **parameters}


def flipped(parameters: dict[str, str]) -> dict[str, str]:
    name = "e" if "e" in parameters else "cmac"
    return {**parameters, name: parameters[name][:-1] + ("0" if parameters[name][-1] != "0" else "1")}


async def v2(port: int, content: dict[str, Any]) -> Answer:
    async with await Connection.open(port) as connection:
        return await connection.post("/v2/scans", content)


@pytest.mark.parametrize("index", range(len(REGISTERED)), ids=BY_SCHEME)
async def test_genuine_replayed_and_forged_taps_of_each_scheme(fresh: Served, index: int) -> None:
    tag = REGISTERED[index][0]
    taps = named(tag, "kept", 1), named(tag, "kept", 1), flipped(named(tag, "kept", 2)), named(tag, "kept", 2)
    answers = [await once(fresh.port, target(tap)) for tap in taps]
    assert [answer.json["response"] for answer in answers] == ["Pass", "Fail", "Fail", "Pass"]
    url, forged = tag.tap_at(3), tag.tap_at(4)[:-1] + ("0" if tag.tap_at(4)[-1] != "0" else "1")
    verdicts = [(await v2(fresh.port, {"url": each, "account": "kept"})).json["verdict"] for each in (url, url, forged)]
    assert verdicts == ["genuine", "replayed", "forged"]


def rows_of(server: Served, tag: VirtualTag) -> list[tuple[str, int, int]]:
    rows = server.fetch(
        "SELECT xuid, scan_count, (SELECT count(*) FROM scan_log AS l WHERE l.tag_id = t.tag_id AND verdict = 'g') AS passes"
        " FROM tag AS t JOIN tag_counter USING (tag_id) WHERE uid = $1",
        tag.uid,
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("place", range(len(DERIVATIONS)), ids=[scheme_of(each) for each in DERIVATIONS])
async def test_the_same_first_tap_many_times_at_once_passes_once(fresh: Served, place: int) -> None:
    for tag in (PLAIN[place][1], ENCRYPTED[place][1]):
        answers = await all_of(fresh.port, [target(named(tag, "fresh", 5))] * AT_ONCE, CONNECTIONS)
        assert sorted(answer.json.get("response", "") for answer in answers) == ["Fail"] * (AT_ONCE - 1) + ["Pass"]
        ((xuid, count, passes),) = rows_of(fresh, tag)
        assert (count, passes) == (1, 1)
        assert {answer.json["xuid"] for answer in answers} == {xuid}


@pytest.mark.parametrize("place", range(len(DERIVATIONS)), ids=[scheme_of(each) for each in DERIVATIONS])
async def test_all_ways_lead_to_enrolment(fresh: Served, place: int) -> None:
    plain, encrypted = PLAIN[place], ENCRYPTED[place]
    for content, tag in (
        ({"url": plain[2].tap_at(1), "account": "fresh"}, plain[2]),
        ({"query": plain[3].tap_at(1).partition("?")[2], "account": "fresh"}, plain[3]),
        (
            {"uid": plain[4].uid.hex().upper(), "account": "fresh", "counter": 1, "code": named(plain[4], "fresh", 1)["e"]},
            plain[4],
        ),
        ({"url": encrypted[2].tap_at(1), "account": "fresh"}, encrypted[2]),
    ):
        async with await Connection.open(fresh.port) as connection:
            looked = await connection.post("/v2/scans?peek=true", content)
        assert looked.json["verdict"] == "unknown" and rows_of(fresh, tag) == []
        answer = (await v2(fresh.port, content)).json
        assert (answer["verdict"], answer["counter"], answer["tag"]["uid"]) == ("genuine", 1, tag.uid.hex().upper())
        assert len(rows_of(fresh, tag)) == 1


async def test_a_batch_enrols_each_of_its_tags(fresh: Served) -> None:
    scans = [{"url": PLAIN[1][i].tap_at(1), "account": "fresh"} for i in range(10, 60)]
    async with await Connection.open(fresh.port) as connection:
        answers = (await connection.post("/v2/scans/batch", {"scans": scans * 2})).json["scans"]
    assert sorted(answer["verdict"] for answer in answers) == ["genuine"] * 50 + ["replayed"] * 50


async def test_what_proves_nothing_is_answered_like_any_unknown_tag(fresh: Served) -> None:
    tag = PLAIN[0][6]
    true = named(tag, "fresh", 1)
    without_account = await once(fresh.port, target({**true, "a": "nobody"}))
    for wrong in (flipped(true), {"a": "fresh", "u": true["u"]}, {**true, "n": "000000"}, {"a": "fresh", "x": "nosuchtag"}):
        answer = await once(fresh.port, target(wrong))
        same = answer.body.replace(b'"xuid":"nosuchtag",', b"")
        assert (answer.status, same, answer.headers) == (
            404,
            without_account.body,
            {**without_account.headers, **lengths(answer)},
        )
    assert rows_of(fresh, tag) == []


def lengths(answer: Answer) -> dict[str, str]:
    return {"content-length": answer.headers["content-length"]}


async def test_a_worker_killed_between_enrolment_and_pass(database: str, tmp_path: Path) -> None:
    """The tag is there, and was never tapped: the same tap passes, once."""
    tag, fleet = PLAIN[1][0], PLAIN[1]
    with Served(tmp_path / "s", dsn=database, deadline_ms=20_000) as server:
        server.provision(fleet)
        request = target(named(tag, "fresh", 1))

        async def hold(connection: Any) -> None:
            async with connection.transaction():
                await connection.execute("LOCK TABLE scan_log IN SHARE MODE")  # no pass can be logged
                held.set()
                await asyncio.to_thread(release.wait)

        held, release = threading.Event(), threading.Event()
        holding = asyncio.create_task(asyncio.to_thread(server.in_database, hold))
        assert await asyncio.to_thread(held.wait, 20)
        asked = [asyncio.create_task(once(server.port, request)) for _ in range(4)]
        await eventually(lambda: asyncio.to_thread(rows_of, server, tag), 20)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert not any(isinstance(outcome, Answer) and outcome.status == 200 for outcome in outcomes)
        # A statement that was sent outlives its worker, until it has waited for its lock too long.
        sent = "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%advanced AS (%' AND pid <> pg_backend_pid()"
        await eventually(lambda: asyncio.to_thread(lambda: not server.fetch(sent)), 20)
        assert [row[1:] for row in rows_of(server, tag)] == [(0, 0)]
        release.set()
        await holding
        await eventually(lambda: asyncio.to_thread(lambda: server.all_ready), 30)
        answers = await all_of(server.port, [request] * 8, 4)
        assert sum(answer.passed for answer in answers) == 1 and sum(answer.failed for answer in answers) == 7
        assert [row[1:] for row in rows_of(server, tag)] == [(1, 1)]


async def test_a_bolt_cards_code_is_not_taken_for_a_customers_id(fresh: Served) -> None:
    fleet = VirtualFleet(90, 3, "boltcard", account="bolt", derivation=BoltCard())
    fresh.provision(fleet)
    taps = [named(fleet[0], "bolt", counter) for counter in (1, 1, 2)]
    answers = [await once(fresh.port, target(tap)) for tap in taps]
    assert [answer.json["response"] for answer in answers] == ["Pass", "Fail", "Pass"]
    code = named(fleet[0], "bolt", 3)["c"]
    fresh.in_database(lambda c: c.execute("UPDATE tag SET cuid = $1 WHERE uid = $2", code, fleet.uid(1)))
    answer = await once(fresh.port, target(named(fleet[1], "bolt", 1) | {"c": code}))  # an id goes before what the tap says
    assert answer.json == {"xuid": fleet.xuid(1), "cuid": code, "response": "Fail"}
    assert (await once(fresh.port, target({"a": "bolt", "c": "0" * 16, "p": "no hex"}))).json == {"error": "not_found"}


async def test_a_url_may_say_itself_whose_tap_it_is(fresh: Served) -> None:
    tag = REGISTERED[-2][5]
    url = tag.tap_at(1)
    assert (await v2(fresh.port, {"url": url})).json["error"]["code"] == "missing_parameter"
    assert (await v2(fresh.port, {"url": url + "&a=kept", "account": "fresh"})).json["verdict"] == "unknown"
    assert (await v2(fresh.port, {"url": url + "&aid=kept"})).json["verdict"] == "genuine"
    assert (await v2(fresh.port, {"query": "a=kept&" + tag.tap_at(2).partition("?")[2]})).json["verdict"] == "genuine"
