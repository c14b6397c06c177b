"""The compiled function says what the rules mean; nothing that an owner types is ever code."""

import ast
import gc
import os
import random
import time
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ixfast import rules
from ixfast.domain.model import Evidence, Tamper, Verdict
from ixfast.domain.scan import COUNTED_ONLY, Extras, Scan, Visitor, position
from ixfast.responses import response_text
from ixfast.responses.response_set import ResponseSet
from ixfast.rules import RuleError, Rules, compiler, condition_tree, facts, line_notation, visitors, wall_clock
from ixfast.rules.facts import FACTS, Kind
from ixfast.rules.rule_document import RuleGroup

CASES = int(os.environ.get("IXFAST_DIFFERENTIAL_CASES", "3200"))  # 100,000 take half a minute, see docs/reference/rules.md
SCANS_OF_A_SET = 32
READINGS = max(100, CASES // 50)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")
NAMES = ("A1", "A2", "a1", "x y", 'q"\\', "at", "and", "ä")
FIELDS = ("colour", "Product Name")
PLACES = {"10.0.0.1": "DE", "10.0.0.2": "FR"}
DEVICES = {"phone": visitors.Device("iOS", "Safari"), "computer": visitors.Device("Windows", None)}


def made_scan(**known: Any) -> Scan:
    """A scan as rules see it: what is not given is not known."""
    scan = Scan(lambda _scan: None, b"", -1, None, None, 1, 0.0, known.get("extras"))
    scan.verdict = known.get("verdict", Verdict.GENUINE)
    scan.authentic = known.get("authentic", scan.verdict in (Verdict.GENUINE, Verdict.REPEAT))
    scan.scan_count = known.get("scan_count", 1)
    scan.position = known.get("position", COUNTED_ONLY)
    scan.previous_position = known.get("previous_position", 0)
    batch = known.get("batch")
    record: Any = SimpleNamespace(
        cuid=known.get("cuid"),
        batch=SimpleNamespace(name=batch) if batch is not None else None,
        assigned=known.get("assigned", False),
        originality=known.get("originality"),
        fields=known.get("fields"),
    )
    scan.record = record
    return scan


def one(condition: Any, **document: Any) -> dict[str, Any]:
    return {"groups": [{"name": "it", "when": condition, "response": "yes"}], "default": "no", **document}


def matches(condition: Any, scan: Scan, **document: Any) -> bool:
    return rules.load_rules(one(condition, **document)).decide(scan) == 0


@pytest.fixture
def known_visitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "location_of", lambda address: visitors.Location(PLACES.get(address)))
    monkeypatch.setattr(visitors, "device_of", lambda user_agent: DEVICES.get(user_agent, visitors.NOTHING))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    moment = [1_767_225_600.0]  # Thursday, 2026-01-01 00:00:00 UTC
    monkeypatch.setattr(wall_clock, "source", lambda: moment[0])
    return iter([moment]).__next__()  # type: ignore[return-value]


# Random rule sets and scans.

numbers = st.integers(0, 6)
times = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from((0, 30)))
dates = st.sampled_from(("2025-12-31", "2026-01-01", "2026-01-02"))
countries = st.sampled_from(("DE", "FR", "AT", "IN"))
SCALARS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.NUMBER: numbers,
    Kind.TRUTH: st.booleans(),
    Kind.TEXT: st.sampled_from(NAMES),
    Kind.FOLDED: st.sampled_from(("ios", "windows", "safari")),
    Kind.COUNTRY: countries,
    Kind.TIME: times,
    Kind.DATE: dates,
    Kind.WEEKDAY: st.sampled_from(facts.WEEKDAYS),
}


@st.composite
def comparisons(draw: st.DrawFn) -> condition_tree.Comparison:
    name = draw(st.sampled_from((*FACTS, *(facts.FIELD + field for field in FIELDS))))
    fact = facts.find_fact(name)
    assert fact is not None
    op = draw(st.sampled_from(fact.operators))
    scalars = st.sampled_from(fact.words) if fact.kind is Kind.WORD else SCALARS[fact.kind]
    value: Any = None
    if op in ("in", "not in"):
        value = tuple(draw(st.lists(scalars, min_size=1, max_size=3, unique=True)))
    elif op == "between":
        value = tuple(sorted(draw(st.lists(scalars, min_size=2, max_size=2, unique=True))))
        if fact.kind is Kind.TIME and draw(st.booleans()):
            value = value[::-1]
    elif op not in ("known", "unknown"):
        value = draw(scalars)
    zone = draw(st.sampled_from((None, *ZONES))) if fact.kind in facts.ZONED else None
    return condition_tree.Comparison(name, op, value, zone)


