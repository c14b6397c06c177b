"""The text of `/metrics`: real histograms in seconds and bytes, as Prometheus' own checks want them."""

import mmap
import os
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.requirements import requires

from ixfast import meters
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Scan
from ixfast.http.metrics import exposition
from ixfast.meters import METERS, Meters
from ixfast.pipeline.engine import Engine
from ixfast.process.process_meters import ProcessMeters
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger

WORKERS = 2
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def busy() -> list[Meters]:
    """Two workers with a value in every meter."""
    shared = mmap.mmap(-1, WORKERS * meters.REGION_BYTES)
    workers = [Meters(shared, worker) for worker in range(WORKERS)]
    for each in workers:
        for index in range(len(METERS)):
            each.slots[index] = index + 1
    return workers


def families(gauges: Meters) -> dict[str, Samples]:
    """Values by family, and in it by name and labels."""
    return {
        family.name: {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(exposition(gauges).decode())
    }


def promtool(text: bytes) -> tuple[int, str]:
    done = subprocess.run([requires("promtool", package="prometheus"), "check", "metrics"], input=text, capture_output=True)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("made", [busy, lambda: [Meters()]], ids=["busy", "idle"])
def test_promtool_accepts_every_metric(made: object) -> None:
    assert promtool(exposition(made()[0])) == (0, "")  # type: ignore[operator]


@pytest.mark.parametrize(
    "text",
    [
        "# HELP ixfast_a_ms A.\n# TYPE ixfast_a_ms gauge\nixfast_a_ms 1\n",
        "# HELP ixfast_a A.\n# TYPE ixfast_a counter\nixfast_a 1\n",
        "# HELP ixfast_a_bucket A.\n# TYPE ixfast_a_bucket gauge\nixfast_a_bucket 1\n",
        "# TYPE ixfast_a gauge\nixfast_a 1\n",
    ],
)
def test_promtool_refuses_what_it_should(text: str) -> None:
    """The control: units, suffixes and types that an earlier form of these metrics had."""
    status, problems = promtool(text.encode())
    assert status != 0 and problems


def test_types_and_units_are_conventional() -> None:
    kinds = {family.name: family.type for family in text_string_to_metric_families(exposition(busy()[0]).decode())}
    for meter in METERS:
        assert kinds[meter.name.removesuffix("_total")] == meter.kind
        assert meter.name.endswith("_total") == (meter.kind == "counter")
        assert not meter.name.endswith(("_ms", "_us", "_ns", "_bucket", "_sum", "_count"))
    assert kinds["ixfast_build_info"] == "gauge"
    assert {"ixfast_scan_duration_seconds", "ixfast_ledger_statement_seconds", "ixfast_ledger_batch_rows"} == {
        name for name, kind in kinds.items() if kind == "histogram"
    }


def test_every_meter_is_exported_for_each_worker() -> None:
    exported = families(busy()[0])
    for name in {meter.name for meter in METERS if meter.name != "ixfast_scan_duration_seconds"}:
        samples = exported[name.removesuffix("_total")]
        assert {dict(labels)["worker"] for _, labels in samples} == {"0", "1"}, name


def test_histograms_are_cumulative_and_consistent() -> None:
    exported = families(busy()[0])
    for name in ("ixfast_scan_duration_seconds", "ixfast_ledger_statement_seconds", "ixfast_ledger_batch_rows"):
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for (sample, labels), value in exported[name].items():
            if sample.endswith("_bucket"):
                rest = tuple(label for label in labels if label[0] != "le")
                series.setdefault(rest, []).append((float(dict(labels)["le"]), value))
        for rest, buckets in series.items():
            assert buckets == sorted(buckets) and [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), exported[name][f"{name}_count", rest])
            assert (f"{name}_sum", rest) in exported[name]


def test_fractions_are_exported_in_base_units() -> None:
    gauges = Meters()
    gauges.observe_statement(700, 3)
    gauges.slots[meters.CLOCK_OFFSET_MS] = -1500
    gauges.slots[meters.STAGE_NS[0]], gauges.slots[meters.STAGE_SCANS[0]] = 2_500_000_000, 4
    exported = families(gauges)
    worker = ("worker", "0")
    assert exported["ixfast_ledger_statement_seconds"]["ixfast_ledger_statement_seconds_sum", (worker,)] == 0.0007
    assert exported["ixfast_ledger_batch_rows"]["ixfast_ledger_batch_rows_sum", (worker,)] == 3
    assert exported["ixfast_database_clock_offset_seconds"]["ixfast_database_clock_offset_seconds", (worker,)] == -1.5
    stage = (("stage", "parse"), worker)
    assert exported["ixfast_stage_seconds"]["ixfast_stage_seconds_sum", stage] == 2.5
    assert exported["ixfast_stage_seconds"]["ixfast_stage_seconds_count", stage] == 4


