"""Arrays in PostgreSQL's binary form, as PostgreSQL reads them, and the ledger's statements with and without them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import asyncpg
import pytest

from ixfast.domain.scan import KEYED_FROM, position
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.store.connections import int_arrays
from ixfast.store.connections.session import LedgerSession
from ixfast.store.db_errors import DbErrorKind, db_error_kind
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(83, 3, account="shop")
KINDS = pytest.mark.parametrize("kind", ["bigint", "int"])
ARRAYS = pytest.mark.parametrize(
    "values",
    [[], [0], [-1, 1], [-(1 << 31), (1 << 31) - 1], list(range(-300, 3000, 7))],
    ids=["none", "zero", "signs", "limits", "many"],
)


@ARRAYS
@KINDS
async def test_postgresql_reads_them(database: str, kind: str, values: Sequence[int]) -> None:
    connection = await asyncpg.connect(database)
    assert int_arrays.handle_at_once(connection)
    read = await connection.fetchval(f"SELECT array_to_string($1::{kind}[], ' ')", values)
    assert [int(word) for word in read.split()] == values
    await connection.close()


@ARRAYS
@KINDS
async def test_what_postgresql_sends_is_read(database: str, kind: str, values: Sequence[int]) -> None:
    connection = await asyncpg.connect(database)
    written = "{" + ",".join(map(str, values)) + "}"
    own = await connection.fetchval(f"SELECT $1::text::{kind}[]", written)  # asyncpg's
    assert int_arrays.handle_at_once(connection)
    assert await connection.fetchval(f"SELECT $1::text::{kind}[] ", written) == tuple(own) == tuple(values)
    await connection.close()


@pytest.mark.parametrize("written", ["{1,NULL}", "{{1},{2}}"], ids=["null", "two_dimensions"])
@KINDS
async def test_other_arrays_are_refused(database: str, kind: str, written: str) -> None:
    connection = await asyncpg.connect(database)
    assert int_arrays.handle_at_once(connection)
    with pytest.raises(struct.error):
        await connection.fetchval(f"SELECT $1::text::{kind}[]", written)
    await connection.close()


@pytest.mark.parametrize(("kind", "bits"), [("bigint", 63), ("int", 31)])
async def test_values_that_do_not_fit_are_bad_values(database: str, kind: str, bits: int) -> None:
    connection = await asyncpg.connect(database)
    assert int_arrays.handle_at_once(connection)
    for value in (1 << bits, -(1 << bits) - 1):
        with pytest.raises(asyncpg.DataError) as caught:
            await connection.fetchval(f"SELECT $1::{kind}[]", [value])
        assert db_error_kind(caught.value) is DbErrorKind.BAD_VALUE
    await connection.close()


def test_an_asyncpg_that_works_differently_is_noticed() -> None:
    assert not int_arrays.handle_at_once(object())


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_ledger_advances_with_both_forms(database: str, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await asyncpg.connect(database)
    await provision(connection, KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))]), [FLEET])
    ids = [row["tag_id"] for row in await connection.fetch("SELECT tag_id FROM tag ORDER BY tag_id")]
    if not at_once:
        monkeypatch.setattr(int_arrays, "handle_at_once", lambda _connection: False)
    session = await LedgerSession.open(database)
    try:
        rows = await session.advance(ids, [position(1, 5), position(1, 6), -1], [7, 8, 9])
        assert list(rows) == [(tag_id, 0, 1) for tag_id in ids]
        assert not list(await session.advance(ids[:2], [position(1, 5)] * 2, [10, 11]))
        rows = await session.advance_keyed(ids[:2], [position(1, 5), position(1, 7)], [KEYED_FROM, KEYED_FROM + 1])
        assert list(rows) == [(ids[1], position(1, 6), 2)]
        rows = await session.advance_unheld(ids[:1], [position(1, 6)], [10])
        assert [tuple(row) for row in rows] == [(ids[0], position(1, 5), 2, True)]
    finally:
        session.terminate()
        await connection.close()
