"""Deciding which response text a scan gets: the built-in rule, and rule sets as owners write them."""

from __future__ import annotations

from typing import Any

from benchmarks.micro.sample_scans import Bench
from benchmarks.micro.step_timer import Step, Work
from ixfast.rules import AUTHENTICATION_PASS, RuleSet, load_rules

TITLE = "verdict to answer"


def document(groups: int) -> dict[str, Any]:
    """A rule set of which only the last group matches a genuine scan."""
    lines = [
        {"name": f"rule {number}", "response": f"answer {number}", "when": {"all": [
            "authentication == pass", f"scan_count > {1_000_000 + number}",
        ]}}
        for number in range(groups - 1)
    ]  # fmt: skip
    return {"groups": [*lines, {"name": "genuine", "response": "Pass", "when": "authentication == pass"}], "default": "Fail"}


TYPICAL = "a typical rule set"
_TYPICAL_GROUPS = (
    ("opened", "authentication == pass and tamper.stored == open"),
    ("fresh", "authentication == pass and scan_count < 3"),
    ("genuine", "authentication == pass"),
)


def typical() -> RuleSet:
    """Three groups as owners write them: a seal that was opened, the first scans, every other genuine one."""
    groups = [{"name": name, "response": name, "when": when} for name, when in _TYPICAL_GROUPS]
    return load_rules({"groups": groups, "default": "Fail"})


def _decide(rules: RuleSet, name: str | None = None) -> Step:
    def prepare(count: int) -> Work:
        known = [scan for scan in Bench().decided(count) if scan.record is not None]
        scans = (known * 2)[:count]  # as many as the time is divided by; rules do not apply to unknown tags
        decide = rules.decide
        return lambda: [decide(scan) for scan in scans]

    return Step(name or f"{len(rules.names)} rule{'s' if len(rules.names) > 1 else ''}", prepare)


STEPS = (
    _decide(AUTHENTICATION_PASS),
    _decide(typical(), TYPICAL),
    *(_decide(load_rules(document(groups))) for groups in (2, 10, 50)),
)
