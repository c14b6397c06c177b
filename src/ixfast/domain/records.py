"""Records: rows of the catalogue in memory, with everything prepared that is known before a scan.

Groups, batches and accounts are shared by their tags and updated in place when they change (`adopt`), so that a change to a group
costs the same whether ten of its tags are cached or a million. Records are shared by all scans of a worker: a scan reads them and
writes nothing but `TagRecord.floor`, which only increases.

`records.pxd` declares the fields for the compiled form. What a record does not compute itself is described in `protocols.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ixfast.domain.model import ORIGINALITY_WORDS, Key, OriginalityWord
from ixfast.domain.protocols import KeySource, ScanResponses, TapProfile

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})
_ORIGINALITIES: tuple[OriginalityWord | None, ...] = (None, *ORIGINALITY_WORDS)


class SharedRecord:
    """A record that other records refer to, and whose content can be replaced."""

    __slots__: tuple[str, ...] = ()

    def adopt(self, other: SharedRecord) -> None:
        """Copy every field of `other`. This is one step of the event loop, so no scan sees a partial update."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))


class Account(SharedRecord):
    """An account. `open` means that callers without an API key may scan its tags; `cors`, that web pages of any origin may read
    the responses. `lacks_keys` means that it has meta keys which cannot be opened at present, so that `meta_keys` is empty."""

    __slots__ = ("account_id", "active", "aid", "cors", "lacks_keys", "meta_keys", "name", "open")

    def __init__(
        self,
        account_id: int,
        aid: str,
        name: str,
        *,
        is_open: bool,
        active: bool,
        cors: bool,
        meta_keys: tuple[Key, ...],
        lacks_keys: bool = False,
    ) -> None:
        self.account_id = account_id
        self.aid = aid
        self.name = name
        self.open = is_open
        self.active = active
        self.cors = cors
        self.meta_keys = meta_keys  # newest version first
        self.lacks_keys = lacks_keys


class Batch(SharedRecord):
    """A batch. `meta_keys` are its own, newest first; `lacks_keys` means that not all of them can be opened at present."""

    __slots__ = ("active", "batch_id", "lacks_keys", "meta_keys", "name")

    def __init__(
        self, batch_id: int, name: str, *, active: bool, meta_keys: tuple[Key, ...] = (), lacks_keys: bool = False
    ) -> None:
        self.batch_id = batch_id
        self.name = name
        self.active = active
        self.meta_keys = meta_keys
        self.lacks_keys = lacks_keys


class Group(SharedRecord):
    """A tag group, with what it inherits from its folder.

    `fields` are the values of the extended fields that the folder defines, for tags without values of their own; `reply_names`
    are the fields that the response shows as members. `reply_json` is these members as JSON, each with a leading comma, for
    tags without values of their own; None if they depend on the scan. `enrols` means that a genuine tap may create its tag, and
    `country_statistics` that the countries of visitors are logged.
    """

    __slots__ = (
        "account", "active", "country_statistics", "dates", "derived", "enrols", "fields", "folder_active", "folder_name",
        "group_id", "name", "profile", "reply_json", "reply_names", "response_set", "retry_window_ms",
    )  # fmt: skip

    def __init__(
        self,
        group_id: int,
        name: str,
        account: Account,
        *,
        folder_name: str,
        folder_active: bool,
        active: bool,
        profile: TapProfile | None,
        response_set: ScanResponses,
        fields: Mapping[str, str] = _NO_FIELDS,
        reply_names: tuple[str, ...] = (),
        reply_json: bytes | None = None,
        retry_window_ms: int = 0,
        derived: KeySource | None = None,
        enrols: bool = False,
        dates: frozenset[str] = frozenset(),
        country_statistics: bool = False,
    ) -> None:
        self.group_id = group_id
        self.name = name
        self.account = account
        self.folder_name = folder_name
        self.folder_active = folder_active
        self.active = active
        self.profile = profile  # None: a group of standard tags, with nothing to authenticate
        self.response_set = response_set
        self.fields = fields
        self.reply_names = reply_names
        self.reply_json = reply_json
        self.retry_window_ms = retry_window_ms
        self.derived = derived  # None: the keys of its tags are stored
        self.enrols = enrols
        self.country_statistics = country_statistics
        self.dates = dates  # the date subtags that its response texts and fields show

    @property
    def meta_keys(self) -> tuple[Key, ...]:
        """The candidates for an encrypted mirror of its tags: derived keys first, then those of the account.

        Empty while a master key is unavailable; then no tap is judged (`no_meta_key`).
        """
        if self.derived is None:
            return self.account.meta_keys
        own = self.derived.meta_keys
        return () if own is None else own + self.account.meta_keys

    @property
    def lacks_meta_keys(self) -> bool:
        """Whether `meta_keys` is incomplete because a key cannot be opened at present."""
        return self.account.lacks_keys or (self.derived is not None and self.derived.meta_keys is None)


