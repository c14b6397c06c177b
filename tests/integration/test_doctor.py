"""`ixfast doctor` on healthy, half-configured and broken installations. It changes nothing and shows no secret."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import administer, eventually_sync
from support.served import Served

from ixfast.cli import database_checks, host_checks, main
from ixfast.cli.database import CommandEnvironment
from ixfast.cli.exit_codes import ExitCode
from ixfast.cli.host_checks import checked
from ixfast.config.settings import Settings
from ixfast.keys import KeyEncryptionKeys
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

if TYPE_CHECKING:
    from conftest import Postgres

HOST = ["installation", "settings", "data directory", "key file", "TLS", "addresses file", "limits", "server"]
DATABASE = ["database", "pooler", "connections", "schema", "role", "partitions", "clocks", "keys", "ledger"]
KEY_DATA = b"K\0\0\0\x0c"  # BackendKeyData; the process id follows.
LINE = re.compile(r"^(OK  |WARN|FAIL)  (.{14})  (\S.*)$")


class Doctor:
    """The command with the settings of an installation, as environment variables."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        self.printed = ""

    def run(self, *words: str) -> Result:
        environ = {f"IXFAST_{name.upper()}": str(value) for name, value in self.settings.items()}
        result = CliRunner().invoke(main, ["doctor", *words], env=environ)
        self.printed += result.output
        return result

    def checks(self) -> dict[str, tuple[str, str]]:
        """Status and text by check. What people read and the JSON agree, and the exit status follows from them."""
        result = self.run("--json")
        document = json.loads(result.stdout)
        found = {each["name"]: (each["status"], each["text"]) for each in document["checks"]}
        failed = any(status == "FAIL" for status, _ in found.values())
        assert document["ok"] is not failed
        assert result.exit_code == (ExitCode.NEGATIVE if failed else ExitCode.OK)
        people = self.run()
        assert people.exit_code == result.exit_code and people.stderr == ""
        *lines, summary = people.stdout.splitlines()
        matches = [LINE.match(line) for line in lines]
        assert all(matches), lines
        assert [(m[2].rstrip(), m[1].rstrip()) for m in matches if m] == [(name, status) for name, (status, _) in found.items()]
        assert summary.startswith(f"{len(lines)} checks: ")
        return found

    def problems(self) -> dict[str, tuple[str, str]]:
        """The checks that are not OK, without those that depend on the machine that runs the tests."""
        return {name: each for name, each in self.checks().items() if each[0] != "OK" and name not in ("installation", "limits")}

    def only(self, name: str, status: str) -> str:
        """The text of the only check that is not OK."""
        problems = self.problems()
        assert {each: found for each, (found, _) in problems.items()} == {name: status}, problems
        return problems[name][1]


@pytest.fixture
def keks(tmp_path: Path) -> KeyEncryptionKeys:
    return KeyEncryptionKeys.create_file(tmp_path / "kek")


@pytest.fixture
def doctor(database: str, keks: KeyEncryptionKeys, tmp_path: Path, free_port: int) -> Doctor:
    """A healthy installation on an existing database, with a few tags. Its server does not run."""

    async def furnish() -> None:
        connection = await asyncpg.connect(database)
        await provision(connection, keks, [VirtualFleet(7, 20, "encrypted", account="acme")])
        await connection.close()

    asyncio.run(furnish())
    return Doctor(dsn=database, kek_file=tmp_path / "kek", port=free_port, private_port=0, workers=1)


def state(dsn: str) -> list[Any]:
    """Every table with its file, and every row."""

    async def read() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        names = await connection.fetch(
            "SELECT relname, pg_relation_filenode(oid) AS file FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace ORDER BY relname"
        )
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        )
        rows = [await connection.fetch(f"SELECT t::text FROM {row['relname']} AS t ORDER BY 1") for row in tables]
        await connection.close()
        return [list(map(tuple, names)), [list(map(tuple, each)) for each in rows]]

    return asyncio.run(read())


