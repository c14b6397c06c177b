"""The engine with a catalogue and a ledger in memory: which scans pass, which are refused, and which get no verdict."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest

from ixfast import meters
from ixfast.chips import compile_profile, preset
from ixfast.domain import references
from ixfast.domain.model import Key, Verdict
from ixfast.domain.records import Batch, TagRecord
from ixfast.domain.scan import KEYED_FROM, Extras, Scan, Visitor
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.rules import AUTHENTICATION_PASS, RuleSet, visitors
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag
from ixfast.trace import Trace

TOKEN = bytes(range(32))


class EngineKit:
    """An engine with one account, and virtual tags of any profile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meters = Meters()
        self.catalogue = MemoryCatalogue()
        self.engine = Engine(self.catalogue, self.meters)
        self.ledger = MemoryLedger(self.engine.settled, clock=lambda: self.now)
        self.engine.use(self.ledger)
        self.ids = itertools.count(1)
        self.fleets = itertools.count(1)

    def tag(self, profile: str | None = "ixkio-plain", aid: str = "acme", **group_options: Any) -> tuple[VirtualTag, TagRecord]:
        tag = VirtualFleet(next(self.fleets), 1, profile or "ixkio-plain")[0]
        compiled = compile_profile(preset(profile)) if profile else None
        if aid not in self.catalogue._accounts:
            self.catalogue.add_account(aid, meta_keys=tag.meta_keys())
        group = self.catalogue.add_group(aid, compiled, **group_options)
        keys = tag.file_keys() if profile else ()
        record = self.catalogue.add_tag(group, tag.xuid, uid=tag.uid, cuid="own-1", keys=keys, batch=Batch(1, "B", active=True))
        self.ledger.add(record)
        return tag, record

    def scan(self, ref: bytes | str, counter: int = -1, mac: bytes | None = None, **options: Any) -> Scan:
        """Submit a scan and return it, once it has been answered exactly once."""
        answers: list[Scan] = []
        api_key, token = options.pop("api_key", None), options.pop("token", None)
        scan_id = options.pop("scan_id", None) or next(self.ids)
        ref = ref.encode() if isinstance(ref, str) else ref
        trace = options.pop("trace", None)
        extras = Extras(**options) if options else None
        scan = Scan(answers.append, ref, counter, mac, api_key, scan_id, self.now, extras)
        scan.trace = trace
        if token is None:
            self.engine.submit(scan)
        else:
            self.engine.submit_with_token(scan, token)
        assert answers == [scan]
        return scan

    def tap(self, tag: VirtualTag, counter: int, **options: Any) -> Scan:
        """A plain tap, as the hot path gets it."""
        parameters = tag.parameters_at(counter)
        return self.scan(tag.xuid, counter, bytes.fromhex(parameters["e"]), **options)

    def count(self, slot: int) -> int:
        return self.meters.slots[slot]


@pytest.fixture
def kit() -> EngineKit:
    return EngineKit()


def result_of(scan: Scan) -> tuple[Any, Any, Any]:
    return scan.verdict, scan.error, scan.error_detail or scan.reason


GENUINE = (Verdict.GENUINE, None, None)
REPLAYED = (Verdict.REPLAYED, None, "counter_used")


def test_a_genuine_tap_passes_once_and_older_ones_are_replays(kit: EngineKit) -> None:
    tag, record = kit.tag()
    first = kit.tap(tag, 5)
    assert result_of(first) == GENUINE
    assert (first.authentic, first.rule, first.scan_count) == (True, 0, 1)
    for counter in (5, 4, 1):
        again = kit.tap(tag, counter)
        assert result_of(again) == REPLAYED
        assert (again.authentic, again.rule) == (False, -1)
    later = kit.tap(tag, 900)
    assert result_of(later) == GENUINE
    assert (later.previous_position & 0xFFFFFF, later.scan_count, record.floor & 0xFFFFFF) == (5, 2, 900)
    assert len(kit.ledger.passes) == 2
    assert (kit.count(meters.SCANS[Verdict.GENUINE]), kit.count(meters.SCANS[Verdict.REPLAYED])) == (2, 3)


