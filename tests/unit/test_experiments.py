"""The longer benchmarks at their smallest size, the stream that drives them, and the report. No test depends on timing."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from array import array
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

for _library in ("hdrh", "matplotlib"):
    pytest.importorskip(_library, reason=f"{_library} is not installed: it is in the dependency group `bench`")

from support.requirements import requires  # noqa: E402

from benchmarks import __main__ as front_page  # noqa: E402
from benchmarks import (  # noqa: E402
    database_audit,
    environment,
    figures,
    instructions,
    keyed,
    latency,
    overload,
    plots,
    report,
    restart,
    run,
    scans,
    setting_variants,
    soak,
    stages,
)
from benchmarks.contenders import http_contenders, stage_sums  # noqa: E402
from benchmarks.experiment import BenchmarkError, Experiment  # noqa: E402
from benchmarks.ledger import hand_over, sweep  # noqa: E402
from benchmarks.load import check, drive  # noqa: E402
from benchmarks.load.drive import CONSTANT_ANSWER, SCAN_ANSWERS, Load  # noqa: E402
from benchmarks.load.stream import Sink, StreamConnection  # noqa: E402
from benchmarks.load.traffic import GENUINE, REPLAYED, Mix, Plan, Traffic, fleet_of, with_strangers  # noqa: E402
from benchmarks.micro import rules, step_timer  # noqa: E402
from benchmarks.processes import memory  # noqa: E402
from benchmarks.scale import filler, sizes  # noqa: E402
from benchmarks.testbed import Testbed  # noqa: E402
from ixfast.cli import bench, main  # noqa: E402
from ixfast.keys import KeyEncryptionKeys, KeySlot, unwrap  # noqa: E402

MIX, ALL_GENUINE = Mix(0.4, 0.2, 0.2, 0.2), Mix(1, 0, 0, 0)
PASS = b'HTTP/1.1 200 OK\r\n\r\n{"xuid":"a","response":"Pass"}'
OVERLOADED = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":"overloaded"}'
UNKNOWN_FATE = b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":"outcome_unknown"}'


class Wire:
    """A transport that records what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, sent: bytes) -> None:
        self.written.append(sent)


def stream_connection(mix: Mix = ALL_GENUINE) -> tuple[StreamConnection, Wire, Sink]:
    traffic = Traffic(4, 20, 1, mix)
    sink, wire = Sink(), Wire()
    connection = StreamConnection(Plan(traffic, 0, with_strangers(traffic)), SCAN_ANSWERS, deque(), deque(), sink, b"\n", 0)
    connection.connection_made(wire)  # type: ignore[arg-type]
    return connection, wire, sink