def _inside(parts: st.SearchStrategy[condition_tree.Node]) -> st.SearchStrategy[condition_tree.Node]:
    several = st.lists(parts, min_size=1, max_size=3)
    return st.one_of(several.map(condition_tree.all_of), several.map(condition_tree.any_of), parts.map(condition_tree.negation))


conditions = st.recursive(comparisons(), _inside, max_leaves=6)
rule_sets = st.builds(
    lambda whens, zone: Rules(tuple(RuleGroup(f"g{i}", when, f"r{i}") for i, when in enumerate(whens)), "none", zone),
    st.lists(conditions, max_size=4),
    st.sampled_from(ZONES),
)
TAMPERS = (None, Tamper("C", "C"), Tamper("O", "C"), Tamper("O", "O"), Tamper("I", "I"), Tamper("?", "C"))


def random_scan(chance: random.Random) -> Scan:
    """Any scan, also one that no engine makes. Drawn plainly: a hundred of these cost less than one drawn by hypothesis."""
    pick = chance.choice
    extras = None
    if pick((True, True, False)):
        extras = Extras(visitor=pick((None, Visitor(pick((None, *PLACES, "?")), pick((None, *DEVICES, "?"))))))
        extras.evidence = pick((None, Evidence(True, tamper=pick(TAMPERS))))
    return made_scan(
        verdict=pick((*Verdict, None)),
        authentic=pick((True, False)),
        scan_count=chance.randint(0, 6),
        position=pick((COUNTED_ONLY, 0, 1, 3, 5, position(1, 0), position(1, 4))),
        previous_position=pick((0, 1, 4, position(1, 1))),
        extras=extras,
        cuid=pick((None, *NAMES)),
        batch=pick((None, *NAMES)),
        assigned=pick((True, False)),
        originality=pick((None, *facts.ORIGINALITY_WORDS)),
        fields=pick((None, {}, {name: pick(NAMES) for name in FIELDS}, {FIELDS[0]: pick(NAMES)})),
    )


