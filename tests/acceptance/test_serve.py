"""`ixfast serve --demo` and related commands, as a reader of the docs would run them; the whole scan API on real sockets."""

import asyncio
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner
from support import eventually, eventually_sync
from support.requirements import requires
from support.served import Connection, Served, once, plain_target

from ixfast.chips import PRESETS
from ixfast.cli import main
from ixfast.limits import BATCH_SCANS_MAX
from ixfast.meters import STAGES
from ixfast.testing.provision import DEMO_DERIVED
from ixfast.testing.virtual_tags import VirtualFleet

OPEN = VirtualFleet(71, 60, account="open-account")
CLOSED = VirtualFleet(72, 20, account="closed-account")
FOREIGN = VirtualFleet(73, 5, account="neighbour")
UNKNOWN = VirtualFleet(74, 5, account="nobody")


@pytest.fixture(scope="module")
def demo(open_scratch: Any) -> Iterator[Served]:
    """Nothing is configured but its directory: a private PostgreSQL, the demo account."""
    with Served(open_scratch / "demo", "--demo") as served:
        yield served


@pytest.fixture(scope="module")
def fleets(server: Served) -> Served:
    server.provision(OPEN)
    server.provision(CLOSED, is_open=False)
    server.provision(FOREIGN, is_open=False)
    return server


def test_the_printed_curl_line_passes_once(demo: Served) -> None:
    requires("curl", package="curl")
    # It is printed after the lines from which a test learns that the server is up.
    line = eventually_sync(lambda: next((line for line in demo.output.splitlines() if "curl" in line), None), 10)
    bodies = [subprocess.run([*shlex.split(line), "-sS"], capture_output=True, text=True, timeout=20).stdout for _ in "12"]
    assert [re.search(r'"response":"(\w+)"', body)[1] for body in bodies] == ["Pass", "Fail"]  # type: ignore[index]


