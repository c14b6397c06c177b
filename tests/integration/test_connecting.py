"""What a command says when it cannot use the database: about TLS, parameters, logins, rights and the state of the server.

The server has a certificate for db.example and [::1], and is connected to as 127.0.0.1.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import administer, in_own_loop
from support.replication import Replicated, Server, replicated
from support.requirements import skip_without

from ixfast.errors import ConfigurationError
from ixfast.store import migrate
from ixfast.store.connections import connect_errors, hosts
from ixfast.store.connections.connect_errors import RefusedConnectionError, UnreachableDatabaseError
from ixfast.store.connections.connection_string import ConnectionStringError
from ixfast.store.migrate import MigrationError

ROLES = (
    "CREATE ROLE guest LOGIN PASSWORD 'p4ss'",
    "CREATE DATABASE granted",
    "GRANT ALL PRIVILEGES ON DATABASE granted TO guest",
    "CREATE DATABASE closed",
    "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
    "CREATE DATABASE owned OWNER guest",
)


def write_certificates(folder: Path) -> None:
    """An authority (ca.pem) and a server's certificate and key (server.pem, server.key), and another authority (other.pem)."""
    now = dt.datetime.now(dt.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "other", "server")}
    names = x509.SubjectAlternativeName([x509.DNSName("db.example"), x509.IPAddress(ipaddress.ip_address("::1"))])
    for name, key in keys.items():
        authority = "ca" if name == "server" else name
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, authority)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name != "server", path_length=None), critical=True)
        )
        if name == "server":
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(keys[authority], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(keys["server"].private_bytes(encoding, form, serialization.NoEncryption()))


def offers_tls(server: Server) -> bool:
    """The server of the wheel is built without OpenSSL."""
    return re.search("with-(open)?ssl", server.fetchval("SELECT setting FROM pg_config WHERE name = 'CONFIGURE'")) is not None


@pytest.fixture(scope="module")
def servers(open_scratch: Path) -> Iterator[Replicated]:
    home = open_scratch / secrets.token_hex(4)
    with replicated(home, standbys=0) as alone:
        server = alone.primary
        for role in ROLES:
            server.fetchval(role)
        in_own_loop(lambda: migrate.migrate(server.dsn))
        write_certificates(home)
        key = home / "server.key"
        key.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(key, server.data.stat().st_uid)
        if offers_tls(server):
            server.stop()
            server.start(ssl="on", ssl_cert_file=str(home / "server.pem"), ssl_key_file=str(key))
        yield alone
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def server(servers: Replicated) -> Server:
    return servers.primary


def through_tls(server: Server, query: str) -> str:
    if not offers_tls(server):
        skip_without("a PostgreSQL server with TLS", package="postgresql")
    return f"{server.dsn.partition('?')[0]}?{query.format(server.home.parent)}"


async def refusal(dsn: str, kind: type[ConfigurationError]) -> str:
    """The message of `ixfast migrate`, which must be one line without a secret."""
    with pytest.raises(ConfigurationError) as caught:
        await migrate.migrate(dsn)
    text = str(caught.value)
    assert type(caught.value) is kind, text
    assert "\n" not in text and "p4ss" not in text
    if kind is not UnreachableDatabaseError:
        assert "cannot connect" not in text.lower() and "percent-encode" not in text.lower()
    return text


# TLS.


@pytest.mark.parametrize(
    "query", ["sslmode=verify-ca&sslrootcert={}/ca.pem", "sslmode=require", "sslmode=require&channel_binding=require"]
)
async def test_tls_that_works(server: Server, query: str) -> None:
    """The control for the tests below."""
    connection = await hosts.connect(through_tls(server, query), 10.0)
    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "sslmode=verify-full&sslrootcert={}/ca.pem",
            "certificate is not valid for '127.0.0.1'. Connect to a name that is",
        ),
        ("sslmode=verify-full&sslrootcert={}/other.pem", "Set sslrootcert to the certificate of the authority that signed it."),
        ("sslmode=verify-ca&sslrootcert={}/other.pem", "Set sslrootcert to the certificate of the authority that signed it."),
        ("sslmode=verify-full&sslrootcert=system", "Set sslrootcert to the certificate of the authority that signed it."),
        ("sslmode=verify-full", "add sslrootcert=FILE, or sslrootcert=system for a public authority."),
        ("sslmode=verify-ca&sslrootcert={}/nope.pem", "/nope.pem: No such file or directory."),
        ("sslmode=require&sslrootcert={}/server.key", "/server.key: the file has no certificate in PEM format."),
        ("sslmode=require&sslcert=/nope.pem&sslkey=/nope.key", "sslcert=/nope.pem: No such file or directory."),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "TLS with the database failed: "),
    ],
)
async def test_tls_that_fails(server: Server, query: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without certificates
    assert words in await refusal(through_tls(server, query), RefusedConnectionError)


async def test_a_server_without_tls(postgres: object, database: str) -> None:
    parts = database.partition("?")
    dsn = postgres.dsn_of(parts[0].rpartition("/")[2], tcp=True).replace("sslmode=disable", "sslmode=require")  # type: ignore[attr-defined]
    assert "does not offer TLS, which sslmode=require demands" in await refusal(dsn, RefusedConnectionError)


# Parameters.


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("foo=bar", "the parameter foo is not understood"),
        ("ssl=true", "the parameter ssl is not understood, neither by ixfast nor by the server; write sslmode=require instead."),
        ("schema=tags", "write search_path=NAME instead."),
        ("statement_timeout=soon", "does not accept the value of the parameter statement_timeout"),
        ("options=-cnope%3D1", 'does not accept the parameter options of `dsn`: unrecognized configuration parameter "nope"'),
    ],
)
async def test_a_parameter_that_the_server_refuses(server: Server, query: str, words: str) -> None:
    assert words in await refusal(f"{server.dsn}&{query}", RefusedConnectionError)


