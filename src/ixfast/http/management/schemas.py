"""Types of the bodies of the management API: objects as responses have them, drafts that create them, patches that change them.

A patch sets the members that it has; the others stay. `fields` of a patch are merged by name, and null removes a value; every
other member is replaced as a whole. No object has a member for a key, and only `NewApiKey` has one for a token. Docstrings here
are descriptions in OpenAPI.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.model import EncodingProfile
from ixfast.keys.diversify import Derivation

NAME_CHARS_MAX = limits.BATCH_NAME_CHARS_MAX
FIELD_VALUE_CHARS_MAX = limits.SUBTAG_VALUE_CHARS_MAX  # No response has more of a value.
FIELDS_MAX = 50
RETRY_WINDOW_S_MAX = 3600
ID_MAX = (1 << 53) - 1  # The largest integer that every JSON parser reads exactly.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$(?!\n)"

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=_PRINTABLE)]
Label = Annotated[str, Meta(max_length=NAME_CHARS_MAX, pattern=_PRINTABLE)]
Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Xuid = Annotated[str, Meta(pattern=rf"^{references.CODE.pattern}$(?!\n)")]
Uid = Annotated[str, Meta(pattern=r"^[0-9A-F]{14}$(?!\n)", description="7 bytes in hexadecimal, upper case.")]
Signature = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f]{112}$(?!\n)", description="The 56 bytes of Read_Sig of an NTAG 424 DNA, in hexadecimal.")
]
Cuid = Annotated[str, Meta(min_length=1, max_length=limits.CUSTOMER_ID_CHARS_MAX, pattern=_PRINTABLE)]
FieldName = Annotated[str, Meta(min_length=1, max_length=limits.FIELD_NAME_CHARS_MAX)]
FieldValue = Annotated[str, Meta(max_length=FIELD_VALUE_CHARS_MAX)]
# Not checked by the type, whose error message would quote the value.
KeyText = Annotated[str, Meta(extra_json_schema={"pattern": "^[0-9A-Fa-f]{32}$", "format": "password", "writeOnly": True})]
RuleSetBody = Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/RuleSetDocument"})]
Moment = Annotated[dt.datetime, Meta(tz=True)]
Scope = Literal["scan", "read", "manage", "keys"]
Scopes = Annotated[list[Scope], Meta(min_length=1, max_length=4)]


class Definition(msgspec.Struct, forbid_unknown_fields=True):
    """An extended field. `in_reply` adds it to responses to scans."""

    name: FieldName
    in_reply: bool = False


def set_members(patch: msgspec.Struct) -> dict[str, Any]:
    """The members that a patch sets."""
    return {name: getattr(patch, name) for name in patch.__struct_fields__ if getattr(patch, name) is not UNSET}


Definitions = Annotated[list[Definition], Meta(max_length=FIELDS_MAX)]
Fields = dict[str, FieldValue]
FieldsPatch = dict[str, FieldValue | None]


class Account(msgspec.Struct):
    aid: str
    name: str
    open: bool
    active: bool
    cors: bool
    created_at: dt.datetime


class AccountPatch(msgspec.Struct, forbid_unknown_fields=True):
    name: Label | UnsetType = UNSET
    open: bool | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    cors: bool | UnsetType = UNSET


class Folder(msgspec.Struct):
    id: int
    name: str
    active: bool
    fields: list[Definition]
    created_at: dt.datetime


class FolderDraft(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    active: bool = True
    fields: Definitions = []


class FolderPatch(msgspec.Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    fields: Definitions | UnsetType = UNSET


class Group(msgspec.Struct):
    """A group contains tags that share an encoding profile and a rule set.

    `warnings` is present only if `/v1/t` can mistake a parameter of its profile for something else.
    """

    id: int
    folder_id: int
    name: str
    kind: Literal["standard", "authentication"]
    active: bool
    profile: EncodingProfile | None
    rules: RuleSetBody | None
    fields: dict[str, str]
    retry_window_s: int
    derivation: Derivation | None
    enrols: bool
    country_statistics: bool
    created_at: dt.datetime
    warnings: list[str] | UnsetType = UNSET


Profile = Annotated[
    str | dict[str, Any],
    Meta(description="The name of a preset, or an encoding profile.", examples=["ixkio-plain"]),
]
RetryWindow = Annotated[int, Meta(ge=0, le=RETRY_WINDOW_S_MAX)]  # seconds


class GroupDraft(msgspec.Struct, forbid_unknown_fields=True):
    folder_id: Id
    name: Name
    active: bool = True
    profile: Profile | None = None
    rules: RuleSetBody | None = None
    fields: Fields = {}
    retry_window_s: RetryWindow = 0
    derivation: Derivation | None = None
    enrols: bool = False
    country_statistics: bool = False


class GroupPatch(msgspec.Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    profile: Profile | UnsetType | None = UNSET
    rules: RuleSetBody | UnsetType | None = UNSET
    fields: FieldsPatch | UnsetType = UNSET
    retry_window_s: RetryWindow | UnsetType = UNSET
    derivation: Derivation | UnsetType | None = UNSET
    enrols: bool | UnsetType = UNSET
    country_statistics: bool | UnsetType = UNSET


class Batch(msgspec.Struct):
    id: int
    group_id: int
    name: str
    active: bool
    created_at: dt.datetime


class BatchDraft(msgspec.Struct, forbid_unknown_fields=True):
    group_id: Id
    name: Name
    active: bool = True


class BatchPatch(msgspec.Struct, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    active: bool | UnsetType = UNSET


class Tag(msgspec.Struct):
    """A tag. `rules` and `fields` are its own; where they are null or absent, the group's apply."""

    xuid: str
    uid: str | None
    cuid: str | None
    name: str | None
    group_id: int
    batch_id: int | None
    active: bool
    assigned: bool
    assigned_at: dt.datetime | None
    rules: RuleSetBody | None
    fields: dict[str, str]
    originality: Literal["genuine", "forged"] | None
    created_at: dt.datetime


