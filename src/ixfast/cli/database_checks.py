"""Checks of a database by `ixfast doctor`. They change nothing: what they write to prove that a scan could is rolled back."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ixfast.cli.database import CommandEnvironment, sealed_ids
from ixfast.cli.host_checks import Check
from ixfast.cli.management_client import SinglePool
from ixfast.config.settings import Settings
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys import KeyEncryptionKeys
from ixfast.store import migrate, partitions, privileges
from ixfast.store.connections import hosts
from ixfast.store.connections.connect_errors import DRIVER_ERRORS, explained
from ixfast.store.connections.connection_string import ConnectionString
from ixfast.store.connections.fitness import Fitness
from ixfast.store.connections.poolers import refuse_transaction_pooler
from ixfast.store.connections.session import LedgerSession, check_version
from ixfast.store.db_errors import reason_of
from ixfast.store.queries import load

_CONNECT_S = 5.0
_COMMAND: dict[str, Any] = {"application_name": "ixfast-command", "statement_cache_size": 0}
_SHOWN_MAX = 4  # Privileges that a message lists.
_CLOCKS_APART_WARN = dt.timedelta(seconds=2)
_SPARE_CONNECTIONS = 5  # For commands and interactive sessions.
_WEAKENED = (
    "channel_binding=require of dsn has no effect, because the driver has no channel binding. To be sure which server this is, "
    "use sslmode=verify-full with sslrootcert."
)
_REASONS = 'see "What a 503 says" in docs/how-to/operate.md'


class _NoLedger:
    """The ledger of a process that has none."""

    failure: str | None = None

    def forget_refusal(self) -> None:
        return


async def check_database(dsn: str, environment: CommandEnvironment) -> AsyncIterator[Check]:
    """Run the checks in order, and end after one that makes the others pointless."""
    settings, kek_file = environment.settings, environment.kek_file
    try:
        connection = await _connect(dsn)
    except ConfigurationError as error:
        yield Check("database", "FAIL", _unreachable(error, private=settings.dsn is None))
        return
    try:
        server = await connection.fetchrow(load("fitness")["server"])
        first = _check_server(connection, server)
        yield first
        if first.status == "FAIL":
            return
        yield (pooler := await _checked("pooler", lambda: _check_pooler(dsn, connection, server)))
        if pooler.status == "FAIL":
            return
        if ConnectionString(dsn).weakened:
            yield Check("dsn", "WARN", _WEAKENED)
        yield _check_connections(server, settings)
        schema = await _checked("schema", lambda: _check_schema(connection))
        yield schema
        if schema.status == "FAIL":
            return
        yield await _checked("role", lambda: _examine_role(connection, server))
        yield await _checked("partitions", lambda: _check_partitions(connection))
        yield await _checked("clocks", lambda: _check_clocks(connection))
        problems = await _examined(connection, kek_file)
        if environment.has_key_file():  # a missing one has a check of its own
            yield await _checked("keys", lambda: _check_keys(connection, environment, problems))
        yield await _checked("ledger", lambda: _check_ledger(dsn, problems))
    finally:
        await connection.close()


async def _connect(dsn: str) -> Any:
    """A connection to the host that accepts writes, or else to any, whose state the checks then report."""
    patience_s = ConnectionString(dsn).connect_timeout_s or _CONNECT_S
    with explained(dsn, patience_s):
        try:
            return await hosts.connect(dsn, patience_s, **_COMMAND)
        except DRIVER_ERRORS as error:
            try:
                return await hosts.connect(dsn, patience_s, target_session_attrs="any", **_COMMAND)
            except DRIVER_ERRORS:
                raise error from None


def _unreachable(error: ConfigurationError, *, private: bool) -> str:
    if private:
        reason = str(error).partition(". Check")[0].removeprefix("Cannot connect to the database: ").rstrip(".")
        return f"The private PostgreSQL does not answer ({reason}): its server was probably killed; run `ixfast serve` again."
    return str(error)


async def _checked(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
    try:
        async with asyncio.timeout(4 * _CONNECT_S):
            return await check()
    except IxfastError as error:
        return Check(name, "FAIL", str(error))
    except Exception as error:  # of any type: the other checks go on
        return Check(name, "FAIL", f"The database refused this check ({reason_of(error)}); {_REASONS}.")


def _check_server(connection: Any, server: Any) -> Check:
    try:
        check_version(connection)
    except ConfigurationError as error:
        return Check("database", "FAIL", str(error))
    text = f"PostgreSQL {server['version']}"
    if server["in_recovery"]:
        return Check(
            "database", "FAIL", f"{text} is a standby, which takes no scans: set dsn to the primary, or promote this one."
        )
    if server["read_only"]:
        return Check("database", "FAIL", f"{text} is read-only: turn default_transaction_read_only off.")
    off = [name for name in ("fsync", "full_page_writes") if not server[name]]
    if off:
        return Check(
            "database", "FAIL", f"{text} may lose what it acknowledged: turn {' and '.join(off)} on and reload its configuration."
        )
    return Check("database", "OK", f"{text}, keeps what it acknowledges (fsync, full_page_writes)")


async def _check_pooler(dsn: str, connection: Any, server: Any) -> Check:
    if connection.get_server_pid() == server["pid"]:
        return Check("pooler", "OK", "none between ixfast and PostgreSQL")
    await refuse_transaction_pooler(
        connection, server["pid"], lambda patience_s: hosts.connect(dsn, patience_s, target_session_attrs="any", **_COMMAND)
    )
    return Check("pooler", "OK", "one that lends connections for whole sessions; it must have as many as the workers need")


def _check_connections(server: Any, settings: Settings) -> Check:
    each = settings.committers + settings.pool_size + 1
    wanted, available = settings.worker_count * each + _SPARE_CONNECTIONS, server["connections"]
    text = f"{settings.worker_count} workers of this host need up to {wanted} connections; the server has {available}"
    if wanted > available:
        return Check("connections", "FAIL", f"{text}: raise max_connections of the server, or lower workers or pool_size.")
    return Check("connections", "OK", text)


async def _examine_role(connection: Any, server: Any) -> Check:
    return _check_role(server, await privileges.missing(connection))


def _check_role(server: Any, lacks: Sequence[str] = ()) -> Check:
    role, tables = server["role"], server["not_owned"]
    if lacks:
        shown = ", ".join(lacks[:_SHOWN_MAX]) + (f" and {len(lacks) - _SHOWN_MAX} more" if len(lacks) > _SHOWN_MAX else "")
        text = f"The role {role} lacks {shown}: run `ixfast migrate --grant-to {role}` as the owner of the tables."
        return Check("role", "FAIL", text)
    if tables:
        return Check("role", "OK", f"{role} may read and write and creates nothing; the owner runs `ixfast maintain` daily")
    if not server["may_create"]:
        return Check(
            "role",
            "FAIL",
            f"The role {role} cannot create tables, which partitions are: GRANT CREATE ON SCHEMA {server['schema']} TO {role}",
        )
    return Check("role", "OK", f"{role} owns the tables and can create partitions")


async def _check_schema(connection: Any) -> Check:
    await migrate.check(connection)
    later = [each.name for each in await migrate.pending(connection)]
    if later:
        return Check(
            "schema",
            "WARN",
            f"{', '.join(later)} is not applied: run `ixfast migrate --post` when no server of the previous release runs.",
        )
    return Check("schema", "OK", f"up to date ({len(migrate.migrations())} migrations)")


async def _check_partitions(connection: Any) -> Check:
    current = await partitions.current_missing(connection)
    if current:
        raise ConfigurationError(f"The current partition of {', '.join(current)} is missing. Run `ixfast migrate`.")
    clocks = await partitions.read_clocks(connection)
    later = []
    for table in partitions.TABLES:
        ranges = await partitions.ranges(connection, table)
        for day in table.wanted(clocks):
            noon = dt.datetime.combine(day, dt.time(12), dt.UTC)
            if not any(noon in each for each in ranges):
                later.append(table.name(day))
    if later:
        text = f"{', '.join(later)} will be needed: start the server, or run `ixfast maintain` as the owner of the tables."
        return Check("partitions", "WARN", text)
    return Check("partitions", "OK", "the current ones and those of the next weeks exist")


async def _check_clocks(connection: Any) -> Check:
    clocks = await partitions.read_clocks(connection)
    apart = abs(clocks.database - clocks.host)
    text = f"the clocks of this host and of the database differ by {apart.total_seconds():.1f} s"
    if not clocks.agree:
        return Check("clocks", "FAIL", f"{text}: set them right (NTP). API keys may expire at the wrong time.")
    if apart > _CLOCKS_APART_WARN:
        return Check("clocks", "WARN", f"{text}: synchronise them (NTP).")
    return Check("clocks", "OK", text)


async def _examined(connection: Any, kek_file: Path) -> dict[str, str]:
    """What a worker's own checks find, by part. A key file that cannot be used has a check of its own."""
    try:
        keks = KeyEncryptionKeys.load_file(kek_file)
    except IxfastError:
        keks = KeyEncryptionKeys.none_yet(_nothing)
    fitness = Fitness(SinglePool(connection), keks, _NoLedger())
    await fitness.examine()
    return fitness.problems


async def _nothing() -> None:
    return


async def _check_keys(connection: Any, environment: CommandEnvironment, problems: Mapping[str, str]) -> Check:
    """Whether the key file belongs to this database: a few of the oldest and newest envelopes are sealed under its keys."""
    sealed = await sealed_ids(connection)
    if not sealed:
        return Check("keys", "OK", "the database has no keys yet")
    kek_file, missing = environment.kek_file, environment.missing_ids(sealed)
    if missing:
        raise ConfigurationError(environment.missing_message(missing))
    if "keys" in problems:
        raise ConfigurationError(f"{kek_file} opens no key of the database: set kek_file to the file of this database.")
    return Check("keys", "OK", f"{kek_file} opens keys of this database")


async def _check_ledger(dsn: str, problems: Mapping[str, str]) -> Check:
    """What a worker does before it is ready: prepare the statements of the ledger, and write what a pass writes."""
    if "database" in problems:
        raise ConfigurationError(f"A scan could not be stored ({problems['database']}); {_REASONS}.")
    session = await LedgerSession.open(dsn)
    session.terminate()
    return Check("ledger", "OK", "a scan can be stored (tried and rolled back)")