def test_commands_work_beside_the_server(demo: Served) -> None:
    assert "exists already" in demo.cli("demo")
    assert "nothing to apply" in demo.cli("migrate")
    assert "closed" in demo.cli("account", "create", "shop")
    assert re.fullmatch(r"ixf_\S{32}\n", demo.cli("api-key", "create", "shop", "--label", "web"))
    assert '"deadline_ms": 1500' in demo.cli("settings", "--json")
    done = subprocess.run([*demo.command("versions")[:4]], env=demo.environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and re.search(r"^core +native", done.stdout, re.MULTILINE)


async def test_every_presets_tap_passes_once_and_its_url_too(demo: Served) -> None:
    def printed(*words: str) -> str:
        command = demo.command("tap", *words)[3:]
        with ThreadPoolExecutor(1) as thread:  # the command has an event loop of its own
            done = thread.submit(CliRunner().invoke, main, command, env=demo.environ, catch_exceptions=False).result()
        assert done.exit_code == 0, done.output
        return done.output.strip()

    assert demo.cli("tap", "--tag", "7").startswith(f"{demo.base_url}/v1/t?x=")
    for name, profile in PRESETS.items():
        line, url = printed("--profile", name), printed("--profile", name, "--tag", "1", "--url")
        path = line.removeprefix(demo.base_url)
        assert path.startswith("/v1/t?"), line
        again = "Pass" if profile.allow_without_counter else "Fail"
        answers = [await once(demo.port, path) for _ in "12"]
        assert [a.json["response"] for a in answers] == ["Pass", again], name
        async with await Connection.open(demo.port) as connection:
            scans = [(await connection.post("/v2/scans", {"url": url, "account": "demo"})).json for _ in "12"]
        assert scans[0]["verdict"] == "genuine" and scans[0]["response"] == "Pass", (name, scans[0])
        assert scans[1]["verdict"] == ("genuine" if profile.allow_without_counter else "replayed"), name


@pytest.mark.parametrize("scheme", DEMO_DERIVED)
async def test_the_first_tap_of_a_derived_tag_makes_it(demo: Served, scheme: str) -> None:
    line = demo.cli("tap", "--derivation", scheme, "--tag", "3").strip()
    assert "x=" not in line.replace("picc", "") and f"{demo.base_url}/v1/t?a=demo" in line
    answers = [await once(demo.port, line.removeprefix(demo.base_url)) for _ in "12"]
    assert [answer.json["response"] for answer in answers] == ["Pass", "Fail"], answers
    url = demo.cli("tap", "--derivation", scheme, "--tag", "4", "--url").strip()
    async with await Connection.open(demo.port) as connection:
        scans = [(await connection.post("/v2/scans", {"url": url, "account": "demo"})).json for _ in "12"]
    assert [scan["verdict"] for scan in scans] == ["genuine", "replayed"]


def test_the_twin_is_reported(open_scratch: Any, postgres: Any, database: str, server_dir: Any) -> None:
    with Served(server_dir, dsn=database, workers=1, environ={"IXFAST_FORCE_TWIN": "1"}) as served:
        assert "The slow pure-Python core is in use: " in served.output and "IXFAST_FORCE_TWIN" in served.output
        status, body = served.ask_private("/versions")
        assert status == 200 and b"IXFAST_FORCE_TWIN" in body and b'"native' not in body


def test_health_and_one_scrape_for_all_workers(fleets: Served) -> None:
    assert fleets.ask_private("/livez")[0] == 200
    assert fleets.ask_private("/readyz") == (200, b'{"ready": true, "problems": {}}')
    status, body = fleets.ask_private("/nothing")
    assert status == 404 and b"This is the private listener" in body
    text = fleets.ask_private("/metrics")[1].decode()
    ready = re.findall(r'^ixfast_worker_ready\{worker="(\d)"\} (\S+)$', text, re.MULTILINE)
    assert ready == [("0", "1.0"), ("1", "1.0")]


async def test_stages_are_told_of_every_so_many_th_scan(database: str, server_dir: Any) -> None:
    with Served(server_dir, dsn=database, workers=1, trace_every=2) as served:
        served.provision(OPEN)
        async with await Connection.open(served.port) as connection:
            answers = [await connection.get(plain_target(OPEN, 9, counter)) for counter in range(1, 5)]
        assert [answer.json["response"] for answer in answers] == ["Pass"] * 4
        counted = re.findall(
            r'^ixfast_stage_seconds_count\{stage="(\w+)",worker="0"\} (\S+)$',
            served.ask_private("/metrics")[1].decode(),
            re.MULTILINE,
        )
    assert [stage for stage, _ in counted] == list(STAGES)
    assert {count for _, count in counted} == {"2.0"}


async def test_head_options_and_peek_consume_nothing(fleets: Served) -> None:
    path = plain_target(OPEN, 0, 1)
    x, n, e = OPEN.plain_tap(0, 1)
    async with await Connection.open(fleets.port) as connection:
        head = await connection.get(path, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        options = await connection.get(path, method="OPTIONS")
        assert options.status == 204 and "GET" in options.headers["access-control-allow-methods"]
        for _ in "12":
            peeked = await connection.post("/v2/scans?peek=true", {"xuid": x, "counter": n, "code": e})
            assert peeked.json["verdict"] == "genuine"
        assert (await connection.post("/v2/scans?peek=yes", {"xuid": x})).status == 400
        assert (await connection.get(path)).passed
        assert (await connection.get(path)).failed
        peeked = await connection.post("/v2/scans?peek=true", {"xuid": x, "counter": n, "code": e})
        assert peeked.json["verdict"] == "replayed"


async def test_an_idempotent_retry_hears_the_true_answer(fleets: Served) -> None:
    first, second = (dict(zip(("xuid", "counter", "code"), OPEN.plain_tap(1, counter), strict=True)) for counter in (1, 2))
    async with await Connection.open(fleets.port) as connection:
        own = {"Idempotency-Key": "till-7/1"}
        answers = [(await connection.post("/v2/scans", first, own)).json for _ in "12"]
        assert [a["verdict"] for a in answers] == ["genuine", "genuine"]
        assert answers[0]["scan_id"] == answers[1]["scan_id"] and answers[0]["scan_count"] == answers[1]["scan_count"] == 1
        assert (await connection.post("/v2/scans", first, {"Idempotency-Key": "till-7/2"})).json["verdict"] == "replayed"
        assert (await connection.post("/v2/scans", second)).json["verdict"] == "genuine"
        overtaken = (await connection.post("/v2/scans", first, own)).json
        assert overtaken["verdict"] == "genuine" and overtaken["scan_id"] == answers[0]["scan_id"]
        assert (await connection.post("/v2/scans", first)).json["verdict"] == "replayed"
        assert (await connection.post("/v2/scans", first, {"Idempotency-Key": "k" * 256})).status == 400


async def test_a_batch_answers_in_order_and_bad_items_fail_alone(fleets: Served) -> None:
    tap = [dict(zip(("xuid", "counter", "code"), OPEN.plain_tap(index, 1), strict=True)) for index in range(2, 30)]
    scans: list[dict[str, Any]] = [
        {"query": plain_target(OPEN, 30, 1).partition("?")[2]},
        {"url": OPEN[31].tap_at(1)},
        {**tap[0], "counter": "zzzzzz"},
        {**tap[1], "code": "00" * 8},
        {},
        {"xuid": UNKNOWN.xuid(0)},
        {"xuid": FOREIGN.xuid(0), "counter": 1},
        *tap,
        tap[5],
    ]
    async with await Connection.open(fleets.port) as connection:
        answer = await connection.post("/v2/scans/batch", {"scans": scans})
        assert answer.status == 200
        items = answer.json["scans"]
        said = [item.get("verdict") or item["error"]["code"] for item in items]
        assert said[:7] == ["genuine", "genuine", "invalid_parameter", "forged", "missing_parameter", "unknown", "unknown"]
        assert said[7:] == ["genuine"] * len(tap) + ["replayed"]
        assert [item["tag"]["xuid"] for item in items[7:-1]] == [t["xuid"] for t in tap]
        keyed = {"Idempotency-Key": "batch"}
        more = [dict(zip(("xuid", "counter", "code"), OPEN.plain_tap(index, 2), strict=True)) for index in range(2, 30)]
        for _ in "12":
            retried = (await connection.post("/v2/scans/batch", {"scans": more}, keyed)).json["scans"]
            assert {item["verdict"] for item in retried} == {"genuine"}


async def test_a_look_at_a_batch_consumes_nothing(fleets: Served) -> None:
    taps = [dict(zip(("xuid", "counter", "code"), OPEN.plain_tap(index, 3), strict=True)) for index in range(2, 6)]
    async with await Connection.open(fleets.port) as connection:
        for path in ("/v2/scans/batch?peek=true", "/v2/scans/batch?peek=true", "/v2/scans/batch"):
            answer = await connection.post(path, {"scans": taps})
            assert [item["verdict"] for item in answer.json["scans"]] == ["genuine"] * 4, path
        answer = await connection.post("/v2/scans/batch?peek=perhaps", {"scans": taps})
        assert (answer.status, answer.json["error"]["field"]) == (400, "peek")


async def test_a_batch_and_a_body_have_their_bounds(fleets: Served) -> None:
    async with await Connection.open(fleets.port) as connection:
        full = await connection.post("/v2/scans/batch", {"scans": [{"xuid": "a"}] * BATCH_SCANS_MAX})
        assert full.status == 200 and len(full.json["scans"]) == BATCH_SCANS_MAX
        over = await connection.post("/v2/scans/batch", {"scans": [{"xuid": "a"}] * (BATCH_SCANS_MAX + 1)})
        assert (over.status, over.json["error"]["code"]) == (413, "too_large")
        assert (await connection.post("/v2/scans", {"url": "h" * (2 << 20)})).status == 413


async def test_every_worker_counts_in_the_same_scrape(fleets: Served) -> None:
    """The kernel distributes connections; these are enough for each worker to get some."""
    path = plain_target(OPEN, 40, 1)

    async def both() -> bool:
        await asyncio.gather(*(once(fleets.port, path) for _ in range(16)))
        text = fleets.ask_private("/metrics")[1].decode()
        counts = re.findall(r'^ixfast_hot_requests_total\{worker="(\d)"\} (\S+)$', text, re.MULTILINE)
        return [worker for worker, _ in counts] == ["0", "1"] and all(float(count) > 0 for _, count in counts)

    await eventually(both, 20.0)


def test_a_second_server_on_the_port_is_told_so(fleets: Served, server_dir: Any) -> None:
    second = Served(server_dir, dsn=fleets.dsn, port=fleets.port)
    second.start(ready=False)
    process = second.process
    assert process is not None
    status = eventually_sync(process.poll, 20.0)
    assert status != 0
    assert f"port: cannot bind 127.0.0.1:{fleets.port} (Address already in use)" in second.log
    assert "Traceback" not in second.log
