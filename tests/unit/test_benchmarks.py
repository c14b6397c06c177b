"""Every benchmark in its smallest size, so that all of them keep working: verdicts, audits and hashes, never a time."""

import importlib.util
import json
import os
import random
import re
import socket
import subprocess
import sys
from array import array
from collections import deque
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from support.requirements import requires

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

for _library in ("hdrh", "matplotlib"):
    pytest.importorskip(_library, reason=f"{_library} is not installed: it is in the dependency group `bench`")

from benchmarks import build, database_audit, latency, plots, scans, testbed, timing  # noqa: E402
from benchmarks.contenders import http_contenders  # noqa: E402
from benchmarks.load import check, connections, histogram  # noqa: E402
from benchmarks.load.drive import CONSTANT_ANSWER, SCAN_ANSWERS, Load  # noqa: E402
from benchmarks.load.traffic import (  # noqa: E402
    FORGED,
    GENUINE,
    KINDS,
    REPLAYED,
    UNKNOWN,
    Mix,
    Plan,
    Traffic,
    fleet_of,
    with_strangers,
)
from benchmarks.micro import audit as audited_files  # noqa: E402
from benchmarks.micro import suite  # noqa: E402
from benchmarks.micro.sample_scans import Bench  # noqa: E402
from benchmarks.micro.step_timer import SMOKE, Size, Step, measure  # noqa: E402
from benchmarks.peers.listening import listen  # noqa: E402
from ixfast.domain.scan import Scan  # noqa: E402

MIX = Mix(0.4, 0.2, 0.2, 0.2)
ORIGIN = {"environment": {"cpus": 2, "cpu": "Some CPU", "commit": "abc123", "at": "today"}, "capacity": 40_000.0}
PASS = b'HTTP/1.1 200 OK\r\n\r\n{"xuid":"a","response":"Pass"}'


def plans(traffic: Traffic, each: int) -> list[Plan]:
    fleet = with_strangers(traffic)
    made = [Plan(traffic, index, fleet) for index in range(traffic.plans)]
    for plan in made:
        plan.append_each_tag_once(b"\n")
        plan.append(each, b"\n")
    return made


class TestTraffic:
    def test_is_the_same_in_every_run(self) -> None:
        traffic = Traffic(5, 60, 4, MIX)
        assert [plan.requests for plan in plans(traffic, 50)] == [plan.requests for plan in plans(traffic, 50)]
        assert plans(traffic, 50)[0].requests != plans(traffic._replace(seed=6), 50)[0].requests

    def test_no_two_plans_share_a_tag(self) -> None:
        seen: set[int] = set()
        for plan in plans(Traffic(5, 61, 4, MIX), 100):
            own = set(plan.tags)
            assert not own & seen
            seen |= own
        assert set(range(61)) <= seen

    def test_verdicts_are_what_an_engine_says(self) -> None:
        """The real engine over memory gives every kind of tap its expected verdict."""
        traffic = Traffic(1024, 40, 1, MIX)
        plan = plans(traffic, 300)[0]
        bench = Bench(40)
        found: list[Scan] = []
        for scan_id, request in enumerate(plan.requests, start=1):
            match = re.fullmatch(rb"GET /v1/t\?x=(\w+)&n=(\w+)&e=(\w+)\n", request)
            assert match is not None
            mac = bytes.fromhex(match[3].decode())
            bench.engine.submit(Scan(found.append, match[1], int(match[2], 16), mac, None, scan_id, 0.0))
        assert [str(scan.verdict) for scan in found] == [KINDS[kind] for kind in plan.kinds]
        assert set(plan.kinds) == {GENUINE, REPLAYED, FORGED, UNKNOWN}

    def test_taps_are_those_of_the_fleet(self) -> None:
        traffic = Traffic(9, 30, 2)
        fleet = fleet_of(traffic)
        for plan in plans(traffic, 100):
            for place, kind in enumerate(plan.kinds):
                if kind == GENUINE:
                    x, n, e = fleet.plain_tap(plan.tags[place], plan.counters[place])
                    assert plan.requests[place] == f"GET /v1/t?x={x}&n={n}&e={e}\n".encode()

    def test_counters_rise_and_replays_come_after_their_tap(self) -> None:
        for plan in plans(Traffic(9, 30, 2, MIX), 400):
            last: dict[int, int] = {}
            accepted: set[bytes] = set()
            for place, kind in enumerate(plan.kinds):
                if kind == REPLAYED:
                    assert plan.requests[place] in accepted
                elif kind in (GENUINE, FORGED):
                    assert plan.counters[place] > last.get(plan.tags[place], 0)
                    last[plan.tags[place]] = plan.counters[place]
                if kind == GENUINE:
                    accepted.add(plan.requests[place])

    def test_popular_tags_are_tapped_more(self) -> None:
        plan = Plan(Traffic(3, 100, 1, Mix(1, 0, 0, 0)), 0, fleet_of(Traffic(3, 100, 1)))
        plan.append(5000, b"")
        assert plan.tags.count(0) > 5 * plan.tags.count(50) > 0

    def test_too_few_tags_are_refused(self) -> None:
        with pytest.raises(ValueError, match="too few"):
            Plan(Traffic(3, 3, 4), 3, fleet_of(Traffic(3, 3, 4)))


