"""Ownership of a cluster: a lock that ends with its owner, and the shutdown of servers whose owner was killed.

A server keeps running after its owner was killed. The next owner stops it instead of taking it over, so that a server's parent,
binaries and settings are always those of the current start. PR_SET_PDEATHSIG would stop it earlier, but it fires when the
*thread* that forked ends, and a change of user clears it. An orphan that finishes its commits does no harm, and an ordinary
shutdown is enough for its data.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ixfast.embedded.binaries import EmbeddedPostgresError

STOP_DEADLINE_S = 60.0  # A fast shutdown writes one checkpoint of at most 1 GB of buffers.
KILL_DEADLINE_S = 10.0  # After SIGQUIT the postmaster itself kills children that are still there after 5 s.
LINGER_S = 0.5  # Backends notice immediately that their postmaster is gone, unless they are executing a statement.
POLL_S = 0.005

_held_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class DatabaseInUseError(EmbeddedPostgresError):
    """Another process, or this one, holds the lock. `owner` is its process id, or `unknown`."""

    def __init__(self, owner: str, data_dir: Path) -> None:
        super().__init__(
            f"Another ixfast (process {owner}) runs the database in {data_dir}. "
            "Stop it, or set data_dir to another directory for this one."
        )
        self.owner = owner


class Lock:
    """An exclusive flock on a file that also contains the owner's process id, for the error message of a second process.

    A forked worker closes its inherited copy immediately; an orphaned worker would otherwise keep the next owner out.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock without waiting.

        `DatabaseInUseError` when another process, or this one, holds it. `EmbeddedPostgresError` when the directory belongs to
        another user.
        """
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"User {os.geteuid()} cannot open {path} ({error.strerror}); {path.parent} belongs to user "
                f"{path.parent.stat().st_uid}. Run ixfast as that user, or set data_dir to another directory."
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise DatabaseInUseError(owner, path.parent) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _held_locks.add(self)

    def release(self) -> None:
        """Release the lock. The file remains, because removing it would let two owners lock two files of the same name."""
        _held_locks.discard(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _release_in_child() -> None:
    for lock in list(_held_locks):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


@dataclass(frozen=True, slots=True)
class ClusterProcesses:
    """The processes of one cluster, found by their command lines.

    `name` is the server's `cluster_name`, with which the title of every child begins. Command lines are readable by every user,
    whereas root in a container may not read another user's working directories. Without `/proc` no process is found, and
    PostgreSQL's own lock file is the only protection.
    """

    cluster: Path
    name: str
    uid: int

    def postmasters(self) -> list[int]:
        """Process ids of the server, of which there is at most one, and of children that have not set their title yet."""
        return self._matching(lambda words: words[1:3] == [b"-D", os.fsencode(self.cluster)])

    def children(self) -> list[int]:
        """Process ids of backends and background processes."""
        title = f"postgres: {self.name}".encode()
        return self._matching(lambda words: words[0].startswith(title))

    def _matching(self, is_ours: Callable[[list[bytes]], bool]) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = is_ours((entry / "cmdline").read_bytes().split(b"\0")) and entry.stat().st_uid == self.uid
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # It ended meanwhile, or it is hidden and therefore not ours.
            if ours:
                found.append(int(entry.name))
        return found

    def end_orphans(self) -> None:
        """Stop what a killed owner left running, and remove its pid file. The caller holds the lock."""
        pid_file = self.cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        for number, deadline_s in ((signal.SIGINT, STOP_DEADLINE_S), (signal.SIGQUIT, KILL_DEADLINE_S)):
            for pid in self.postmasters():
                send(pid, number)
            if wait(lambda: not self.postmasters(), deadline_s):
                break
        self.kill()
        if Path("/proc/self/cmdline").exists() and self._none_left():
            # No process of this cluster is left. The process id in the file may have been reused, as happens when a container
            # restarts, and PostgreSQL would then refuse to start.
            pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill a server that does not stop, and backends without a server, whose shared memory keeps another from starting."""
        for pid in self.postmasters():
            send(pid, signal.SIGKILL)
        if wait(self._none_left, LINGER_S):
            return
        for pid in self.children():
            send(pid, signal.SIGKILL)
        wait(self._none_left, KILL_DEADLINE_S)

    def _none_left(self) -> bool:
        return not self.postmasters() and not self.children()


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait(reached: Callable[[], bool], deadline_s: float) -> bool:
    """Poll until `reached()` is true or the deadline has passed; returns whether it was reached."""
    deadline = time.monotonic() + deadline_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop our own server: fast, then immediate, then by SIGKILL. None of the three loses a committed transaction."""
    for number, deadline_s in (
        (signal.SIGINT, STOP_DEADLINE_S),
        (signal.SIGQUIT, KILL_DEADLINE_S),
        (signal.SIGKILL, KILL_DEADLINE_S),
    ):
        process.send_signal(number)
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            continue
        return
