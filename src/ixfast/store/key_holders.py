"""Which running servers have which key-encryption keys open: announced by their workers, read before anything is sealed.

A host has a key file of its own, so no command on one host can see what another one opens. Each worker therefore announces the
ids of its open keys in the database: when it starts, when its keys change, and every few seconds. What is not renewed expires, so
that a host that is gone does not stand in the way for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ixfast.keys import KekFileError, KeyEncryptionKeys, KeyUnavailableError
from ixfast.store.connections.session import pooled_connection
from ixfast.store.db_errors import reason_of
from ixfast.store.queries import load

log = logging.getLogger("ixfast.keys")

ANNOUNCE_S = 5.0
EXPIRES_S = 30.0
"""A worker that has not announced its keys for this long counts as gone: it could not reach the database six times."""
_TIMEOUT_S = 2.0
_RETRY_S = 1.0


class SealingRefusedError(KekFileError, KeyUnavailableError):
    """A running server could not open what would be sealed; copy the key file there first."""


class Holder(NamedTuple):
    """The workers of one server: the keys that all of them have open, and those that one of them seals under."""

    host: str
    key_file: str
    workers: int
    opens: frozenset[str]
    seals: frozenset[str]

    def uses(self, key_file: Path) -> bool:
        """Whether its key file is this one, of this host."""
        return (self.host, self.key_file) == _place(key_file)

    def __str__(self) -> str:
        return f"{self.host} ({self.key_file})"


def _place(key_file: Path) -> tuple[str, str]:
    return socket.gethostname(), str(key_file.absolute())


class KeyAnnouncer:
    """Announces the keys of one worker. `server` is the same for all workers of a running `ixfast serve`, and for no other."""

    def __init__(self, pool: Any, keys: KeyEncryptionKeys, *, server: str, worker: int, key_file: Path) -> None:
        self._pool = pool
        self._keys = keys
        self._id = server, worker
        self._place = _place(key_file)
        self._sql = load("key_holders")
        self._wake = asyncio.Event()
        self._reason: str | None = None

    def changed(self) -> None:
        """Announce at once: the keys have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        while True:
            self._wake.clear()
            announced = await self._announce()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_S if announced else _RETRY_S):
                    await self._wake.wait()

    async def _announce(self) -> bool:
        order = self._keys.order
        reason = None
        try:
            async with pooled_connection(self._pool, _TIMEOUT_S) as connection:
                current = order[0] if order else None
                await connection.execute(self._sql["announce"], *self._id, *self._place, list(self._keys.ids), current)
        except Exception as error:  # whatever the database raises; readiness reports it, too
            reason = reason_of(error)
            if reason != self._reason:
                log.warning("cannot announce the open key-encryption keys: %s", reason)
        self._reason = reason
        return reason is None

    async def withdraw(self) -> None:
        """The worker ends. Best effort: otherwise its announcement expires."""
        with contextlib.suppress(Exception):
            async with pooled_connection(self._pool, _TIMEOUT_S) as connection:
                await connection.execute(self._sql["withdraw"], *self._id)


async def check_sealing(connection: Any, keks: KeyEncryptionKeys) -> None:
    """Raise SealingRefusedError if a running server could not open what is sealed under the current one of these keys."""
    if without := lacking(await holders(connection), keks.current.id):
        raise SealingRefusedError(
            f"The key file seals under {keks.current.id}, which is not open on {named(without)}: taps of the tags would get no "
            "verdict there. Copy the key file there first, or use the one of the servers."
        )


def lacking(known: Sequence[Holder], kek_id: str) -> list[Holder]:
    """The servers that have not announced this key."""
    return [holder for holder in known if kek_id not in holder.opens]


def sealing(known: Sequence[Holder], kek_id: str) -> list[Holder]:
    """The servers that still seal under this key."""
    return [holder for holder in known if kek_id in holder.seals]


def named(known: Sequence[Holder]) -> str:
    """The servers by host and key file, each once."""
    return ", ".join(dict.fromkeys(map(str, known)))


async def holders(connection: Any) -> list[Holder]:
    """The servers that have announced their keys and are not gone."""
    servers: dict[str, list[Any]] = {}
    for row in await connection.fetch(load("key_holders")["holders"], EXPIRES_S):
        servers.setdefault(row["server"], []).append(row)
    return [
        Holder(
            rows[0]["host"],
            rows[0]["key_file"],
            len(rows),
            frozenset.intersection(*(frozenset(row["kek_ids"]) for row in rows)),
            frozenset(row["current_id"] for row in rows if row["current_id"] is not None),
        )
        for rows in servers.values()
    ]


async def silent_addresses(connection: Any) -> list[str]:
    """Addresses of other hosts that use this database and announce nothing."""
    return [row["address"] for row in await connection.fetch(load("key_holders")["silent"], EXPIRES_S)]
