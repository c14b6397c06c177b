"""Retries with an Idempotency-Key: which answer clients get, to whom a key belongs, and who waits for whom."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.served import Answer, Connection, Served, once, own_database, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

OPEN = VirtualFleet(6500, 400, account="open")
CLOSED = VirtualFleet(6501, 50, account="closed")
_indices = itertools.count()
TRUSTED = {"trust_forwarded_for": True}
LOG_ROWS = 1_500_000
FLOOD_S = 3.0


def body(fleet: VirtualFleet, index: int, counter: int) -> dict[str, str]:
    return dict(zip(("xuid", "counter", "code"), fleet.plain_tap(index, counter), strict=True))


@pytest.fixture(scope="module")
def server(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home: Path = tmp_path_factory.mktemp("server")
    with own_database(postgres, template) as dsn, Served(home, dsn=dsn, **TRUSTED) as served:
        served.provision(OPEN)
        served.provision(CLOSED, is_open=False)
        yield served


async def scan(server: Served, tap: Any, key: str | None = None, **headers: str) -> Answer:
    """Scan on a connection of its own, which may reach either worker."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        fields["Idempotency-Key"] = key
    async with await Connection.open(server.port) as connection:
        return await connection.post("/v2/scans", tap, fields)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json.get("verdict") or answer.json["error"]["code"]


CONFLICT = (409, "idempotency_conflict")
GENUINE, REPLAYED = (200, "genuine"), (200, "replayed")


async def test_the_first_answer_is_the_same_after_later_taps_and_a_restart(server: Served) -> None:
    index = next(_indices)
    assert code(await scan(server, body(OPEN, index, 3))) == GENUINE
    first = await scan(server, body(OPEN, index, 7), "till 1")
    counted = {name: first.json[name] for name in ("counter", "previous_counter", "gap", "scan_count")}
    assert counted == {"counter": 7, "previous_counter": 3, "gap": 3, "scan_count": 2}
    assert first.json["first_answer"] is None
    for later in (None, 8, 20):
        if later is not None:
            assert code(await scan(server, body(OPEN, index, later))) == GENUINE
        again = await scan(server, body(OPEN, index, 7), "till 1")
        assert again.json | {"first_answer": None} == first.json
        assert again.json["first_answer"]["of_now"] == ["tag", "originality", "response", "rule", "fields"]
    workers = server.workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: len(server.workers()) == 2 and not set(server.workers()) & set(workers) and server.all_ready, 30.0)
    for _ in range(4):
        restarted = await scan(server, body(OPEN, index, 7), "till 1")
        assert restarted.json == again.json
        assert code(await scan(server, body(OPEN, index, 21), "till 1")) == CONFLICT


async def test_a_key_with_another_tap_is_a_conflict_and_consumes_nothing(server: Served) -> None:
    token = server.cli("api-key", "create", "closed").strip()
    assert code(await scan(server, body(CLOSED, 0, 5), "k", X_API_Key=token)) == GENUINE
    assert code(await scan(server, body(CLOSED, 0, 4), "k", X_API_Key=token)) == CONFLICT
    for _ in range(3):
        assert code(await scan(server, body(CLOSED, 0, 6), "k", X_API_Key=token)) == CONFLICT
        assert code(await scan(server, body(CLOSED, 1, 1), "k", X_API_Key=token)) == CONFLICT
    assert code(await scan(server, body(CLOSED, 0, 6), "k2", X_API_Key=token)) == GENUINE
    assert code(await scan(server, body(CLOSED, 1, 1), X_API_Key=token)) == GENUINE