def test_a_healthy_installation(doctor: Doctor) -> None:
    before = state(doctor.settings["dsn"])  # type: ignore[arg-type]
    checks = doctor.checks()
    assert list(checks) == HOST + DATABASE
    assert doctor.problems() == {}
    assert checks["schema"][1].startswith("up to date") and checks["database"][1].startswith("PostgreSQL ")
    assert state(doctor.settings["dsn"]) == before  # type: ignore[arg-type]


def test_no_secret_is_shown(doctor: Doctor, tmp_path: Path) -> None:
    dsn = str(doctor.settings["dsn"])
    doctor.settings["dsn"] = dsn.replace("postgresql://", "postgresql://", 1)
    doctor.checks()
    doctor.settings["dsn"] = re.sub(r":([^:@/]+)@", r":hunter2-\1@", dsn)
    doctor.checks()
    doctor.settings["dsn"] = "postgresql://user:hunter2%zz@[::1/x"
    doctor.checks()
    password = re.search(r":([^:@/]+)@", dsn)
    key = (tmp_path / "kek").read_text().split()[-1]
    assert len(key) == 44 and key not in doctor.printed and base64.b64decode(key).hex() not in doctor.printed
    assert "hunter2" not in doctor.printed
    assert password is None or password[1] not in doctor.printed


def test_nothing_is_created(server_dir: Path, free_port: int) -> None:
    server_dir.mkdir(mode=0o755)
    doctor = Doctor(data_dir=server_dir / "data", port=free_port, private_port=0)
    text = doctor.only("database", "WARN")
    assert text.startswith(f"There is no database in {server_dir / 'data'}: ")
    assert "`ixfast serve` creates it" in doctor.checks()["key file"][1]
    assert list(server_dir.iterdir()) == []


def test_invalid_settings_end_the_checks(tmp_path: Path) -> None:
    checks = Doctor(data_dir=tmp_path, workers=0).checks()
    assert list(checks) == ["installation", "settings"]
    assert checks["settings"] == (
        "FAIL", "environment variable IXFAST_WORKERS: `workers` must be between 1 and 256, or `auto` (got 0)."
    )  # fmt: skip


# Files.


