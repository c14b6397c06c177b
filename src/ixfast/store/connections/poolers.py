"""Recognises a connection pooler that lends a connection of PostgreSQL for one transaction only.

ixfast needs sessions: those of the ledger fix the durability of their commits and the order in which they lock, and LISTEN and
prepared statements belong to a session, too. Behind a pooler of transactions, settings silently move on to other clients, so that
such an address is refused. A pooler that lends connections for whole sessions is fine.

A pooler cannot know the process of PostgreSQL that will serve a client, and invents the number that it sends at the beginning.
Only then is there anything to find out: two clients that are connected at the same time and get the same process cannot both have
a session of their own, nor can one client that gets two processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from ixfast.errors import ConfigurationError

_ROUNDS = 4
_SECOND_CLIENT_S = 2.0
_MESSAGE = (
    "`dsn` leads to a connection pooler that lends its connections for single transactions (PgBouncer with pool_mode = "
    "transaction, port 6543 of Supabase, a -pooler host of Neon), but ixfast needs sessions. Use the address of PostgreSQL "
    "itself, or a pooler in session mode."
)


class TransactionPoolerError(ConfigurationError):
    __doc__ = _MESSAGE


async def refuse_transaction_pooler(connection: Any, pid: int, open_second: Callable[[float], Awaitable[Any]]) -> None:
    """Raise TransactionPoolerError if the connection leads to a pooler of transactions.

    `pid` is what `pg_backend_pid` returned to it, which differs from the process that the connection got at its beginning.
    `open_second` opens another connection to the same address, within the given number of seconds.
    """
    try:
        async with asyncio.timeout(_SECOND_CLIENT_S):
            second = await open_second(_SECOND_CLIENT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return  # A pooler of sessions has none left for it; a pooler of transactions would have used the first one's.
    try:
        async with asyncio.timeout(_SECOND_CLIENT_S):
            for _ in range(_ROUNDS):
                other = await second.fetchval("SELECT pg_backend_pid()")
                if other == pid or await connection.fetchval("SELECT pg_backend_pid()") != pid:
                    raise TransactionPoolerError
    except TimeoutError:
        return
    finally:
        second.terminate()
