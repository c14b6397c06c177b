"""The meters: regions of workers in one memory, buckets, and names that Prometheus can join."""

import mmap
import re
from pathlib import Path

import pytest

from ixfast import meters
from ixfast.meters import METERS, Meters


def test_each_worker_writes_its_own_region_and_anyone_reads_all() -> None:
    shared = mmap.mmap(-1, 3 * meters.REGION_BYTES)
    workers = [Meters(shared, worker) for worker in range(3)]
    for count, worker in enumerate(workers, start=1):
        worker.slots[meters.HOT_REQUESTS] += count
    assert [workers[0].all[worker * len(METERS) + meters.HOT_REQUESTS] for worker in range(3)] == [1, 2, 3]
    assert sum(workers[1].all) == 6


def test_a_successor_keeps_the_counters_and_forgets_the_gauges() -> None:
    shared = mmap.mmap(-1, meters.REGION_BYTES)
    before = Meters(shared)
    before.slots[meters.CONNECTIONS] = 7
    before.slots[meters.LEDGER_ROWS] = 9
    after = Meters(shared)
    after.reset()
    assert (after.slots[meters.CONNECTIONS], after.slots[meters.LEDGER_ROWS]) == (0, 9)


@pytest.mark.parametrize(("duration_us", "first"), [(0, 0), (250, 0), (251, 1), (1_000_000, 11), (1_000_001, 12)])
def test_a_statement_fills_the_bucket_of_its_duration(duration_us: int, first: int) -> None:
    gauges = Meters()
    gauges.observe_statement(duration_us, 1)
    assert [gauges.slots[slot] for slot in meters.STATEMENT_US] == [0] * first + [1] + [0] * (12 - first)
    assert gauges.slots[meters.STATEMENT_US_SUM] == duration_us


def test_a_statement_counts_its_rows() -> None:
    gauges = Meters()
    for rows in (1, 3, 1024):
        gauges.observe_statement(1, rows)
    assert (gauges.slots[meters.LEDGER_BATCHES], gauges.slots[meters.LEDGER_ROWS]) == (3, 1028)
    assert [gauges.slots[slot] for slot in meters.BATCH_ROWS] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    assert gauges.slots[meters.BATCH_ROWS_SUM] == 1028


def test_every_slot_has_one_name_and_every_name_one_kind() -> None:
    assert len({(meter.name, *sorted(meter.labels.items()), meter.part) for meter in METERS}) == len(METERS)
    for name in {meter.name for meter in METERS}:
        assert len({(meter.kind, meter.help) for meter in METERS if meter.name == name}) == 1
    assert all(meter.name.startswith(("ixfast_", "process_")) and meter.help.endswith(".") for meter in METERS)
    assert all(len(buckets) == len(bounds) + 1 for buckets, bounds in (
        (meters.STATEMENT_US, meters.STATEMENT_BUCKETS_US),
        (meters.BATCH_ROWS, meters.BATCH_BUCKETS),
    ))  # fmt: skip


def test_the_documentation_has_the_labels_of_every_metric() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(r"^\| `((?:ixfast|process)_\w+)` \| \w+ \|([^|]*)\|", text, re.MULTILINE)
    documented = {
        name: set(re.findall(r"`(\w+)`", " ".join(re.findall(r"Labels?: ([^.]*)", meaning))))
        for name, meaning in rows
        if name != "ixfast_build_info"
    }
    assert documented == {meter.name: set(meter.labels) for meter in METERS}


def test_every_help_is_a_sentence() -> None:
    assert [meter.name for meter in METERS if not re.fullmatch(r"[A-Z0-9].*\.", meter.help)] == []