def measured(
    durations_s: list[float], *, route: int, errors: bool = False
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What is exported after scans of an unknown tag, or scans that fail, of these durations."""
    now = 0.0
    gauges, catalogue = Meters(), MemoryCatalogue()
    engine = Engine(catalogue, gauges, moment=lambda: now)
    engine.use(MemoryLedger(engine.settled))
    for duration_s in durations_s:
        now = 100.0
        scan = Scan(lambda _scan: None, b"nosuchtag", -1, None, None, 1, now)
        scan.route = route
        now += duration_s
        if errors:
            engine.fail(scan, "overloaded", "worker_busy")
        else:
            engine.submit(scan)
    return families(gauges).get("ixfast_scan_duration_seconds", {})


@pytest.mark.parametrize(
    ("duration_s", "bound"), [(0.0, 0.00025), (0.0002, 0.00025), (0.0003, 0.0005), (1.5, 2.048), (9.0, None)]
)
def test_a_scan_is_in_the_bucket_of_its_duration(duration_s: float, bound: float | None) -> None:
    exported = measured([duration_s], route=0)
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in exported.items()
        if name.endswith("_bucket") and dict(labels)["verdict"] == "unknown" and dict(labels)["route"] == "/v1/t"
    }
    first = min(bound_ for bound_, count in buckets.items() if count)
    assert first == (bound if bound is not None else float("inf"))
    total = exported["ixfast_scan_duration_seconds_sum", (("route", "/v1/t"), ("verdict", "unknown"))]
    assert total == pytest.approx(duration_s, abs=2e-6)


@pytest.mark.parametrize(
    ("route", "errors", "labels"), [(1, False, ("/v2/scans", "unknown")), (2, True, ("/v2/scans/batch", "none"))]
)
def test_a_histogram_for_each_route_and_verdict(route: int, errors: bool, labels: tuple[str, str]) -> None:
    exported = measured([0.001, 0.002, 0.003], route=route, errors=errors)
    counts = {tuple(dict(each).values()): value for (name, each), value in exported.items() if name.endswith("_count")}
    assert counts == {labels: 3}, "pairs without a scan have no series"


def test_a_scan_without_a_route_is_not_measured() -> None:
    assert measured([0.001], route=-1) == {}


def test_a_clock_that_goes_back_counts_as_no_time() -> None:
    exported = measured([-5.0], route=0)
    assert exported["ixfast_scan_duration_seconds_sum", (("route", "/v1/t"), ("verdict", "unknown"))] == 0


def test_every_verdict_and_route_has_its_own_slots() -> None:
    kinds = len(Verdict) + 1
    assert meters.SCANS[list(Verdict)[-1]] - meters.SCANS[next(iter(Verdict))] == len(Verdict) - 1
    for route, path in enumerate(meters.ROUTES):
        for kind, verdict in enumerate([*Verdict, meters.NO_VERDICT]):
            first = METERS[meters.DURATIONS + (route * kinds + kind) * meters.DURATION_SLOTS]
            assert (first.labels, first.part) == ({"route": path, "verdict": verdict}, "0.00025")


def test_a_process_reports_what_it_uses() -> None:
    gauges = Meters()
    process = ProcessMeters(gauges.slots)
    process.update(100.0)
    before = gauges.slots[meters.PROCESS_OPEN_FDS]
    assert before > 2
    pipe = os.pipe()
    process.update(100.1)
    assert gauges.slots[meters.PROCESS_OPEN_FDS] == before, "read only every few seconds"
    process.update(106.0)
    assert gauges.slots[meters.PROCESS_OPEN_FDS] == before + 2
    for each in pipe:
        os.close(each)
    exported = families(gauges)
    (resident,) = exported["process_resident_memory_bytes"].values()
    (virtual,) = exported["process_virtual_memory_bytes"].values()
    assert 1 << 20 < resident < virtual
    assert next(iter(exported["process_cpu_seconds"].values())) > 0
    assert next(iter(exported["process_max_fds"].values())) > before


def test_build_info_has_the_versions() -> None:
    ((_, labels),) = families(Meters())["ixfast_build_info"]
    assert {"version", "python", "core", "path"} == set(dict(labels))
