"""Keys at rest: envelopes around the AES-128 keys of tags, and the key-encryption keys that open them.

This room turns what the database holds into the 16 bytes that a chip scheme needs, when a record is loaded and never
while a scan waits. It stores nothing, talks to no network and decides no verdict.

Invariants: a key never appears in a `repr`, a message, a traceback or a pickle; an envelope opens only in the place
that it was sealed for (account, tag, slot, version); a failure to open one is an inability to answer, never a "Fail".
"""

from ixfast.keys.envelope import ENVELOPE_BYTES, KeySlot, check_value, unwrap, wrap
from ixfast.keys.kek import (
    DataKeyProvider,
    FileDataKeyProvider,
    KekFileError,
    KeyEncryptionKey,
    KeyEncryptionKeys,
    KeyEnvelopeError,
    KeyUnavailableError,
    UnknownKekError,
)

__all__ = [
    "ENVELOPE_BYTES",
    "DataKeyProvider",
    "FileDataKeyProvider",
    "KekFileError",
    "KeyEncryptionKey",
    "KeyEncryptionKeys",
    "KeyEnvelopeError",
    "KeySlot",
    "KeyUnavailableError",
    "UnknownKekError",
    "check_value",
    "unwrap",
    "wrap",
]
