"""Tags that come back after they were deleted: where their counters begin, so that no tap that was used passes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixfast import limits
from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, position


def begins_at(deleted: Any, keys: Mapping[bytes, int], *, derives: bool) -> int | None:
    """The position at which a tag begins that was there before; 0 if none of its keys was. None if it has a key back that had
    been replaced by a newer one: its used taps cannot be told from others.

    `deleted` is a row of `deleted_tag`, `keys` are the tag's keys now, or the masters of its group if that `derives`: versions by
    check value. What was used under a master stays used under it.
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
