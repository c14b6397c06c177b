"""Rule sets in the Python API: the same choice as the engine's rules, and one exception for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ixfast import Choice, InputError, RuleError, choose_response, explain_rules, read_rules

DOCUMENT: dict[str, Any] = {
    "groups": [
        {"name": "opened", "when": "authentication == pass and tamper.stored == open", "response": "Opened"},
        {"name": "first", "when": "authentication == pass and first_scan == true", "response": "Welcome"},
        {"name": "evening", "when": "time between 18:00 and 23:00 at Europe/Berlin", "response": "Good evening"},
    ],
    "default": "Hello",
}
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "now", "expected"),
    [
        ({"authentication": "pass", "tamper.stored": "open", "scan_count": 1}, NOON, Choice("opened", "Opened")),
        ({"authentication": "pass", "tamper.stored": "closed", "scan_count": 1}, NOON, Choice("first", "Welcome")),
        ({"authentication": "pass", "scan_count": 2}, NOON, Choice(None, "Hello")),
        ({"authentication": "PASS", "first_scan": True}, NOON, Choice("first", "Welcome")),
        ({"authentication": "fail"}, NOON.replace(hour=17), Choice("evening", "Good evening")),
        ({}, datetime(2026, 1, 31, 17), Choice("evening", "Good evening")),
        ({}, NOON.astimezone(timezone(timedelta(hours=9))), Choice(None, "Hello")),
    ],
)
def test_the_first_group_that_matches_is_chosen(facts: dict[str, Any], now: datetime, expected: Choice) -> None:
    assert choose_response(read_rules(DOCUMENT), facts, now=now) == expected


def test_the_explanation_ends_with_the_group_that_is_chosen() -> None:
    rules = read_rules(DOCUMENT)
    facts = {"authentication": "pass", "scan_count": 1}
    steps = explain_rules(rules, facts, now=NOON)
    groups = [(step.name, step.holds) for step in steps if step.depth == 0]
    assert groups == [("opened", None), ("first", True)]
    assert [(step.name, step.found) for step in steps if step.depth == 2] == [
        ("authentication == pass", "pass"),
        ("tamper.stored == open", "unknown"),
        ("authentication == pass", "pass"),
        ("first_scan == true", "true"),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: read_rules("{"), "The rule set is not valid JSON"),
        (lambda: read_rules({"groups": [], "defalt": ""}), "Unknown member 'defalt'. Did you mean default?"),
        (lambda: choose_response(read_rules(DOCUMENT), {"tampr": "open"}), "Unknown fact 'tampr'. Did you mean tamper?"),
        (
            lambda: choose_response(read_rules(DOCUMENT), {"tamper": "ajar"}),
            "tamper must be one of closed, open, not_enabled (got 'ajar').",
        ),
        (lambda: explain_rules(read_rules(DOCUMENT), {"scan_count": "1"}), "scan_count must be compared with a whole number"),
        (lambda: explain_rules(read_rules(DOCUMENT), {"scan_count": True}), "scan_count must be compared with a whole number"),
    ],
)
def test_a_mistake_is_one_exception_with_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(RuleError) as raised:
        make()
    assert str(raised.value).startswith(message)
    assert isinstance(raised.value, InputError) and "\n" not in str(raised.value)


def test_a_rule_set_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(DOCUMENT))
    assert read_rules(file) == read_rules(DOCUMENT)
    with pytest.raises(InputError, match=r"^Cannot read \S+/missing\.json: No such file or directory\.$"):
        read_rules(tmp_path / "missing.json")


def test_a_response_text_is_checked() -> None:
    with pytest.raises(InputError, match="at most"):
        read_rules({"groups": [], "default": "{meta:a}" * 65})
