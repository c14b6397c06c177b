"""From rows to records: the queries behind a cache miss, and everything that is prepared when a record is made.

Opening keys, compiling rules and profiles, and parsing response texts all happen here, once per record instead of once per scan.
Groups, batches and accounts are shared by their tags. The loader keeps them for good and replaces their content in place, so a
change of a group costs the same whether ten of its tags are cached or a million. It has no cache of tags: the catalogue has.

A record that cannot be made (a key that does not open, a profile of a later release) never replaces one that could, and never
affects the look-up of other tags.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ixfast import limits
from ixfast.chips import compile_profile
from ixfast.domain import references
from ixfast.domain.model import EncodingProfile, FieldDefinition, Key
from ixfast.domain.records import Account, ApiKey, Batch, Group, TagOverrides, TagRecord
from ixfast.errors import InputError, ProfileError
from ixfast.keys import DerivedKeys, KeyEncryptionKeys, KeySlot, KeyUnavailableError, unwrap
from ixfast.keys.derived_keys import Master, MasterId
from ixfast.keys.diversify import Derivation
from ixfast.responses.response_set import BUILT_IN, ResponseSet, members
from ixfast.responses.response_text import inner_text
from ixfast.rules import load_rules
from ixfast.store.queries import load

_DERIVED_WITHOUT_PAUSE = 32  # About 30 us each.
_FILE_SLOT, _META_SLOT = int(KeySlot.FILE), int(KeySlot.META)
_DATES = frozenset(("dtcreated", "dtassigned"))

log = logging.getLogger("ixfast.catalogue")


class Unusable(NamedTuple):
    """A tag that exists but cannot be made into a record: the reason, and whose tag it is."""

    error: Exception
    account_id: int
    is_closed: bool
    aid: str | None = None  # None if its account has never been read

    def is_for(self, api_key: ApiKey | None, aid: str | None = None) -> bool:
        """As `TagRecord.is_for`. For everyone else the tag does not exist, so its failure must not be visible either."""
        if api_key is not None:
            return api_key.account_id == self.account_id
        return not self.is_closed and (aid is None or self.aid is None or aid == self.aid)


class Loader:
    """Reads records. Shared ones (`records.SharedRecord`) are kept here and given to all of their tags.

    - `lacking`: accounts with a meta key that cannot be opened at present.
    - `lacking_groups`, `lacking_batches`: groups with a master key, and batches with a meta key, which cannot be opened now.
    - `outgrown`: groups whose cached tags are outdated, because they have other keys than when they were loaded or lack dates
      that the group shows now. The catalogue drops those tags and empties this set.
    - `changes`: to be raised when a change arrives. Rows that were requested before may show the state before it, so they are
      requested again: shared records are kept for good, and a deactivated group must not be kept as an active one.
    """

    def __init__(self, keks: KeyEncryptionKeys) -> None:
        self._keks = keks
        self._sql = load("catalogue")
        self.accounts: dict[int, Account] = {}
        self.groups: dict[int, Group] = {}
        self.batches: dict[int, Batch] = {}
        # Of accounts, including those that are not kept because they are lacking.
        self._closed: set[int] = set()
        self._aids: dict[int, str] = {}
        self.lacking: set[int] = set()
        self.lacking_groups: set[int] = set()
        self.lacking_batches: set[int] = set()
        self.outgrown: set[int] = set()
        self.changes = 0

    async def tags(
        self, connection: Any, codes: Collection[bytes], accounts: Collection[int] | None = None
    ) -> tuple[dict[bytes, TagRecord], dict[bytes, Unusable]]:
        """Records by tag code, and the tags that exist but cannot be made into one.

        With `accounts`, only tags of these accounts are found. Records that still await their keys (`TagRecord.awaits_keys`) are
        among the records.
        """
        own = list(accounts) if accounts is not None else None
        rows = await connection.fetch(self._sql["tags_by_xuid"], [code.decode() for code in codes], own)
        if not rows:
            return {}, {}
        await self._keks.look_for({r["kek_id"] for r in rows if r["kek_id"] is not None})
        await self._load_shared(connection, rows)
        found: dict[bytes, TagRecord] = {}
        failed: dict[bytes, Unusable] = {}
        derived = 0
        for _, versions in groupby(rows, key=itemgetter("tag_id")):
            tag_rows = list(versions)
            code = tag_rows[0]["xuid"].encode()
            try:
                found[code] = self._tag(tag_rows)
                derived += found[code].group.derived is not None
            except Exception as error:  # one bad record must not affect the others
                account_id = tag_rows[0]["account_id"]
                failed[code] = Unusable(error, account_id, account_id in self._closed, self._aids.get(account_id))
            if derived >= _DERIVED_WITHOUT_PAUSE:
                derived = 0
                await asyncio.sleep(0)
        return found, failed

    def _tag(self, rows: list[Any]) -> TagRecord:
        row = rows[0]
        if row["group_id"] not in self.groups and row["account_id"] in self.lacking:
            raise KeyUnavailableError("A meta key of the tag's account cannot be opened.")
        keys, meta_keys = self._own_keys(rows)
        group = self.groups[row["group_id"]]
        if not keys and group.derived is not None and row["uid"] is not None and not group.derived.slow:
            keys = group.derived.file_keys(row["uid"])
        return TagRecord(
            row["tag_id"],
            row["xuid"].encode(),
            group,
            self.batches[row["batch_id"]] if row["batch_id"] is not None else None,
            cuid=row["cuid"],
            uid=row["uid"],
            name=row["name"],
            active=row["active"],
            assigned=row["assigned"],
            keys=keys,
            overrides=_overrides(row, group, meta_keys),
            originality=row["originality"],
        )

    def _own_keys(self, rows: list[Any]) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
        """The live file keys of a tag, and its own meta keys."""
        keys: tuple[Key, ...] = ()
        meta_keys: tuple[Key, ...] = ()
        for row in rows:
            slot = row["slot"]
            if slot == _FILE_SLOT:
                keys += (self._opened(row, slot, row["tag_id"]),)
            elif slot == _META_SLOT:
                meta_keys += (self._opened(row, slot, row["tag_id"]),)
        return keys, meta_keys

    async def codes_of(self, connection: Any, wanted: Iterable[bytes]) -> dict[bytes, bytes]:
        """Tag codes by CUID or UID reference. Absent references are left out."""
        found: dict[bytes, bytes] = {}
        cuids = [references.split(ref) for ref in wanted if references.kind(ref) == references.CUID]
        if cuids:
            aids, own = zip(*cuids, strict=True)
            for row in await connection.fetch(self._sql["xuids_by_cuid"], aids, [o.decode() for o in own]):
                found[references.by_cuid(row["aid"], row["cuid"])] = row["xuid"].encode()
        uids = [references.split(ref) for ref in wanted if references.kind(ref) == references.UID]
        if uids:
            aids, own = zip(*uids, strict=True)
            for row in await connection.fetch(self._sql["xuids_by_uid"], aids, own):
                found[references.by_uid(row["aid"], row["uid"])] = row["xuid"].encode()
        return found

    async def api_keys(self, connection: Any, hashes: Collection[bytes]) -> dict[bytes, ApiKey]:
        """Live API keys by reference. `hashes` are SHA-256 hashes of tokens, 32 bytes each."""
        rows = await connection.fetch(self._sql["api_keys_by_hash"], list(hashes))
        return {
            references.by_token(r["token_sha256"]): ApiKey(
                r["api_key_id"], r["account_id"], r["aid"], frozenset(r["scopes"]), r["label"], r["expires_at"]
            )
            for r in rows
        }

    async def enrolling(self, connection: Any) -> frozenset[str]:
        """Accounts (AID) with a group that enrols."""
        return frozenset(row["aid"] for row in await connection.fetch(self._sql["enrolling_accounts"]))

    async def _load_shared(self, connection: Any, rows: list[Any]) -> None:
        group_ids = {r["group_id"] for r in rows} - self.groups.keys()
        if group_ids:
            await self.load_groups(connection, group_ids)
        batch_ids = {r["batch_id"] for r in rows if r["batch_id"] is not None} - self.batches.keys()
        if batch_ids:
            await self.load_batches(connection, batch_ids)

    async def load_batches(self, connection: Any, batch_ids: Collection[int]) -> None:
        """Read batches with their meta keys. One with a meta key that cannot be opened is added to `lacking_batches`."""
        asked = -1
        while asked != self.changes:
            asked = self.changes
            rows = await connection.fetch(self._sql["batches_by_id"], list(batch_ids))
            await self._keks.look_for({row["kek_id"] for row in rows if row["kek_id"] is not None})
        for batch_id, versions in groupby(rows, key=itemgetter("batch_id")):
            batch_rows = list(versions)
            self.lacking_batches.discard(batch_id)
            meta_keys: tuple[Key, ...] = ()
            try:
                meta_keys = self._batch_keys(batch_rows)
            except KeyUnavailableError as error:
                self.lacking_batches.add(batch_id)
                log.error("batch %d: cannot open a meta key (%s)", batch_id, type(error).__name__)
            row, lacks = batch_rows[0], batch_id in self.lacking_batches
            batch = Batch(batch_id, row["name"], active=row["active"], meta_keys=meta_keys, lacks_keys=lacks)
            _keep(self.batches, batch_id, batch)

    def _batch_keys(self, rows: list[Any]) -> tuple[Key, ...]:
        return tuple(self._opened(row, KeySlot.BATCH, row["batch_id"]) for row in rows if row["version"] is not None)

    async def batch_meta_keys(self, connection: Any, account_id: int, name: str) -> tuple[Key, ...]:
        """The own meta keys of the account's batches of this name. Raises `KeyUnavailableError` if one cannot be opened."""
        rows = await connection.fetch(self._sql["batches_by_name"], account_id, name, limits.BATCHES_NAMED_MAX)
        await self._keks.look_for({row["kek_id"] for row in rows})
        return self._batch_keys(rows)

    async def load_groups(self, connection: Any, group_ids: Collection[int]) -> None:
        """Read groups, and the accounts that they belong to unless those are loaded already."""
        asked = -1
        while asked != self.changes:
            asked = self.changes
            rows = await connection.fetch(self._sql["groups_by_id"], list(group_ids))
            derived = await self._derived_of(connection, [row for row in rows if row["derivation"] is not None])
            missing = {r["account_id"] for r in rows} - self.accounts.keys()
            if missing:
                await self.load_accounts(connection, missing)
        for row in rows:
            if row["account_id"] not in self.accounts and row["account_id"] in self.lacking:
                continue  # its tags fail with that reason
            try:
                group, known = self._group(row, derived.get(row["group_id"])), self.groups.get(row["group_id"])
                if known is not None and (_identity(known.derived) != _identity(group.derived) or group.dates - known.dates):
                    self.outgrown.add(row["group_id"])
                _keep(self.groups, row["group_id"], group)
            except (InputError, ProfileError, msgspec.MsgspecError) as error:
                # Management of this release stores no such group, but that of a later release may. What cannot be used never
                # replaces what could, but a deactivation is applied all the same.
                log.error("cannot load group %d: %s", row["group_id"], error)
                known = self.groups.get(row["group_id"])
                if known is not None:
                    known.active, known.folder_active = row["group_active"], row["folder_active"]

    async def _derived_of(self, connection: Any, rows: list[Any]) -> dict[int, DerivedKeys]:
        """The key sources of these groups, by group id.

        A group with a master key that cannot be opened is added to `lacking_groups`. It keeps the key source that it had, if that
        is still the right one, or gets one without keys.
        """
        if not rows:
            return {}
        key_rows = await connection.fetch(self._sql["keys_of_groups"], [row["group_id"] for row in rows])
        await self._keks.look_for({row["kek_id"] for row in key_rows})
        found = {}
        for row in rows:
            group_id = row["group_id"]
            masters = self._masters(group_id, [key for key in key_rows if key["group_id"] == group_id])
            found[group_id] = await DerivedKeys.make(masters)
        return found

    def _masters(self, group_id: int, rows: list[Any]) -> tuple[Master, ...] | None:
        """The group's live master keys; None if one cannot be opened, or has a derivation that this release does not have."""
        wanted: list[MasterId] = []
        try:
            for row in rows:
                derivation = msgspec.json.decode(row["derivation"], type=Derivation)
                wanted.append(MasterId(derivation, row["version"], bytes(row["check_value"])))
            masters = tuple(
                Master(each.derivation, self._opened(row, KeySlot.MASTER, group_id))
                for each, row in zip(wanted, rows, strict=True)
            )
        except (KeyUnavailableError, msgspec.MsgspecError) as error:
            self.lacking_groups.add(group_id)
            log.error("group %d: cannot use a master key (%s)", group_id, type(error).__name__)
        else:
            self.lacking_groups.discard(group_id)
            return masters
        known = self.groups.get(group_id)
        held = known.derived if known is not None else None
        return held.masters_like(wanted) if isinstance(held, DerivedKeys) and len(wanted) == len(rows) else None

    def _group(self, row: Any, derived: DerivedKeys | None) -> Group:
        """Raises `ProfileError` or `InputError` for an invalid profile or rule set."""
        profile = row["profile"]
        definitions = msgspec.json.decode(row["field_definitions"], type=list[FieldDefinition])
        values = msgspec.json.decode(row["field_values"], type=dict[str, str])
        response_set = ResponseSet(load_rules(row["rule_set"])) if row["rule_set"] else BUILT_IN
        fields = {field.name: values.get(field.name, "") for field in definitions}
        reply_names = tuple(field.name for field in definitions if field.in_reply)
        return Group(
            row["group_id"],
            row["group_name"],
            self.accounts[row["account_id"]],
            folder_name=row["folder_name"],
            folder_active=row["folder_active"],
            active=row["group_active"],
            profile=compile_profile(msgspec.json.decode(profile, type=EncodingProfile)) if profile else None,
            response_set=response_set,
            fields=fields,
            reply_names=reply_names,
            reply_json=members(fields, reply_names),
            retry_window_ms=row["retry_window_s"] * 1000,
            derived=derived,
            enrols=row["enrols"] and derived is not None,
            country_statistics=row["country_statistics"],
            dates=_DATES & response_set.subtags | _dates_in(fields.values()),
        )

    async def load_accounts(self, connection: Any, account_ids: Collection[int]) -> None:
        """Read accounts with their meta keys.

        An account with a meta key that cannot be opened is added to `lacking` and not kept. If it was loaded before, it keeps the
        meta keys that it has, or has none, in which case its taps are neither accepted nor refused.
        """
        asked = -1
        while asked != self.changes:
            asked = self.changes
            rows = await connection.fetch(self._sql["accounts_by_id"], list(account_ids))
            key_rows = await connection.fetch(self._sql["meta_keys_of_accounts"], list(account_ids))
            await self._keks.look_for({r["kek_id"] for r in key_rows})
        for row in rows:
            (self._closed.discard if row["open"] else self._closed.add)(row["account_id"])
            self._aids[row["account_id"]] = row["aid"]
            meta_keys = self._meta_keys([r for r in key_rows if r["account_id"] == row["account_id"]], row["account_id"])
            if meta_keys is None:
                continue
            account = Account(
                row["account_id"],
                row["aid"],
                row["name"],
                is_open=row["open"],
                active=row["active"],
                cors=row["cors"],
                meta_keys=meta_keys,
                lacks_keys=row["account_id"] in self.lacking and not meta_keys,
            )
            _keep(self.accounts, account.account_id, account)

    def _meta_keys(self, rows: list[Any], account_id: int) -> tuple[Key, ...] | None:
        self.lacking.discard(account_id)
        try:
            return tuple(self._opened(row, KeySlot.META, 0) for row in rows)
        except KeyUnavailableError as error:
            self.lacking.add(account_id)
            log.error("account %d: cannot open a meta key (%s)", account_id, type(error).__name__)
        known = self.accounts.get(account_id)
        if known is None:
            return None
        held = {(key.version, bytes(key.check_value)): key for key in known.meta_keys}
        wanted = [(row["version"], bytes(row["check_value"])) for row in rows]
        return tuple(held[each] for each in wanted) if held.keys() >= set(wanted) else ()

    def _opened(self, row: Any, slot: int, tag_id: int) -> Key:
        value = unwrap(
            self._keks.by_id(row["kek_id"]),
            row["wrapped"],
            account_id=row["account_id"],
            tag_id=tag_id,
            slot=slot,
            version=row["version"],
        )
        return Key(row["version"], value, row["check_value"])

    async def account_and_groups(self, connection: Any, aid: str, *, is_owner: bool = True) -> tuple[Account, list[Group]] | None:
        """An account with all its groups, by AID; None if it does not exist.

        For everyone but its owner, a closed account does not exist, and its keys are not opened then. Raises
        `KeyUnavailableError` if a key of the account or of one of its groups cannot be opened.
        """
        row = await connection.fetchrow(self._sql["account_by_aid"], aid)
        if row is None or not (row["open"] or is_owner):
            return None
        account_id = row["account_id"]
        group_ids = [r["group_id"] for r in await connection.fetch(self._sql["groups_of_account"], account_id)]
        missing = (set(group_ids) - self.groups.keys()) | (set(group_ids) & self.lacking_groups)
        if missing:
            await self.load_groups(connection, missing)
        if account_id not in self.accounts or account_id in self.lacking:
            await self.load_accounts(connection, {account_id})
        if account_id in self.lacking:
            raise KeyUnavailableError("A meta key of the account cannot be opened.")
        groups = [self.groups[group_id] for group_id in group_ids]
        wanting = (group.derived for group in groups if group.group_id in self.lacking_groups)
        if any(derived is None or derived.meta_keys is None for derived in wanting):
            raise KeyUnavailableError("A master of a group of the account cannot be opened.")
        return self.accounts[account_id], groups


