"""A small model of what a scan costs and how many a number of cores can carry.

A statement of n scans costs a worker and PostgreSQL a part for itself and a part for each scan, so that a scan costs
a + b ÷ n microseconds of each. In a closed loop each worker has one statement under way while the next one fills, so that n is
a fixed share, about half, of a worker's connections. The rate is limited by the cores that workers and PostgreSQL share (with
the generator, unless it has a core of its own), by the workers, which use one core each, and by the generator's core.

What is not in the model is contention: locks, the write-ahead log, the disk. Where a measured point costs more than predicted,
that is the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """Microseconds of processor time."""

    per_scan: float
    per_statement: float

    def at(self, scans: float) -> float:
        """Of one scan in a statement of this many."""
        return self.per_scan + self.per_statement / scans


def fit(points: Sequence[tuple[float, float]]) -> Cost:
    """The least squares of (scans per statement, microseconds per scan). Neither part can be negative: the data then say that it
    is nothing."""
    xs, ys = [1 / scans for scans, _ in points], [us for _, us in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((each - x) ** 2 for each in xs)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread if spread > 1e-12 else 0.0
    slope = max(0.0, slope)
    if y - slope * x < 0:
        return Cost(0.0, y / x)
    return Cost(y - slope * x, slope)


class Prediction(NamedTuple):
    scans: float  # per statement
    server_us: float
    postgres_us: float
    requests_per_s: float

    @property
    def cost_us(self) -> float:
        return self.server_us + self.postgres_us


class Model(NamedTuple):
    """`share` is the share of a worker's connections that one statement carries."""

    server: Cost
    postgres: Cost
    generator_us: float
    share: float

    def predict(self, workers: int, connections: int, cores: int, *, own_core: bool) -> Prediction:
        """Of `workers` in all, on `cores` that they share with PostgreSQL. The generator has a core of its own or shares them."""
        scans = max(1.0, self.share * connections / workers)
        server, postgres = self.server.at(scans), self.postgres.at(scans)
        shared = server + postgres + (0.0 if own_core else self.generator_us)
        limits = [cores / shared, workers / server, *([1 / self.generator_us] if own_core else [])]
        return Prediction(scans, server, postgres, min(limits) * 1e6)

    def on(self, cores: int, scans: int) -> tuple[int, float]:
        """For cores that only workers and PostgreSQL use: the number of workers, and requests/s at this many scans per statement,
        if nothing contends."""
        server, postgres = self.server.at(scans), self.postgres.at(scans)
        workers = max(1, math.ceil(cores * server / (server + postgres)))
        return workers, min(cores / (server + postgres), workers / server) * 1e6
