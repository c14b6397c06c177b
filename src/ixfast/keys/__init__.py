"""Keys at rest: envelopes around the AES-128 keys of tags, and the key-encryption keys that open them.

The package turns the envelopes in the database into the 16-byte keys that a chip scheme needs, when a record is loaded and never
while a scan waits. It stores nothing but the key file, calls a key service only when keys are created or loaded, and decides no
verdict. May import `domain` and the root.

Invariants:
1. A key never appears in a `repr`, a message, a traceback or a pickle.
2. An envelope opens only in the location that it was sealed for (account, tag, slot, version).
3. A key that cannot be opened means that a scan cannot be answered (503); it never means a refusal.
"""

from ixfast.keys.derived_keys import DerivedKeys
from ixfast.keys.envelope import ENVELOPE_BYTES, KeySlot, check_value, unwrap, wrap, wrap_all
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
    "wrap_all",
]
