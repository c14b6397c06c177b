"""The exit statuses of all commands, in one table, and which one each error has."""

from __future__ import annotations

import enum
import socket
import sys

from ixfast.errors import ConfigurationError, IxfastError, ProfileError, UnavailableError
from ixfast.process import interrupts


class ExitCode(enum.IntEnum):
    """The statuses. `MEANINGS` has the sentences that the help and docs/reference/command-line.md show."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NEGATIVE = 3
    CONFIGURATION = 4
    UNAVAILABLE = 5
    UNREADABLE = 6
    NO_TAG = 7
    USED = 8
    INACTIVE = 9
    INTERNAL = 70  # EX_SOFTWARE of sysexits(3)
    INTERRUPTED = interrupts.INTERRUPTED
    BROKEN_PIPE = 141  # 128 + SIGPIPE


MEANINGS = {
    ExitCode.OK: "The command succeeded.",
    ExitCode.FAILED: "The command failed, and a message on standard error gives the reason.",
    ExitCode.USAGE: "An option or argument is wrong.",
    ExitCode.NEGATIVE: "The command worked, and the answer is negative: a tap does not pass, no profile fits, or a check fails.",
    ExitCode.CONFIGURATION: (
        "A setting, or a file that a setting names, is missing or invalid, or another session keeps a table of the schema locked."
    ),
    ExitCode.UNAVAILABLE: "The database or a key service cannot be reached.",
    ExitCode.UNREADABLE: "ixfast verify: the URL is malformed, incomplete, or not a tap that the account's profiles read.",
    ExitCode.NO_TAG: "ixfast verify: there is no such tag, or no such account.",
    ExitCode.USED: "ixfast verify: the tap is authentic, but a tap with this counter or a higher one has passed.",
    ExitCode.INACTIVE: "ixfast verify: the tap is authentic, but the tag or something above it is inactive.",
    ExitCode.INTERNAL: "An unexpected error, which is a bug. IXFAST_TRACEBACK=1 shows the traceback.",
    ExitCode.INTERRUPTED: "The command was interrupted by Ctrl-C.",
    ExitCode.BROKEN_PIPE: "The reader of the output closed the pipe.",
}


def exit_code_of(error: IxfastError) -> ExitCode:
    """The status for an error that ends a command."""
    if isinstance(error, (UnavailableError, *_unavailable())):
        return ExitCode.UNAVAILABLE
    if isinstance(error, ConfigurationError) and not isinstance(error, (ProfileError, *_failures())):
        return ExitCode.CONFIGURATION
    return ExitCode.FAILED


def system_failure(error: Exception) -> tuple[ExitCode, str] | None:
    """The status and the message for an error of the system or the database that no command expects; None for any other error.

    Messages of the database that may quote a value are left out, because the value may be a secret.
    """
    if "asyncpg" in sys.modules and (failure := _database_failure(error)) is not None:
        return failure
    if not isinstance(error, OSError) or error.strerror is None:
        return None
    if isinstance(error, (ConnectionError, socket.gaierror, TimeoutError)):
        return ExitCode.UNAVAILABLE, f"Cannot connect to the database: {error.strerror}. Check `dsn`, the network and the server."
    place = f"{error.filename}: " if error.filename is not None else ""
    return ExitCode.FAILED, f"{place}{error.strerror}."


def _database_failure(error: Exception) -> tuple[ExitCode, str] | None:
    import asyncpg

    from ixfast.store.db_errors import DbErrorKind, db_error_kind

    if not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return None
    kind = db_error_kind(error)
    if kind is DbErrorKind.LOST:
        return ExitCode.UNAVAILABLE, "The connection to the database was lost. Run the command again."
    quotes_a_value = kind in (DbErrorKind.BAD_VALUE, DbErrorKind.REFUSED)
    reason = type(error).__name__ if quotes_a_value else str(error.args[0] if error.args else kind.value)
    return ExitCode.FAILED, f"The database refused the command: {' '.join(reason.split()).rstrip('.')}."


def _unavailable() -> list[type]:
    return _loaded(
        ("ixfast.store.connections.connect_errors", "UnreachableDatabaseError"),
        ("ixfast.embedded", "EmbeddedPostgresError"),
        ("ixfast.keys", "ProviderError"),
    )


def _failures() -> list[type]:
    return _loaded(
        ("ixfast.store.admin.recovery", "RecoveryError"),
        ("ixfast.store.admin.rotation", "RotationError"),
        ("ixfast.store.migrate", "MigrationError"),
        ("ixfast.store.advisory_locks", "DatabaseLockedError"),
    )


def _loaded(*classes: tuple[str, str]) -> list[type]:
    """Those of the classes whose modules are imported: an error of any other class cannot have been raised."""
    return [getattr(sys.modules[module], name) for module, name in classes if module in sys.modules]