@settings(max_examples=-(-CASES // SCANS_OF_A_SET), deadline=None, suppress_health_check=list(HealthCheck))
@given(rule_set=rule_sets, seed=st.integers(0, 1 << 32))
def test_compiled_is_interpreted(rule_set: Rules, seed: int, known_visitors: None, clock: list[float]) -> None:
    chance = random.Random(seed)
    decide = rules.compile_rules(rule_set).decide
    for _ in range(SCANS_OF_A_SET):
        scan = random_scan(chance)
        clock[0] = chance.uniform(1_767_060_000, 1_767_400_000)
        known = facts.read_facts(scan, rule_set.facts)
        assert decide(scan) == rules.decide(rule_set, known), (known, compiler.source_of(rule_set))
    assert [step.holds for step in rules.explain(rule_set, known) if step.depth == 0][-1] is True


@pytest.mark.parametrize(("table", "op", "broken", "condition"), [
    ("_OF_TEXTS", "!=", "X != K", "cuid != only-here"),
    ("_OF_NUMBERS", "<", "X < K", "gap < 4711"),
])  # fmt: skip
def test_control_unknown_taken_for_known_is_caught(
    table: str, op: str, broken: str, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that forgets the unknown differs from the interpreter: the comparison above can fail."""
    monkeypatch.setitem(getattr(compiler, table), op, broken)
    checked = rules.read_rules(one(condition))
    scan = made_scan()
    assert rules.compile_rules(checked).decide(scan) != rules.decide(checked, facts.read_facts(scan, checked.facts))


@settings(max_examples=READINGS, deadline=None)
@given(rule_set=rule_sets)
def test_both_notations_are_read_back(rule_set: Rules) -> None:
    assert rules.read_rules(rules.to_document(rule_set)) == rule_set
    assert rules.read_rules(rules.to_document(rule_set, lines=True)) == rule_set


@settings(max_examples=READINGS, deadline=None)
@given(condition=conditions)
def test_a_line_is_printed_as_it_is_read(condition: condition_tree.Node) -> None:
    printed = line_notation.print_line(condition)
    assert line_notation.parse(printed) == condition
    assert line_notation.print_line(line_notation.parse(printed)) == printed


@given(text=st.text(max_size=60) | st.text(alphabet=' ()"=!<>,at not and or in is scan_count5', max_size=60))
def test_any_line_is_read_or_refused(text: str) -> None:
    try:
        line_notation.parse(text)
    except RuleError as error:
        assert error.code == "invalid_rule"
        assert error.column is not None
        assert 1 <= error.column <= len(text) + 1


@given(rule_set=rule_sets)
def test_no_text_of_the_owner_is_in_the_source(rule_set: Rules) -> None:
    source = compiler.source_of(rule_set)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant):
            assert node.value in (None, True, False, ..., *range(-1, 64), 0xFFFFFF), source
        assert not isinstance(node, (ast.Attribute,)) or node.attr in {
            "authentic", "scan_count", "verdict", "position", "record", "cuid", "batch", "name", "assigned", "startswith",
            "originality", "extras",
        }  # fmt: skip


def test_hostile_text_stays_a_value() -> None:
    hostile = '__import__("os").system("true")'
    scan = made_scan(cuid=hostile)
    assert matches({"fact": "cuid", "op": "==", "value": hostile}, scan)
    assert not matches({"fact": "cuid", "op": "==", "value": hostile + " "}, scan)
    assert matches({"fact": f"field.{hostile}", "op": "==", "value": "x"}, made_scan(fields={hostile: "x"}))


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ('{"groups": [], "default": "Fail", "default": "Pass"}', "default"),
        (
            '{"groups": [{"name": "a", "when": "first_scan", "when": "scan_count < 9", "response": "b"}], "default": "c"}',
            "when",
        ),
        (
            '{"groups": [{"name": "a", "when": {"not": "first_scan", "n\\u006ft": "has_uid"}, "response": "b"}], "default": "c"}',
            "not",
        ),
    ],
)
def test_a_rule_set_with_a_member_twice_is_refused(document: str, name: str) -> None:
    for given_as in (document, document.encode()):
        with pytest.raises(RuleError, match=f"An object repeats the member '{name}'"):
            rules.read_rules(given_as)


# What single facts mean.


def test_built_in_set_is_what_the_compiler_makes() -> None:
    built_in = rules.AUTHENTICATION_PASS
    condition = {"name": "authenticated", "when": "authentication == pass", "response": "Pass"}
    compiled = rules.load_rules({"groups": [condition], "default": "Fail"})
    assert (compiled.names, compiled.responses, compiled.facts) == (built_in.names, built_in.responses, built_in.facts)
    for verdict in Verdict:
        for authentic in (True, False):
            scan = made_scan(verdict=verdict, authentic=authentic)
            assert compiled.decide(scan) == built_in.decide(scan)


def test_first_matching_group_wins() -> None:
    groups = [
        {"name": "few", "when": "authentication == pass and scan_count < 5", "response": "Welcome"},
        {"name": "many", "when": "authentication == pass", "response": "Seen before"},
        {"name": "again", "when": "verdict == replayed", "response": "Used"},
    ]
    rule_set = rules.load_rules({"groups": groups, "default": "Fail"})
    answers = [
        rule_set.responses[rule_set.decide(scan)]
        for scan in (
            made_scan(scan_count=4),
            made_scan(scan_count=5),
            made_scan(verdict=Verdict.REPLAYED),
            made_scan(verdict=Verdict.FORGED),
        )
    ]
    assert answers == ["Welcome", "Seen before", "Used", "Fail"]
    assert rule_set.name_of(0) == "few"
    assert rule_set.name_of(-1) is None


@pytest.mark.parametrize("condition", ["scan_count < 5", "not scan_count >= 5", "scan_count != 9", "not first_scan"])
def test_count_of_a_refused_scan_is_not_known(condition: str) -> None:
    """Whether the ledger was asked depends on what the worker remembers; an answer must not."""
    for count in (0, 1, 3):
        assert not matches(condition, made_scan(verdict=Verdict.REPLAYED, scan_count=count))
        assert matches("scan_count is unknown", made_scan(verdict=Verdict.FORGED, scan_count=count))
    assert matches("scan_count < 5 and scan_count is known", made_scan(verdict=Verdict.PLAIN, scan_count=3))


def test_gap_is_between_accepted_taps_of_one_key() -> None:
    scan = made_scan(position=position(1, 61), previous_position=position(1, 60))
    assert matches("gap == 0 and chip_count == 61", scan)
    scan.previous_position = position(1, 57)
    assert matches("gap == 3", scan)
    scan.previous_position = position(0, 57)
    assert matches("gap is unknown", scan)
    assert not matches("gap < 100 or not gap < 100", scan)


@pytest.mark.parametrize(("stored", "current", "condition"), [
    ("C", "C", "tamper == closed and tamper.stored == closed"),
    ("O", "C", "tamper == closed and tamper.stored == open and tamper.current != open"),
    ("O", "O", "tamper in (open, not_enabled)"),
    ("I", "I", "tamper == not_enabled"),
])  # fmt: skip
def test_tamper(stored: str, current: str, condition: str) -> None:
    extras = Extras()
    extras.evidence = Evidence(True, tamper=Tamper(stored, current))
    assert matches(condition, made_scan(extras=extras))
    assert not matches(condition, made_scan())


@pytest.mark.parametrize("condition", ["tamper != open", "not tamper == open", "cuid != x", "not country in (DE)"])
def test_unknown_is_not_the_opposite(condition: str) -> None:
    assert not matches(condition, made_scan())


def test_fields_are_found_by_their_name_or_their_parameter() -> None:
    scan = made_scan(fields={"Product Name": "Vase"})
    assert matches('field."Product Name" == Vase', scan)
    assert matches("field.product_name starts with Va", scan)
    assert matches("field.product is unknown", scan)


@pytest.mark.parametrize(("moment", "condition", "expected"), [
    ("2026-01-01T08:59:59", "time between 09:00 and 17:00", False),
    ("2026-01-01T09:00:00", "time between 09:00 and 17:00", True),
    ("2026-01-01T16:59:59", "time between 09:00 and 17:00", True),
    ("2026-01-01T17:00:00", "time between 09:00 and 17:00", False),
    ("2026-01-01T23:00:00", "time between 22:00 and 06:00", True),
    ("2026-01-01T06:00:00", "time between 22:00 and 06:00", False),
    ("2026-01-01T12:00:00", "not time between 22:00 and 06:00", True),
    ("2026-01-01T09:00:00", "time before 09:00", False),
    ("2026-01-01T09:00:00", "time after 09:00", True),
    ("2026-01-01T12:00:00", "date after 2026-01-01", False),
    ("2026-01-01T12:00:00", "date between 2026-01-01 and 2026-01-31", True),
    ("2026-01-01T12:00:00", "date before 2026-01-02 and date == 2026-01-01", True),
    ("2026-01-01T12:00:00", "weekday in (thursday, sun)", True),
    ("2026-01-01T23:30:00", "weekday == fri at Europe/Berlin and weekday == thu at UTC", True),
    ("2026-03-29T01:30:00", "time == 03:30 at Europe/Berlin", None),
    ("2026-03-29T01:30:00", "time between 03:30 and 03:31 at Europe/Berlin", True),
    ("2026-03-29T00:30:00", "time between 01:30 and 01:31 at Europe/Berlin", True),
])  # fmt: skip
def test_wall_clock(moment: str, condition: str, expected: bool | None, clock: list[float]) -> None:
    from datetime import datetime

    clock[0] = datetime.fromisoformat(moment + "+00:00").timestamp()
    if expected is None:
        with pytest.raises(RuleError, match="does not support the operator"):
            line_notation.parse(condition)
    else:
        assert matches(condition, made_scan()) is expected


def test_time_zone_of_the_set_holds_where_none_is_named(clock: list[float]) -> None:
    assert matches("time between 01:00 and 01:01", made_scan(), time_zone="Europe/Berlin")
    assert matches("time between 00:00 and 00:01 at UTC", made_scan(), time_zone="Europe/Berlin")


def test_costly_facts_are_read_only_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setitem(compiler._ARGUMENTS, "country", lambda _scan: asked.append("country") or "DE")
    groups = [
        {"name": "plain", "when": "verdict == plain", "response": "p"},
        {"name": "home", "when": "country == DE and scan_count > 77", "response": "h"},
        {"name": "near", "when": "country in (DE, AT)", "response": "n"},
    ]
    rule_set = rules.load_rules({"groups": groups, "default": "d"})
    assert rule_set.facts == {"verdict", "country", "scan_count"}
    assert rule_set.decide(made_scan(verdict=Verdict.PLAIN)) == 0
    assert asked == []
    assert rule_set.decide(made_scan()) == 2
    assert asked == ["country"]


# Sharing, and what a rule set costs.


def test_same_conditions_share_a_function_and_one_shape_its_code() -> None:
    first = rules.load_rules(one("scan_count < 5 and cuid == A"))
    again = rules.load_rules({**one({"all": ["scan_count < 5", "cuid == A"]}), "default": "other"})
    other = rules.load_rules(one("scan_count < 6 and cuid == B"))
    assert first.decide is again.decide
    assert first.decide is not other.decide
    assert first.decide.__code__ is other.decide.__code__  # type: ignore[attr-defined]
    assert first.facts is other.facts


def test_caches_end_with_the_rule_sets() -> None:
    before = len(compiler._functions)
    loaded = [rules.load_rules(one(f"scan_count < {n}")) for n in range(1000, 1100)]
    assert len(compiler._functions) == before + 100
    del loaded
    gc.collect()
    assert len(compiler._functions) == before


def test_different_rule_sets_fit_into_memory() -> None:
    """docs/reference/rules.md promises less than 4 KB a set; benchmarks/micro/rule_sets.py measures 10,000 of them."""
    assert bytes_of_answers() < 4096


def test_control_responses_that_keep_their_buffers_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant responses as orjson gives them, with what they were written into, are above the promise."""
    monkeypatch.setattr(response_text, "memoryview", lambda encoded: encoded, raising=False)  # bytes of bytes are the same bytes
    assert bytes_of_answers() > 4096


def bytes_of_answers() -> float:
    """Memory that a rule set takes with its responses, a mean of 2,000 different ones."""

    def load(n: int) -> ResponseSet:
        groups = [
            {"name": "few", "when": f"authentication == pass and scan_count < {n}", "response": f"Welcome {n}"},
            {"name": "batch", "when": f"batch == B{n} and not country in (DE, AT)", "response": f"Batch {n}"},
            {"name": "again", "when": "verdict == replayed", "response": f"Again {{xuid}} {n}"},
        ]
        return ResponseSet(rules.load_rules({"groups": groups, "default": "Fail"}))

    load(0)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        loaded = [load(n) for n in range(1, 2001)]
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / len(loaded)
    finally:
        tracemalloc.stop()


def test_a_decision_takes_microseconds_at_the_worst() -> None:
    groups = [{"name": f"g{n}", "when": f"scan_count == {n + 10}", "response": "r"} for n in range(64)]
    rule_set = rules.load_rules({"groups": groups, "default": "d"})
    scan = made_scan()
    started = time.perf_counter()
    for _ in range(100):
        rule_set.decide(scan)
    assert (time.perf_counter() - started) / 100 < 0.001


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("registered", [None, "genuine", "forged"])
def test_originality_is_known_of_taps_whose_mac_was_right(verdict: Verdict, registered: str | None) -> None:
    scan = made_scan(verdict=verdict, originality=registered)
    known = registered if verdict in (Verdict.GENUINE, Verdict.REPEAT, Verdict.REPLAYED) else None
    for word in facts.ORIGINALITY_WORDS:
        for condition in (f"originality == {word}", {"fact": "originality", "op": "==", "value": word}):
            assert matches(condition, scan) is (known == word)
        assert matches(f"originality != {word}", scan) is (known not in (None, word))
    assert matches("originality is known", scan) is (known is not None)
    assert matches("not originality is known", scan) is (known is None)
