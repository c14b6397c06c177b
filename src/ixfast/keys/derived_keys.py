"""The derived keys of a tag group: its masters with their derivations, held for the tags that are loaded later.

Masters stay in memory, because tags are loaded at any time. If one of them cannot be opened, none is used: under the others alone
a genuine tap would look forged. `file_keys` then raises, and taps of the group get no verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

from ixfast.domain.model import Key
from ixfast.keys.diversify import Derivation, SdmBackendLegacy
from ixfast.keys.kek import KeyUnavailableError


class MasterId(NamedTuple):
    """Identifies a master without opening it. Masters with the same id derive the same keys."""

    derivation: Derivation
    version: int
    check_value: bytes


class Master(NamedTuple):
    """A master key with its derivation; its `repr` shows no key."""

    derivation: Derivation
    key: Key

    @property
    def id(self) -> MasterId:
        return MasterId(self.derivation, self.key.version, bytes(self.key.check_value))


class DerivedKeys:
    """`masters` are the live ones, newest version first, or None if one of them cannot be opened.

    `meta_keys` are those of the group's encrypted mirrors: None without masters, empty if no derivation yields one. `slow` is
    true if deriving a key takes milliseconds. Two objects with the same `identity` derive the same keys. The `repr` shows no
    key.
    """

    __slots__ = ("_masters", "identity", "meta_keys", "slow")

    def __init__(self, masters: Sequence[Master] | None) -> None:
        self._masters = masters
        self.slow = _is_slow(masters)
        self.identity = None if masters is None else tuple(master.id for master in masters)
        self.meta_keys = None if masters is None else tuple(k for d, master in masters for k in d.meta_keys((master,)))

    @classmethod
    async def make(cls, masters: Sequence[Master] | None) -> DerivedKeys:
        """Construct without blocking the event loop, and without waiting for the keys of tags that are being derived."""
        if _is_slow(masters):
            return await asyncio.get_running_loop().run_in_executor(_thread("group-keys"), cls, masters)
        return cls(masters)

    @property
    def complete(self) -> bool:
        return self._masters is not None

    def masters_like(self, wanted: Sequence[MasterId]) -> tuple[Master, ...] | None:
        """The masters with these ids, or None unless all of them are open."""
        held = {master.id: master for master in self._masters or ()}
        return tuple(held[each] for each in wanted) if self._masters is not None and held.keys() >= set(wanted) else None

    def file_keys(self, uid: bytes) -> tuple[Key, ...]:
        """The file keys of the tag with this UID (7 bytes), newest version first.

        Raises KeyUnavailableError if a master cannot be opened.
        """
        if self._masters is None:
            raise KeyUnavailableError("A master key of the tag's group cannot be opened.")
        return tuple(key for derivation, master in self._masters for key in derivation.file_keys((master,), uid))

    async def derive(self, uid: bytes) -> tuple[Key, ...]:
        """The same as `file_keys` without blocking the event loop."""
        if not self.slow:
            return self.file_keys(uid)
        return await asyncio.get_running_loop().run_in_executor(_thread("tag-keys"), self.file_keys, uid)

    def __repr__(self) -> str:
        return f"DerivedKeys(complete={self.complete})"


def _is_slow(masters: Sequence[Master] | None) -> bool:
    return any(isinstance(master.derivation, SdmBackendLegacy) for master in masters or ())


@cache
def _thread(purpose: str) -> ThreadPoolExecutor:
    """One thread per worker and purpose: more would take CPU time from scans, and derive the same key several times.

    Groups have a thread of their own because a round of look-ups waits for them: behind the keys of tags, it would keep everybody
    waiting whose tag is in the round, and thereby reveal that those other tags exist.
    """
    return ThreadPoolExecutor(1, purpose)
