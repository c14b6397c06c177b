"""Explains in one line why the database cannot be used: what is wrong, and how to fix it.

`explained` wraps the opening of a connection, and `refusal` words an error that the server reported to a statement. Neither ever
contains the password.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg

from ixfast.errors import ConfigurationError
from ixfast.store.connections.connection_string import ConnectionString, not_understood

DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError)
"""What opening a connection raises, TLS and timeouts included."""


_TEMPORARY = ("08", "25", "53", "57")
"""SQLSTATE classes: a lost connection, a standby, a server without resources, one that starts or shuts down."""


class UnreachableDatabaseError(ConfigurationError):
    """No server that accepts writes can be reached."""


class RefusedConnectionError(ConfigurationError):
    """A server was reached, and the connection string, a certificate or the server itself does not allow to use it."""


@contextlib.contextmanager
def explained(dsn: str, patience_s: float, server: str = "database") -> Iterator[None]:
    """Raise UnreachableDatabaseError or RefusedConnectionError for what opening a connection raises."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise explain(error, dsn, patience_s, server) from None


def explain(error: BaseException, dsn: str, patience_s: float, server: str = "database") -> ConfigurationError:
    """The error to report for one of `DRIVER_ERRORS`. `server` names the server in the message."""
    string = ConnectionString(dsn)
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedConnectionError(_certificate(error, server))
    if isinstance(error, (ssl.SSLError, OSError, ValueError)) and not isinstance(error, TimeoutError):
        problem = string.file_problem()
        if problem is not None:
            return RefusedConnectionError(problem)
    if isinstance(error, ssl.SSLError):
        return RefusedConnectionError(f"TLS with the {server} failed: {error.reason or error}. Check its TLS settings and `dsn`.")
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return RefusedConnectionError(
            f"The {server} does not offer TLS, which sslmode={string.sslmode} demands: turn `ssl` on there, or change sslmode."
        )
    if isinstance(error, asyncpg.PostgresError):
        refused = _refused(error, string, server)
        if refused is not None:
            return RefusedConnectionError(refused)
    return UnreachableDatabaseError(
        f"Cannot connect to the {server}: {_reason(error, string, patience_s)}. Check `dsn`, the network and the server."
    )


def _certificate(error: ssl.SSLCertVerificationError, server: str) -> str:
    text = error.verify_message.rstrip(".")
    begin = text[:1] if text[1:2].isupper() else text[:1].lower()  # IP address mismatch
    what = f"The {server}'s certificate was refused: {begin}{text[1:]}"
    if "mismatch" in text or "not valid for" in text:
        return f"{what}. Connect to a name that is in the certificate, or have a certificate made for this one."
    if "expired" in text or "not yet valid" in text:
        return f"{what}. Renew it, and check the clock of this host."
    return f"{what}. Set sslrootcert to the certificate of the authority that signed it."


def _refused(error: asyncpg.PostgresError, string: ConnectionString, server: str) -> str | None:
    """The message for an error that only a change of configuration ends; None for any other."""
    text = _one_line(error)
    setting = string.refused_setting(text)
    if setting is not None:
        if "startup parameter" in text:
            return (
                f"The connection pooler does not accept the parameter {setting} of `dsn`. Remove it, and set it for the role "
                f"instead: ALTER ROLE … SET {setting} = …"
            )
        if isinstance(error, (asyncpg.UndefinedObjectError, asyncpg.CantChangeRuntimeParamError)):
            return not_understood(setting)
        return f"The {server} does not accept the value of the parameter {setting} of `dsn`: correct or remove it."
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):  # and a wrong password
        return f"The {server} refused the login: {text}. Check the user name, the password and the server's pg_hba.conf."
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return f"The {server} refused the login: {text}. Create the database, or correct its name in `dsn`."
    if "options" in string.server_settings and isinstance(error, asyncpg.UndefinedObjectError):
        return f"The {server} does not accept the parameter options of `dsn`: {text}. Correct or remove it."
    if (error.sqlstate or "").startswith(_TEMPORARY) and not isinstance(error, asyncpg.ProtocolViolationError):
        return None
    return f"The {server} refused the login: {text}."


def _reason(error: BaseException, string: ConnectionString, patience_s: float) -> str:
    if isinstance(error, TimeoutError | asyncio.TimeoutError) and not isinstance(error, ConnectionError):
        return f"no answer within {patience_s:.0f} s"
    if isinstance(error, socket.gaierror):
        names = sorted({name for host in string.hosts if (name := urlsplit(host).hostname)})
        return f"{error.strerror} ({', '.join(names)})"
    if "read-write" in str(error):  # the driver's TargetServerAttributeNotMatched
        return "its servers are standbys or read-only, and none accepts writes"
    if isinstance(error, FileNotFoundError):
        return "no server has a Unix socket there"
    return _one_line(error) or type(error).__name__


def _one_line(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, asyncpg.PostgresError) and error.args else str(error)
    return " ".join(text.split()).rstrip(".")
