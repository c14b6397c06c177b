"""Trying rule sets: which rule group matches a scan with the given facts, and why. Nothing is stored or consumed."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from ixfast import rules
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response
from ixfast.http.management.schemas import Trial, TrialResult, TrialStep
from ixfast.responses import response_text
from ixfast.rules import RuleError
from ixfast.rules.comparison import check_fact, check_value


async def read_schema(_call: Call) -> web.Response:
    return json_response(rules.schema())


async def try_rules(call: Call) -> web.Response:
    trial = call.body(Trial)
    checked = validation.rule_set(trial.rules)
    facts = _facts(trial.facts)
    index = rules.decide(checked, facts)
    steps = [TrialStep(step.name, step.depth, step.holds, step.found) for step in rules.explain(checked, facts)]
    group = checked.groups[index].name if index >= 0 else None
    response = checked.groups[index].response if index >= 0 else checked.default
    return json_response(TrialResult(group, response, steps, list(response_text.never_known(checked))))


def _facts(sent: dict[str, Any]) -> dict[str, Any]:
    """Facts by name, each checked like a value in a rule."""
    facts: dict[str, Any] = {"now": time.time()}
    for index, (name, value) in enumerate(sent.items()):
        if name == "now":
            facts["now"] = _now(value)
            continue
        try:
            fact = check_fact(name)
            facts[fact.name] = check_value(fact, "==", value)
        except RuleError as error:
            hint = f" Did you mean {error.suggestion}?" if error.suggestion is not None else ""
            raise InputError("invalid_rule", f"Fact {index + 1}: {error.reason}{hint}", "facts") from None
    if "scan_count" in facts:  # derived from it, unless it was sent
        facts.setdefault("first_scan", facts["scan_count"] == 1)
    return facts


def _now(value: bool | int | str) -> float:
    if isinstance(value, str):
        return validation.moment(value, "facts.now").timestamp()
    if isinstance(value, bool) or not 0 <= value < 1 << 33:
        raise InputError(
            "invalid_parameter", "now must be a time such as 2026-01-31T09:30:00+01:00, or Unix seconds.", "facts.now"
        )
    return float(value)
