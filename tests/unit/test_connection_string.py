"""What each parameter of a connection string does: it is obeyed, passed over, refused by name, or sent to the server."""

from __future__ import annotations

import re
import socket
import ssl
from pathlib import Path

import pytest

from ixfast.config.dsn_form import dsn_mistake
from ixfast.config.settings_loader import load as load_settings
from ixfast.errors import ConfigurationError
from ixfast.store.connections import connection_string
from ixfast.store.connections.connect_errors import RefusedConnectionError, UnreachableDatabaseError, explain
from ixfast.store.connections.connection_string import ConnectionString, ConnectionStringError, not_understood
from ixfast.store.connections.poolers import TransactionPoolerError
from ixfast.store.queries import load

ROOT = Path(__file__).parents[2]
START = "postgresql://app:p4ss@db.example/tags"


def parsed(query: str) -> ConnectionString:
    return ConnectionString(f"{START}?{query}")


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require&channel_binding=require",  # Neon
        "channel_binding=prefer",
        "pgbouncer=true&connection_limit=1&pool_timeout=20",  # Supabase, Prisma
        "sslmode=require&supa=base-pooler.x",  # Supabase's integration of Vercel
        "target_session_attrs=read-write",
        "target_session_attrs=any&load_balance_hosts=random",
        "gssencmode=disable&sslcompression=0&sslsni=1&sslcertmode=allow",
        "replication=false&client_encoding=utf8&fallback_application_name=x",
        "min_protocol_version=3.0&max_protocol_version=latest",
    ],
)
def test_what_changes_nothing_is_passed_over(query: str) -> None:
    found = parsed(query)
    kept = "?sslmode=require" if "sslmode" in query else ""
    assert found.hosts == [START + kept] and found.server_settings == {} and found.socket_options == []
    assert found.weakened == (["channel_binding"] if "channel_binding=require" in query else [])


def test_what_the_driver_does_not_know_is_obeyed_here() -> None:
    found = parsed("connect_timeout=10&keepalives=1&keepalives_idle=30&keepalives_interval=0&tcp_user_timeout=9000")
    assert found.hosts == [START] and found.server_settings == {}
    assert found.connect_timeout_s == 10
    assert found.socket_options == [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9000),
    ]
    assert parsed("keepalives=0").socket_options == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)]
    assert parsed("connect_timeout=1").connect_timeout_s == 2  # as libpq
    assert parsed("connect_timeout=0").connect_timeout_s == 86_400  # no limit
    assert parsed("").connect_timeout_s is None
    assert parsed("requiressl=1").hosts == [f"{START}?sslmode=require"]


def test_what_is_set_in_the_session_is_sent_to_the_server() -> None:
    found = parsed("options=-c%20work_mem%3D8MB&application_name=shop&search_path=tags,public")
    assert found.hosts == [START]
    assert found.server_settings == {
        "options": "-c work_mem=8MB",
        "application_name": "shop",
        "search_path": "tags,public",
    }


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmode=no-verify", "sslmode must be disable, allow, prefer, require, verify-ca or verify-full."),
        ("channel_binding=yes", "channel_binding must be disable, prefer or require."),
        ("gssencmode=require", "does not support the parameter gssencmode with this value"),
        ("require_auth=scram-sha-256", "does not support the parameter require_auth"),
        ("hostaddr=10.0.0.1", "does not support the parameter hostaddr"),
        ("replication=database", "does not support the parameter replication"),
        ("target_session_attrs=standby", "target_session_attrs=standby asks for a server that takes no scans"),
        ("connect_timeout=soon", "connect_timeout must be a whole number."),
        ("keepalives_idle=30s", "keepalives_idle must be a whole number."),
        ("ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3."),
        ("sslmode=require,verify-ca", "sslmode must be"),
        ("sslmode", "the parameter sslmode has no value"),
    ],
)
def test_what_cannot_be_obeyed_is_named(query: str, words: str) -> None:
    with pytest.raises(ConnectionStringError, match=words) as caught:
        parsed(query)
    assert "p4ss" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa?a=ss", "pa#ss", "pa@ss", "pa[ss", "p:a/s@s", "1234/x", "12?a=b"])