class Wire:
    """A transport that records what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, sent: bytes) -> None:
        self.written.append(sent)


def plain_connections() -> ModuleType:
    """The connections in uncompiled form."""
    spec = importlib.util.spec_from_file_location("benchmarks.load.plain_connections", build.SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest) -> ModuleType:
    return connections if request.param == "compiled" else plain_connections()


def connection_over(form: ModuleType, plan: Plan) -> tuple[Any, Wire, list[str]]:
    done: list[str] = []
    connection, wire = form.ClosedLoopConnection(plan, SCAN_ANSWERS, lambda: done.append("done")), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    return connection, wire, done


@pytest.fixture
def plan() -> Plan:
    made = Plan(Traffic(4, 3, 1), 0, fleet_of(Traffic(4, 3, 1)))
    made.append_each_tag_once(b"\n")
    return made


class TestConnections:
    def test_an_answer_in_pieces_is_one_answer(self, form: ModuleType, plan: Plan) -> None:
        connection, wire, _ = connection_over(form, plan)
        connection.start()
        connection.data_received(PASS[:20])
        connection.data_received(PASS[20:-4])
        assert wire.written == plan.requests[:1]
        connection.data_received(PASS[-4:])
        assert wire.written == plan.requests[:2]
        assert not plan.failures

    def test_a_wrong_answer_is_noted(self, form: ModuleType, plan: Plan) -> None:
        connection, _, done = connection_over(form, plan)
        connection.start()
        connection.data_received(PASS.replace(b"Pass", b"Fail"))
        connection.data_received(PASS.replace(b"200 OK", b"503 No"))
        connection.data_received(PASS)
        connection.settle()
        assert plan.failures == {0: "200 Fail", 1: "503 Pass"}
        assert plan.uncertain == {1}
        assert done == ["done"]
        assert sum(passes for passes, _, _ in plan.accepted().values()) == 1

    def test_a_lost_connection_leaves_its_tap_uncertain(self, form: ModuleType, plan: Plan) -> None:
        connection, _, done = connection_over(form, plan)
        connection.start()
        connection.data_received(PASS)
        connection.connection_lost(None)
        connection.settle()
        assert done == ["done"]
        assert plan.answered == 2
        assert plan.accepted()[plan.tags[1]] == (0, 0, 1)

    def test_an_open_lane_serves_what_is_overdue_first(self, form: ModuleType, plan: Plan) -> None:
        idle: deque[Any] = deque()
        overdue = deque([5])
        connection, wire = form.OpenLoopConnection(plan, SCAN_ANSWERS, idle, overdue), Wire()
        connection.connection_made(wire)  # type: ignore[arg-type]
        connection.send(3)
        connection.data_received(PASS)
        assert wire.written == plan.requests[:2] and not overdue and not idle
        connection.data_received(PASS)
        assert list(idle) == [connection] and not connection.in_flight


class TestGenerator:
    def test_is_compiled_of_what_is_read(self) -> None:
        """`make test` compiles it beforehand."""
        assert build.form() == "compiled"
        assert connections.__file__.endswith(tuple(EXTENSION_SUFFIXES))

    def test_what_was_compiled_of_something_else_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = tmp_path / "connections.py"
        source.touch()
        source.with_suffix(".pxd").touch()
        monkeypatch.setattr(build, "SOURCE", source)
        assert build.form() == "plain"
        built = source.with_suffix(EXTENSION_SUFFIXES[0])
        built.touch()
        os.utime(built, (0, 0))
        with pytest.raises(build.StaleError, match="Compile it again"):
            build.form()

    def test_counts_what_the_server_counts(self) -> None:
        row = check.own("free", check.SMOKE, 2)
        assert row.counted is True
        assert row.requests_per_s > 0

    def test_sees_a_stall_in_every_request_that_was_due(self) -> None:
        """200 ms without a response at 1,000/s: about 100 requests waited for longer than half of it, whatever the number of
        connections. Without the correction it would be one for each connection."""
        result, slow = check.stalled(check.SMOKE)
        assert not result.flaws()
        assert slow > 5 * check.SMOKE.connections

    def test_a_wrong_answer_spoils_a_run(self) -> None:
        """The control: a server that passes everything is detected."""
        with check.constant() as (port, _), Load(Traffic(8, 40, 4, MIX), port, SCAN_ANSWERS, processes=1) as load:
            load.prepare(400)
            load.connect()
            result = load.run_out()
            load.finish()
        assert result.by_kind["genuine"] == result.as_expected["genuine"]
        assert result.as_expected["forged"] == result.as_expected["replayed"] == result.as_expected["unknown"] == 0
        assert any("forged: 200 Pass" in flaw for flaw in result.flaws())

    def test_running_out_of_requests_spoils_a_run(self) -> None:
        with check.constant() as (port, _), Load(Traffic(8, 40, 4), port, CONSTANT_ANSWER, processes=1) as load:
            load.prepare(8)
            load.connect()
            result = load.closed(0.0, 1.0)
            load.finish()
        assert "ran out" in " ".join(result.flaws())

    def test_wrk_is_understood(self) -> None:
        requires("wrk", package="wrk")
        row = check.wrk("free", check.SMOKE)
        assert row.requests_per_s > 0 and row.latency_us_p99 >= row.latency_us_p50 > 0

    @pytest.mark.parametrize(("printed", "us"), [("50%  731.00us", 731), ("50%    1.25ms", 1250), ("50%    2.00s ", 2_000_000)])
    def test_units_of_wrk(self, printed: str, us: int) -> None:
        assert check._us(printed, "50%") == us

    def test_histograms_add_up(self) -> None:
        both = histogram.add([histogram.encode([1_000_000] * 99), histogram.encode([500, 50_000_000])])
        assert both.get_total_count() == 101
        summary = histogram.summary(both)
        assert summary["p50_us"] == pytest.approx(1000, rel=0.001)
        assert summary["max_us"] == pytest.approx(50_000, rel=0.001)
        assert histogram.summary(histogram.empty()) == {}


@pytest.fixture(scope="module")
def small_stage() -> Any:
    size = scans.SMOKE
    with testbed.Testbed(Traffic(11, size.tags, size.connections, MIX)) as made:
        yield made


def test_connections_to_the_peers_have_the_congestion_control_of_ixfast() -> None:
    kernel = Path("/proc/sys/net/ipv4")
    names = "available_" if os.geteuid() == 0 else "allowed_", ""  # the kernel lets only root choose any that it has
    usable, default = ((kernel / f"tcp_{name}congestion_control").read_text().split() for name in names)
    expected = "cubic" if "cubic" in usable else default[0]
    with listen(0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode() == expected


class TestScans:
    @pytest.mark.parametrize(
        "name", ["ixfast", "ixfast_unix", "aiohttp_constant", "uvloop_constant", "uvloop_constant_unix", "aiohttp_asyncpg"]
    )
    def test_every_verdict_and_the_audit(self, small_stage: testbed.Testbed, name: str) -> None:
        run = scans.measure(small_stage, http_contenders()[name], scans.SMOKE, 1)
        assert run.flaws == [] and run.good
        assert sum(run.answered.values()) > 0
        if "_constant" not in name:
            assert run.audit["problems"] == []
            assert run.audit["passes_in_database"] == run.audit["passes_acknowledged"] > scans.SMOKE.tags

    def test_the_ledger_alone(self, small_stage: testbed.Testbed) -> None:
        run = scans.measure_ledger(small_stage, scans.SMOKE, 1, 16)
        assert run.good and run.audit["passes_in_database"] == run.answered["genuine"] > 0

    def test_the_audit_finds_what_is_wrong(self, small_stage: testbed.Testbed) -> None:
        """The control: a pass that was never acknowledged, a missing log row, a counter that went back."""
        traffic = small_stage.traffic
        fleet = fleet_of(traffic)
        spoil = (
            "UPDATE tag_counter SET last_position = (1 << 24) + 7, scan_count = 2 WHERE tag_id ="
            f" (SELECT tag_id FROM tag WHERE xuid = '{fleet.xuid(3)}')"
        )
        with small_stage.database(testbed.IXFAST_DATABASE) as dsn:
            clean = small_stage.run(dsn, lambda connection: database_audit.of_ixfast(connection, traffic, {}))
            assert clean.problems == []
            small_stage.run(dsn, lambda connection: connection.execute(spoil))
            for held, word in (({}, "0 passes acknowledged"), ({3: (2, 9, 0)}, "last acknowledged counter is 9")):
                spoilt = small_stage.run(dsn, lambda connection, h=held: database_audit.of_ixfast(connection, traffic, h))
                assert word in spoilt.problems[0]
                assert "2 passes counted, 0 logged" in spoilt.problems[-1]

    def test_a_contender_that_fails_leaves_the_others_their_turn(self, small_stage: testbed.Testbed) -> None:
        broken = http_contenders()["aiohttp_constant"]._replace(name="broken", serve=_unservable)
        good = http_contenders()["aiohttp_constant"]
        runs = list(scans.run_all(small_stage, [broken, good], scans.SMOKE, with_ledger=False))
        assert [(run.contender, run.good) for run in runs] == [("broken", False), ("aiohttp_constant", True)]
        assert "does not start" in runs[0].flaws[0]

    def test_the_table_has_medians_and_ratios_of_one_repetition(self) -> None:
        runs = []
        for repetition, own, other in ((1, 100.0, 10.0), (2, 200.0, 40.0), (3, 300.0, 20.0)):
            runs += [scans.Run("ixfast", repetition, own, own), scans.Run("aiohttp_asyncpg", repetition, other, other)]
        runs.append(scans.Run("ixfast", 4, 9e9, 9e9, flaws=["something"]))
        text = scans.table(runs, {"ixfast": "ixfast", "aiohttp_asyncpg": "peer"})
        assert "| ixfast | 3 | 200 (100 to 300) | 200 (100 to 300) |" in text
        assert "10.00 (5.00 to 15.00)" in text


def _unservable(*_: object) -> Any:
    raise scans.ContenderError("it does not start")


class TestLatency:
    def test_sweep_audit_and_plots(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert latency.main(["--smoke", "--results", str(tmp_path)]) == 0
        assert "the audit clean" in capsys.readouterr().out
        (line,) = (tmp_path / latency.HISTORY).read_text().splitlines()
        record = json.loads(line)
        assert [point["fraction"] for point in record["points"]] == list(latency.SMOKE.fractions)
        for point in record["points"]:
            kept = histogram.add([point["histogram"].encode()])
            assert kept.get_total_count() == point["answered"] + point["not_sent"] > 0
        assert record["environment"]["core"] and record["environment"]["postgres"]["fsync"] == "on"
        drawn = list(tmp_path.glob("*.svg"))
        assert len(drawn) == 2
        for path in drawn:
            assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")

    def test_lines_stay_inside_the_chart(self) -> None:
        points = [(0, 0.5), (2, 5000)]
        (axes,) = plots.lines("<t>", "x", "y", {"a & b": points}, ORIGIN, log=True).axes
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert all(left <= x <= right and bottom <= y <= top for x, y in points)
        assert [tuple(point) for point in axes.lines[0].get_xydata()] == points

    def test_every_plot_names_machine_commit_and_capacity(self, tmp_path: Path) -> None:
        drawn = []
        for name in ("first", "second"):
            plots.write(plots.lines("<t>", "x", "y", {"a & b": [(0, 1), (2, 3)]}, ORIGIN), tmp_path / name)
            drawn.append((tmp_path / name).read_text())
        assert drawn[0] == drawn[1]
        text = " ".join(ElementTree.fromstring(drawn[0]).itertext())
        assert all(part in text for part in ("<t>", "a & b", "2 x Some CPU", "commit abc123", "capacity 40,000 requests/s"))


class TestTiming:
    def test_every_kind_is_told_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The bodies of the server and of its control are identical; the times of so few samples are not evaluated."""
        assert timing.main(["--smoke"]) == 0
        shown = capsys.readouterr().out
        assert shown.count("responses: identical") == 2
        assert shown.count("unknown / foreign") == 4

    def test_a_difference_is_found_and_noise_is_none(self) -> None:
        dice = random.Random(4)
        noisy = {kind: array("q", [int(dice.gauss(500_000, 50_000)) for _ in range(4000)]) for kind in timing.KINDS}
        samples = {(asked, kind): noisy[kind] for asked in timing.ASKED for kind in timing.KINDS}
        assert timing.compare(samples) < timing.THRESHOLD
        samples["again", "foreign"] = array("q", [value + 10_000 for value in noisy["foreign"]])
        assert timing.compare(samples) > timing.THRESHOLD

    def test_a_difference_that_rare_delays_hide_is_found(self) -> None:
        dice = random.Random(5)
        delays = [dice.choice([0] * 40 + [50_000_000]) for _ in range(8000)]
        one = array("q", [int(dice.gauss(500_000, 20_000)) + delay for delay in delays[:4000]])
        other = array("q", [int(dice.gauss(505_000, 20_000)) + delay for delay in delays[4000:]])
        assert abs(timing.welch(one, other)) < timing.THRESHOLD
        assert abs(timing.welch(*timing.cropped(one, other, 95))) > timing.THRESHOLD