async def test_two_api_keys_have_their_keys_for_themselves(server: Served) -> None:
    one, two = (server.cli("api-key", "create", "closed", "--label", label).strip() for label in "12")
    first = await scan(server, body(CLOSED, 2, 1), "same", X_API_Key=one)
    assert code(first) == GENUINE
    assert code(await scan(server, body(CLOSED, 2, 1), "same", X_API_Key=two)) == REPLAYED
    assert code(await scan(server, body(CLOSED, 2, 2), "same", X_API_Key=two)) == CONFLICT
    assert code(await scan(server, body(CLOSED, 2, 2), "other", X_API_Key=two)) == GENUINE
    assert (await scan(server, body(CLOSED, 2, 1), "same", X_API_Key=one)).json["scan_id"] == first.json["scan_id"]


async def test_keys_of_callers_without_an_api_key_belong_to_their_address(server: Served) -> None:
    index, other = next(_indices), next(_indices)
    mine, yours = {"X_Forwarded_For": "192.0.2.1"}, {"X_Forwarded_For": "192.0.2.2"}
    assert code(await scan(server, body(OPEN, index, 1), "same", **mine)) == GENUINE
    assert code(await scan(server, body(OPEN, index, 1), "same", **yours)) == REPLAYED
    assert code(await scan(server, body(OPEN, index, 1), "same", **mine)) == GENUINE
    for tap in (body(OPEN, other, 1), body(OPEN, index, 2)):
        assert code(await scan(server, tap, "same", **mine)) == CONFLICT
        assert code(await scan(server, tap, "same", **yours)) == CONFLICT
        assert code(await scan(server, tap, "another", X_Forwarded_For="192.0.2.3")) in (GENUINE, CONFLICT)


def forged(tap: dict[str, str]) -> dict[str, str]:
    return tap | {"code": f"{int(tap['code'], 16) ^ 1:016X}"}


def with_url(tap: dict[str, str]) -> dict[str, str]:
    return {"query": f"x={tap['xuid']}&n={tap['counter']}&e={tap['code']}"}


async def test_whatever_comes_first_under_a_key_keeps_it(server: Served) -> None:
    """The first tap may be refused, for any reason; the key stays with it, and the other taps stay unused."""
    index, other = next(_indices), next(_indices)
    fresh = body(OPEN, other, 1)
    assert code(await scan(server, body(OPEN, index, 5))) == GENUINE
    firsts = {
        "used": (body(OPEN, index, 5), REPLAYED),
        "forged": (forged(body(OPEN, index, 6)), (200, "forged")),
        "incomplete": ({"xuid": fresh["xuid"], "counter": fresh["counter"]}, (200, "incomplete")),
    }
    for key, (first, said) in firsts.items():
        assert code(await scan(server, first, key)) == said
        for tap in (fresh, body(OPEN, index, 6), forged(body(OPEN, index, 9))):
            assert code(await scan(server, tap, key)) == CONFLICT
        assert code(await scan(server, first, key)) == said
    assert code(await scan(server, fresh, "unused before")) == GENUINE
    for tap in (forged(body(OPEN, other, 2)), body(OPEN, index, 5), body(OPEN, other, 2), {"xuid": fresh["xuid"]}):
        assert code(await scan(server, tap, "unused before")) == CONFLICT
    assert code(await scan(server, with_url(fresh), "unused before")) == GENUINE  # the same tap in other words
    assert code(await scan(server, body(OPEN, other, 2))) == GENUINE


async def test_what_has_no_verdict_leaves_its_key_free(server: Served) -> None:
    tap = body(OPEN, next(_indices), 1)
    for wrong in (tap | {"xuid": "?"}, tap | {"code": "no"}, {}):
        assert (await scan(server, wrong, "after errors")).status == 400
    assert code(await scan(server, tap | {"xuid": "nosuchtag"}, "after errors")) == (200, "unknown")
    assert code(await scan(server, tap, "after errors")) == GENUINE


async def test_a_tap_whose_tag_was_switched_on_again_is_the_same_tap(server: Served) -> None:
    index = next(_indices)
    tap = body(OPEN, index, 1)

    def switch(active: bool) -> None:
        server.cli("tag", "activate" if active else "deactivate", tap["xuid"])

    await asyncio.to_thread(switch, False)
    await eventually(lambda: is_inactive(server, tap), 20)
    assert code(await scan(server, tap, "switched")) == (200, "inactive")
    await asyncio.to_thread(switch, True)
    await eventually(lambda: is_inactive(server, tap, wanted=False), 20)
    assert code(await scan(server, tap, "switched")) == GENUINE
    assert code(await scan(server, body(OPEN, index, 2), "switched")) == CONFLICT


