"""The keys of a group that derives them: its derivation with its masters, as the loader keeps them for the tags it loads.

Masters stay in memory, because tags are loaded at any time. One that cannot be opened now leaves all of them out: under the
others a tap would look forged. Then `file_keys` raises, and nothing is said about any tap.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from ixfast.keys.diversify import Derivation, SdmBackendLegacy
from ixfast.keys.kek import KeyUnavailableError
from ixfast.model import Key


class DerivedKeys:
    """`masters` are the live ones, newest version first, or None if one of them cannot be opened.

    `meta_keys` are those of the group's encrypted mirrors: None without masters, empty if the scheme derives none. `slow` says
    that a key takes milliseconds. Two of these with the same `identity` make the same keys. Its `repr` shows none.
    """

    __slots__ = ("_masters", "derivation", "identity", "meta_keys", "slow")

    def __init__(self, derivation: Derivation, masters: tuple[Key, ...] | None) -> None:
        self.derivation = derivation
        self.slow = isinstance(derivation, SdmBackendLegacy)
        self._masters = masters
        known = None if masters is None else tuple((key.version, bytes(key.check_value)) for key in masters)
        self.identity = (derivation, known)
        self.meta_keys = None if masters is None else derivation.meta_keys(masters)

    @classmethod
    async def make(cls, derivation: Derivation, masters: tuple[Key, ...] | None) -> DerivedKeys:
        """The same without holding up the event loop."""
        if isinstance(derivation, SdmBackendLegacy):
            return await asyncio.get_running_loop().run_in_executor(_thread(), cls, derivation, masters)
        return cls(derivation, masters)

    @property
    def complete(self) -> bool:
        return self._masters is not None

    def masters_like(self, wanted: list[tuple[int, bytes]]) -> tuple[Key, ...] | None:
        """Masters of these versions and check values, if all of them are open here."""
        held = {(key.version, bytes(key.check_value)): key for key in self._masters or ()}
        return tuple(held[each] for each in wanted) if self._masters is not None and held.keys() >= set(wanted) else None

    def file_keys(self, uid: bytes) -> tuple[Key, ...]:
        """The file keys of the tag with this UID (7 bytes), newest version first. Raises `KeyUnavailableError`."""
        if self._masters is None:
            raise KeyUnavailableError("A master of the tag's group cannot be opened.")
        return self.derivation.file_keys(self._masters, uid)

    async def derive(self, uid: bytes) -> tuple[Key, ...]:
        """The same without holding up the event loop."""
        if not self.slow:
            return self.file_keys(uid)
        return await asyncio.get_running_loop().run_in_executor(_thread(), self.file_keys, uid)

    def __repr__(self) -> str:
        return f"DerivedKeys({self.derivation!r}, complete={self.complete})"


@cache
def _thread() -> ThreadPoolExecutor:
    """One a worker: more would take the cores from the scans of other tags, and find no key remembered that another makes."""
    return ThreadPoolExecutor(1, "derivation")
