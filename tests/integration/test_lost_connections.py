"""A connection that is lost while a statement sends its data ends the statement."""

from __future__ import annotations

import asyncio
import socket
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from support import eventually
from support.tcp_proxy import TcpProxy

from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.store.admin import edits, tag_edits, transactions
from ixfast.store.connections.lost import unless_lost
from ixfast.store.db_errors import DbErrorKind, db_error_kind
from ixfast.store.imports import importer

MANY = 100_000


async def import_file(connection: Any, account: int, group: int) -> None:
    lines = b"".join(b"04%012X,x%d\n" % (number, number) for number in range(MANY))
    keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
    await importer.import_tags(connection, keks, [b"UID,XUID\n", lines], account_id=account, group_id=group)


async def add_counters(connection: Any, account: int, group: int) -> None:
    await tag_edits.add_counters(connection, [(number, 0) for number in range(MANY)])


async def add_tags(connection: Any, account: int, group: int) -> None:
    keks = KeyEncryptionKeys([KeyEncryptionKey(bytes(range(32)))])
    await edits.add_tags(connection, keks, account, group, [edits.NewTag(f"x{n}", None, None) for n in range(MANY)])


async def note_changes(connection: Any, account: int, group: int) -> None:
    async with connection.transaction():
        await edits.changed(connection, *(("tag", number, f"x{number}") for number in range(MANY)))


@pytest.mark.parametrize(
    ("work", "module"),
    [(import_file, importer), (add_counters, tag_edits), (add_tags, tag_edits), (note_changes, transactions)],
)
async def test_the_statement_ends(
    postgres: Any, database: str, work: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy stops reading while the statement sends its data, and cuts the connection when asyncpg waits for the socket."""
    async with TcpProxy(postgres.port) as proxy:
        connection = await asyncpg.connect(postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port))
        account = await edits.create_account(connection, "shop")
        group = await edits.create_group(connection, await edits.create_folder(connection, account, "Shoes"), "Red", None)
        transport = connection._transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        async def stalled(connection: Any, send: Any) -> Any:
            proxy.stall_after(20_000)  # later than what prepares the statement
            return await unless_lost(connection, send)

        monkeypatch.setattr(module, "unless_lost", stalled)
        working = asyncio.create_task(work(connection, account, group))
        full = transport.get_write_buffer_limits()[1]
        await eventually(lambda: proxy.stalled and transport.get_write_buffer_size() > full, 20)
        assert not working.done()
        proxy.cut()
        done, _ = await asyncio.wait([working], timeout=10)
        working.cancel()
        assert done, "the statement still waits for the socket"
        error = working.exception()
        assert error is not None and db_error_kind(error) is DbErrorKind.LOST
        await eventually(connection.is_closed)


async def test_the_listener_is_removed(database: str) -> None:
    """Otherwise the pool would warn, and a later loss would end nothing."""
    connection = await asyncpg.connect(database)
    assert await unless_lost(connection, lambda: connection.fetchval("SELECT 1")) == 1
    with pytest.raises(asyncpg.UndefinedTableError):
        await unless_lost(connection, lambda: connection.fetchval("SELECT 1 FROM nothing"))
    assert not connection._termination_listeners
    await connection.close()
