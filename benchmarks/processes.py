"""Child processes of a benchmark: starting, watching and ending them, and their processor time and memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_READY_S = 30.0
_LEAVE_S = 15.0
_POLL_S = 0.02


class ContenderError(RuntimeError):
    """A server under test did not start, or has ended."""


class Processes:
    """One contender's processes. As a context manager it ends them, with SIGTERM first."""

    def __init__(self, commands: list[list[str]], environment: Mapping[str, str] | None = None) -> None:
        variables = child_environment(environment)
        self._commands = commands
        self._children = [
            subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT)
            for command in commands
        ]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._children]

    def await_port(self, port: int, host: str = "127.0.0.1") -> None:
        """Wait until the port accepts connections. Raises `ContenderError` if a process has ended."""
        until = time.monotonic() + _READY_S
        while True:
            self.check()
            try:
                socket.create_connection((host, port), 1).close()
            except OSError:
                if time.monotonic() > until:
                    raise ContenderError(f"nothing listens on port {port} after {_READY_S:g} s") from None
                time.sleep(_POLL_S)
            else:
                return

    def await_socket(self, path: Path) -> None:
        """Wait until the Unix socket accepts connections. Raises `ContenderError` if a process has ended."""
        until = time.monotonic() + _READY_S
        while True:
            self.check()
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(path))
                return
            if time.monotonic() > until:
                raise ContenderError(f"nothing listens at {path} after {_READY_S:g} s")
            time.sleep(_POLL_S)

    def await_listeners(self, port: int, count: int) -> None:
        """Wait until `count` sockets of this host listen on the port: one for each worker, with SO_REUSEPORT."""
        until = time.monotonic() + _READY_S
        while (found := listeners(port)) < count:
            self.check()
            if time.monotonic() > until:
                raise ContenderError(f"{found} of {count} workers listen on port {port} after {_READY_S:g} s")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise `ContenderError` if one of them has ended."""
        for command, child in zip(self._commands, self._children, strict=True):
            if child.poll() is not None:
                raise ContenderError(f"ended with status {child.returncode}: {' '.join(command)}; see its message above")

    def end(self) -> None:
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        until = time.monotonic() + _LEAVE_S
        for child in self._children:
            try:
                child.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def child_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our own environment, in which a child can import this package. It may write byte code, as an installed package has it;
    otherwise every start would compile about a hundred files."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**own, "PYTHONPATH": path, **(more or {})}


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def socket_path(port: int) -> Path:
    """Where a contender that is given this port makes its Unix socket."""
    return Path(tempfile.gettempdir()) / f"ixfast-bench-{port}.sock"


def listeners(port: int) -> int:
    """The number of IPv4 TCP sockets that listen on the port (proc_net_tcp(5): state 0A)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(f[3] == "0A" and int(f[1].rpartition(":")[2], 16) == port for f in fields)


def memory(pids: list[int], *, children: bool = False) -> list[dict[str, int]]:
    """Resident memory of each process in bytes, in the order of the pids: the total, and the anonymous part, which is not shared.

    With `children`, of the processes' children instead, which do the work of a supervisor or postmaster (proc_pid_status(5)).
    """
    if children:
        _, parents = _process_tree()
        pids = sorted(child for pid in pids for child in parents[pid])
    found = []
    for pid in pids:
        try:
            lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue  # it has ended meanwhile
        fields = dict(line.split(":", 1) for line in lines)
        if "VmRSS" in fields:
            found.append({"rss": _kib(fields["VmRSS"]), "anonymous": _kib(fields["RssAnon"])})
    return found


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def cpu_s(pids: list[int]) -> float:
    """Processor seconds of the processes, of their living descendants and of those that ended and were waited for.

    User and system time, with a resolution of 10 ms (proc_pid_stat(5), fields 14 to 17).
    """
    spent, parents = _process_tree()
    return sum(spent.get(pid, 0) for pid in _family(pids, parents)) / _TICKS_PER_S


def descendants(pids: Sequence[int]) -> list[int]:
    """All living descendants of the processes."""
    return _family(pids, _process_tree()[1])[len(pids) :]


@contextlib.contextmanager
def pinned(pids: Sequence[int], cores: Set[int]) -> Iterator[None]:
    """The processes, their descendants and all their threads on these cores only; what they start meanwhile inherits that."""
    before: dict[int, set[int]] = {}
    try:
        for pid in (*pids, *descendants(pids)):
            with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                for thread in [int(entry.name) for entry in (Path("/proc") / str(pid) / "task").iterdir()]:
                    with contextlib.suppress(ProcessLookupError):
                        before[thread] = os.sched_getaffinity(thread)
                        os.sched_setaffinity(thread, cores)
        yield
    finally:
        for thread, own in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, own)


def _family(pids: Sequence[int], parents: Mapping[int, list[int]]) -> list[int]:
    """The processes themselves, then their descendants."""
    family = list(pids)
    for pid in family:  # grows while iterated
        family += parents.get(pid, [])
    return family


def _process_tree() -> tuple[dict[int, int], defaultdict[int, list[int]]]:
    """Clock ticks spent by each process, and the children of each."""
    parents: defaultdict[int, list[int]] = defaultdict(list)
    spent: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        spent[int(entry.name)] = sum(map(int, fields[11:15]))
        parents[int(fields[1])].append(int(entry.name))
    return spent, parents