async def is_inactive(server: Served, tap: dict[str, str], *, wanted: bool = True) -> bool:
    """Whether both workers answer so; a peek consumes nothing."""
    said = []
    for _ in range(6):
        async with await Connection.open(server.port) as connection:
            said.append((await connection.post("/v2/scans?peek=true", tap)).json["verdict"] == "inactive")
    return said == [wanted] * 6


async def test_a_refusal_that_is_sent_again_is_logged_once(server: Served) -> None:
    index = next(_indices)
    assert code(await scan(server, body(OPEN, index, 5))) == GENUINE
    refused = [body(OPEN, index, 5), body(OPEN, index, 4), forged(body(OPEN, index, 6))]
    for _ in range(6):
        for number, tap in enumerate(refused):
            await scan(server, tap, f"refused {number}")
    await scan(server, refused[0])  # without a key, and logged last
    rows = "SELECT verdict::text FROM scan_log JOIN tag USING (tag_id) WHERE xuid = $1 AND scan_id {} 1::bigint << 62"

    def verdicts(compare: str) -> list[str]:
        return sorted(row[0] for row in server.fetch(rows.format(compare), refused[0]["xuid"]))

    await eventually(lambda: asyncio.to_thread(lambda: verdicts("<") == ["g", "r"] and len(verdicts(">=")) >= 3), 20)
    assert verdicts(">=") == ["f", "r", "r"]


async def test_two_hosts_pass_one_of_two_taps_under_one_key(server: Served, tmp_path: Path) -> None:
    """Another host with the same database: taps of two tags, and two taps of one tag, under one key at the same moment."""
    (tmp_path / "kek").write_bytes(server.kek_file.read_bytes())
    (tmp_path / "kek").chmod(0o600)
    with Served(tmp_path, dsn=server.dsn, **TRUSTED) as other:
        for number in range(40):
            first, second = next(_indices), next(_indices)
            taps = (body(OPEN, first, 1), body(OPEN, second if number % 2 else first, 2))
            answers = await asyncio.gather(
                *(scan(host, tap, f"race {number}") for host, tap in zip((server, other), taps, strict=True))
            )
            assert sorted(map(code, answers)) == [GENUINE, CONFLICT], number
            passed = answers.index(next(answer for answer in answers if code(answer) == GENUINE))
            for host in (server, other):
                again = await scan(host, taps[passed], f"race {number}")
                assert again.json | {"first_answer": None} == answers[passed].json | {"first_answer": None}
                assert code(await scan(host, taps[1 - passed], f"race {number}")) == CONFLICT


async def test_each_scan_of_a_batch_has_a_key_of_its_own(server: Served) -> None:
    taps = [body(OPEN, next(_indices), 1) for _ in range(5)]
    batch = {"scans": [*taps, taps[0]]}
    async with await Connection.open(server.port) as connection:
        first, again = [await connection.post("/v2/scans/batch", batch, {"Idempotency-Key": "batch"}) for _ in "12"]
        moved = await connection.post("/v2/scans/batch", {"scans": batch["scans"][1:]}, {"Idempotency-Key": "batch"})
    said = [[item["verdict"] for item in answer.json["scans"]] for answer in (first, again)]
    assert said == [["genuine"] * 5 + ["replayed"]] * 2
    assert [item["error"]["code"] for item in moved.json["scans"]] == ["idempotency_conflict"] * 5
    for before, after in zip(first.json["scans"][:5], again.json["scans"][:5], strict=True):
        assert after["first_answer"] and after | {"first_answer": None} == before


