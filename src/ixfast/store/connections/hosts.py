"""Connects to the host that accepts writes, out of several in a connection string.

The driver applies one timeout to all hosts together. If the first is powered off, it neither accepts nor refuses, and uses up
all of that time. Therefore each host gets a timeout of its own, and the host that answered last is tried first.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

_last_reached: dict[str, str] = {}
"""By connection string, the single-host connection string that was connected last."""


def each_host(dsn: str) -> list[str]:
    """A connection string for each host of `dsn`, in its order; `dsn` itself if it names at most one or is malformed."""
    try:
        parts = urlsplit(dsn)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        return [dsn]  # the driver reports what is wrong with it
    user, at, addresses = parts.netloc.rpartition("@")
    if "," in addresses:
        return [urlunsplit(parts._replace(netloc=f"{user}{at}{address}")) for address in addresses.split(",")]
    names = query.get("host", "").split(",")
    if len(names) == 1:
        return [dsn]
    ports = query.get("port", "").split(",")
    found = []
    for index, name in enumerate(names):
        port = ports[index] if len(ports) == len(names) else ports[0]
        own = query | {"host": name} | ({"port": port} if port else {})
        found.append(f"{parts.scheme}://{parts.netloc}{parts.path}?{urlencode(own)}")  # urlunsplit would drop an empty netloc
    return found


async def connect(dsn: str, patience_s: float, **options: Any) -> Any:
    """Connect to the first host that accepts writes, with a timeout of `patience_s` for each.

    Raises the driver's error. If several hosts fail, an error that a server reported takes precedence over OSError and
    TimeoutError.
    """
    hosts = each_host(dsn)
    last = _last_reached.get(dsn)
    if last in hosts:
        hosts.remove(last)
        hosts.insert(0, last)
    failure: BaseException | None = None
    for host in hosts:
        try:
            async with asyncio.timeout(patience_s):
                connection = await asyncpg.connect(host, timeout=patience_s, target_session_attrs="read-write", **options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if failure is None or isinstance(failure, OSError):  # includes TimeoutError
                failure = error
        else:
            _last_reached[dsn] = host
            return connection
    assert failure is not None
    raise failure
