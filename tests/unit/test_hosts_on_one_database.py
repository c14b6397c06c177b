"""The benchmark of workers and hosts on one database: its smoke size, its model, wait events and pinning."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import eventually, eventually_sync

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

for _library in ("hdrh", "matplotlib"):
    pytest.importorskip(_library, reason=f"{_library} is not installed: it is in the dependency group `bench`")

from benchmarks import cost_model, environment, figures, hosts, report, wait_events  # noqa: E402
from benchmarks.cost_model import Cost, Model  # noqa: E402
from benchmarks.load.traffic import Plan, Traffic, with_strangers  # noqa: E402
from benchmarks.processes import pinned  # noqa: E402
from benchmarks.testbed import IXFAST_DATABASE, Testbed  # noqa: E402


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hosts.main(["--smoke", "--results", str(tmp_path)]) == 0
    assert "the audit clean" in capsys.readouterr().out
    (record,) = environment.newest(hosts.HISTORY, tmp_path)
    assert [point["name"] for point in record["points"]] == [layout.name for layout in hosts.LAYOUTS]
    for point in record["points"]:
        assert point["requests_per_s"] > 0 and point["rows_a_statement"] >= 1
        assert point["waits"][wait_events.SAMPLES] > 0 and point["waits"][wait_events.IDLE] > 0
    text = hosts.table(record)
    assert "fitted" in text and "predicted" in text and "busy connections wait for" in text
    assert len(hosts.ratios(record["points"])) == 1
    assert list(tmp_path.glob("hosts-*-costs.svg")) and "hosts" in report.tables_of(tmp_path)


def test_hosts_share_no_tag() -> None:
    shared = Traffic(5, 61, 4)
    seen: list[int] = []
    for host in range(2):
        traffic = hosts.traffic_of(shared, 2, host)
        assert traffic.plans == shared.plans and traffic.strangers_from == shared.strangers_from
        for index in range(traffic.plans):
            seen += Plan(traffic, index, with_strangers(traffic)).own_tags
    assert sorted(seen) == list(range(60))


def point(name: str, repetition: int, server: float, postgres: float, scans: float, **more: Any) -> dict[str, Any]:
    layout = next(each for each in hosts.LAYOUTS if each.name == name)
    figures_of = {"requests_per_s": 10_000.0, "generator_cpu_us": 5.0, "waits": {}, "flaws": []}
    costs = {"server_cpu_us": server, "postgres_cpu_us": postgres, "rows_a_statement": scans}
    return {"repetition": repetition, **layout._asdict(), **figures_of, **costs, **more}


RECORD = {
    "session": "1",
    "environment": {},
    "cores": {"server": 1, "all": 2},
    "size": {"connections": 256},
    "points": [
        point("1 worker", 1, 12.0, 6.0, 128),
        point(hosts.ONE_HOST, 1, 14.0, 8.0, 64),
        point(hosts.TWO_HOSTS, 1, 15.0, 9.2, 64),
        point(hosts.ONE_HOST, 2, 20.0, 20.0, 64, flaws=["wrong"]),
        point(hosts.TWO_HOSTS, 2, 20.0, 20.0, 64),
    ],
}


class TestModel:
    def test_parts_of_a_cost_are_found_again(self) -> None:
        true = Cost(7.7, 136.0)
        found = cost_model.fit([(scans, true.at(scans)) for scans in (16, 61, 128)])
        assert found.per_scan == pytest.approx(7.7) and found.per_statement == pytest.approx(136)

    def test_no_part_is_negative(self) -> None:
        assert cost_model.fit([(64, 5.0), (128, 9.0)]) == Cost(7.0, 0.0)
        assert cost_model.fit([(1, 10.0), (2, 1.0)]).per_scan == 0.0
        assert cost_model.fit([(64, 5.0)]) == Cost(5.0, 0.0)

    def test_what_limits_the_rate(self) -> None:
        model = Model(Cost(10.0, 0.0), Cost(10.0, 0.0), 5.0, 0.5)
        assert model.predict(1, 256, 1, own_core=True).requests_per_s == pytest.approx(50_000)  # the shared core
        assert model.predict(1, 256, 8, own_core=True).requests_per_s == pytest.approx(100_000)  # the only worker
        assert model.predict(8, 256, 16, own_core=True).requests_per_s == pytest.approx(200_000)  # the generator
        assert model.predict(2, 256, 2, own_core=False).requests_per_s == pytest.approx(80_000)  # all of them share
        assert model.predict(2, 256, 2, own_core=False).scans == 64 and model.predict(9, 4, 2, own_core=False).scans == 1
        assert model.on(4, 64) == (2, pytest.approx(200_000))

    def test_is_fitted_to_two_layouts_and_checked_with_another(self) -> None:
        model = hosts.fitted(RECORD)
        assert model is not None and model.share == pytest.approx(0.5)
        assert model.server.at(128) == pytest.approx(12) and model.postgres.at(64) == pytest.approx(8)
        predicted = hosts.predicted(RECORD, model)[hosts.TWO_HOSTS]
        assert (predicted.scans, predicted.cost_us) == (pytest.approx(64), pytest.approx(22))
        (row,) = (line for line in hosts.table(RECORD).splitlines() if line.startswith(f"| {hosts.TWO_HOSTS} | predicted"))
        assert "| 14.0 / 17.5 | 8.0 / 14.6 | -31% |" in row

    def test_without_a_good_run_there_is_none(self) -> None:
        assert hosts.fitted({**RECORD, "points": [point("1 worker", 1, 1.0, 1.0, 1, flaws=["wrong"])]}) is None


def test_two_hosts_are_compared_within_a_repetition(tmp_path: Path) -> None:
    assert hosts.ratios(RECORD["points"]) == [pytest.approx(1.1)]
    environment.remember(hosts.HISTORY, RECORD, tmp_path)
    (row,) = (each for each in figures.all_figures(tmp_path) if each.name.startswith("cost of a scan, two hosts'"))
    assert row.state == "reached" and row.values == [pytest.approx(1.1)]


class TestWaitEvents:
    @pytest.mark.parametrize(
        ("event", "cause"),
        [
            ("", wait_events.RUNNING),
            ("LWLock:WALInsert", "WAL insert"),
            ("LWLock:WALWrite", "WAL flush to disk"),
            ("IO:WALSync", "WAL flush to disk"),  # as PostgreSQL 16 and earlier write it
            ("IO:WalSync", "WAL flush to disk"),
            ("Lock:extend", "relation extension"),
            ("Lock:transactionid", "row and transaction locks"),
            ("Lock:relation", "other locks of tables and rows"),
            ("Lock:object", "NOTIFY queue"),
            ("LWLock:NotifyQueue", "NOTIFY queue"),
            ("LWLock:BufferContent", "buffers and data files"),
            ("Client:ClientRead", "client read, within a statement"),
            ("Timeout:PgSleep", wait_events.OTHER),
        ],
    )
    def test_causes(self, event: str, cause: str) -> None:
        assert wait_events.cause_of(event) == cause

    def test_shares_are_of_busy_connections(self) -> None:
        counted = {wait_events.SAMPLES: 10, wait_events.IDLE: 70, "": 15, "IO:WALSync": 10, "LWLock:WALWrite": 5}
        assert wait_events.shares(counted) == {wait_events.RUNNING: 0.5, "WAL flush to disk": 0.5}
        assert wait_events.busy(counted) == 3.0
        text = wait_events.table({"one": counted, "none": {}})
        assert "| WAL flush to disk | 50.0% | 0.0% |" in text and "| idle ones, in client read | 7.0 | 0.0 |" in text

    def test_a_connection_that_waits_for_a_row_is_seen(self) -> None:
        with Testbed(Traffic(3, 4, 1)) as testbed, testbed.database(IXFAST_DATABASE) as dsn:
            with wait_events.sampled(dsn) as counted:
                asyncio.run(_wait_for_a_row(dsn, lambda: "row and transaction locks" in wait_events.shares(dict(counted))))
            assert wait_events.shares(counted)["row and transaction locks"] > 0
            assert counted[wait_events.IDLE] + counted["Client:ClientRead"] > 0

    def test_an_error_of_the_sampler_is_raised(self) -> None:
        with pytest.raises(OSError), wait_events.sampled("postgresql://x@127.0.0.1:1/x"):
            pass


def test_changes_of_management_reach_the_database() -> None:
    newest = "SELECT generation FROM catalogue_generation"
    with Testbed(Traffic(3, 4, 1)) as testbed, testbed.database(IXFAST_DATABASE) as dsn:

        def generation() -> int:
            return int(testbed.run(dsn, lambda connection: connection.fetchval(newest)))

        before = generation()
        with hosts.changing(testbed, dsn, 0):
            assert generation() == before
        with hosts.changing(testbed, dsn, 1000):
            eventually_sync(lambda: generation() > before + 4, 60)


async def _wait_for_a_row(dsn: str, seen: Callable[[], bool]) -> None:
    """Update one row from two connections; the second waits for the first until the sampler has `seen` it."""
    update = "UPDATE tag_counter SET scan_count = scan_count WHERE tag_id = 1"
    first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        holding = first.transaction()
        await holding.start()
        await first.execute(update)
        blocked = asyncio.create_task(second.execute(update))
        await eventually(seen, 60)
        await holding.rollback()
        await blocked
    finally:
        await first.close()
        await second.close()


def test_pinned_processes_get_their_cores_back() -> None:
    everything = os.sched_getaffinity(0)
    chosen = {max(everything)}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pinned([child.pid], chosen):
            assert os.sched_getaffinity(child.pid) == chosen and os.sched_getaffinity(0) == everything
        assert os.sched_getaffinity(child.pid) == everything
        child.communicate(b"\n")
    with pinned([child.pid], chosen):
        pass  # it has ended, and there is nothing to pin
