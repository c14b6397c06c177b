"""Finding the record of a tag: the cache of two generations, and the catalogue's look-up on top of it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from benchmarks.micro.sample_scans import Bench, taps
from benchmarks.micro.step_timer import SEED, Step, Work
from ixfast.domain import references
from ixfast.meters import Meters
from ixfast.store.catalogue.cache import TwoGenerations
from ixfast.store.catalogue.catalogue import Catalogue

TITLE = "reference to record"
_TAGS_CACHED = 10_000


def _hits(count: int) -> Work:
    cache = _filled()
    keys = [b"tag%d" % number for number in Random(SEED).choices(range(_TAGS_CACHED), k=count)]
    return lambda: [cache.get(key) for key in keys]


def _misses(count: int) -> Work:
    cache = _filled()
    keys = [b"other%d" % number for number in range(count)]
    return lambda: [cache.get(key) for key in keys]


def _puts(count: int) -> Work:
    cache = _filled()
    keys = [b"new%d" % number for number in range(count)]

    def work() -> list[int]:
        for key in keys:
            cache.put(key, 1)
        return [len(cache)]

    return work


def _filled() -> TwoGenerations:
    cache = TwoGenerations(2 * _TAGS_CACHED)
    for number in range(_TAGS_CACHED):
        cache.put(b"tag%d" % number, number)
    return cache


def _catalogue(bench: Bench) -> Catalogue:
    """The product's catalogue with the records in its cache and without a database."""

    async def make() -> Catalogue:
        no_keys: Any = None  # only look-ups use them
        return Catalogue(None, no_keys, Meters(), tags_max=_TAGS_CACHED, absent_max=10, deadline_s=1.0)

    catalogue = asyncio.run(make())
    for code, record in bench.records.items():
        catalogue._tags.put(code, record)
        assert record.cuid is not None
        catalogue._aliases.put(references.by_cuid("bench", record.cuid), code)
    return catalogue


def _find(count: int) -> Work:
    find = _catalogue(Bench()).find
    wanted = [ref for ref, _, _ in taps(count)]

    def work() -> list[object]:
        return [record and record.xuid for record in [find(ref) for ref in wanted]]

    return work


def _find_by_cuid(count: int) -> Work:
    bench = Bench()
    find = _catalogue(bench).find
    wanted = [references.by_cuid("bench", f"own-{ref.decode()}") for ref, _, _ in taps(count)]

    def work() -> list[object]:
        return [record and record.xuid for record in [find(ref) for ref in wanted]]

    return work


STEPS = (
    Step("TwoGenerations, hit", _hits),
    Step("TwoGenerations, miss", _misses),
    Step("TwoGenerations, put", _puts, fresh=True),
    Step("Catalogue.find by tag code", _find),
    Step("Catalogue.find by the customer's id", _find_by_cuid),
)
