"""Records: the catalogue's rows as the engine holds them, with everything prepared that can be known before a scan.

Groups, batches and accounts are shared by their tags and replaced in place when they change (`adopt`), so that a
change of one group costs the same whether ten of its tags are cached or a million.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ixfast.model import Key
from ixfast.rules import RuleSet

if TYPE_CHECKING:
    from ixfast.chips import CompiledProfile


class Shared:
    """A record that outlives its own content."""

    __slots__: tuple[str, ...] = ()

    def adopt(self, other: Shared) -> None:
        """Take over what `other` holds. One step of the event loop: no scan sees half of it."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))


class Account(Shared):
    __slots__ = ("account_id", "active", "aid", "cors", "meta_keys", "name", "open")

    def __init__(
        self, account_id: int, aid: str, name: str, *, is_open: bool, active: bool, cors: bool, meta_keys: tuple[Key, ...]
    ) -> None:
        self.account_id = account_id
        self.aid = aid
        self.name = name
        self.open = is_open
        self.active = active
        self.cors = cors
        self.meta_keys = meta_keys  # newest version first


class Batch(Shared):
    __slots__ = ("active", "batch_id", "name")

    def __init__(self, batch_id: int, name: str, *, active: bool) -> None:
        self.batch_id = batch_id
        self.name = name
        self.active = active


class Group(Shared):
    """A tag group with what it inherits. `fragments` are its responses as JSON, in the order of the rule set's indices."""

    __slots__ = (
        "account", "active", "folder_active", "folder_name", "fragments", "group_id", "name", "profile",
        "retry_window_ms", "rules",
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
        profile: CompiledProfile | None,
        rules: RuleSet,
        fragments: tuple[bytes, ...],
        retry_window_ms: int,
    ) -> None:
        self.group_id = group_id
        self.name = name
        self.account = account
        self.folder_name = folder_name
        self.folder_active = folder_active
        self.active = active
        self.profile = profile  # None: a standard group, nothing to authenticate
        self.rules = rules
        self.fragments = fragments
        self.retry_window_ms = retry_window_ms


class TagRecord:
    """A tag. `floor` is a position known to be durable: what is not above it is a replay, without asking again."""

    __slots__ = (
        "active", "assigned", "batch", "cuid", "floor", "group", "key", "key_version", "keys", "name", "tag_id", "uid", "xuid",
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
    ) -> None:
        self.tag_id = tag_id
        self.xuid = xuid
        self.group = group
        self.batch = batch
        self.cuid = cuid
        self.uid = uid
        self.name = name
        self.active = active
        self.assigned = assigned
        self.floor = 0
        # The one live key of nearly every tag, unpacked for the hot path; `keys` is None then.
        self.key: bytes | None = keys[0].value if len(keys) == 1 else None
        self.key_version = keys[0].version if keys else 0
        self.keys = keys if len(keys) != 1 else None

    def file_keys(self, check_value: bytes = b"\0\0\0") -> tuple[Key, ...]:
        """The live file keys, newest first; a sole key is packed anew, with `check_value` as its check value."""
        if self.keys is not None:
            return self.keys
        return (Key(self.key_version, self.key, check_value),) if self.key is not None else ()

    def statics(self) -> dict[str, str]:
        """The owner's own texts as a chip may carry them inside its MAC window; an empty one is not registered."""
        return {"xuid": self.xuid.decode(), "cuid": self.cuid or "", "aid": self.group.account.aid}

    def inactive_level(self) -> str | None:
        """The wire's error of the first inactive level from the top, or None."""
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


class ApiKey:
    """A token's rights. The token itself is nowhere: only its hash finds this record."""

    __slots__ = ("account_id", "aid", "api_key_id", "expires_at", "label", "scopes")

    def __init__(
        self, api_key_id: int, account_id: int, aid: str, scopes: frozenset[str], label: str, expires_at: float | None
    ) -> None:
        self.api_key_id = api_key_id
        self.account_id = account_id
        self.aid = aid
        self.scopes = scopes
        self.label = label
        self.expires_at = expires_at  # Unix time in seconds
