"""Response bodies: the bytes of `/v1` and the values of `/v2` for scans as the engine leaves them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import error_codes, meters
from ixfast.chips import compile_profile, preset
from ixfast.domain import references
from ixfast.domain.model import Evidence, Tamper, Verdict
from ixfast.domain.records import Batch, TagRecord
from ixfast.domain.scan import COUNTED_ONLY, Extras, Scan, position
from ixfast.responses import bodies
from ixfast.responses.response_set import members
from ixfast.rules import RuleSet
from ixfast.testing.memory import MemoryCatalogue

UID = bytes.fromhex("04A1B2C3D4E5F6")


def record(cuid: str | None = "own-1", responses: tuple[str, str] = ("Pass", "Fail")) -> TagRecord:
    catalogue = MemoryCatalogue()
    rules = RuleSet(lambda _scan: -1, (("authenticated", responses[0]),), responses[1], frozenset())
    group = catalogue.add_group("acme", compile_profile(preset("ixkio-plain")), name="Wine", rules=rules)
    return catalogue.add_tag(group, "q8w3sbcz", uid=UID, cuid=cuid, batch=Batch(1, "First", active=True), name="Bottle")


def scan(ref: bytes = b"q8w3sbcz", found: TagRecord | None = None, **members: Any) -> Scan:
    scan = Scan(lambda _scan: None, ref, 61, bytes(8), None, 0xABC, 0.0)
    scan.record = found
    for name, value in members.items():
        setattr(scan, name, value)
    return scan


def genuine(**members: Any) -> Scan:
    settled = {"verdict": Verdict.GENUINE, "authentic": True, "rule": 0, "position": position(1, 61), "scan_count": 12}
    return scan(found=record(), **settled | {"previous_position": position(1, 57)} | members)


BY_CUID = references.by_cuid("acme", "own-1")
BY_UID = references.by_uid("acme", UID)


@pytest.mark.parametrize(
    ("ref", "rule", "body"),
    [
        (b"q8w3sbcz", 0, b'{"xuid":"q8w3sbcz","response":"Pass"}'),
        (b"q8w3sbcz", -1, b'{"xuid":"q8w3sbcz","response":"Fail"}'),
        (BY_CUID, 0, b'{"xuid":"q8w3sbcz","cuid":"own-1","response":"Pass"}'),
        (BY_UID, 0, b'{"xuid":"q8w3sbcz","response":"Pass"}'),
    ],
)
def test_v1_of_a_decided_scan(ref: bytes, rule: int, body: bytes) -> None:
    decided = scan(ref, record(), rule=rule, verdict=Verdict.GENUINE)
    assert (bodies.v1_body(decided), bodies.status(decided)) == (body, 200)


@pytest.mark.parametrize(
    ("ref", "members", "status", "body"),
    [
        (b"q8w3sbcz", {"error": "tg_inactive"}, 200, b'{"xuid":"q8w3sbcz","error":"tg_inactive"}'),
        (BY_CUID, {"error": "batch_inactive"}, 200, b'{"xuid":"q8w3sbcz","error":"batch_inactive"}'),
        (b"q8w3sbcz", {"error": "not_found", "record": None}, 404, b'{"xuid":"q8w3sbcz","error":"not_found"}'),
        (BY_CUID, {"error": "not_found", "record": None}, 404, b'{"error":"not_found"}'),
        (b"q8w3sbcz", {"error": "unauthorised"}, 401, b'{"xuid":"q8w3sbcz","error":"unauthorised"}'),
        # A caller without the right to scan must not learn which tag has a CUID or UID.
        (BY_CUID, {"error": "unauthorised"}, 401, b'{"error":"unauthorised"}'),
        (BY_UID, {"error": "unavailable"}, 503, b'{"error":"unavailable"}'),
        (b"", {"error": "not_found", "record": None}, 404, b'{"error":"not_found"}'),
        (
            b"q8w3sbcz",
            {"error": "outcome_unknown", "error_detail": "deadline"},
            503,
            b'{"xuid":"q8w3sbcz","error":"outcome_unknown","reason":"deadline"}',
        ),
        (
            b"q8w3sbcz",
            {"error": "invalid_parameter", "error_field": 'p"ic'},
            400,
            b'{"xuid":"q8w3sbcz","error":"invalid_parameter","parameter":"p\\"ic"}',
        ),
    ],
)
def test_v1_of_a_scan_that_ends_with_an_error(ref: bytes, members: dict[str, Any], status: int, body: bytes) -> None:
    failed = scan(ref, **{"record": record()} | members)
    assert (bodies.v1_body(failed), bodies.status(failed)) == (body, status)


def test_v1_of_a_scan_that_nobody_decided_is_no_verdict() -> None:
    assert bodies.v1_body(scan()) == b'{"xuid":"q8w3sbcz","error":"unavailable"}'


# A brace begins a subtag, and no text of PostgreSQL has a NUL.
@given(st.text(st.characters(codec="utf-8", exclude_characters="{\0"), max_size=20), st.text(min_size=1, max_size=20))
def test_v1_escapes_what_owners_write(response: str, cuid: str) -> None:
    found = record(cuid, (response, "Fail"))
    body = orjson.loads(bodies.v1_body(scan(references.by_cuid("acme", cuid), found, rule=0)))
    assert list(body.items()) == [("xuid", "q8w3sbcz"), ("cuid", cuid), ("response", response)]


def test_every_error_has_a_status() -> None:
    assert meters.SCAN_ERRORS.keys() <= error_codes.STATUS.keys()
    assert meters.SCAN_ERRORS.keys().isdisjoint(error_codes.DECIDED)
    assert error_codes.DECIDED > error_codes.INACTIVE


def test_v2_of_a_genuine_scan() -> None:
    assert bodies.v2_scan(genuine()) == {
        "scan_id": "0000000000000abc",
        "verdict": "genuine",
        "authentic": True,
        "reason": None,
        "tag": {
            "xuid": "q8w3sbcz",
            "cuid": "own-1",
            "uid": "04A1B2C3D4E5F6",
            "name": "Bottle",
            "folder": "Folder",
            "group": "Wine",
            "batch": "First",
        },
        "counter": 61,
        "previous_counter": 57,
        "gap": 3,
        "scan_count": 12,
        "tamper": None,
        "originality": None,
        "file_data": None,
        "response": "Pass",
        "rule": "authenticated",
        "fields": {},
        "first_answer": None,
    }


def test_names_and_fields_are_shown_with_their_subtags() -> None:
    found = record()
    found.name = "Chair {cuid} of {tagname}"
    found.group.fields, found.group.reply_names = {"n": "{scount} {cuid}", "plain": "x"}, ("n", "plain")
    found.group.reply_json = members(found.group.fields, found.group.reply_names)
    answer = bodies.v2_scan(genuine(record=found))
    assert answer["tag"]["name"] == "Chair own-1 of Chair {cuid} of {tagname}"
    assert answer["fields"] == {"n": "12 own-1", "plain": "x"}
    assert bodies.v1_body(genuine(record=found)) == b'{"xuid":"q8w3sbcz","response":"Pass","n":"12 own-1","plain":"x"}'
    inactive = scan(found=found, verdict=Verdict.INACTIVE, error="tag_inactive")
    assert bodies.v2_scan(inactive)["tag"]["name"] == answer["tag"]["name"]


def test_members_that_no_scan_changes_are_made_once() -> None:
    found = record()
    found.group.fields, found.group.reply_names = (
        {'colour "ü"': "blue\n", "hidden": "{cuid}", "size": "40"},
        ('colour "ü"', "size"),
    )
    found.group.reply_json = members(found.group.fields, found.group.reply_names)
    assert found.group.reply_json is not None
    texts = [bodies.v1_body(genuine(record=found))]
    found.group.reply_json = None  # as if a scan could change them
    texts.append(bodies.v1_body(genuine(record=found)))
    assert texts[0] == texts[1]
    assert orjson.loads(texts[0]) == {"xuid": "q8w3sbcz", "response": "Pass", 'colour "ü"': "blue\n", "size": "40"}


def some(scan: Scan, *names: str) -> tuple[Any, ...]:
    answer = bodies.v2_scan(scan)
    return tuple(answer[name] for name in names)


@pytest.mark.parametrize(
    ("previous", "shown"),
    [
        (position(1, 60), (61, 60, 0)),
        (0, (61, None, None)),
        (position(0, 0xFFFFFF), (61, None, None)),  # of the key before
        (position(1, 90), (61, 90, None)),  # a replay: the newest accepted is above
    ],
)
def test_v2_counters(previous: int, shown: tuple[Any, ...]) -> None:
    assert some(genuine(previous_position=previous), "counter", "previous_counter", "gap") == shown


def test_v2_of_a_tap_without_a_counter() -> None:
    uncounted = genuine(position=COUNTED_ONLY, reason="not_replay_checked")
    assert some(uncounted, "counter", "previous_counter", "gap", "reason") == (None, None, None, "not_replay_checked")


@pytest.mark.parametrize("verdict", [Verdict.FORGED, Verdict.INCOMPLETE])
def test_v2_shows_no_counter_that_no_mac_vouches_for(verdict: Verdict) -> None:
    refused = genuine(verdict=verdict, authentic=False, reason="mac_mismatch", rule=-1, scan_count=0)
    names = ("verdict", "reason", "counter", "previous_counter", "gap", "scan_count", "response", "rule")
    assert some(refused, *names) == (verdict, "mac_mismatch", None, None, None, None, "Fail", None)


def test_v2_of_inactive_and_unknown() -> None:
    inactive = genuine(verdict=Verdict.INACTIVE, authentic=False, error="tg_inactive")
    assert some(inactive, "verdict", "reason", "response", "rule", "counter") == ("inactive", "tg_inactive", None, None, None)
    assert bodies.v2_scan(inactive)["tag"]["xuid"] == "q8w3sbcz"
    unknown = scan(verdict=Verdict.UNKNOWN, error="not_found")
    assert some(unknown, "verdict", "reason", "tag", "response", "scan_count") == ("unknown", "not_found", None, None, None)


@pytest.mark.parametrize(
    ("tamper", "shown"),
    [
        (None, None),
        (Tamper("C", "O"), {"stored": "closed", "current": "open"}),
        (Tamper("I", "I"), {"stored": "not_enabled", "current": "not_enabled"}),
    ],
)
def test_v2_of_tamper_and_file_data(tamper: Tamper | None, shown: dict[str, str] | None) -> None:
    extras = Extras()
    extras.evidence = Evidence(True, tamper=tamper, file_data=b"CO\xff")
    assert some(genuine(extras=extras), "tamper", "file_data") == (shown, "434fff")


def test_v2_of_a_standard_tag() -> None:
    orjson.dumps(bodies.v2_scan(genuine()))
    plain = scan(found=record(None), verdict=Verdict.PLAIN, scan_count=1)
    assert bodies.v2_scan(plain)["tag"]["cuid"] is None
    assert some(plain, "scan_count", "authentic", "counter") == (1, False, None)


def test_v2_error_has_one_shape() -> None:
    body = bodies.v2_error("unavailable", "No answer now.", "r1", reason="database_unreachable")
    assert orjson.loads(body) == {
        "error": {"code": "unavailable", "message": "No answer now.", "request_id": "r1", "reason": "database_unreachable"}
    }
    assert orjson.loads(bodies.v2_error("invalid_parameter", "m", "r2", field="uid"))["error"]["field"] == "uid"
