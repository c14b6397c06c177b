"""The path of one scan, readable from top to bottom: find, admit, examine, settle, decide, answer.

Each step either calls the next one or leaves the scan with the catalogue or the ledger, which call back (`_found`, `settled`).
No step calls an earlier one, nothing here waits, and nothing depends on HTTP or SQL, so that benchmarks and simulations drive
the code that serves.

Invariants: every scan is answered exactly once; a scan passes only with the outcome of the ledger; what prevents a verdict ends
in an error, never in a verdict. `engine.pxd` declares the fields and steps for the compiled form.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from ixfast import meters
from ixfast.chips import UNDECIDED_REASONS, Missing
from ixfast.chips.tap_text import first_complete
from ixfast.domain import references
from ixfast.domain.model import Evidence, Verdict
from ixfast.domain.records import ApiKey, TagRecord
from ixfast.domain.scan import COUNTED_ONLY, POSITION_COUNTER_BITS, Extras, Outcome, Scan, parameters_of
from ixfast.domain.tap_readings import parameter_readings, readings
from ixfast.errors import InputError
from ixfast.rules import visitors
from ixfast.trace import CORE, LOOKUP, RULES, STATEMENT

log = logging.getLogger("ixfast.engine")

# The look-up of an enumeration member runs Python code in its class: done once here instead of for every scan.
_ADVANCED, _REPEATED, _REFUSED = Outcome.ADVANCED, Outcome.REPEATED, Outcome.REFUSED
_GENUINE, _PLAIN, _REPEAT, _REPLAYED, _FORGED = (
    Verdict.GENUINE, Verdict.PLAIN, Verdict.REPEAT, Verdict.REPLAYED, Verdict.FORGED,
)  # fmt: skip
_GENUINE_SLOT = meters.SCANS[Verdict.GENUINE]
_NO_VERDICT_SLOT = max(meters.SCANS.values()) + 1


class Catalogue(Protocol):
    """Finds tags and API keys. While `stale` is a reason, or past the loop time `fresh_until`, no scan may pass."""

    stale: str | None
    fresh_until: float

    def find(self, ref: bytes) -> TagRecord | None: ...
    def fetch(self, scan: Scan, ref: bytes, found: Callable[[Scan, Any], None]) -> None: ...
    def find_api_key(self, token_sha256: bytes) -> ApiKey | None: ...


class Ledger(Protocol):
    """Settles authentic taps durably, and calls `Engine.settled` with each scan."""

    def submit(self, scan: Scan) -> None: ...
    def bind(self, scan: Scan) -> None: ...
    def read_state(self, scan: Scan) -> None: ...
    def log_refusal(self, scan: Scan) -> None: ...
    def log_country(self, scan: Scan, country: str) -> None: ...


IsPast = Callable[[float], bool | None]
"""Whether a date (Unix time in seconds) has passed; None if it cannot be determined because clocks disagree."""


def past_by_host(date: float) -> bool | None:
    """Whether a date has passed by this host's clock alone."""
    return date <= time.time()


