"""Keys are in the memory of a worker, and no core file, collector of dumps or other process of the user gets at them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.served import Served, children_of, lives, once, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(1955, 4, account="shop")
TESTS = Path(__file__).parents[1]
SEARCH = str(TESTS / "support" / "memory_search.py")
RIGHT = (SEARCH, sys.executable, "-m", "ixfast")
DUMPABLE = (SEARCH, sys.executable, str(TESTS / "support" / "dumpable_server.py"))
PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()


def has_keys(core: bytes) -> bool:
    return any(FLEET.file_key(index) in core for index in range(4))


async def use_keys(server: Served, counter: int) -> None:
    for index in range(4):
        assert (await once(server.port, plain_target(FLEET, index, counter))).passed


def searched(pid: int) -> str:
    """What another process of the same user finds of the keys in this one's memory."""
    keys = [FLEET.file_key(index).hex() for index in range(4)]
    done = subprocess.run([sys.executable, SEARCH, str(pid), *keys], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("entry", "worker_says", "supervisor_says", "dumps"), [
    (RIGHT, "denied", "denied", False),
    (DUMPABLE, "found", "absent", True),  # the control: the search finds what is there, and a dump has it
], ids=["right", "dumpable"])  # fmt: skip
async def test_keys_in_memory_go_nowhere(
    entry: tuple[str, ...], worker_says: str, supervisor_says: str, dumps: bool, database: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    monkeypatch.chdir(crashes)  # where a pattern without a path puts core files
    with Served(tmp_path / "server", dsn=database, workers=1, entry=entry) as server:
        server.provision(FLEET)
        await use_keys(server, 1)
        assert server.process is not None
        (worker,) = children_of(server.process.pid)
        assert (searched(worker), searched(server.process.pid)) == (worker_says, supervisor_says)
        if not dumps:
            assert resource.prlimit(worker, resource.RLIMIT_CORE)[0] == 0
        await use_keys(server, 2)  # what was loaded before the fleet's making was noticed may have been dropped
        # Were the limit lifted, the worker would not be dumped nevertheless.
        most = resource.prlimit(worker, resource.RLIMIT_CORE)[1]
        resource.prlimit(worker, resource.RLIMIT_CORE, (most, most))
        os.kill(worker, signal.SIGABRT)
        await eventually(lambda: not lives(worker), 20.0)
        if dumps and most != 0 and not PATTERN.startswith(("|", "/")):
            await eventually(lambda: any(has_keys(path.read_bytes()) for path in crashes.iterdir()), 20.0)
        await eventually(lambda: len(children_of(server.process.pid)) == 1, 20.0)  # type: ignore[union-attr]
    assert dumps or not list(crashes.iterdir())


def test_commands_forbid_it_too(tmp_path: Path) -> None:
    """Every command of `ixfast`: those that open keys are among them."""
    script = (
        "from ixfast.process import hardening; hardening.forbid_core_dumps = lambda: print('forbidden'); "
        "from ixfast import cli; cli.main()"
    )
    for command in (["versions"], ["keys", "status", "--help"]):
        done: Any = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.startswith("forbidden\n")
