"""The tags of an audit with their keys, in columns, and how a tap finds its tag. About 400 bytes a tag."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from ixfast.chips import CompiledProfile, Message
from ixfast.domain.model import Key
from ixfast.errors import InputError
from ixfast.limits import META_KEYS_MAX

_ONE_VERSION_MAX = 1


class TagCatalogue:
    """Tags by their place. `codes`, `uids` (7 bytes, or b"" if not registered), `keys` (the sole live file key of 16 bytes,
    or b"" if there are none or several) and `versions` stand side by side; `profile_of` is a place in `profiles`.

    `profiles` are distinct; None among them stands for tags of standard groups, which authenticate nothing.
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
        self._several: dict[int, tuple[Key, ...]] = {}
        self._profile_places: dict[object, int] = {}

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
    ) -> int:
        """Add a tag, with its live file keys in the order in which they are tried, and return its place.

        InputError for a code, UID or CUID that another tag has.
        """
        place = len(self.codes)
        if self.by_code.setdefault(code, place) != place:
            raise InputError("invalid_parameter", "Another tag has this code.", "xuid")
        if uid and self.by_uid.setdefault(uid, place) != place:
            raise InputError("invalid_parameter", "Another tag has this UID.", "uid")
        if cuid and self._by_cuid.setdefault(cuid, place) != place:
            raise InputError("invalid_parameter", "Another tag has this CUID.", "cuid")
        self.codes.append(code)
        self.uids.append(uid)
        self.keys.append(b"")
        self.versions.append(0)
        self.profile_of.append(self._profile_place(profile))
        if cuid or aid:
            self._statics[place] = {name: text for name, text in (("cuid", cuid), ("aid", aid)) if text}
        self._set_keys(place, keys)
        return place

    def add_key(self, place: int, key: Key) -> None:
        """Give a tag one more live file key; the newest version is tried first. InputError for a version that it has."""
        keys = self.file_keys(place)
        if any(key.version == other.version for other in keys):
            raise InputError("invalid_parameter", "The tag has a key of this version already.", "version")
        self._set_keys(place, tuple(sorted((*keys, key), key=lambda each: -each.version)))

    def add_meta_keys(self, keys: Iterable[Key]) -> None:
        """Add meta keys, each value once. InputError for more than `META_KEYS_MAX`."""
        known = {key.value for key in self.meta_keys}
        for key in keys:
            if key.value not in known:
                known.add(key.value)
                self.meta_keys += (key,)
        if len(self.meta_keys) > META_KEYS_MAX:
            raise InputError("invalid_parameter", f"There are more than {META_KEYS_MAX} meta keys.", "meta_key")

    def file_keys(self, place: int) -> tuple[Key, ...]:
        """The live file keys of a tag in the order in which they are tried."""
        if self.keys[place]:
            return (Key(self.versions[place], self.keys[place], bytes(3)),)
        return self._several.get(place, ())

    def statics(self, place: int) -> dict[str, str]:
        """The registered texts of the owner's own, as `CompiledProfile.examine` takes them."""
        return {"xuid": self.codes[place], **self._statics.get(place, {})}

    def profile(self, place: int) -> CompiledProfile | None:
        return self.profiles[self.profile_of[place]]

    def find(self, profile: CompiledProfile, message: Message) -> int | None:
        """The tag that a tap of this profile names: by the owner's texts, its UID, or what a meta key reads from its mirror."""
        place = None
        if message.xuid is not None:
            place = self.by_code.get(message.xuid)
        if place is None and message.cuid is not None:
            place = self._by_cuid.get(message.cuid)
        if place is None and message.uid is not None:
            place = self.by_uid.get(message.uid)
        if place is None and profile.encrypted:
            found = (self.by_uid.get(uid) for uid, _, _ in profile.find_uid(message, self.meta_keys))
            place = next((each for each in found if each is not None), None)
        return place

    def _set_keys(self, place: int, keys: tuple[Key, ...]) -> None:
        if len(keys) == _ONE_VERSION_MAX:
            self.keys[place], self.versions[place] = keys[0].value, keys[0].version
        elif keys:
            self.keys[place] = b""
            self._several[place] = keys

    def _profile_place(self, profile: CompiledProfile | None) -> int:
        content = profile.profile if profile is not None else None
        place = self._profile_places.setdefault(content, len(self.profiles))
        if place == len(self.profiles):
            self.profiles.append(profile)
        return place
