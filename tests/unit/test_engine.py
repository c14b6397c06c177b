"""The way of one scan on an in-memory catalogue and ledger: what passes, what is refused, what is not answered."""

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
from ixfast.domain.scan import KEYED_FROM, Extras, Scan
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.rules import AUTHENTICATION_PASS, RuleSet
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag
from ixfast.trace import Trace

TOKEN = bytes(range(32))


class House:
    """An engine with one account and a virtual tag of each profile asked for."""

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
        """Submit and return the scan, which must have been answered exactly once."""
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
        """A plain tap in the hot form."""
        parameters = tag.parameters_at(counter)
        return self.scan(tag.xuid, counter, bytes.fromhex(parameters["e"]), **options)

    def count(self, slot: int) -> int:
        return self.meters.slots[slot]


@pytest.fixture
def house() -> House:
    return House()


def told(scan: Scan) -> tuple[Any, Any, Any]:
    return scan.verdict, scan.error, scan.error_detail or scan.reason


GENUINE = (Verdict.GENUINE, None, None)
REPLAYED = (Verdict.REPLAYED, None, "counter_used")


def test_a_genuine_tap_passes_once_and_older_ones_are_replays(house: House) -> None:
    tag, record = house.tag()
    first = house.tap(tag, 5)
    assert told(first) == GENUINE
    assert (first.authentic, first.rule, first.scan_count) == (True, 0, 1)
    for counter in (5, 4, 1):
        again = house.tap(tag, counter)
        assert told(again) == REPLAYED
        assert (again.authentic, again.rule) == (False, -1)
    later = house.tap(tag, 900)
    assert told(later) == GENUINE
    assert (later.previous_position & 0xFFFFFF, later.scan_count, record.floor & 0xFFFFFF) == (5, 2, 900)
    assert len(house.ledger.passes) == 2
    assert (house.count(meters.SCANS[Verdict.GENUINE]), house.count(meters.SCANS[Verdict.REPLAYED])) == (2, 3)


def test_a_counter_known_to_be_used_costs_no_statement(house: House) -> None:
    tag, _ = house.tag()
    house.tap(tag, 5)
    house.ledger.trouble = "database_unreachable"
    assert told(house.tap(tag, 5)) == REPLAYED
    assert told(house.tap(tag, 5, wants_state=True))[1] == "unavailable"  # it asked for the durable counter
    assert told(house.tap(tag, 6)) == (None, "unavailable", "database_unreachable")
    assert house.count(meters.SCAN_ERRORS["unavailable"]) == 2


def test_a_forged_tap_is_refused_before_the_ledger(house: House) -> None:
    tag, record = house.tag()
    mac = bytes.fromhex(tag.parameters_at(7)["e"])
    assert told(house.scan(tag.xuid, 8, mac)) == (Verdict.FORGED, None, "mac_mismatch")
    assert (record.floor, len(house.ledger.passes)) == (0, 0)
    assert told(house.scan(tag.xuid, 7, mac)) == GENUINE
    assert [row[-1] for row in house.ledger.refusals] == ["forged"]


@pytest.mark.parametrize("form", ["url", "parameters"])
@pytest.mark.parametrize("profile", ["ixkio-plain", "plain-tamper", "encrypted", "encrypted-tamper", "path"])
def test_other_forms_are_judged_by_the_profile(house: House, profile: str, form: str) -> None:
    tag, record = house.tag(profile)

    def tap(counter: int) -> Scan:
        taken = {"url": tag.tap_at(counter)} if form == "url" else {"parameters": tag.parameters_at(counter)}
        return house.scan(tag.xuid, **taken)

    genuine = tap(3)
    assert told(genuine) == GENUINE
    assert genuine.extras is not None and genuine.extras.evidence is not None
    assert genuine.position == record.key_version << 24 | 3
    assert told(tap(2)) == told(tap(3)) == REPLAYED
    forged = house.scan(tag.xuid, url=tag.forged())
    assert forged.verdict is Verdict.FORGED


def test_an_incomplete_tap_is_no_forgery(house: House) -> None:
    tag, _ = house.tag()
    incomplete = (Verdict.INCOMPLETE, None, "missing_parameter")
    mac = bytes.fromhex(tag.parameters_at(1)["e"])
    assert told(house.scan(tag.xuid)) == told(house.scan(tag.xuid, 1)) == told(house.scan(tag.xuid, -1, mac)) == incomplete
    assert told(house.scan(tag.xuid, url="https://tag.example/elsewhere")) == incomplete


def test_a_counter_of_zero_is_no_tap(house: House) -> None:
    tag, _ = house.tag()
    assert told(house.scan(tag.xuid, 0, bytes(8))) == (Verdict.FORGED, None, "counter_range")


def test_bad_form_names_the_parameter(house: House) -> None:
    tag, _ = house.tag("encrypted")
    scan = house.scan(tag.xuid, parameters={"picc_data": "XYZ", "cmac": "00" * 8})
    assert (*told(scan), scan.error_field) == (None, "invalid_parameter", None, "picc_data")


