"""Classifies database errors by what they mean for the statement that failed.

asyncpg also raises `InterfaceError` and `InternalClientError` when a server or connection breaks, and neither is a
`PostgresError`. Everything that is not an error reported by the server therefore counts as a lost connection with an unknown
outcome.
"""

import enum

import asyncpg


class DbErrorKind(enum.Enum):
    """The values are the reasons of a 503."""

    HELD = "row_held"  # a row is locked by another transaction; nothing was applied
    BAD_VALUE = "bad_value"  # the server rejected a value of the batch; nothing was applied
    LOST = "connection_lost"  # the outcome is unknown
    READ_ONLY = "database_read_only"  # the server was demoted; this connection stays read-only for good
    DISK_FULL = "database_full"
    SCHEMA = "schema_mismatch"
    NO_PARTITION = "log_partition_missing"  # the current partition was not created; nothing was applied
    REFUSED = "database_refused"  # any other error that the server reported; nothing was applied


_BY_SQLSTATE = (
    ("55P03", DbErrorKind.HELD), ("57014", DbErrorKind.HELD), ("40", DbErrorKind.HELD),
    ("22", DbErrorKind.BAD_VALUE), ("23", DbErrorKind.BAD_VALUE),
    ("25006", DbErrorKind.READ_ONLY), ("53", DbErrorKind.DISK_FULL), ("42", DbErrorKind.SCHEMA),
    ("08", DbErrorKind.LOST), ("57P", DbErrorKind.LOST), ("40003", DbErrorKind.LOST),
)  # fmt: skip


def db_error_kind(error: BaseException) -> DbErrorKind:
    """Classify an error of a statement by its SQLSTATE (PostgreSQL manual, appendix A). The longest matching prefix decides."""
    sqlstate = getattr(error, "sqlstate", None)
    if not isinstance(error, asyncpg.PostgresError) or sqlstate is None:
        return DbErrorKind.LOST
    if sqlstate == "23514" and error.constraint_name is None:
        return DbErrorKind.NO_PARTITION  # violations of check constraints have a constraint name
    matching = [(len(prefix), kind) for prefix, kind in _BY_SQLSTATE if sqlstate.startswith(prefix)]
    return max(matching, key=lambda m: m[0])[1] if matching else DbErrorKind.REFUSED


def reason_of(error: BaseException) -> str:
    """The reason of a 503 for a failed read.

    A statement that the server cancelled counts as `deadline`: it waited for CPU or disk. It cannot have waited for a row, since
    `lock_timeout` is shorter and has an SQLSTATE of its own.
    """
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
        return "deadline"
    return db_error_kind(error).value