def test_a_counter_known_to_be_used_costs_no_statement(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    kit.tap(tag, 5)
    kit.ledger.failure = "database_unreachable"
    assert result_of(kit.tap(tag, 5)) == REPLAYED
    assert result_of(kit.tap(tag, 5, wants_state=True))[1] == "unavailable"  # it needs the durable counter
    assert result_of(kit.tap(tag, 6)) == (None, "unavailable", "database_unreachable")
    assert kit.count(meters.SCAN_ERRORS["unavailable"]) == 2


def test_a_forged_tap_is_refused_before_the_ledger(kit: EngineKit) -> None:
    tag, record = kit.tag()
    mac = bytes.fromhex(tag.parameters_at(7)["e"])
    assert result_of(kit.scan(tag.xuid, 8, mac)) == (Verdict.FORGED, None, "mac_mismatch")
    assert (record.floor, len(kit.ledger.passes)) == (0, 0)
    assert result_of(kit.scan(tag.xuid, 7, mac)) == GENUINE
    assert [row[-1] for row in kit.ledger.refusals] == ["forged"]


@pytest.mark.parametrize("form", ["url", "parameters"])
@pytest.mark.parametrize("profile", ["ixkio-plain", "plain-tamper", "encrypted", "encrypted-tamper", "path"])
def test_other_forms_are_judged_by_the_profile(kit: EngineKit, profile: str, form: str) -> None:
    tag, record = kit.tag(profile)

    def tap(counter: int) -> Scan:
        taken = {"url": tag.tap_at(counter)} if form == "url" else {"parameters": tag.parameters_at(counter)}
        return kit.scan(tag.xuid, **taken)

    genuine = tap(3)
    assert result_of(genuine) == GENUINE
    assert genuine.extras is not None and genuine.extras.evidence is not None
    assert genuine.position == record.key_version << 24 | 3
    assert result_of(tap(2)) == result_of(tap(3)) == REPLAYED
    forged = kit.scan(tag.xuid, url=tag.forged())
    assert forged.verdict is Verdict.FORGED


def test_an_incomplete_tap_is_no_forgery(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    incomplete = (Verdict.INCOMPLETE, None, "missing_parameter")
    mac = bytes.fromhex(tag.parameters_at(1)["e"])
    assert (
        result_of(kit.scan(tag.xuid)) == result_of(kit.scan(tag.xuid, 1)) == result_of(kit.scan(tag.xuid, -1, mac)) == incomplete
    )
    assert result_of(kit.scan(tag.xuid, url="https://tag.example/elsewhere")) == incomplete


def test_a_counter_of_zero_is_no_tap(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    assert result_of(kit.scan(tag.xuid, 0, bytes(8))) == (Verdict.FORGED, None, "counter_range")


def test_bad_form_names_the_parameter(kit: EngineKit) -> None:
    tag, _ = kit.tag("encrypted")
    scan = kit.scan(tag.xuid, parameters={"picc_data": "XYZ", "cmac": "00" * 8})
    assert (*result_of(scan), scan.error_field) == (None, "invalid_parameter", None, "picc_data")


@pytest.mark.parametrize(("profile", "keys", "reason"), [("ixkio-plain", False, "no_key"), ("encrypted", True, "no_meta_key")])
def test_what_the_operator_must_supply_is_no_verdict(kit: EngineKit, profile: str, keys: bool, reason: str) -> None:
    tag, record = kit.tag(profile)
    if not keys:
        record.take_keys(())
    record.group.account.meta_keys = ()
    assert result_of(kit.scan(tag.xuid, url=tag.tap())) == (None, "unavailable", reason)


def test_a_newer_key_version_beats_every_older_counter(kit: EngineKit) -> None:
    tag, record = kit.tag()
    assert result_of(kit.tap(tag, 0xFFFFFF)) == GENUINE
    renewed = VirtualTag(tag.profile, xuid=tag.xuid, uid=tag.uid, file_key=bytes(15) + b"\1")
    both = (Key(2, renewed.file_key, b"abc"), *tag.file_keys())
    record.take_keys(both)
    assert result_of(kit.tap(renewed, 1)) == GENUINE
    assert result_of(kit.tap(tag, 0xFFFFFF)) == REPLAYED
    assert result_of(kit.tap(renewed, 2)) == GENUINE


def test_a_standard_tag_is_only_counted(kit: EngineKit) -> None:
    tag, _ = kit.tag(None)
    for count in (1, 2, 3):
        scan = kit.scan(tag.xuid)
        assert (result_of(scan), scan.authentic, scan.scan_count) == ((Verdict.PLAIN, None, None), False, count)
    assert not kit.ledger.refusals


def test_a_tap_without_a_counter_is_genuine_and_says_what_it_is_not(kit: EngineKit) -> None:
    tag, _ = kit.tag("plain-uid-only")
    url = tag.tap_at(0)
    for count in (1, 2):
        scan = kit.scan(tag.xuid, url=url)
        assert (*result_of(scan), scan.scan_count) == (Verdict.GENUINE, None, "not_replay_checked", count)


def test_inside_the_retry_window_the_newest_tap_is_a_repeat(kit: EngineKit) -> None:
    tag, _ = kit.tag(retry_window_s=10)
    kit.tap(tag, 4)
    assert result_of(kit.tap(tag, 5)) == GENUINE
    kit.now = 9.9
    repeat = kit.tap(tag, 5)
    assert (repeat.verdict, repeat.authentic, repeat.rule, repeat.scan_count) == (Verdict.REPEAT, True, 0, 2)
    assert result_of(kit.tap(tag, 4)) == REPLAYED
    kit.now = 10.1
    assert result_of(kit.tap(tag, 5)) == REPLAYED
    assert len(kit.ledger.passes) == 2


def test_an_idempotent_retry_gets_the_first_answer(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    first, another = KEYED_FROM | 77, KEYED_FROM | 78
    kit.tap(tag, 3)
    assert result_of(kit.tap(tag, 5, scan_id=first, idempotent=True)) == GENUINE
    assert result_of(kit.tap(tag, 5, scan_id=first, idempotent=True)) == GENUINE
    kit.tap(tag, 6)
    again = kit.tap(tag, 5, scan_id=first, idempotent=True)  # a newer tap was accepted in between
    assert (result_of(again), again.scan_count, again.previous_position & 0xFFFFFF) == (GENUINE, 2, 3)
    assert again.extras is not None and again.extras.first_at is not None
    assert result_of(kit.tap(tag, 5, scan_id=another, idempotent=True)) == REPLAYED
    for tap in (4, 9):
        assert kit.tap(tag, tap, scan_id=first, idempotent=True).error == "idempotency_conflict"
    assert len(kit.ledger.passes) == 3


def test_a_peek_consumes_and_logs_nothing(kit: EngineKit) -> None:
    tag, record = kit.tag()
    kit.tap(tag, 3)
    for _ in range(2):
        peek = kit.tap(tag, 5, peek=True)
        assert (result_of(peek), peek.scan_count, peek.previous_position & 0xFFFFFF) == (GENUINE, 2, 3)
    assert result_of(kit.tap(tag, 3, peek=True)) == REPLAYED
    assert not kit.ledger.refusals and len(kit.ledger.passes) == 1
    assert result_of(kit.tap(tag, 5)) == GENUINE
    assert record.floor & 0xFFFFFF == 5


@pytest.mark.parametrize(
    ("level", "error"),
    [
        (lambda record: record.group.account, "folder_inactive"),
        (lambda record: record.group, "tg_inactive"),
        (lambda record: record.batch, "batch_inactive"),
        (lambda record: record, "tag_inactive"),
    ],
)
def test_an_inactive_level_consumes_nothing(kit: EngineKit, level: Any, error: str) -> None:
    tag, record = kit.tag()
    level(record).active = False
    assert result_of(kit.tap(tag, 1)) == (Verdict.INACTIVE, error, None)
    level(record).active = True
    assert result_of(kit.tap(tag, 1)) == GENUINE


def test_the_first_inactive_level_from_the_top_is_shown(kit: EngineKit) -> None:
    tag, record = kit.tag()
    record.active = record.group.active = record.group.folder_active = False
    assert result_of(kit.tap(tag, 1))[1] == "folder_inactive"


def test_tags_are_found_by_every_reference(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    for number, ref in enumerate(
        (references.by_cuid("acme", "own-1"), references.by_uid("acme", tag.uid), tag.xuid.encode()), start=1
    ):
        assert result_of(kit.scan(ref, number, bytes.fromhex(tag.parameters_at(number)["e"]))) == GENUINE
    for ref in (b"nosuchta", references.by_cuid("acme", "own-2"), references.by_cuid("other", "own-1")):
        assert result_of(kit.scan(ref)) == (Verdict.UNKNOWN, "not_found", None)
    assert kit.catalogue.fetched == 6


def test_a_closed_account_wants_a_token_with_the_scope(kit: EngineKit) -> None:
    tag, record = kit.tag()
    record.group.account.open = False
    kit.catalogue.add_api_key("acme", TOKEN)
    kit.catalogue.add_api_key("acme", TOKEN[::-1], scopes=("manage",))
    kit.catalogue.add_api_key("acme", bytes(32), expires_at=1.0)
    unauthorised = (None, "unauthorised", None)
    assert result_of(kit.tap(tag, 1)) == result_of(kit.scan("nosuchta")) == (Verdict.UNKNOWN, "not_found", None)
    for bad in (TOKEN[::-1], bytes(32), b"x" * 32):
        for _ in range(2):  # from the database, and from the cache
            assert result_of(kit.tap(tag, 1, token=bad)) == unauthorised
    assert result_of(kit.tap(tag, 1, token=TOKEN)) == result_of(kit.tap(tag, 2, token=TOKEN)) == GENUINE


def test_anothers_tag_is_like_none(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    stranger = kit.catalogue.add_account("stranger")
    key = kit.catalogue.add_api_key("stranger", TOKEN)
    assert key.account_id == stranger.account_id
    absent = kit.scan("nosuchta", token=TOKEN)
    theirs = kit.tap(tag, 1, token=TOKEN)
    assert result_of(absent) == result_of(theirs) == (Verdict.UNKNOWN, "not_found", None)
    assert theirs.record is None
    assert not kit.ledger.refusals  # and it leaves no row in the log
    assert result_of(kit.tap(tag, 1)) == GENUINE


def test_what_cannot_be_looked_up_is_no_verdict(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    kit.catalogue.failure = "database_unreachable"
    assert result_of(kit.tap(tag, 1)) == (None, "unavailable", "database_unreachable")
    assert result_of(kit.tap(tag, 1, token=TOKEN)) == (None, "unavailable", "database_unreachable")
    kit.catalogue.failure, kit.catalogue.stale = None, "catalogue_stale"
    assert result_of(kit.tap(tag, 1)) == (None, "unavailable", "catalogue_stale")
    kit.catalogue.stale = None
    kit.tap(tag, 1)
    kit.catalogue.stale = "catalogue_stale"
    assert result_of(kit.tap(tag, 2)) == (None, "unavailable", "catalogue_stale")  # even though it is cached
    # Not yet marked as stale: a process that was suspended reads its requests before it runs its timers.
    kit.catalogue.stale, kit.catalogue.fresh_until = None, -1.0
    assert result_of(kit.tap(tag, 2)) == (None, "unavailable", "catalogue_stale")


def test_a_missing_counter_row_is_no_verdict(kit: EngineKit) -> None:
    tag, _ = kit.tag()
    kit.ledger._counters.clear()
    assert result_of(kit.tap(tag, 1)) == (None, "unavailable", "counter_missing")


@pytest.mark.parametrize("where", ["rules", "profile"])
def test_a_bug_hangs_nobody_and_is_no_verdict(kit: EngineKit, where: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError

    tag, record = kit.tag(rules=RuleSet(broken, (), "Fail", frozenset()) if where == "rules" else AUTHENTICATION_PASS)
    if where == "profile":
        assert record.group.profile is not None
        record.group.profile.verify_plain = broken  # type: ignore[assignment]
    assert result_of(kit.tap(tag, 1)) == (None, "unavailable", "internal_error")
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_a_reply_that_fails_stops_nobody_else(kit: EngineKit, caplog: pytest.LogCaptureFixture) -> None:
    def gone(_scan: Scan) -> None:
        raise ConnectionResetError

    tag, record = kit.tag()
    mac = bytes.fromhex(tag.parameters_at(1)["e"])
    kit.engine.submit(Scan(gone, record.xuid, 1, mac, None, 1, 0.0))
    assert result_of(kit.tap(tag, 1)) == REPLAYED  # the decision stands
    assert len(caplog.records) == 1


def test_a_traced_scan_tells_of_the_stages_that_it_went_through() -> None:
    kit = EngineKit()
    tag, record = kit.tag()

    def ask(counter: int, mac: bytes, trace: Trace | None) -> Verdict | None:
        return kit.scan(record.xuid, counter, mac, trace=trace).verdict

    slots = kit.meters.slots
    mac = bytes.fromhex(tag.parameters_at(7)["e"])
    assert ask(7, mac, Trace(slots)) is Verdict.GENUINE
    assert ask(8, mac, Trace(slots)) is Verdict.FORGED
    assert ask(8, mac, None) is Verdict.FORGED
    assert kit.scan("nobody", 8, mac, trace=Trace(slots)).verdict is Verdict.UNKNOWN
    counts = dict(zip(meters.STAGES, (slots[slot] for slot in meters.STAGE_SCANS), strict=True))
    assert counts == {"parse": 0, "lookup": 3, "core": 1, "wait": 0, "statement": 1, "rules": 2, "reply": 0, "write": 0}
    assert [slots[slot] > 0 for slot in meters.STAGE_NS] == [count > 0 for count in counts.values()]


@pytest.fixture
def located(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses have the country of their last letters."""
    monkeypatch.setattr(visitors, "location_of", lambda address: visitors.Location(address[-2:], None, None))


def seen_from(address: str) -> dict[str, Any]:
    return {"visitor": Visitor(address, "Mozilla/5.0")}


@pytest.mark.usefixtures("located")
def test_the_country_of_a_visitor_is_logged_only_if_the_group_asks_for_it(kit: EngineKit) -> None:
    asking, record = kit.tag(country_statistics=True)
    silent, _ = kit.tag()
    for tag in (asking, silent):
        assert result_of(kit.tap(tag, 5, **seen_from("2001:db8::CH"))) == GENUINE
        assert result_of(kit.tap(tag, 5, **seen_from("2001:db8::FR"))) == REPLAYED
        assert result_of(kit.scan(tag.xuid, 7, bytes(8), **seen_from("2001:db8::DE")))[0] is Verdict.FORGED
    assert list(kit.ledger.countries) == [
        (record.tag_id, "genuine", "CH"), (record.tag_id, "replayed", "FR"), (record.tag_id, "forged", "DE"),
    ]  # fmt: skip


@pytest.mark.usefixtures("located")
def test_no_country_is_logged_without_a_further_scan_or_for_an_unknown_place(kit: EngineKit) -> None:
    tag, _ = kit.tag(country_statistics=True)
    kit.tap(tag, 5, peek=True, **seen_from("2001:db8::CH"))
    kit.tap(tag, 5)
    for nowhere in ("2001:db8::zz", "2001:db8::ch", "2001:db8::"):
        kit.tap(tag, 6, **seen_from(nowhere))
    kit.scan("nosuchtg", 1, bytes(8), **seen_from("2001:db8::CH"))
    assert not kit.ledger.countries
    for _ in range(3):  # a retry with the same Idempotency-Key gets the first answer
        kit.tap(tag, 9, scan_id=KEYED_FROM + 1, idempotent=True, **seen_from("2001:db8::CH"))
    assert [country for _, _, country in kit.ledger.countries] == ["CH"]


@pytest.mark.usefixtures("located")
def test_the_country_of_a_refusal_that_is_sent_again_is_logged_once(kit: EngineKit) -> None:
    tag, record = kit.tag(country_statistics=True)
    kit.tap(tag, 5)
    keys = itertools.count(KEYED_FROM + 1)
    for verdict, sent in (
        (Verdict.REPLAYED, tag.parameters_at(5)),
        (Verdict.FORGED, {**tag.parameters_at(6), "e": "0" * 16}),
        (Verdict.INCOMPLETE, {}),
    ):
        key = {"scan_id": next(keys), "idempotent": True, "fingerprint": next(keys)}
        for _ in range(3):
            again = kit.scan(tag.xuid, parameters=sent, **key, **seen_from("2001:db8::CH"))
            assert again.verdict is verdict
        kit.scan(tag.xuid, parameters=sent, **seen_from("2001:db8::FR"))
        assert list(kit.ledger.countries) == [(record.tag_id, verdict, "CH"), (record.tag_id, verdict, "FR")]
        kit.ledger.countries.clear()


@pytest.mark.usefixtures("located")
@pytest.mark.parametrize("failure", [None, "database_unreachable"])
@pytest.mark.parametrize("refusal", ["forged", "incomplete", "inactive", "replayed"])
def test_a_refused_tap_whose_key_is_not_bound_to_it_gets_no_verdict(kit: EngineKit, refusal: str, failure: str | None) -> None:
    tag, _ = kit.tag()
    other, record = kit.tag(country_statistics=True)
    kit.tap(other, 3)
    key = KEYED_FROM | 77
    assert result_of(kit.tap(tag, 5, scan_id=key, idempotent=True)) == GENUINE
    kit.ledger.failure = failure
    record.active = refusal != "inactive"
    sent = other.parameters_at(3) | {"e": {"forged": "0" * 16, "incomplete": ""}.get(refusal, other.parameters_at(3)["e"])}
    counted = [kit.count(slot) for slot in meters.SCANS.values()]
    refused = kit.scan(other.xuid, parameters=sent, scan_id=key, idempotent=True, **seen_from("2001:db8::CH"))
    code = "idempotency_conflict" if failure is None else "unavailable"
    assert result_of(refused) == (None, code, failure)
    assert not kit.ledger.refusals and not kit.ledger.countries
    assert [kit.count(slot) for slot in meters.SCANS.values()] == counted
    assert kit.count(meters.SCAN_ERRORS[code]) == 1


def test_a_country_that_cannot_be_found_out_does_not_delay_the_answer(
    kit: EngineKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_address: str) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(visitors, "location_of", broken)
    tag, _ = kit.tag(country_statistics=True)
    with caplog.at_level(logging.CRITICAL, "ixfast.engine"):
        assert result_of(kit.tap(tag, 5, **seen_from("2001:db8::CH"))) == GENUINE


def test_an_unknown_tag_is_offered_to_the_log_if_the_caller_has_an_api_key(kit: EngineKit) -> None:
    offered: list[Scan] = []
    kit.ledger.log_refusal = offered.append  # type: ignore[method-assign]
    kit.engine.use(kit.ledger)
    kit.tag()
    kit.catalogue.add_api_key("acme", TOKEN)
    anonymous = kit.scan("nosuchtg", 5, bytes(8))
    peeking = kit.scan("nosuchtg", 5, bytes(8), token=TOKEN, peek=True)
    known = kit.scan("nosuchtg", 5, bytes(8), token=TOKEN)
    foreign = kit.scan(kit.tag(aid="other")[0].xuid, 5, bytes(8), token=TOKEN)
    assert {result_of(scan) for scan in (anonymous, peeking, known, foreign)} == {(Verdict.UNKNOWN, "not_found", None)}
    assert offered == [known, foreign]