@pytest.mark.parametrize(("profile", "keys", "reason"), [("ixkio-plain", False, "no_key"), ("encrypted", True, "no_meta_key")])
def test_what_the_operator_must_supply_is_no_verdict(house: House, profile: str, keys: bool, reason: str) -> None:
    tag, record = house.tag(profile)
    if not keys:
        record.key, record.key_version = None, 0
    record.group.account.meta_keys = ()
    assert told(house.scan(tag.xuid, url=tag.tap())) == (None, "unavailable", reason)


def test_a_newer_key_version_beats_every_older_counter(house: House) -> None:
    tag, record = house.tag()
    assert told(house.tap(tag, 0xFFFFFF)) == GENUINE
    renewed = VirtualTag(tag.profile, xuid=tag.xuid, uid=tag.uid, file_key=bytes(15) + b"\1")
    both = (Key(2, renewed.file_key, b"abc"), *tag.file_keys())
    record.key, record.keys = None, both
    assert told(house.tap(renewed, 1)) == GENUINE
    assert told(house.tap(tag, 0xFFFFFF)) == REPLAYED
    assert told(house.tap(renewed, 2)) == GENUINE


def test_a_standard_tag_is_only_counted(house: House) -> None:
    tag, _ = house.tag(None)
    for count in (1, 2, 3):
        scan = house.scan(tag.xuid)
        assert (told(scan), scan.authentic, scan.scan_count) == ((Verdict.PLAIN, None, None), False, count)
    assert not house.ledger.refusals


def test_a_tap_without_a_counter_is_genuine_and_says_what_it_is_not(house: House) -> None:
    tag, _ = house.tag("plain-uid-only")
    url = tag.tap_at(0)
    for count in (1, 2):
        scan = house.scan(tag.xuid, url=url)
        assert (*told(scan), scan.scan_count) == (Verdict.GENUINE, None, "not_replay_checked", count)


def test_inside_the_retry_window_the_newest_tap_is_a_repeat(house: House) -> None:
    tag, _ = house.tag(retry_window_s=10)
    house.tap(tag, 4)
    assert told(house.tap(tag, 5)) == GENUINE
    house.now = 9.9
    repeat = house.tap(tag, 5)
    assert (repeat.verdict, repeat.authentic, repeat.rule, repeat.scan_count) == (Verdict.REPEAT, True, 0, 2)
    assert told(house.tap(tag, 4)) == REPLAYED
    house.now = 10.1
    assert told(house.tap(tag, 5)) == REPLAYED
    assert len(house.ledger.passes) == 2


def test_an_idempotent_retry_gets_the_first_answer(house: House) -> None:
    tag, _ = house.tag()
    first, another = KEYED_FROM | 77, KEYED_FROM | 78
    house.tap(tag, 3)
    assert told(house.tap(tag, 5, scan_id=first, idempotent=True)) == GENUINE
    assert told(house.tap(tag, 5, scan_id=first, idempotent=True)) == GENUINE
    house.tap(tag, 6)
    again = house.tap(tag, 5, scan_id=first, idempotent=True)  # overtaken meanwhile
    assert (told(again), again.scan_count, again.previous_position & 0xFFFFFF) == (GENUINE, 2, 3)
    assert again.extras is not None and again.extras.first_at is not None
    assert told(house.tap(tag, 5, scan_id=another, idempotent=True)) == REPLAYED
    for tap in (4, 9):
        assert house.tap(tag, tap, scan_id=first, idempotent=True).error == "idempotency_conflict"
    assert len(house.ledger.passes) == 3


def test_a_peek_consumes_and_logs_nothing(house: House) -> None:
    tag, record = house.tag()
    house.tap(tag, 3)
    for _ in range(2):
        peek = house.tap(tag, 5, peek=True)
        assert (told(peek), peek.scan_count, peek.previous_position & 0xFFFFFF) == (GENUINE, 2, 3)
    assert told(house.tap(tag, 3, peek=True)) == REPLAYED
    assert not house.ledger.refusals and len(house.ledger.passes) == 1
    assert told(house.tap(tag, 5)) == GENUINE
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
def test_an_inactive_level_consumes_nothing(house: House, level: Any, error: str) -> None:
    tag, record = house.tag()
    level(record).active = False
    assert told(house.tap(tag, 1)) == (Verdict.INACTIVE, error, None)
    level(record).active = True
    assert told(house.tap(tag, 1)) == GENUINE


def test_the_first_inactive_level_from_the_top_is_told(house: House) -> None:
    tag, record = house.tag()
    record.active = record.group.active = record.group.folder_active = False
    assert told(house.tap(tag, 1))[1] == "folder_inactive"


def test_tags_are_found_by_every_reference(house: House) -> None:
    tag, _ = house.tag()
    for number, ref in enumerate(
        (references.by_cuid("acme", "own-1"), references.by_uid("acme", tag.uid), tag.xuid.encode()), start=1
    ):
        assert told(house.scan(ref, number, bytes.fromhex(tag.parameters_at(number)["e"]))) == GENUINE
    for ref in (b"nosuchta", references.by_cuid("acme", "own-2"), references.by_cuid("other", "own-1")):
        assert told(house.scan(ref)) == (Verdict.UNKNOWN, "not_found", None)
    assert house.catalogue.fetched == 6