def _overrides(row: Any, group: Group, meta_keys: tuple[Key, ...]) -> TagOverrides | None:
    """What the tag overrides of its group; None for nearly every tag. Raises `InputError` for an invalid rule set."""
    rule_set, own_fields, name = row["rule_set"], row["fields"], row["name"]
    if rule_set is None and own_fields is None and not meta_keys and not group.dates and (name is None or "{" not in name):
        return None
    response_set = ResponseSet(load_rules(rule_set)) if rule_set is not None else None
    fields = msgspec.json.decode(own_fields, type=dict[str, str]) if own_fields is not None else {}
    own = response_set.subtags if response_set is not None else frozenset[str]()
    dated = group.dates | _dates_in((name or "", *fields.values())) | (_DATES & own)
    if response_set is None and not fields and not dated and not meta_keys:
        return None
    created_at, assigned_at = (row["created_at"], row["assigned_at"]) if dated else (None, None)
    return TagOverrides(response_set, fields, created_at, assigned_at, meta_keys)


def _dates_in(texts: Iterable[str]) -> frozenset[str]:
    return _DATES & frozenset[str]().union(*(inner_text(text).subtags for text in texts if "{" in text))


def _identity(derived: Any) -> Any:
    return derived.identity if derived is not None else None


def _keep(shared: dict[int, Any], own_id: int, record: Any) -> None:
    """Add a shared record, or let the one that tags already hold adopt its content."""
    known = shared.get(own_id)
    if known is None:
        shared[own_id] = record
    else:
        known.adopt(record)
