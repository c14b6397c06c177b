"""A lost database does not fill the disk: under load, a server logs why it cannot answer in a few lines, with counts."""

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import eventually
from support.served import Connection, Served, own_database, plain_target
from support.tcp_proxy import TcpProxy

from ixfast.testing.virtual_tags import VirtualFleet

BREAKING_SERVER = str(Path(__file__).parents[1] / "support" / "breaking_server.py")
FLEET = VirtualFleet(63, 200, account="outage")
OUTAGE_S = 4.0
CONNECTIONS = 8
LINES_MAX = 40  # From two workers and a supervisor, each of which may log several losses and recoveries once.


async def scan_until(server: Served, ends: asyncio.Event, statuses: list[int]) -> None:
    async with await Connection.open(server.port) as connection:
        for counter in itertools.count(1):
            answer = await connection.get(plain_target(FLEET, counter % len(FLEET), counter // len(FLEET) + 1))
            statuses.append(answer.status)
            if ends.is_set() or connection.closing:
                return


async def load_without_database(served: Served, proxy: TcpProxy) -> list[int]:
    statuses: list[int] = []
    ends = asyncio.Event()
    proxy.refusing = True
    proxy.cut()
    clients = [asyncio.create_task(scan_until(served, ends, statuses)) for _ in range(CONNECTIONS)]
    until = time.monotonic() + OUTAGE_S
    await eventually(lambda: time.monotonic() > until, OUTAGE_S + 5)
    ends.set()
    await asyncio.gather(*clients)
    proxy.refusing = False
    return statuses


@contextlib.asynccontextmanager
async def behind_a_proxy(postgres: Any, template: str, home: Path, **options: Any) -> AsyncIterator[tuple[Served, TcpProxy]]:
    async with TcpProxy(postgres.port) as proxy:
        with own_database(postgres, template) as database:
            dsn = postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port)
            served = Served(home, dsn=dsn, **options)
            await asyncio.to_thread(served.start)
            try:
                await asyncio.to_thread(served.provision, FLEET)
                yield served, proxy
            finally:
                if served.process is not None:
                    await asyncio.to_thread(served.stop)


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_an_outage_under_load_writes_few_lines(postgres: Any, template: str, tmp_path: Path, format_: str) -> None:
    async with behind_a_proxy(postgres, template, tmp_path / "server", log_format=format_) as (served, proxy):
        statuses = await load_without_database(served, proxy)
        if format_ == "text":  # the counts are logged in time, though nothing else is logged any more
            await eventually(lambda: len(re.findall(r"cannot look up \d+ references.*repeated", served.log)) == 2, 15)
        assert await asyncio.to_thread(served.stop) == 0
        lines = served.log.splitlines()
    assert statuses.count(503) > LINES_MAX * 10
    assert len(lines) <= LINES_MAX, lines
    repetitions = [
        int(count.replace(",", ""))
        for count in re.findall(r"cannot look up \d+ references.* \(repeated ([\d,]+) times", "\n".join(lines))
    ]
    assert sum(repetitions) > LINES_MAX


async def test_a_server_that_does_not_count_is_caught(postgres: Any, template: str, tmp_path: Path) -> None:
    broken = {"entry": (BREAKING_SERVER,), "environ": {"IXFAST_TEST_FAULT": "repeat"}}
    async with behind_a_proxy(postgres, template, tmp_path / "server", **broken) as (served, proxy):
        await load_without_database(served, proxy)
        assert len(served.log.splitlines()) > LINES_MAX
