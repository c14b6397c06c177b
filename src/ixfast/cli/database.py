"""Where a command works: settings, key file, and the database, which may be a private one that a server runs right now."""

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
    """What `--config`, environment and flags say, resolved."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data_dir = (settings.data_dir or default_data_dir()).absolute()
        self.kek_file = settings.kek_file or self.data_dir / "kek"

    @property
    def dsn_file(self) -> Path:
        """Where a running server with a private PostgreSQL says how to reach it; mode 0600."""
        return self.data_dir / _DSN_FILE

    def keys(self) -> KeyEncryptionKeys:
        """The key-encryption keys. A missing file is made only beside a private PostgreSQL that holds no key yet."""
        self._make_keys()
        return KeyEncryptionKeys.load_file(self.kek_file)

    def _make_keys(self) -> None:
        if self.settings.dsn is None and self.settings.kek_file is None and not self.kek_file.exists():
            KeyEncryptionKeys.create_file(self.kek_file)

    def check_keys(self) -> None:
        """Raise ConfigurationError for a key file that no worker could use. Its providers are not asked yet."""
        self._make_keys()
        check_file(self.kek_file)

    def check_addresses(self) -> None:
        """Raise ConfigurationError for a file of addresses that no worker could use."""
        reason = visitors.open_addresses(self.settings.addresses_file)
        visitors.open_addresses(None)
        if reason is not None:
            raise ConfigurationError(f"addresses_file: {reason}.")

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A connection string: the configured one, a running server's, or a private server's started for the while."""
        if self.settings.dsn is not None:
            yield self.settings.dsn
            return
        running = self._running_dsn()
        if running is not None:
            yield running
            return
        with EmbeddedPostgres(self.data_dir) as postgres:
            yield postgres.dsn

    def _running_dsn(self) -> str | None:
        try:
            dsn = self.dsn_file.read_text()
        except FileNotFoundError:
            return None
        except PermissionError:
            raise ConfigurationError(f"{self.data_dir} belongs to another user's server; run as that user.") from None
        return dsn if _reachable(dsn) else None

    def publish(self, dsn: str) -> None:
        """Tell other commands how to reach the private PostgreSQL."""
        self.withdraw()
        descriptor = os.open(self.dsn_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(dsn)

    def withdraw(self) -> None:
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
    """A connection to a database with our schema."""
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await fix_durability(connection)
        yield connection
    finally:
        await connection.close()


def resolve(flags: dict[str, object], config: Path | None) -> CommandEnvironment:
    """Settings from flags over environment over file. Raises click's UsageError with the settings' own message."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return CommandEnvironment(load(given, os.environ, config))
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
