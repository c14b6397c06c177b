"""Who owns a cluster: a lock that dies with its owner, and the end of processes whose owner was killed.

A server whose owner was killed goes on by itself. The next owner stops it rather than taking it over: then the server's
parent, binaries and settings are always those of the present start. PR_SET_PDEATHSIG would end it earlier, but it fires
when the *thread* that forked ends and is cleared by the change of user; and an orphan that finishes its commits harms
nobody, nor do its data need more than the ordinary shutdown.
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

STOP_DEADLINE_S = 60.0  # A fast shutdown writes one checkpoint: 1 GB of buffers at the most.
KILL_DEADLINE_S = 10.0  # After SIGQUIT a postmaster itself kills children that linger for 5 s.
LINGER_S = 0.5  # Backends notice at once that their postmaster is gone, unless they are inside a statement.
POLL_S = 0.005

_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """An exclusive flock on a file, which also holds the owner's process id for the message to the second comer.

    A forked worker gives its inherited copy up at once: an orphaned worker would otherwise keep the next owner out.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock without waiting.

        `EmbeddedPostgresError` when another process, or this one, holds it, or when the directory belongs to another user.
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
            raise EmbeddedPostgresError(
                f"Another ixfast (process {owner}) runs the database in {path.parent}. "
                "Stop it, or set data_dir to another directory for this one."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would let two owners lock two files of one name."""
        _held.discard(self)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _release_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


@dataclass(frozen=True, slots=True)
class ClusterProcesses:
    """The processes of one cluster, found by their command lines.

    `name` is the server's `cluster_name`, which begins the title of every child. Command lines are read because they
    are open to all: a container's root may not look at another user's working directories. Without `/proc` nothing is
    found, and PostgreSQL's own lock file is the only guard.
    """

    cluster: Path
    name: str
    uid: int

    def postmasters(self) -> list[int]:
        """Process ids of servers (and of children that have not set their title yet); more than one never is."""
        return self._matching(lambda words: words[1:3] == [b"-D", os.fsencode(self.cluster)])

    def children(self) -> list[int]:
        """Process ids of backends and helpers."""
        title = f"postgres: {self.name}".encode()
        return self._matching(lambda words: words[0].startswith(title))

    def _matching(self, is_ours: Callable[[list[bytes]], bool]) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = is_ours((entry / "cmdline").read_bytes().split(b"\0")) and entry.stat().st_uid == self.uid
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # It ended while being looked at, or is hidden and then not ours.
            if ours:
                found.append(int(entry.name))
        return found

    def end_orphans(self) -> None:
        """Stop what a killed owner left running and remove its pid file. The caller holds the lock."""
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
            # No process of this cluster lives. The number in the file may belong to somebody else by now, as it does
            # in a restarted container, and PostgreSQL would refuse to start for it.
            pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End a server that does not stop, and backends without a server: no other starts on their shared memory."""
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
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait(reached: Callable[[], bool], deadline_s: float) -> bool:
    """Poll until `reached` or the deadline; returns whether it was reached."""
    deadline = time.monotonic() + deadline_s
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop our own server: fast, then immediately, then by force. None of the three loses what was committed."""
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
