"""The reason that a 503 gives for a database error."""

import asyncpg
import pytest

from ixfast.store.db_errors import DbErrorKind, db_error_kind, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "deadline"),
        (asyncpg.QueryCanceledError("canceling statement due to statement timeout"), "deadline"),
        (asyncpg.LockNotAvailableError("canceling statement due to lock timeout"), "row_held"),
        (asyncpg.ReadOnlySQLTransactionError("x"), "database_read_only"),
        (asyncpg.InterfaceError("connection is closed"), "connection_lost"),
        (ConnectionResetError(), "connection_lost"),
    ],
)
def test_reason_of_what_was_not_read(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_ledger_statement_that_was_cut_short_is_tried_without_the_held_rows() -> None:
    assert db_error_kind(asyncpg.QueryCanceledError("x")) is DbErrorKind.HELD
