"""What a database error means for the batch that met it.

asyncpg raises `InterfaceError` and `InternalClientError` for a broken server too, and neither is a `PostgresError`: whatever is
not a clear word of the server is a lost connection with an unknown outcome.
"""

import enum

import asyncpg


class DbErrorKind(enum.Enum):
    HELD = "row_held"  # somebody holds a row: nothing was applied
    BAD_VALUE = "bad_value"  # a value of the batch was refused: nothing was applied
    LOST = "connection_lost"  # the outcome is unknown
    READ_ONLY = "database_read_only"  # a demoted primary stays so on this connection for ever
    DISK_FULL = "database_full"
    SCHEMA = "schema_mismatch"
    NO_PARTITION = "log_partition_missing"  # the upkeep did not make this month's: nothing was applied
    REFUSED = "database_refused"  # the server said no for another reason: nothing was applied


_BY_SQLSTATE = (
    ("55P03", DbErrorKind.HELD), ("57014", DbErrorKind.HELD), ("40", DbErrorKind.HELD),
    ("22", DbErrorKind.BAD_VALUE), ("23", DbErrorKind.BAD_VALUE),
    ("25006", DbErrorKind.READ_ONLY), ("53", DbErrorKind.DISK_FULL), ("42", DbErrorKind.SCHEMA),
    ("08", DbErrorKind.LOST), ("57P", DbErrorKind.LOST), ("40003", DbErrorKind.LOST),
)  # fmt: skip


def db_error_kind(error: BaseException) -> DbErrorKind:
    """Classify an error of a statement by its SQLSTATE (PostgreSQL manual, appendix A); the longest prefix decides."""
    sqlstate = getattr(error, "sqlstate", None)
    if not isinstance(error, asyncpg.PostgresError) or sqlstate is None:
        return DbErrorKind.LOST
    if sqlstate == "23514" and error.constraint_name is None:
        return DbErrorKind.NO_PARTITION  # a check constraint has a name, a missing partition has none
    matching = [(len(prefix), trouble) for prefix, trouble in _BY_SQLSTATE if sqlstate.startswith(prefix)]
    return max(matching, key=lambda m: m[0])[1] if matching else DbErrorKind.REFUSED


def reason_of(error: BaseException) -> str:
    """Why nothing could be read, for a 503. What the server itself cut short waited for its turn or the disk: nobody waits for
    a row longer than `lock_timeout`, which has an SQLSTATE of its own."""
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
        return "deadline"
    return db_error_kind(error).value
