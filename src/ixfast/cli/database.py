"""The environment of a command: settings, key file and database.

Without a configured `dsn`, a command uses the private PostgreSQL of a running server, or starts it for the duration of the
command, which it reports on standard error. Only `ixfast serve` and `ixfast demo` create one in a directory that nobody named.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import click

from ixfast.config.settings import Settings
from ixfast.config.settings_loader import load
from ixfast.embedded import EmbeddedPostgres, default_data_dir
from ixfast.errors import ConfigurationError
from ixfast.keys import KeyEncryptionKeys, check_file
from ixfast.rules import visitors
from ixfast.store.connections.session import fix_durability
from ixfast.store.migrate import migrate

_DSN_FILE = "dsn"


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

    def keys(self) -> KeyEncryptionKeys:
        """Load the key-encryption keys. A missing key file is created only for the embedded PostgreSQL, in its data directory."""
        self._make_keys()
        return KeyEncryptionKeys.load_file(self.kek_file)

    def _make_keys(self) -> None:
        if self.settings.dsn is None and self.settings.kek_file is None and not self.kek_file.exists():
            KeyEncryptionKeys.create_file(self.kek_file)

    def check_keys(self) -> None:
        """Raise ConfigurationError if the key file is unusable. Does not contact its providers."""
        self._make_keys()
        check_file(self.kek_file)

    def check_addresses(self) -> None:
        """Raise ConfigurationError if the file of addresses is unusable."""
        reason = visitors.open_addresses(self.settings.addresses_file)
        visitors.open_addresses(None)
        if reason is not None:
            raise ConfigurationError(f"addresses_file: {reason}.")

    @contextlib.contextmanager
    def database(self, *, create: bool = False) -> Iterator[str]:
        """Yield a connection string: the configured one, that of a running server, or that of a private PostgreSQL that runs
        until the block ends.

        Raises ConfigurationError if a private PostgreSQL would have to be created and neither `create`, `--demo` nor a setting
        `data_dir` allows that.
        """
        if self.settings.dsn is not None:
            yield self.settings.dsn
            return
        running = self._running_dsn()
        if running is not None:
            yield running
            return
        if not create:
            self.require_database()
        click.echo(self.start_message(), err=True)
        with EmbeddedPostgres(self.data_dir) as postgres:
            yield postgres.dsn

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

    def _running_dsn(self) -> str | None:
        try:
            dsn = self.dsn_file.read_text()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise self._other_user() from None
        return dsn if _reachable(dsn) else None

    def _other_user(self) -> ConfigurationError:
        return ConfigurationError(f"{self.data_dir} belongs to the server of another user; run this command as that user.")

    def publish(self, dsn: str) -> None:
        """Publish the connection string of the embedded PostgreSQL for other commands."""
        self.withdraw()
        descriptor = os.open(self.dsn_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(dsn)

    def withdraw(self) -> None:
        """Undo `publish`."""
        self.dsn_file.unlink(missing_ok=True)


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
    """A connection to the database, after applying pending `pre` migrations."""
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await fix_durability(connection)
        yield connection
    finally:
        await connection.close()


def resolve(flags: dict[str, object], config: Path | None) -> CommandEnvironment:
    """Load the settings from flags, environment and file, in that order of precedence. Raises ConfigurationError.

    `flags` are what `with_settings` adds to a command.
    """
    settings = {name: value for name, value in flags.items() if name != "demo"}
    return CommandEnvironment(load(settings, os.environ, config), demo=bool(flags.get("demo")))
