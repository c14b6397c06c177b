"""The tags of an audit with their keys, in columns, and the look-up of the tag of a tap. About 400 bytes per tag."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from ixfast.audit.tap_likeness import TapLikeness
from ixfast.chips import CompiledProfile, Message, Missing
from ixfast.domain.model import Key
from ixfast.domain.owner_texts import statements
from ixfast.errors import InputError
from ixfast.limits import META_KEYS_MAX, META_KEYS_TRIED_MAX

_ONE_VERSION_MAX = 1
_OWN_KEYS_SEARCHED_MAX = 4096  # About 10 ms for a tap that names no tag.


class TagCatalogue:
    """Tags by index, in columns.

    `codes`, `uids` (7 bytes, or b"" if not registered), `keys` (the only live file key, 16 bytes, or b"" if there are none or
    several) and `versions` (of that key) have one item per tag; `profile_of` has an index in `profiles`. The `profiles` are
    distinct, and None among them is for tags of standard groups, which authenticate nothing.
    """

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.uids: list[bytes] = []
        self.keys: list[bytes] = []
        self.versions = array("B")
        self.profile_of = array("H")
        self.profiles: list[CompiledProfile | None] = []
        self.meta_keys: tuple[Key, ...] = ()
        self.by_code: dict[str, int] = {}
        self.by_uid: dict[bytes, int] = {}
        self._by_cuid: dict[str, int] = {}
        self._statics: dict[int, dict[str, str]] = {}
        self._own_meta_keys: dict[int, tuple[Key, ...]] = {}
        self.factory_keys = 0
        """How many of the file keys are all zeros, as every chip's are before it is personalised."""
        self._batch_meta_keys: dict[str, tuple[Key, ...]] = {}
        self._several: dict[int, tuple[Key, ...]] = {}
        self._profile_indexes: dict[object, int] = {}
        self._likeness: TapLikeness | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"TagCatalogue({len(self)} tags, {len(self.profiles)} profiles)"

    def add(
        self,
        code: str,
        profile: CompiledProfile | None,
        *,
        uid: bytes = b"",
        keys: tuple[Key, ...] = (),
        cuid: str | None = None,
        aid: str | None = None,
        batch: str | None = None,
        meta_keys: tuple[Key, ...] = (),
    ) -> int:
        """Add a tag and return its index. `keys` are its live file keys, in the order in which they are tried; `meta_keys` are
        its own meta keys.

        Raises InputError for a code, UID or CUID that another tag has.
        """
        index = len(self.codes)
        if self.by_code.setdefault(code, index) != index:
            raise InputError("invalid_parameter", "Another tag has this code.", "xuid")
        if uid and self.by_uid.setdefault(uid, index) != index:
            raise InputError("invalid_parameter", "Another tag has this UID.", "uid")
        if cuid and self._by_cuid.setdefault(cuid, index) != index:
            raise InputError("invalid_parameter", "Another tag has this CUID.", "cuid")
        self.codes.append(code)
        self.uids.append(uid)
        self.keys.append(b"")
        self.versions.append(0)
        self.profile_of.append(self._profile_index(profile))
        if cuid or aid or batch:
            own = ("cuid", cuid), ("aid", aid), ("batch", batch)
            self._statics[index] = {name: text for name, text in own if text}
        if meta_keys:
            self._own_meta_keys[index] = meta_keys
        self._set_keys(index, keys)
        return index

    def add_key(self, index: int, key: Key) -> None:
        """Add another live file key to a tag; the newest version is tried first. Raises InputError for a duplicate version."""
        keys = self.file_keys(index)
        if any(key.version == other.version for other in keys):
            raise InputError("invalid_parameter", "The tag already has a key with this version.", "version")
        self._set_keys(index, tuple(sorted((*keys, key), key=lambda each: -each.version)))

    def add_meta_keys(self, keys: Iterable[Key]) -> None:
        """Add meta keys, dropping duplicate values. Raises InputError for more than `META_KEYS_MAX`."""
        known = {key.value for key in self.meta_keys}
        for key in keys:
            if key.value not in known:
                known.add(key.value)
                self.meta_keys += (key,)
        if len(self.meta_keys) > META_KEYS_MAX:
            raise InputError("invalid_parameter", f"At most {META_KEYS_MAX} meta keys are allowed.", "meta_key")

    def add_own_meta_key(self, index: int, key: Key) -> None:
        """Add a meta key that is tried on taps that name this tag; see `takes_meta_key`."""
        known = self._own_meta_keys.get(index, ())
        if key.value not in {each.value for each in known}:
            self._own_meta_keys[index] = (*known, key)[-META_KEYS_MAX:]

    def takes_meta_key(self, value: bytes) -> bool:
        """Whether a meta key (16 bytes) is, or can become, one of those that are tried on every mirror."""
        return len(self.meta_keys) < META_KEYS_MAX or any(key.value == value for key in self.meta_keys)

    def add_batch_meta_keys(self, batch: str, keys: tuple[Key, ...]) -> None:
        """Add the meta keys of batches with this name. They are tried on taps that name it, and on those of their tags."""
        known = self._batch_meta_keys.get(batch, ())
        self._batch_meta_keys[batch] = (*known, *(key for key in keys if key.value not in {each.value for each in known}))

    def meta_keys_of(self, index: int) -> tuple[Key, ...]:
        """The candidates for the encrypted mirror of a tag that was named: its own, those of its batch, and the shared ones."""
        batch = self._statics.get(index, {}).get("batch", "")
        own = self._own_meta_keys.get(index, ()) + self._batch_meta_keys.get(batch, ())[: 2 * META_KEYS_MAX]
        return own[: META_KEYS_TRIED_MAX - len(self.meta_keys)] + self.meta_keys

    def file_keys(self, index: int) -> tuple[Key, ...]:
        """The live file keys of a tag, in the order in which they are tried."""
        if self.keys[index]:
            return (Key(self.versions[index], self.keys[index], bytes(3)),)
        return self._several.get(index, ())

    def statics(self, index: int) -> dict[str, str]:
        """The registered static texts of a tag, as `CompiledProfile.examine` takes them."""
        return {"xuid": self.codes[index], **self._statics.get(index, {})}

    def profile(self, index: int) -> CompiledProfile | None:
        return self.profiles[self.profile_of[index]]

    @property
    def likeness(self) -> TapLikeness:
        """What taps of these tags have in common. Computed once: the catalogue is complete before the first tap is judged."""
        if self._likeness is None:
            self._likeness = TapLikeness(self.profiles)
        return self._likeness

    def find(self, profile: CompiledProfile, message: Message | Missing) -> int | None:
        """Find the tag of a tap read with this profile, by a static text, its UID, or the UID decrypted from its mirror."""
        index = None
        if message.xuid is not None:
            index = self.by_code.get(message.xuid)
        if index is None and message.cuid is not None:
            index = next(filter(lambda tag: tag is not None, map(self._by_cuid.get, statements(message.cuid))), None)
        if index is None and message.uid is not None:
            index = self.by_uid.get(message.uid)
        if index is None and profile.encrypted:
            names = statements(message.batch) if message.batch is not None else ()
            own = [key for name in names for key in self._batch_meta_keys.get(name, ())]
            index = self._by_mirror(profile, message, (*own, *self.meta_keys))
            if index is None:
                index = self._by_own_key(profile, message)
        return index

    def _by_mirror(self, profile: CompiledProfile, message: Message | Missing, meta_keys: tuple[Key, ...]) -> int | None:
        for start in range(0, len(meta_keys), META_KEYS_TRIED_MAX):
            for uid, _, _ in profile.find_uid(message, meta_keys[start : start + META_KEYS_TRIED_MAX]):
                if uid in self.by_uid:
                    return self.by_uid[uid]
        return None

    def _by_own_key(self, profile: CompiledProfile, message: Message | Missing) -> int | None:
        """The tag whose own meta key reads its UID from the mirror. A server could not search like this for every tap."""
        if len(self._own_meta_keys) <= _OWN_KEYS_SEARCHED_MAX:
            for index, keys in self._own_meta_keys.items():
                if any(uid == self.uids[index] for uid, _, _ in profile.find_uid(message, keys)):
                    return index
        return None

    def _set_keys(self, index: int, keys: tuple[Key, ...]) -> None:
        if len(keys) == _ONE_VERSION_MAX:
            self.keys[index], self.versions[index] = keys[0].value, keys[0].version
        elif keys:
            self.keys[index] = b""
            self._several[index] = keys

    def _profile_index(self, profile: CompiledProfile | None) -> int:
        content = profile.profile if profile is not None else None
        index = self._profile_indexes.setdefault(content, len(self.profiles))
        if index == len(self.profiles):
            self.profiles.append(profile)
        return index
