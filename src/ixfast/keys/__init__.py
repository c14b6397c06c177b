"""Keys at rest: envelopes around the AES-128 keys of tags, and the key-encryption keys that open them.

This room turns what the database holds into the 16 bytes that a chip scheme needs, when a record is loaded and never
while a scan waits. It stores nothing but the key file, asks a key service only when keys are made or loaded, and decides
no verdict.

Invariants: a key never appears in a `repr`, a message, a traceback or a pickle; an envelope opens only in the place
that it was sealed for (account, tag, slot, version); a failure to open one is an inability to answer, never a "Fail".
"""

from ixfast.keys.derived_keys import DerivedKeys
from ixfast.keys.envelope import ENVELOPE_BYTES, KeySlot, check_value, unwrap, wrap
from ixfast.keys.kek import KekFileError, KeyEncryptionKey, KeyEnvelopeError, KeyUnavailableError, UnknownKekError
from ixfast.keys.key_reloader import KeyReloader
from ixfast.keys.key_set import KeyEncryptionKeys
from ixfast.keys.provider import KeyProvider, ProviderError, Sealed
from ixfast.keys.sealing import check_file

__all__ = [
    "ENVELOPE_BYTES",
    "DerivedKeys",
    "KekFileError",
    "KeyEncryptionKey",
    "KeyEncryptionKeys",
    "KeyEnvelopeError",
    "KeyProvider",
    "KeyReloader",
    "KeySlot",
    "KeyUnavailableError",
    "ProviderError",
    "Sealed",
    "UnknownKekError",
    "check_file",
    "check_value",
    "unwrap",
    "wrap",
]
