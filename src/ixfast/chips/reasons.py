"""Why a tap is not authentic, in stable words: they are logged, counted and shown by `/v2`."""

from types import MappingProxyType

REASONS = MappingProxyType(
    {
        # From the least to the most that is known: of several candidates the last one's reason is told.
        "picc_unreadable": "the encrypted mirror is none under any live meta key",
        "uid_mismatch": "the mirrored UID is not the registered one",
        "counter_missing": "the tag mirrors no counter and the profile does not allow that",
        "counter_range": "the counter is 0, but a tag's first read has 1; a chip that does not count cannot be replay-checked",
        "static_mismatch": "an authenticated text of the owner's own is not the registered one",
        "mac_mismatch": "the MAC holds under no live file key",
        "no_key": "no file key is known for the tag",
        "no_meta_key": "no meta key is known for the encrypted mirror",
        "uid_missing": "the UID is part of the session vector, but was neither sent nor registered",
        "static_missing": "an authenticated text of the owner's own was neither sent nor registered",
    }
)
"""Every `Evidence.reason`, with its meaning."""

UNDECIDED_REASONS = frozenset({"no_key", "no_meta_key", "uid_missing", "static_missing"})
"""Reasons that prove nothing against the tap: what is lacking is the operator's to supply."""
