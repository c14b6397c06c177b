"""Azure Key Vault: RSA keys, wrapped and unwrapped with RSA-OAEP-256.

A reference is the identifier of a key, `https://….vault.azure.net/keys/NAME`, optionally with `/VERSION`. Without a version the
newest one wraps, and the line of the key file names it, because no other version can unwrap. Credentials are found by
`DefaultAzureCredential`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient, KeyVaultKeyIdentifier
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

from ixfast.errors import ConfigurationError
from ixfast.keys.provider import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, ProviderError, Sealed, hush

_ALGORITHM = KeyWrapAlgorithm.rsa_oaep_256
_TIMES = {"connection_timeout": CONNECT_TIMEOUT_S, "read_timeout": ANSWER_TIMEOUT_S, "retry_total": 1}


class AzureKeyVault:
    """Provider `azure-keyvault`. `credential` and `options` override the defaults of the clients."""

    def __init__(self, credential: Any = None, **options: Any) -> None:
        self._credential = credential
        self._options = _TIMES | options

    def seal(self, reference: str, key32: bytes, kek_id: str) -> Sealed:
        key = _identifier(reference)
        with self._credentials() as credential:
            with KeyClient(key.vault_url, credential, **self._options) as client:
                versioned: str = client.get_key(key.name, key.version).id
            with CryptographyClient(versioned, credential, **self._options) as client:
                return Sealed(versioned, client.wrap_key(_ALGORITHM, key32).encrypted_key)

    def open(self, reference: str, blob: bytes, kek_id: str) -> bytes:
        _identifier(reference)
        with self._credentials() as credential, CryptographyClient(reference, credential, **self._options) as client:
            key32: bytes = client.unwrap_key(_ALGORITHM, blob).key
            return key32

    @contextlib.contextmanager
    def _credentials(self) -> Iterator[Any]:
        hush("azure", "msal", "urllib3")
        try:
            if self._credential is not None:
                yield self._credential
                return
            with DefaultAzureCredential() as credential:
                yield credential
        except AzureError as error:
            raise ProviderError("Azure Key Vault", error) from None


def _identifier(reference: str) -> KeyVaultKeyIdentifier:
    try:
        return KeyVaultKeyIdentifier(reference)
    except ValueError:
        raise ConfigurationError(f"{reference} is not a key identifier; write https://….vault.azure.net/keys/NAME.") from None
