"""TLS of a listener: its certificate, which can be replaced while connections are open.

A handshake gets the certificate that was loaded last; open connections keep theirs. A certificate that cannot be loaded
replaces nothing.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from ixfast import secret_files
from ixfast.config.settings import Settings
from ixfast.errors import ConfigurationError


class Certificate:
    """The certificate of a listener. `name` is that of the setting with its file."""

    def __init__(self, name: str, cert: Path, key: Path) -> None:
        """Load it. Raises ConfigurationError if that fails."""
        self.name = name
        self.cert = cert
        self._key = key
        self.context = self._current = self._load()
        # Called in each handshake, whether the client names a server or not.
        self.context.sni_callback = self._choose

    @classmethod
    def public(cls, settings: Settings) -> Self | None:
        """That of the scan API; None if it serves HTTP."""
        return cls._of("tls_cert", settings.tls_cert, settings.tls_key)

    @classmethod
    def private(cls, settings: Settings) -> Self | None:
        """That of the private listener; None if it serves HTTP."""
        return cls._of("private_tls_cert", settings.private_tls_cert, settings.private_tls_key)

    @classmethod
    def _of(cls, name: str, cert: Path | None, key: Path | None) -> Self | None:
        return cls(name, cert, key) if cert is not None and key is not None else None

    def reload(self) -> None:
        """Use the files' present content for handshakes from now on. Raises ConfigurationError, and changes nothing, if it is
        unusable."""
        self._current = self._load()

    def _load(self) -> ssl.SSLContext:
        secret_files.check_path(self._key, self.name.replace("cert", "key"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            self.cert.read_bytes()  # the ssl module does not say which file cannot be read
            self._key.read_bytes()
            # Without a passphrase, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.cert, self._key, password="")
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{self.cert} and {self._key} cannot be used ({error.reason or type(error).__name__}): they must be a "
                "certificate chain in PEM format and its private key, unencrypted."
            ) from None
        except OSError as error:
            raise ConfigurationError(f"{self.name}: cannot read {error.filename}: {error.strerror}.") from None
        return context

    def _choose(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def check(settings: Settings) -> None:
    """Raise ConfigurationError if a listener's certificate cannot be used."""
    Certificate.public(settings)
    Certificate.private(settings)
