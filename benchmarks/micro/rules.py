"""Deciding which of the owner's answers a scan gets: the built-in rule, and rule sets as owners write them."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.micro.scans import Bench
from benchmarks.micro.timing import Step, Work, run
from ixfast.rules import AUTHENTICATION_PASS, RuleSet, load_rules

TITLE = "verdict to answer"


def document(groups: int) -> dict[str, Any]:
    """A rule set of so many groups, of which only the last matches a genuine scan."""
    lines = [
        {"name": f"rule {number}", "response": f"answer {number}", "when": {"all": [
            "authentication == pass", f"scan_count > {1_000_000 + number}",
        ]}}
        for number in range(groups - 1)
    ]  # fmt: skip
    return {"groups": [*lines, {"name": "genuine", "response": "Pass", "when": "authentication == pass"}], "default": "Fail"}


def _decide(rules: RuleSet) -> Step:
    def prepare(count: int) -> Work:
        scans = [scan for scan in Bench().judged(count) if scan.record is not None]
        decide = rules.decide
        return lambda: [decide(scan) for scan in scans]

    return Step(f"{len(rules.names)} rule{'s' if len(rules.names) > 1 else ''}", prepare)


STEPS = (_decide(AUTHENTICATION_PASS), *(_decide(load_rules(document(groups))) for groups in (2, 10, 50)))

if __name__ == "__main__":
    sys.exit(run(TITLE, STEPS))
