"""Creates and opens key-encryption keys, each with the provider that its line of the key file names."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from ixfast.errors import ConfigurationError
from ixfast.keys.kek import KEK_BYTES, KeyEncryptionKey, kek_id
from ixfast.keys.key_file import FILE, KeyFile, KeyLine, plain_line
from ixfast.keys.provider import ProviderError, provider_named


def open_line(line: KeyLine) -> KeyEncryptionKey:
    """Open one key; blocks while calling its provider. Raises ProviderError or ConfigurationError."""
    if line.provider == FILE:
        return KeyEncryptionKey(line.sealed)
    key32 = provider_named(line.provider).open(line.reference, line.sealed, line.id)
    if len(key32) != KEK_BYTES or not hmac.compare_digest(kek_id(key32), line.id):
        raise ProviderError(line.provider, f"the opened key is not {line.id}; its line was altered")
    return KeyEncryptionKey(key32)


def make_line(provider: str, reference: str) -> KeyLine:
    """Create a random key sealed by a provider, and open it again as a check."""
    key32 = secrets.token_bytes(KEK_BYTES)
    if provider == FILE:
        if reference:
            raise ConfigurationError("The provider file takes no key reference: the key is stored in the file itself.")
        return plain_line(key32)
    service = provider_named(provider)
    if not reference or len(reference.split()) != 1:
        raise ConfigurationError(
            f"The provider {provider} requires a key reference without white space; see docs/how-to/manage-keys.md."
        )
    id_ = kek_id(key32)
    sealed = service.seal(reference, key32, id_)
    line = KeyLine(id_, provider, sealed.reference, sealed.blob)
    open_line(line)
    return line


def check_file(path: Path) -> None:
    """Check a key file and that its providers are installed, without calling them. Raises ConfigurationError."""
    for provider in {line.provider for line in KeyFile.read(path).lines} - {FILE}:
        provider_named(provider)
