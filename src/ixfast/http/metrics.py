"""The metrics endpoint: the meters that all workers of a host share, in Prometheus' text format, in one scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ixfast.meters import METERS, Meters

# Histograms are kept as plain counters, one per bucket. As gauges they keep these suffixes, by which Prometheus joins them.
_HISTOGRAM = ("_bucket", "_sum", "_count")


class _Workers(Collector):
    def __init__(self, gauges: Meters) -> None:
        self._all = gauges.all

    def collect(self) -> Iterator[Metric]:
        workers = len(self._all) // len(METERS)
        families: dict[str, Metric] = {}
        for index, meter in enumerate(METERS):
            if meter.name not in families:
                families[meter.name] = _family(meter.name, meter.kind, meter.help, [*meter.labels, "worker"])
            for worker in range(workers):
                value = self._all[worker * len(METERS) + index]
                families[meter.name].add_metric([*meter.labels.values(), str(worker)], value)  # type: ignore[attr-defined]
        yield from families.values()


def _family(name: str, kind: str, text: str, labels: list[str]) -> Metric:
    if kind == "gauge" or name.endswith(_HISTOGRAM):
        return GaugeMetricFamily(name, text, labels=labels)
    return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)


def exposition(gauges: Meters) -> bytes:
    """The text of `/metrics` (Prometheus text format 0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Workers(gauges))
    return generate_latest(registry)
