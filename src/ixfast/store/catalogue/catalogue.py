"""The catalogue: tags, API keys and what they inherit, from a bounded cache in front of PostgreSQL.

Misses of one moment are resolved by one round of queries. An absent reference is remembered for a few seconds, within a
bound, for those who asked: a caller with a token asks within its account, where another account's tag is as absent as one that
does not exist. It is looked up, not found and remembered in the same way and with the same work, even while it is cached.

A management change drops or renews what it touched (`apply`); a look-up that was under way while a change arrived is answered
but not remembered, because it may have read the state before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from typing import Any

from ixfast import limits, meters
from ixfast.domain import references
from ixfast.domain.records import Account, ApiKey, Group, TagRecord
from ixfast.domain.scan import Scan
from ixfast.keys import KeyEncryptionKeys, KeyUnavailableError
from ixfast.store.catalogue.cache import TwoGenerations
from ixfast.store.catalogue.record_loader import Loader, Unusable
from ixfast.store.connections.session import RetainingPool, pooled_connection
from ixfast.store.db_errors import db_error_kind, reason_of

log = logging.getLogger("ixfast.catalogue")

_CONCURRENT_ROUNDS = 2  # One round's rows are turned into records while the other waits for the database.
# What misses waits for the round under way and is asked for together with others, since a round costs 0.2 ms however few it is
# for; unless many wait already, or that round is slow.
_SECOND_ROUND_FROM = 32
_SLOW_ROUND_S = 0.01
_SWEEP_S = 0.05
_SLICE_TAGS = 5000  # About a millisecond.
Found = Callable[[Scan, Any], None]
Waiter = tuple[Scan, Found]
Wanted = dict[bytes, list[Waiter]]
DbErrorKind = tuple[
    str, Unusable | None
]  # Why a look-up cannot be answered, and the tag of which that is not everybody's business.


class Change:
    """One row of `catalogue_change`."""

    __slots__ = ("id", "kind", "xuid")

    def __init__(self, kind: str, id_: int | None, xuid: str | None) -> None:
        self.kind = kind
        self.id = id_
        self.xuid = xuid


class Catalogue:
    """`find` for what is cached, `fetch` for what is not. `stale` says why nothing may pass now, or is None."""

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
        self._kept = RetainingPool(pool)  # for the rounds, which may follow each other a thousand times a second
        self._meters = gauges
        self._deadline_s = deadline_s
        self._loader = loader or Loader(keks)
        self._tags = TwoGenerations(tags_max)  # TagRecord
        self._aliases = TwoGenerations(tags_max)  # bytes
        self._api_keys = TwoGenerations(10_000)  # ApiKey
        self._absent = TwoGenerations(absent_max)  # float
        self._accounts: dict[str, tuple[Account, list[Group]]] = {}
        self._enrolling: frozenset[str] | None = None  # Accounts (AID) with a group that enrols; None: to be asked for
        self._waiting: Wanted = {}
        self._waiting_count = 0
        self._asked: list[Wanted] = []  # what the rounds under way are for
        self._rounds: set[asyncio.Task[None]] = set()
        self._round_began = 0.0
        self._slow = False  # the last round took long, as all do of late: a second one beside it would make both slower
        self._derivings: set[asyncio.Task[None]] = set()
        self._renewals: set[asyncio.Task[None]] = set()
        self._changes_applied = 0
        self._loop = asyncio.get_running_loop()
        self.stale: str | None = "starting"
        self.fresh_until = float("inf")
        """Loop time until which a scan may be answered by what is cached, unless it is `stale` before."""

    @property
    def idle(self) -> bool:
        return not (self._rounds or self._derivings)

    def find(self, ref: bytes) -> TagRecord | None:
        """The cached record behind a tag reference."""
        record: TagRecord | None = self._tags.get(ref)
        if record is None and ref[:1] == b"\0":
            code = self._aliases.get(ref)
            if code is not None:
                record = self._tags.get(code)
                if record is not None and ref not in _aliases_of(record):
                    return None  # the id was given to another tag meanwhile
        return record

    def find_api_key(self, token_sha256: bytes) -> ApiKey | None:
        """The cached API key behind a token's hash."""
        known: ApiKey | None = self._api_keys.get(references.by_token(token_sha256))
        return known

    def fetch(self, scan: Scan, ref: bytes, found: Found) -> None:
        """Look `ref` up and call `found(scan, record)`; None is proof of absence, in the account of the scan's API key if it
        has one. The scan fails if nothing can be said."""
        slots = self._meters.slots
        place = _absent_place(scan, ref)
        until = self._absent.get(place)
        if until is not None:
            if until > self._loop.time():
                slots[meters.CATALOGUE_ABSENT] += 1
                found(scan, None)
                return
            self._absent.pop(place)
        slots[meters.CATALOGUE_MISSES] += 1
        if self._waiting_count >= limits.LOOKUP_QUEUE_MAX:
            _fail(scan, found, "overloaded", "lookup_queue_full")
            return
        self._waiting.setdefault(ref, []).append((scan, found))
        self._waiting_count += 1
        if self._may_begin_round():
            self._round_began = self._loop.time()
            if not self._rounds:
                self._loop.call_later(_SWEEP_S, self._sweep)
            task = self._loop.create_task(self._run_rounds())
            self._rounds.add(task)

    def _may_begin_round(self) -> bool:
        if not self._rounds:
            return True
        if len(self._rounds) == _CONCURRENT_ROUNDS or self._slow:
            return False
        return len(self._waiting) >= _SECOND_ROUND_FROM or self._loop.time() > self._round_began + _SLOW_ROUND_S

    def _sweep(self) -> None:
        """End the scans whose deadline has passed, while there are rounds: those go on for whoever asked later."""
        if not self._rounds:
            return
        too_old = self._loop.time() - self._deadline_s
        late = []
        for wanted in (self._waiting, *self._asked):
            for waiters in wanted.values():
                if min([scan.arrived for scan, _ in waiters], default=too_old) < too_old:
                    late += [waiter for waiter in waiters if waiter[0].arrived < too_old]
                    waiters[:] = [waiter for waiter in waiters if waiter[0].arrived >= too_old]
        self._waiting = {ref: waiters for ref, waiters in self._waiting.items() if waiters}
        self._loop.call_later(_SWEEP_S, self._sweep)
        self._answer(late, None, ("deadline", None))  # at last, since whoever is answered may ask for something else

    async def _run_rounds(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await self._resolve_waiting()
        finally:
            # Not by a callback of the task, which runs later: what misses in between would wait for a round that never comes.
            self._rounds.discard(task)

    async def _resolve_waiting(self) -> None:
        while self._waiting:
            wanted = self._take_waiting()
            applied = self._changes_applied
            began = self._loop.time()
            self._asked.append(wanted)
            try:
                records, failed = await self._look_up(wanted)
            except Exception as error:  # of every kind: an unanswered look-up is 503 and never an absent tag
                reason = reason_of(error)
                log.warning("look-up of %d references failed: %s", len(wanted), reason)
                records, failed = {}, dict.fromkeys(wanted, (reason, None))
            finally:
                self._asked.remove(wanted)
            slow: dict[bytes, tuple[TagRecord, list[Waiter]]] = {}
            for ref, waiters in wanted.items():
                record = records.get(ref)
                if isinstance(record, TagRecord) and record.awaits_keys:
                    own = self._answer_strangers(record, waiters)
                    if own:
                        slow.setdefault(record.xuid, (record, []))[1].extend(own)
                else:
                    self._answer(waiters, record, failed.get(ref))
            if slow:
                task = self._loop.create_task(self._derive(list(slow.values()), applied))
                self._derivings.add(task)
                task.add_done_callback(self._derivings.discard)
            spent_s = self._loop.time() - began
            self._slow = spent_s > limits.LOOKUP_SLOW_S
            if self._slow:
                await asyncio.sleep(min(limits.LOOKUP_PAUSES * spent_s, limits.LOOKUP_PAUSE_S_MAX))

    def _take_waiting(self) -> Wanted:
        """What the next round is for."""
        if len(self._waiting) <= limits.LOOKUP_BATCH_MAX:
            wanted, self._waiting = self._waiting, {}
            return wanted
        wanted = dict(islice(self._waiting.items(), limits.LOOKUP_BATCH_MAX))
        for ref in wanted:
            del self._waiting[ref]
        return wanted

    def _answer_strangers(self, record: TagRecord, waiters: list[Waiter]) -> list[Waiter]:
        """Answer those for whom the tag does not exist, so that they do not wait for its keys; the others are returned."""
        self._answer([waiter for waiter in waiters if not record.is_for(waiter[0].api_key)], None, None)
        return [waiter for waiter in waiters if record.is_for(waiter[0].api_key)]

    def _answer(self, waiters: list[Waiter], record: Any, trouble: DbErrorKind | None) -> None:
        self._waiting_count -= len(waiters)
        for scan, found in waiters:
            if trouble is not None and _concerns(trouble, scan):
                _fail(scan, found, "unavailable", trouble[0])
            else:
                found(scan, record)

    async def _derive(self, slow: list[tuple[TagRecord, list[Waiter]]], applied: int) -> None:
        """Answer for tags whose keys take milliseconds to derive, one after the other beside the scans of all other tags."""
        for record, waiters in slow:
            failure = None
            if self._loop.time() > max(scan.arrived for scan, _ in waiters) + self._deadline_s:
                failure = "deadline"  # nobody waits any more; what is not derived costs nothing
            else:
                try:
                    await record.derive_keys()
                except Exception as error:  # of every kind, as in a look-up
                    failure = self._reason(record.xuid, error)
            if failure is None and applied == self._changes_applied:
                self._keep(record)
            self._answer(waiters, record, (failure, None) if failure is not None else None)

    async def _look_up(self, wanted: Wanted) -> tuple[dict[bytes, Any], dict[bytes, DbErrorKind]]:
        """One round: records by reference, and reasons for those that exist but cannot be used."""
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
        async with pooled_connection(self._kept, self._time_left(wanted)) as connection:
            if others:
                api_keys, codes, enrolling = await self._look_up_others(connection, others)
                names.update(codes.values())
            tags, unusable = await self._loader.tags(connection, names, _accounts_asking(wanted)) if names else ({}, {})
        failed: dict[bytes, DbErrorKind] = {code: (self._reason(code, tag.error), tag) for code, tag in unusable.items()}
        records: dict[bytes, Any] = {**api_keys, **tags}
        for alias, code in codes.items():
            if code in failed:
                failed[alias] = failed[code]
            elif code in tags:
                records[alias] = tags[code]
        if applied == self._changes_applied:
            self._enrolling = enrolling
            self._remember(tags, codes, api_keys)
            self._remember_absent(wanted, records, failed)
        return records, failed

    async def _look_up_others(
        self, connection: Any, others: list[bytes]
    ) -> tuple[dict[bytes, ApiKey], dict[bytes, bytes], frozenset[str] | None]:
        """What is no tag code: API keys, tag codes by alias, and, if one was asked for, the accounts with a group that enrols."""
        tokens = [ref for ref in others if references.kind(ref) == references.TOKEN]
        api_keys = await self._loader.api_keys(connection, [t[2:] for t in tokens]) if tokens else {}
        aliases = [ref for ref in others if references.kind(ref) in (references.CUID, references.UID)]
        codes = await self._loader.codes_of(connection, aliases) if aliases else {}
        enrolling = self._enrolling
        if aliases and enrolling is None:
            enrolling = await self._loader.enrolling(connection)
        return api_keys, codes, enrolling

    def _time_left(self, wanted: Wanted) -> float:
        """Seconds until the last of those who wait gives up, and a little for one who has: what is found is of use to later ones,
        so that a slow database is not asked for the same again and again."""
        newest = max([scan.arrived for waiters in wanted.values() for scan, _ in waiters])
        return max(0.05, newest + self._deadline_s - self._loop.time())

    def _name_of(self, code: bytes, waiters: list[Waiter]) -> bytes:
        """What a tag code is looked up under: if it is known that none of those who wait may see the tag, a code that nobody has.

        Finding the row and leaving it out takes PostgreSQL 5 us longer than finding none, and callers have clocks.
        """
        record = self._tags.peek(code)
        if record is None or any(record.is_for(scan.api_key) for scan, _ in waiters):
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

    def _remember_absent(self, wanted: Wanted, records: dict[bytes, Any], failed: dict[bytes, DbErrorKind]) -> None:
        until = self._loop.time() + limits.NEGATIVE_TTL_S
        for ref, waiters in wanted.items():
            _, unusable = failed.get(ref, (None, None))
            record = unusable or records.get(ref)
            if isinstance(record, ApiKey):
                continue
            for scan, _ in waiters:
                if record is None or not record.is_for(scan.api_key):
                    self._absent.put(_absent_place(scan, ref), until)

    def _keep(self, record: TagRecord) -> None:
        known = self._tags.get(record.xuid)
        if known is not None:  # two rounds at once: the floor that was learnt must not be lost
            record.floor = max(record.floor, known.floor)
        self._tags.put(record.xuid, record)

    def _reason(self, code: bytes, error: Exception) -> str:
        if isinstance(error, KeyUnavailableError):
            self._meters.slots[meters.KEY_UNWRAP_FAILURES] += 1
            log.error("tag %s: key cannot be opened (%s)", code.decode(), type(error).__name__)
            return "key_unavailable"
        log.error("tag %s: record cannot be made (%s: %s)", code.decode(), type(error).__name__, error)
        return "bad_record"

    async def account(self, aid: str, *, is_owner: bool = True) -> tuple[Account, list[Group]] | None:
        """An account with all its groups; off the hot path. None is proof of absence; a closed account is absent unless its
        owner asks. Raises what the database raises, and `KeyUnavailableError`."""
        known = self._accounts.get(aid)
        if known is None:
            applied = self._changes_applied
            async with pooled_connection(self._pool, self._deadline_s) as connection:
                known = await self._loader.account_and_groups(connection, aid, is_owner=is_owner)
            if known is not None and applied == self._changes_applied:
                self._accounts[aid] = known
        return known if known is None or is_owner or known[0].open else None

    def may_enrol(self, aid: str) -> bool:
        """Whether the account may have a group that enrols; True if that is not known now."""
        return self._enrolling is None or aid in self._enrolling

    def forget_absent(self, scan: Scan) -> None:
        """Ask for the scan's reference again: what was absent may be there."""
        self._absent.pop(_absent_place(scan, scan.ref))

    def keys_opened(self) -> None:
        """Key-encryption keys are open that were not: accounts and groups whose keys waited for them are read again."""
        if self._loader.lacking or self._loader.lacking_groups:
            task = self._loop.create_task(self._renew_lacking())
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)

    async def _renew_lacking(self) -> None:
        loader = self._loader
        while True:
            lacking = [Change("account", i, None) for i in loader.lacking & loader.accounts.keys()]
            lacking += [Change("group", i, None) for i in loader.lacking_groups & loader.groups.keys()]
            if not lacking:
                return
            try:
                await self.apply(lacking)
            except Exception as error:  # tried until the database answers
                log.warning("renewing accounts failed: %s", db_error_kind(error).value)
                await asyncio.sleep(limits.RECONNECT_DELAY_MS_MAX / 1000)
            else:
                return

    async def apply(self, changes: list[Change]) -> None:
        """Take over management changes. Returns when no scan is answered by the state before any more."""
        self._meters.slots[meters.CATALOGUE_CHANGES] += len(changes)
        await self._take_over(changes)

    async def forget(self) -> None:
        """Forget everything that was looked up. Returns when no scan is answered by it any more."""
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
        self._enrolling = None
        if "api_key" in by_kind or "account" in by_kind:
            self._api_keys.clear()
        if "all" in by_kind:
            await self._kept.expire()
            self._tags.clear()
            self._aliases.clear()
            self._api_keys.clear()
        await self._renew_shared(by_kind)
        self._changes_applied += 1  # from here on nothing is remembered that was made from the groups as they were
        await self._forget_outgrown()

    async def _forget_outgrown(self) -> None:
        """Forget the tags of groups whose keys or dates have changed, a slice at a time: there may be a million others."""
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


def _absent_place(scan: Scan, ref: bytes) -> bytes:
    """Under what the absence of a reference is remembered: whoever has a token asks within an account."""
    return ref if scan.api_key is None else b"\0%d\0%b" % (scan.api_key.account_id, ref)


def _accounts_asking(wanted: Wanted) -> set[int] | None:
    """The accounts whose tags those who wait may see; None if one of them has no token and may see those of all."""
    accounts = set()
    for ref, waiters in wanted.items():
        for scan, _ in waiters:
            if scan.api_key is not None:
                accounts.add(scan.api_key.account_id)
            elif references.kind(ref) != references.TOKEN:
                return None
    return accounts


def _aliases_of(record: TagRecord) -> tuple[bytes, ...]:
    aid = record.group.account.aid
    by_cuid = (references.by_cuid(aid, record.cuid),) if record.cuid is not None else ()
    return (*by_cuid, references.by_uid(aid, record.uid)) if record.uid is not None else by_cuid


def _concerns(trouble: DbErrorKind, scan: Scan) -> bool:
    return trouble[1] is None or trouble[1].is_for(scan.api_key)


def _fail(scan: Scan, found: Found, code: str, reason: str) -> None:
    scan.error = code
    scan.error_detail = reason
    found(scan, None)
