"""The metrics endpoint: the meters that all workers of a host share, in Prometheus' text format, in one scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate, groupby

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ixfast.meters import METERS, Meter, Meters
from ixfast.versions import versions

SUMMED = frozenset({"ixfast_scan_duration_seconds"})
"""Metrics without the label `worker` and without series that are still 0: there would be hundreds for each worker, which take
a scrape longer than a scan may wait for the event loop."""

_Slots = list[tuple[int, Meter]]


class _Workers(Collector):
    def __init__(self, gauges: Meters) -> None:
        slots = len(METERS)
        self._regions = [gauges.all[start : start + slots] for start in range(0, len(gauges.all), slots)]

    def collect(self) -> Iterator[Metric]:
        yield _build_info()
        for (name, kind, text), group in groupby(enumerate(METERS), key=lambda slot: slot[1][:3]):
            slots = list(group)
            labels = list(slots[0][1].labels)
            family = _family(name, kind, text, labels if name in SUMMED else [*labels, "worker"])
            for regions, worker in _readings(name, self._regions):
                _add_samples(family, kind, slots, regions, worker)
            yield family


def _readings(name: str, regions: list[memoryview]) -> Iterable[tuple[list[memoryview], list[str]]]:
    """The regions that are added up in one series each, with their value of the label `worker`."""
    return [(regions, [])] if name in SUMMED else [([region], [str(worker)]) for worker, region in enumerate(regions)]


def _family(name: str, kind: str, text: str, labels: list[str]) -> Metric:
    if kind == "counter":
        return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
    if kind == "histogram":
        return HistogramMetricFamily(name, text, labels=labels)
    return SummaryMetricFamily(name, text, labels=labels) if kind == "summary" else GaugeMetricFamily(name, text, labels=labels)


def _add_samples(family: Metric, kind: str, slots: _Slots, regions: list[memoryview], worker: list[str]) -> None:
    by_labels: dict[tuple[str, ...], dict[str, float]] = {}
    for index, meter in slots:
        value = sum(region[index] for region in regions) / meter.per_unit
        by_labels.setdefault(tuple(meter.labels.values()), {})[meter.part] = value
    for labels, parts in by_labels.items():
        if family.name in SUMMED and not any(parts.values()):
            continue
        values: dict[str, object]
        if kind == "histogram":
            total = parts.pop("sum")
            values = {"buckets": list(zip(parts, accumulate(parts.values()), strict=True)), "sum_value": total}
        elif kind == "summary":
            values = {"count_value": parts["count"], "sum_value": parts["sum"]}
        else:
            values = {"value": parts[""]}
        family.add_metric([*labels, *worker], **values)  # type: ignore[attr-defined]


@cache
def _build_info() -> Metric:
    running = versions()
    labels = {"version": running["ixfast"], "python": running["python"], "core": running["core"], "path": running["path"]}
    family = GaugeMetricFamily("ixfast_build_info", "Versions in use, as labels of the value 1.", labels=list(labels))
    family.add_metric([str(value) for value in labels.values()], 1)
    return family


def exposition(gauges: Meters) -> bytes:
    """The text of `/metrics` (Prometheus text format 0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Workers(gauges))
    return generate_latest(registry)
