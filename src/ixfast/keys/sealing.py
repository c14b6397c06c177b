"""Making keys and opening them, each through the provider that its line of the key file names."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from ixfast.errors import ConfigurationError
from ixfast.keys.kek import KEK_BYTES, KeyEncryptionKey, kek_id
from ixfast.keys.key_file import FILE, KeyFile, KeyLine, plain_line
from ixfast.keys.provider import ProviderError, provider_named


def open_line(line: KeyLine) -> KeyEncryptionKey:
    """Open one key; blocks while its provider is asked. Raises `ProviderError` or `ConfigurationError`."""
    if line.provider == FILE:
        return KeyEncryptionKey(line.sealed)
    key32 = provider_named(line.provider).open(line.reference, line.sealed, line.id)
    if len(key32) != KEK_BYTES or not hmac.compare_digest(kek_id(key32), line.id):
        raise ProviderError(line.provider, f"what was opened is not key {line.id}; its line was altered")
    return KeyEncryptionKey(key32)


def make_line(provider: str, reference: str) -> KeyLine:
    """Make a random key, sealed by a provider and opened again to be sure."""
    key32 = secrets.token_bytes(KEK_BYTES)
    if provider == FILE:
        if reference:
            raise ConfigurationError("Provider file takes no key reference: the key stands in the file itself.")
        return plain_line(key32)
    service = provider_named(provider)
    if not reference or len(reference.split()) != 1:
        raise ConfigurationError(f"Provider {provider} needs the reference of a key, without white space; see docs/keys.md.")
    id_ = kek_id(key32)
    sealed = service.seal(reference, key32, id_)
    line = KeyLine(id_, provider, sealed.reference, sealed.blob)
    open_line(line)
    return line


def check_file(path: Path) -> None:
    """Read a key file and find its providers, without asking them. Raises `ConfigurationError`."""
    for provider in {line.provider for line in KeyFile.read(path).lines} - {FILE}:
        provider_named(provider)