async def test_parameters_that_take_effect(server: Server) -> None:
    query = "application_name=shop&options=-csearch_path%3Dpg_catalog&work_mem=7MB&keepalives_idle=33"
    connection = await hosts.connect(f"{server.dsn}&{query}", 10.0)
    shown = [await connection.fetchval(f"SHOW {name}") for name in ("application_name", "search_path", "work_mem")]
    assert shown == ["shop", "pg_catalog", "7MB"]
    option = hosts.socket.TCP_KEEPIDLE
    assert connection._transport.get_extra_info("socket").getsockopt(hosts.socket.IPPROTO_TCP, option) == 33
    await connection.close()


async def test_the_time_that_a_connection_string_gives_to_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    async def connect(_dsn: str, patience_s: float, **_options: object) -> None:
        given.append(patience_s)
        raise TimeoutError

    monkeypatch.setattr(hosts, "connect", connect)
    for query in ("", "?connect_timeout=3"):
        with pytest.raises(UnreachableDatabaseError, match=r"no answer within (10|3) s"):
            await migrate.migrate(f"postgresql://u@h/db{query}")
    assert given == [10.0, 3.0]


# Logins and rights.


async def test_a_wrong_password(postgres: object, database: str) -> None:
    dsn = postgres.dsn_of(database.partition("?")[0].rpartition("/")[2], tcp=True)  # type: ignore[attr-defined]
    user, _, rest = dsn.partition("@")
    text = await refusal(f"{user.rpartition(':')[0]}:p4ss@{rest}", RefusedConnectionError)
    assert 'refused the login: password authentication failed for user "ixfast". Check the user name, the password' in text


async def test_a_database_that_does_not_exist(server: Server) -> None:
    assert "Create the database, or correct its name" in await refusal(server.dsn_of("nothing"), RefusedConnectionError)


async def test_a_database_that_the_role_may_not_connect_to(server: Server) -> None:
    text = await refusal(server.dsn_of("closed", role="guest"), RefusedConnectionError)
    assert text == 'The database refused the login: permission denied for database "closed".'


def run(dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "IXFAST_DSN": dsn}
    return subprocess.run([sys.executable, "-m", "ixfast", *words], env=environ, capture_output=True, text=True, timeout=60)


