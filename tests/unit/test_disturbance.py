"""How disturbed the machine was during a benchmark: fabricated readings of /proc, and one real one."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

for _library in ("hdrh", "matplotlib"):
    pytest.importorskip(_library, reason=f"{_library} is not installed: it is in the dependency group `bench`")

from benchmarks import disturbance, environment, report, run, scans  # noqa: E402
from benchmarks.disturbance import Reading, Watch, between, read  # noqa: E402
from benchmarks.experiment import Experiment  # noqa: E402

OWN, KERNEL, STRANGER = 100, 2, 7
MACHINE = {"cpus": 2, "cpu": "c", "kernel": "k", "python": "p", "core": "native", "at": "now", "commit": "abc"}


class Proc:
    """A fabricated /proc of a machine with ticks to spend."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cpu = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"), 0)
        self._used: dict[int, list[int]] = {}
        self.process(1, 0, "init")
        self.process(KERNEL, 0, "kthreadd")
        self.process(OWN, 1, "python")
        self.clock(2500.0, 2400.0)
        self.spend(user=1000, idle=1000)

    def spend(self, **ticks: int) -> None:
        for name, each in ticks.items():
            self._cpu[name] += each
        (self.folder / "stat").write_text(f"cpu  {' '.join(map(str, self._cpu.values()))} 0 0\ncpu0 1 2 3\n")

    def process(self, pid: int, parent: int, name: str, used: int = 0, waited_for: int = 0, started: int = 50) -> None:
        """Create a process, or set what it has used."""
        fields = ["S", parent, *[0] * 9, used, 0, waited_for, 0, *[0] * 4, started, 0]
        (self.folder / str(pid)).mkdir(exist_ok=True)
        (self.folder / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")

    def end(self, pid: int) -> None:
        (self.folder / str(pid) / "stat").unlink()

    def clock(self, *mhz: float) -> None:
        (self.folder / "cpuinfo").write_text("".join(f"model name\t: x\ncpu MHz\t\t: {each}\n" for each in mhz))

    def read(self) -> Reading:
        return read(self.folder, OWN)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


class TestReadings:
    def test_a_quiet_machine(self, proc: Proc) -> None:
        """The run itself, its children, and kernel threads that work for it do not disturb it."""
        before = proc.read()
        proc.process(OWN, 1, "python", used=30)
        proc.process(101, OWN, "postgres (1) x", used=20)
        proc.process(102, 101, "postgres", used=10)
        proc.process(3, KERNEL, "kworker/0:0", used=5)
        proc.spend(user=40, system=20, softirq=5, idle=35)
        found = between([before, proc.read()])
        assert (found.steal, found.foreign, found.clock, found.by) == (0.0, 0.0, 0.0, {})
        assert found.reasons == []

    def test_children_that_ended_are_own(self, proc: Proc) -> None:
        proc.process(101, OWN, "postgres", used=700)
        before = proc.read()
        proc.end(101)
        proc.process(OWN, 1, "python", used=10, waited_for=750)
        proc.spend(user=60, idle=40)
        assert between([before, proc.read()]).foreign == 0.0

    def test_others_are_named(self, proc: Proc) -> None:
        proc.process(STRANGER, 1, "cc1", used=5000)
        proc.process(8, 1, "idler", used=5000)
        before = proc.read()
        proc.process(STRANGER, 1, "cc1", used=5020)
        proc.process(OWN, 1, "python", used=30)
        proc.spend(user=50, idle=50)
        found = between([before, proc.read()])
        assert found.foreign == pytest.approx(0.2) and found.by == {"cc1": pytest.approx(0.2)}
        assert found.reasons == ["other processes used 20.0% of it (limit 5%): cc1"]

    def test_others_that_lived_between_two_readings_count(self, proc: Proc) -> None:
        """A build consists of thousands of short processes."""
        before = proc.read()
        proc.spend(user=50, idle=50)
        found = between([before, proc.read()])
        assert found.foreign == pytest.approx(0.5) and found.by == {}

    def test_a_new_process_with_the_same_pid_is_another(self, proc: Proc) -> None:
        proc.process(STRANGER, 1, "old", used=10)
        before = proc.read()
        proc.process(STRANGER, 1, "new", used=4000, started=60)
        proc.spend(idle=100)
        assert between([before, proc.read()]).by == {}

    def test_steal(self, proc: Proc) -> None:
        before = proc.read()
        proc.spend(idle=97, steal=3)
        found = between([before, proc.read()])
        assert found.steal == pytest.approx(0.03)
        assert found.reasons == ["the hypervisor took 3.0% of the processor time (steal; limit 2%)"]

    def test_the_clock(self, proc: Proc) -> None:
        """That of the fastest processor at each reading: idle ones rest."""
        readings = [proc.read()]
        proc.clock(800.0, 2500.0)
        readings.append(proc.read())
        assert between(readings).clock == 0.0
        proc.clock(800.0, 2000.0)
        readings.append(proc.read())
        proc.clock(2500.0, 2500.0)
        readings.append(proc.read())
        assert between(readings).reasons == ["the clock varied by 20.0% (limit 10%)"]

    def test_a_clock_that_cannot_be_read(self, proc: Proc) -> None:
        (proc.folder / "cpuinfo").write_text("processor\t: 0\n")
        before = proc.read()
        proc.spend(idle=10)
        found = between([before, proc.read()])
        assert found.clock is None and found.reasons == [] and "clock not readable" in str(found)
        (proc.folder / "cpuinfo").unlink()
        assert proc.read().mhz is None

    def test_limits_are_exclusive(self, proc: Proc) -> None:
        before = proc.read()
        proc.spend(idle=93, steal=2, user=5)
        assert between([before, proc.read()]).reasons == []

    def test_a_real_reading(self) -> None:
        """Time of this process and of a child that ended is its own, and neither is among the others."""
        burn = "import time\nwhile time.process_time() < 0.3: pass"
        before = read()
        subprocess.run([sys.executable, "-c", burn], check=True)
        exec(burn.replace("0.3", str(time.process_time() + 0.3)))
        after = read()
        assert (after.own - before.own) / os.sysconf("SC_CLK_TCK") > 0.5
        assert after.total >= after.busy >= after.own > 0
        assert os.getpid() not in {pid for pid, _ in after.others} and os.getppid() in {pid for pid, _ in after.others}
        found = between([before, after])
        assert 0 <= found.steal <= 1 and 0 <= found.foreign <= 1


def disturbed(proc: Proc) -> None:
    proc.spend(user=50, idle=50)


class TestWatch:
    def test_a_lap_makes_the_run_unfit(self, proc: Proc) -> None:
        """The whole run is within the limits, one of its points is not."""
        watch = Watch(False, proc.read)
        proc.spend(idle=10_000)
        watch.lap("50%")
        disturbed(proc)
        watch.lap("90%")
        assert watch.total.reasons == [] and watch.unfit
        assert watch.reasons == ["90%: other processes used 50.0% of it (limit 5%)"]
        assert watch.status(good=True) == disturbance.UNFIT == 3 and watch.status(good=False) == 1
        assert "UNFIT: 90%: other processes" in watch.summary() and "--accept-disturbed" in watch.summary()

    def test_an_accepted_run_counts_and_says_so(self, proc: Proc) -> None:
        watch = Watch(True, proc.read)
        disturbed(proc)
        assert not watch.unfit and watch.status(good=True) == 0
        assert "Accepted although the machine was disturbed: other processes" in watch.summary()
        assert disturbance.counts({"disturbance": watch.record()})

    def test_what_was_before_the_run_does_not_count(self, proc: Proc) -> None:
        watch = Watch(False, proc.read)
        disturbed(proc)
        watch.restart()
        proc.spend(idle=100)
        assert watch.reasons == [] and "other processes 0.0%" in watch.summary()

    def test_smoke_runs_are_accepted(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--smoke", action="store_true")
        disturbance.add_flag(parser)
        for words, accepted in (([], False), (["--smoke"], True), (["--accept-disturbed"], True)):
            assert disturbance.watch(parser.parse_args(words)).accepted is accepted


def experiment(proc: Proc, folder: Path, *words: str) -> Experiment:
    made = Experiment(argparse.ArgumentParser(), "trial.jsonl", ["--results", str(folder), *words])
    made.watch = Watch(made.watch.accepted, proc.read)
    return made


class TestExperiments:
    def test_an_unfit_run_is_kept_but_neither_shown_nor_counted(
        self, proc: Proc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = experiment(proc, tmp_path / "results")
        disturbed(proc)
        made.show("| the figures |")
        assert made.end({"session": "1", "environment": MACHINE}) == disturbance.UNFIT
        shown = capsys.readouterr().out
        assert "| the figures |" not in shown and "UNFIT: other processes used 50.0% of it" in shown
        (record,) = environment.history("trial.jsonl", tmp_path / "results")
        assert record["disturbance"]["foreign"] == 0.5
        assert environment.newest("trial.jsonl", tmp_path / "results") == []
        assert environment.newer_unfit("trial.jsonl", tmp_path / "results") == "now"

    def test_the_flag_accepts_it(self, proc: Proc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = experiment(proc, tmp_path / "results", "--accept-disturbed")
        disturbed(proc)
        made.show("| the figures |")
        assert made.end({"session": "1", "environment": MACHINE}) == 0
        assert "| the figures |" in capsys.readouterr().out
        assert len(environment.newest("trial.jsonl", tmp_path / "results")) == 1
        assert environment.newer_unfit("trial.jsonl", tmp_path / "results") is None

    def test_a_quiet_run_counts_and_says_how_quiet(self, proc: Proc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        made = experiment(proc, tmp_path / "results")
        proc.spend(idle=99, steal=1)
        assert made.end({"session": "1", "environment": MACHINE}) == 0
        assert "steal 1.0%, other processes 0.0%, clock varied by 0.0%" in capsys.readouterr().out

    def test_a_report_takes_the_newest_fit_session(self, tmp_path: Path) -> None:
        quiet = {"seconds": 9.0, "steal": 0.001, "foreign": 0.0, "clock": None, "by": {}, "unfit": [], "accepted": False}
        loud = {**quiet, "foreign": 0.4, "unfit": ["other processes used 40.0% of it (limit 5%)"]}
        for session, state, rate in (("1", quiet, 11_000.0), ("2", loud, 22_000.0)):
            record = {
                "session": session, "environment": MACHINE, "contender": "ixfast", "repetition": 1, "requests_per_s": rate,
                "passes_per_s": rate, "disturbance": state,
            }  # fmt: skip
            environment.remember(scans.HISTORY, record, tmp_path)
        text = report.tables_of(tmp_path)["scans"]
        assert "11,000" in text and "22,000" not in text
        assert "steal 0.1%, other processes 0.0%, clock not readable." in text and "A newer run, of now, does not count" in text

    def test_one_disturbed_repetition_leaves_the_others(self) -> None:
        loud = {"unfit": ["other processes used 40.0% of it"], "accepted": False}
        runs = [
            scans.Run("ixfast", 1, 1000.0, 1000.0),
            scans.Run("ixfast", 2, 9e9, 9e9, disturbance=loud),
            scans.Run("ixfast", 3, 3000.0, 3000.0, disturbance={**loud, "accepted": True}),
        ]
        assert [each.good for each in runs] == [True, False, True]
        assert "| ixfast | 2 | 2,000 (1,000 to 3,000) |" in scans.table(runs, {"ixfast": "ixfast"})


class Done:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode


@pytest.mark.parametrize(
    ("statuses", "status", "said"),
    [([0, 0], 0, []), ([0, 3], 3, ["UNFIT: latency"]), ([3, 1], 1, ["NOT GOOD: latency", "UNFIT: stages"])],
)
def test_the_standard_set_names_unfit_parts(
    statuses: list[int], status: int, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[Sequence[str]] = []
    by_part = dict(zip(("stages", "latency"), statuses, strict=True))

    def part(command: list[str], **_: Any) -> Done:
        asked.append(command)
        return Done(by_part[command[3]])

    monkeypatch.setattr(run.subprocess, "run", part)
    monkeypatch.setattr(run.report, "main", lambda _: 0)
    assert run.main(["--only", "stages", "latency", "--accept-disturbed", "--results", str(tmp_path)]) == status
    shown = capsys.readouterr().err
    assert all(text in shown for text in said) and shown.count("UNFIT") == sum("UNFIT" in text for text in said)
    assert all("--accept-disturbed" in command for command in asked)


def test_records_are_plain_json(proc: Proc) -> None:
    watch = Watch(False, proc.read)
    disturbed(proc)
    assert disturbance.counts(json.loads(json.dumps({"disturbance": watch.record()}))) is False
