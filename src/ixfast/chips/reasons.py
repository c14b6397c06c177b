"""Why a tap is not authentic: the reason codes that are logged, counted and returned by `/v2`. Codes never change."""

from types import MappingProxyType

REASONS = MappingProxyType(
    {
        # Ordered by how far the examination got: of several candidates, the reason furthest down is reported.
        "picc_unreadable": "the encrypted mirror cannot be decrypted with any live meta key",
        "uid_mismatch": "the mirrored UID differs from the registered UID",
        "counter_missing": "the tag mirrors no counter, and the profile does not allow that",
        "counter_range": "the counter is 0, but a tag's first read has 1; a chip that does not count cannot be replay-checked",
        "static_mismatch": "an authenticated static text differs from the registered one",
        "mac_mismatch": "the MAC does not match under any live file key",
        "no_key": "no file key is known for the tag",
        "no_meta_key": "no meta key is known for the encrypted mirror",
        "uid_missing": "the UID is part of the session vector, but was neither sent nor registered",
        "static_missing": "an authenticated static text was neither sent nor registered",
    }
)
"""Every `Evidence.reason`, with its meaning."""

UNDECIDED_REASONS = frozenset({"no_key", "no_meta_key", "uid_missing", "static_missing"})
"""Reasons that prove nothing against the tap: the operator has not supplied what is needed to examine it."""
