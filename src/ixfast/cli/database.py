"""The environment of a command: settings, key file and database.

Without a configured `dsn`, a command uses the private PostgreSQL of a running server, or starts it for the duration of the
command, which it reports on standard error. Only `ixfast serve` and `ixfast demo` create one in a directory that nobody named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg
import click
import msgspec

from ixfast.config.addresses import authority, reachable
from ixfast.config.settings import Settings
from ixfast.config.settings_loader import load
from ixfast.embedded import DatabaseInUseError, EmbeddedPostgres, EmbeddedPostgresError, default_data_dir
from ixfast.errors import ConfigurationError
from ixfast.keys import KeyEncryptionKeys, check_file
from ixfast.keys.key_file import KeyFile
from ixfast.store import key_holders, migrate, queries

T = TypeVar("T")

LOCK_WAIT_S = 5.0  # for another command that uses the private PostgreSQL
_LOCK_POLL_S = 0.05
_DSN_FILE = "dsn"
_ADDRESSES_FILE = "addresses"
_CACHED_STATEMENTS = 100
_ENVELOPES = 4  # Of the oldest and of the newest ones of each kind.


class ServerAddresses(NamedTuple):
    """The base URLs of a running server."""

    scans: str
    private: str

    @classmethod
    def of(cls, settings: Settings, port: int, private_port: int) -> Self:
        """Those of a server with these settings, at the ports that it bound."""
        return cls(
            f"{settings.scheme}://{authority(reachable(settings.host), port)}",
            f"{settings.private_scheme}://{authority(reachable(settings.private_host), private_port)}",
        )


class CommandEnvironment:
    """The resolved settings of a command, and the paths that follow from them."""

    def __init__(self, settings: Settings, *, demo: bool = False) -> None:
        """`demo` allows a private database to be created in the default data directory."""
        self.settings = settings
        self._may_create = demo or settings.data_dir is not None
        self.data_dir = (settings.data_dir or default_data_dir()).absolute()
        self.kek_file = settings.kek_file or self.data_dir / "kek"

    @property
    def dsn_file(self) -> Path:
        """Where a running server publishes the connection string of its embedded PostgreSQL; mode 0600."""
        return self.data_dir / _DSN_FILE

    async def keys(self, connection: Any) -> KeyEncryptionKeys:
        """Load the key-encryption keys. Raises ConfigurationError if the database has keys that are sealed under another one.

        A missing key file is created only for the embedded PostgreSQL, in its data directory, and only if nothing is sealed yet.
        """
        sealed = await sealed_ids(connection)
        if not sealed:
            self._make_keys()
        missing = self.missing_ids(sealed)
        if missing:
            raise ConfigurationError(self.missing_message(missing))
        return KeyEncryptionKeys.load_file(self.kek_file)

    async def sealing_keys(self, connection: Any) -> KeyEncryptionKeys:
        """The same for a command that stores keys. Raises ConfigurationError if a running server could not open them."""
        keks = await self.keys(connection)
        await key_holders.check_sealing(connection, keks)
        return keks

    def _make_keys(self) -> None:
        if self.settings.dsn is None and self.settings.kek_file is None and not self.kek_file.exists():
            KeyEncryptionKeys.create_file(self.kek_file)

    def has_key_file(self) -> bool:
        """Whether the key file exists, and this user may enter its directory."""
        return os.access(self.kek_file, os.F_OK)

    def check_key_file(self) -> None:
        """Raise ConfigurationError if the key file is unusable, unless it does not exist and may be created."""
        if self.settings.dsn is not None or self.settings.kek_file is not None or self.kek_file.exists():
            check_file(self.kek_file)

    async def check_keys(self, connection: Any) -> str | None:
        """Check the key file without contacting its providers. Raises ConfigurationError if it is unusable or has none of the
        keys that the database needs; returns a warning if it has only some.

        A host without the newest key is normal for a while during a rotation, and a server rereads the file when it changes.
        """
        sealed = await sealed_ids(connection)
        if not sealed:
            self._make_keys()
        check_file(self.kek_file)
        missing = self.missing_ids(sealed)
        if missing and missing == sealed:
            raise ConfigurationError(self.missing_message(missing))
        return self.missing_message(missing) if missing else None

    def missing_ids(self, sealed: set[str]) -> set[str]:
        """Those of the ids that the key file lacks."""
        return sealed - {line.id for line in KeyFile.read(self.kek_file).lines} if sealed else set()

    def missing_message(self, missing: set[str]) -> str:
        """The problem of a key file that lacks these keys, and how to fix it."""
        return (
            f"The database has keys that are sealed under {', '.join(sorted(missing))}, which {self.kek_file} lacks: restore its "
            "line from a backup, or set kek_file to the file of this database."
        )

    def check_addresses(self) -> None:
        """Raise ConfigurationError if the file of addresses is unusable."""
        if self.settings.addresses_file is None:
            return
        from ixfast.rules import visitors  # here because it loads the compiler of rules, too

        reason = visitors.open_addresses(self.settings.addresses_file)
        visitors.open_addresses(None)
        if reason is not None:
            raise ConfigurationError(f"addresses_file: {reason}.")

    @contextlib.contextmanager
    def database(self, *, create: bool = False) -> Iterator[str]:
        """Yield the connection string of `server`, whose database has the schema of this release.

        Pending `pre` migrations are applied to a private database, and with `create` also to a configured one. Otherwise raises
        SchemaMismatchError if a configured database lacks them: it may be that of another program.
        """
        with self.server(create=create) as dsn:
            asyncio.run(migrate.migrate(dsn) if create or self.settings.dsn is None else migrate.require_schema(dsn))
            yield dsn

    def run(self, work: Callable[[str], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine function, called with the connection string of `database`."""
        with self.database() as dsn:
            return asyncio.run(work(dsn))

    @contextlib.contextmanager
    def server(self, *, create: bool = False) -> Iterator[str]:
        """Yield a connection string: the configured one, that of a running server, or that of a private PostgreSQL that runs
        until the block ends.

        Waits up to `LOCK_WAIT_S` for another command that uses the private PostgreSQL, then raises EmbeddedPostgresError. Raises
        ConfigurationError if one would have to be created and neither `create`, `--demo` nor a setting `data_dir` allows that.
        """
        if self.settings.dsn is not None:
            yield self.settings.dsn
            return
        running = self.running_dsn()
        if running is not None:
            yield running
            return
        if not create:
            self.require_database()
        postgres = EmbeddedPostgres(self.data_dir)
        running = self._lock_or_running_dsn(postgres)
        if running is not None:
            yield running
            return
        try:
            click.echo(self.start_message(), err=True)
            postgres.start()
            yield postgres.dsn
        finally:
            postgres.stop()

    def _lock_or_running_dsn(self, postgres: EmbeddedPostgres) -> str | None:
        """Become the owner of the private PostgreSQL; if a server becomes it meanwhile, return its connection string."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                postgres.lock()
                return None
            except DatabaseInUseError as error:
                running = self.running_dsn()
                if running is not None:
                    return running
                if time.monotonic() > deadline:
                    raise EmbeddedPostgresError(
                        f"Another ixfast command (process {error.owner}) uses the database in {self.data_dir}; "
                        "try again when it has ended."
                    ) from None
            time.sleep(_LOCK_POLL_S)

    def require_database(self) -> None:
        """Raise ConfigurationError if there is no configured database, and no private one that may be used or created."""
        if self.settings.dsn is None and not self._may_create and not self.has_private_database():
            raise ConfigurationError(
                f"There is no database in {self.data_dir}. Name one with --dsn, create a private one with --data-dir DIRECTORY "
                "or --demo, or run `ixfast serve`."
            )

    def has_private_database(self) -> bool:
        """Whether the data directory contains a private database, running or not."""
        try:
            return EmbeddedPostgres(self.data_dir).cluster.exists()
        except PermissionError:
            raise self._other_user() from None

    def start_message(self) -> str:
        """The line that a command prints before it starts the private PostgreSQL."""
        verb = "Starting the" if self.has_private_database() else "Creating a"
        return f"{verb} private PostgreSQL in {self.data_dir}"

    def require_own_files(self, files: str, *flags: str) -> None:
        """Raise ConfigurationError if `dsn` is configured without `data_dir`: the default directory is that of another database.

        `files` and `flags` are what the message names.
        """
        if self.settings.dsn is not None and self.settings.data_dir is None:
            raise ConfigurationError(
                f"With --dsn, set {' or '.join(flags)} too: the {files} in {self.data_dir} belongs to another database."
            )

    def running_dsn(self) -> str | None:
        """The connection string of the private database, if its server runs."""
        try:
            dsn = self.dsn_file.read_text()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise self._other_user() from None
        return dsn if _reachable(dsn) else None

    def _other_user(self) -> ConfigurationError:
        return ConfigurationError(f"{self.data_dir} belongs to the server of another user; run this command as that user.")

    @property
    def addresses_file(self) -> Path:
        """Where a running server publishes its URLs; mode 0600."""
        return self.data_dir / _ADDRESSES_FILE

    def publish(self, dsn: str) -> None:
        """Publish the connection string of the embedded PostgreSQL for other commands."""
        self.withdraw()
        _write_private(self.dsn_file, dsn.encode())

    def publish_addresses(self, addresses: ServerAddresses) -> None:
        """Publish the URLs of the server for other commands."""
        self.addresses_file.unlink(missing_ok=True)
        _write_private(self.addresses_file, msgspec.json.encode(addresses._asdict()))

    def server_addresses(self) -> ServerAddresses | None:
        """The URLs of the server that uses this data directory for its private database, if one runs."""
        if self.settings.dsn is not None:
            return None
        try:
            found = ServerAddresses(**msgspec.json.decode(self.addresses_file.read_bytes()))
            url = urlsplit(found.private)
            socket.create_connection((unquote(str(url.hostname)), url.port or 0), timeout=2).close()
        except (OSError, ValueError, TypeError):  # there is none, it was killed, or another user's file cannot be read
            return None
        return found

    def withdraw(self) -> None:
        """Undo `publish` and `publish_addresses`."""
        self.dsn_file.unlink(missing_ok=True)
        self.addresses_file.unlink(missing_ok=True)


def _write_private(path: Path, content: bytes) -> None:
    """Create a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


async def sealed_ids(connection: Any) -> set[str]:
    """The ids of the key-encryption keys of a few of the oldest and newest envelopes. `connection` may be a pool."""
    return {row["kek_id"] for row in await connection.fetch(queries.load("fitness")["envelopes"], _ENVELOPES)}


def _reachable(dsn: str) -> bool:
    async def probe() -> None:
        connection = await asyncpg.connect(dsn, timeout=2)
        await connection.close()

    try:
        asyncio.run(probe())
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        return False
    return True


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    """A connection to a database of `CommandEnvironment.database`."""
    async with migrate.connected(dsn, statement_cache_size=_CACHED_STATEMENTS) as connection:
        yield connection


def resolve(flags: dict[str, object], config: Path | None) -> CommandEnvironment:
    """Load the settings from flags, environment and file, in that order of precedence. Raises ConfigurationError.

    `flags` are what `with_settings` adds to a command.
    """
    settings = {name: value for name, value in flags.items() if name != "demo"}
    return CommandEnvironment(load(settings, os.environ, config), demo=bool(flags.get("demo")))
