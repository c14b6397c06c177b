"""A PgBouncer of a test's own, in front of the tests' PostgreSQL.

`IXFAST_TEST_PGBOUNCER` names the program of another release than the distribution's. The tests passed with 1.18 and 1.24.
"""

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ixfast.embedded import free_port
from support import eventually_sync
from support.requirements import requires

_USER = "postgres"  # as root, PgBouncer refuses to run


@contextlib.contextmanager
def pgbouncer(folder: Path, dsn: str, *, mode: str, **settings: object) -> Iterator[str]:
    """Yield a connection string that leads through a pooler to the database of `dsn`, which may be any of its server's.

    `mode` is a pool mode: session, transaction or statement.
    """
    program = os.environ.get("IXFAST_TEST_PGBOUNCER") or requires("pgbouncer", package="pgbouncer")
    folder.mkdir(mode=0o755)
    port = free_port()
    parts = urlsplit(dsn)
    (folder / "users").write_text(f'"{unquote(parts.username or "")}" "{unquote(parts.password or "")}"\n')
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": folder / "users",
        "pool_mode": mode,
        "logfile": folder / "log",
        **settings,
    }
    lines = [f"{name} = {value}" for name, value in options.items()]
    server = f"* = host={parts.hostname} port={parts.port}"
    (folder / "ini").write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
    user = None
    if os.geteuid() == 0:
        user = _USER
        account = pwd.getpwnam(_USER)
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, account.pw_uid, account.pw_gid)
    process = subprocess.Popen([program, str(folder / "ini")], user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually_sync(lambda: "process up" in _text(folder / "log") or process.poll() is not None)
        assert process.poll() is None, _text(folder / "log")
        yield parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
    finally:
        process.kill()
        process.wait()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
