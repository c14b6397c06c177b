"""A scrape of a running server: durations of scans by route and verdict, processes, and what promtool says."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import eventually
from support.requirements import requires
from support.served import Connection, Served, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(52, 20, account="scraped")


@pytest.fixture(scope="module")
def scraped(server: Served) -> Served:
    server.provision(FLEET)
    return server


def samples(served: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = served.ask_private("/metrics")[1].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def durations(served: Served) -> dict[tuple[str, str], tuple[float, float]]:
    """Number of scans and sum of their durations, by route and verdict."""
    found = samples(served)
    name = "ixfast_scan_duration_seconds"
    return {
        (dict(labels)["route"], dict(labels)["verdict"]): (value, found[f"{name}_sum", labels])
        for (sample, labels), value in found.items()
        if sample == f"{name}_count"
    }


async def test_every_scan_is_in_the_histogram_of_its_route_and_verdict(scraped: Served) -> None:
    before = await asyncio.to_thread(durations, scraped)
    async with await Connection.open(scraped.port) as connection:
        for _ in "12":
            await connection.get(plain_target(FLEET, 0, 1))  # passes once
        await connection.get("/v1/t?x=nosuchtag")
        x, n, e = FLEET.plain_tap(1, 1)
        await connection.post("/v2/scans", {"xuid": x, "counter": n, "code": e})
        await connection.post("/v2/scans/batch", {"scans": [{"xuid": x, "counter": n, "code": e}, {"xuid": "nosuchtag"}]})
    wanted = {
        ("/v1/t", "genuine"): 1,
        ("/v1/t", "replayed"): 1,
        ("/v1/t", "unknown"): 1,
        ("/v2/scans", "genuine"): 1,
        ("/v2/scans/batch", "replayed"): 1,
        ("/v2/scans/batch", "unknown"): 1,
    }

    async def counted() -> bool:
        after = await asyncio.to_thread(durations, scraped)
        return {key: count - before.get(key, (0, 0))[0] for key, (count, _) in after.items()} == wanted

    await eventually(counted, 10)
    for count, total_s in (await asyncio.to_thread(durations, scraped)).values():
        assert 0 < total_s < 60 * count


async def test_the_histograms_count_what_the_counters_count(scraped: Served) -> None:
    def totals() -> tuple[float, float]:
        found = samples(scraped)
        scans = sum(value for (name, _), value in found.items() if name in ("ixfast_scans_total", "ixfast_scan_errors_total"))
        return scans, sum(value for (name, _), value in found.items() if name == "ixfast_scan_duration_seconds_count")

    async with await Connection.open(scraped.port) as connection:
        for target in ("/v1/t?x=nosuchtag", plain_target(FLEET, 3, 1), "/v1/t?x=nosuchtag&a=nobody"):
            await connection.get(target)
    scans, measured = await asyncio.to_thread(totals)
    assert scans == measured > 0


def test_promtool_accepts_the_scrape(scraped: Served) -> None:
    text = scraped.ask_private("/metrics")[1]
    done = subprocess.run([requires("promtool", package="prometheus"), "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


async def test_processes_are_those_of_the_workers(database: Any, server_dir: Path) -> None:
    with Served(server_dir, dsn=database) as served:
        before = await asyncio.to_thread(samples, served)
        for worker, pid in enumerate(served.workers()):
            resident = before["process_resident_memory_bytes", (("worker", str(worker)),)]
            assert resident > 10 << 20, pid
        started = {worker: before["process_start_time_seconds", (("worker", worker),)] for worker in "01"}
        os.kill(served.workers()[0], signal.SIGKILL)

        async def replaced() -> bool:
            try:
                if not await asyncio.to_thread(lambda: served.all_ready):
                    return False
                now = await asyncio.to_thread(samples, served)
            except ConnectionError:  # the killed worker had accepted the connection
                return False
            later = [now["process_start_time_seconds", (("worker", worker),)] > started[worker] for worker in "01"]
            return sorted(later) == [False, True]

        await eventually(replaced, 30)
