"""The catalogue: tags, API keys and what they inherit, from a bounded cache in front of PostgreSQL.

`find` returns what is cached; `fetch` looks up the rest in rounds (`LookupRounds`). An absent reference is remembered for a few
seconds, within a bound, and only for those who asked: a caller with a token asks within its account, where another account's tag
is as absent as one that does not exist. Both are looked up, not found and remembered with the same work, even while the other
account's tag is cached.

A management change drops or renews what it touched (`apply`). A look-up that was under way when a change arrived is answered but
not cached, because it may have read the state before the change.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import Any

from ixfast import limits, meters
from ixfast.domain import references
from ixfast.domain.model import Key
from ixfast.domain.records import Account, ApiKey, Group, TagRecord
from ixfast.domain.scan import Scan
from ixfast.keys import KeyEncryptionKeys, KeyUnavailableError
from ixfast.store.catalogue.cache import TwoGenerations
from ixfast.store.catalogue.lookups import Failure, Found, LookupRounds, RoundResult, Waiter, Wanted, accounts_asking
from ixfast.store.catalogue.record_loader import Loader
from ixfast.store.connections.session import RetainingPool, pooled_connection
from ixfast.store.db_errors import db_error_kind

log = logging.getLogger("ixfast.catalogue")

_SLICE_TAGS = 5000  # About a millisecond.


class Change:
    """One row of `catalogue_change`."""

    __slots__ = ("id", "kind", "xuid")

    def __init__(self, kind: str, id_: int | None, xuid: str | None) -> None:
        self.kind = kind
        self.id = id_
        self.xuid = xuid


class Catalogue:
    """Records by reference. `stale` is the reason why nothing may pass at present, or None."""

    def __init__(
        self,
        pool: Any,
        keks: KeyEncryptionKeys,
        gauges: meters.Meters,
        *,
        tags_max: int,
        absent_max: int,
        deadline_s: float,
        loader: Loader | None = None,
    ) -> None:
        self._pool = pool
        self._kept = RetainingPool(pool)  # for the rounds, of which there may be a thousand a second
        self._meters = gauges
        self._deadline_s = deadline_s
        self._loader = loader or Loader(keks)
        self._tags = TwoGenerations(tags_max)  # TagRecord
        self._aliases = TwoGenerations(tags_max)  # bytes
        self._api_keys = TwoGenerations(10_000)  # ApiKey
        self._absent = TwoGenerations(absent_max)  # float
        self._accounts: dict[str, tuple[Account, list[Group]]] = {}
        self._batch_keys = TwoGenerations(limits.BATCHES_CACHED_MAX)  # tuple[Key, ...], by account and name of the batch
        self._batch_lookup = asyncio.Lock()
        self._enrolling: frozenset[str] | None = None  # accounts (AID) with a group that enrols; None: not known
        self._rounds = LookupRounds(self._look_up, self._derive_keys, deadline_s=deadline_s)
        self._renewals: set[asyncio.Task[None]] = set()
        self._changes_applied = 0
        self._loop = asyncio.get_running_loop()
        self.stale: str | None = "starting"
        self.fresh_until = float("inf")
        """Loop time until which cached records may decide scans, unless the catalogue becomes `stale` before."""

    @property
    def idle(self) -> bool:
        return self._rounds.idle

    def find(self, ref: bytes) -> TagRecord | None:
        """The cached record behind a tag reference."""
        record: TagRecord | None = self._tags.get(ref)
        if record is None and ref[:1] == b"\0":
            code = self._aliases.get(ref)
            if code is not None:
                record = self._tags.get(code)
                if record is not None and ref not in _aliases_of(record):
                    return None  # the alias was moved to another tag meanwhile
        return record

    def find_api_key(self, token_sha256: bytes) -> ApiKey | None:
        """The cached API key behind a token's hash."""
        known: ApiKey | None = self._api_keys.get(references.by_token(token_sha256))
        return known

    def fetch(self, scan: Scan, ref: bytes, found: Found) -> None:
        """Look up `ref` and call `found(scan, record)`.

        None proves absence, in the account of the scan's API key if it has one. If there is no answer, the scan has an error when
        `found` is called.
        """
        slots = self._meters.slots
        absent_key = _absent_key(scan, ref)
        until = self._absent.get(absent_key)
        if until is not None:
            if until > self._loop.time():
                slots[meters.CATALOGUE_ABSENT] += 1
                found(scan, None)
                return
            self._absent.pop(absent_key)
        slots[meters.CATALOGUE_MISSES] += 1
        self._rounds.add(scan, ref, found)

    async def _look_up(self, wanted: Wanted, time_left_s: float) -> RoundResult:
        """One round of look-ups."""
        self._meters.slots[meters.CATALOGUE_QUERIES] += 1
        applied = self._changes_applied
        names: set[bytes] = set()  # tag codes
        others: list[bytes] = []
        for ref, waiters in wanted.items():
            if references.kind(ref) == references.XUID:
                names.add(self._name_of(ref, waiters))
            else:
                others.append(ref)
        api_keys: dict[bytes, ApiKey] = {}
        codes: dict[bytes, bytes] = {}  # by alias
        enrolling = self._enrolling
        async with pooled_connection(self._kept, time_left_s) as connection:
            if others:
                api_keys, codes, enrolling = await self._look_up_others(connection, others)
                names.update(codes.values())
            tags, unusable = await self._loader.tags(connection, names, accounts_asking(wanted)) if names else ({}, {})
        failures = {code: Failure(self._reason(code, tag.error), tag) for code, tag in unusable.items()}
        records: dict[bytes, Any] = {**api_keys, **tags}
        for alias, code in codes.items():
            if code in failures:
                failures[alias] = failures[code]
            elif code in tags:
                records[alias] = tags[code]
        if applied == self._changes_applied:
            self._enrolling = enrolling
            self._remember(tags, codes, api_keys)
            self._remember_absent(wanted, records, failures)
        return RoundResult(records, failures, applied)

    async def _look_up_others(
        self, connection: Any, others: list[bytes]
    ) -> tuple[dict[bytes, ApiKey], dict[bytes, bytes], frozenset[str] | None]:
        """API keys, tag codes by alias and, if an alias is among them, the accounts with a group that enrols."""
        tokens = [ref for ref in others if references.kind(ref) == references.TOKEN]
        api_keys = await self._loader.api_keys(connection, [t[2:] for t in tokens]) if tokens else {}
        aliases = [ref for ref in others if references.kind(ref) in (references.CUID, references.UID)]
        codes = await self._loader.codes_of(connection, aliases) if aliases else {}
        enrolling = self._enrolling
        if aliases and enrolling is None:
            enrolling = await self._loader.enrolling(connection)
        return api_keys, codes, enrolling

    def _name_of(self, code: bytes, waiters: list[Waiter]) -> bytes:
        """The name to look up a tag code under: one that no tag has, if none of the waiting scans may see the cached tag.

        Finding the row and filtering it out takes PostgreSQL 5 us longer than finding none, which callers could measure.
        """
        record = self._tags.peek(code)
        if record is None or any(record.is_for(scan.api_key, scan.aid) for scan, _ in waiters):
            return code
        return b"\x01" + code[1:]

    def _remember(self, tags: dict[bytes, TagRecord], codes: dict[bytes, bytes], api_keys: dict[bytes, ApiKey]) -> None:
        for record in tags.values():
            if not record.awaits_keys:
                self._keep(record)
        for alias, code in codes.items():
            if code in tags:
                self._aliases.put(alias, tags[code].xuid)
        for ref, api_key in api_keys.items():
            self._api_keys.put(ref, api_key)
        self._meters.slots[meters.CATALOGUE_TAGS] = len(self._tags)

    def _remember_absent(self, wanted: Wanted, records: dict[bytes, Any], failures: dict[bytes, Failure]) -> None:
        until = self._loop.time() + limits.NEGATIVE_TTL_S
        for ref, waiters in wanted.items():
            failure = failures.get(ref)
            record = (failure.tag if failure is not None else None) or records.get(ref)
            if isinstance(record, ApiKey):
                continue
            for scan, _ in waiters:
                if record is None or not record.is_for(scan.api_key, scan.aid):
                    self._absent.put(_absent_key(scan, ref), until)

    async def _derive_keys(self, record: TagRecord, revision: int) -> str | None:
        """Derive a record's keys and cache it, unless a change arrived since `revision`. Returns the reason if they cannot be."""
        try:
            await record.derive_keys()
        except Exception as error:  # any kind, as in a look-up
            return self._reason(record.xuid, error)
        if revision == self._changes_applied:
            self._keep(record)
        return None

    def _keep(self, record: TagRecord) -> None:
        known = self._tags.get(record.xuid)
        if known is not None:  # from a round beside this one: the floor that was learnt must not be lost
            record.floor = max(record.floor, known.floor)
        self._tags.put(record.xuid, record)

    def _reason(self, code: bytes, error: Exception) -> str:
        if isinstance(error, KeyUnavailableError):
            self._meters.slots[meters.KEY_UNWRAP_FAILURES] += 1
            log.error("tag %s: cannot open its key (%s)", code.decode(), type(error).__name__)
            return "key_unavailable"
        log.error("tag %s: cannot build its record (%s: %s)", code.decode(), type(error).__name__, error)
        return "bad_record"

    async def account(self, aid: str, *, is_owner: bool = True) -> tuple[Account, list[Group]] | None:
        """An account with all its groups. Not on the hot path.

        None proves absence; a closed account is absent unless its owner asks. Raises what the database raises, and
        `KeyUnavailableError`.
        """
        known = self._accounts.get(aid)
        if known is None:
            applied = self._changes_applied
            async with pooled_connection(self._pool, self._deadline_s) as connection:
                known = await self._loader.account_and_groups(connection, aid, is_owner=is_owner)
            if known is not None and applied == self._changes_applied:
                self._accounts[aid] = known
        return known if known is None or is_owner or known[0].open else None

    async def batch_meta_keys(self, account_id: int, name: str) -> tuple[Key, ...]:
        """The own meta keys of the account's batches of this name. Not on the hot path. Raises like `account`."""
        own = f"{account_id} {name}".encode()
        known: tuple[Key, ...] | None = self._batch_keys.get(own)
        if known is None:
            applied = self._changes_applied
            # One at a time: callers may send any number of names, and other work needs connections, too.
            async with (
                asyncio.timeout(self._deadline_s),
                self._batch_lookup,
                pooled_connection(self._pool, self._deadline_s) as connection,
            ):
                known = await self._loader.batch_meta_keys(connection, account_id, name)
            if applied == self._changes_applied:
                self._batch_keys.put(own, known)
        return known

    def may_enrol(self, aid: str) -> bool:
        """Whether the account may have a group that enrols; True if that is not known at present."""
        return self._enrolling is None or aid in self._enrolling

    def forget_absent(self, scan: Scan) -> None:
        """Forget that the scan's reference was absent, because it may exist now."""
        self._absent.pop(_absent_key(scan, scan.ref))

    def keys_opened(self) -> None:
        """Read accounts, groups and batches again whose keys could not be opened: more key-encryption keys are open now."""
        loader = self._loader
        if loader.lacking or loader.lacking_groups or loader.lacking_batches:
            task = self._loop.create_task(self._renew_lacking())
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew_lacking(self) -> None:
        loader = self._loader
        while True:
            lacking = [Change("account", i, None) for i in loader.lacking & loader.accounts.keys()]
            lacking += [Change("group", i, None) for i in loader.lacking_groups & loader.groups.keys()]
            lacking += [Change("batch", i, None) for i in loader.lacking_batches]
            if not lacking:
                return
            try:
                await self.apply(lacking)
            except Exception as error:  # try again until the database answers
                log.warning("cannot reload accounts: %s", db_error_kind(error).value)
                await asyncio.sleep(limits.RECONNECT_DELAY_MS_MAX / 1000)
            else:
                return

    async def apply(self, changes: list[Change]) -> None:
        """Apply management changes. Once it returns, no scan is answered from the state before."""
        self._meters.slots[meters.CATALOGUE_CHANGES] += len(changes)
        await self._take_over(changes)

    async def forget(self) -> None:
        """Forget everything that was looked up. Once it returns, no scan is answered from it."""
        await self._take_over([Change("all", None, None)])

    async def _take_over(self, changes: list[Change]) -> None:
        self._changes_applied += 1
        self._loader.changes += 1
        by_kind: defaultdict[str, set[int]] = defaultdict(set)
        for change in changes:
            by_kind[change.kind].add(change.id or 0)
            if change.kind == "tag" and change.xuid is not None:
                self._tags.pop(change.xuid.encode())
        self._absent.clear()
        self._accounts.clear()
        self._batch_keys.clear()
        self._enrolling = None
        if "api_key" in by_kind or "account" in by_kind:
            self._api_keys.clear()
        if "all" in by_kind:
            await self._kept.expire()
            self._tags.clear()
            self._aliases.clear()
            self._api_keys.clear()
        await self._renew_shared(by_kind)
        self._changes_applied += 1  # records made from the groups as they were are not cached from here on
        await self._forget_outgrown()

    async def _forget_outgrown(self) -> None:
        """Forget the tags of groups whose keys or dates have changed. In slices, because there may be a million other tags."""
        outgrown, self._loader.outgrown = self._loader.outgrown, set()
        if not outgrown:
            return
        codes = self._tags.keys()
        for start in range(0, len(codes), _SLICE_TAGS):
            for code in codes[start : start + _SLICE_TAGS]:
                record = self._tags.peek(code)
                if record is not None and record.group.group_id in outgrown:
                    self._tags.pop(code)
            await asyncio.sleep(0)

    async def _renew_shared(self, by_kind: dict[str, set[int]]) -> None:
        loader = self._loader
        everything = "all" in by_kind
        accounts = {i for i in loader.accounts if everything or i in by_kind["account"]}
        groups = {i for i, g in loader.groups.items() if everything or i in by_kind["group"] or g.account.account_id in accounts}
        batches = {i for i in loader.batches if everything or i in by_kind["batch"]}
        if not (accounts or groups or batches):
            return
        async with pooled_connection(self._pool, self._deadline_s) as connection:
            if accounts:
                await loader.load_accounts(connection, accounts)
            if groups:
                await loader.load_groups(connection, groups)
            if batches:
                await loader.load_batches(connection, batches)


def _absent_key(scan: Scan, ref: bytes) -> bytes:
    """The key under which the absence of a reference is remembered: within an account, if the caller has a token or names one."""
    if scan.api_key is not None:
        return b"\0%d\0%b" % (scan.api_key.account_id, ref)
    if scan.aid is None or references.kind(ref) != references.XUID:  # other kinds of references have the account in them
        return ref
    return b"\0a%b\0%b" % (scan.aid.encode(), ref)


def _aliases_of(record: TagRecord) -> tuple[bytes, ...]:
    aid = record.group.account.aid
    by_cuid = (references.by_cuid(aid, record.cuid),) if record.cuid is not None else ()
    return (*by_cuid, references.by_uid(aid, record.uid)) if record.uid is not None else by_cuid
