"""The reference implementation of rules: evaluates the tree in three-valued logic.

It explains why a group matches, and the compiled function is tested against it. It never runs on the path of a scan.

A comparison with an unknown fact is neither true nor false but unknown. `not` unknown is unknown; `all` is false if a part is
false, otherwise unknown if a part is unknown; `any` is true if a part is true, otherwise unknown if a part is unknown. A group
matches if its condition is true. Only `is known` and `is unknown` are never unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from ixfast.rules import condition_tree, line_notation
from ixfast.rules.comparison import seconds_of
from ixfast.rules.condition_tree import Comparison, Node
from ixfast.rules.facts import WEEKDAYS, ZONED, Kind, find_fact

if TYPE_CHECKING:
    from ixfast.rules.rule_document import Rules

Facts = Mapping[str, Any]
"""Facts by name; an absent one or None is unknown. Times of day, dates and weekdays follow from `now`, Unix time in seconds, or
are given as text under their own names and then apply in every time zone."""


class RuleStep(NamedTuple):
    """One step of an explanation: a group or a part of its condition, whether it holds, and the value of the fact."""

    name: str
    depth: int  # 0: a group; 1: its condition; 2 and more: the parts of the condition
    holds: bool | None  # None: unknown
    found: str = ""


def decide(rules: Rules, facts: Facts) -> int:
    """The index of the first group whose condition is true, or -1."""
    for index, group in enumerate(rules.groups):
        if evaluate(group.when, facts, rules.time_zone) is True:
            return index
    return -1


def evaluate(node: Node, facts: Facts, time_zone: str = "UTC") -> bool | None:
    """The value of a condition: True, False, or None if it is unknown."""
    if isinstance(node, Comparison):
        found = _find(node, facts, time_zone)
        if node.op in ("known", "unknown"):
            return (found is not None) is (node.op == "known")
        return None if found is None else _compare(node, found)
    if isinstance(node, condition_tree.Not):
        inner = evaluate(node.part, facts, time_zone)
        return None if inner is None else not inner
    values = [evaluate(part, facts, time_zone) for part in node.parts]
    decisive = isinstance(node, condition_tree.Any)
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def explain(rules: Rules, facts: Facts) -> list[RuleStep]:
    """Every group up to and including the one that matches, with every part of its condition."""
    steps: list[RuleStep] = []
    for group in rules.groups:
        holds = evaluate(group.when, facts, rules.time_zone)
        steps.append(RuleStep(group.name, 0, holds))
        _explain(group.when, facts, rules.time_zone, 1, steps)
        if holds is True:
            return steps
    steps.append(RuleStep("default", 0, True))
    return steps


def _explain(node: Node, facts: Facts, time_zone: str, depth: int, steps: list[RuleStep]) -> None:
    holds = evaluate(node, facts, time_zone)
    if isinstance(node, Comparison):
        found = _find(node, facts, time_zone)
        steps.append(RuleStep(line_notation.print_line(node), depth, holds, "unknown" if found is None else _printed(found)))
        return
    steps.append(
        RuleStep(
            {condition_tree.All: "all of", condition_tree.Any: "any of", condition_tree.Not: "not"}[type(node)], depth, holds
        )
    )
    for part in (node.part,) if isinstance(node, condition_tree.Not) else node.parts:
        _explain(part, facts, time_zone, depth + 1, steps)


def _printed(found: object) -> str:
    return str(found).lower() if isinstance(found, bool) else str(found)


def _find(node: Comparison, facts: Facts, time_zone: str) -> Any:
    """The value of the fact: text, a number or a boolean; None if it is unknown."""
    fact = find_fact(node.fact)
    assert fact is not None, node.fact
    found = facts.get(fact.name)
    if found is None and fact.kind in ZONED and facts.get("now") is not None:
        local = datetime.fromtimestamp(int(facts["now"]), UTC).astimezone(ZoneInfo(node.zone or time_zone))
        if fact.kind is Kind.TIME:
            return local.strftime("%H:%M:%S")
        return local.date().isoformat() if fact.kind is Kind.DATE else WEEKDAYS[local.weekday()]
    return found


def _compare(node: Comparison, found: Any) -> bool:
    op, value = node.op, _ordered(node, node.value)
    found = _ordered(node, found)
    if op in ("==", "!="):
        return bool(found == value) is (op == "==")
    if op in ("in", "not in"):
        return (found in value) is (op == "in")
    if op == "starts with":
        return bool(found.startswith(value))
    if op == "between":
        first, last = value
        if node.fact != "time":
            return bool(first <= found <= last)
        return bool(first <= found < last) if first < last else bool(found >= first or found < last)
    if op in ("<", "before"):
        return bool(found < value)
    if op == "after":
        return bool(found >= value) if node.fact == "time" else bool(found > value)
    return bool({"<=": found <= value, ">": found > value, ">=": found >= value}[op])


def _ordered(node: Comparison, value: Any) -> Any:
    """A value in a form that can be ordered: times as seconds, dates as dates, anything else unchanged."""
    if isinstance(value, tuple):
        return tuple(_ordered(node, part) for part in value)
    if node.fact == "time":
        return seconds_of(value)
    return date.fromisoformat(value) if node.fact == "date" else value