class Engine:
    """Decides scans. `submit` leads to exactly one call of the scan's `reply`, possibly before it returns."""

    def __init__(
        self,
        catalogue: Catalogue,
        gauges: meters.Meters,
        is_past: IsPast | None = None,
        moment: Callable[[], float] = time.monotonic,
    ) -> None:
        """`moment` is the clock of durations, in seconds."""
        self._catalogue = catalogue
        self.moment = moment
        self._is_past = is_past or past_by_host
        self._find = catalogue.find
        self._slots = gauges.slots
        # Constants, as fields that have a C type in the compiled form.
        self._scans = min(meters.SCANS.values())
        self._durations = meters.DURATIONS
        self._duration_kinds = len(meters.SCANS) + 1
        self._duration_slots = meters.DURATION_SLOTS
        self._duration_buckets = meters.DURATION_BUCKETS
        self._duration_first_us = meters.DURATION_FIRST_US
        self._enrols: Callable[[Scan], bool] = lambda _scan: False
        self._reads_again: Callable[[Scan], bool] = lambda _scan: False
        self._ledger: Ledger
        self._commit: Callable[[Scan], None]

    def use(self, ledger: Ledger) -> None:
        """Set the ledger. It is created with this engine's `settled`, so it cannot be passed to the constructor."""
        self._ledger = ledger
        self._commit = ledger.submit

    def enrol_by(self, takes: Callable[[Scan], bool]) -> None:
        """Offer scans whose tag is absent to `takes`; it answers those for which it returns True."""
        self._enrols = takes

    def read_again_by(self, takes: Callable[[Scan], bool]) -> None:
        """Offer scans whose reference names no tag of the caller to `takes`; it goes on with those for which it returns True."""
        self._reads_again = takes

    def submit_with_token(self, scan: Scan, token_sha256: bytes) -> None:
        """Find the API key, then `submit`. A token without the right to scan is refused before any tag is looked up."""
        api_key = self._catalogue.find_api_key(token_sha256)
        if api_key is None:
            self._catalogue.fetch(scan, references.by_token(token_sha256), self._token_found)
        else:
            self._token_found(scan, api_key)

    def _token_found(self, scan: Scan, api_key: ApiKey | None) -> None:
        if scan.error is not None:
            self._answer(scan)
            return
        obstacle = self.obstacle(api_key)
        if obstacle is not None:
            code, reason = obstacle
            self.fail(scan, code, reason)
        else:
            scan.api_key = api_key
            self.submit(scan)

    def obstacle(self, api_key: ApiKey | None) -> tuple[str, str | None] | None:
        """Why this key may not scan, as an error code with its reason; None if it may. `api_key` is None for an unknown token."""
        if api_key is None or not api_key.scans:
            return "unauthorised", None
        if api_key.expires_at is not None:
            expired = self._is_past(api_key.expires_at)
            if expired is not False:
                return ("unauthorised", None) if expired else ("unavailable", "clock_stepped")
        return None

    def submit(self, scan: Scan) -> None:
        """Find the tag."""
        catalogue = self._catalogue
        # Checked by the clock as well: after a process was stopped for a while, it reads requests before its timers run.
        if catalogue.stale is not None or scan.arrived > catalogue.fresh_until:
            self.fail(scan, "unavailable", catalogue.stale or "catalogue_stale")
            return
        record = self._find(scan.ref)
        # A tag of another account is looked up like one that does not exist. If it were refused at once because it is cached, the
        # response time would reveal to every caller that the tag exists and is in use.
        if record is None or not record.is_for(scan.api_key, scan.aid):
            self._catalogue.fetch(scan, scan.ref, self._found)
        else:
            self._admit(scan, record)

    def _found(self, scan: Scan, record: TagRecord | None) -> None:
        # Another account's tag is treated like one that does not exist, here too.
        absent = scan.error is None and (record is None or not record.is_for(scan.api_key, scan.aid))
        if not absent or not (self._reads_again(scan) or (record is None and self._enrols(scan))):
            self.found(scan, record)

    def found(self, scan: Scan, record: TagRecord | None) -> None:
        """Continue with the record from the catalogue. A scan whose tag is absent, or belongs to another account, ends here."""
        if scan.error is not None:
            self._answer(scan)
        # For a caller without a token, a tag of a closed account does not exist, as for a caller of another account. Any other
        # refusal would reveal which codes exist to callers who leave out their token.
        elif record is None or not record.is_for(scan.api_key, scan.aid):
            self.unknown(scan)
        else:
            self._admit(scan, record)

    def _admit(self, scan: Scan, record: TagRecord) -> None:
        """Check that the tag and everything above it is active."""
        group = record.group
        account = group.account
        scan.record = record
        batch = record.batch
        if not (record.active and group.active and group.folder_active and account.active and (batch is None or batch.active)):
            scan.tag_id = record.tag_id
            if scan.extras is not None and scan.extras.idempotent:
                scan.verdict = Verdict.INACTIVE
                self._ledger.bind(scan)
            else:
                self._inactive(scan)
            return
        try:
            self._examine(scan, record)
        except Exception:
            self._broken(scan)

    def _inactive(self, scan: Scan) -> None:
        assert scan.record is not None
        scan.verdict = Verdict.INACTIVE
        scan.error = scan.record.inactive_level() or "tag_inactive"  # activated while its Idempotency-Key was being bound
        self._answer(scan)

    def _examine(self, scan: Scan, record: TagRecord) -> None:
        """Verify the tap. A plain scan is verified here directly, any other by its profile."""
        if scan.trace is not None:
            scan.trace.ends(LOOKUP)
        scan.tag_id = record.tag_id
        profile = record.group.profile
        if profile is None:
            self._settle(scan, record)
            return
        verify = profile.verify_plain  # None unless both mirror and window of the profile are plain
        extras = scan.extras
        is_bare = extras is None or (extras.parameters is None and extras.url is None)
        if is_bare and verify and record.has_key and record.has_uid and scan.mac and scan.counter > 0:
            if not verify(record.single_key(), record.registered_uid(), scan.counter, scan.mac):
                self._refuse(scan, _FORGED, "mac_mismatch")
            else:
                scan.position = record.key_version << POSITION_COUNTER_BITS | scan.counter
                self._settle(scan, record)
            return
        evidence = self._evidence(scan, record)
        if evidence is None:
            return
        if evidence.reason in UNDECIDED_REASONS:
            self.fail(scan, "unavailable", evidence.reason)
            return
        if not evidence.authentic:
            self._reject(scan, _FORGED, evidence.reason)
            return
        if evidence.counter is None:
            scan.reason = "not_replay_checked"
        else:
            scan.position = evidence.key_version << POSITION_COUNTER_BITS | evidence.counter
        self._settle(scan, record)

    def _evidence(self, scan: Scan, record: TagRecord) -> Evidence | None:
        """What the chip scheme proves about the tap; None if the scan has been answered with an error."""
        profile = record.group.profile
        assert profile is not None
        extras = scan.extras
        try:
            if extras is not None and extras.url is not None:
                message = first_complete(profile.read_url, readings(extras.url))
            else:
                message = first_complete(profile.read_parameters, parameter_readings(parameters_of(scan)))
        except InputError as error:
            self.refuse_input(scan, error)
            return None
        if message is None or isinstance(message, Missing):
            self._reject(scan, Verdict.INCOMPLETE, "missing_parameter")
            return None
        evidence = profile.examine(
            message,
            uid=record.uid,
            file_keys=record.file_keys(),
            meta_keys=record.meta_keys,
            statics=record.statics(),
        )
        if extras is None:
            extras = scan.extras = Extras()
        extras.evidence = evidence
        return evidence

    def _settle(self, scan: Scan, record: TagRecord) -> None:
        """Check that the tap is newer than every accepted one. A counter known to be used is refused without a statement."""
        extras = scan.extras
        if scan.trace is not None:
            scan.trace.ends(CORE)
        if extras is not None and extras.idempotent:
            self._ledger.bind(scan)
        elif extras is not None and extras.peek:
            self._ledger.read_state(scan)
        elif scan.position > record.floor or scan.position == COUNTED_ONLY:
            self._commit(scan)
        elif record.group.retry_window_ms or (extras is not None and extras.wants_state):
            self._ledger.read_state(scan)
        else:
            self._refuse(scan, _REPLAYED, "counter_used")

    def settled(self, scan: Scan) -> None:
        """Continue with the outcome that the ledger has set."""
        if scan.trace is not None:
            scan.trace.ends(STATEMENT)
        try:
            self._conclude(scan)
        except Exception:
            self._broken(scan)

    def _conclude(self, scan: Scan) -> None:
        if scan.error is not None:
            scan.verdict = None  # that of a refusal whose key could not be bound, which is therefore undecided
            scan.reason = None
            self._answer(scan)
            return
        outcome = scan.outcome
        if outcome is _ADVANCED:
            record = scan.record
            assert record is not None
            if record.group.profile is None:
                scan.verdict = _PLAIN
            else:
                scan.verdict = _GENUINE
                scan.authentic = True
            self._decide(scan)
        elif outcome is _REPEATED:
            scan.verdict = _REPEAT
            scan.authentic = True
            self._decide(scan)
        elif outcome is _REFUSED:
            if scan.verdict is Verdict.INACTIVE:
                self._inactive(scan)
            else:
                self._decide(scan)
        else:
            self._refuse(scan, _REPLAYED, "counter_used")

    def _reject(self, scan: Scan, verdict: Verdict, reason: str | None) -> None:
        """Refuse a tap that the ledger need not settle. An Idempotency-Key is bound to it first, as to any other tap."""
        if scan.extras is not None and scan.extras.idempotent:
            scan.verdict = verdict
            scan.reason = reason
            self._ledger.bind(scan)
        else:
            self._refuse(scan, verdict, reason)

    def _refuse(self, scan: Scan, verdict: Verdict, reason: str | None) -> None:
        scan.verdict = verdict
        scan.reason = reason
        self._decide(scan)

    def _decide(self, scan: Scan) -> None:
        """Select the response text by the rules."""
        record = scan.record
        assert record is not None
        response_set = record.group.response_set if record.overrides is None else record.response_set
        scan.rule = response_set.rules.decide(scan)
        if scan.trace is not None:
            scan.trace.ends(RULES)
        self._answer(scan)

    def unknown(self, scan: Scan) -> None:
        """End a scan whose tag is proven absent, or belongs to another account, which gets the same answer."""
        if scan.trace is not None:
            scan.trace.ends(LOOKUP)
        scan.record = None
        scan.verdict = Verdict.UNKNOWN
        scan.error = "not_found"
        self._answer(scan)

    def fail(self, scan: Scan, code: str, reason: str | None = None) -> None:
        """End a scan without a verdict. `code` is one of `error_codes.COUNTED`, `reason` a word for the response."""
        scan.error = code
        scan.error_detail = reason
        self._answer(scan)

    def refuse_input(self, scan: Scan, error: InputError) -> None:
        """End a scan without a verdict because its tap is malformed or incomplete."""
        if scan.extras is None:
            scan.extras = Extras()
        scan.extras.complaint = str(error)
        scan.error_field = error.field
        self.fail(scan, error.code)

    def _broken(self, scan: Scan) -> None:
        """Answer 503 after an unexpected exception: a bug must not hang the scan, stop its batch or become a verdict."""
        log.exception("unexpected error in a scan", extra={"scan_id": f"{scan.scan_id:016x}"})
        if not scan.answered:
            scan.verdict = None
            self.fail(scan, "unavailable", "internal_error")

    def _answer(self, scan: Scan) -> None:
        scan.answered = True
        verdict, extras = scan.verdict, scan.extras
        slot = _NO_VERDICT_SLOT
        if verdict is _GENUINE:
            slot = _GENUINE_SLOT
            self._slots[slot] += 1
        elif verdict is not None:
            slot = meters.SCANS[verdict]
            self._slots[slot] += 1
            has_account = scan.record is not None or scan.api_key is not None
            if verdict is not _PLAIN and has_account and (extras is None or not extras.peek):
                self._ledger.log_refusal(scan)
        elif scan.error is not None:
            self._slots[meters.SCAN_ERRORS[scan.error]] += 1
        if scan.route >= 0:
            self._measure(scan, slot)
        scan.reply(scan)
        if extras is not None and extras.visitor is not None and verdict is not None:
            self._log_country(scan)

    def _log_country(self, scan: Scan) -> None:
        """Log the visitor's country if the group asks for it. An answer that repeats an earlier one is not a further scan."""
        record, extras = scan.record, scan.extras
        assert extras is not None
        if record is None or not record.group.country_statistics or extras.peek or extras.first_at is not None:
            return
        country = visitors.country(scan)
        if country is not None and country in visitors.countries():
            self._ledger.log_country(scan, country)

    def _measure(self, scan: Scan, slot: int) -> None:
        """Count the duration of a scan. `slot` is that of its verdict, or the one after those of all verdicts."""
        now = self.moment()
        duration_us = int((now - scan.arrived) * 1e6)
        if duration_us < 0:  # another clock than that of the arrival, in simulations
            duration_us = 0
        number, bound_us = 0, self._duration_first_us
        while duration_us > bound_us and number < self._duration_buckets:
            number += 1
            bound_us += bound_us
        first = self._durations + (scan.route * self._duration_kinds + slot - self._scans) * self._duration_slots
        self._slots[first + number] += 1
        self._slots[first + self._duration_buckets + 1] += duration_us
