"""The set of open key-encryption keys of a process.

Keys are opened at start and on a reload. No scan waits for a key service, and opening an envelope takes microseconds. The first
key seals and opens, the others only open, so that a key can be retired without re-sealing everything at once.

A key that its provider does not open is `missing`: scans of tags whose keys are sealed under it cannot be answered, all others
can.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from ixfast.keys.kek import KEK_BYTES, KeyEncryptionKey, KeyUnavailableError, UnknownKekError, check_ids
from ixfast.keys.key_file import KeyFile, create, plain_line
from ixfast.keys.sealing import open_line


class KeyEncryptionKeys:
    """The open keys of one key file, by id. A reload (`adopt`) takes effect at once for every holder of this object."""

    __slots__ = ("_by_id", "_look", "_order", "missing")

    def __init__(self, keys: Sequence[KeyEncryptionKey]) -> None:
        self._look: Callable[[], Awaitable[None]] | None = None
        self.missing: Mapping[str, str] = {}
        self.adopt([key.id for key in keys], {key.id: key for key in keys})

    @classmethod
    def none_yet(cls, look: Callable[[], Awaitable[None]]) -> Self:
        """An empty set, to be filled with `adopt`. `look` rereads the key file if it has changed; see `look_for`."""
        held = cls.__new__(cls)
        held._by_id, held._order, held.missing, held._look = {}, (), {}, look
        return held

    @classmethod
    def load_file(cls, path: Path) -> Self:
        """Open every key of a file, or none.

        Raises KekFileError if the file is missing, accessible to others or damaged, and KeyUnavailableError if a provider does
        not open its key.
        """
        return cls([open_line(line) for line in KeyFile.read(path).lines])

    @classmethod
    def create_file(cls, path: Path) -> Self:
        """Create a key file with one random key and load it. Raises KekFileError if the path already exists."""
        create(path, plain_line(secrets.token_bytes(KEK_BYTES)))
        return cls.load_file(path)

    def adopt(
        self, order: Sequence[str], opened: Mapping[str, KeyEncryptionKey], missing: Mapping[str, str] | None = None
    ) -> None:
        """Replace the keys: ids in the order of the file, the keys that are open, and the reasons why the others are not."""
        check_ids(order)
        self._order = tuple(order)
        self._by_id = {id_: opened[id_] for id_ in order if id_ in opened}
        self.missing = dict(missing or {})

    @property
    def current(self) -> KeyEncryptionKey:
        """The key that seals: the first of the file. Raises KeyUnavailableError while it is not open."""
        if not self._order:
            raise KeyUnavailableError("The key file has not been read yet; see the log for the reason.")
        return self.by_id(self._order[0])

    @property
    def order(self) -> tuple[str, ...]:
        """Ids of all keys of the file, open or not, in its order: the first one seals."""
        return self._order

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the open keys, in the order of the file."""
        return tuple(self._by_id)

    @property
    def complete(self) -> bool:
        """Whether every key of the file is open."""
        return bool(self._order) and len(self._by_id) == len(self._order)

    def by_id(self, id_: str) -> KeyEncryptionKey:
        """Return a key by its id (16 hexadecimal digits).

        Raises UnknownKekError if the file has no such key, and KeyUnavailableError if its provider has not opened it.
        """
        key = self._by_id.get(id_)
        if key is not None:
            return key
        if id_ in self._order:
            reason = self.missing.get(id_, "its provider has not answered yet")
            raise KeyUnavailableError(f"Key-encryption key {id_} is not open: {reason}")
        raise UnknownKekError(
            f"Key-encryption key {id_[:16]} is not in the key file (open: {', '.join(self.ids) or 'none'}). "
            "Add its line below the current key; running workers reload the file."
        )

    async def look_for(self, ids: Collection[str]) -> None:
        """Reread the key file if it lacked one of these ids and has changed; call it before opening envelopes. Never raises."""
        if self._look is not None and any(id_ not in self._order for id_ in ids):
            await self._look()

    def __repr__(self) -> str:
        return f"KeyEncryptionKeys(current={self._order[0] if self._order else None}, ids={list(self.ids)})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("Key-encryption keys cannot be pickled or copied: they must not leave the process.")