async def test_a_conflict_is_neither_logged_nor_counted_as_a_verdict(server: Served) -> None:
    """Whatever belongs to the key, a pass or a refusal, alone or in a batch in another order."""
    first, second, last = (next(_indices) for _ in range(3))
    genuine, refused = body(OPEN, first, 1), forged(body(OPEN, second, 1))
    assert code(await scan(server, genuine, "kept by a pass")) == GENUINE
    assert code(await scan(server, refused, "kept by a refusal")) == (200, "forged")
    for key in ("kept by a pass", "kept by a refusal"):
        for tap in (forged(body(OPEN, first, 2)), body(OPEN, second, 2)):
            assert code(await scan(server, tap, key)) == CONFLICT
    batch = [forged(body(OPEN, first, 3)), forged(body(OPEN, second, 3))]
    async with await Connection.open(server.port) as connection:
        for scans, said in ((batch, "forged"), (batch[::-1], "idempotency_conflict")):
            answer = await connection.post("/v2/scans/batch", {"scans": scans}, {"Idempotency-Key": "reordered"})
            assert [each.get("verdict") or each["error"]["code"] for each in answer.json["scans"]] == [said] * 2
    assert code(await scan(server, forged(body(OPEN, last, 1)))) == (200, "forged")  # logged last
    rows = "SELECT verdict::text FROM scan_log JOIN tag USING (tag_id) WHERE xuid = ANY($1::text[])"

    def verdicts(*indices: int) -> list[str]:
        return sorted(row[0] for row in server.fetch(rows, [OPEN.xuid(index) for index in indices]))

    await eventually(lambda: asyncio.to_thread(lambda: verdicts(last) == ["f"] and len(verdicts(first, second)) >= 4), 20)
    assert verdicts(first, second) == ["f", "f", "f", "g"]


# A flood of used taps with fresh keys.


async def test_a_flood_of_keys_turns_nobody_elses_refusals_into_errors(server: Served) -> None:
    index, flooded = next(_indices), next(_indices)
    for tag in (index, flooded):
        assert code(await scan(server, body(OPEN, tag, 5))) == GENUINE
        assert code(await scan(server, body(OPEN, tag, 6))) == GENUINE
    await asyncio.to_thread(server.in_database, lengthen_the_log)
    used = json.dumps(body(OPEN, flooded, 5)).encode()
    ends = asyncio.get_running_loop().time() + FLOOD_S
    floods: list[int] = []

    async def flood(client: int) -> None:
        async with await Connection.open(server.port) as connection:
            number = 0
            while asyncio.get_running_loop().time() < ends:
                number += 1
                key = {"Idempotency-Key": f"flood {client} {number}"}
                floods.append((await connection.post("/v2/scans", json.loads(used), key)).status)

    async def ask() -> list[Answer]:
        answers = []
        async with await Connection.open(server.port) as connection:
            while asyncio.get_running_loop().time() < ends:
                answers.append(await connection.get(plain_target(OPEN, index, 5)))
                answers.append(await connection.post("/v2/scans", body(OPEN, index, 5)))
        return answers

    answers, *_ = await asyncio.gather(ask(), *(flood(client) for client in range(16)))
    assert set(floods) == {200}
    assert len(floods) > 300, "so slow that each look-up must have read the log"
    assert {answer.status for answer in answers} == {200}
    assert (await once(server.port, plain_target(OPEN, index, 7))).passed


async def lengthen_the_log(connection: Any) -> None:
    """Add as many passes in the last ten minutes as a busy server logs, some of them with keys."""
    at = "greatest(now() - interval '10 minutes' * random(), date_trunc('day', now()))"
    await connection.execute(f"INSERT INTO scan_log SELECT {at}, n, 1, n, 'g' FROM generate_series(1, {LOG_ROWS}) AS n")
    keyed = f"{at}, {1 << 62} + n, 1, n, n - 1, n"
    await connection.execute(f"INSERT INTO keyed_scan SELECT {keyed} FROM generate_series(1, {LOG_ROWS // 10}) AS n")
