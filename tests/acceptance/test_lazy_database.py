"""Durability is turned off by a reload while servers serve, and PostgreSQL is killed under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support import eventually
from support.replication import replicated
from support.served import Served
from test_crashes import BACK_S, FLEET, load_on

ROUNDS = 3
LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s"}


async def test_no_acknowledged_pass_is_lost(server_dir: Path, tmp_path: Path) -> None:
    with replicated(server_dir, standbys=0) as servers, Served(tmp_path / "server", dsn=servers.dsn) as server:
        server.provision(FLEET)
        async with load_on(server) as load:
            await load.goes_on()
            await asyncio.to_thread(servers.primary.configure, **LAZY)
            for _ in range(ROUNDS):
                await load.goes_on()
                servers.primary.kill9()
                await asyncio.to_thread(servers.primary.start)
            await load.goes_on()
        await eventually(lambda: asyncio.to_thread(lambda: server.all_ready), BACK_S)
        assert await asyncio.to_thread(load.violations) == []
