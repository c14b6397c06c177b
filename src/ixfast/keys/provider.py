"""Key providers: services that seal a key-encryption key for the key file and open it again.

A provider is a class registered in the entry-point group `ixfast.key_providers` and created without arguments. The built-in
ones are in `providers/`; other packages may register their own. Providers are called when keys are created or loaded, never for
a scan. They keep no connection open, find credentials in the same places as the service's own tools, and limit the time of each
call.
"""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol

from ixfast.errors import ConfigurationError
from ixfast.keys.kek import KeyUnavailableError

GROUP = "ixfast.key_providers"
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
_REASON_CHARS_MAX = 300
_EXTRAS = {"aws-kms": "aws", "gcp-kms": "gcp", "azure-keyvault": "azure", "pkcs11": "pkcs11"}


class ProviderError(KeyUnavailableError):
    """A key service failed to seal or open a key; the message has the service and its error."""

    def __init__(self, service: str, error: object) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        super().__init__(f"{service}: {text[:_REASON_CHARS_MAX]}")


class Sealed(NamedTuple):
    """A sealed key, and the reference to open it with, which may be more specific than the one used to seal it."""

    reference: str
    blob: bytes


class KeyProvider(Protocol):
    """A key service. `reference` names a key of the service, in its own notation and without white space.

    Both methods raise ProviderError for failures that may be temporary or can be fixed on the service's side, and
    ConfigurationError for a malformed reference. They block, for a few seconds at most.
    """

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed: ...

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes: ...


def provider_names() -> list[str]:
    """All installed providers except `file`."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def provider_named(name: str) -> KeyProvider:
    """Create the provider of this name. Raises ConfigurationError if there is none or its packages are not installed."""
    for point in entry_points(group=GROUP, name=name):
        try:
            provider: KeyProvider = point.load()()
        except ImportError as error:
            extra = f"; install ixfast[{_EXTRAS[name]}]" if name in _EXTRAS else ""
            raise ConfigurationError(f"The key provider {name} requires a package that is missing ({error}){extra}.") from None
        return provider
    known = ", ".join(["file", *provider_names()])
    raise ConfigurationError(f"There is no key provider {name!r}; available are {known}.")


def hush(*loggers: str) -> None:
    """Raise the log level of libraries to WARNING: at DEBUG some log requests and responses, and with them keys."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.WARNING)
