"""Reads a connection string as libpq would, and sorts its parameters by who has to obey them.

The driver knows a part of libpq's parameters, and sends every other one to the server as a setting of the session, which then
refuses the connection. Here each parameter of libpq 18 is obeyed, passed over because it changes nothing for ixfast, or refused
by name because it demands something that the driver cannot do. Names that libpq does not know are sent to the server, as the
driver does: `search_path=tags` works.

`file_problem` finds the file at fault after a failed attempt, because the driver's errors do not name it.

No message contains a value, which may be a part of the password; files are named.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ixfast.config.dsn_form import dsn_mistake
from ixfast.errors import ConfigurationError

MALFORMED = "The connection string `dsn` is malformed. Percent-encode special characters in the user name and password."
_FRAGMENT = "`dsn`: remove the # and what follows it, or write %23 if the # is part of a value."

_PORT_MAX = 65535
_BAD_PORT = f"`dsn`: the port must be a number between 1 and {_PORT_MAX}."
_BAD_HOST = "`dsn`: the host is malformed. Write an IPv6 address in brackets, with the port behind them: [::1]:5432."

_FILES = {"sslrootcert": "PGSSLROOTCERT", "sslcrl": "PGSSLCRL", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}
"""Parameters that name files, and the environment variables that do."""
_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_DRIVER = frozenset(
    (
        *_FILES, "dbname", "database", "user", "password", "passfile", "service", "sslmode", "sslpassword", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib",
    )
)  # fmt: skip
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": _SSLMODES,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "primary", "read-only", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "gssencmode": ("disable", "prefer", "require"),
    "sslcertmode": ("disable", "allow", "require"),
}
_OFF = ("0", "false", "no", "off", "")
# Values that demand nothing of the driver; None means any. With another value the parameter is refused.
_PASSED_OVER: dict[str, tuple[str, ...] | None] = {
    "channel_binding": None,  # `weakened` reports `require`
    "client_encoding": None,  # always UTF-8
    "fallback_application_name": None,
    "load_balance_hosts": None,  # only one host accepts writes
    "sslcompression": None,  # libpq ignores it, too
    "sslsni": None,  # the driver always names the host
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": _OFF,
    "sslcertmode": ("allow",),
    "replication": _OFF,
    "min_protocol_version": ("3.0",),
    "max_protocol_version": None,
    # Of other clients, which providers print for them: Prisma, and integrations of Supabase and of node-postgres.
    "pgbouncer": None,
    "connection_limit": None,
    "pool_timeout": None,
    "supa": None,
    "uselibpqcompat": None,
}
_UNSUPPORTED = frozenset(
    (
        "require_auth", "requirepeer", "sslcrldir", "sslkeylogfile", "scram_client_key", "scram_server_key",
        "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
    )
)  # fmt: skip
_SOCKET_OPTIONS = {
    "keepalives": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "keepalives_idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "keepalives_interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "keepalives_count": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "tcp_user_timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}
PARAMETERS = frozenset(
    (*_DRIVER, *_CHOICES, *_PASSED_OVER, *_UNSUPPORTED, *_SOCKET_OPTIONS, "host", "hostaddr", "port", "connect_timeout")
) | {"requiressl"}
"""All parameters with a meaning here. Any other one is sent to the server."""
_SAYS_OTHERWISE = {
    "ssl": "sslmode=require",
    "ssl_mode": "sslmode=require",
    "schema": "search_path=NAME",
    "currentSchema": "search_path=NAME",
    "hostname": "host=NAME",
    "username": "user=NAME",
}
"""Names that other drivers use, and how libpq or PostgreSQL spells them."""
_HOST = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::([^:]*))?")


class ConnectionStringError(ConfigurationError):
    """The connection string is malformed or has a parameter that cannot be obeyed; the message names the parameter."""


class ConnectionString:
    """A parsed connection string. It has no `repr` that shows its content, which contains the password."""

    __slots__ = ("connect_timeout_s", "hosts", "parameters", "server_settings", "socket_options", "weakened")

    def __init__(self, dsn: str) -> None:
        """Raises ConnectionStringError. No file is read."""
        parts = _split(dsn)
        self.parameters: dict[str, str] = {}
        """Those that the driver obeys, except `host` and `port`."""
        self.server_settings: dict[str, str] = {}
        """What the server is asked to set for the session."""
        self.socket_options: list[tuple[int, int, int]] = []
        self.connect_timeout_s: float | None = None
        """The time for each host; None if the string leaves it to ixfast."""
        self.weakened: list[str] = []
        """What the string demands and the driver cannot do."""
        given = _parameters(parts)
        hosts, ports = given.pop("host", ""), given.pop("port", "")
        if not hosts and not parts.netloc.rpartition("@")[2]:
            hosts = given.pop("hostaddr", "")  # next to a name, TLS would have to verify another name than that of the address
        for name, value in given.items():
            self._take(name, value)
        self.hosts = list(self._each_host(parts, hosts.split(","), ports.split(",")))
        """A connection string for each host, in order, with only what the driver obeys."""

    def _take(self, name: str, value: str) -> None:
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ConnectionStringError(f"`dsn`: {name} must be {', '.join(_CHOICES[name][:-1])} or {_CHOICES[name][-1]}.")
        if name in _DRIVER:
            self.parameters[name] = value
        elif name == "requiressl":
            if value not in _OFF:
                self.parameters.setdefault("sslmode", "require")
        elif name == "connect_timeout":
            seconds = _whole_number(name, value)
            # As libpq: zero and below mean without a limit, for which a day stands, and the shortest is 2 s.
            self.connect_timeout_s = float(max(seconds, 2)) if seconds > 0 else 86_400.0
        elif name in _SOCKET_OPTIONS:
            number = _whole_number(name, value)
            if name == "keepalives" or number > 0:
                self.socket_options.append((*_SOCKET_OPTIONS[name], number))
        elif name == "target_session_attrs":
            if value in ("read-only", "standby", "prefer-standby"):
                raise ConnectionStringError(
                    f"`dsn`: target_session_attrs={value} asks for a server that takes no scans; ixfast always uses the one that "
                    "accepts writes. Remove the parameter."
                )
        elif name in _PASSED_OVER:
            allowed = _PASSED_OVER[name]
            if allowed is not None and value.lower() not in allowed:
                raise _unsupported(name)
            if name == "channel_binding" and value == "require":
                self.weakened.append(name)
        elif name in _UNSUPPORTED or name == "hostaddr":
            raise _unsupported(name)
        else:
            self.server_settings[name] = value

    def _each_host(self, parts: SplitResult, hosts: list[str], ports: list[str]) -> Iterator[str]:
        user, at, addresses = parts.netloc.rpartition("@")
        query = {name: value for name, value in self.parameters.items() if not self.uses_system_roots or name not in _TLS}
        scheme, path = parts.scheme, parts.path
        if not any(hosts):  # as in libpq, those of the query take precedence
            port = ports[0] if ports[0] and ":" not in addresses.rpartition("]")[2] else ""
            for address in addresses.split(","):
                _check_address(address)
                yield f"{scheme}://{user}{at}{address}{f':{port}' if address and port else ''}{path}{_encoded(query)}"
            return
        if len(ports) not in (1, len(hosts)):
            raise ConnectionStringError(f"`dsn` names {len(hosts)} hosts and {len(ports)} ports: name one port, or one per host.")
        for index, host in enumerate(hosts):
            port = ports[index] if len(ports) == len(hosts) else ports[0]
            _check_port(port)
            own = {"host": host} | ({"port": port} if port else {}) | query
            yield f"{scheme}://{user}{at}{path}{_encoded(own)}"

    @property
    def sslmode(self) -> str:
        """The mode in effect."""
        default = "verify-full" if self.parameters.get("sslrootcert") == "system" else "prefer"
        return self.parameters.get("sslmode") or os.environ.get("PGSSLMODE") or default

    @property
    def uses_system_roots(self) -> bool:
        return self._file("sslrootcert") == "system"

    def tls(self) -> ssl.SSLContext | None:
        """The context for `sslrootcert=system`, which the driver does not know; None for everything that it knows."""
        if not self.uses_system_roots:
            return None
        if self.sslmode != "verify-full":
            raise ConnectionStringError(
                "`dsn`: sslrootcert=system needs sslmode=verify-full, since anyone can get a certificate."
            )
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["postgresql"])
        certificate = self._file("sslcert")
        if certificate:
            context.load_cert_chain(certificate, self._file("sslkey"), self.parameters.get("sslpassword", ""))
        return context

    def file_problem(self) -> str | None:
        """What is wrong with a file that the string or the environment names, if anything is."""
        verifies = self.sslmode.startswith("verify-")
        if self.sslmode == "disable":
            return None
        for name in _FILES:
            file = self._file(name)
            if not file or file == "system" or (name in ("sslrootcert", "sslcrl") and self.sslmode in ("allow", "prefer")):
                continue
            problem = _problem_of(name, file)
            if problem is not None:
                return f"`dsn`: {name}={file}: {problem}."
        certificate, key = self._file("sslcert"), self._file("sslkey") or _default_key()
        problem = _problem_of_pair(certificate, key, self.parameters.get("sslpassword", "")) if certificate else None
        if problem is not None:
            return f"`dsn`: {problem}."
        default = Path("~/.postgresql/root.crt").expanduser()
        if verifies and not self._file("sslrootcert") and not default.exists():
            return (
                f"`dsn`: sslmode={self.sslmode} needs the certificate of the authority that signed the server's: add "
                "sslrootcert=FILE, or sslrootcert=system for a public authority."
            )
        return None

    def _file(self, name: str) -> str | None:
        return self.parameters.get(name) or os.environ.get(_FILES[name])

    def refused_setting(self, message: str) -> str | None:
        """The parameter that a server refuses in this message, if it is one of the string's."""
        return next((name for name in self.server_settings if name in re.findall(r"[\w.]+", message)), None)