class TagOverrides:
    """What few tags have: a response set that replaces the group's, values of extended fields, dates if a response shows them,
    and meta keys of their own."""

    __slots__ = ("assigned_at", "created_at", "fields", "meta_keys", "response_set")

    def __init__(
        self,
        response_set: ScanResponses | None = None,
        fields: Mapping[str, str] = _NO_FIELDS,
        created_at: float | None = None,
        assigned_at: float | None = None,
        meta_keys: tuple[Key, ...] = (),
    ) -> None:
        self.response_set = response_set
        self.fields = fields
        self.meta_keys = meta_keys  # newest version first
        self.created_at = created_at  # Unix time in seconds, like assigned_at
        self.assigned_at = assigned_at


class TagRecord:
    """A tag. `floor` is a position known to be durable: a tap that is not above it is a replay, without another read.

    A worker caches a million of these, so the compiled form holds the bytes of UID and key in the record itself: as objects of
    their own they take 112 bytes, and a scan has to fetch each of them from memory.
    """

    __slots__ = (
        "_key", "_originality", "_uid", "active", "assigned", "batch", "cuid", "floor", "group", "has_key", "has_uid",
        "key_version", "keys", "name", "overrides", "tag_id", "xuid",
    )  # fmt: skip

    def __init__(
        self,
        tag_id: int,
        xuid: bytes,
        group: Group,
        batch: Batch | None,
        *,
        cuid: str | None,
        uid: bytes | None,
        name: str | None,
        active: bool,
        assigned: bool,
        keys: tuple[Key, ...],
        overrides: TagOverrides | None = None,
        originality: OriginalityWord | None = None,
    ) -> None:
        self.tag_id = tag_id
        self.xuid = xuid
        self.group = group
        self.batch = batch
        self.cuid = cuid
        self.has_uid = uid is not None
        if uid is not None:
            self._uid = uid  # UID_BYTES
        self.name = name
        self.active = active
        self.assigned = assigned
        self.overrides = overrides
        self._originality = _ORIGINALITIES.index(originality)
        self.floor = 0
        self.take_keys(keys)

    def take_keys(self, keys: tuple[Key, ...]) -> None:
        """Set the live file keys, newest first."""
        # Nearly every tag has exactly one live key. It is unpacked for the hot path, and `keys` is None.
        self.has_key = len(keys) == 1
        if len(keys) == 1:
            self._key = keys[0].value
        self.key_version = keys[0].version if keys else 0
        self.keys = keys if len(keys) != 1 else None

    def single_key(self) -> bytes:
        """The only live file key, 16 bytes. Only for a tag that `has_key`."""
        return self._key[:16]

    def registered_uid(self) -> bytes:
        """The chip's UID, 7 bytes. Only for a tag that `has_uid`."""
        return self._uid[:7]

    @property
    def uid(self) -> bytes | None:
        """The chip's UID, 7 bytes; None if it is not registered."""
        return self.registered_uid() if self.has_uid else None

    @property
    def originality(self) -> OriginalityWord | None:
        """The result of the chip's signature; None if it is not registered."""
        return _ORIGINALITIES[self._originality]

    def is_for(self, api_key: ApiKey | None, aid: str | None = None) -> bool:
        """Whether a caller with this API key, or without one (None), may scan the tag. For all others it does not exist.

        `aid` is the account to which a caller without a key confines the scan, if any.
        """
        account = self.group.account
        if api_key is not None:
            return api_key.account_id == account.account_id
        return account.open and (aid is None or aid == account.aid)

    @property
    def awaits_keys(self) -> bool:
        """Whether its keys still have to be derived, which takes milliseconds; until then no scan of it can be judged."""
        derived = self.group.derived
        return self.keys == () and self.uid is not None and derived is not None and derived.slow

    async def derive_keys(self) -> None:
        """Derive its keys if it awaits them. Raises what `KeySource.derive` raises."""
        if self.awaits_keys:
            assert self.group.derived is not None
            assert self.uid is not None
            self.take_keys(await self.group.derived.derive(self.uid))

    def file_keys(self, check_value: bytes = b"\0\0\0") -> tuple[Key, ...]:
        """The live file keys, newest first. A single key is wrapped in a new `Key` with `check_value`, 3 bytes."""
        if self.keys is not None:
            return self.keys
        return (Key(self.key_version, self.single_key(), check_value),)

    @property
    def meta_keys(self) -> tuple[Key, ...]:
        """The candidates for its encrypted mirror: its own meta keys first, then those that it shares with other tags.

        Empty while one of them cannot be opened: without it, a mirror that no other key reads would look forged.
        """
        group, batch = self.group, self.batch
        own = self.overrides.meta_keys if self.overrides is not None else ()
        if batch is not None:
            if batch.lacks_keys:
                return ()
            own = own + batch.meta_keys
        if not own:
            return group.meta_keys
        return () if group.lacks_meta_keys else own + group.meta_keys

    @property
    def response_set(self) -> ScanResponses:
        """The tag's own response set, if it has one, otherwise that of its group."""
        overrides = self.overrides
        return self.group.response_set if overrides is None or overrides.response_set is None else overrides.response_set

    @property
    def fields(self) -> Mapping[str, str]:
        """Extended fields by name: the group's values, overridden by those of the tag."""
        group = self.group
        if self.overrides is None or not self.overrides.fields:
            return group.fields
        return {name: self.overrides.fields.get(name, value) for name, value in group.fields.items()}

    @property
    def reply_fields(self) -> Mapping[str, str]:
        """The extended fields that the response shows as members, by name."""
        names = self.group.reply_names
        if not names:
            return _NO_FIELDS
        fields = self.fields
        return {name: fields[name] for name in names}

    @property
    def created_at(self) -> float | None:
        return self.overrides.created_at if self.overrides is not None else None

    @property
    def assigned_at(self) -> float | None:
        return self.overrides.assigned_at if self.overrides is not None else None

    def statics(self) -> dict[str, str]:
        """The owner's texts that a chip may carry inside its MAC window; an empty one is not registered."""
        batch = self.batch.name if self.batch is not None else ""
        return {"xuid": self.xuid.decode(), "cuid": self.cuid or "", "aid": self.group.account.aid, "batch": batch}

    def inactive_level(self) -> str | None:
        """The error code of the first inactive level from the top down; None if the tag is active."""
        group = self.group
        if not (group.folder_active and group.account.active):
            return "folder_inactive"
        if not group.active:
            return "tg_inactive"
        if self.batch is not None and not self.batch.active:
            return "batch_inactive"
        return None if self.active else "tag_inactive"

    def __repr__(self) -> str:
        return f"TagRecord(tag_id={self.tag_id}, xuid={self.xuid.decode()})"

    def __reduce__(self) -> Any:
        raise TypeError("A tag's record cannot be pickled: its keys would leave the process.")


class ApiKey:
    """The rights of an API token. The token itself is not kept: the record is found by its hash."""

    __slots__ = ("account_id", "aid", "api_key_id", "expires_at", "label", "scans", "scopes")

    def __init__(
        self, api_key_id: int, account_id: int, aid: str, scopes: frozenset[str], label: str, expires_at: float | None
    ) -> None:
        self.api_key_id = api_key_id
        self.account_id = account_id
        self.aid = aid
        self.scopes = scopes
        self.scans = "scan" in scopes
        self.label = label
        self.expires_at = expires_at  # Unix time in seconds