def test_a_role_without_the_right_to_create(server: Server) -> None:
    done = run(server.dsn_of("granted", role="guest"), "migrate")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: The role guest may not create tables in the schema public of granted, which belongs to postgres. Make it the "
        "owner (ALTER DATABASE granted OWNER TO guest), or give it a schema of its own (CREATE SCHEMA ixfast AUTHORIZATION "
        "guest; ALTER ROLE guest SET search_path = ixfast).\n"
    )


async def test_both_remedies_for_a_role_without_the_right_to_create(server: Server) -> None:
    await migrate.migrate(server.dsn_of("owned", role="guest"))
    server.fetchval("CREATE SCHEMA ixfast AUTHORIZATION guest", dsn=server.dsn_of("granted", role="postgres"))
    server.fetchval("ALTER ROLE guest IN DATABASE granted SET search_path = ixfast")
    dsn = server.dsn_of("granted", role="guest")
    assert await migrate.migrate(dsn) != []
    await migrate.require_schema(dsn)
    # The function that alters a table for others finds it in this schema.
    administer(dsn, "SELECT spread_new_counters(true)", "SELECT spread_new_counters(false)")


async def test_a_role_that_owns_nothing(server: Server) -> None:
    for attempt in (migrate.migrate, migrate.require_schema):
        with pytest.raises(MigrationError) as caught:
            await attempt(server.dsn_of("ixfast", role="guest"))
        text = str(caught.value)
        assert text.startswith("The role guest may not do this (permission denied for table schema_migration): ixfast owns")
        assert "--grant-to guest" in text


# The state of the server.


async def test_a_read_only_database(server: Server) -> None:
    dsn = server.dsn_of("owned", role="guest")
    await migrate.migrate(dsn)
    server.fetchval("DELETE FROM schema_migration", dsn=dsn)
    server.fetchval("ALTER ROLE guest SET default_transaction_read_only = on")
    try:
        text = await refusal(dsn, UnreachableDatabaseError)
        assert "its servers are standbys or read-only, and none accepts writes" in text
    finally:
        server.fetchval("ALTER ROLE guest RESET default_transaction_read_only")


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            "ERRCODE = 'disk_full', MESSAGE = 'could not extend file'",
            "no space, memory or connections left (could not extend",
        ),
        ("ERRCODE = 'read_only_sql_transaction'", "it is read-only: turn default_transaction_read_only off"),
        ("ERRCODE = 'query_canceled', MESSAGE = 'canceling'", "canceling; run the command again when it is less busy"),
        ("ERRCODE = 'duplicate_prepared_statement', MESSAGE = 'exists'", "exists (42P05)"),
        ("ERRCODE = 'internal_error', MESSAGE = E'two\\nlines'", "two lines (XX000)"),
    ],
)
async def test_a_server_that_refuses_a_migration(database: str, raised: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = f"CREATE TABLE half (); DO $$ BEGIN RAISE EXCEPTION USING {raised}; END $$"
    ours = [*migrate.migrations(), migrate.Migration(9001, "pre", "9001_pre_test.sql", sql)]
    monkeypatch.setattr(migrate, "migrations", lambda: ours)
    text = await refusal(database, MigrationError)
    assert text.startswith("The database refused applying 9001_pre_test.sql, of which nothing was kept: ") and words in text
    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    await connection.close()


async def test_without_the_explanation_the_driver_s_error_would_be_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the explanation is what makes a message of the driver's error."""
    monkeypatch.setattr(connect_errors, "DRIVER_ERRORS", ())
    with pytest.raises(ValueError, match="root certificate file"):  # which is not an error of parsing
        await migrate.migrate(through_tls(server, "sslmode=verify-full"))


async def test_a_scheme_with_a_driver(server: Server) -> None:
    surplus = {"postgresql+asyncpg": "without the name of a driver before ://", "jdbc:postgresql": "without jdbc: in front of it"}
    for scheme, words in surplus.items():
        done = run(f"{scheme}://u:p4ss@h/db", "migrate")
        assert words in done.stderr and "p4ss" not in done.stderr
    with pytest.raises(ConnectionStringError):
        await migrate.migrate("postgresql+asyncpg://u:p4ss@h/db")
