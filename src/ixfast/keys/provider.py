"""Key providers: services that seal a key-encryption key for the key file and open it again.

A provider is a class of the entry-point group `ixfast.key_providers`, made without arguments; those of this package are
in `providers/`, any other package may add its own. It is asked when keys are made and when they are loaded, never for a
scan. It keeps no connection, takes its credentials from where that service's own tools take them, and bounds its time.
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
    """A key service did not seal or open a key; the message says which one and what it said."""

    def __init__(self, service: str, error: object) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        super().__init__(f"{service}: {text[:_REASON_CHARS_MAX]}")


class Sealed(NamedTuple):
    """What a provider made of a key: the reference to open it with, which may be narrower than the given one."""

    reference: str
    blob: bytes


class KeyProvider(Protocol):
    """A key service. `reference` names a key inside it, in that service's own words and without white space.

    Both calls raise `ProviderError` for everything that may mend itself or be mended there, `ConfigurationError` for a
    reference that cannot be one. They block, for some seconds at the most.
    """

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed: ...

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes: ...


def provider_names() -> list[str]:
    """Every provider that is installed, beside `file`."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def provider_named(name: str) -> KeyProvider:
    """Make the provider of this name. `ConfigurationError` when there is none or its packages are not installed."""
    for point in entry_points(group=GROUP, name=name):
        try:
            provider: KeyProvider = point.load()()
        except ImportError as error:
            extra = f"; install ixfast[{_EXTRAS[name]}]" if name in _EXTRAS else ""
            raise ConfigurationError(f"The key provider {name} needs a package that is missing ({error}){extra}.") from None
        return provider
    known = ", ".join(["file", *provider_names()])
    raise ConfigurationError(f"There is no key provider {name!r}; there are {known}.")


def hush(*loggers: str) -> None:
    """Keep a library from logging below WARNING: at DEBUG some write requests and replies, and so keys."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.WARNING)
