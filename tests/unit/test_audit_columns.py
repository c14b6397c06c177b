"""The columns of an audit: many lines, times or verdicts processed at once give the same results as one by one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast.audit import Summary, TagCatalogue, json_lines, tap_order, tap_times
from ixfast.audit.auditor import Auditor
from ixfast.audit.findings import EMPTY, GENUINE, NO_TAG, OUTCOMES, PLAIN, REPLAYED, Finding, TapFindings
from ixfast.audit.judge import judge
from ixfast.audit.tap_format import TapFormat
from ixfast.audit.tap_lines import read_rows
from ixfast.audit.tap_objects import Rows
from ixfast.audit.tap_order import TapOrder
from ixfast.audit.tap_times import read_times
from ixfast.audit.url_layout import Taps
from ixfast.chips import compile_profile, preset
from ixfast.testing.virtual_tags import VirtualFleet

STANDARD = compile_profile(preset("ixkio-plain"))

# --- lines ----------------------------------------------------------------------------------------

fields = st.sampled_from(["", "a", "2026-01-01T00:00:00Z", "https://tag.example/t?x=1&n=2", '"a,b"', '"', "é", "0 1", "%41", "&"])
csv_lines = st.one_of(
    st.lists(fields, min_size=3, max_size=3).map(",".join), st.lists(fields, max_size=5).map(",".join), st.just("  ")
)
json_texts = st.sampled_from(
    [
        '{"at":1,"url":"u?x=1"}',
        '{"at":"2026-01-01","query":"x=1"}',
        '{"x":"a","n":"000001"}',
        '{"url":"","query":"x=2","at":null}',
        '{"url":7}',
        '{"url":"a","url":"b"}',
        '{"url":"a"},{"url":"b"}',
        '{"url":"a"},',
        '{"url":["a"]}',
        '{"url":"a","n":[',
        "]}",
        '{"url":"\\ud800"}',
        '{"url":"a\\nb"}',
        ' {"url":"a"} ',
        '["url"]',
        "{}",
        "",
        " ",
        "null",
        '{"at":1e400,"url":"a"}',
        '{"at":123456789012345678901234567890,"url":"a"}',
        '{"url":"a","at":"1","more":{"b":1}}',
    ]
)


def assert_lines_are_read_alike(lines: list[str], form: TapFormat) -> None:
    together = read_rows("".join(f"{line}\n" for line in lines).encode(), form)
    assert len(together.texts) == len(together.times) == len(lines)
    for place, line in enumerate(lines):
        alone = read_rows(f"{line}\n".encode(), form)
        own = Rows([together.texts[place]], [together.times[place]], {})
        assert (own.texts, own.times) == (alone.texts, alone.times), line
        assert together.problems.get(place) == alone.problems.get(0), line


@given(st.lists(csv_lines, min_size=1, max_size=6), st.sampled_from([("at", "url", "c"), ("at", "x", "n"), ("x", "n", "50%")]))
def test_csv_lines_are_read_alike(lines: list[str], names: tuple[str, ...]) -> None:
    assert_lines_are_read_alike(lines, TapFormat("csv", names, before=1))


@given(st.lists(json_texts, min_size=1, max_size=6))
def test_json_lines_are_read_alike(lines: list[str]) -> None:
    assert_lines_are_read_alike(lines, TapFormat("jsonl"))


def test_ends_of_lines_of_any_kind() -> None:
    form = TapFormat("csv", ("at", "url"), before=1)
    assert read_rows(b"1,a\r\n2,b\n3,c\r", form).texts == ["a", "b", "c"]
    assert read_rows(b"1,a\r\r\n\r\n2,b", form).texts == ["a", None, "b"]


# --- times ----------------------------------------------------------------------------------------

moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))


@given(st.lists(moments, min_size=1, max_size=8), st.integers(0, 6), st.sampled_from("T "), st.sampled_from(["", "Z"]))
def test_times_written_alike_are_the_same_to_the_last_bit(times: list[datetime], digits: int, between: str, zone: str) -> None:
    texts = []
    for time in times:
        fraction = f".{time.microsecond:06}"[: 1 + digits] if digits else ""
        texts.append(f"{time.replace(microsecond=0, tzinfo=None).isoformat(between)}{fraction}{zone}")
    assert read_times(texts) == ([tap_times._moment(text) for text in texts], [])
    near = all(1900 < time.year < 2100 for time in times)
    assert (tap_times._uniform_iso_times(texts) is not None) or not near


@given(
    st.lists(st.text("0123456789TZ:.- \n+", min_size=19, max_size=21), min_size=1, max_size=3),
    st.integers(0, 30),
    st.sampled_from("0123456789:.Z \n-eé"),
)
def test_what_is_no_time_is_none_among_others(odd: list[str], place: int, letter: str) -> None:
    usual = "2026-01-31T23:59:59.123Z"
    texts = [usual, usual[:place] + letter + usual[place + 1 :], usual, *odd]
    seconds, wrong = read_times(texts)
    for number, text in enumerate(texts):
        alone, refused = read_times([text])
        assert (number in wrong, seconds[number]) == (bool(refused), alone[0] if not refused else 0.0), text


@pytest.mark.parametrize(
    "texts", [["2026-01-31T23:59:60.000Z"], ["2026-02-30T00:00:00Z"], ["2026-01-01T00:00:0", "02026-01-01T00:00:00"]]
)
def test_what_looks_like_a_time_is_none(texts: list[str]) -> None:
    assert read_times(texts)[1] == [*range(len(texts))]


# --- batches of one length ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ixkio-plain", "encrypted", "encrypted-file", "plain-joined"])
@pytest.mark.parametrize("wrong", [0, 1, 5])
def test_taps_beside_each_other_are_judged_as_each_alone(name: str, wrong: int) -> None:
    """All of one length, so that they are added to the columns as one piece, with some invalid ones among them."""
    fleet, dice = VirtualFleet(3, 5, name), random.Random(name)
    catalogue = TagCatalogue()
    catalogue.add_meta_keys(fleet[0].meta_keys() if fleet.profile.encrypted else ())
    tags = list(fleet)
    for tag in tags:
        catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys(), aid=tag.aid)
    auditor, form = Auditor(catalogue), TapFormat("urls")
    auditor.judge_chunk(tags[0].tap().encode(), form, first=0)
    texts = [dice.choice(tags).tap() for _ in range(40)]
    for place in dice.sample(range(40), wrong):
        texts[place] = dice.choice((tags[0].forged(), tags[0].tap_at(0), VirtualFleet(4, 1, name)[0].tap()))
    assert len({*map(len, texts)}) == 1
    judged = auditor.judge_chunk("\n".join(texts).encode(), form, first=0)
    expected = TapFindings(len(texts))
    for place, text in enumerate(texts):
        expected.put(place, judge(catalogue, text))
    assert (judged.codes, judged.tags, judged.positions) == (expected.codes, expected.tags, expected.positions)
    assert judged.codes.count(GENUINE) == 40 - wrong


def test_a_letter_that_is_none_in_a_tag_code_spoils_no_other_tap() -> None:
    fleet = VirtualFleet(3, 2)
    catalogue = TagCatalogue()
    for tag in fleet:
        catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys())
    urls = [fleet[0].tap_at(counter) for counter in range(1, 6)]
    urls[3] = urls[3].replace(fleet.xuid(0), "\u00e9" + fleet.xuid(0)[1:])
    judged = Auditor(catalogue).judge_chunk("\n".join(urls).encode(), TapFormat("urls"), first=0)
    assert [OUTCOMES[code][0] for code in judged.codes] == ["genuine"] * 3 + [
        OUTCOMES[judge(catalogue, urls[3]).code][0],
        "genuine",
    ]


@pytest.mark.parametrize("name", ["plain-tamper", "encrypted-tamper"])
def test_tamper_states_are_told_in_batches(name: str) -> None:
    fleet = VirtualFleet(5, 1, name)
    tag, catalogue = fleet[0], TagCatalogue()
    catalogue.add_meta_keys(tag.meta_keys() if fleet.profile.encrypted else ())
    catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys())
    urls = []
    for stored, current in ("CC", "CO", "OO", "II", "CC", "0X"):
        tag.stored, tag.current = stored, current
        urls.append(tag.tap())
    auditor = Auditor(catalogue)
    judged = auditor.judge_chunk("\n".join(urls).encode(), TapFormat("urls"), first=0)
    alone = [judge(catalogue, url) for url in urls]
    assert auditor._layouts
    assert list(judged.codes) == [line.code for line in alone]
    assert list(judged.tampers) == [line.tamper for line in alone]
    assert len(set(judged.tampers)) == 5


def test_what_is_left_over_keeps_its_places() -> None:
    taps = Taps(range(5, 9), ["a", "b", "c", "d"])
    assert (taps.at([1, 3]).rows, taps.at([1, 3]).texts) == ([6, 8], ["b", "d"])


# --- order ----------------------------------------------------------------------------------------

taps = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 4)), max_size=30)


def judged_of(rows: Iterable[tuple[int, int, int]]) -> TapFindings:
    """Genuine taps: tag, position, time."""
    rows = list(rows)
    judged = TapFindings(len(rows))
    for place, (tag, position, at) in enumerate(rows):
        judged.put(place, Finding(GENUINE, tag, position))
        judged.times[place] = at
    return judged


@given(taps, st.booleans())
def test_replays_are_those_of_a_ledger_that_is_asked_in_order_of_time(rows: list[tuple[int, int, int]], in_time: bool) -> None:
    if in_time:
        rows.sort(key=lambda row: row[2])
    judged = judged_of(rows)
    TapOrder(3).settle(judged)
    floors = [0, 0, 0]
    for place in sorted(range(len(rows)), key=lambda place: rows[place][2]):
        tag, position, _ = rows[place]
        assert judged.codes[place] == (GENUINE if position > floors[tag] else REPLAYED)
        floors[tag] = max(floors[tag], position)


def test_control_a_file_taken_for_sorted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap_order, "_never_earlier", lambda times: True)
    judged = judged_of([(0, 2, 5), (0, 1, 4)])
    TapOrder(1).settle(judged)
    assert list(judged.codes) == [GENUINE, REPLAYED]  # in chronological order both are genuine


@pytest.mark.parametrize(("times", "in_order"), [([1, 2, 2, 3, 3], True), ([1, 2, 1, 3], False), ([2, 1], False), ([], True)])
def test_an_earlier_time_in_another_slice_is_seen(monkeypatch: pytest.MonkeyPatch, times: list[float], in_order: bool) -> None:
    monkeypatch.setattr(tap_order, "_SLICE", 2)
    assert tap_order._never_earlier(array("d", times)) is in_order


# --- reports --------------------------------------------------------------------------------------

lines = st.lists(
    st.builds(
        Finding,
        st.sampled_from([GENUINE, GENUINE, REPLAYED, EMPTY, *range(len(OUTCOMES))]),
        st.sampled_from([0, 1, NO_TAG]),
        st.sampled_from([0, 1, 0xFFFFFF, 1 << 24 | 7, 127 << 24 | 0xFFFFFF]),
        st.sampled_from([0, 0, 0, 1, 9]),
        st.none(),
    ),
    max_size=20,
)


@given(lines, st.booleans(), st.integers(1, 10**9))
def test_a_report_says_of_each_line_what_it_says_of_it_alone(found: list[Finding], refused_only: bool, first_line: int) -> None:
    catalogue = TagCatalogue()
    catalogue.add("aaaaaaaa", STANDARD)
    catalogue.add("bbbbbbbb", STANDARD)
    judged = TapFindings(len(found))
    expected = []
    for place, line in enumerate(found):
        if line.code in (GENUINE, REPLAYED) and (line.tag == NO_TAG or not line.position & 0xFFFFFF):
            line = line._replace(code=PLAIN)  # a replay-checked line always has a tag and a counter
        judged.put(place, line)
        genuine = OUTCOMES[line.code][0] == "genuine" if line.code != EMPTY else True
        if line.code != EMPTY and not (refused_only and genuine):
            verdict, reason = OUTCOMES[line.code]
            report_line = {"line": first_line + place, "verdict": verdict, "reason": reason}
            report_line["tag"] = "aaaaaaaa" if line.tag == 0 else "bbbbbbbb" if line.tag == 1 else None
            report_line["counter"] = line.position & 0xFFFFFF if line.position else None
            expected.append({name: value for name, value in report_line.items() if value is not None})
    texts = b"".join(json_lines(judged, catalogue, first_line, refused_only=refused_only)).splitlines()
    shown = [orjson.loads(text) for text in texts]
    assert [{name: value for name, value in each.items() if name != "tamper"} for each in shown] == expected
    summary = Summary()
    summary.add(judged, first_line)
    assert summary.taps.total() == len(judged) - judged.codes.count(EMPTY)
