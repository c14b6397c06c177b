"""A catalogue and a ledger in memory, for tests and benchmarks that drive the real `Engine` without a database.

They give the same answers as `store.catalogue.Catalogue` and `store.ledger.Ledger`, but immediately, inside the call. What a scan
means is decided by the same function, `domain.decision.decide`. Nothing is durable or shared, so nothing that serves taps may
use them.

    catalogue = MemoryCatalogue()
    group = catalogue.add_group("acme", compile_profile(preset("ixkio-plain")))
    record = catalogue.add_tag(group, "q8w3sbcz", uid=tag.uid, keys=tag.file_keys())
    engine = Engine(catalogue, Meters())
    ledger = MemoryLedger(engine.settled)
    ledger.add(record)
    engine.use(ledger)
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ixfast.chips import CompiledProfile
from ixfast.domain import references
from ixfast.domain.decision import ERRORS, OUTCOMES, Binding, CounterState, Finding, KeyedScan, binding_of, decide, submission_of
from ixfast.domain.model import Key
from ixfast.domain.records import Account, ApiKey, Batch, Group, TagOverrides, TagRecord
from ixfast.domain.scan import KEYED_FROM, Outcome, Scan
from ixfast.responses.response_set import ResponseSet
from ixfast.rules import AUTHENTICATION_PASS, RuleSet

LOG_ROWS_MAX = 100_000
"""How many passes, and how many refusals, a `MemoryLedger` keeps; the oldest are dropped."""

_NEVER_AGE_MS = 1 << 62  # longer than any retry window


class MemoryCatalogue:
    """Tags and API keys. `find` returns a tag only after a first `fetch`, like a cache that starts empty.

    While `failure` is set, every look-up fails and it is the reason; while `stale` is set, nothing may pass.
    """

    def __init__(self) -> None:
        self.stale: str | None = None
        self.fresh_until = float("inf")
        self.failure: str | None = None
        self.fetched = 0
        self._accounts: dict[str, Account] = {}
        self._records: dict[bytes, Any] = {}
        self._cached: dict[bytes, Any] = {}
        self._ids = 0

    def add_account(self, aid: str, *, is_open: bool = True, meta_keys: tuple[Key, ...] = ()) -> Account:
        account = Account(self._next_id(), aid, aid, is_open=is_open, active=True, cors=True, meta_keys=meta_keys)
        self._accounts[aid] = account
        return account

    def add_group(
        self,
        aid: str,
        profile: CompiledProfile | None,
        *,
        name: str = "Group",
        rules: RuleSet = AUTHENTICATION_PASS,
        retry_window_s: int = 0,
        country_statistics: bool = False,
    ) -> Group:
        """Add a group to the account `aid`, which is created as an open one if it does not exist.

        A group without a profile authenticates nothing.
        """
        return Group(
            self._next_id(),
            name,
            self._accounts.get(aid) or self.add_account(aid),
            folder_name="Folder",
            folder_active=True,
            active=True,
            profile=profile,
            response_set=ResponseSet(rules),
            reply_json=b"",
            retry_window_ms=retry_window_s * 1000,
            country_statistics=country_statistics,
        )

    def add_tag(
        self,
        group: Group,
        xuid: str,
        *,
        uid: bytes | None = None,
        cuid: str | None = None,
        keys: tuple[Key, ...] = (),
        batch: Batch | None = None,
        name: str | None = None,
        meta_keys: tuple[Key, ...] = (),
    ) -> TagRecord:
        """Add a tag. It is found by its code and, if it has them, by CUID and UID. `meta_keys` are its own."""
        record = TagRecord(
            self._next_id(),
            xuid.encode(),
            group,
            batch,
            cuid=cuid,
            uid=uid,
            name=name,
            active=True,
            assigned=True,
            keys=keys,
            overrides=TagOverrides(meta_keys=meta_keys) if meta_keys else None,
        )
        self._records[record.xuid] = record
        if cuid is not None:
            self._records[references.by_cuid(group.account.aid, cuid)] = record
        if uid is not None:
            self._records[references.by_uid(group.account.aid, uid)] = record
        return record

    def add_api_key(
        self, aid: str, token_sha256: bytes, *, scopes: tuple[str, ...] = ("scan",), expires_at: float | None = None
    ) -> ApiKey:
        """Add an API key to an account. `token_sha256` has 32 bytes, `expires_at` is Unix time in seconds."""
        account = self._accounts[aid]
        api_key = ApiKey(self._next_id(), account.account_id, aid, frozenset(scopes), "", expires_at)
        self._records[references.by_token(token_sha256)] = api_key
        return api_key

    def find(self, ref: bytes) -> TagRecord | None:
        return self._cached.get(ref)

    def find_api_key(self, token_sha256: bytes) -> ApiKey | None:
        return self._cached.get(references.by_token(token_sha256))

    def fetch(self, scan: Scan, ref: bytes, found: Callable[[Scan, Any], None]) -> None:
        self.fetched += 1
        record = None
        if self.failure is not None:
            scan.error = "unavailable"
            scan.error_detail = self.failure
        else:
            record = self._records.get(ref)
            if record is not None:
                self._cached[ref] = record
        found(scan, record)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids


class _Counter:
    """A row of `tag_counter`."""

    __slots__ = ("last_at", "last_position", "last_scan_id", "previous_position", "scan_count")

    def __init__(self) -> None:
        self.scan_count = 0
        self.last_scan_id = 0
        self.last_at: float | None = None  # None: nothing was accepted yet
        self.last_position = 0
        self.previous_position = 0


class MemoryLedger:
    """Counters by tag id. `clock` returns seconds; `passes` and `refusals` are the scan log.

    While `failure` is set, every scan ends with 503 and it is the reason.
    """

    def __init__(self, settled: Callable[[Scan], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failure: str | None = None
        self.passes: deque[tuple[int, int, int]] = deque(maxlen=LOG_ROWS_MAX)  # tag id, scan id, position
        self.keyed: dict[int, KeyedScan] = {}  # first answers, by scan id
        self.bindings: dict[int, Binding] = {}  # the taps of Idempotency-Keys, by scan id
        self._refused_keys: set[int] = set()  # those under which a refusal was logged
        self._last_refusal: Scan | None = None  # the last one that was logged
        self.refusals: deque[tuple[int, int, int, str]] = deque(maxlen=LOG_ROWS_MAX)  # the same, and the verdict
        self.countries: deque[tuple[int, str, str]] = deque(maxlen=LOG_ROWS_MAX)  # tag id, verdict, country of the visitor
        self._settled = settled
        self._clock = clock
        self._counters: dict[int, _Counter] = {}

    def add(self, record: TagRecord) -> None:
        """Add a counter for the tag. Without one, its scans end with 503."""
        self._counters[record.tag_id] = _Counter()

    def submit(self, scan: Scan) -> None:
        counter = self._counter_of(scan)
        if counter is None:
            return
        position = scan.position
        is_new = counter.last_position < position or (position < 0 and counter.last_scan_id != scan.scan_id)
        if not is_new or scan.scan_id in self.keyed:
            self._decide(scan, counter)
            return
        counter.previous_position = counter.last_position
        counter.last_position = max(counter.last_position, position)
        counter.last_scan_id = scan.scan_id
        counter.last_at = self._clock()
        counter.scan_count += 1
        self.passes.append((scan.tag_id, scan.scan_id, position))
        scan.previous_position = counter.previous_position
        scan.scan_count = counter.scan_count
        if scan.scan_id >= KEYED_FROM:
            first = KeyedScan(scan.scan_id, scan.tag_id, position, scan.previous_position, scan.scan_count, time.time())
            self.keyed[scan.scan_id] = first
            if len(self.keyed) > LOG_ROWS_MAX:
                del self.keyed[next(iter(self.keyed))]
        self._pass(scan)

    def bind(self, scan: Scan) -> None:
        if self.failure is not None:
            self._fail(scan, "unavailable", self.failure)
            return
        assert scan.extras is not None and scan.record is not None
        binding, peeks = binding_of(scan), scan.extras.peek
        held = self.bindings.get(scan.scan_id, binding) if peeks else self.bindings.setdefault(scan.scan_id, binding)
        if len(self.bindings) > LOG_ROWS_MAX:
            oldest = next(iter(self.bindings))
            del self.bindings[oldest]
            self._refused_keys.discard(oldest)
        if not held.holds(binding):
            self._fail(scan, *ERRORS[Finding.KEY_CONFLICT])
        elif scan.verdict is not None:
            scan.outcome = Outcome.REFUSED
            self._settled(scan)
        elif not peeks and (scan.position > scan.record.floor or scan.position < 0):
            self.submit(scan)
        else:
            self.read_state(scan)

    def read_state(self, scan: Scan) -> None:
        counter = self._counter_of(scan)
        if counter is not None:
            self._decide(scan, counter)

    def log_refusal(self, scan: Scan) -> None:
        if scan.record is not None and scan.verdict is not None:
            if scan.scan_id >= KEYED_FROM:
                if scan.scan_id in self._refused_keys:
                    return
                self._refused_keys.add(scan.scan_id)
            self._last_refusal = scan
            self.refusals.append((scan.record.tag_id, scan.scan_id, scan.position, scan.verdict.value))

    def log_country(self, scan: Scan, country: str) -> None:
        if scan.record is not None and scan.verdict is not None:
            if scan.scan_id >= KEYED_FROM and scan.outcome is not Outcome.ADVANCED and scan is not self._last_refusal:
                return  # a refusal that was sent again under its key
            self.countries.append((scan.record.tag_id, scan.verdict.value, country))

    def _counter_of(self, scan: Scan) -> _Counter | None:
        counter = self._counters.get(scan.tag_id)
        if self.failure is not None:
            self._fail(scan, "unavailable", self.failure)
            return None
        if counter is None:
            self._fail(scan, *ERRORS[Finding.MISSING])
        return counter

    def _decide(self, scan: Scan, counter: _Counter) -> None:
        """Decide the scan by its tag's state, consuming nothing."""
        first = self.keyed.get(scan.scan_id)
        decision = decide(submission_of(scan), self._state(scan.tag_id, counter), () if first is None else (first,))
        finding = decision.finding
        scan.previous_position, scan.scan_count = decision.previous_position, decision.scan_count
        assert scan.record is not None
        scan.record.floor = max(scan.record.floor, counter.last_position)
        if finding in ERRORS:
            self._fail(scan, *ERRORS[finding])
        elif finding is Finding.ACCEPTED:
            if decision.first_at is not None:
                assert scan.extras is not None
                scan.extras.first_at = decision.first_at
            self._pass(scan)
        else:
            scan.outcome = OUTCOMES[finding]
            self._settled(scan)

    def _state(self, tag_id: int, counter: _Counter) -> CounterState:
        age_ms = math.floor((self._clock() - counter.last_at) * 1000) if counter.last_at is not None else _NEVER_AGE_MS
        return CounterState(
            tag_id,
            counter.last_position,
            counter.previous_position,
            counter.last_scan_id,
            counter.scan_count,
            age_ms,
            doubtful=False,
        )

    def _pass(self, scan: Scan) -> None:
        scan.outcome = Outcome.ADVANCED
        record = scan.record
        assert record is not None
        record.floor = max(record.floor, scan.position)
        self._settled(scan)

    def _fail(self, scan: Scan, code: str, reason: str | None) -> None:
        scan.error = code
        scan.error_detail = reason
        self._settled(scan)