class TestStream:
    def test_forgets_what_was_answered_and_remembers_what_it_comes_to(self) -> None:
        connection, wire, sink = stream_connection()
        for _ in range(1000):
            connection.send(monotonic_ns())
            connection.data_received(PASS)
        connection.settle()
        assert len(set(wire.written)) == 1000 == len(sink.served_ns) == sink.passes
        assert len(connection.plan.requests) < 100
        held = connection.plan.accepted()
        assert sum(passes for passes, _, _ in held.values()) == 1000
        assert all(passes == last for passes, last, _ in held.values())

    def test_repeats_only_what_passed(self) -> None:
        """Half of the taps are refused; none of those may be replayed, or a correct response would count as wrong."""
        connection, wire, _ = stream_connection(Mix(0.5, 0.5, 0, 0))
        passed: set[bytes] = set()
        replays = 0
        for number in range(2000):
            connection.send(monotonic_ns())
            request, kind = wire.written[-1], connection.plan.kinds[connection.at]
            if kind == REPLAYED:
                replays += 1
                assert request in passed
                connection.data_received(PASS.replace(b"Pass", b"Fail"))
            elif number % 2:
                connection.data_received(OVERLOADED)
            else:
                assert kind == GENUINE
                passed.add(request)
                connection.data_received(PASS)
        assert replays > 500

    def test_counts_answers_without_a_verdict_apart(self) -> None:
        connection, _, sink = stream_connection()
        for answer in (PASS, OVERLOADED, UNKNOWN_FATE, PASS.replace(b"Pass", b"Fail")):
            connection.send(monotonic_ns())
            connection.data_received(answer)
        connection.settle()
        taken = sink.drain(0, 1.0, 4, 0, 0.0)
        assert (taken.sent, taken.served, taken.passes) == (4, 1, 1)
        assert taken.refused == {"overloaded": 1, "outcome_unknown": 1}
        assert taken.wrong == {"genuine: 200 Fail": 1}
        assert len(array("I", taken.latency)) == 1 and len(array("I", taken.refusal_latency)) == 2
        # An overloaded tap was certainly not consumed; the fate of the other is unknown.
        assert sum(uncertain for _, _, uncertain in connection.plan.accepted().values()) == 1

    def test_tells_every_interval_and_all_arrivals(self) -> None:
        with check.constant() as (port, counted), Load(Traffic(8, 40, 4), port, CONSTANT_ANSWER, processes=2) as load:
            load.connect()
            seen = list(load.stream(400.0, 1.0, 0.25))
            load.finish()
        assert [each.number for each in seen] == [0, 1, 2, 3]
        sent = sum(each.sent for each in seen)
        assert 0 < sent <= counted["answered"] <= 400
        assert sum(each.served for each in seen) <= sent
        assert not any(each.wrong or each.refused for each in seen)

    def test_arrivals_that_find_no_connection_give_up(self) -> None:
        """When the server stalls for longer than they may wait, arrivals are counted instead of being sent late."""
        with check.constant(stall_ms=600, stall_after=20) as (port, _), Load(Traffic(8, 40, 2), port, CONSTANT_ANSWER) as load:
            load.connect()
            seen = list(load.stream(300.0, 1.5, 0.5, patience_s=0.1))
            load.finish()
        assert sum(each.gave_up for each in seen) > 20

    def test_a_wrong_answer_is_found(self) -> None:
        """The control: a server that passes everything."""
        with check.constant() as (port, _), Load(Traffic(8, 40, 4, MIX), port, SCAN_ANSWERS) as load:
            load.connect()
            seen = list(load.stream(400.0, 0.5, 0.5))
            load.finish()
        assert seen[0].wrong["forged: 200 Pass"] > 0


class TestTraffic:
    def test_tags_are_spread_and_begin_where_they_stopped(self) -> None:
        traffic = Traffic(3, 10, 2, Mix(1, 0, 0, 1), stride=100, registered=5000, first_counter=50, offset=7)
        fleet = with_strangers(traffic)
        made = [Plan(traffic, index, fleet) for index in range(2)]
        for plan in made:
            plan.append_each_tag_once(b"\n")
            plan.append(50, b"\n")
        genuine = {(tag, n) for p in made for tag, n, k in zip(p.tags, p.counters, p.kinds, strict=True) if k == GENUINE}
        assert {tag for tag, _ in genuine} == {7 + 100 * i for i in range(10)}
        assert min(counter for _, counter in genuine) == 51
        strangers = [tag for p in made for tag, k in zip(p.tags, p.kinds, strict=True) if k != GENUINE]
        assert min(strangers) >= 5000 == len(fleet_of(traffic))


