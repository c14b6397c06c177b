"""Connects to the host that accepts writes, out of several in a connection string.

The driver applies one timeout to all hosts together. If the first is powered off, it neither accepts nor refuses, and uses up
all of that time. Therefore each host gets a timeout of its own, and the host that answered last is tried first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import asyncpg

from ixfast.store.connections.connection_string import ConnectionString

APPLICATION_NAME = "ixfast"

_last_reached: dict[str, str] = {}
"""By connection string, the single-host connection string that was connected last."""


async def connect(
    dsn: str,
    patience_s: float,
    *,
    target_session_attrs: str = "read-write",
    application_name: str = APPLICATION_NAME,
    **options: Any,
) -> Any:
    """Connect to the first host that accepts writes, with a timeout of `patience_s` for each.

    `application_name` is used unless the connection string has one.

    Raises ConnectionStringError or the driver's error, which `connect_errors` explains. If several hosts fail, an error that a
    server reported takes precedence over OSError and TimeoutError.
    """
    string = ConnectionString(dsn)
    options["server_settings"] = {"application_name": application_name} | string.server_settings
    tls = string.tls()
    if tls is not None:
        options["ssl"] = tls
    hosts = list(string.hosts)
    last = _last_reached.get(dsn)
    if last in hosts:
        hosts.remove(last)
        hosts.insert(0, last)
    failure: BaseException | None = None
    for host in hosts:
        try:
            async with asyncio.timeout(patience_s):
                connection = await asyncpg.connect(host, timeout=patience_s, target_session_attrs=target_session_attrs, **options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if failure is None or isinstance(failure, OSError):  # includes TimeoutError
                failure = error
        else:
            _last_reached[dsn] = host
            _set_socket_options(connection, string.socket_options)
            return connection
    assert failure is not None
    raise failure


def _set_socket_options(connection: Any, options: Sequence[tuple[int, int, int]]) -> None:
    """What the connection string says about a TCP connection; a Unix socket has no such options."""
    if not options:
        return
    endpoint = connection._transport.get_extra_info("socket")
    if endpoint.family != socket.AF_UNIX:
        for level, option, value in options:
            endpoint.setsockopt(level, option, value)