class TestMicro:
    @pytest.mark.parametrize("module", suite.MODULES.values(), ids=suite.MODULES.keys())
    def test_results_are_the_same_every_time(self, module: ModuleType) -> None:
        for step in module.STEPS:
            assert measure(step, SMOKE).digest == measure(step, SMOKE).digest

    def test_results_are_those_that_are_known(self) -> None:
        """Change these only together with the result of a scan: a build with other hashes is not the same build made faster."""
        found = {step.name: measure(step, SMOKE).digest for module in suite.MODULES.values() for step in module.STEPS}
        assert {name: found[name] for name in KNOWN} == KNOWN

    def test_audits_by_one_process_and_by_two_agree(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert audited_files.main(["--smoke"]) == 0
        shown = capsys.readouterr().out
        assert all(shown.count(name) == 2 for name in audited_files.FILES)

    def test_a_step_that_changes_its_mind_is_refused(self) -> None:
        answers = iter(range(100))
        with pytest.raises(RuntimeError, match="different results"):
            measure(Step("fickle", lambda _: lambda: [next(answers)]), Size(1, 3))


KNOWN = {
    "recognise a hot request": "336b21e6d138d697",
    "read its query": "47ec593881edac09",
    "Catalogue.find by tag code": "bf654960e631da37",
    "1 rule": "0b83586f83d7e30a",
    "a typical rule set": "c0a81bcae7a4d037",
    "body of /v1/t": "916f9ab2fbe37400",
    "engine, genuine taps": "dfc8b959862fc20c",
    "engine, forged taps": "9be0e75456fd5263",
}


def test_front_page() -> None:
    shown = subprocess.run([sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name in shown.stdout for name in ("scans", "latency", "generator", "timing", "micro"))
