"""The environment of a result: everything that depends on the machine, the day or the version. Also the history of results."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import build, disturbance
from benchmarks.load.traffic import Traffic
from benchmarks.processes import ROOT
from ixfast.versions import versions

RESULTS = Path(__file__).parent / "results"
"""Not in the repository: the history of this machine's runs, one line of JSON for each."""

_LIBRARIES = ("aiohttp", "asyncpg", "cryptography", "orjson", "uvloop", "hdrhistogram")


def describe(**more: Any) -> dict[str, Any]:
    """Commit, processor, kernel, Python, libraries and the native core in use, followed by `more`."""
    running = versions()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}, {_congestion_control()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "core": running["core"],
        "core_reason": running["core_reason"],
        "path": running["path"],
        "generator": build.form(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        **more,
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _congestion_control() -> str:
    """The TCP default for sockets that do not set it; with bbr each small message costs a timer."""
    return "TCP " + Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def _commit() -> str:
    """The commit, with `+` if the tree is modified."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def plain(traffic: Traffic) -> dict[str, Any]:
    """The traffic as it is stored."""
    return {**traffic._asdict(), "mix": dict(traffic.mix._asdict())}


def load_average() -> list[float]:
    """The load average of the last 1, 5 and 15 minutes, which shows whether the machine was idle before."""
    return [round(value, 2) for value in os.getloadavg()]


def folder(given: argparse.Namespace) -> Path:
    """The folder of the results: `--results`, otherwise the default. Smoke runs have one of their own."""
    if given.results is not None:
        chosen: Path = given.results
        return chosen
    return RESULTS / "smoke" if given.smoke else RESULTS


def remember(file: str, record: Mapping[str, Any], folder: Path) -> Path:
    """Append a record to a history file; returns its path."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as history:
        history.write(json.dumps(record, default=str) + "\n")
    return path


def history(file: str, folder: Path) -> list[dict[str, Any]]:
    """The records of a history file, oldest first; empty if the file does not exist."""
    path = folder / file
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def newest(file: str, folder: Path, commit: str | None = None) -> list[dict[str, Any]]:
    """The records of the last session of a history file; with `commit`, of the last one at that commit. Those of a disturbed
    machine do not count (`disturbance.py`)."""
    records = [record for record in _at(commit, history(file, folder)) if disturbance.counts(record)]
    return [record for record in records if record["session"] == records[-1]["session"]]


def newer_unfit(file: str, folder: Path, commit: str | None = None) -> str | None:
    """The time of the last session if no record of it counts, because the machine was disturbed; otherwise None."""
    records = _at(commit, history(file, folder))
    last = [record for record in records if record["session"] == records[-1]["session"]]
    return str(last[-1]["environment"]["at"]) if last and not any(map(disturbance.counts, last)) else None


def _at(commit: str | None, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if commit is None or record["environment"]["commit"] == commit]


def as_markdown(described: Mapping[str, Any]) -> str:
    """The environment as a list, for below a table."""
    lines = []
    for name, value in described.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        lines.append(f"- {name}: {value}")
    return "\n".join(lines)