class TagDraft(msgspec.Struct, forbid_unknown_fields=True):
    """A tag to create, in a group or in a batch."""

    group_id: Id | None = None
    batch_id: Id | None = None
    xuid: Xuid | None = None
    xuid_length: Literal[8, 16] = 16
    uid: Uid | None = None
    cuid: Cuid | None = None
    name: Label | None = None
    active: bool = True
    assigned: bool = False
    rules: RuleSetBody | None = None
    fields: Fields = {}
    key: KeyText | None = None
    meta_key: KeyText | None = None
    originality_signature: Signature | None = None


class TagPatch(msgspec.Struct, forbid_unknown_fields=True):
    """Members of a tag to change. `fields` are merged by name, and null removes a value."""

    group_id: Id | UnsetType = UNSET
    batch_id: Id | UnsetType | None = UNSET
    uid: Uid | UnsetType = UNSET
    cuid: Cuid | UnsetType | None = UNSET
    name: Label | UnsetType | None = UNSET
    active: bool | UnsetType = UNSET
    assigned: bool | UnsetType = UNSET
    rules: RuleSetBody | UnsetType | None = UNSET
    fields: FieldsPatch | UnsetType = UNSET
    originality_signature: Signature | UnsetType | None = UNSET


class Counter(msgspec.Struct):
    """The newest accepted tap of a tag. `counter` and `key_version` are null before the first genuine one."""

    scan_count: int
    key_version: int | None
    counter: int | None
    last_at: dt.datetime | None


class KeyVersion(msgspec.Struct):
    """A version of a key, never its value. One that is not live verifies no taps."""

    version: int
    live: bool
    check_value: Annotated[str, Meta(description="The first 3 bytes of AES-CMAC over 16 zero bytes, in hexadecimal.")]
    created_at: dt.datetime


class MasterVersion(KeyVersion):
    """A version of a group's master key, with its derivation."""

    derivation: Derivation


class KeyDraft(msgspec.Struct, forbid_unknown_fields=True):
    key: KeyText
    retire_others: bool = False


class ApiKey(msgspec.Struct):
    id: int
    label: str
    scopes: list[Scope]
    live: bool
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None
    created_at: dt.datetime


class NewApiKey(ApiKey):
    """A new API key. This response is the only one that has its `token`."""

    token: str


class ApiKeyDraft(msgspec.Struct, forbid_unknown_fields=True):
    scopes: Scopes
    label: Label = ""
    expires_at: Moment | None = None


class ApiKeyPatch(msgspec.Struct, forbid_unknown_fields=True):
    label: Label | UnsetType = UNSET
    expires_at: Moment | UnsetType | None = UNSET


class Rotation(msgspec.Struct, forbid_unknown_fields=True):
    """How an API key is replaced. The old one stays valid for `overlap_s` seconds, or until it would have expired."""

    overlap_s: Annotated[int, Meta(ge=0, le=90 * 86_400)] = 86_400
    expires_at: Moment | None = None


class Trial(msgspec.Struct, forbid_unknown_fields=True):
    """A rule set, and facts of a scan by name. The fact `now` is a time, as text or in Unix seconds."""

    rules: RuleSetBody
    facts: dict[str, bool | int | str] = {}


class TrialStep(msgspec.Struct):
    """One step of a decision."""

    step: str
    depth: int
    holds: bool | None
    found: str


class TrialResult(msgspec.Struct):
    """What a rule set decides about a scan with these facts."""

    group: str | None
    response: str
    steps: list[TrialStep]
    warnings: list[str]


class Act(msgspec.Struct):
    """A change made through management. `api_key_id` is null for commands on a host."""

    id: int
    at: dt.datetime
    api_key_id: int | None
    act: str
    object: str
    object_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class LoggedScan(msgspec.Struct):
    """A scan in the scan log. `counter` and `key_version` are null if the tap did not prove any."""

    scan_id: str
    at: dt.datetime
    tag: str | None
    verdict: str
    reason: str | None
    key_version: int | None
    counter: int | None


class Count(msgspec.Struct):
    """Number of scans of an hour, day, group, batch, tag or country."""

    object: str | None
    total: int
    verdicts: dict[str, int]


class Imported(msgspec.Struct):
    """What an import did, or would do in a dry run."""

    dry_run: bool
    lines: int
    added: int
    changed: int
    unchanged: int
    keys_added: int
    keys_replaced: int
    meta_keys_added: int
    batch_meta_keys_added: int
    tag_meta_keys_added: int
    warnings: list[str]


class Stats(msgspec.Struct, rename={"from_": "from"}):
    from_: dt.datetime
    to: dt.datetime
    by: Literal["hour", "day", "group", "batch", "tag", "country"]
    counts: list[Count]
