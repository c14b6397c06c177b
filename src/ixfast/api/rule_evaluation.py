"""Rule sets in the Python API: load a document, choose the response for given facts, and explain the choice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from ixfast import rules as rule_sets
from ixfast.responses.response_text import compile_response
from ixfast.rules import Rules, Step
from ixfast.rules.comparison import check_fact, check_value

Fact = bool | int | str
"""The value of a fact."""


class Choice(msgspec.Struct, frozen=True):
    """The response that a rule set chooses. `group` is the name of the rule group that matched, None for the default."""

    group: str | None
    response: str


def read_rules(document: bytes | str | dict[str, Any]) -> Rules:
    """Read a rule set: JSON text, or the decoded document."""
    checked = rule_sets.read_rules(document)
    for response in (*(group.response for group in checked.groups), checked.default):
        compile_response(response)
    return checked


def choose_response(rules: Rules, facts: Mapping[str, Fact], *, now: datetime | None = None) -> Choice:
    """The response that the rule set chooses for a scan with these facts."""
    index = rule_sets.decide(rules, checked_facts(facts, now))
    if index < 0:
        return Choice(None, rules.default)
    return Choice(rules.groups[index].name, rules.groups[index].response)


def explain_rules(rules: Rules, facts: Mapping[str, Fact], *, now: datetime | None = None) -> list[Step]:
    """Every group up to the one that matches, with the result of each part of its condition."""
    return rule_sets.explain(rules, checked_facts(facts, now))


def checked_facts(facts: Mapping[str, Fact], now: datetime | None = None) -> dict[str, Any]:
    """Facts by name in normal form, each checked like a value in a rule, with `now` and what follows from others."""
    moment = time.time() if now is None else (now if now.tzinfo is not None else now.replace(tzinfo=UTC)).timestamp()
    found: dict[str, Any] = {"now": moment}
    for name, value in facts.items():
        fact = check_fact(name)
        found[fact.name] = check_value(fact, "==", value)
    if "scan_count" in found:  # first_scan follows from it
        found.setdefault("first_scan", found["scan_count"] == 1)
    return found
