"""PostgreSQL with streaming replication, for tests of failover: a primary and standbys that can be killed and brought back.

`with Replicated(server_dir) as pair:` starts a primary and one asynchronous standby; with `synchronous=True` every commit waits
for it. All servers listen on free ports of 127.0.0.1 with trust authentication; root runs them as an unprivileged user. The usual
course of an asynchronous failover that loses commits:

    pair.hold_back()            # the standby stops receiving; what is committed from now on is in the gap
    ...                         # scans are served through `pair.dsn`, which names every server
    pair.kill_primary()
    pair.promote()              # `pair.dsn` leads to the new primary
    old = pair.start_old_primary()
    old.dsn                     # on a port that `pair.dsn` does not name, on its old timeline

All methods block until the state is reached. A test that scans in its event loop meanwhile calls them with
`asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import asyncpg

from ixfast.embedded.binaries import Binaries, ServerUser, choose, wheel_folder
from ixfast.embedded.ownership import ClusterProcesses, end, send
from ixfast.embedded.server import ROLE, free_port
from support import eventually_sync

START_DEADLINE_S = 60.0
CATCH_UP_DEADLINE_S = 30.0
_SUPERUSER = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "max_connections": "200",
    "max_parallel_workers_per_gather": "0",  # parallel plans need /dev/shm, which has only 64 MB in a container
    "wal_keep_size": "512MB",  # lets a held-back standby catch up without a slot or an archive
    "wal_retrieve_retry_interval": "100ms",
    "timezone": "UTC",
    "jit": "off",
}


class Server:
    """One server, whose settings can be changed while it runs. `dsn` connects as the ordinary role that owns the database, and
    `superuser_dsn` as the superuser; both name only this server."""

    def __init__(self, home: Path, user: ServerUser, binaries: Binaries, settings: Mapping[str, str]) -> None:
        self.home = home
        self.data = home / "data"
        self.port = free_port()
        self.settings: dict[str, str] = dict(settings)
        self._user = user
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._processes = ClusterProcesses(self.data, f"ixfast-{home.parent.name}-{home.name}", user.uid)

    @property
    def dsn(self) -> str:
        return self.dsn_of(ROLE)

    @property
    def superuser_dsn(self) -> str:
        return self.dsn_of(ROLE, role=_SUPERUSER)

    def dsn_of(self, database: str, *, role: str = ROLE) -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.home / "log").read_text("utf-8", "replace")

    def start(self, **settings: str) -> None:
        """Start with these additional settings, which are kept, and return when the server accepts connections."""
        self.settings |= settings
        self._write_configuration()
        configuration = ["-c", f"config_file={self.home / 'postgresql.conf'}", "-c", f"hba_file={self.home / 'pg_hba.conf'}"]
        with (self.home / "log").open("ab") as output:
            self._process = self._user.spawn([self._binaries.postgres, "-D", str(self.data), *configuration], output)
        eventually_sync(self._accepts, START_DEADLINE_S)

    def _accepts(self) -> bool:
        assert self.running, f"the server ended: {self.log[-2000:]}"
        assert self._process is not None
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() in ("ready", "standby")

    def configure(self, **settings: str) -> None:
        """Change settings of the running server with a reload, and return when new sessions use them."""
        self.settings |= settings
        self._write_configuration()
        assert self._process is not None
        send(self._process.pid, signal.SIGHUP)
        for name, value in settings.items():
            eventually_sync(lambda name=name, value=value: self.fetchval(f"SHOW {name}") == value)

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None

    def kill9(self) -> None:
        """Kill every process of the server at once, like a crash of its machine."""
        process, self._process = self._process, None
        if process is None:
            return
        children = self._processes.children()
        process.kill()
        for pid in children:
            send(pid, signal.SIGKILL)
        process.wait()
        self._processes.kill()
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # its process id may have been reused

    def fetchval(self, query: str, *arguments: Any, dsn: str | None = None) -> Any:
        """The first value of a query, run as the superuser."""

        async def work() -> Any:
            connection = await asyncpg.connect(dsn or self.superuser_dsn)
            try:
                return await connection.fetchval(query, *arguments)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work()).result()

    def _write_configuration(self) -> None:
        settings = {**_SETTINGS, **self.settings, "port": str(self.port), "cluster_name": self._processes.name}
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
        hba = "".join(f"host {what} all 127.0.0.1/32 trust\n" for what in ("all", "replication"))
        for name, text in (("postgresql.conf", "".join(lines)), ("pg_hba.conf", hba)):
            (self.home / name).write_text(text)
            (self.home / name).chmod(0o644)  # must be readable by the server's user


class Replicated:
    """A primary and its standbys. `settings` are parameters of every server: `{"fsync": "off"}` is faster on a busy disk and
    loses nothing when a process is killed, but `ixfast serve` refuses to serve from such a server.

    `promote` changes which servers `primary` and `standbys` are; `old_primary` is the one that was killed.
    """

    def __init__(
        self, home: Path, *, synchronous: bool = False, standbys: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.synchronous = synchronous
        self.primary: Server
        self.standbys: list[Server] = []
        self.old_primary: Server | None = None
        self._count = standbys
        self._settings = dict(settings or {})
        self._user = ServerUser.choose()
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        self._user.make_directories(self.home)
        self._binaries = choose(None, self.home, self._user, None)
        try:
            self.primary = self._make_primary()
            for _ in range(self._count):
                self.add_standby()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._servers:  # standbys last: the shutdown of a synchronous primary waits for them
            server.kill9()

    @property
    def dsn(self) -> str:
        return self.dsn_of(ROLE)

    def dsn_of(self, database: str) -> str:
        """A connection string with every server except a revived old primary, for the one that accepts writes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self._servers if server is not self.old_primary)
        return f"postgresql://{ROLE}@{hosts}/{database}?sslmode=disable&target_session_attrs=read-write"

    def add_standby(self) -> Server:
        """Create a standby of the current primary from a base backup, and return when it is streaming."""
        standby = self._server()
        primary = ["--host=127.0.0.1", f"--port={self.primary.port}", f"--username={_SUPERUSER}", "--no-password"]
        command = [str(_pg_basebackup(self._binaries)), *primary, f"--pgdata={standby.data}", "--checkpoint=fast", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (standby.data / "standby.signal").touch()
        for path in (standby.data, *standby.data.rglob("*")):
            self._user.give(path)
        standby.start(primary_conninfo=self._conninfo())
        self.standbys.append(standby)
        self._await_streaming(standby)
        if self.synchronous:
            self.primary.configure(synchronous_standby_names="*")
        return standby

    def hold_back(self) -> None:
        """Stop the standbys from receiving. From now on a synchronous commit waits, and an asynchronous one is in the gap."""
        for standby in self.standbys:
            standby.configure(primary_conninfo="")
            eventually_sync(lambda standby=standby: standby.fetchval("SELECT count(*) FROM pg_stat_wal_receiver") == 0)

    def let_go(self) -> None:
        """Resume replication, and return when the standbys have caught up."""
        for standby in self.standbys:
            standby.configure(primary_conninfo=self._conninfo())
            self._await_streaming(standby)
        self.catch_up()

    def catch_up(self) -> None:
        """Wait until every standby has replayed everything that the primary has written."""
        written = self.primary.fetchval("SELECT pg_current_wal_lsn()::text")
        for standby in self.standbys:
            replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
            eventually_sync(lambda s=standby, q=replayed: s.fetchval(q), CATCH_UP_DEADLINE_S)

    def kill_primary(self) -> None:
        """Kill every process of the primary with SIGKILL. Its data is kept, so `start_old_primary` can restart it."""
        self.primary.kill9()

    def promote(self) -> Server:
        """Promote the first standby, make the others follow it, and return it.

        A standby that had received more than the promoted one cannot follow.
        """
        self.old_primary, self.primary = self.primary, self.standbys.pop(0)
        assert self.primary.fetchval("SELECT pg_promote(true, 60)"), self.primary.log[-2000:]
        for standby in self.standbys:
            standby.configure(primary_conninfo=self._conninfo())
            self._await_streaming(standby)
        if self.synchronous and self.standbys:
            self.primary.configure(synchronous_standby_names="*")
        return self.primary

    def start_old_primary(self, *, same_port: bool = False) -> Server:
        """Start the killed primary as an independent server that accepts writes on its old timeline.

        It gets another port, which `dsn` does not name, or with `same_port` its original one.
        """
        assert self.old_primary is not None and not self.old_primary.running
        old = self.old_primary
        if same_port:
            self.old_primary = None
        else:
            old.port = free_port()
        old.start(synchronous_standby_names="")
        return old

    def _make_primary(self) -> Server:
        primary = self._server()
        primary.data.mkdir(mode=0o700)
        self._user.give(primary.data)
        options = ["-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "-U", _SUPERUSER, "--no-instructions", "--no-sync"]
        options.append("--wal-segsize=1")  # a whole segment is written before its first use, also at every promotion
        done = self._user.run([self._binaries.initdb, *options, "-D", str(primary.data)])
        assert done.returncode == 0, done.stderr
        primary.start()
        start = primary.dsn_of("postgres", role=_SUPERUSER)
        for statement in (
            f"CREATE ROLE {ROLE} LOGIN CREATEDB",
            f"GRANT pg_monitor TO {ROLE}",
            f"CREATE DATABASE {ROLE} OWNER {ROLE}",
        ):
            primary.fetchval(statement, dsn=start)
        return primary

    def _server(self) -> Server:
        home = self.home / f"server{len(self._servers)}"
        self._user.make_directories(home)
        server = Server(home, self._user, self._binaries, self._settings)
        self._servers.append(server)
        return server

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.primary.port} user={_SUPERUSER} sslmode=disable"

    def _await_streaming(self, standby: Server) -> None:
        streaming = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"
        eventually_sync(lambda: standby.fetchval(streaming), CATCH_UP_DEADLINE_S)


@contextlib.contextmanager
def replicated(home: Path, **options: Any) -> Iterator[Replicated]:
    """`Replicated` in a temporary directory, for fixtures."""
    try:
        with Replicated(home, **options) as servers:
            yield servers
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _pg_basebackup(binaries: Binaries) -> Path:
    """The path of a program of the servers' release, which a copy of the wheel's binaries does not include."""
    wheel = wheel_folder()
    for folder in (binaries.folder, *([wheel] if wheel else [])):
        if os.access(folder / "pg_basebackup", os.X_OK):
            return folder / "pg_basebackup"
    raise AssertionError(f"{binaries.folder} has no pg_basebackup")
