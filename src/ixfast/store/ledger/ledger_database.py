"""The statements that the ledger needs from its database, and PostgreSQL's implementation of them.

`LedgerDatabase` is the seam at which a simulation replaces PostgreSQL; the statements are in `sql/ledger.sql`. Committing is not
here: a committer has a `LedgerSession` of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from ixfast.domain.decision import Binding, CounterState, KeyedScan
from ixfast.store.connections.session import LedgerSession, pooled_connection
from ixfast.store.queries import load

UNKNOWN_TAG = 0  # the tag id of a scan whose tag is not registered

Refusal = tuple[int, int, int, str, str | None, int | None]
"""Scan id, tag id, position (-1: not known), verdict letter (`store.verdict_letters`), reason; and for an unknown tag, whose id
is 0, the account of the caller."""


class KeyedRefusal(NamedTuple):
    """A refusal under an Idempotency-Key: the members of `Refusal`, and what makes it the same one when its tap is sent again.

    `mark` identifies the tap under the key. `country` is that of the visitor, two letters, if the tag's group asks for it.
    """

    scan_id: int
    tag_id: int
    position: int
    verdict: str
    reason: str | None
    account_id: int | None
    mark: int
    fingerprint: int
    country: str | None = None


VisitorCountry = tuple[int, str, str]
"""Tag id, verdict letter, country (two letters)."""


class LedgerDatabase(Protocol):
    """Every method except `open_session` ends within `time_left_s` or raises TimeoutError; all raise what the driver raises."""

    async def open_session(self) -> LedgerSession: ...
    async def clock(self, time_left_s: float) -> float: ...
    async def settle(self, time_left_s: float) -> None: ...
    async def states(self, tag_ids: Collection[int], time_left_s: float) -> Sequence[CounterState]: ...
    async def bind_keys(self, bindings: Sequence[Binding], time_left_s: float) -> Sequence[Binding]: ...
    async def bindings(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[Binding]: ...
    async def keyed(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[KeyedScan]: ...
    async def logged(
        self, scan_ids: Collection[int], spans: Sequence[tuple[float, float]], time_left_s: float
    ) -> set[tuple[int, int]]: ...
    async def log_refusals(self, rows: Sequence[Refusal], time_left_s: float) -> None: ...
    async def log_keyed_refusals(self, rows: Sequence[KeyedRefusal], time_left_s: float) -> None: ...
    async def log_countries(self, rows: Sequence[VisitorCountry], time_left_s: float) -> None: ...


class PostgresLedgerDatabase:
    """Opens a session for each committer; everything else runs on connections of the worker's pool."""

    def __init__(self, dsn: str, pool: Any) -> None:
        self._dsn = dsn
        self._pool = pool
        self._sql = load("ledger")

    async def open_session(self) -> LedgerSession:
        return await LedgerSession.open(self._dsn)

    async def clock(self, time_left_s: float) -> float:
        """The database's clock, as Unix time in seconds."""
        async with pooled_connection(self._pool, time_left_s) as connection:
            return float(await connection.fetchval(self._sql["clock"]))

    async def settle(self, time_left_s: float) -> None:
        """Commit nothing and wait for it as for a pass: what was visible before is durable then, on synchronous standbys too."""
        async with pooled_connection(self._pool, time_left_s) as connection:
            await connection.execute(self._sql["settle"])

    async def states(self, tag_ids: Collection[int], time_left_s: float) -> Sequence[CounterState]:
        """The counter rows of these tags. A tag without one is left out."""
        return [CounterState(*row) for row in await self._fetch("states", time_left_s, list(tag_ids))]

    async def bind_keys(self, bindings: Sequence[Binding], time_left_s: float) -> Sequence[Binding]:
        """Bind each key, unless it is bound, and return what each is bound to. Ascending scan ids, each once."""
        return [Binding(*row) for row in await self._fetch("bind_keys", time_left_s, *map(list, zip(*bindings, strict=True)))]

    async def bindings(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[Binding]:
        """What those of these keys are bound to that are bound."""
        return [Binding(*row) for row in await self._fetch("bindings", time_left_s, list(scan_ids))]

    async def keyed(self, scan_ids: Collection[int], time_left_s: float) -> Sequence[KeyedScan]:
        """The first answers of those scans that have one. An index leads to each, so the size of the log does not matter."""
        return [KeyedScan(*row) for row in await self._fetch("keyed", time_left_s, list(scan_ids))]

    async def logged(
        self, scan_ids: Collection[int], spans: Sequence[tuple[float, float]], time_left_s: float
    ) -> set[tuple[int, int]]:
        """(tag id, scan id) of those scans that the log has as passes within these spans of the database's clock."""
        earliest, latest = zip(*spans, strict=True)
        return {(row[0], row[1]) for row in await self._fetch("logged", time_left_s, list(scan_ids), earliest, latest)}

    async def log_refusals(self, rows: Sequence[Refusal], time_left_s: float) -> None:
        await self._execute("log_refusals", time_left_s, rows)

    async def log_keyed_refusals(self, rows: Sequence[KeyedRefusal], time_left_s: float) -> None:
        """Log those of these refusals, with their countries, whose marks were not logged before. Each mark once."""
        await self._execute("log_keyed_refusals", time_left_s, rows)

    async def log_countries(self, rows: Sequence[VisitorCountry], time_left_s: float) -> None:
        await self._execute("log_countries", time_left_s, rows)

    async def _execute(self, name: str, time_left_s: float, rows: Sequence[tuple[Any, ...]]) -> None:
        async with pooled_connection(self._pool, time_left_s) as connection:
            await connection.execute(self._sql[name], *map(list, zip(*rows, strict=True)))

    async def _fetch(self, name: str, time_left_s: float, *arguments: Any) -> Any:
        async with pooled_connection(self._pool, time_left_s) as connection:
            return await connection.fetch(self._sql[name], *arguments)
