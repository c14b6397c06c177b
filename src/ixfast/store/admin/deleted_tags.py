"""Re-added tags: where their counters continue, so that no tap from before the deletion passes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixfast import limits
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, position


def begins_at(deleted: Any, keys: Mapping[bytes, int], *, derives: bool) -> int | None:
    """The position at which a tag that was deleted before must continue; 0 if it returns with none of its old keys.

    None if it returns with a key that had been replaced by a newer one, because its used taps can no longer be determined.

    `deleted` is a row of `deleted_tag`. `keys` maps check values to versions: the current keys of the tag, or with `derives`
    the masters of its group. Counters used under a master stay used.
    """
    used_last, counter = deleted["last_position"] >> POSITION_COUNTER_BITS, deleted["last_position"] & POSITION_COUNTER_MASK
    begin = 0
    for value, version in zip(deleted["check_values"], deleted["key_versions"], strict=True):
        successor = keys.get(value)
        if successor is None or version > used_last:
            continue
        if version < used_last and not derives:
            return None
        begin = max(begin, position(successor, counter if version == used_last else limits.COUNTER_MAX))
    return begin
