"""Latency histograms: HdrHistogram of microseconds with three significant digits, up to one minute.

An encoded histogram is the raw result that is stored; encodings of several processes can be added up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

_MAX_US = 60_000_000
_DIGITS = 3
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def empty() -> Any:
    return HdrHistogram(1, _MAX_US, _DIGITS)


def encode(latencies_ns: Iterable[int]) -> bytes:
    return bytes(of_us(ns // 1000 for ns in latencies_ns).encode())


def of_us(latencies_us: Iterable[int]) -> Any:
    histogram = empty()
    for us, count in Counter(latencies_us).items():
        histogram.record_value(min(max(us, 1), _MAX_US), count)
    return histogram


def encode_histogram(histogram: Any) -> str:
    """As text, to be stored."""
    return bytes(histogram.encode()).decode()


def add(encoded: Iterable[bytes]) -> Any:
    """The sum of several encoded histograms."""
    histogram = empty()
    for each in encoded:
        histogram.decode_and_add(each)
    return histogram


def summary(histogram: Any) -> dict[str, int]:
    """Microseconds at `PERCENTILES`, and the maximum; empty for an empty histogram."""
    if not histogram.get_total_count():
        return {}
    shown = {f"p{p:g}_us": int(histogram.get_value_at_percentile(p)) for p in PERCENTILES}
    return {**shown, "max_us": int(histogram.get_max_value())}