class TestExperiments:
    def test_of_an_overload_that_was_broken_off_nothing_is_told(self) -> None:
        assert overload.figures({"points": []}) == {}

    def test_keyed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert keyed.main(["--smoke", "--results", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert all(f"| {variant} |" in shown for variant in keyed.VARIANTS)
        (record,) = environment.newest(keyed.HISTORY, tmp_path)
        assert {point["way"] for point in record["points"]} == set(keyed.VARIANTS)
        assert min(point["answers_per_s"] for point in record["points"]) > 0

    def test_overload(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert overload.main(["--smoke", "--results", str(tmp_path)]) == 0
        assert "the audit clean" in capsys.readouterr().out
        (record,) = environment.newest(overload.HISTORY, tmp_path)
        assert [point["fraction"] for point in record["points"]] == list(overload.SMOKE.fractions)
        assert record["audit"]["passes_in_database"] >= record["audit"]["passes_acknowledged"] > overload.SMOKE.tags
        assert overload.table(record).count("\n") >= 4
        assert list(tmp_path.glob("overload-*-timeline.svg"))

    def test_restart(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for attempt in range(3):  # on a busy machine the warm server may be late, but never wrong
            folder = tmp_path / str(attempt)
            status = restart.main(["--smoke", "--results", str(folder)])
            (record,) = environment.newest(figures.RESTART, folder)
            if status == 0:
                break
            assert all("so its p99 is that of a queue" in flaw or "interrupted" in flaw for flaw in record["flaws"])
        assert status == 0 and "the audit clean" in capsys.readouterr().out
        cached = [each["cached"] for each in record["seconds"]]
        # The first server knew all tags; the second began with none and fetched those that were tapped.
        assert record["cached_when_warm"] == restart.SMOKE.tags
        assert 0 < cached[0] <= cached[-1] < restart.SMOKE.tags and record["seconds"][0]["rounds"] > 0
        assert record["audit"]["passes_in_database"] >= record["audit"]["passes_acknowledged"] > restart.SMOKE.tags
        assert "| 3 |" in restart.table(record) and len(list(folder.glob("restart-*.svg"))) == 2
        assert "restart" in report.tables_of(folder)

    def test_soak_keeps_every_sample(self, tmp_path: Path) -> None:
        for attempt in range(3):  # on a busy machine a run may be late, but never wrong
            status = soak.main(["--smoke", "--results", str(tmp_path / str(attempt))])
            (record,) = environment.newest(soak.HISTORY, tmp_path / str(attempt))
            assert not any(sample.get("wrong") for sample in record["samples"]) and not record["audit"]["problems"]
            late = sum(sample.get("gave_up", 0) + sum(sample.get("refused", {}).values()) for sample in record["samples"])
            assert status == (1 if late else 0)
            if not late:
                break
        else:
            pytest.fail("each of three runs was late: this machine is too busy for this test")
        assert record["rate_per_s"] == record["capacity"] * soak.SMOKE.rate_fraction > 0
        results = tmp_path / str(attempt)
        (kept,) = results.glob("soak-*.jsonl")
        lines = [json.loads(line) for line in kept.read_text().splitlines()]
        assert lines[:-1] == record["samples"] and "audit" in lines[-1]
        last = record["samples"][-1]
        assert last["hot_updates"] <= last["updates"] and last["counter_table"] > 0
        assert len(last["worker_rss"]) == soak.SMOKE.workers and min(last["worker_rss"]) > 1 << 20
        assert last["http_connections"] == soak.SMOKE.connections
        # On a busy machine, what every connection had sent last passes after the last sample.
        assert 0 <= record["audit"]["passes_in_database"] - last["passes"] <= soak.SMOKE.connections
        for drawn in results.glob("soak-*.svg"):
            assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")

    def test_scale_measures_every_size_and_keeps_it(self, tmp_path: Path) -> None:
        with tempfile.TemporaryDirectory() as kept:  # the user that runs PostgreSQL cannot read pytest's folders
            Path(kept).chmod(0o711)
            arguments = ["--smoke", "--results", str(tmp_path), "--keep", str(Path(kept) / "here"), "--sizes", "1500"]
            assert sizes.main(arguments) == 0
            assert sizes.main(arguments) == 0  # the databases were reset, so the audit is clean again
        first, second = environment.history(figures.SCALE, tmp_path)
        assert first["sizes"]["1500"]["filled_s"] > 0 and "filled_s" not in second["sizes"]["1500"]
        for record in (first, second):
            found = record["sizes"]["1500"]
            assert {"start_s", "cold_passes_per_s", "warm_passes_per_s", "cached_tag_bytes"} <= found.keys()
        assert "1,500" in sizes.table(second)

    def test_handing_scans_over(self, tmp_path: Path) -> None:
        assert hand_over.main(["--smoke", "--rows", "4", "--repetitions", "1", "--results", str(tmp_path)]) == 0
        (record,) = environment.newest(hand_over.HISTORY, tmp_path)
        assert [point["rows"] for point in record["points"]] == [4, 8]
        assert "\n| 4 |" in hand_over.table(record)

    def test_instructions(self, tmp_path: Path) -> None:
        if platform.machine() != "x86_64":
            pytest.skip("valgrind supports the AES instructions of x86-64 only")
        requires("valgrind", package="valgrind")
        assert instructions.main(["--smoke", "--results", str(tmp_path)]) == 0
        (record,) = environment.newest(instructions.HISTORY, tmp_path)
        (step,) = record["steps"]
        assert step["name"] == "request bytes to response bytes, mixed taps"
        assert 1_000 < step["instructions"] < 10_000_000  # those of the start are a thousand million

    def test_instructions_need_valgrind(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        assert instructions.main(["--smoke"]) == 2
        assert capsys.readouterr().err == "valgrind is not installed: apt-get install valgrind\n"

    def test_ledger_and_knobs(self, tmp_path: Path) -> None:
        assert sweep.main(["--smoke", "--results", str(tmp_path)]) == 0
        assert "| 16 |" in sweep.table(environment.newest(sweep.HISTORY, tmp_path)[-1])
        assert setting_variants.main(["--smoke", "--results", str(tmp_path), "--only", "2 committers"]) == 0
        (record,) = environment.newest(setting_variants.HISTORY, tmp_path)
        assert [point["knob"] for point in record["points"]] == ["default", "2 committers"]
        assert "| 2 committers | 1 |" in setting_variants.table(record)

    def test_an_interruption_keeps_what_was_found(self, tmp_path: Path) -> None:
        experiment = Experiment(argparse.ArgumentParser(), "trial.jsonl", ["--accept-disturbed", "--results", str(tmp_path)])
        record: dict[str, Any] = {"session": experiment.session, "environment": {}, "samples": []}
        with experiment.interruptible():
            record["samples"].append(1)
            raise KeyboardInterrupt
        assert experiment.end(record, ["it was interrupted"]) == 1
        (kept,) = environment.newest("trial.jsonl", tmp_path)
        assert kept["samples"] == [1] and kept["interrupted"] is True

    def test_smoke_results_stay_out_of_the_history(self) -> None:
        folders = [environment.folder(argparse.Namespace(results=None, smoke=smoke)) for smoke in (False, True)]
        assert folders == [environment.RESULTS, environment.RESULTS / "smoke"]


def seconds_of(*p99_ms: float, **more: Any) -> list[dict[str, Any]]:
    usual = {"seconds": 1.0, "due": 100, "served": 100, "refused": {}, "gave_up": 0}
    return [{**usual, "latency": {"p99_us": 1000 * each}, **more} for each in p99_ms]


class TestRestart:
    def test_p99_is_normal_from_the_first_of_several_normal_seconds(self) -> None:
        assert restart.normal_after_s(seconds_of(9, 9, 3, 9, 3, 2, 3, 9), 2000, 3) == 4.0
        assert restart.normal_after_s(seconds_of(3, 3), 2000, 2) == 0.0
        assert restart.normal_after_s(seconds_of(9, 3, 3.1, 3), 2000, 2) is None
        assert restart.normal_after_s(seconds_of(9, 3), 2000, 2) is None

    def test_a_second_with_refusals_is_not_normal(self) -> None:
        for more in ({"refused": {"overloaded": 1}}, {"gave_up": 1}, {"latency": {}}):
            seconds = [*seconds_of(1), *seconds_of(1, **more), *seconds_of(1, 1)]
            assert restart.normal_after_s(seconds, 2000, 2) == 2.0

    def test_a_warm_server_that_cannot_carry_the_rate_is_not_a_reference(self) -> None:
        assert restart.reference_us(seconds_of(1, 2, 9)) == 2000
        for more in ({"gave_up": 3}, {"refused": {"overloaded": 3}}, {"latency": {}}):
            with pytest.raises(BenchmarkError, match="lower --rate-fraction"):
                restart.reference_us(seconds_of(1, 2, **more))

    def test_the_figure_says_never(self, tmp_path: Path) -> None:
        name = "until p99 is normal after a restart, 1,000,000 active tags"
        for session, value, shown in (("1", 12.0, "12.0 s"), ("2", None, "never s")):
            record = {"session": session, "environment": {}, "normal_after_s": value}
            environment.remember(figures.RESTART, record, tmp_path)
            rows = {each.name: each.row() for each in figures.all_figures(tmp_path)}
            assert rows[name].startswith(f"| {name} | {shown} |")


class TestFullContender:
    def test_every_verdict_with_rules_and_a_token(self) -> None:
        size = scans.SMOKE
        with Testbed(Traffic(12, size.tags, size.connections, MIX)) as testbed:
            contender = http_contenders()["ixfast_full"]
            done = scans.measure(testbed, contender, size, 1)
            assert done.flaws == [] and done.good
            # The control: without the token the tags do not exist, so it is really required.
            closed = scans.measure(testbed, contender._replace(headers=lambda _: b""), size, 1)
            assert any("genuine: 404 not_found" in flaw for flaw in closed.flaws)


class TestPreparedRequests:
    def test_a_run_that_is_faster_than_expected_is_prepared_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drive, "_DOUBLINGS_MAX", 14)
        size = scans.SMOKE
        with Testbed(Traffic(13, size.tags, size.connections, MIX)) as testbed:
            contender = http_contenders()["ixfast"]._replace(usual_requests_per_s=size.connections)
            run = scans.measure(testbed, contender, size, 1)
            assert run.good, run.problems

    def test_a_run_that_stays_too_fast_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(drive, "_DOUBLINGS_MAX", 0)
        size = scans.SMOKE
        with Testbed(Traffic(14, size.tags, size.connections, MIX)) as testbed:
            contender = http_contenders()["ixfast"]._replace(usual_requests_per_s=size.connections)
            assert any("ran out" in flaw for flaw in scans.measure(testbed, contender, size, 1).flaws)


class TestFiller:
    def test_rows_are_those_of_the_product(self, tmp_path: Path) -> None:
        """The last tag, created with COPY, looks like the first, created by the product; the indexes are the same as before."""
        count = filler.FIRST_TAGS + 300

        async def rows(connection: Any) -> Any:
            shape = await connection.fetch(
                "SELECT t.tag_id, t.xuid, t.uid, t.account_id, t.group_id, t.batch_id, t.active, k.live, k.slot, k.version,"
                " k.kek_id, k.wrapped, k.check_value, c.last_position, c.scan_count"
                " FROM tag AS t JOIN tag_key AS k USING (tag_id) JOIN tag_counter AS c USING (tag_id)"
                " WHERE t.tag_id IN (1, $1) ORDER BY t.tag_id",
                count,
            )
            total = await connection.fetchval("SELECT count(*) FROM tag JOIN tag_counter USING (tag_id)")
            following = await connection.fetchval("SELECT nextval(pg_get_serial_sequence('tag', 'tag_id'))")
            return shape, total, following

        async def indexes(connection: Any) -> set[str]:
            return {
                row["indexdef"] for row in await connection.fetch("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'")
            }

        with Testbed(Traffic(5, 10, 1)) as testbed:
            reported: list[str] = []

            def fill(dsn: str) -> None:
                filler.fill(dsn, testbed.kek_file, 5, count, processes=1, progress=reported.append)

            def fill_few(dsn: str) -> None:
                filler.fill(dsn, testbed.kek_file, 5, 10, processes=1, progress=reported.append)

            dsn, made = testbed.make("filled", fill)
            few, _ = testbed.make("few", fill_few)
            assert made and testbed.make("filled", fill) == (dsn, False)
            (first, last), total, following = testbed.run(dsn, rows)
            assert (total, following) == (count, count + 1)
            assert testbed.run(dsn, indexes) == testbed.run(few, indexes)
            tags, kek = filler.fleet(5, count), KeyEncryptionKeys.load_file(testbed.kek_file).current
        for row, place in ((first, 0), (last, count - 1)):
            assert (row["xuid"], row["uid"]) == (tags.xuid(place), tags.uid(place))
            opened = unwrap(
                kek, row["wrapped"], account_id=row["account_id"], tag_id=row["tag_id"], slot=KeySlot.FILE, version=row["version"]
            )
            assert opened == tags.file_key(place)
        own = {"tag_id", "xuid", "uid", "wrapped", "check_value"}
        assert {k: v for k, v in first.items() if k not in own} == {k: v for k, v in last.items() if k not in own}


def test_the_audit_of_many_tags_finds_a_pass_too_much_in_the_log() -> None:
    """The control: the log has a row for a tag whose scans were never counted."""
    size = scans.SMOKE
    with Testbed(Traffic(13, size.tags, size.connections)) as testbed, testbed.database("bench_ixfast") as dsn:
        spoil = "INSERT INTO scan_log SELECT now(), 1, tag_id, 7, 'g' FROM tag_counter ORDER BY tag_id LIMIT 1"
        partition = (
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'scan_log'::regclass) THEN"
            " CREATE TABLE scan_log_all PARTITION OF scan_log DEFAULT; END IF; END $$"
        )
        testbed.run(dsn, lambda connection: connection.execute(f"{partition}; {spoil}"))
        found = testbed.run(dsn, lambda connection: database_audit.of_ixfast(connection, testbed.traffic, {}))
        assert "0 passes counted, 1 logged" in found.problems[-1]


class TestReport:
    def test_figures_say_what_was_missed_and_what_is_unknown(self, tmp_path: Path) -> None:
        machine = {"cpus": 2, "cpu": "c", "kernel": "k", "python": "p", "core": "native"}
        made = {"session": "1", "environment": {"at": "now", "commit": "abc", **machine}}
        for repetition, ours, constant in ((1, 20_000.0, 10_000.0), (2, 30_000.0, 10_000.0)):
            for name, requests, passes in (("ixfast", ours, ours), ("aiohttp_constant", constant, 0.0)):
                record = {**made, "contender": name, "repetition": repetition, "requests_per_s": requests, "passes_per_s": passes}
                environment.remember(scans.HISTORY, record, tmp_path)
        rows = {each.name: each.row() for each in figures.all_figures(tmp_path)}
        assert rows["durable genuine scans through HTTP"].endswith(
            "| 25,000 (20,000 to 30,000) /s | 72,000 | 85,000 | **missed** |"
        )
        assert rows["÷ aiohttp with a constant response"].endswith("| 2.5 (2 to 3) | 1.2 | 1.45 | aim reached |")
        assert rows["LRP verify"].endswith("not measured |")
        assert rows["decide a typical rule set"].endswith("| - | 150 | not measured |")
        size = step_timer.Size(50, 2)
        steps = [{"title": rules.TITLE, **step._asdict()} for step in step_timer.report(rules.TITLE, rules.STEPS, size)]
        environment.remember(figures.MICRO, {**made, "core": [], "lrp": [], "steps": steps}, tmp_path)
        (decided,) = (each.values for each in figures.all_figures(tmp_path) if each.name == "decide a typical rule set")
        assert decided == [step["ns_median"] for step in steps if step["name"] == rules.TYPICAL]
        tables = report.tables_of(tmp_path)
        document = "a\n<!-- benchmark figures -->\nstale\n<!-- end -->\nb\n<!-- benchmark soak -->\nkept\n<!-- end -->\n"
        filled = report.into(document, tables)
        assert "stale" not in filled and "**missed**" in filled and "kept" in filled
        assert report.into(filled, tables) == filled
        assert report.main(["--results", str(tmp_path)]) == 0
        assert "## Durable scans per second" in (tmp_path / "report.md").read_text()

    def test_results_of_one_commit_fill_several_documents(self, tmp_path: Path) -> None:
        machine = {"cpus": 2, "cpu": "c", "kernel": "k", "python": "p", "core": "native"}
        for session, commit, rate in (("1", "abc", 11_000.0), ("2", "def", 22_000.0)):
            made = {"session": session, "environment": {"at": "now", "commit": commit, **machine}}
            record = {**made, "contender": "ixfast", "repetition": 1, "requests_per_s": rate, "passes_per_s": rate}
            environment.remember(scans.HISTORY, record, tmp_path)
        documents = [tmp_path / "one.md", tmp_path / "other.md"]
        for commit, rate, absent in (("abc", "11,000", "22,000"), ("def", "22,000", "11,000")):
            for name, document in zip(("scans", "figures"), documents, strict=True):
                document.write_text(f"before\n<!-- benchmark {name} -->\nstale\n<!-- end -->\nafter\n")
            into = ["--into", *map(str, documents)]
            assert report.main(["--results", str(tmp_path), "--commit", commit, *into]) == 0
            for document in documents:
                text = document.read_text()
                assert rate in text and absent not in text and "stale" not in text
                assert text.startswith("before\n") and text.endswith("after\n")
        assert "scans" not in report.tables_of(tmp_path, "unknown")
        assert "22,000" in report.tables_of(tmp_path)["scans"]

    def test_every_table_is_on_one_page(self) -> None:
        pages = [ROOT / "docs" / "explanations" / name for name in ("performance.md", "experiments.md")]
        found = [name for page in pages for name in re.findall(r"^<!-- benchmark (\w+) -->$", page.read_text(), re.MULTILINE)]
        assert sorted(found) == sorted(["figures", *report.SECTIONS])

    def test_one_page_has_figures_of_one_commit(self) -> None:
        text = (ROOT / "docs" / "explanations" / "performance.md").read_text()
        tables = re.findall(r"<!-- benchmark \w+ -->\n(.*?)<!-- end -->", text, re.DOTALL)
        commits = {commit for table in tables for commit in re.findall(r", commit (\w+),", table)}
        assert len(commits) == 1 and len(tables) > 1
        for plot in re.findall(r"\]\((performance/\w+\.svg)\)", text):
            assert f"commit {min(commits)}" in (ROOT / "docs" / "explanations" / plot).read_text()

    def test_the_best_for_little_is_the_least(self) -> None:
        fast, slow = (figures.Figure("p99", "ms", 5, 2, False, [value]) for value in (1.9, 5.1))
        assert (fast.state, slow.state) == ("aim reached", "**missed**")

    def test_growth_and_drift_of_a_soak(self) -> None:
        steady = {"postgres_anonymous": 1, "database_connections": 4, "http_connections": 8, "counter_table": 5}
        samples: list[dict[str, Any]] = [
            {
                "passes": million * 1_000_000,
                "worker_rss": [60 << 20, (60 << 20) + (million << 20)],
                "latency": {"p50_us": 1, "p99_us": 9 + million},
                "counter_indexes": 2,
                **steady,
            }
            for million in range(1, 13)
        ]
        assert soak.growth(samples) == 5.0 and soak.growth(samples[:8]) is None
        drift = soak.drift(samples)
        assert drift["p99"] == 20 / 14 and drift["database connections"] == 1

    def test_overload_against_its_peak(self) -> None:
        points = [
            {"fraction": fraction, "goodput_per_s": goodput, "latency": {"p99_us": p99}}
            for fraction, goodput, p99 in ((1.0, 100.0, 10), (1.5, 80.0, 15), (3.0, 120.0, 30))
        ]
        assert overload.figures({"points": points}) == {1.5: (80 / 120, 1.5), 3.0: (1.0, 3.0)}

    def test_parts_of_the_one_run(self) -> None:
        assert {part.name for part in run.PARTS} <= front_page.BENCHMARKS.keys()
        given = argparse.Namespace(only=None, without=[], full=True)
        assert {"hosts", "restart"} <= {part.name for part in run.chosen(given)}
        assert not {part.name for part in run.chosen(argparse.Namespace(only=None, without=[], full=False))} & {
            "hosts",
            "restart",
        }
        assert run.main(["--only", "micro", "--without", "micro", "--smoke"]) == 0

    def test_bars_are_medians_with_their_range(self) -> None:
        (axes,) = plots.bars("<t>", "us", {"parse": [1.5], "core & co": [3.0, 2.0, 57.0]}, {}).axes
        assert [bar.get_width() for bar in axes.patches] == [1.5, 3.0]
        assert axes.get_xlim()[1] >= 57
        assert [label.get_text() for label in axes.get_yticklabels()] == ["parse", "core & co"]

    def test_plots_of_the_newest_results(self, tmp_path: Path) -> None:
        machine = {"cpus": 2, "cpu": "Some CPU", "at": "now", "commit": "abc", "kernel": "k", "python": "p", "core": "native"}
        point = {"fraction": 0.5, "rate_per_s": 20.0, "answered_per_s": 20.0, "not_sent": 0, "lateness": {}}
        points = [point | {"latency": {"p50_us": 900, "p99_us": 4000, "p99.9_us": 9000}}] * 2
        record = {"session": "1", "environment": machine, "capacity": 40.0, "contender": "ixfast", "points": points}
        environment.remember(latency.HISTORY, record, tmp_path)
        assert report.main(["--results", str(tmp_path), "--plots", str(tmp_path / "drawn")]) == 0
        (drawn,) = (tmp_path / "drawn").iterdir()  # the other benchmarks have no results
        assert drawn.name == "latency.svg" and "capacity 40 requests/s" in drawn.read_text()


class TestStages:
    def test_sums_of_all_workers(self) -> None:
        text = (
            'ixfast_stage_seconds_sum{stage="core",worker="0"} 1e-06\nixfast_stage_seconds_count{stage="core",worker="0"} 2.0\n'
            'ixfast_stage_seconds_sum{stage="core",worker="1"} 3e-06\nixfast_stage_seconds_count{stage="core",worker="1"} 2.0\n'
        )
        assert stage_sums(text) == {"core": (pytest.approx(4e-6), 4.0)}

    def test_stages_stand_in_the_order_of_a_scan(self) -> None:
        assert stages.in_order({"write": 1, "another": 1, "parse": 1}) == ["parse", "write", "another"]


class TestCommand:
    def test_hands_its_words_on(self) -> None:
        shown = subprocess.run([sys.executable, "-m", "ixfast", "bench", "--help"], cwd=ROOT, capture_output=True, text=True)
        assert shown.returncode == 0 and re.search(r"^  overload ", shown.stdout, re.MULTILINE)
        shown = subprocess.run(
            [sys.executable, "-m", "ixfast", "bench", "--stages", "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert "benchmarks stages" in shown.stdout

    def test_says_where_the_benchmarks_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench, "checkout", lambda: None)
        result = CliRunner().invoke(main, ["bench"])
        assert result.exit_code == 1 and "Clone it" in result.output


def test_memory_of_processes() -> None:
    (own,) = memory([os.getpid()])
    assert own["rss"] > own["anonymous"] > 1 << 20