_TLS = frozenset(name for name in _DRIVER if name.startswith("ssl"))


def not_understood(name: str) -> str:
    """The message for a parameter that neither libpq nor the server knows."""
    instead = _SAYS_OTHERWISE.get(name) or _nearest(name)
    hint = f"write {instead} instead" if instead else "remove it"
    return f"`dsn`: the parameter {name} is not understood, neither by ixfast nor by the server; {hint}."


def _nearest(name: str) -> str | None:
    known = sorted(PARAMETERS - _UNSUPPORTED | {"application_name", "options"})
    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.8)), None)


def _split(dsn: str) -> SplitResult:
    mistake = dsn_mistake(dsn)
    if mistake is not None:
        raise ConnectionStringError(f"`dsn` must be {mistake}.")
    try:
        parts = urlsplit(dsn)
    except ValueError:  # a bracket without its pair
        user, _, host = re.split("[/?#]", dsn.partition("://")[2], maxsplit=1)[0].rpartition("@")
        is_host = ("[" in host or "]" in host) and not set("[]") & set(user) and "@" not in dsn.partition(host)[2]
        raise ConnectionStringError(_BAD_HOST if is_host else MALFORMED) from None
    # A special character of the password ends the part that it is in; the @ before the host is then in another one.
    without_user = ":" in parts.netloc and "@" not in parts.netloc
    if parts.netloc.count("@") > 1 or "@" in parts.fragment or (without_user and "@" in parts.path + parts.query):
        raise ConnectionStringError(MALFORMED)
    if parts.fragment:
        raise ConnectionStringError(_FRAGMENT)
    return parts