def test_a_closed_account_wants_a_token_with_the_scope(house: House) -> None:
    tag, record = house.tag()
    record.group.account.open = False
    house.catalogue.add_api_key("acme", TOKEN)
    house.catalogue.add_api_key("acme", TOKEN[::-1], scopes=("manage",))
    house.catalogue.add_api_key("acme", bytes(32), expires_at=1.0)
    unauthorised = (None, "unauthorised", None)
    assert told(house.tap(tag, 1)) == told(house.scan("nosuchta")) == (Verdict.UNKNOWN, "not_found", None)
    for bad in (TOKEN[::-1], bytes(32), b"x" * 32):
        for _ in range(2):  # from the database, and from the cache
            assert told(house.tap(tag, 1, token=bad)) == unauthorised
    assert told(house.tap(tag, 1, token=TOKEN)) == told(house.tap(tag, 2, token=TOKEN)) == GENUINE


def test_anothers_tag_is_like_none(house: House) -> None:
    tag, _ = house.tag()
    stranger = house.catalogue.add_account("stranger")
    key = house.catalogue.add_api_key("stranger", TOKEN)
    assert key.account_id == stranger.account_id
    absent = house.scan("nosuchta", token=TOKEN)
    theirs = house.tap(tag, 1, token=TOKEN)
    assert told(absent) == told(theirs) == (Verdict.UNKNOWN, "not_found", None)
    assert theirs.record is None
    assert not house.ledger.refusals  # their log does not show us either
    assert told(house.tap(tag, 1)) == GENUINE


def test_what_cannot_be_looked_up_is_no_verdict(house: House) -> None:
    tag, _ = house.tag()
    house.catalogue.trouble = "database_unreachable"
    assert told(house.tap(tag, 1)) == (None, "unavailable", "database_unreachable")
    assert told(house.tap(tag, 1, token=TOKEN)) == (None, "unavailable", "database_unreachable")
    house.catalogue.trouble, house.catalogue.stale = None, "catalogue_stale"
    assert told(house.tap(tag, 1)) == (None, "unavailable", "catalogue_stale")
    house.catalogue.stale = None
    house.tap(tag, 1)
    house.catalogue.stale = "catalogue_stale"
    assert told(house.tap(tag, 2)) == (None, "unavailable", "catalogue_stale")  # although it is cached
    # Nobody has said so yet: a process that was stopped reads its requests before it looks at its timers.
    house.catalogue.stale, house.catalogue.fresh_until = None, -1.0
    assert told(house.tap(tag, 2)) == (None, "unavailable", "catalogue_stale")


def test_a_missing_counter_row_is_no_verdict(house: House) -> None:
    tag, _ = house.tag()
    house.ledger._counters.clear()
    assert told(house.tap(tag, 1)) == (None, "unavailable", "counter_missing")


@pytest.mark.parametrize("where", ["rules", "profile"])
def test_a_bug_hangs_nobody_and_is_no_verdict(house: House, where: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError

    tag, record = house.tag(rules=RuleSet(broken, (), "Fail", frozenset()) if where == "rules" else AUTHENTICATION_PASS)
    if where == "profile":
        assert record.group.profile is not None
        record.group.profile.verify_plain = broken  # type: ignore[assignment]
    assert told(house.tap(tag, 1)) == (None, "unavailable", "internal_error")
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_a_reply_that_fails_stops_nobody_else(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def gone(_scan: Scan) -> None:
        raise ConnectionResetError

    tag, record = house.tag()
    mac = bytes.fromhex(tag.parameters_at(1)["e"])
    house.engine.submit(Scan(gone, record.xuid, 1, mac, None, 1, 0.0))
    assert told(house.tap(tag, 1)) == REPLAYED  # what was decided stays decided
    assert len(caplog.records) == 1


def test_a_traced_scan_tells_of_the_stages_that_it_went_through() -> None:
    house = House()
    tag, record = house.tag()

    def ask(counter: int, mac: bytes, trace: Trace | None) -> Verdict | None:
        return house.scan(record.xuid, counter, mac, trace=trace).verdict

    slots = house.meters.slots
    mac = bytes.fromhex(tag.parameters_at(7)["e"])
    assert ask(7, mac, Trace(slots)) is Verdict.GENUINE
    assert ask(8, mac, Trace(slots)) is Verdict.FORGED
    assert ask(8, mac, None) is Verdict.FORGED
    assert house.scan("nobody", 8, mac, trace=Trace(slots)).verdict is Verdict.UNKNOWN
    counts = dict(zip(meters.STAGES, (slots[slot] for slot in meters.STAGE_SCANS), strict=True))
    assert counts == {"parse": 0, "lookup": 3, "core": 1, "wait": 0, "statement": 1, "rules": 2, "reply": 0, "write": 0}
    assert [slots[slot] > 0 for slot in meters.STAGE_NS] == [count > 0 for count in counts.values()]