def test_a_special_character_of_the_password_is_no_host_and_no_parameter(password: str) -> None:
    with pytest.raises(ConnectionStringError, match=r"^The connection string `dsn` is malformed\. Percent-encode") as caught:
        ConnectionString(f"postgresql://app:{password}@db.example:5432/tags")
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("?sslmode", "the parameter sslmode has no value: write sslmode=VALUE, or remove it."),
        (
            "?sslmode=require&connect_timeout",
            "the parameter connect_timeout has no value: write connect_timeout=VALUE, or remove it.",
        ),
        ("?p4ss", "what follows the ? must be parameters of the form NAME=VALUE, separated by &."),
        ("?=p4ss", "what follows the ? must be parameters of the form NAME=VALUE, separated by &."),
        ("#p4ss", "remove the # and what follows it, or write %23 if the # is part of a value."),
        ("?sslmode=require#p4ss", "remove the # and what follows it, or write %23 if the # is part of a value."),
    ],
)
@pytest.mark.parametrize("start", ["postgresql://app:p4ss@db.example:5432/tags", "postgresql://db.example/tags"])
def test_what_is_wrong_behind_the_database_is_not_blamed_on_the_password(start: str, end: str, message: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        ConnectionString(start + end)
    assert str(caught.value) == f"`dsn`: {message}"


# What is given, and the end of the sentence that begins with "`dsn` must be a URL of the form ...".
NO_URL_OF_POSTGRESQL = [
    ("mysql://app:p4ss@h/db", ": ixfast needs PostgreSQL, and this is a URL of MySQL"),
    ("mariadb+pymysql://app:p4ss@h/db", ": ixfast needs PostgreSQL, and this is a URL of MariaDB"),
    ("sqlite:///srv/p4ss.db", ": ixfast needs PostgreSQL, and this is a URL of SQLite"),
    ("sqlite:p4ss.db", ": ixfast needs PostgreSQL, and this is a URL of SQLite"),
    ("http://app:p4ss@h:5432/db", ": ixfast needs PostgreSQL, and this is a URL of HTTP"),
    ("https://p4ss.supabase.example", ": ixfast needs PostgreSQL, and this is a URL of HTTP"),
    ("mongodb+srv://app:p4ss@h/db", ": ixfast needs PostgreSQL, and this is a URL of MongoDB"),
    ("jdbc:mysql://h/db?password=p4ss", ": ixfast needs PostgreSQL, and this is a URL of MySQL"),
    ("p4ss://app:x@h/db", ": ixfast needs PostgreSQL"),
    ("jdbc:postgresql://h/db?user=app&password=p4ss", ", without jdbc: in front of it"),
    ("postgresql+asyncpg://app:p4ss@h/db", ", without the name of a driver before ://"),
    ("postgres+psycopg2://app:p4ss@h/db", ", without the name of a driver before ://"),
    ("PostgreSQL://app:p4ss@h/db", ", with postgresql:// in lower-case letters"),
    ('"postgresql://app:p4ss@h/db"', ", without quotes around it"),
    ("'postgres://app:p4ss@h/db'", ", without quotes around it"),
    ("\u201cpostgresql://app:p4ss@h/db\u201d", ", without quotes around it"),
    ('postgresql://app:p4ss@h/db"', ", without the quote at its end"),
    ("DATABASE_URL=postgresql://app:p4ss@h/db", ", without the name and the = in front of it"),
    ("export DATABASE_URL='postgresql://app:p4ss@h/db'", ", without the name and the = in front of it, and without quotes"),
    ('IXFAST_DSN = "postgresql+asyncpg://app:p4ss@h/db"', ", without the name and the = in front of it, and without quotes"),
    ("psql 'postgresql://app:p4ss@h/db'", ", without the command psql in front of it, and without quotes"),
    ("psql postgresql://app:p4ss@h/db", ", without the command psql in front of it"),
    ('psql  "postgresql://app:p4ss@h/db"', ", without the command psql in front of it, and without quotes"),
    ("<postgresql://app:p4ss@h/db>", ", without brackets around it"),
    ("[postgres://app:p4ss@h/db]", ", without brackets around it"),
    ("(postgresql://app:p4ss@h/db", ", without brackets around it"),
    ("host=h dbname=db password=p4ss", ", not a list of keywords such as host= and dbname="),
    ("db.p4ss.example:5432/db", ""),
    ("postgresql:/app:p4ss@h/db", ""),
    ("p4ss", ""),
]


@pytest.mark.parametrize(("dsn", "words"), NO_URL_OF_POSTGRESQL)
def test_what_is_no_url_of_postgresql_is_called_what_it_is(dsn: str, words: str) -> None:
    form = f"`dsn` must be a URL of the form postgresql://user:password@host:port/database{words}"
    with pytest.raises(ConnectionStringError) as caught:
        ConnectionString(dsn)
    assert str(caught.value) == f"{form}."
    with pytest.raises(ConfigurationError) as loaded:
        load_settings({"dsn": dsn}, {})
    assert str(loaded.value) == f"flag --dsn: {form} (the value is a secret and not shown)."
    assert "p4ss" not in str(caught.value) + str(loaded.value)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://app:p4'ss@h/db", "postgres://h/db", "postgresql:///db?host=/run/postgresql", "postgresql://app:a=b://c@h/db",
        "postgresql://app@h/db?options=-c%20a='b'", " postgresql://h/db\n",
    ],
)  # fmt: skip
def test_a_url_of_postgresql_is_none_of_these(dsn: str) -> None:
    assert dsn_mistake(dsn) is None
    assert load_settings({"dsn": dsn}, {}).dsn == dsn.strip()