def _parameters(parts: SplitResult) -> dict[str, str]:
    given = {}
    for each in filter(None, parts.query.split("&")):
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise ConnectionStringError(_incomplete_parameter(unquote(name) if not equals else ""))
        given[unquote(name)] = unquote(value)
    return given


def _incomplete_parameter(name: str) -> str:
    """What is wrong with a parameter without a value, or with a value and no name. Only names of libpq are shown."""
    if name in PARAMETERS:
        return f"`dsn`: the parameter {name} has no value: write {name}=VALUE, or remove it."
    return "`dsn`: what follows the ? must be parameters of the form NAME=VALUE, separated by &."


def _encoded(parameters: Mapping[str, str]) -> str:
    return "?" + "&".join(f"{name}={quote(value, safe='/')}" for name, value in parameters.items()) if parameters else ""


def _check_address(address: str) -> None:
    match = _HOST.fullmatch(unquote(address) if address.startswith("%2") else address)
    if match is None:
        raise ConnectionStringError(_BAD_HOST)
    _check_port(match[2] or "")


def _check_port(port: str) -> None:
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) <= _PORT_MAX):
        raise ConnectionStringError(_BAD_PORT)


def _whole_number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConnectionStringError(f"`dsn`: {name} must be a whole number.") from None


def _unsupported(name: str) -> ConnectionStringError:
    return ConnectionStringError(f"`dsn`: ixfast does not support the parameter {name} with this value; remove it.")


def _problem_of(name: str, file: str) -> str | None:
    """Why this file cannot be used as the parameter `name`; None if it can."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        return error.strerror or type(error).__name__
    if name in ("sslrootcert", "sslcrl"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        except ssl.SSLError:
            return "the file has no certificate in PEM format" if name == "sslrootcert" else "the file has no revocation list"
    elif b"-----BEGIN" not in content:
        return "the file is not in PEM format"
    elif name == "sslkey" and b"PRIVATE KEY-----" not in content:
        return "the file has no private key"
    elif name == "sslcert" and b"-----BEGIN CERTIFICATE-----" not in content:
        return "the file has no certificate"
    return None


def _default_key() -> str | None:
    default = Path("~/.postgresql/postgresql.key").expanduser()
    return str(default) if default.exists() else None


def _problem_of_pair(certificate: str, key: str | None, password: str) -> str | None:
    """Why a readable certificate cannot be used with this key; without one, the key must be in the file of the certificate."""
    if key is None and b"PRIVATE KEY-----" not in Path(certificate).read_bytes():
        return f"sslcert={certificate}: the file has no private key: add sslkey=FILE"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password)
    except (ssl.SSLError, OSError):
        return (
            f"the private key in {key or certificate} cannot be used with the certificate in {certificate}: it belongs to "
            "another one, is damaged, or needs another sslpassword"
        )
    return None