def test_a_missing_or_unusable_key_file(doctor: Doctor, tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.chmod(0o644)
    problems = doctor.problems()
    assert {name: status for name, (status, _) in problems.items()} == {"key file": "FAIL", "keys": "FAIL"}
    assert f"chmod 600 {path}" in problems["key file"][1]
    path.unlink()
    assert "correct the setting kek_file" in doctor.problems()["key file"][1]
    path.write_text("nonsense")
    path.chmod(0o600)
    assert "is not an ixfast key file" in doctor.problems()["key file"][1]


def test_the_key_file_of_another_database(doctor: Doctor, keks: KeyEncryptionKeys, tmp_path: Path) -> None:
    KeyEncryptionKeys.create_file(tmp_path / "other")
    doctor.settings["kek_file"] = tmp_path / "other"
    text = doctor.only("keys", "FAIL")
    assert keks.current.id in text and "restore its line from a backup" in text


def test_a_key_file_lost_from_a_private_database(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "data" / "postgresql" / "cluster").mkdir(parents=True)
    doctor = Doctor(data_dir=tmp_path / "data", port=free_port, private_port=0)
    problems = doctor.problems()
    assert problems["key file"][0] == "FAIL" and "restore it from its backup" in problems["key file"][1]
    assert problems["database"] == (
        "WARN", f"The private PostgreSQL in {tmp_path / 'data'} does not run; not checked: keys, schema, ledger. "
        "Run `ixfast serve`, then check again."
    )  # fmt: skip


def certificate(folder: Path, days: float, *, password: bytes | None = None, mode: int = 0o600) -> dict[str, Path]:
    """A certificate that expires this many days from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tag.example")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - dt.timedelta(days=300)).not_valid_after(now + dt.timedelta(days=days))
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    key_path.chmod(mode)
    return {"tls_cert": cert_path, "tls_key": key_path}


def test_certificates(doctor: Doctor, tmp_path: Path) -> None:
    def tls() -> tuple[str, str]:
        return doctor.checks()["TLS"]

    doctor.settings |= certificate(tmp_path, 90.5)
    assert tls()[0] == "OK"
    certificate(tmp_path, 90.5, mode=0o644)
    assert tls()[0] == "FAIL" and f"tls_key: {tmp_path}/key.pem is accessible to all users (mode 0644)" in tls()[1]
    certificate(tmp_path, 10)
    assert tls()[0] == "WARN" and "renew it" in tls()[1]
    certificate(tmp_path, -1)
    assert tls()[0] == "FAIL" and "not now: renew it" in tls()[1]
    certificate(tmp_path, 90, password=b"secret")
    assert tls()[0] == "FAIL" and "unencrypted" in tls()[1]
    (tmp_path / "cert.pem").unlink()
    assert tls() == ("FAIL", f"tls_cert: cannot read {tmp_path}/cert.pem: No such file or directory.")


def test_both_certificates(doctor: Doctor, tmp_path: Path) -> None:
    """The worse of the two decides."""
    for name, days in (("public", 90.0), ("private", 10.0)):
        (tmp_path / name).mkdir()
        files = certificate(tmp_path / name, days)
        doctor.settings |= files if name == "public" else {f"private_{setting}": path for setting, path in files.items()}
    status, text = doctor.checks()["TLS"]
    assert status == "WARN"
    assert f"{tmp_path}/public/cert.pem is valid until" in text and f"{tmp_path}/private/cert.pem is valid until" in text


def test_a_file_of_addresses(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "addresses.mmdb").write_text("nonsense")
    doctor.settings["addresses_file"] = tmp_path / "addresses.mmdb"
    assert "cannot be read as a MaxMind DB file" in doctor.only("addresses file", "FAIL")


def test_the_unix_socket(doctor: Doctor, open_scratch: Path) -> None:
    path = open_scratch / "doctor.sock"
    doctor.settings["unix_socket"] = path
    assert doctor.checks()["server"][0] == "OK"
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert "unix_socket: " in (text := doctor.only("server", "FAIL")) and "another server uses it" in text
    assert doctor.checks()["server"][0] == "OK"
    path.unlink()
    doctor.settings["unix_socket"] = open_scratch / "missing" / "doctor.sock"
    assert f"there is no directory {open_scratch / 'missing'}" in doctor.only("server", "FAIL")


def test_the_space_and_permissions_of_the_data_directory(
    server_dir: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_dir.mkdir(mode=0o755)
    doctor = Doctor(data_dir=server_dir, port=free_port, private_port=0)
    for free, status in ((5 << 30, "OK"), (1 << 30, "WARN"), (100 << 20, "FAIL")):
        monkeypatch.setattr(host_checks.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert doctor.checks()["data directory"][0] == status
    monkeypatch.undo()
    server_dir.chmod(0o777)
    assert f"chmod go-w {server_dir}" in doctor.checks()["data directory"][1]
    monkeypatch.setattr(host_checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=100 << 20))
    status, text = doctor.checks()["data directory"]
    assert status == "FAIL" and "0.1 GiB of free space" in text and f"chmod go-w {server_dir}" in text
    monkeypatch.undo()
    (server_dir / "file").touch()
    doctor.settings["data_dir"] = server_dir / "file" / "data"
    assert "is not a directory" in doctor.checks()["data directory"][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user, and can give a directory away")
def test_a_data_directory_of_another_user(server_dir: Path, free_port: int) -> None:
    """PostgreSQL, which does not run as root, must be able to enter it; the remedy is another user, not another owner."""
    server_dir.mkdir(exist_ok=True)
    server_dir.chmod(0o700)
    os.chown(server_dir, 1234, 1234)
    KeyEncryptionKeys.create_file(server_dir / "kek")
    os.chown(server_dir / "kek", 1234, 1234)
    checks = Doctor(data_dir=server_dir, port=free_port, private_port=0).checks()
    assert checks["data directory"][0] == "FAIL" and f"cannot enter {server_dir}:" in checks["data directory"][1]
    assert checks["key file"] == ("FAIL", f"{server_dir} belongs to user 1234: run ixfast as user 1234.")


def test_the_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks.resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(host_checks, "_swap_is_on", lambda: False)
    status, text = host_checks.check_limits(Settings())[1:]
    assert status == "WARN" and "ulimit -n 10200" in text
    assert host_checks.check_limits(Settings(max_connections=100)).status == "OK"
    monkeypatch.setattr(host_checks, "_swap_is_on", lambda: True)
    assert host_checks.check_limits(Settings(max_connections=100)).status == "WARN"


# Ports and servers.


def test_a_taken_port(doctor: Doctor) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(str(doctor.settings["port"]))))
        other.listen()
        assert "stop the other server or choose another port" in doctor.only("server", "FAIL")


def test_management_on_every_interface(doctor: Doctor) -> None:
    doctor.settings["private_host"] = "0.0.0.0"
    assert "exposes management on all network interfaces" in doctor.only("server", "WARN")


def test_a_running_server_on_a_private_database(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(server_dir, workers=1) as served:
        doctor = Doctor(data_dir=served.data_dir, port=served.port, private_port=served.private_port, workers=1)
        checks = doctor.checks()
        assert list(checks) == HOST + DATABASE and doctor.problems() == {}
        assert checks["server"][1] == f"runs at {served.private_url} and is ready"
        monkeypatch.setattr(host_checks, "versions", lambda: {"ixfast": "999"})
        assert host_checks.check_server(CommandEnvironment(Settings(private_port=served.private_port))).status == "WARN"
        monkeypatch.undo()
        administer(served.dsn, "ALTER TABLE keyed_scan RENAME TO keyed_scan_gone")
        environment = CommandEnvironment(Settings(private_port=served.private_port))
        eventually_sync(lambda: checked("server", lambda: host_checks.check_server(environment)).status == "FAIL", 30)
        problems = doctor.problems()
        assert "is not ready (" in problems["server"][1] and "schema_mismatch" in problems["server"][1]
        assert "A scan could not be stored (schema_mismatch)" in problems["ledger"][1]
        administer(served.dsn, "ALTER TABLE keyed_scan_gone RENAME TO keyed_scan")
    assert doctor.only("database", "WARN").endswith("Run `ixfast serve`, then check again.")


# The database.


def test_a_database_that_cannot_be_reached(doctor: Doctor) -> None:
    doctor.settings["dsn"] = "postgresql://someone:hunter2@127.0.0.1:1/nothing"
    text = doctor.only("database", "FAIL")
    assert text.startswith("Cannot connect to the database: ") and text.endswith("Check `dsn`, the network and the server.")
    assert list(doctor.checks()) == [*HOST, "database"]


def test_a_private_database_whose_server_was_killed(server_dir: Path, free_port: int) -> None:
    server_dir.mkdir(mode=0o755)
    (server_dir / "dsn").write_text("postgresql://ixfast:hunter2@127.0.0.1:1/ixfast")
    doctor = Doctor(data_dir=server_dir, port=free_port, private_port=0)
    assert doctor.only("database", "FAIL").endswith("its server was probably killed; run `ixfast serve` again.")
    assert "hunter2" not in doctor.printed


def test_a_read_only_database(doctor: Doctor) -> None:
    dsn = str(doctor.settings["dsn"])
    administer(dsn, f"ALTER DATABASE {dsn.partition('?')[0].rpartition('/')[2]} SET default_transaction_read_only = on")
    assert "turn default_transaction_read_only off" in doctor.only("database", "FAIL")


def test_a_schema_that_is_missing_or_not_up_to_date(doctor: Doctor) -> None:
    dsn = str(doctor.settings["dsn"])
    administer(dsn, "DELETE FROM schema_migration WHERE number = (SELECT max(number) FROM schema_migration)")
    assert doctor.only("schema", "FAIL").endswith("Run `ixfast migrate`.")
    administer(dsn, "DROP TABLE schema_migration")
    assert doctor.only("schema", "FAIL") == "The database has no ixfast schema. Run `ixfast migrate`."


def test_missing_partitions(doctor: Doctor) -> None:
    dsn = str(doctor.settings["dsn"])
    today = dt.datetime.now(dt.UTC).date()
    administer(dsn, f"DROP TABLE keyed_scan_{today + dt.timedelta(days=6):%Y_%m_%d}")
    assert f"keyed_scan_{today + dt.timedelta(days=6):%Y_%m_%d} will be needed" in doctor.only("partitions", "WARN")
    administer(dsn, f"DROP TABLE scan_log_{today:%Y_%m}")
    problems = doctor.problems()
    assert problems["partitions"] == ("FAIL", "The current partition of scan_log is missing. Run `ixfast migrate`.")
    assert "log_partition_missing" in problems["ledger"][1]


def test_too_few_connections(doctor: Doctor) -> None:
    doctor.settings |= {"workers": 256, "pool_size": 256}
    assert "raise max_connections of the server, or lower workers or pool_size" in doctor.only("connections", "FAIL")


class Pooler:
    """Leads to a server, and invents the process ids of connections, as a pooler does."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._sockets[0].getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                at = data.find(KEY_DATA)
                if at >= 0:
                    at += len(KEY_DATA)
                    data = data[:at] + (99).to_bytes(4) + data[at + 4 :]
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


def test_a_pooler_between_ixfast_and_the_server(doctor: Doctor, postgres: Postgres) -> None:
    dsn = str(doctor.settings["dsn"])
    with contextlib.closing(Pooler(postgres.port)) as pooler:
        name = dsn.partition("?")[0].rpartition("/")[2]
        doctor.settings["dsn"] = postgres.dsn_of(name, tcp=True, port=pooler.port)
        checks = doctor.checks()
        assert checks["pooler"] == (
            "OK",
            "one that lends connections for whole sessions; it must have as many as the workers need",
        )


def test_a_demand_of_the_connection_string_that_has_no_effect(doctor: Doctor) -> None:
    doctor.settings["dsn"] = f"{doctor.settings['dsn']}&channel_binding=require"
    assert doctor.only("dsn", "WARN").startswith("channel_binding=require of dsn has no effect")


SERVER = {
    "version": "17.1", "in_recovery": False, "read_only": False, "fsync": True, "full_page_writes": True, "pid": 7,
    "role": "app", "not_owned": [], "may_create": True, "schema": "tags",
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "facts", "status", "words"),
    [
        (database_checks._check_server, {}, "OK", "PostgreSQL 17.1"),
        (database_checks._check_server, {"in_recovery": True}, "FAIL", "is a standby"),
        (
            database_checks._check_server,
            {"fsync": False, "full_page_writes": False},
            "FAIL",
            "turn fsync and full_page_writes on",
        ),
    ],
)
def test_properties_of_a_server(check: Callable[..., Any], facts: dict[str, Any], status: str, words: str) -> None:
    connection = SimpleNamespace(
        get_server_pid=lambda: 7,
        get_server_version=lambda: SimpleNamespace(major=17),
        get_settings=lambda: SimpleNamespace(server_encoding="UTF8"),
    )
    found = check(connection, SERVER | facts)
    assert (found.status, words in found.text) == (status, True), found


def test_an_old_server_and_a_role_without_rights() -> None:
    old = SimpleNamespace(get_server_version=lambda: SimpleNamespace(major=12))
    assert "PostgreSQL 12" in database_checks._check_server(old, SERVER).text
    assert "the owner runs `ixfast maintain` daily" in database_checks._check_role(SERVER | {"not_owned": ["scan_log"]}).text
    assert "GRANT CREATE ON SCHEMA tags TO app" in database_checks._check_role(SERVER | {"may_create": False}).text
    lacks = [f"INSERT on table_{n}" for n in range(6)]
    lacking = database_checks._check_role(SERVER | {"not_owned": ["scan_log"]}, lacks)
    assert lacking.status == "FAIL"
    assert lacking.text.endswith("INSERT on table_3 and 2 more: run `ixfast migrate --grant-to app` as the owner of the tables.")


def test_a_check_that_breaks_does_not_hide_the_others(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "check_limits", lambda _: 1 // 0)
    checks = doctor.checks()
    assert checks["limits"] == ("FAIL", "This could not be checked: ZeroDivisionError. Please report it.")
    assert list(checks) == HOST + DATABASE