@pytest.mark.parametrize(
    "dsn",
    [
        f"{START}?port=70000&host=a", "postgresql://h:x/db", "postgresql://h:0/db", "postgresql://app:p4ss@h:99999/db",
        "postgresql://app:p4ss@h:abc/db", "postgresql://app:p4ss@[::1]:-1/db", "postgresql://app:p4ss@a:5432,b:x/db",
    ],
)  # fmt: skip
def test_a_port_that_is_none_is_named(dsn: str) -> None:
    with pytest.raises(ConnectionStringError, match=r"^`dsn`: the port must be a number between 1 and 65535\.$"):
        ConnectionString(dsn)


@pytest.mark.parametrize("host", ["[::1", "::1]:5432", "::1:5432", "[::1]5432", "a,[::1:5432"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    with pytest.raises(ConnectionStringError, match=r"^`dsn`: the host is malformed\. Write an IPv6 address in brackets"):
        ConnectionString(f"postgresql://app:p4ss@{host}/db")


def test_hosts_of_the_query_take_precedence_as_in_libpq() -> None:
    assert ConnectionString("postgresql://u:p@localhost/db?host=/cloudsql/x").hosts == ["postgresql://u:p@/db?host=/cloudsql/x"]
    assert ConnectionString("postgresql:///db?hostaddr=10.0.0.1").hosts == ["postgresql:///db?host=10.0.0.1"]
    assert ConnectionString("postgresql://u@h/db?port=6000").hosts == ["postgresql://u@h:6000/db"]
    with pytest.raises(ConnectionStringError, match="names 3 hosts and 2 ports"):
        ConnectionString("postgresql:///db?host=a,b,c&port=1,2")


def test_the_certificates_of_the_system() -> None:
    found = parsed("sslrootcert=system")
    context = found.tls()
    assert found.sslmode == "verify-full" and context is not None and context.check_hostname
    assert found.hosts == [START]  # the driver would look for a file of this name
    assert parsed("sslmode=require").tls() is None
    with pytest.raises(ConnectionStringError, match="sslrootcert=system needs sslmode=verify-full"):
        parsed("sslrootcert=system&sslmode=require").tls()


def test_a_file_at_fault_is_named(tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("nonsense")
    assert parsed(f"sslmode=require&sslcert={text}").file_problem() == f"`dsn`: sslcert={text}: the file is not in PEM format."
    problem = parsed(f"sslmode=verify-ca&sslrootcert={text}").file_problem()
    assert problem == f"`dsn`: sslrootcert={text}: the file has no certificate in PEM format."
    problem = parsed(f"sslmode=verify-full&sslrootcert={tmp_path}").file_problem()
    assert problem == f"`dsn`: sslrootcert={tmp_path}: Is a directory."
    assert parsed("sslmode=require&sslcrl=/nope.crl").file_problem() == "`dsn`: sslcrl=/nope.crl: No such file or directory."
    assert parsed("sslmode=disable&sslrootcert=/nope.pem").file_problem() is None
    assert parsed("sslmode=prefer&sslrootcert=/nope.pem").file_problem() is None


def test_a_file_without_what_it_is_named_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a key
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for query, problem in (
        (f"sslcert={certificate}", f"sslcert={certificate}: the file has no private key: add sslkey=FILE."),
        (f"sslcert={certificate}&sslkey={certificate}", f"sslkey={certificate}: the file has no private key."),
        (f"sslcert={key}&sslkey={key}", f"sslcert={key}: the file has no certificate."),
        (
            f"sslcert={certificate}&sslkey={key}",
            f"the private key in {key} cannot be used with the certificate in {certificate}: ",
        ),
    ):
        found = parsed(f"sslmode=require&{query}").file_problem()
        assert found is not None and found.startswith(f"`dsn`: {problem}"), found


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("IP address mismatch, certificate", "refused: IP address mismatch"), ("Hostname mismatch", "refused: hostname mismatch")],
)
def test_the_reason_of_a_certificate_s_refusal(reason: str, shown: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = reason
    assert shown in str(explain(error, START, 5.0))


def test_files_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", "/nope.pem")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert parsed("").file_problem() == "`dsn`: sslrootcert=/nope.pem: No such file or directory."
    assert parsed("sslmode=disable").file_problem() is None


def test_the_names_of_other_drivers_have_a_hint() -> None:
    assert not_understood("ssl").endswith("write sslmode=require instead.")
    assert not_understood("sslmod").endswith("write sslmode instead.")
    assert not_understood("currentSchema").endswith("write search_path=NAME instead.")
    assert not_understood("colour").endswith("remove it.")


def test_nothing_shows_the_password() -> None:
    assert "p4ss" not in repr(parsed("sslmode=require"))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TimeoutError(), UnreachableDatabaseError, "Cannot connect to the database: no answer within 5 s. Check `dsn`"),
        (socket.gaierror(-2, "Name or service not known"), UnreachableDatabaseError, "service not known (db.example)"),
        (ConnectionRefusedError(111, "Connection refused"), UnreachableDatabaseError, "Connection refused"),
        (ConnectionError('"h:1" rejected SSL upgrade'), RefusedConnectionError, "does not offer TLS, which sslmode=prefer"),
    ],
)
def test_errors_of_the_network(error: Exception, kind: type[ConfigurationError], words: str) -> None:
    explained = explain(error, START, 5.0)
    assert type(explained) is kind and words in str(explained)


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    text = (ROOT / "docs" / page).read_text().partition(f"# {heading}\n")[2]
    assert text
    return re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_parameter_is_documented() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", section("reference/settings.md", "Connection string"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    known = connection_string.PARAMETERS | {"application_name", "options", "search_path"}
    assert documented | {"database", "hostaddr"} == known


def test_the_grants_in_the_guide_are_those_that_the_command_runs() -> None:
    lines = load("privileges")["grants"].format(schema="public", role="ixfast_app").splitlines()
    grants = "\n".join(line for line in lines if not line.startswith("--"))
    assert f"```sql\n{grants}\n```" in section("how-to/operate.md", "Two roles")


def test_the_refusal_in_the_guide_is_the_one_that_is_printed() -> None:
    assert f"```text\nError: {TransactionPoolerError()}\n```" in section("how-to/operate.md", "Connection poolers")
