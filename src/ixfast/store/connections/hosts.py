"""Connecting to whichever of several hosts accepts writes, though another one is silent.

A driver that is given several hosts and one time for all of them waits all that time for the first one: a host that was powered
off refuses nothing and answers nothing. So each host has a time of its own, and the one that answered last is asked first.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

_last: dict[str, str] = {}
"""By connection string, the host's own one that was reached last."""


def each_host(dsn: str) -> list[str]:
    """A connection string for each host of `dsn`, in its order; `dsn` itself if it names one or none, or cannot be read."""
    try:
        parts = urlsplit(dsn)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        return [dsn]  # the driver says what is wrong with it
    user, at, places = parts.netloc.rpartition("@")
    if "," in places:
        return [urlunsplit(parts._replace(netloc=f"{user}{at}{place}")) for place in places.split(",")]
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
    """A connection to the first host that accepts writes; each is given `patience_s`. Raises what the driver raises, of several
    errors one that a server gave rather than the silence of another."""
    hosts = each_host(dsn)
    last = _last.get(dsn)
    if last in hosts:
        hosts.remove(last)
        hosts.insert(0, last)
    failure: BaseException | None = None
    for host in hosts:
        try:
            async with asyncio.timeout(patience_s):
                connection = await asyncpg.connect(host, timeout=patience_s, target_session_attrs="read-write", **options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if failure is None or isinstance(failure, OSError):  # TimeoutError is one, too
                failure = error
        else:
            _last[dsn] = host
            return connection
    assert failure is not None
    raise failure
